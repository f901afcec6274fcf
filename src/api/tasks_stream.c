/* GET /v1/tasks/stream: one task, live, over a WebSocket. The frames are those of wire/stream.h.
 *
 *     WAITING ──request──▶ (PARSING) ──▶ RUNNING ──result──▶ CLOSING
 *        └─────────────────────┴────────────────────────────────▲  a problem, or the client has gone
 *
 * A worker parses a request that is long; the connection is not read meanwhile, and what has come already waits.
 *
 * Back pressure, both ways: where the client does not read, the task's output stops, as on a full pipe; where the task does not
 * read its stdin, nothing more is read of the connection. */

#include "api/internal.h"
#include "base/time.h"
#include "state/seal.h"
#include "wire/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_WAIT_NS (30 * NS_PER_S) /* for the request */
#define STREAM_KEY_NS (60 * NS_PER_S)  /* between two looks at its key, at most: the clock may be set */
#define STREAMS_WAITING_MAX 64         /* connections whose request has not come, or is being parsed */

enum stream_state { STREAM_WAITING, STREAM_PARSING, STREAM_RUNNING, STREAM_CLOSING };

struct stream {
        struct api *api;  /* NULL: gone, while a worker had the request */
        struct list node; /* of api->streams */
        enum stream_state state;
        struct http_ws *ws; /* NULL: gone */
        struct task *task;  /* until its end was told */
        struct identity who;
        char request_id[API_REQUEST_ID_MAX + 1];
        bool metered;
        struct loop_timer timer;
        struct str message; /* the request, while it is parsed */
        struct wire_task_request request;
        struct json_faults faults;
        int parsed;        /* how that ended */
        bool parsing;      /* a worker has the four above in hand */
        bool cancel_early; /* asked for while the request was parsed */
        struct str in;     /* stdin that the task has not taken yet */
        bool in_end;       /* to be told after it */
        bool stopped;      /* the task's output rests */
};

static void stream_free(struct stream *s)
{
        list_remove(&s->node);
        loop_timer_cancel(&s->timer);
        if (s->metered)
                meters_leave_key(s->api->meters, s->who.key_id);
        seal_wipe(&s->message);
        wire_task_request_done(&s->request);
        json_faults_done(&s->faults);
        seal_wipe(&s->in);
        free(s);
}

static void stream_release(struct stream *s)
{
        if (!s->ws && !s->task && !s->parsing)
                stream_free(s);
}

/* ── to the client ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static void close_with(struct stream *s, unsigned code, const char *reason)
{
        loop_timer_cancel(&s->timer);
        s->state = STREAM_CLOSING;
        if (s->ws)
                http_ws_close(s->ws, code, reason);
}

static void send_text(struct stream *s, int r, const struct str *text)
{
        if (!s->ws)
                return;
        if (r < 0 || http_ws_send_text(s->ws, text->data, text->len) < 0)
                close_with(s, 1011, "out of memory");
}

static void send_problem(struct stream *s, int status, const char *reason, const char *detail,
                         const struct json_faults *faults)
{
        auto_str problem = STR_INIT, text = STR_INIT;
        int r;

        r = wire_problem_write(&problem, status, reason, status_title(status), detail, s->request_id, NULL, faults);
        if (r == 0)
                r = wire_frame_problem(problem.data, problem.len, &text);
        send_text(s, r, &text);
        close_with(s, status >= 500 ? 1011 : 1008, reason);
}

static void send_output(struct stream *s, enum wire_channel channel, const void *bytes, size_t len)
{
        const char *at = bytes;

        while (len > 0 && s->ws && s->state == STREAM_RUNNING) {
                char frame[WIRE_FRAME_MAX];
                size_t n = MIN(len, sizeof(frame) - 1);

                frame[0] = (char)channel;
                memcpy(frame + 1, at, n);
                if (http_ws_send_binary(s->ws, frame, n + 1) < 0) {
                        close_with(s, 1011, "the client is too slow"); /* on_closed() follows */
                        return;
                }
                at += n;
                len -= n;
        }
}

