/* /v1/tasks and what is below one task, but for its output. */

#include "api/internal.h"
#include "api/text.h"
#include "base/id.h"
#include "base/time.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define LIST_DEFAULT 100
#define LIST_MAX 1000
#define DELETE_RETRY_NS (10 * NS_PER_MS)
#define DELETE_TRIES 500

static void no_such_task(struct call *c)
{
        call_problem(c, 404, "not_found", "there is no task %s", c->subject);
}

/* ── where a task is ───────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_record(int r, struct history_record *record, const struct err *err, void *data)
{
        struct call *c = data;

        if (!c->http || c->answered) {
                /* nobody to tell */
        } else if (r == -ENOENT) {
                no_such_task(c);
        } else if (r < 0) {
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        } else {
                c->record = record;
                c->found(c, record);
                c->record = NULL;
        }
        call_release(c);
}

struct task *task_locate(struct call *c, void (*found)(struct call *c, const struct history_record *record))
{
        struct err err = ERR_INIT;
        struct task *t;

        if (!id_valid(c->subject)) {
                no_such_task(c);
                return NULL;
        }
        t = tasks_find(c->api->config.tasks, c->subject);
        if (t && call_owns(c, task_owner(t)))
                return t;
        if (t) {
                no_such_task(c);
                return NULL;
        }
        c->found = found;
        call_hold(c);
        if (history_get(c->api->config.history, c->subject, call_scope_owner(c), on_record, c, &err) < 0) {
                call_problem(c, 503, "history", "%s", err.text);
                call_release(c);
        }
        return NULL;
}

static bool has_ended(struct task *t)
{
        struct wire_task now;

        task_describe(t, &now);
        return now.status >= WIRE_EXITED;
}

static void answer_task(struct call *c, int status, const struct wire_task *now, struct task *t)
{
        auto_str text = STR_INIT;

        if (now->has_output && output_is_long(now->out_len[0], now->out_len[1]))
                answer_long_task(c, status, now, t);
        else if (wire_task_write(now, &text) < 0)
                call_oom(c);
        else
                call_answer(c, status, &text);
}

static void answer_live(struct call *c, int status, struct task *t)
{
        struct wire_task now;

        task_describe(t, &now);
        answer_task(c, status, &now, t);
}

static void found_whole(struct call *c, const struct history_record *record)
{
        auto_str text = STR_INIT;

        if (output_is_long(record->out[0].len, record->out[1].len))
                answer_long_record(c, 200, c->record);
        else if (record_text(record, &text) < 0)
                call_oom(c);
        else
                call_answer(c, 200, &text);
}

/* ── GET /v1/tasks/{id} ────────────────────────────────────────────────────────────────────────────────────────────── */

void tasks_get_run(struct call *c)
{
        struct task *t = task_locate(c, found_whole);

        if (t)
                answer_live(c, 200, t);
}

/* ── GET /v1/tasks/{id}/wait ───────────────────────────────────────────────────────────────────────────────────────── */

static void on_wait_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct call *c = data;

        c->task = NULL;
        loop_timer_cancel(&c->timer);
        if (c->http && !c->answered)
                answer_task(c, 200, result, t);
        call_release(c);
}

static void on_wait_over(struct loop_timer *timer, void *data)
{
        struct call *c = data;

        (void)timer;
        if (c->task)
                answer_live(c, 202, c->task);
}

/* False after having answered. */
static bool read_timeout(struct call *c, int64_t *ret_ns)
{
        const char *value = call_query(c, "timeout");

        *ret_ns = -1;
        if (!value)
                return true;
        if (time_parse_duration(value, ret_ns) == 0 && *ret_ns >= 0 && *ret_ns <= WIRE_WAIT_MAX_NS)
                return true;
        call_problem(c, 400, "bad_request", "timeout: not a duration up to a day, such as 30s");
        return false;
}

