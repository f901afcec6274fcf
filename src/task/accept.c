/* Requests on disk: what was answered with 202 outlives daemon and machine. */

#include "base/log.h"
#include "base/time.h"
#include "state/seal.h"
#include "task/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT_MAX 64

static void context_of(const char *id, char out[CONTEXT_MAX])
{
        (void)snprintf(out, CONTEXT_MAX, "task %s request", id);
}

/* ── to the disk ─────────────────────────────────────────────────────────────────────────────────────────────────── */

void task_tell_stored(struct task *t, int r, const struct err *err)
{
        struct stored_call *calls = t->stored_calls.items;
        size_t n = t->stored_calls.len;

        memset(&t->stored_calls, 0, sizeof(t->stored_calls));
        for (size_t i = 0; i < n; i++)
                calls[i].fn(r, t->id, err, calls[i].data);
        free(calls);
}

static void on_accepted(int r, const struct err *err, void *data)
{
        struct task *t = data;
        struct tasks *ts = t->ts;

        ts->storing--;
        t->disk = r < 0 ? TASK_UNSTORED : TASK_STORED;
        if (!task_settle(t))
                return;
        if (ts->freeing)
                return;
        if (r < 0 && t->nameless && t->state == WIRE_QUEUED) {
                task_leave(t, t->durable_waiter);
                task_tell_stored(t, r, err);
                /* Whoever joined by the same key without asking for the disk gets its result. */
                if (t->waiters.len == 0) {
                        task_free(t);
                        return;
                }
                t->rec.accepted = false;
        }
        if (t->nameless && t->state == WIRE_QUEUED)
                tasks_enqueue(t);
        t->nameless = false;
        task_tell_stored(t, r, err);
        tasks_admit(ts);
}

static int seal_request(const struct task *t, struct str *out, struct err *err)
{
        struct wire_task_request named; /* borrows all */
        auto_secret text = STR_INIT;
        char context[CONTEXT_MAX];
        int r;

        if (!t->request.image)
                return 0;
        /* The default may be another one when it is read. */
        named = t->request;
        named.engine = (char *)(uintptr_t)t->engine->ops->name;
        r = wire_task_request_write(&named, &text);
        if (r < 0)
                return err_set(err, -r, "write the request: %s", strerror(-r));
        context_of(t->id, context);
        r = seal_seal(t->ts->config.seal, context, text.data, text.len, out);
        return r < 0 ? err_set(err, -r, "seal the request: %s", strerror(-r)) : 0;
}

int task_accept(struct task *t, struct err *err)
{
        struct history_request q = { .created_ms = t->rec.created_ms, .attempts = t->rec.attempts };
        struct tasks *ts = t->ts;
        int r;

        (void)snprintf(q.id, sizeof(q.id), "%s", t->id);
        /* While it pulls, the start is to be marked still, which then comes behind this on disk. */
        if (t->state > WIRE_PULLING)
                q.started = engine_life(t->engine);
        else if (t->state == WIRE_PULLING && q.attempts > 0)
                q.attempts--;
        q.owner = strdup(t->rec.owner);
        if (t->rec.key) {
                q.idempotency_key = strdup(t->rec.key);
                memcpy(q.body_hash, t->rec.body_hash, sizeof(q.body_hash));
        }
        if (!q.owner || (t->rec.key && !q.idempotency_key))
                r = err_oom(err);
        else
                r = seal_request(t, &q.sealed, err);
        if (r == 0)
                r = history_accept(ts->history, &q, on_accepted, t, err);
        history_request_done(&q);
        if (r < 0)
                return r;
        t->disk = TASK_STORING;
        t->owed++;
        ts->storing++;
        return 0;
}

static void on_stored_already(void *data)
{
        struct task *t = data;

        if (task_settle(t) && t->disk != TASK_STORING)
                task_tell_stored(t, 0, NULL);
}

int task_store_request(struct task *t, task_stored_fn fn, void *data, struct err *err)
{
        const struct stored_call call = { .fn = fn, .data = data };
        bool there = t->disk == TASK_STORED || t->state > WIRE_RUNNING;
        int r = 0;

        if (!t->ts->config.seal)
                return err_set(err, ENOTSUP, "this node has no place for requests");
        if (VEC_ADD(&t->stored_calls, call) < 0)
                return err_oom(err);
        if (there) {
                r = loop_defer(t->ts->loop, on_stored_already, t) < 0 ? err_oom(err) : 0;
                t->owed += r == 0;
        } else if (t->disk == TASK_UNSTORED) {
                r = task_accept(t, err);
        }
        if (r < 0)
                t->stored_calls.len--;
        else
                t->rec.accepted = true;
        return r;
}