/* ── from the task ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static void rest_output(struct stream *s, bool rest)
{
        s->stopped = rest;
        task_pause(s->task, ENGINE_STDOUT, rest);
        task_pause(s->task, ENGINE_STDERR, rest);
}

static void on_output(struct task *t, enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct stream *s = data;

        (void)t;
        send_output(s, stream == ENGINE_STDERR ? WIRE_STDERR : WIRE_STDOUT, bytes, len);
        if (s->task && s->ws && !s->stopped && http_ws_pending(s->ws) >= HTTP_WS_LOW)
                rest_output(s, true);
}

static void on_started(struct task *t, void *data)
{
        struct stream *s = data;
        auto_str text = STR_INIT;

        if (s->state == STREAM_RUNNING)
                send_text(s, wire_frame_started(task_id(t), &text), &text);
}

/* Who does not keep up gets fewer of these, not later ones. */
static void on_pulling(struct task *t, uint64_t done, uint64_t total, void *data)
{
        struct stream *s = data;
        auto_str text = STR_INIT;

        (void)t;
        if (s->state == STREAM_RUNNING && s->ws && http_ws_pending(s->ws) < HTTP_WS_LOW)
                send_text(s, wire_frame_pulling(done, total, &text), &text);
}

/* What the task takes of its stdin now; the connection is read again when it took all. */
static void feed(struct stream *s)
{
        ssize_t n;

        if (!s->task)
                return;
        n = s->in.len > 0 ? task_stdin_write(s->task, s->in.data, s->in.len) : 0;
        if (n < 0 || (size_t)n == s->in.len) {
                seal_wipe(&s->in); /* who does not read any more never will */
        } else {
                memmove(s->in.data, s->in.data + n, s->in.len - (size_t)n);
                s->in.len -= (size_t)n;
        }
        if (s->in.len > 0) {
                http_ws_pause(s->ws);
                return;
        }
        if (s->in_end)
                task_stdin_end(s->task);
        s->in_end = false;
        http_ws_resume(s->ws);
}

static void on_stdin_ready(struct task *t, void *data)
{
        struct stream *s = data;

        (void)t;
        if (s->ws)
                feed(s);
}

/* The streams were sent as they came; what else there is to tell follows. */
static void on_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct wire_task told = *result;
        auto_str document = STR_INIT, text = STR_INIT;
        struct stream *s = data;
        int r;

        (void)t;
        s->task = NULL;
        if (s->ws && s->state == STREAM_RUNNING) {
                told.out_len[0] = told.out_len[1] = 0;
                r = wire_task_write(&told, &document);
                if (r == 0)
                        r = wire_frame_result(document.data, document.len, &text);
                send_text(s, r, &text);
                if (s->state == STREAM_RUNNING)
                        close_with(s, 1000, NULL);
        }
        stream_release(s);
}

/* ── the key ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void forget(struct stream *s)
{
        struct task *t = TAKE_PTR(s->task);

        if (t)
                task_forget(t, s);
}

/* Whose key is not valid any more is not heard, and told nothing more. */
static void end_of_key(struct stream *s, const char *why)
{
        close_with(s, 1008, why);
        forget(s);
}

static void on_key_timer(struct loop_timer *timer, void *data);

static void watch_key(struct stream *s)
{
        const struct key *key = *s->who.key_id ? keys_find(s->api->config.keys, s->who.key_id) : NULL;
        uint64_t now = time_real_ms(), wait = STREAM_KEY_NS;

        if (!key || key->expires_ms == 0)
                return;
        if (key->expires_ms <= now)
                wait = 0;
        else if (key->expires_ms - now < STREAM_KEY_NS / NS_PER_MS)
                wait = (key->expires_ms - now) * NS_PER_MS;
        if (loop_timer_set(s->api->loop, &s->timer, time_mono_ns() + wait, on_key_timer, s) < 0)
                end_of_key(s, "out of memory");
}

static void on_key_timer(struct loop_timer *timer, void *data)
{
        struct stream *s = data;
        const struct key *key = keys_find(s->api->config.keys, s->who.key_id);

        (void)timer;
        if (!key || !key_is_live(key))
                end_of_key(s, "the key has expired");
        else
                watch_key(s);
}

/* ── from the client ───────────────────────────────────────────────────────────────────────────────────────────────── */

static void submit(struct stream *s)
{
        const struct key *key = *s->who.key_id ? keys_find(s->api->config.keys, s->who.key_id) : NULL;
        const struct task_waiter waiter = { .ended = on_ended, .data = s };
        const struct task_live live = {
                .output = on_output,
                .started = on_started,
                .pulling = on_pulling,
                .stdin_ready = on_stdin_ready,
                .data = s,
        };
        struct task_maxima maxima;
        struct task_submit how = {
                .owner = s->who.owner,
                .cancel_when_alone = true,
                .unlimited = true,
                .live = &live,
                .faults = &s->faults,
        };
        struct err err = ERR_INIT;
        const char *reason;
        unsigned retry_s;
        int r, status;

        if (*s->who.key_id && !(key && key_is_live(key))) {
                send_problem(s, 401, "unauthorized", "the key is not valid any more", NULL);
                return;
        }
        if (key && image_is_hidden(s->api, key, &s->request, &err)) {
                send_problem(s, 403, "not_allowed", err.text, NULL);
                return;
        }
        if (key) {
                maxima_of(key, &maxima);
                how.maxima = &maxima;
        }
        r = tasks_submit(s->api->config.tasks, &s->request, &how, &waiter, &s->task, &err);
        if (r == 0) {
                s->request = (struct wire_task_request){ .image = NULL };
                s->state = STREAM_RUNNING;
                watch_key(s);
                return;
        }
        status = submit_problem(s->api->config.tasks, r, &err, &reason, &retry_s);
        send_problem(s, status, reason, err.text, s->faults.len > 0 ? &s->faults : NULL);
}

