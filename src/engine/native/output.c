/* A container's output: pipes, of which the daemon moves what comes to memfds that the launcher holds too. What is in the
 * pipe or in the memfd survives the daemon, and nothing is in between. */

#include "engine/native/internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUTPUT_STEP (1024 * 1024)     /* bytes moved by one splice */
#define OUTPUT_TURN (4 * OUTPUT_STEP) /* bytes of one stream in one turn of the loop */
#define OUTPUT_REST 4                 /* turns' worth at the end; a pipe holds less */

static int output_open_one(struct native_output *o, const char *name, struct err *err)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return err_sys(err, "pipe");
        o->pipe_r = fds[0];
        o->pipe_w = fds[1];
        /* A task that has given up its ids still opens /dev/stdout; fchown would serve one of its users only. */
        if (fchmod(o->pipe_w, 0666) < 0)
                return err_sys(err, "chmod a pipe");
        o->mem = memfd_create(name, MFD_CLOEXEC);
        if (o->mem < 0)
                return err_sys(err, "memfd");
        return 0;
}

int native_output_open(struct native_container *c, struct err *err)
{
        int r = output_open_one(&c->out[ENGINE_STDOUT], "stdout", err);

        if (r == 0)
                r = output_open_one(&c->out[ENGINE_STDERR], "stderr", err);
        /* Our end only: the container has the other one. */
        for (int i = 0; r == 0 && c->live && i < NATIVE_STREAMS; i++)
                if (fd_set_nonblock(c->out[i].pipe_r, true) < 0)
                        r = err_sys(err, "set a pipe to return at once");
        return r;
}

void native_output_close(struct native_output *o)
{
        loop_io_remove(o->io);
        o->io = NULL;
        fd_replace(&o->pipe_r, -EBADF);
        fd_replace(&o->pipe_w, -EBADF);
        fd_replace(&o->mem, -EBADF);
}

static bool is_live(const struct native_container *c)
{
        return c->live && c->base.events && c->base.events->data;
}

/* What is kept goes through the memfd, so that a daemon that dies in between has lost none of it; what comes after, through
 * memory. As many bytes as moved, 0 at the end, -errno. */
static ssize_t output_step(struct native_container *c, struct native_output *o, uint64_t room)
{
        loff_t at = (loff_t)o->kept;
        ssize_t n;

        if (is_live(c)) {
                if (room > 0)
                        n = splice(o->pipe_r, NULL, o->mem, &at, MIN(room, (uint64_t)OUTPUT_PIECE), SPLICE_F_NONBLOCK);
                else
                        n = read(o->pipe_r, c->native->piece, OUTPUT_PIECE);
        } else if (room > 0) {
                n = splice(o->pipe_r, NULL, o->mem, &at, MIN(room, (uint64_t)OUTPUT_STEP), SPLICE_F_NONBLOCK);
        } else {
                n = splice(o->pipe_r, NULL, c->native->devnull, NULL, OUTPUT_STEP, SPLICE_F_NONBLOCK);
        }
        return n < 0 ? -errno : n;
}

static void output_tell(struct native_container *c, struct native_output *o, size_t len, bool kept)
{
        enum engine_stream stream = o == &c->out[ENGINE_STDOUT] ? ENGINE_STDOUT : ENGINE_STDERR;
        ssize_t n = kept ? pread(o->mem, c->native->piece, len, (off_t)(o->kept - len)) : (ssize_t)len;

        if (n > 0)
                c->base.events->data(&c->base, stream, c->native->piece, (size_t)n, c->base.data);
}

/* Moves at most `max` bytes. 1: there may be more; 0: the pipe is empty; -EPIPE: and will remain so. */
static int output_move(struct native_container *c, struct native_output *o, size_t max, bool last)
{
        size_t moved = 0;

        while (moved < max && (last || !o->paused)) {
                uint64_t room = c->output_limit - MIN(o->kept, c->output_limit);
                ssize_t n = output_step(c, o, room);

                if (n == 0)
                        return -EPIPE;
                if (n == -EINTR)
                        continue;
                if ((n == -ENOMEM || n == -ENOSPC) && room > 0) {
                        /* No memory to keep it: the task goes on, and its answer says that it was cut. */
                        log_debug("container %s: output: %s", c->id, strerror((int)-n));
                        c->output_limit = MIN(c->output_limit, o->kept);
                        continue;
                }
                if (n < 0)
                        return n == -EAGAIN ? 0 : -EPIPE;
                if (room > 0)
                        o->kept += (uint64_t)n;
                else
                        o->dropped += (uint64_t)n;
                moved += (size_t)n;
                if (is_live(c))
                        output_tell(c, o, (size_t)n, room > 0);
        }
        return 1;
}