void tasks_wait_run(struct call *c)
{
        const struct task_waiter waiter = { .ended = on_wait_ended, .data = c };
        struct err err = ERR_INIT;
        int64_t timeout_ns;
        struct task *t;

        if (!read_timeout(c, &timeout_ns))
                return;
        t = task_locate(c, found_whole);
        if (!t)
                return;
        if (timeout_ns == 0 || has_ended(t)) {
                answer_live(c, has_ended(t) ? 200 : 202, t);
                return;
        }
        if (task_join(t, &waiter, &err) < 0) {
                call_oom(c);
                return;
        }
        call_hold(c);
        c->task = t;
        if (timeout_ns > 0)
                (void)loop_timer_set(c->api->loop, &c->timer, time_mono_ns() + (uint64_t)timeout_ns, on_wait_over, c);
}

/* ── cancel, signal ────────────────────────────────────────────────────────────────────────────────────────────────── */

void tasks_cancel_run(struct call *c)
{
        struct task *t = task_locate(c, found_whole);

        if (!t)
                return;
        if (has_ended(t)) {
                answer_live(c, 200, t);
                return;
        }
        task_cancel(t);
        answer_live(c, 202, t);
}

static void found_ended(struct call *c, const struct history_record *record)
{
        call_problem(c, 409, "not_running", "task %s has ended", record->id);
}

/* A name, or a number: "SIGTERM", "TERM", "15", 15. Without a fault of its own 0 means that it is none. */
static int signal_member(struct json_obj *o)
{
        const char *name = NULL;
        json_t *value;
        int64_t n = 0;

        if (!json_get_any(o, "signal", &value))
                return 0;
        if (json_is_integer(value))
                return json_get_int(o, "signal", 1, SIGRTMAX, &n) ? (int)n : 0;
        return json_get_str(o, "signal", &name, NULL) ? wire_signal_parse(name) : 0;
}

static int read_signal(struct call *c)
{
        struct json_faults faults = { .items = NULL };
        struct err err = ERR_INIT;
        auto_json body = NULL;
        struct json_obj o;
        int signo = 0;

        if (json_read(c->body.data ? c->body.data : "", c->body.len, &body, &err) < 0) {
                json_faults_add(&faults, "", "%s", err.text);
        } else if (json_obj_init(&o, body, "", &faults) == 0) {
                signo = signal_member(&o);
                if (signo <= 0 && faults.len == 0)
                        json_faults_add(&faults, "/signal", "must be a signal, such as SIGTERM or 15");
                json_obj_done(&o);
        }
        if (faults.len > 0) {
                call_problem_of(c, 400, "bad_request", "the body names no signal", NULL, &faults);
                signo = -EINVAL;
        }
        json_faults_done(&faults);
        return signo;
}

void tasks_signal_run(struct call *c)
{
        int signo = read_signal(c), r;
        struct err err = ERR_INIT;
        struct task *t;

        if (signo < 0)
                return;
        t = task_locate(c, found_ended);
        if (!t)
                return;
        r = task_signal(t, signo, &err);
        if (r == -ESRCH)
                call_problem(c, 409, "not_running", "task %s does not run", c->subject);
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", err.num ? err.text : strerror(-r));
        else
                answer_live(c, 200, t);
}

/* ── DELETE /v1/tasks/{id} ─────────────────────────────────────────────────────────────────────────────────────────── */

static void on_deleted(int r, const struct err *err, void *data)
{
        struct call *c = data;
        auto_str none = STR_INIT;

        if (!c->http)
                ;
        else if (r == -ENOENT)
                no_such_task(c);
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        else
                call_send(c, 204, NULL, &none);
        call_release(c);
}

static void delete_now(struct call *c);

static void on_delete_retry(struct loop_timer *timer, void *data)
{
        (void)timer;
        delete_now(data);
}