static void parse(struct stream *s, const void *data, size_t len)
{
        struct err err = ERR_INIT;
        auto_json body = NULL;

        s->parsed = json_read_within(data, len, WIRE_VALUES_MAX, &body, &err);
        if (s->parsed == 0)
                s->parsed = wire_task_request_read(body, &s->request, &s->faults);
        else if (s->parsed != -ENOMEM)
                json_faults_add(&s->faults, "", "%s", err.text);
}

static void run_parsed(struct stream *s)
{
        if (s->parsed == 0)
                request_check(s->api, &s->request, &s->faults);
        if (s->faults.len > 0)
                send_problem(s, 400, "bad_request", "the request is not a valid task", &s->faults);
        else if (s->parsed < 0)
                send_problem(s, 503, "out_of_memory", "out of memory", NULL);
        else
                submit(s);
        wire_task_request_done(&s->request);
        json_faults_done(&s->faults);
        s->request = (struct wire_task_request){ .image = NULL };
        s->faults = (struct json_faults){ .items = NULL };
}

/* On any thread: touches what is the stream's own. */
static void parse_work(void *data)
{
        struct stream *s = data;

        parse(s, s->message.data, s->message.len);
        seal_wipe(&s->message);
}

static void parse_done(void *data)
{
        struct stream *s = data;

        s->parsing = false;
        if (s->ws)
                http_ws_release(s->ws, SIZE_MAX);
        if (s->ws && s->state == STREAM_PARSING)
                run_parsed(s);
        if (s->task && s->cancel_early)
                task_cancel(s->task);
        if (s->task)
                feed(s);
        stream_release(s);
}

/* Beside the copy of the text there are, for a moment, the JSON value and what is made out of it. */
static void parse_elsewhere(struct stream *s, const void *data, size_t len)
{
        if (http_ws_charge(s->ws, 2 * len) < 0 || str_add(&s->message, data, len) < 0 ||
            loop_work(s->api->loop, API_QUEUE, parse_work, parse_done, s) < 0) {
                send_problem(s, 503, "busy", "too much memory is in use for requests", NULL);
                return;
        }
        s->parsing = true;
        s->state = STREAM_PARSING;
        http_ws_pause(s->ws);
}

static void on_request(struct stream *s, const void *data, size_t len)
{
        loop_timer_cancel(&s->timer);
        if (len > API_INLINE_MAX) {
                parse_elsewhere(s, data, len);
                return;
        }
        parse(s, data, len);
        run_parsed(s);
}

static bool signal_ends(int signo)
{
        return signo == SIGINT || signo == SIGTERM || signo == SIGQUIT || signo == SIGHUP || signo == SIGKILL;
}

/* One that does not run yet ends by what would have ended it. */
static void pass_signal(struct stream *s, int signo)
{
        struct err err = ERR_INIT;

        if (task_signal(s->task, signo, &err) == -ESRCH && signal_ends(signo))
                task_cancel(s->task);
}

static void refuse_frame(struct stream *s, const char *detail)
{
        send_problem(s, 400, "bad_request", detail, NULL);
        forget(s);
}

static void on_frame(struct stream *s, const char *data, size_t len)
{
        struct wire_frame frame = { .body = NULL };
        struct err err = ERR_INIT;

        if (wire_frame_read(data, len, false, &frame, &err) < 0) {
                refuse_frame(s, err.text);
                return;
        }
        if ((frame.type == WIRE_FRAME_SIGNAL || frame.type == WIRE_FRAME_CANCEL) && !s->task)
                s->cancel_early |= frame.type == WIRE_FRAME_CANCEL || signal_ends(frame.signo);
        else if (frame.type == WIRE_FRAME_SIGNAL)
                pass_signal(s, frame.signo);
        else if (frame.type == WIRE_FRAME_CANCEL)
                task_cancel(s->task);
        else if (frame.type == WIRE_FRAME_STDIN_END)
                s->in_end = true;
        wire_frame_done(&frame);
        if (s->in_end)
                feed(s);
}

