#include "engine/docker/demux.h"

#include "base/str.h"

#include <errno.h>
#include <string.h>

/* pkg/stdcopy: what a daemon says of itself, and stdin that it echoes counts as stdout. */
enum { STREAM_STDIN, STREAM_STDOUT, STREAM_STDERR, STREAM_SYSTEM };

static int demux_error(const struct demux *d, struct err *err)
{
        return err_set(err, EREMOTEIO, "error from daemon in stream: %.*s", (int)d->error_len, d->error);
}

static size_t demux_head(struct demux *d, const uint8_t *at, size_t len)
{
        size_t n = MIN(len, (size_t)(DEMUX_HEADER - d->have));

        memcpy(d->head + d->have, at, n);
        d->have += (unsigned)n;
        if (d->have == DEMUX_HEADER) {
                d->stream = d->head[0];
                d->left = (uint32_t)d->head[4] << 24 | (uint32_t)d->head[5] << 16 | (uint32_t)d->head[6] << 8 |
                          d->head[7];
        }
        return n;
}

static void demux_body(struct demux *d, const uint8_t *at, size_t n, demux_fn fn, void *data)
{
        size_t room = sizeof(d->error) - d->error_len;

        if (d->stream != STREAM_SYSTEM) {
                fn(d->stream == STREAM_STDERR ? ENGINE_STDERR : ENGINE_STDOUT, at, n, data);
                return;
        }
        memcpy(d->error + d->error_len, at, MIN(n, room));
        d->error_len += MIN(n, room);
}

int demux_feed(struct demux *d, const void *bytes, size_t len, demux_fn fn, void *data, struct err *err)
{
        const uint8_t *at = bytes;

        while (len > 0) {
                size_t n;

                if (d->have < DEMUX_HEADER) {
                        n = demux_head(d, at, len);
                        if (d->have == DEMUX_HEADER && d->stream > STREAM_SYSTEM)
                                return err_set(err, EBADMSG, "unrecognized stream: %u", d->stream);
                } else {
                        n = MIN(len, (size_t)d->left);
                        demux_body(d, at, n, fn, data);
                        d->left -= (uint32_t)n;
                }
                at += n;
                len -= n;
                if (d->have < DEMUX_HEADER || d->left > 0)
                        continue;
                d->have = 0;
                if (d->stream == STREAM_SYSTEM)
                        return demux_error(d, err);
        }
        return 0;
}

int demux_finish(const struct demux *d, struct err *err)
{
        return d->have == DEMUX_HEADER && d->stream == STREAM_SYSTEM ? demux_error(d, err) : 0;
}