/* One that has ended is live until its record is on disk, which is a matter of milliseconds. */
static void delete_now(struct call *c)
{
        struct task *t = tasks_find(c->api->config.tasks, c->subject);
        struct err err = ERR_INIT;

        if (t && !call_owns(c, task_owner(t))) {
                no_such_task(c);
                return;
        }
        if (t && !has_ended(t)) {
                call_problem(c, 409, "running", "task %s has not ended: cancel it first", c->subject);
                return;
        }
        if (t) {
                history_flush(c->api->config.history);
                if (++c->tries > DELETE_TRIES ||
                    loop_timer_set(c->api->loop, &c->timer, time_mono_ns() + DELETE_RETRY_NS, on_delete_retry, c) < 0)
                        call_problem(c, 503, "history", "task %s is not in history yet", c->subject);
                return;
        }
        call_hold(c);
        if (history_delete(c->api->config.history, c->subject, call_scope_owner(c), on_deleted, c, &err) < 0) {
                call_problem(c, 503, "history", "%s", err.text);
                call_release(c);
        }
}

void tasks_delete_run(struct call *c)
{
        if (!id_valid(c->subject))
                no_such_task(c);
        else
                delete_now(c);
}

/* ── GET /v1/tasks ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool bad_parameter(struct call *c, const char *text)
{
        call_problem(c, 400, "bad_request", "%s", text);
        return false;
}

bool call_time(struct call *c, const char *name, uint64_t *ret_ms)
{
        const char *value = call_query(c, name);
        uint64_t seconds;

        if (!value)
                return true;
        if (parse_u64(value, &seconds) == 0 && seconds <= UINT64_C(1) << 40)
                *ret_ms = seconds * 1000;
        else if (rfc3339_parse(value, ret_ms) < 0) {
                call_problem(c, 400, "bad_request", "%s: not a time of RFC 3339, nor seconds since 1970", name);
                return false;
        }
        return true;
}

static bool read_labels(struct call *c, struct history_query *q)
{
        const char *label;
        size_t n = 0;

        for (; (label = http_query_nth(c->http, "label", n)); n++) {
                if (n == HISTORY_LABELS_MAX)
                        return bad_parameter(c, "label: too many of them");
                if (!wire_label_valid(label))
                        return bad_parameter(c, "label: not NAME=VALUE");
                q->labels[n] = label;
        }
        return true;
}

static bool status_known(const char *status)
{
        for (size_t i = 0; wire_status_names[i]; i++)
                if (str_eq(wire_status_names[i], status))
                        return true;
        return false;
}

/* What it names is borrowed from the request. False after having answered. */
static bool query_read(struct call *c, struct history_query *q)
{
        const char *limit = call_query(c, "limit");
        struct image_ref ref;
        uint32_t number = LIST_DEFAULT;

        *q = (struct history_query){
                .owner = call_scope_owner(c),
                .status = call_query(c, "status"),
                .image = call_query(c, "image"),
                .before = call_query(c, "cursor"),
        };
        if (q->status && !status_known(q->status))
                return bad_parameter(c, "status: no state of a task");
        if (q->image && image_ref_parse_docker(q->image, &ref, NULL) < 0)
                return bad_parameter(c, "image: not a reference");
        if (limit && (parse_u32(limit, &number) < 0 || number < 1 || number > LIST_MAX))
                return bad_parameter(c, "limit: not a number from 1 to 1000");
        if (q->before && !id_valid(q->before))
                return bad_parameter(c, "cursor: not one of a list's");
        q->limit = number;
        return read_labels(c, q) && call_time(c, "since", &q->since_ms) && call_time(c, "until", &q->until_ms);
}

static void on_list(int r, const struct str *text, const struct err *err, void *data)
{
        struct call *c = data;
        auto_str copy = STR_INIT;

        if (!c->http)
                ;
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        else if (str_add(&copy, text->data, text->len) < 0)
                call_oom(c);
        else
                call_answer(c, 200, &copy);
        call_release(c);
}

void tasks_list_run(struct call *c)
{
        struct history_query query;
        struct err err = ERR_INIT;

        if (!query_read(c, &query))
                return;
        call_hold(c);
        if (tasks_list(c->api->config.tasks, &query, on_list, c, &err) < 0) {
                call_problem(c, 503, "history", "%s", err.num ? err.text : "the history is busy");
                call_release(c);
        }
}
