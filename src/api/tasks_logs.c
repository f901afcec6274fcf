/* GET /v1/tasks/{id}/logs: what a task writes, as server-sent events (HTML standard, section 9.2). An event's id tells how much
 * of both streams was sent with it and before, so that a client that lost its connection goes on where it was:
 *
 *     id: 6.0
 *     event: stdout
 *     data: {"stream":"stdout","offset":0,"time":"2026-01-01T00:00:00.000Z","encoding":"utf-8","data":"hello\n"}
 *
 * An event's output came all at its time, to what the marks of history/times.h tell.
 *
 * The last event is `end`. A slow client never slows the task: it reads what is kept, at its own pace. */

#include "api/internal.h"
#include "api/text.h"
#include "base/log.h"
#include "base/time.h"
#include "history/times.h"
#include "wire/stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOGS_PIECE (16 * 1024)
#define LOGS_BEAT_NS (15 * NS_PER_S) /* a comment, so that nobody on the way takes the connection for dead */

struct logs {
        struct call *call;
        struct task *task; /* live, and followed; NULL: it has ended, or is not followed */
        bool wanted[2];
        uint64_t at[2];     /* offset of what comes next */
        struct str rest[2]; /* of an ended task: what is left from `base` on */
        uint64_t base[2];
        struct times times[2];       /* of an ended task */
        uint64_t finished_ms;        /* when what no mark reaches came; 0: it comes now */
        uint64_t since_ms, until_ms; /* 0: none */
        bool past[2];                /* what comes of it is behind until_ms */
        bool ended;                  /* rest is complete, and `end` to be told after it */
        bool told, closed;
        struct wire_log_event end;
};

static void logs_free(struct logs *l)
{
        if (l->task)
                task_unfollow(l->task, l);
        str_done(&l->rest[0]);
        str_done(&l->rest[1]);
        times_done(&l->times[0]);
        times_done(&l->times[1]);
        free(l);
}

/* ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_event(struct logs *l, const char *name, const struct wire_log_event *e)
{
        auto_str text = STR_INIT, data = STR_INIT;

        if (wire_log_event_write(e, &data) < 0 ||
            str_addf(&text, "id: %" PRIu64 ".%" PRIu64 "\nevent: %s\ndata: ", l->at[0], l->at[1], name) < 0 ||
            str_add(&text, data.data, data.len) < 0 || str_adds(&text, "\n\n") < 0)
                return -ENOMEM;
        return http_stream_write(l->call->http, text.data, text.len);
}

/* What is there of a stream now: bytes in buf. */
static ssize_t read_piece(struct logs *l, int stream, char *buf, size_t len)
{
        const struct str *rest = &l->rest[stream];
        uint64_t from;

        if (l->task)
                return task_read_output(l->task, stream ? ENGINE_STDERR : ENGINE_STDOUT, l->at[stream], buf, len);
        from = l->at[stream] - l->base[stream];
        if (from >= rest->len)
                return 0;
        len = MIN(len, rest->len - from);
        memcpy(buf, rest->data + from, len);
        return (ssize_t)len;
}

/* When what comes next of a stream came, and how much of it came then. */
static uint64_t time_of(const struct logs *l, int stream, size_t *ret_len)
{
        const struct times *t = l->task ? task_times(l->task, stream ? ENGINE_STDERR : ENGINE_STDOUT)
                                        : &l->times[stream];
        uint64_t end, ms = times_find(t, l->at[stream], l->finished_ms ? l->finished_ms : time_real_ms(), &end);

        *ret_len = (size_t)MIN(*ret_len, end - l->at[stream]);
        return ms;
}

/* 1: something was written, or left out for its time; 0: nothing is there; -errno. */
static int write_piece(struct logs *l, int stream)
{
        static const char *const names[] = { "stdout", "stderr" };
        char buf[LOGS_PIECE];
        struct wire_log_event e = { .stream = stream, .offset = l->at[stream], .data = buf, .exit_code = -1 };
        uint64_t ms;
        ssize_t n;
        int r;

        if (!l->wanted[stream] || l->past[stream])
                return 0;
        n = read_piece(l, stream, buf, sizeof(buf));
        if (n <= 0)
                return (int)n;
        e.len = (size_t)n;
        ms = time_of(l, stream, &e.len);
        if (l->until_ms > 0 && ms > l->until_ms) {
                l->past[stream] = true;
                return 0;
        }
        if (ms < l->since_ms) {
                l->at[stream] += e.len;
                return 1;
        }
        if (e.len == (size_t)n)
                e.len = wire_text_cut(buf, (size_t)n);
        time_rfc3339(ms, e.time);
        l->at[stream] += e.len;
        r = write_event(l, names[stream], &e);
        if (r < 0)
                l->at[stream] -= e.len;
        return r < 0 ? r : 1;
}

static void finish(struct logs *l)
{
        if (l->closed)
                return;
        l->closed = true;
        loop_timer_cancel(&l->call->timer);
        (void)http_stream_end(l->call->http);
}