static void on_stdin(struct stream *s, const char *data, size_t len)
{
        if (len == 0 || data[0] != WIRE_STDIN || s->in_end) {
                refuse_frame(s, "a binary message must begin with 0, and come before the end of stdin");
                return;
        }
        if (str_add(&s->in, data + 1, len - 1) < 0) {
                close_with(s, 1011, "out of memory");
                forget(s);
                return;
        }
        feed(s);
}

static bool takes_frames(const struct stream *s)
{
        return s->state == STREAM_PARSING || (s->state == STREAM_RUNNING && s->task);
}

static void on_message(struct http_ws *ws, bool text, const void *data, size_t len, void *arg)
{
        struct stream *s = arg;

        (void)ws;
        if (s->state == STREAM_WAITING && text)
                on_request(s, data, len);
        else if (s->state == STREAM_WAITING)
                send_problem(s, 400, "bad_request", "the first message must be the request, as text", NULL);
        else if (takes_frames(s) && text)
                on_frame(s, data, len);
        else if (takes_frames(s))
                on_stdin(s, data, len);
}

static void on_drained(struct http_ws *ws, void *arg)
{
        struct stream *s = arg;

        (void)ws;
        if (s->task && s->stopped)
                rest_output(s, false);
}

/* The client has gone: as its request says, the task is cancelled or runs on. */
static void on_closed(struct http_ws *ws, unsigned code, void *arg)
{
        struct stream *s = arg;
        struct task *t;

        (void)ws;
        (void)code;
        if (s->task && s->stopped)
                rest_output(s, false);
        t = TAKE_PTR(s->task);
        s->ws = NULL;
        s->state = STREAM_CLOSING;
        if (t && s->api->closing)
                task_leave(t, s);
        else if (t)
                task_forget(t, s);
        stream_release(s);
}

/* ── begin ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static size_t streams_waiting(const struct api *a)
{
        struct stream *s;
        size_t n = 0;

        LIST_FOREACH(s, (struct list *)(uintptr_t)&a->streams, node)
                n += s->state == STREAM_WAITING || s->parsing;
        return n;
}

void tasks_stream_begin(struct call *c)
{
        const char *why = NULL;
        int status = http_websocket_check(c->http, &why);

        if (status != 0) {
                call_problem(c, status,
                             status == 426   ? "upgrade_required"
                             : status == 403 ? "forbidden"
                                             : "bad_request",
                             "%s", why);
        } else if (c->api->draining) {
                call_retry_after(c, 1);
                call_problem(c, 503, "draining", "the daemon is stopping");
        } else if (streams_waiting(c->api) >= STREAMS_WAITING_MAX) {
                call_busy(c);
        }
}

static void on_wait_over(struct loop_timer *timer, void *data)
{
        (void)timer;
        close_with(data, 1008, "no request came");
}

void tasks_stream_run(struct call *c)
{
        static const struct http_ws_handler handler = {
                .message = on_message,
                .drained = on_drained,
                .closed = on_closed,
                .max_message = WIRE_BODY_MAX,
        };
        struct stream *s = calloc(1, sizeof(*s));

        if (!s) {
                call_oom(c);
                return;
        }
        s->api = c->api;
        s->who = c->who;
        memcpy(s->request_id, c->request_id, sizeof(s->request_id));
        list_append(&c->api->streams, &s->node);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        if (http_websocket_accept(c->http, &handler, s, &s->ws) < 0) {
                stream_free(s);
                call_oom(c);
                return;
        }
        call_log(c, 101);
        c->answered = true;
        /* The key has the stream open from here on, and not the request. */
        s->metered = c->metered;
        c->metered = false;
        (void)loop_timer_set(c->api->loop, &s->timer, time_mono_ns() + STREAM_WAIT_NS, on_wait_over, s);
}

void streams_revoked(struct api *a, const char *key_id)
{
        struct stream *s;

        LIST_FOREACH(s, &a->streams, node)
                if (str_eq(s->who.key_id, key_id))
                        end_of_key(s, "the key was revoked");
}

void streams_done(struct api *a)
{
        struct stream *s;

        LIST_FOREACH(s, &a->streams, node) {
                if (!s->parsing) {
                        stream_free(s);
                        continue;
                }
                /* It belongs to the worker, until parse_done(). */
                list_remove(&s->node);
                s->metered = false;
                s->api = NULL;
        }
}
