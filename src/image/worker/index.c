/* INDEX: what an outer archive (docker save, OCI layout) holds, and where. */

#include "image/worker/report.h"
#include "image/worker/stream.h"
#include "image/worker/tar.h"
#include "image/worker/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int add_entry(struct str *out, const struct tar *tar, const struct tar_entry *e)
{
        static const char *const types[] = {
                [TAR_FILE] = "file", [TAR_DIR] = "dir", [TAR_SYMLINK] = "symlink", [TAR_LINK] = "link"
        };
        int r;

        r = str_addf(out, "%s{\"type\":\"%s\"", out->data[out->len - 1] == '[' ? "" : ",", types[e->type]);
        if (r == 0)
                r = report_member_string(out, "name", e->path);
        if (r == 0)
                r = report_member_u64(out, "offset", tar_offset(tar));
        if (r == 0)
                r = report_member_u64(out, "size", e->size);
        if (r == 0 && e->target)
                r = report_member_string(out, "target", e->target);
        return r == 0 ? str_addc(out, '}') : r;
}

static int list(struct tar *tar, const struct worker_limits *limits, struct str *out, struct err *err)
{
        char shown[STR_SHOWN_MAX];
        struct tar_entry e;
        uint64_t n = 0;
        int r;

        while ((r = tar_next(tar, false, &e, err)) > 0) {
                if (++n > limits->max_entries)
                        return err_set(err, EFBIG, "the archive has more than %" PRIu64 " entries",
                                       limits->max_entries);
                if (e.type > TAR_LINK || !e.path[0])
                        continue;
                if (e.sparse)
                        return err_set(err, EBADMSG, "'%s' is a sparse file", str_show(e.name, shown));
                r = add_entry(out, tar, &e);
                if (r == -EINVAL)
                        return err_set(err, EBADMSG, "'%s' is not UTF-8", str_show(e.name, shown));
                if (r < 0)
                        return err_oom(err);
                if (out->len > WORKER_REPORT_MAX)
                        return err_set(err, EFBIG, "the archive has too many entries");
        }
        return r;
}

int worker_index(int archive_fd, int plain_fd, const struct worker_limits *limits, struct str *report, struct err *err)
{
        struct stream_options options = { .max_bytes = limits->max_bytes, .copy_fd = plain_fd };
        auto_stream stream = NULL;
        auto_tar tar = NULL;
        const void *data;
        size_t len = 1;
        int r;

        r = stream_open(archive_fd, &options, &stream, err);
        if (r == 0)
                r = tar_open(stream, &tar, err);
        if (r == 0 && str_addf(report, "{\"compression\":\"%s\",\"entries\":[", stream_compression_name(stream)) < 0)
                return err_oom(err);
        if (r == 0)
                r = list(tar, limits, report, err);
        /* The copy is whole only when the input was read to its end. */
        while (r == 0 && len > 0 && stream_compression(stream) != STREAM_PLAIN)
                r = stream_read(stream, &data, &len, err);
        if (r < 0)
                return r;
        return str_adds(report, "]}") < 0 ? err_oom(err) : 0;
}
