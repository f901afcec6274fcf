/* Attaching: POST /containers/ID/attach, after whose answer the connection is the container's stdin and output ("hijacked",
 * Engine API, ContainerAttach). It stands before the container starts, so that no byte is lost. */

#include "engine/docker/internal.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define STREAM_HEAD_MAX (16 * 1024)
#define STREAM_PIECE (64 * 1024)
#define STREAM_TURN 8 /* pieces in one turn of the loop */
#define STREAM_RETRY_NS (10 * NS_PER_MS)
#define STREAM_CONNECT_NS (10 * NS_PER_S)
#define STREAM_ANSWER_NS (60 * NS_PER_S)

static char piece[STREAM_PIECE]; /* the loop has one thread */

static void stream_close(struct docker_stream *s)
{
        loop_io_remove(s->io);
        s->io = NULL;
        loop_timer_cancel(&s->retry);
        fd_replace(&s->fd, -EBADF);
        str_done(&s->out);
        str_done(&s->head);
}

static void stdin_close(struct docker_container *c)
{
        loop_io_remove(c->stdin_io);
        c->stdin_io = NULL;
        fd_replace(&c->stdin_fd, -EBADF);
        str_done(&c->stdin_data);
        c->stdin_sent = 0;
}

void docker_streams_close(struct docker_container *c)
{
        stdin_close(c);
        for (unsigned i = 0; i < c->n_streams; i++)
                stream_close(&c->streams[i]);
}

static void stream_ended(struct docker_stream *s, int r, const struct err *err)
{
        struct docker_container *c = s->container;

        stream_close(s);
        s->ended = true;
        docker_container_cut(c, r, err);
}

static void stream_failed(struct docker_stream *s, int r, const char *what)
{
        struct err err = ERR_INIT;

        (void)err_set(&err, -r, "attach: %s: %s", what, strerror(-r));
        stream_ended(s, r, &err);
}

/* ── stdin ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool stdin_waits(const struct docker_container *c)
{
        return c->stdin_sent < c->stdin_data.len;
}

static void stream_watch(struct docker_stream *s)
{
        const struct docker_container *c = s->container;
        bool paused = false;
        uint32_t events;

        for (int i = 0; i < DOCKER_STREAMS; i++)
                if (s->open && s->which & 1u << i)
                        paused |= c->out[i].paused;
        events = paused ? 0 : EPOLLIN;
        if (s->sent < s->out.len || (s->open && s->with_stdin && stdin_waits(c)))
                events |= EPOLLOUT;
        if (events != s->events && s->io && loop_io_set(s->io, events) == 0)
                s->events = events;
}

static void on_stdin(struct loop_io *io, uint32_t events, void *data);

/* The end of stdin, told to the container; its output goes on. */
static void stdin_finish(struct docker_stream *s)
{
        stdin_close(s->container);
        s->with_stdin = false;
        (void)shutdown(s->fd, SHUT_WR);
}

static void stdin_pump(struct docker_stream *s)
{
        struct docker_container *c = s->container;

        while (stdin_waits(c)) {
                ssize_t n = send(s->fd, c->stdin_data.data + c->stdin_sent, c->stdin_data.len - c->stdin_sent,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n < 0) {
                        /* Nobody reads it any more. */
                        stdin_close(c);
                        s->with_stdin = false;
                        return;
                }
                c->stdin_sent += (size_t)n;
        }
        if (c->stdin_fd < 0) {
                stdin_finish(s);
                return;
        }
        str_clear(&c->stdin_data);
        c->stdin_sent = 0;
        if (!c->stdin_io)
                (void)loop_io_add(c->docker->loop, c->stdin_fd, EPOLLIN, on_stdin, c, &c->stdin_io, NULL);
        else
                (void)loop_io_set(c->stdin_io, EPOLLIN);
}

static void on_stdin(struct loop_io *io, uint32_t events, void *data)
{
        struct docker_container *c = data;
        struct docker_stream *s = &c->streams[0];
        ssize_t n = read(c->stdin_fd, piece, sizeof(piece));

        (void)events;
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return;
        if (n <= 0 || str_add(&c->stdin_data, piece, (size_t)n) < 0) {
                stdin_finish(s);
        } else {
                (void)loop_io_set(io, 0);
                stdin_pump(s);
        }
        stream_watch(s);
}

/* ── output ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_piece(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        docker_output_take(data, stream, bytes, len);
}

/* "HTTP/1.1 101 UPGRADED" or, of older ones, 200. As many bytes as belong to the head, 0 while it is not complete. */
static ssize_t stream_head(struct docker_stream *s, const char *bytes, size_t len, struct err *err)
{
        size_t before = s->head.len;
        const char *end;
        unsigned status = 0;

        if (before + len > STREAM_HEAD_MAX + STREAM_PIECE)
                return err_set(err, EMSGSIZE, "attach: the head of the answer is too large");
        if (str_add(&s->head, bytes, len) < 0)
                return err_oom(err);
        end = memmem(s->head.data, s->head.len, "\r\n\r\n", 4);
        if (!end)
                return s->head.len > STREAM_HEAD_MAX
                               ? err_set(err, EMSGSIZE, "attach: the head of the answer is too large")
                               : 0;
        if (s->head.len < 12 || memcmp(s->head.data, "HTTP/1.", 7) != 0)
                return err_set(err, EBADMSG, "attach: no HTTP came back");
        for (int i = 9; i < 12; i++)
                status = status * 10 + (unsigned)(unsigned char)(s->head.data[i] - '0') % 10;
        if (status != 101 && status != 200)
                return err_set(err, EREMOTEIO, "attach: Docker answered with status %u", status);
        return end + 4 - s->head.data - (ssize_t)before;
}