static int output_pull(struct native_container *c, struct native_output *o, size_t max, bool last)
{
        uint64_t dropped = o->dropped;
        int r = output_move(c, o, max, last);

        if (o->dropped != dropped) {
                const uint64_t both[NATIVE_STREAMS] = { c->out[0].dropped, c->out[1].dropped };

                (void)native_record_dropped(c->record_fd, both);
        }
        return r;
}

static void on_readable(struct loop_io *io, uint32_t events, void *data)
{
        struct native_container *c = data;
        enum engine_stream stream = io == c->out[ENGINE_STDOUT].io ? ENGINE_STDOUT : ENGINE_STDERR;
        struct native_output *o = &c->out[stream];
        uint64_t before = o->kept + o->dropped;

        (void)events;
        if (output_pull(c, o, OUTPUT_TURN, false) == -EPIPE) {
                loop_io_remove(o->io);
                o->io = NULL;
        }
        if (o->kept + o->dropped > before && c->base.events && c->base.events->output)
                c->base.events->output(&c->base, stream, c->base.data);
}

void native_output_watch(struct native_container *c)
{
        list_remove(&c->watch_node);
        for (int i = 0; i < NATIVE_STREAMS; i++) {
                struct native_output *o = &c->out[i];
                struct err err = ERR_INIT;

                if (o->io || o->pipe_r < 0)
                        continue;
                if (loop_io_add(c->native->loop, o->pipe_r, o->paused ? 0 : EPOLLIN, on_readable, c, &o->io, &err) < 0)
                        log_debug("container %s: %s", c->id, err.text);
        }
}

void native_container_pause(struct engine_container *base, enum engine_stream stream, bool paused)
{
        struct native_container *c = CONTAINER_OF(base, struct native_container, base);
        struct native_output *o = &c->out[stream];

        if (!c->live || o->paused == paused)
                return;
        o->paused = paused;
        if (o->io)
                (void)loop_io_set(o->io, paused ? 0 : EPOLLIN);
}

static void on_watch_timer(struct loop_timer *timer, void *data)
{
        struct native *n = data;
        uint64_t now = time_mono_ns();
        struct native_container *c;

        while ((c = LIST_FIRST(&n->unwatched, struct native_container, watch_node))) {
                if (c->start_ns + NATIVE_WATCH_NS > now) {
                        (void)loop_timer_set(n->loop, timer, c->start_ns + NATIVE_WATCH_NS, on_watch_timer, n);
                        return;
                }
                native_output_watch(c);
        }
}

/* Most tasks end before they are looked at, with all they wrote still in the pipes: they cost no event of their own. One
 * that fills a pipe before waits that long, once. */
void native_output_started(struct native_container *c)
{
        struct native *n = c->native;

        if (c->live) {
                native_output_watch(c);
                return;
        }
        list_append(&n->unwatched, &c->watch_node);
        if (n->watch_timer.heap_index == 0 &&
            loop_timer_set(n->loop, &n->watch_timer, c->start_ns + NATIVE_WATCH_NS, on_watch_timer, n) < 0)
                native_output_watch(c);
}

void native_output_finish(struct native_container *c)
{
        list_remove(&c->watch_node);
        for (int i = 0; i < NATIVE_STREAMS; i++) {
                struct native_output *o = &c->out[i];

                if (o->pipe_r < 0)
                        continue;
                loop_io_remove(o->io);
                o->io = NULL;
                /* Bounded, because a container whose launcher died may still be writing. */
                for (int turn = 0; turn < OUTPUT_REST && output_pull(c, o, OUTPUT_TURN, true) == 1; turn++)
                        continue;
                fd_replace(&o->pipe_r, -EBADF);
        }
}
