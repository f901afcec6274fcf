/* PLAIN: what a compressed layer holds, byte for byte. Nothing of it is looked at. */

#include "image/worker/report.h"
#include "image/worker/stream.h"
#include "image/worker/worker.h"

int worker_plain(int archive_fd, int plain_fd, const struct worker_limits *limits, struct str *report, struct err *err)
{
        const struct stream_options options = { .max_bytes = limits->max_bytes, .copy_fd = plain_fd, .packed = true };
        auto_stream stream = NULL;
        const void *data;
        size_t len = 1;
        int r;

        r = stream_open(archive_fd, &options, &stream, err);
        while (r == 0 && len > 0 && stream_compression(stream) != STREAM_PLAIN)
                r = stream_read(stream, &data, &len, err);
        if (r < 0)
                return r;
        return str_addf(report, "{\"compression\":\"%s\"}", stream_compression_name(stream)) < 0 ? err_oom(err) : 0;
}