static int stream_take(struct docker_stream *s, const char *bytes, size_t len, struct err *err)
{
        struct docker_container *c = s->container;

        if (!s->open) {
                ssize_t n = stream_head(s, bytes, len, err);

                if (n <= 0)
                        return (int)n;
                s->open = true;
                str_done(&s->head);
                bytes += n;
                len -= (size_t)n;
        }
        return demux_feed(&s->demux, bytes, len, on_piece, c, err);
}

/* 1: there may be more. */
static int stream_read(struct docker_stream *s, struct err *err)
{
        for (int i = 0; i < STREAM_TURN; i++) {
                ssize_t n = recv(s->fd, piece, sizeof(piece), MSG_DONTWAIT);
                int r;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 1 : err_sys(err, "attach");
                if (n == 0)
                        return s->open ? demux_finish(&s->demux, err) : err_set(err, ECONNRESET, "attach: no answer");
                r = stream_take(s, piece, (size_t)n, err);
                if (r < 0)
                        return r;
        }
        return 1;
}

static void stream_write(struct docker_stream *s)
{
        while (s->sent < s->out.len) {
                ssize_t n = send(s->fd, s->out.data + s->sent, s->out.len - s->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return; /* what is wrong, reading tells */
                s->sent += (size_t)n;
        }
}

static void on_socket(struct loop_io *io, uint32_t events, void *data)
{
        struct docker_stream *s = data;
        struct docker_container *c = s->container;
        bool was_open = s->open;
        struct err err = ERR_INIT;
        int r = 1;

        (void)io;
        stream_write(s);
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                r = stream_read(s, &err);
        if (s->open && s->with_stdin && r == 1)
                stdin_pump(s);
        docker_output_tell(c);
        if (r <= 0) {
                stream_ended(s, r, &err);
                return;
        }
        stream_watch(s);
        if (s->open && !was_open) {
                loop_timer_cancel(&s->retry);
                docker_container_attached(c);
        }
}

void docker_container_pause(struct engine_container *base, enum engine_stream stream, bool paused)
{
        struct docker_container *c = CONTAINER_OF(base, struct docker_container, base);

        if (!c->live || c->out[stream].paused == paused)
                return;
        c->out[stream].paused = paused;
        for (unsigned i = 0; i < c->n_streams; i++)
                stream_watch(&c->streams[i]);
}

/* ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_no_answer(struct loop_timer *timer, void *data)
{
        (void)timer;
        stream_failed(data, -ETIMEDOUT, "answer");
}

static int stream_connected(struct docker_stream *s)
{
        struct docker_container *c = s->container;
        int r = loop_io_add(c->docker->loop, s->fd, EPOLLIN | EPOLLOUT, on_socket, s, &s->io, NULL);

        s->events = EPOLLIN | EPOLLOUT;
        if (r == 0)
                r = loop_timer_set(c->docker->loop, &s->retry, time_mono_ns() + STREAM_ANSWER_NS, on_no_answer, s);
        return r;
}

static void on_retry(struct loop_timer *timer, void *data);

/* A unix socket whose backlog is full answers EAGAIN, and says nothing when there is room (unix(7)). */
static int stream_connect(struct docker_stream *s)
{
        struct docker_container *c = s->container;
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", c->docker->socket);
        if (connect(s->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
                return stream_connected(s);
        if (errno != EAGAIN && errno != EINTR)
                return -errno;
        if (time_mono_ns() > s->since_ns + STREAM_CONNECT_NS)
                return -ETIMEDOUT;
        return loop_timer_set(c->docker->loop, &s->retry, time_mono_ns() + STREAM_RETRY_NS, on_retry, s);
}

static void on_retry(struct loop_timer *timer, void *data)
{
        int r = stream_connect(data);

        (void)timer;
        if (r < 0)
                stream_failed(data, r, "connect");
}

static int stream_open(struct docker_container *c, struct docker_stream *s, struct err *err)
{
        int r;

        s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (s->fd < 0)
                return err_sys(err, "socket");
        if (str_addf(&s->out,
                     "POST %s/containers/%s/attach?stream=1%s%s%s HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n"
                     "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
                     c->docker->prefix, c->name, s->with_stdin ? "&stdin=1" : "",
                     s->which & 1u << ENGINE_STDOUT ? "&stdout=1" : "",
                     s->which & 1u << ENGINE_STDERR ? "&stderr=1" : "") < 0)
                return err_oom(err);
        s->since_ns = time_mono_ns();
        r = stream_connect(s);
        return r < 0 ? err_set(err, -r, "connect to '%s': %s", c->docker->socket, strerror(-r)) : 0;
}

/* Live streams have a connection each, because one of them may be paused. */
int docker_streams_open(struct docker_container *c, struct err *err)
{
        int r = 0;

        c->n_streams = c->live ? 2 : 1;
        for (unsigned i = 0; r == 0 && i < c->n_streams; i++) {
                struct docker_stream *s = &c->streams[i];

                s->container = c;
                s->with_stdin = i == 0 && c->has_stdin;
                s->which = c->live ? 1u << i : 3;
                r = stream_open(c, s, err);
        }
        return r;
}
