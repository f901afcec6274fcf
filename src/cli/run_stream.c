#include "cli/run_stream.h"

#include "base/fd.h"
#include "base/str.h"
#include "cli/bar.h"
#include "wire/stream.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define PENDING_MAX ((size_t)1 << 20) /* of stdin, on its way to the server */
#define WRITE_PIECE ((size_t)64 * 1024)
#define LIFE_MS 15000 /* a fourth of the time after which the server gives up who is silent */
#define PATIENCE 3    /* signals to end it, of which the last does */

struct output {
        struct str data;
        size_t at;     /* what was written of it */
        size_t piece;  /* at most so much at once: a pipe that is ready takes no more without blocking */
        size_t room;   /* --output-limit, less what came */
        bool attached; /* else it is dropped */
};

struct stream {
        const struct cli *cli;
        const struct run_options *options;
        struct http_ws_client *ws;
        struct output out[2];
        int signals, enders; /* signalfd; how many SIGINT and SIGTERM came */
        bool stdin_open, closed;
        bool bar, shown; /* stderr is a terminal; the bar of a pull stands on it */
        char id[32];
        int (*on_id)(const char *id, void *data, struct err *err);
        void *on_id_data;
        json_t *task;   /* the result */
        struct err why; /* a problem that the server told */
        int failed;
};

/* ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int send_text(struct stream *s, int (*make)(struct str *out))
{
        auto_str text = STR_INIT;

        if (make(&text) < 0)
                return -ENOMEM;
        return http_ws_client_send(s->ws, true, text.data, text.len);
}

static int send_signal(struct stream *s, int signo)
{
        auto_str text = STR_INIT;

        if (wire_frame_signal(signo, &text) < 0)
                return -ENOMEM;
        return http_ws_client_send(s->ws, true, text.data, text.len);
}

static int take_problem(struct stream *s, const json_t *body)
{
        struct http_answer answer = { .status = json_integer_value(json_object_get(body, "status")) };
        int r;

        if (json_write(body, &answer.body) < 0)
                return -ENOMEM;
        r = cli_problem(&answer, &s->why);
        http_answer_done(&answer);
        return s->failed = r;
}

/* What the image is: of what is downloaded, how much has come. The task's own output has not begun. */
static void show_pull(struct stream *s, uint64_t done, uint64_t total)
{
        auto_str line = STR_INIT;

        if (!s->bar)
                return;
        (void)str_adds(&line, "\r\x1b[Kpulling ");
        cli_bar_bytes(&line, done, total);
        if (line.data)
                (void)fd_write_all(STDERR_FILENO, line.data, line.len);
        s->shown = true;
}

static void hide_pull(struct stream *s)
{
        static const char gone[] = "\r\x1b[K";

        if (s->shown)
                (void)fd_write_all(STDERR_FILENO, gone, sizeof(gone) - 1);
        s->shown = false;
}

static int on_text(struct stream *s, const char *text, size_t len)
{
        struct wire_frame frame = { .body = NULL };
        int r;

        r = wire_frame_read(text, len, true, &frame, &s->why);
        if (r < 0)
                return s->failed = r;
        if (frame.type == WIRE_FRAME_PULLING)
                show_pull(s, frame.done, frame.total);
        else
                hide_pull(s);
        if (frame.type == WIRE_FRAME_STARTED) {
                (void)snprintf(s->id, sizeof(s->id), "%s", frame.id);
                r = s->on_id ? s->on_id(s->id, s->on_id_data, &s->why) : 0;
                s->failed = r;
        } else if (frame.type == WIRE_FRAME_RESULT) {
                json_decref(s->task);
                s->task = TAKE_PTR(frame.body);
        } else if (frame.type == WIRE_FRAME_PROBLEM) {
                r = take_problem(s, frame.body);
        }
        wire_frame_done(&frame);
        return r;
}

static int on_message(bool text, const void *data, size_t len, void *arg)
{
        const unsigned char *bytes = data;
        struct stream *s = arg;
        struct output *o;
        size_t n;

        if (text)
                return on_text(s, data, len);
        if (len == 0 || (bytes[0] != WIRE_STDOUT && bytes[0] != WIRE_STDERR))
                return s->failed = err_set(&s->why, EPROTO, "the server sent what is no output");
        o = &s->out[bytes[0] - WIRE_STDOUT];
        /* The server sends all, and bounds what it keeps. */
        n = MIN(len - 1, o->room);
        o->room -= n;
        return o->attached ? str_add(&o->data, bytes + 1, n) : 0;
}

/* ── what comes from here ────────────────────────────────────────────────────────────────────────────────────────── */