static void cut_short(struct logs *l)
{
        l->closed = true;
        loop_timer_cancel(&l->call->timer);
        http_stream_abort(l->call->http);
}

static void note_end(struct logs *l, const char *status, const char *reason, int exit_code, bool truncated)
{
        l->ended = true;
        l->end = (struct wire_log_event){ .end = true, .exit_code = exit_code, .truncated = truncated };
        (void)snprintf(l->end.status, sizeof(l->end.status), "%s", status);
        (void)snprintf(l->end.reason, sizeof(l->end.reason), "%s", reason ? reason : "");
}

/* Writes what fits; the rest follows when the client has read. */
static void pump(struct logs *l, bool follow)
{
        int r = 1;

        while (r > 0 && !l->closed && http_stream_pending(l->call->http) < HTTP_STREAM_LOW) {
                int out = write_piece(l, 0), err = out < 0 ? 0 : write_piece(l, 1);

                r = out < 0 ? out : err < 0 ? err : out + err;
        }
        if (l->closed || r == -EAGAIN || r > 0)
                return;
        if (r < 0) {
                cut_short(l);
                return;
        }
        /* Of a task that runs on, that was all. */
        if (!l->ended && l->until_ms > 0 && time_real_ms() > l->until_ms)
                note_end(l, wire_status_names[WIRE_RUNNING], NULL, -1, false);
        if (l->ended && !l->told) {
                r = write_event(l, "end", &l->end);
                if (r == -EAGAIN)
                        return;
                l->told = true;
        }
        if (l->ended || !follow)
                finish(l);
}

static bool follows(const struct call *c)
{
        return str_eq(call_query(c, "follow"), "1") || str_eq(call_query(c, "follow"), "true");
}

void logs_call_drained(struct call *c)
{
        if (c->logs)
                pump(c->logs, follows(c));
}

static void set_beat(struct logs *l);

static void on_beat(struct loop_timer *timer, void *data)
{
        struct logs *l = data;

        (void)timer;
        if (*l->call->who.key_id && !call_key(l->call)) {
                cut_short(l); /* it has expired */
                return;
        }
        if (http_stream_pending(l->call->http) == 0)
                (void)http_stream_write(l->call->http, ":\n\n", 3);
        set_beat(l);
        pump(l, true);
}

/* Soon enough for the end of what is wanted, too. */
static void set_beat(struct logs *l)
{
        uint64_t now = time_real_ms(), wait = LOGS_BEAT_NS;

        if (l->until_ms > 0)
                wait = MIN(wait, (l->until_ms > now ? l->until_ms - now : 0) * NS_PER_MS + NS_PER_MS);
        (void)loop_timer_set(l->call->api->loop, &l->call->timer, time_mono_ns() + wait, on_beat, l);
}

/* ── the task ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The task goes: what the client has not read yet is kept for it. */
static int keep_rest(struct logs *l, struct task *t)
{
        int r = 0;

        for (int i = 0; i < 2 && r == 0; i++) {
                l->base[i] = l->at[i];
                r = times_copy(task_times(t, i ? ENGINE_STDERR : ENGINE_STDOUT), &l->times[i]);
                if (r == 0 && l->wanted[i])
                        r = task_read_all(l->call, t, i ? ENGINE_STDERR : ENGINE_STDOUT, l->at[i], &l->rest[i]);
        }
        return r;
}

static void on_more(struct task *t, bool ended, void *data)
{
        struct logs *l = data;
        struct wire_task now;

        if (ended) {
                task_describe(t, &now);
                l->finished_ms = now.finished_ms;
                note_end(l, wire_status_names[now.status], wire_reason_names[now.reason], now.exit_code, now.truncated);
                if (keep_rest(l, t) < 0) {
                        l->task = NULL;
                        cut_short(l);
                        return;
                }
                l->task = NULL;
        }
        pump(l, true);
}

void logs_call_gone(struct call *c)
{
        struct logs *l = TAKE_PTR(c->logs);

        if (!l)
                return;
        loop_timer_cancel(&c->timer);
        logs_free(l);
}

/* ── begin ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Where the client wants to begin, of `kept` bytes. */
static uint64_t start_at(const struct call *c, int stream, uint64_t kept)
{
        const char *last = http_header(c->http, "Last-Event-ID"), *tail = call_query(c, "tail");
        uint64_t at[2], bytes;

        if (last && event_id_parse(last, at) == 0)
                return MIN(at[stream], kept);
        if (tail && parse_u64(tail, &bytes) == 0)
                return kept - MIN(bytes, kept);
        return 0;
}

