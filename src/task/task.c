#include "task/task.h"

#include "base/log.h"
#include "base/time.h"
#include "task/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ── the set of tasks ────────────────────────────────────────────────────────────────────────────────────────────── */

struct task *tasks_add(struct tasks *ts, const char *id)
{
        struct task *t = calloc(1, sizeof(*t));

        if (!t)
                return NULL;
        t->ts = ts;
        t->engine = ts->engines[0].engine;
        t->exit_code = -1;
        t->in.fd = t->in.read_fd = t->outputs.fd = -EBADF;
        list_init(&t->queue_node);
        (void)snprintf(t->id, sizeof(t->id), "%s", id);
        if (map_set(ts->by_id, t->id, t) < 0) {
                free(t);
                return NULL;
        }
        list_append(&ts->all, &t->node);
        ts->n_all++;
        return t;
}

/* No owner holds a newline: it would end a line of the log. */
static char *key_name(const char *owner, const char *key)
{
        return str_printf("%s\n%s", owner, key);
}

struct task *tasks_find_key(struct tasks *ts, const char *owner, const char *key)
{
        auto_free char *name = key_name(owner, key);

        return name ? map_find(ts->by_key, name) : NULL;
}

int tasks_add_key(struct task *t)
{
        auto_free char *name = key_name(t->rec.owner, t->rec.key);

        return name ? map_set(t->ts->by_key, name, t) : -ENOMEM;
}

void task_remove_container(struct task *t)
{
        struct tasks *ts = t->ts;

        if (!t->container)
                return;
        task_unkeep_slot(t);
        if (t->lingering) {
                t->lingering = false;
                ts->lingering--;
                ts->committed -= t->cost;
                t->cost = 0;
        }
        t->engine->ops->remove(t->container);
        t->container = NULL;
}

void task_drop_request(struct task *t)
{
        wire_task_request_done(&t->request);
        if (t->ts)
                t->ts->held -= t->held;
        if (t->owner)
                t->owner->held -= t->held;
        t->held = 0;
}

void task_count_request(struct task *t)
{
        t->held = wire_task_request_size(&t->request);
        t->ts->held += t->held;
        t->owner->held += t->held;
}

static void forget_key(struct task *t)
{
        if (t->rec.key && tasks_find_key(t->ts, t->rec.owner, t->rec.key) == t) {
                auto_free char *name = key_name(t->rec.owner, t->rec.key);

                if (name)
                        (void)map_remove(t->ts->by_key, name);
        }
}

static void task_detach(struct task *t)
{
        struct tasks *ts = t->ts;

        loop_timer_cancel(&t->timer);
        loop_timer_cancel(&t->grace);
        loop_timer_cancel(&t->cpu);
        task_live_close(t);
        forget_key(t);
        task_unkeep(t);
        tasks_release(t);
        list_remove(&t->node);
        (void)map_remove(ts->by_id, t->id);
        ts->n_all--;
        if (t->lingering) {
                ts->lingering--;
                ts->committed -= t->cost;
        }
        task_drop_request(t);
        tasks_disown(t);
        t->ts = NULL;
}

bool task_settle(struct task *t)
{
        t->owed--;
        if (!t->orphan)
                return true;
        task_free(t);
        return false;
}

void task_free(struct task *t)
{
        if (t->ts)
                task_detach(t);
        if (t->owed > 0) {
                t->orphan = true;
                return;
        }
        task_unload_output(t);
        task_outputs_done(t);
        for (int i = 0; i < 2; i++)
                times_done(&t->times[i]);
        wire_task_request_done(&t->request);
        task_record_done(&t->rec);
        VEC_DONE(&t->waiters);
        VEC_DONE(&t->followers);
        VEC_DONE(&t->stored_calls);
        free(t->detail);
        free(t);
}

int tasks_new(struct loop *loop, struct engine *engine, struct history *history, const struct tasks_config *config,
              struct tasks **ret, struct err *err)
{
        struct tasks *ts;
        uint64_t total = 0;
        int r;