static int read_stdin(struct stream *s, struct err *err)
{
        unsigned char frame[WIRE_FRAME_MAX] = { WIRE_STDIN };
        ssize_t n = read(STDIN_FILENO, frame + 1, sizeof(frame) - 1);
        int r;

        if (n < 0)
                return errno == EINTR || errno == EAGAIN ? 0 : err_sys(err, "read stdin");
        s->stdin_open = n > 0;
        r = n ? http_ws_client_send(s->ws, false, frame, (size_t)n + 1) : send_text(s, wire_frame_stdin_end);
        return r < 0 ? err_set(err, -r, "send stdin: %s", strerror(-r)) : 0;
}

/* Who asks again and again for the end gets it: first of the task, and then, where no server answers, of this command. */
static int on_signal(struct stream *s, struct err *err)
{
        struct signalfd_siginfo info;
        int signo, r;

        if (read(s->signals, &info, sizeof(info)) != sizeof(info))
                return 0;
        signo = (int)info.ssi_signo;
        s->enders += signo == SIGINT || signo == SIGTERM;
        if (s->enders > PATIENCE || s->closed) {
                cli_signal = signo;
                return -ECANCELED;
        }
        if (s->enders == PATIENCE || (!*s->id && (signo == SIGINT || signo == SIGTERM || signo == SIGHUP)))
                r = send_text(s, wire_frame_cancel);
        else
                r = send_signal(s, signo);
        if (r == 0)
                r = http_ws_client_pump(s->ws, err);
        return MIN(r, 0);
}

/* ── what goes out ───────────────────────────────────────────────────────────────────────────────────────────────── */

static size_t waiting(const struct output *o)
{
        return o->data.len - o->at;
}

static int write_output(struct output *o, int fd)
{
        ssize_t n = write(fd, o->data.data + o->at, MIN(waiting(o), o->piece));

        if (n < 0)
                return errno == EINTR || errno == EAGAIN ? 0 : -errno;
        o->at += (size_t)n;
        if (waiting(o) == 0) {
                str_clear(&o->data);
                o->at = 0;
        }
        return 0;
}

static int write_ready(struct stream *s, const struct pollfd *fds, struct err *err)
{
        for (int i = 0; i < 2; i++) {
                int r = fds[i].revents ? write_output(&s->out[i], STDOUT_FILENO + i) : 0;

                if (r == -EPIPE)
                        return -EPIPE;
                if (r < 0)
                        return err_set(err, -r, "write the output: %s", strerror(-r));
        }
        return 0;
}

/* ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────────── */

enum { FD_STDOUT, FD_STDERR, FD_SIGNALS, FD_SERVER, FD_STDIN, FDS };

static void prepare(const struct stream *s, struct pollfd *fds)
{
        bool writing = waiting(&s->out[0]) || waiting(&s->out[1]);
        bool sending = !s->closed && http_ws_client_pending(s->ws) > 0;

        for (int i = 0; i < 2; i++)
                fds[FD_STDOUT + i] = (struct pollfd){ .fd = waiting(&s->out[i]) ? STDOUT_FILENO + i : -1,
                                                      .events = POLLOUT };
        fds[FD_SIGNALS] = (struct pollfd){ .fd = s->signals, .events = POLLIN };
        /* What cannot be written yet is not read: the task then waits, as on a pipe. */
        fds[FD_SERVER] = (struct pollfd){ .fd = s->closed || (writing && !sending) ? -1 : http_ws_client_fd(s->ws) };
        fds[FD_SERVER].events = s->closed ? 0 : http_ws_client_events(s->ws) & (short)(writing ? ~POLLIN : ~0);
        fds[FD_STDIN] = (struct pollfd){ .fd = -1, .events = POLLIN };
        if (s->stdin_open && !s->closed && http_ws_client_pending(s->ws) < PENDING_MAX)
                fds[FD_STDIN].fd = STDIN_FILENO;
}

static int pump(struct stream *s, struct err *err)
{
        int r = http_ws_client_pump(s->ws, err);

        if (s->failed) {
                *err = s->why;
                return s->failed;
        }
        if (r > 0)
                return 0;
        s->closed = true;
        return s->task ? 0 : r;
}

/* The connection is over, and there is no result. */
static int broken(const struct stream *s, int r, struct err *err)
{
        struct err why = *err;

        if (!*s->id)
                return err_set(err, ECONNRESET, "the connection to %s broke before the task had started%s%s",
                               s->cli->host, why.num ? ": " : "", why.text);
        return err_set(
                err, r ? -r : ECONNRESET,
                "the connection to %s broke%s%s; `mayfly wait %s` waits for the task's end, `mayfly logs %s` shows "
                "its output",
                s->cli->host, why.num ? ": " : "", why.text, s->id, s->id);
}

