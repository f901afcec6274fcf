#include "task/task.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "task/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024

/* ── the machine's memory ────────────────────────────────────────────────────────────────────────────────────────── */

/* proc_meminfo(5): "MemAvailable:   12345 kB" */
static uint64_t meminfo_field(const char *text, const char *name)
{
        const char *at = strstr(text, name);

        return at ? strtoull(at + strlen(name), NULL, 10) * KIB : 0;
}

static int meminfo_read(uint64_t *ret_total, uint64_t *ret_available)
{
        auto_fd fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
        char text[4096];
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = read(fd, text, sizeof(text) - 1);
        if (n < 0)
                return -errno;
        text[n] = '\0';
        *ret_total = meminfo_field(text, "MemTotal:");
        *ret_available = meminfo_field(text, "MemAvailable:");
        return 0;
}

/* ── admission ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool memory_suffices(struct tasks *ts)
{
        uint64_t now = time_mono_ns(), total = 0, available = 0;

        if (ts->sampled_ns == 0 || now - ts->sampled_ns >= TASK_SAMPLE_NS) {
                ts->sampled_ns = now;
                if (meminfo_read(&total, &available) == 0)
                        ts->available = available;
        }
        return ts->available >= ts->config.reserve;
}

/* 1: it may start; 0: an end of another task makes room; -EAGAIN: it has to be tried again. */
static int may_start(struct tasks *ts, const struct task *t)
{
        if (ts->running >= ts->config.max_running || ts->committed + t->cost > ts->capacity)
                return 0;
        if (ts->running + ts->lingering >= ts->config.max_running) {
                history_flush(ts->history);
                return 0;
        }
        if (ts->engine->ops->check(ts->engine, NULL) == -ENOTCONN || !memory_suffices(ts))
                return -EAGAIN;
        return 1;
}

static void on_admit_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        tasks_admit(data);
}

/* First come, first served: a large task is not starved by small ones behind it. */
void tasks_admit(struct tasks *ts)
{
        struct task *t;

        /* An end within a start comes back here; the loop below goes on in its place. */
        if (ts->admitting || ts->freeing)
                return;
        ts->admitting = true;
        while ((t = LIST_FIRST(&ts->queue, struct task, queue_node))) {
                int r = may_start(ts, t);

                if (r == -EAGAIN && ts->admit_timer.heap_index == 0)
                        (void)loop_timer_set(ts->loop, &ts->admit_timer, time_mono_ns() + TASK_RETRY_NS, on_admit_timer,
                                             ts);
                if (r <= 0)
                        break;
                list_remove(&t->queue_node);
                ts->queued--;
                t->admitted = true;
                ts->running++;
                ts->committed += t->cost;
                task_admit(t);
        }
        ts->admitting = false;
}

void tasks_release(struct task *t)
{
        struct tasks *ts = t->ts;

        if (!list_empty(&t->queue_node)) {
                list_remove(&t->queue_node);
                ts->queued--;
        }
        if (t->admitted) {
                t->admitted = false;
                ts->running--;
                ts->committed -= t->cost;
                if (t->container)
                        ts->lingering++;
        }
}

/* ── the set of tasks ────────────────────────────────────────────────────────────────────────────────────────────── */

struct task *tasks_add(struct tasks *ts, const char *id)
{
        struct task *t = calloc(1, sizeof(*t));

        if (!t)
                return NULL;
        t->ts = ts;
        t->exit_code = -1;
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

static struct task *find_key(struct tasks *ts, const char *owner, const char *key)
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
        if (!t->container)
                return;
        if (t->state > WIRE_RUNNING)
                t->ts->lingering--;
        t->ts->engine->ops->remove(t->container);
        t->container = NULL;
}