        ts = calloc(1, sizeof(*ts));
        if (!ts)
                return err_oom(err);
        ts->loop = loop;
        ts->engines[ts->n_engines++] = (struct task_engine){ .engine = engine, .ts = ts };
        for (size_t i = 0; i < config->n_more_engines && ts->n_engines < TASKS_ENGINES_MAX; i++)
                ts->engines[ts->n_engines++] = (struct task_engine){ .engine = config->more_engines[i], .ts = ts };
        ts->history = history;
        ts->config = *config;
        ts->config.max_running = config->max_running ? config->max_running : 512;
        ts->config.max_queued = config->max_queued ? config->max_queued : 10000;
        ts->config.overcommit = config->overcommit > 0 ? config->overcommit : 4;
        ts->config.reserve = config->reserve ? config->reserve : UINT64_C(128) << 20;
        ts->config.network = config->network ? config->network : ENGINE_NET_NAT;
        ts->config.max_held = config->max_held ? config->max_held : UINT64_C(512) << 20;
        ts->config.max_kept = config->max_kept ? config->max_kept : UINT64_C(128) << 20;
        list_init(&ts->all);
        list_init(&ts->ring);
        ts->by_id = map_new();
        ts->by_key = map_new();
        ts->owners = map_new();
        r = meminfo_read(&total, &ts->available);
        if (r < 0)
                r = err_set(err, -r, "read /proc/meminfo: %s", strerror(-r));
        else if (!ts->by_id || !ts->by_key || !ts->owners)
                r = err_oom(err);
        if (r < 0) {
                map_free(ts->by_id);
                map_free(ts->by_key);
                map_free(ts->owners);
                free(ts);
                return r;
        }
        ts->capacity = (uint64_t)((double)total * ts->config.overcommit);
        *ret = ts;
        return 0;
}

void tasks_free(struct tasks *ts)
{
        struct task *t;

        if (!ts)
                return;
        ts->freeing = true;
        loop_timer_cancel(&ts->admit_timer);
        loop_timer_cancel(&ts->adopt_timer);
        while (ts->storing > 0) {
                history_flush(ts->history);
                if (loop_turn(ts->loop, 100, NULL) < 0)
                        break;
        }
        LIST_FOREACH(t, &ts->all, node) {
                if (t->container)
                        engine_container_watch(t->container, NULL, NULL);
                task_free(t);
        }
        map_free(ts->by_id);
        map_free(ts->by_key);
        map_free(ts->owners);
        free(ts);
}

/* What is on disk and did not start waits for the next daemon. */
size_t tasks_live(const struct tasks *ts)
{
        size_t n = ts->n_all;
        struct task *t;

        if (ts->draining)
                LIST_FOREACH(t, &ts->all, node)
                        n -= t->state == WIRE_QUEUED && t->disk == TASK_STORED;
        return n;
}

void tasks_drain(struct tasks *ts)
{
        ts->draining = true;
}

void tasks_cancel_all(struct tasks *ts)
{
        struct task *t;

        LIST_FOREACH(t, &ts->all, node)
                if (t->state != WIRE_QUEUED || t->disk != TASK_STORED)
                        task_cancel(t);
}

/* ── submission ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_tell(void *data)
{
        struct task *t = data;

        t->telling = false;
        if (task_settle(t))
                task_tell(t);
}

int task_join(struct task *t, const struct task_waiter *waiter, struct err *err)
{
        if (VEC_ADD(&t->waiters, *waiter) < 0)
                return err_oom(err);
        if (t->state <= WIRE_RUNNING || t->telling)
                return 0;
        if (loop_defer(t->ts->loop, on_tell, t) < 0) {
                t->waiters.len--;
                return err_oom(err);
        }
        t->telling = true;
        t->owed++;
        return 0;
}

static bool remove_waiter(struct task *t, const void *waiter_data);

static int join_by_key(struct task *t, struct wire_task_request *request, const struct task_submit *how,
                       const struct task_waiter *waiter, struct task **ret, struct err *err)
{
        int r;

        if (memcmp(t->rec.body_hash, how->body_hash, sizeof(t->rec.body_hash)) != 0)
                return err_set(err, EEXIST, "the idempotency key belongs to another request");
        r = waiter ? task_join(t, waiter, err) : 0;
        if (r == 0 && how->stored) {
                r = task_store_request(t, how->stored, how->stored_data, err);
                if (r < 0 && waiter)
                        (void)remove_waiter(t, waiter->data);
        }
        if (r < 0)
                return r;
        if (!how->cancel_when_alone || request->detach)
                t->cancel_when_alone = false;
        wire_task_request_done(request);
        *ret = t;
        return 1;
}

uint64_t task_cost(const struct wire_limits *l)
{
        return (uint64_t)l->memory + (uint64_t)l->disk + (uint64_t)l->shm +
               MIN(2 * (uint64_t)l->output, TASK_OUTPUT_PROMISED);
}

/* The last quarter is for others than who has the rest. */
static bool holds_too_much(const struct tasks *ts, const struct owner *o, uint64_t more)
{
        const uint64_t max = ts->config.max_held;

        return (ts->held > 0 && ts->held + more > max) || (o && o->held > 0 && o->held + more > max - max / 4);
}

