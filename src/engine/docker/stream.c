/* Attaching: POST /containers/ID/attach, after whose answer the connection is the container's stdin and output ("hijacked",
 * Engine API, ContainerAttach). It stands before the container starts, so that no byte is lost. */

#include "engine/docker/stream.h"

#include "base/fd.h"
#include "engine/docker/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define STREAM_HEAD_MAX (16 * 1024)
#define STREAM_PIECE (64 * 1024)
#define STREAM_TURN 8 /* pieces in one turn of the loop */

static char piece[STREAM_PIECE]; /* the loop has one thread */

static void stream_close(struct docker_stream *s)
{
        docker_conn_close(s->conn);
        s->conn = NULL;
        loop_timer_cancel(&s->timer);
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

/* Of stdin nothing has been read: that begins when the container runs. */
void docker_streams_again(struct docker_container *c)
{
        for (unsigned i = 0; i < c->n_streams; i++)
                stream_close(&c->streams[i]);
        memset(c->streams, 0, sizeof(c->streams));
        c->n_streams = 0;
}

static void stream_ended(struct docker_stream *s, int r, const struct err *err)
{
        struct docker_container *c = s->container;

        stream_close(s);
        s->ended = true;
        if (s->with_stdin && c->state >= DOCKER_RUNNING)
                stdin_close(c);
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

/* What is sent to a container that never runs would be lost for the one that takes its place. */
static bool stdin_flows(const struct docker_stream *s)
{
        return s->open && s->with_stdin && s->container->state >= DOCKER_RUNNING;
}

static void stream_watch(struct docker_stream *s)
{
        const struct docker_container *c = s->container;
        bool paused = false;

        if (!s->conn)
                return;
        for (int i = 0; i < DOCKER_STREAMS; i++)
                if (s->open && s->which & 1u << i)
                        paused |= c->out[i].paused && !c->draining;
        docker_conn_wait(s->conn, !paused, s->sent < s->out.len || (stdin_flows(s) && stdin_waits(c)));
}

static void on_stdin(struct loop_io *io, uint32_t events, void *data);

/* The end of stdin, told to the container; its output goes on. */
static void stdin_finish(struct docker_stream *s)
{
        stdin_close(s->container);
        s->with_stdin = false;
        docker_conn_shutdown(s->conn);
}

static void stdin_pump(struct docker_stream *s)
{
        struct docker_container *c = s->container;

        while (stdin_waits(c)) {
                ssize_t n = docker_conn_send(s->conn, c->stdin_data.data + c->stdin_sent,
                                             c->stdin_data.len - c->stdin_sent);

                if (n == -EAGAIN)
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

/* Podman sends both on each connection, whatever was asked for. */
static void on_piece(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct docker_stream *s = data;

        if (s->which & 1u << stream)
                docker_output_take(s->container, stream, bytes, len);
}

static unsigned head_status(const struct str *head)
{
        unsigned status = 0;

        if (head->len < 12 || memcmp(head->data, "HTTP/1.", 7) != 0)
                return 0;
        for (int i = 9; i < 12; i++) {
                if (head->data[i] < '0' || head->data[i] > '9')
                        return 0;
                status = status * 10 + (unsigned)(head->data[i] - '0');
        }
        return status;
}

/* Bytes of the body that a refusal announces, in its head and not in that body; 0 where it does not say. */
static size_t head_length(const struct str *head, const char *end)
{
        auto_free char *text = strndup(head->data, (size_t)(end - head->data));
        const char *at = text ? strcasestr(text, "\r\nContent-Length:") : NULL;
        auto_free char *digits = NULL;
        uint64_t n = 0;

        if (!at)
                return 0;
        at += strlen("\r\nContent-Length:");
        at += strspn(at, " ");
        digits = strndup(at, strspn(at, "0123456789"));
        return digits && parse_u64(digits, &n) == 0 ? (size_t)MIN(n, (uint64_t)STREAM_HEAD_MAX) : 0;
}

ssize_t docker_stream_head(struct docker_stream *s, const char *bytes, size_t len, struct err *err)
{
        size_t before = s->head.len, body;
        const char *end;
        unsigned status;

        if (str_add(&s->head, bytes, len) < 0)
                return err_oom(err);
        end = memmem(s->head.data, s->head.len, "\r\n\r\n", 4);
        if (!end)
                return s->head.len > STREAM_HEAD_MAX
                               ? err_set(err, EMSGSIZE, "attach: the head of the answer is too large")
                               : 0;
        status = head_status(&s->head);
        if (status == 101 || status == 200)
                return end + 4 - s->head.data - (ssize_t)before;
        if (status == 0)
                return err_set(err, EBADMSG, "attach: no HTTP came back");
        body = s->head.len - (size_t)(end + 4 - s->head.data);
        if (body < head_length(&s->head, end))
                return 0;
        s->refused = status;
        docker_message(end + 4, body, status, s->why, sizeof(s->why));
        return err_set(err, EREMOTEIO, "%s", s->why);
}

static int stream_take(struct docker_stream *s, const char *bytes, size_t len, struct err *err)
{
        if (!s->open) {
                ssize_t n = docker_stream_head(s, bytes, len, err);

                if (n <= 0)
                        return (int)n;
                s->open = true;
                str_done(&s->head);
                bytes += n;
                len -= (size_t)n;
        }
        return demux_feed(&s->demux, bytes, len, on_piece, s, err);
}

/* 1: there may be more. */
static int stream_read(struct docker_stream *s, struct err *err)
{
        for (int i = 0; i < STREAM_TURN; i++) {
                ssize_t n = docker_conn_recv(s->conn, piece, sizeof(piece));
                int r;

                if (n < 0)
                        return n == -EAGAIN ? 1 : err_set(err, (int)-n, "attach: %s", strerror((int)-n));
                /* Who ends within a frame was cut off. */
                if (n == 0 && s->demux.have > 0)
                        s->container->disturbed = true;
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
                ssize_t n = docker_conn_send(s->conn, s->out.data + s->sent, s->out.len - s->sent);

                if (n < 0)
                        return; /* what is wrong, reading tells */
                s->sent += (size_t)n;
        }
}

static void on_io(bool in, void *data)
{
        struct docker_stream *s = data;
        struct docker_container *c = s->container;
        bool was_open = s->open;
        struct err err = ERR_INIT;
        int r = 1;

        stream_write(s);
        if (in)
                r = stream_read(s, &err);
        if (stdin_flows(s) && r == 1)
                stdin_pump(s);
        docker_output_tell(c);
        if (r <= 0) {
                stream_ended(s, r, &err);
                return;
        }
        stream_watch(s);
        if (s->open && !was_open) {
                loop_timer_cancel(&s->timer);
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

void docker_streams_started(struct docker_container *c)
{
        struct docker_stream *s = &c->streams[0];

        if (!s->with_stdin)
                return;
        if (s->conn)
                stdin_pump(s);
        else
                stdin_close(c);
        stream_watch(s);
}

void docker_streams_drain(struct docker_container *c)
{
        c->draining = true;
        for (unsigned i = 0; i < c->n_streams; i++)
                stream_watch(&c->streams[i]);
}

/* ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_no_answer(struct loop_timer *timer, void *data)
{
        (void)timer;
        stream_failed(data, -ETIMEDOUT, "answer");
}

static void on_open(void *data)
{
        struct docker_stream *s = data;

        if (loop_timer_set(s->container->docker->loop, &s->timer,
                           time_mono_ns() + s->container->docker->timeout_s * NS_PER_S, on_no_answer, s) < 0)
                stream_failed(s, -ENOMEM, "answer");
        else
                on_io(false, s);
}

static void on_failed(int r, const struct err *err, void *data)
{
        stream_ended(data, r, err);
}

static int stream_open(struct docker_container *c, struct docker_stream *s, struct err *err)
{
        static const struct docker_conn_handler handler = { .open = on_open, .io = on_io, .failed = on_failed };
        const char *body = c->exec ? "{\"Detach\":false,\"Tty\":false}" : "";
        auto_free char *path = c->exec ? str_printf("/exec/%s/start", c->exec)
                                       : str_printf("/containers/%s/attach?stream=true%s%s%s", c->name,
                                                    s->with_stdin ? "&stdin=true" : "",
                                                    s->which & 1u << ENGINE_STDOUT ? "&stdout=true" : "",
                                                    s->which & 1u << ENGINE_STDERR ? "&stderr=true" : "");

        if (!path || str_addf(&s->out,
                              "POST %s%s HTTP/1.1\r\nHost: docker\r\nUser-Agent: mayfly\r\n%sContent-Length: %zu\r\n"
                              "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n%s",
                              c->docker->prefix, path, body[0] ? "Content-Type: application/json\r\n" : "",
                              strlen(body), body) < 0)
                return err_oom(err);
        return docker_conn_open(c->docker, &handler, s, &s->conn, err);
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