/* ── from the disk ───────────────────────────────────────────────────────────────────────────────────────────────── */

static int open_request(struct tasks *ts, const struct history_request *q, struct wire_task_request *ret,
                        struct err *err)
{
        struct json_faults faults = { .items = NULL };
        auto_secret text = STR_INIT;
        char context[CONTEXT_MAX];
        auto_json body = NULL;
        int r;

        if (!ts->config.seal)
                return err_set(err, ENOTSUP, "there is no key");
        context_of(q->id, context);
        r = seal_open(ts->config.seal, context, q->sealed.data, q->sealed.len, &text);
        if (r < 0)
                return err_set(err, -r, "it does not open with this node's key");
        r = json_read(text.data ? text.data : "", text.len, &body, err);
        if (r < 0)
                return r;
        r = wire_task_request_read(body, ret, &faults);
        if (r < 0)
                (void)err_set(err, -r, "%s: %s", faults.len ? faults.items[0].pointer : "",
                              faults.len ? faults.items[0].detail : "not valid");
        json_faults_done(&faults);
        return r;
}

/* One that runs, or has ended and is not in history: its container has been found. */
static void recover_found(struct task *t, struct wire_task_request *request)
{
        t->disk = TASK_STORED;
        t->cancel_when_alone = false;
        if (t->rec.retries > 0 && request->image && !t->request.image) {
                t->request = *request;
                memset(request, 0, sizeof(*request));
                task_count_request(t);
        }
}

/* It was marked under the very engine that lives, which does not have it: the daemon died before it asked for the start. */
static bool never_ran(const struct task_engine *e, uint64_t started)
{
        return !e->forgot && started > TASK_LIFE_UNKNOWN && started == engine_life(e->engine);
}

void task_not_found(struct task *t)
{
        bool fresh = never_ran(task_engine_of(t), t->awaited);

        t->awaited = 0;
        if (fresh && t->rec.attempts > 0)
                t->rec.attempts--;
        if (t->rec.kill_reason) {
                task_end(t, WIRE_KILLED, t->rec.kill_reason, -1, 0, NULL);
        } else if (!fresh) {
                task_fail(t, WIRE_REASON_NODE_LOST, -1, "the node stopped while it ran");
        } else {
                task_watch_queue(t);
                tasks_enqueue(t);
        }
}

/* Of one that no engine which answered has. */
static void recover_absent(struct task *t, const struct history_request *q, const struct task_engine *e)
{
        if (!e) {
                task_fail(t, q->started ? WIRE_REASON_NODE_LOST : WIRE_REASON_START_ERROR, -1,
                          "its engine is none of this node any more");
        } else if (q->started) {
                t->awaited = q->started;
                if (e->listed)
                        task_not_found(t);
        } else {
                task_watch_queue(t);
                tasks_enqueue(t);
        }
}

static int recover(struct tasks *ts, struct history_request *q)
{
        struct wire_task_request request = { .image = NULL };
        struct task *t = tasks_find(ts, q->id);
        struct err err = ERR_INIT;
        struct task_engine *e;
        bool broken;

        broken = open_request(ts, q, &request, &err) < 0;
        if (broken) {
                log_error("the request of task %s: %s", q->id, err.text);
                wire_limits_default(&request.limits);
        }
        if (t) {
                recover_found(t, &request);
                wire_task_request_done(&request);
                return 0;
        }
        e = tasks_engine(ts, request.engine);
        if (broken)
                request.image = strdup("unknown");
        if (!request.image || tasks_restore(ts, q, &request, &t) < 0) {
                wire_task_request_done(&request);
                return -ENOMEM;
        }
        if (broken)
                t->request.retries = 0;
        if (e)
                t->engine = e->engine;
        if (broken)
                task_fail(t, WIRE_REASON_START_ERROR, -1, "its request could not be read after a restart");
        else
                recover_absent(t, q, e);
        return 0;
}

static void on_requests(int r, struct history_request *requests, size_t n, const struct err *err, void *data)
{
        struct tasks *ts = data;
        struct err why = ERR_INIT;
        struct task *t;

        for (size_t i = 0; r == 0 && i < n; i++) {
                r = recover(ts, &requests[i]);
                if (r < 0) {
                        (void)err_oom(&why);
                        err = &why;
                }
        }
        ts->recovered = true;
        LIST_FOREACH(t, &ts->all, node)
                task_tell_early(t);
        if (ts->adopted)
                ts->adopted(r, err, ts->adopted_data);
        if (r == 0)
                tasks_admit(ts);
}

int tasks_recover(struct tasks *ts, struct err *err)
{
        return history_requests(ts->history, on_requests, ts, err);
}