static int check_room(struct tasks *ts, const struct wire_task_request *request, const struct task_submit *how,
                      struct err *err)
{
        const struct owner *o = map_find(ts->owners, how->owner);
        uint32_t most = tasks_least(ts->config.max_queued_owner, how->maxima ? how->maxima->max_queued : 0);

        if (ts->draining)
                return err_set(err, ESHUTDOWN, "this node takes no new tasks: it is being stopped");
        if (task_cost(&request->limits) > ts->capacity)
                return err_set(err, EINVAL,
                               "limits: memory, disk and shm together are more than this node can promise");
        if (tasks_kept_full(ts))
                return err_set(err, ENOSPC, "%u results wait until they can be stored", ts->n_kept);
        if (ts->queued >= ts->config.max_queued)
                return err_set(err, EAGAIN, "%u tasks are waiting already", ts->queued);
        if (most > 0 && o && o->queued >= most)
                return err_set(err, EAGAIN, "%u tasks of this owner are waiting already", o->queued);
        if (holds_too_much(ts, o, wire_task_request_size(request)))
                return err_set(err, EAGAIN, "the tasks that wait hold too much memory already");
        if (how->stored && !ts->config.seal)
                return err_set(err, ENOTSUP, "this node has no place for requests");
        return 0;
}

static int copy_request(struct task *t, const struct wire_task_request *request)
{
        t->rec.image_ref = strdup(request->image);
        t->rec.labels = request->labels ? strv_dup(request->labels) : NULL;
        t->rec.outputs = request->outputs ? strv_dup(request->outputs) : NULL;
        t->rec.limits = request->limits;
        t->rec.retries = request->retries;
        t->rec.kill_on_output_limit = request->kill_on_output_limit;
        t->rec.encoding = request->encoding;
        t->cost = task_cost(&request->limits);
        return t->rec.image_ref && (!request->labels || t->rec.labels) && (!request->outputs || t->rec.outputs)
                       ? 0
                       : -ENOMEM;
}

static int set_owner(struct task *t, const char *owner, const char *key, const uint8_t *body_hash)
{
        t->rec.owner = strdup(owner);
        if (!t->rec.owner || tasks_own(t, owner) < 0)
                return -ENOMEM;
        if (!key)
                return 0;
        t->rec.key = strdup(key);
        if (!t->rec.key)
                return -ENOMEM;
        memcpy(t->rec.body_hash, body_hash, sizeof(t->rec.body_hash));
        return tasks_add_key(t);
}

/* Takes the request's contents, which cannot fail. */
static void take_request(struct task *t, struct wire_task_request *request)
{
        t->request = *request;
        memset(request, 0, sizeof(*request));
        task_count_request(t);
}

static enum engine_network network_of(const struct tasks *ts, enum wire_network network)
{
        return network == WIRE_NET_DEFAULT ? ts->config.network : (enum engine_network)network;
}
_Static_assert((int)WIRE_NET_NONE == (int)ENGINE_NET_NONE && (int)WIRE_NET_NAT == (int)ENGINE_NET_NAT &&
                       (int)WIRE_NET_INTERNET == (int)ENGINE_NET_INTERNET,
               "networks have the same numbers everywhere");