/* Who does not read does not see the server's pings either, and would be taken for dead: an empty piece of stdin is a sign of
 * life. */
static int show_life(struct stream *s, struct err *err)
{
        static const unsigned char nothing[] = { WIRE_STDIN };

        if (s->closed)
                return 0;
        if (http_ws_client_send(s->ws, false, nothing, sizeof(nothing)) < 0)
                return err_oom(err);
        return pump(s, err);
}

static int turn(struct stream *s, struct err *err)
{
        struct pollfd fds[FDS];
        int r;

        prepare(s, fds);
        r = poll(fds, FDS, fds[FD_SERVER].fd < 0 ? LIFE_MS : -1);
        if (r < 0)
                return errno == EINTR ? 0 : err_sys(err, "poll");
        if (r == 0)
                return show_life(s, err);
        r = write_ready(s, fds, err);
        if (r == 0 && fds[FD_SIGNALS].revents)
                r = on_signal(s, err);
        if (r == 0 && fds[FD_STDIN].revents)
                r = read_stdin(s, err);
        if (r == 0 && !s->closed && (fds[FD_SERVER].revents || http_ws_client_pending(s->ws))) {
                r = pump(s, err);
                if (s->closed && !s->task && r != -ECANCELED)
                        r = broken(s, r, err);
        }
        return r;
}

static int loop(struct stream *s, struct err *err)
{
        int r = 0;

        while (r == 0 && !(s->task && !waiting(&s->out[0]) && !waiting(&s->out[1])))
                r = turn(s, err);
        return r;
}

/* ── the beginning ───────────────────────────────────────────────────────────────────────────────────────────────── */

/* What nohup(1) and a shell's background jobs ignore stays ignored. */
static int catch_signals(bool proxy)
{
        static const int all[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT };
        struct sigaction old;
        sigset_t set;

        (void)sigemptyset(&set);
        for (size_t i = 0; i < ARRAY_LEN(all) && proxy; i++)
                if (sigaction(all[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
                        (void)sigaddset(&set, all[i]);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void prepare_outputs(struct stream *s)
{
        for (int i = 0; i < 2; i++) {
                struct stat st;
                bool pipe = fstat(STDOUT_FILENO + i, &st) == 0 && !S_ISREG(st.st_mode);

                s->out[i].piece = pipe ? PIPE_BUF : WRITE_PIECE;
                s->out[i].room = s->options->output_limited ? (size_t)s->options->request.limits.output : SIZE_MAX;
                s->out[i].attached = !s->options->attach_given || s->options->attached[1 + i];
        }
}

static int open_stream(struct stream *s, struct err *err)
{
        static const struct http_ws_client_handler handler = { .message = on_message };
        auto_free char *key = NULL;
        const char *headers[2] = { NULL };
        auto_answer refused = { .status = 0 };
        struct http_client *client = NULL;
        int r;

        if (s->options->idempotency_key) {
                headers[0] = key = str_printf("Idempotency-Key: %s", s->options->idempotency_key);
                if (!key)
                        return err_oom(err);
        }
        r = cli_connect(s->cli, &client, err);
        if (r < 0)
                return r;
        r = http_ws_client_open(client, "/v1/tasks/stream", headers, &handler, s, &s->ws, &refused, err);
        http_client_free(client);
        if (r == -EPROTO && refused.status >= 400)
                return cli_problem(&refused, err);
        return r < 0 ? cli_explain(s->cli, r, err) : 0;
}

int run_stream(const struct cli *cli, const struct run_options *o, const struct str *request,
               int (*id)(const char *id, void *data, struct err *err), void *data, json_t **ret, struct err *err)
{
        struct stream s = { .cli = cli, .options = o, .on_id = id, .on_id_data = data };
        auto_fd signals = -EBADF;
        int r;

        s.stdin_open = o->interactive && (!o->attach_given || o->attached[0]);
        s.bar = cli_draws(STDERR_FILENO);
        prepare_outputs(&s);
        r = open_stream(&s, err);
        if (r < 0)
                return r;
        signals = catch_signals(o->sig_proxy);
        s.signals = signals;
        r = http_ws_client_send(s.ws, true, request->data, request->len);
        if (r == 0 && !s.stdin_open)
                r = send_text(&s, wire_frame_stdin_end);
        if (r < 0)
                (void)err_set(err, -r, "send the request: %s", strerror(-r));
        else
                r = loop(&s, err);
        if (r == 0)
                *ret = TAKE_PTR(s.task);
        hide_pull(&s);
        json_decref(s.task);
        http_ws_client_free(s.ws);
        str_done(&s.out[0].data);
        str_done(&s.out[1].data);
        return r;
}