static bool check_params(struct call *c)
{
        const char *stream = call_query(c, "stream"), *follow = call_query(c, "follow"), *tail = call_query(c, "tail");
        uint64_t bytes, ms;

        if (stream && !str_eq(stream, "stdout") && !str_eq(stream, "stderr") && !str_eq(stream, "both"))
                call_problem(c, 400, "bad_request", "stream: not stdout, stderr or both");
        else if (follow && !str_eq(follow, "0") && !str_eq(follow, "1") && !str_eq(follow, "true") &&
                 !str_eq(follow, "false"))
                call_problem(c, 400, "bad_request", "follow: not 0 or 1");
        else if (tail && parse_u64(tail, &bytes) < 0)
                call_problem(c, 400, "bad_request", "tail: not a number of bytes");
        else
                return call_time(c, "since", &ms) && call_time(c, "until", &ms);
        return false;
}

static struct logs *logs_new(struct call *c)
{
        const char *stream = call_query(c, "stream");
        struct logs *l = calloc(1, sizeof(*l));

        if (!l) {
                call_oom(c);
                return NULL;
        }
        l->call = c;
        /* Checked already. */
        (void)call_time(c, "since", &l->since_ms);
        (void)call_time(c, "until", &l->until_ms);
        l->wanted[0] = !str_eq(stream, "stderr");
        l->wanted[1] = !str_eq(stream, "stdout");
        return l;
}

/* Takes the logs. False where the answer could not begin. */
static bool logs_begin(struct call *c, struct logs *l)
{
        call_log(c, 200);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        (void)http_add_header(c->http, "Cache-Control", "no-store");
        c->answered = true;
        if (http_stream_begin(c->http, 200, "text/event-stream") < 0) {
                logs_free(l);
                return false;
        }
        if (str_eq(http_method(c->http), "HEAD")) {
                (void)http_stream_end(c->http);
                logs_free(l);
                return false;
        }
        c->logs = l;
        return true;
}

static void found_logs(struct call *c, const struct history_record *record)
{
        struct logs *l = logs_new(c);
        auto_json document = NULL;
        const json_t *code;

        if (!l)
                return;
        for (int i = 0; i < 2; i++) {
                l->at[i] = l->base[i] = start_at(c, i, record->out[i].len);
                if (!call_charge(c, record->out[i].len)) {
                        logs_free(l);
                        return;
                }
                if (l->wanted[i] && str_add(&l->rest[i], record->out[i].data ? record->out[i].data + l->at[i] : "",
                                            record->out[i].len - l->at[i]) < 0) {
                        logs_free(l);
                        call_oom(c);
                        return;
                }
        }
        if (times_read(record->times.data, record->times.len, l->times) < 0)
                log_debug("task %s: the times of its output are damaged", record->id);
        l->finished_ms = record->finished_ms;
        (void)json_read(record->document.data, record->document.len, &document, NULL);
        code = json_object_get(document, "exit_code");
        note_end(l, record->status, json_string_value(json_object_get(document, "reason")),
                 json_is_integer(code) ? (int)json_integer_value(code) : -1,
                 json_is_true(json_object_get(document, "truncated")));
        if (logs_begin(c, l))
                pump(l, false);
}

/* How much of a stream is kept now: by halving, since only what is read is told. */
static uint64_t kept_now(struct task *t, enum engine_stream stream)
{
        uint64_t low = 0, high = WIRE_OUTPUT_MAX;
        char byte;

        while (low < high) {
                uint64_t mid = low + (high - low) / 2;

                if (task_read_output(t, stream, mid, &byte, 1) > 0)
                        low = mid + 1;
                else
                        high = mid;
        }
        return low;
}

static void follow(struct call *c, struct task *t, struct logs *l)
{
        const struct task_follower follower = { .more = on_more, .data = l };
        struct err err = ERR_INIT;

        if (task_follow(t, &follower, &err) < 0) {
                logs_free(l);
                call_oom(c);
                return;
        }
        l->task = t;
        if (!logs_begin(c, l))
                return;
        set_beat(l);
        pump(l, true);
}

/* What is there now, and the end where that is known. */
static void tell(struct call *c, struct task *t, struct logs *l, const struct wire_task *now)
{
        l->finished_ms = now->finished_ms;
        if (now->status >= WIRE_EXITED)
                note_end(l, wire_status_names[now->status], wire_reason_names[now->reason], now->exit_code,
                         now->truncated);
        if (keep_rest(l, t) < 0) {
                logs_free(l);
                call_oom(c);
        } else if (logs_begin(c, l)) {
                pump(l, false);
        }
}

void tasks_logs_run(struct call *c)
{
        struct wire_task now;
        struct logs *l;
        struct task *t;

        if (!check_params(c))
                return;
        t = task_locate(c, found_logs);
        l = t ? logs_new(c) : NULL;
        if (!l)
                return;
        for (int i = 0; i < 2 && (call_query(c, "tail") || http_header(c->http, "Last-Event-ID")); i++)
                l->at[i] = start_at(c, i, kept_now(t, i ? ENGINE_STDERR : ENGINE_STDOUT));
        task_describe(t, &now);
        if (follows(c) && now.status < WIRE_EXITED)
                follow(c, t, l);
        else
                tell(c, t, l, &now);
}