static void task_detach(struct task *t)
{
        struct tasks *ts = t->ts;

        loop_timer_cancel(&t->timer);
        loop_timer_cancel(&t->grace);
        if (t->rec.key && find_key(ts, t->rec.owner, t->rec.key) == t) {
                auto_free char *name = key_name(t->rec.owner, t->rec.key);

                if (name)
                        (void)map_remove(ts->by_key, name);
        }
        list_remove(&t->node);
        list_remove(&t->queue_node);
        (void)map_remove(ts->by_id, t->id);
        ts->n_all--;
        if (t->container && t->state > WIRE_RUNNING)
                ts->lingering--;
        t->ts = NULL;
}

void task_free(struct task *t)
{
        if (t->ts)
                task_detach(t);
        if (t->ensuring || t->asking || t->telling) {
                t->orphan = true;
                return;
        }
        task_unload_output(t);
        wire_task_request_done(&t->request);
        task_record_done(&t->rec);
        VEC_DONE(&t->waiters);
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
        ts->engine = engine;
        ts->history = history;
        ts->config = *config;
        ts->config.max_running = config->max_running ? config->max_running : 512;
        ts->config.max_queued = config->max_queued ? config->max_queued : 10000;
        ts->config.overcommit = config->overcommit > 0 ? config->overcommit : 4;
        ts->config.reserve = config->reserve ? config->reserve : UINT64_C(128) << 20;
        ts->config.network = config->network ? config->network : ENGINE_NET_NAT;
        list_init(&ts->all);
        list_init(&ts->queue);
        ts->by_id = map_new();
        ts->by_key = map_new();
        r = meminfo_read(&total, &ts->available);
        if (r < 0)
                r = err_set(err, -r, "read /proc/meminfo: %s", strerror(-r));
        else if (!ts->by_id || !ts->by_key)
                r = err_oom(err);
        if (r < 0) {
                map_free(ts->by_id);
                map_free(ts->by_key);
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
        free(ts);
}

static void on_found(struct engine_container *c, const char *id, const void *record, size_t record_len, void *data)
{
        struct task_record rec = { .owner = NULL };
        struct tasks *ts = data;
        struct err err = ERR_INIT;
        int r = id_valid(id) ? task_record_read(record, record_len, &rec, &err) : err_set(&err, EINVAL, "odd id");

        if (r == 0)
                r = task_adopt(ts, c, id, &rec);
        if (r < 0) {
                log_debug("container %s of an earlier daemon: %s", id, err.num ? err.text : strerror(-r));
                ts->engine->ops->remove(c);
        }
        task_record_done(&rec);
}

static void on_listed(int r, const struct err *err, void *data)
{
        struct tasks *ts = data;

        if (ts->adopted)
                ts->adopted(r, err, ts->adopted_data);
}

int tasks_adopt(struct tasks *ts, engine_done_fn done, void *data, struct err *err)
{
        ts->adopted = done;
        ts->adopted_data = data;
        return ts->engine->ops->list(ts->engine, on_found, on_listed, ts, err);
}

size_t tasks_live(const struct tasks *ts)
{
        return ts->n_all;
}

void tasks_drain(struct tasks *ts)
{
        ts->draining = true;
}

/* ── submission ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_tell(void *data)
{
        struct task *t = data;

        t->telling = false;
        if (t->orphan) {
                task_free(t);
                return;
        }
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
        return 0;
}

static int join_by_key(struct task *t, struct wire_task_request *request, const struct task_submit *how,
                       const struct task_waiter *waiter, struct task **ret, struct err *err)
{
        int r;

        if (memcmp(t->rec.body_hash, how->body_hash, sizeof(t->rec.body_hash)) != 0)
                return err_set(err, EEXIST, "the idempotency key belongs to another request");
        r = waiter ? task_join(t, waiter, err) : 0;
        if (r < 0)
                return r;
        if (!how->cancel_when_alone)
                t->cancel_when_alone = false;
        wire_task_request_done(request);
        *ret = t;
        return 1;
}

static int check_room(struct tasks *ts, uint64_t cost, struct err *err)
{
        if (ts->draining)
                return err_set(err, ESHUTDOWN, "this node takes no new tasks: it is being stopped");
        if (cost > ts->capacity)
                return err_set(err, EINVAL,
                               "limits: memory, disk and shm together are more than this node can promise");
        if (ts->queued >= ts->config.max_queued)
                return err_set(err, EAGAIN, "%u tasks are waiting already", ts->queued);
        return 0;
}

static enum engine_network network_of(const struct tasks *ts, enum wire_network network)
{
        switch (network) {
        case WIRE_NET_NONE:
                return ENGINE_NET_NONE;
        case WIRE_NET_NAT:
                return ENGINE_NET_NAT;
        case WIRE_NET_INTERNET:
                return ENGINE_NET_INTERNET;
        case WIRE_NET_DEFAULT:
                break;
        }
        return ts->config.network;
}

static void on_queue_timeout(struct loop_timer *timer, void *data)
{
        (void)timer;
        task_end(data, WIRE_FAILED, WIRE_REASON_QUEUE_TIMEOUT, -1, 0, "it waited too long for room on this node");
}

static int task_fill(struct task *t, const struct wire_task_request *request, const struct task_submit *how,
                     const struct task_waiter *waiter)
{
        t->rec.owner = strdup(how->owner);
        t->rec.image_ref = strdup(request->image);
        if (!t->rec.owner || !t->rec.image_ref)
                return -ENOMEM;
        if (how->idempotency_key) {
                t->rec.key = strdup(how->idempotency_key);
                if (!t->rec.key)
                        return -ENOMEM;
                memcpy(t->rec.body_hash, how->body_hash, sizeof(t->rec.body_hash));
                if (tasks_add_key(t) < 0)
                        return -ENOMEM;
        }
        t->rec.limits = request->limits;
        t->rec.kill_on_output_limit = request->kill_on_output_limit;
        t->rec.encoding = request->encoding;
        t->rec.created_ms = time_real_ms();
        t->rec.created_ns = time_mono_ns();
        t->network = network_of(t->ts, request->network);
        t->cancel_when_alone = how->cancel_when_alone;
        return waiter ? VEC_ADD(&t->waiters, *waiter) : 0;
}

static uint64_t request_cost(const struct wire_task_request *q)
{
        return (uint64_t)q->limits.memory + (uint64_t)q->limits.disk + (uint64_t)q->limits.shm;
}

int tasks_submit(struct tasks *ts, struct wire_task_request *request, const struct task_submit *how,
                 const struct task_waiter *waiter, struct task **ret, struct err *err)
{
        struct task *t = how->idempotency_key ? find_key(ts, how->owner, how->idempotency_key) : NULL;
        uint64_t cost = request_cost(request);
        char id[ID_LEN + 1];
        int r;

        if (t)
                return join_by_key(t, request, how, waiter, ret, err);
        r = check_room(ts, cost, err);
        if (r < 0)
                return r;
        id_make(id);
        t = tasks_add(ts, id);
        if (!t)
                return err_oom(err);
        t->cost = cost;
        r = task_fill(t, request, how, waiter);
        if (r == 0 && t->rec.limits.queue_timeout_ns > 0)
                r = loop_timer_set(ts->loop, &t->timer, t->rec.created_ns + (uint64_t)t->rec.limits.queue_timeout_ns,
                                   on_queue_timeout, t);
        if (r < 0) {
                task_free(t);
                return err_oom(err);
        }
        t->request = *request;
        memset(request, 0, sizeof(*request));
        list_append(&ts->queue, &t->queue_node);
        ts->queued++;
        *ret = t;
        tasks_admit(ts);
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
        return kept < before;
}

void task_forget(struct task *t, void *waiter_data)
{
        if (remove_waiter(t, waiter_data) && t->waiters.len == 0 && t->cancel_when_alone)
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
