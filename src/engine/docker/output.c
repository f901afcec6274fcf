/* A container's output, kept in memory: what the program wrote first, up to its limit. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define OUTPUT_BEYOND_MAX (UINT64_C(1) << 20) /* of a paused stream (engine.h) */

int docker_output_open(struct docker_container *c, struct err *err)
{
        for (int i = 0; i < DOCKER_STREAMS; i++) {
                c->out[i].mem = memfd_create(i == ENGINE_STDOUT ? "stdout" : "stderr", MFD_CLOEXEC);
                if (c->out[i].mem < 0)
                        return err_sys(err, "memfd");
        }
        return 0;
}

void docker_output_take(struct docker_container *c, enum engine_stream stream, const void *bytes, size_t len)
{
        struct docker_output *o = &c->out[stream];
        size_t keep = o->cut ? 0 : (size_t)MIN((uint64_t)len, c->output_limit - MIN(c->output_limit, o->kept));
        size_t done = 0;

        if (len == 0)
                return;
        while (done < keep) {
                ssize_t n = pwrite(o->mem, (const char *)bytes + done, keep - done, (off_t)o->kept);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        /* No memory to keep it: the task goes on, and its answer says that it was cut. */
                        log_debug("container %s: output: %s", c->id, strerror(errno));
                        c->output_limit = MIN(c->output_limit, o->kept);
                        break;
                }
                o->kept += (uint64_t)n;
                done += (size_t)n;
        }
        o->total += len;
        o->more = true;
        if (o->paused && c->draining)
                o->beyond += len;
        if (c->live && c->base.events && c->base.events->data && o->beyond <= OUTPUT_BEYOND_MAX)
                c->base.events->data(&c->base, stream, bytes, len, c->base.data);
}

void docker_output_tell(struct docker_container *c)
{
        for (int i = 0; i < DOCKER_STREAMS; i++) {
                if (!c->out[i].more)
                        continue;
                c->out[i].more = false;
                if (c->base.events && c->base.events->output)
                        c->base.events->output(&c->base, (enum engine_stream)i, c->base.data);
        }
}

bool docker_output_begins(const struct docker_container *c, enum engine_stream stream, const char *text)
{
        size_t len = strlen(text);
        char have[64];

        return len <= sizeof(have) && c->out[stream].kept >= len &&
               pread(c->out[stream].mem, have, len, 0) == (ssize_t)len && memcmp(have, text, len) == 0;
}

bool docker_output_holds(const struct docker_container *c, enum engine_stream stream, const char *text)
{
        char have[512];
        ssize_t n = pread(c->out[stream].mem, have, sizeof(have), 0);

        return n > 0 && memmem(have, (size_t)n, text, strlen(text));
}

ssize_t docker_output_read(const struct docker_container *c, enum engine_stream stream, char *out, size_t max)
{
        return pread(c->out[stream].mem, out, max, 0);
}

void docker_output_drop(struct docker_container *c, enum engine_stream stream)
{
        struct docker_output *o = &c->out[stream];

        if (ftruncate(o->mem, 0) == 0)
                o->kept = o->total = 0;
}

/* ── the log: from its beginning, of which we know some ──────────────────────────────────────────────────────────── */

void docker_output_log_begin(struct docker_container *c)
{
        c->log = (struct demux){ .have = 0 };
        for (int i = 0; i < DOCKER_STREAMS; i++) {
                c->out[i].skip = c->out[i].total;
                c->out[i].newline = false;
        }
}

/* Whether the log says what we have: Docker bounds it by throwing its beginning away. */
static bool log_agrees(const struct docker_output *o, const char *bytes, size_t len)
{
        uint64_t at = o->total - o->skip;
        char have[4096];

        while (len > 0 && at < o->kept) {
                size_t n = MIN(MIN(len, sizeof(have)), (size_t)MIN(o->kept - at, (uint64_t)SIZE_MAX));

                if (pread(o->mem, have, n, (off_t)at) != (ssize_t)n || memcmp(have, bytes, n) != 0)
                        return false;
                bytes += n;
                len -= n;
                at += n;
        }
        return true;
}

/* Nothing more is kept of it, and the answer says that something is missing. */
static void log_rotated(struct docker_container *c, struct docker_output *o)
{
        log_warn("container %s: Docker's log has lost its beginning: the output is cut", c->id);
        o->skip = 0;
        o->cut = true;
        o->total++;
}

/* The log ends each line, also the last one that the program did not: its newline waits until more comes. */
void docker_output_log(struct docker_container *c, enum engine_stream stream, const void *bytes, size_t len)
{
        struct docker_output *o = &c->out[stream];
        size_t known = (size_t)MIN((uint64_t)len, o->skip);
        const char *at = (const char *)bytes + known;

        if (!log_agrees(o, bytes, known)) {
                log_rotated(c, o);
                known = 0;
                at = bytes;
        }
        o->skip -= known;
        len -= known;
        if (len == 0)
                return;
        if (o->newline)
                docker_output_take(c, stream, "\n", 1);
        o->newline = at[len - 1] == '\n';
        docker_output_take(c, stream, at, len - o->newline);
}

void docker_output_log_end(struct docker_container *c)
{
        for (int i = 0; i < DOCKER_STREAMS; i++) {
                struct docker_output *o = &c->out[i];
                bool alone = c->state == DOCKER_REREADING && o->total > 0 && !o->more;

                if (o->newline && !alone)
                        docker_output_take(c, (enum engine_stream)i, "\n", 1);
                o->newline = false;
        }
}