static int task_fill(struct task *t, const struct wire_task_request *request, const struct task_submit *how,
                     const struct task_waiter *waiter)
{
        if (set_owner(t, how->owner, how->idempotency_key, how->body_hash) < 0 || copy_request(t, request) < 0)
                return -ENOMEM;
        if (how->maxima) {
                t->owner->max_running = tasks_least(t->ts->config.max_running_owner, how->maxima->max_running);
                t->owner->max_queued = tasks_least(t->ts->config.max_queued_owner, how->maxima->max_queued);
        }
        t->engine = tasks_engine(t->ts, request->engine)->engine;
        t->rec.created_ms = time_real_ms();
        t->rec.created_ns = time_mono_ns();
        t->network = network_of(t->ts, request->network);
        t->cancel_when_alone = how->cancel_when_alone && !request->detach;
        if (how->live) {
                t->live = *how->live;
                t->is_live = true;
        }
        return waiter ? VEC_ADD(&t->waiters, *waiter) : 0;
}

static int begin(struct task *t, const struct task_submit *how, struct err *err)
{
        struct stored_call call = { .fn = how->stored, .data = how->stored_data };

        task_watch_queue(t);
        if (!how->stored) {
                tasks_enqueue(t);
                return 0;
        }
        tasks_count_queued(t);
        t->nameless = true;
        if (VEC_ADD(&t->stored_calls, call) < 0)
                return err_oom(err);
        return task_accept(t, err);
}

int tasks_submit(struct tasks *ts, struct wire_task_request *request, const struct task_submit *how,
                 const struct task_waiter *waiter, struct task **ret, struct err *err)
{
        struct task *t = how->idempotency_key ? tasks_find_key(ts, how->owner, how->idempotency_key) : NULL;
        char id[ID_LEN + 1];
        int r;

        if (t)
                return join_by_key(t, request, how, waiter, ret, err);
        r = tasks_check(ts, request, how, err);
        if (r == 0)
                r = check_room(ts, request, how, err);
        if (r < 0)
                return r;
        id_make(id);
        t = tasks_add(ts, id);
        if (!t)
                return err_oom(err);
        if (task_fill(t, request, how, waiter) < 0) {
                task_free(t);
                return err_oom(err);
        }
        take_request(t, request);
        t->durable_waiter = how->stored && waiter ? waiter->data : NULL;
        r = begin(t, how, err);
        if (r < 0) {
                *request = t->request;
                memset(&t->request, 0, sizeof(t->request));
                task_free(t);
                return r;
        }
        *ret = t;
        tasks_admit(ts);
        return 0;
}

int tasks_restore(struct tasks *ts, struct history_request *q, struct wire_task_request *request, struct task **ret)
{
        struct task *t = tasks_add(ts, q->id);
        uint64_t now = time_real_ms();

        if (!t)
                return -ENOMEM;
        if (set_owner(t, q->owner, q->idempotency_key, q->body_hash) < 0 || copy_request(t, request) < 0) {
                task_free(t);
                return -ENOMEM;
        }
        t->rec.created_ms = q->created_ms;
        /* Before the machine's start, maybe: differences to it are right all the same. */
        t->rec.created_ns = time_mono_ns() - (now - MIN(now, q->created_ms)) * NS_PER_MS;
        t->rec.attempts = q->attempts;
        t->rec.accepted = true;
        t->disk = TASK_STORED;
        t->network = network_of(ts, request->network);
        take_request(t, request);
        *ret = t;
        return 0;
}

/* ── waiters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool remove_waiter(struct task *t, const void *waiter_data)
{
        size_t kept = 0, before = t->waiters.len;

        for (size_t i = 0; i < before; i++)
                if (t->waiters.items[i].data != waiter_data)
                        t->waiters.items[kept++] = t->waiters.items[i];
        t->waiters.len = kept;
        if (t->is_live && t->live.data == waiter_data)
                task_live_close(t);
        return kept < before;
}

void task_forget(struct task *t, void *waiter_data)
{
        if (remove_waiter(t, waiter_data) && t->waiters.len == 0 && t->cancel_when_alone && t->disk == TASK_UNSTORED)
                task_cancel(t);
}

void task_leave(struct task *t, void *waiter_data)
{
        (void)remove_waiter(t, waiter_data);
}

struct task *tasks_find(struct tasks *ts, const char *id)
{
        return map_find(ts->by_id, id);
}

struct task *tasks_next(struct tasks *ts, size_t *pos)
{
        void *t = NULL;

        return map_next(ts->by_id, pos, &(const char *){ NULL }, &t) ? t : NULL;
}

const char *task_id(const struct task *t)
{
        return t->id;
}

const char *task_owner(const struct task *t)
{
        return t->rec.owner;
}
