/* Streams of a task while it runs: those of the one who started it, and those of whoever follows what is kept. */

#include "base/fd.h"
#include "base/time.h"
#include "task/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ── stdin ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void close_stdin(struct task *t)
{
        loop_io_remove(t->in.io);
        t->in.io = NULL;
        fd_close(t->in.fd);
        fd_close(t->in.read_fd);
        t->in.fd = t->in.read_fd = -EBADF;
}

static void on_stdin_room(struct loop_io *io, uint32_t events, void *data)
{
        struct task *t = data;

        (void)events;
        (void)loop_io_set(io, 0);
        if (t->in.short_write && t->live.stdin_ready) {
                t->in.short_write = false;
                t->live.stdin_ready(t, t->live.data);
        }
}

/* The writing end is ours; the engine hands the other one to the program. */
int task_live_open(struct task *t, int *ret_stdin_fd, struct err *err)
{
        int fds[2];

        if (!t->is_live || t->request.stdin_data) {
                t->in.ended = true;
                return 0;
        }
        close_stdin(t);
        if (pipe2(fds, O_CLOEXEC) < 0)
                return err_sys(err, "pipe for stdin");
        t->in.fd = fds[1];
        t->in.read_fd = fds[0];
        /* Any user of the task may open /dev/stdin. */
        if (fchmod(fds[0], 0666) < 0 || fcntl(fds[1], F_SETFL, O_NONBLOCK) < 0)
                return err_sys(err, "pipe for stdin");
        *ret_stdin_fd = fds[0];
        return 0;
}

void task_live_started(struct task *t)
{
        if (!t->is_live)
                return;
        fd_close(t->in.read_fd);
        t->in.read_fd = -EBADF;
        if (t->in.ended)
                close_stdin(t);
        if (t->live.started)
                t->live.started(t, t->live.data);
        if (t->is_live && t->in.short_write && t->in.fd >= 0) {
                t->in.short_write = false;
                if (t->live.stdin_ready)
                        t->live.stdin_ready(t, t->live.data);
        }
}

ssize_t task_stdin_write(struct task *t, const void *data, size_t len)
{
        ssize_t n;

        if (!t->is_live || t->in.ended)
                return -EINVAL;
        if (len == 0)
                return 0;
        if (t->state > WIRE_RUNNING || t->exited)
                return -EPIPE;
        if (t->state < WIRE_RUNNING) {
                t->in.short_write = true;
                return 0;
        }
        n = write(t->in.fd, data, len);
        if (n < 0 && errno != EAGAIN)
                return errno == EINTR ? 0 : -errno;
        if (n < 0)
                n = 0;
        if ((size_t)n < len) {
                int r = t->in.io ? loop_io_set(t->in.io, EPOLLOUT)
                                 : loop_io_add(t->ts->loop, t->in.fd, EPOLLOUT, on_stdin_room, t, &t->in.io, NULL);

                if (r < 0)
                        return r;
                t->in.short_write = true;
        }
        return n;
}

void task_stdin_end(struct task *t)
{
        if (!t->is_live)
                return;
        t->in.ended = true;
        if (t->state == WIRE_RUNNING)
                close_stdin(t);
}

/* ── output ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

void task_on_data(struct engine_container *c, enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct task *t = data;

        (void)c;
        if (t->is_live && t->live.output)
                t->live.output(t, stream, bytes, len, t->live.data);
}

void task_pause(struct task *t, enum engine_stream stream, bool paused)
{
        const struct engine_ops *ops = t->engine->ops;

        if (t->is_live && t->container && ops->pause && t->state == WIRE_RUNNING && !t->exited)
                ops->pause(t->container, stream, paused);
}

/* The one whom the streams belong to has gone: they go on without it. */
void task_live_close(struct task *t)
{
        if (!t->is_live)
                return;
        for (int i = 0; i < 2 && t->ts && !t->ts->freeing; i++)
                task_pause(t, (enum engine_stream)i, false);
        t->is_live = false;
        t->in.ended = true;
        close_stdin(t);
}

/* ── followers ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void tell_followers(struct task *t, bool ended)
{
        size_t n = t->followers.len;

        /* Whoever unfollows from within leaves a hole. */
        for (size_t i = 0; i < n && i < t->followers.len; i++) {
                struct task_follower f = t->followers.items[i];

                if (f.more)
                        f.more(t, ended, f.data);
        }
        n = 0;
        for (size_t i = 0; i < t->followers.len && !ended; i++)
                if (t->followers.items[i].more)
                        t->followers.items[n++] = t->followers.items[i];
        t->followers.len = n;
}

static void on_follow(void *data)
{
        struct task *t = data;

        t->following = false;
        if (task_settle(t) && t->followers.len > 0)
                tell_followers(t, t->state > WIRE_RUNNING);
}

void task_follow_tell(struct task *t)
{
        if (t->followers.len == 0 || t->following || loop_defer(t->ts->loop, on_follow, t) < 0)
                return;
        t->following = true;
        t->owed++;
}

void task_follow_end(struct task *t)
{
        if (t->followers.len > 0)
                tell_followers(t, true);
}

int task_follow(struct task *t, const struct task_follower *f, struct err *err)
{
        if (VEC_ADD(&t->followers, *f) < 0)
                return err_oom(err);
        task_follow_tell(t);
        return 0;
}

void task_unfollow(struct task *t, void *follower_data)
{
        for (size_t i = 0; i < t->followers.len; i++)
                if (t->followers.items[i].data == follower_data)
                        t->followers.items[i].more = NULL;
}

ssize_t task_read_output(struct task *t, enum engine_stream stream, uint64_t offset, void *buf, size_t len)
{
        struct engine_output o = { .fd = -EBADF };
        ssize_t n;

        if (t->state > WIRE_RUNNING || !t->container) {
                size_t kept = t->out_len[stream];

                n = (ssize_t)(offset < kept ? MIN(len, kept - (size_t)offset) : 0);
                if (n > 0)
                        memcpy(buf, (const char *)t->out[stream] + offset, (size_t)n);
                return n;
        }
        t->engine->ops->attach(t->container, stream, &o);
        if (offset >= o.kept)
                return 0;
        n = pread(o.fd, buf, (size_t)MIN((uint64_t)len, o.kept - offset), (off_t)offset);
        return n < 0 ? -errno : n;
}

/* ── when it came ────────────────────────────────────────────────────────────────────────────────────────────────── */

void task_note_time(struct task *t, enum engine_stream stream)
{
        struct engine_output o = { .fd = -EBADF };

        t->engine->ops->attach(t->container, stream, &o);
        times_add(&t->times[stream], o.kept, task_real_ms(t, time_mono_ns()));
}

const struct times *task_times(const struct task *t, enum engine_stream stream)
{
        return &t->times[stream];
}
