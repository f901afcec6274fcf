/* The queue and its order: owners in turn, each one's tasks as they came. */

#include "base/fd.h"
#include "base/time.h"
#include "state/keys.h"
#include "task/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024
#define RETRY_AFTER_MAX 60

/* ── the machine's memory ────────────────────────────────────────────────────────────────────────────────────────── */

/* proc_meminfo(5): "MemAvailable:   12345 kB" */
static uint64_t meminfo_field(const char *text, const char *name)
{
        const char *at = strstr(text, name);

        return at ? strtoull(at + strlen(name), NULL, 10) * KIB : 0;
}

int meminfo_read(uint64_t *ret_total, uint64_t *ret_available)
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

/* ── owners ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

uint32_t tasks_least(uint32_t a, uint32_t b)
{
        return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The owner of what a key makes is named after it (state/keys.h). */
static void set_bounds(const struct tasks *ts, struct owner *o, const char *name)
{
        const struct tasks_config *c = &ts->config;
        const struct key *key = c->keys && str_starts(name, "key:") ? keys_find(c->keys, name + 4) : NULL;

        o->max_running = tasks_least(c->max_running_owner, key ? key->maxima.max_running : 0);
        o->max_queued = tasks_least(c->max_queued_owner, key ? key->maxima.max_queued : 0);
}

int tasks_own(struct task *t, const char *name)
{
        struct tasks *ts = t->ts;
        struct owner *o = map_find(ts->owners, name);

        if (!o) {
                o = calloc(1, sizeof(*o));
                if (!o)
                        return -ENOMEM;
                list_init(&o->node);
                list_init(&o->queue);
                set_bounds(ts, o, name);
                o->name = strdup(name);
                if (!o->name || map_set(ts->owners, name, o) < 0) {
                        free(o->name);
                        free(o);
                        return -ENOMEM;
                }
        }
        o->tasks++;
        t->owner = o;
        return 0;
}

void tasks_disown(struct task *t)
{
        struct owner *o = t->owner;

        t->owner = NULL;
        if (!o || --o->tasks > 0)
                return;
        (void)map_remove(t->ts->owners, o->name);
        list_remove(&o->node);
        free(o->name);
        free(o);
}

/* ── the queue ───────────────────────────────────────────────────────────────────────────────────────────────────── */

void tasks_count_queued(struct task *t)
{
        if (t->queued)
                return;
        t->queued = true;
        t->ts->queued++;
        t->owner->queued++;
}

static void uncount_queued(struct task *t)
{
        if (!t->queued)
                return;
        t->queued = false;
        t->ts->queued--;
        t->owner->queued--;
}

static void dequeue(struct task *t)
{
        list_remove(&t->queue_node);
        if (list_empty(&t->owner->queue))
                list_remove(&t->owner->node);
        uncount_queued(t);
}

void tasks_enqueue(struct task *t)
{
        struct owner *o = t->owner;

        tasks_count_queued(t);
        if (list_empty(&o->queue))
                list_append(&t->ts->ring, &o->node);
        list_append(&o->queue, &t->queue_node);
}

/* What is on disk waits for the next daemon when this one is to stop. What waits for its engine lets others past. */
static struct task *first_of(const struct tasks *ts, const struct owner *o, bool all_up)
{
        struct task *t;

        if (o->max_running > 0 && o->running >= o->max_running)
                return NULL;
        LIST_FOREACH(t, &o->queue, queue_node)
                if ((!ts->draining || t->disk == TASK_UNSTORED) && (all_up || !task_engine_of(t)->down))
                        return t;
        return NULL;
}

static struct task *next_task(struct tasks *ts, bool all_up)
{
        struct owner *o;
        struct task *t;

        LIST_FOREACH(o, &ts->ring, node) {
                t = first_of(ts, o, all_up);
                if (t)
                        return t;
        }
        return NULL;
}

/* 1: it may start; 0: an end of another task makes room; -EAGAIN: it has to be tried again. */
static int may_start(struct tasks *ts, const struct task *t)
{
        if (ts->running >= ts->config.max_running)
                return 0;
        if (tasks_kept_full(ts))
                return -EAGAIN;
        if (ts->committed + t->cost > ts->capacity || ts->running + ts->lingering >= ts->config.max_running) {
                if (ts->lingering > 0)
                        history_flush(ts->history);
                return 0;
        }
        if (!memory_suffices(ts) || (t->engine->ops->room && !t->engine->ops->room(t->engine, ts->starting)))
                return -EAGAIN;
        return 1;
}

static void on_admit_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        tasks_admit(data);
}

static void admit(struct task *t)
{
        struct tasks *ts = t->ts;
        struct owner *o = t->owner;

        dequeue(t);
        if (!list_empty(&o->queue)) {
                list_remove(&o->node);
                list_append(&ts->ring, &o->node);
        }
        t->admitted = t->starting = true;
        ts->running++;
        ts->starting++;
        o->running++;
        ts->committed += t->cost;
        task_admit(t);
}

static void admit_later(struct tasks *ts)
{
        if (ts->admit_timer.heap_index == 0)
                (void)loop_timer_set(ts->loop, &ts->admit_timer, time_mono_ns() + TASK_RETRY_NS, on_admit_timer, ts);
}

/* A large task is not starved by small ones: while it does not fit, nobody is let past it. */
void tasks_admit(struct tasks *ts)
{
        struct task *t;
        bool all_up;

        /* An end within a start comes back here; the loop below goes on in its place. */
        if (ts->admitting || ts->freeing)
                return;
        if (list_empty(&ts->ring))
                return;
        ts->admitting = true;
        all_up = tasks_engines_look(ts);
        while ((t = next_task(ts, all_up))) {
                int r = may_start(ts, t);

                if (r == -EAGAIN)
                        admit_later(ts);
                if (r <= 0)
                        break;
                admit(t);
                all_up = tasks_engines_look(ts);
        }
        if (!all_up && !list_empty(&ts->ring))
                admit_later(ts);
        ts->admitting = false;
}

void tasks_count_started(struct task *t)
{
        t->ts->starting -= t->starting;
        t->starting = false;
}

/* A container that history has not seen yet holds the memory of its output still. */
void tasks_release(struct task *t)
{
        struct tasks *ts = t->ts;

        if (!list_empty(&t->queue_node))
                dequeue(t);
        uncount_queued(t);
        if (!t->admitted)
                return;
        t->admitted = false;
        tasks_count_started(t);
        ts->running--;
        t->owner->running--;
        ts->committed -= t->cost;
        t->cost = 0;
        if (t->container) {
                t->lingering = true;
                ts->lingering++;
                t->cost = t->out_len[0] + t->out_len[1];
                ts->committed += t->cost;
        }
}

/* Others start later for it, where it is much. */
void tasks_count_output(struct task *t)
{
        uint64_t promised = MIN(2 * (uint64_t)t->rec.limits.output, TASK_OUTPUT_PROMISED), kept = 0, cost;

        if (!t->admitted || !t->container)
                return;
        for (int i = 0; i < 2; i++) {
                struct engine_output o = { .fd = -EBADF };

                t->engine->ops->attach(t->container, (enum engine_stream)i, &o);
                kept += o.kept;
        }
        cost = task_cost(&t->rec.limits) + (kept > promised ? kept - promised : 0);
        t->ts->committed += cost - t->cost;
        t->cost = cost;
}

/* ── how long to wait ────────────────────────────────────────────────────────────────────────────────────────────── */

void tasks_ended(struct tasks *ts)
{
        uint64_t now = time_mono_ns();

        if (ts->ended_ns > 0)
                ts->pace_ns = ts->pace_ns > 0 ? (ts->pace_ns * 7 + (now - ts->ended_ns)) / 8 : now - ts->ended_ns;
        ts->ended_ns = now;
}

unsigned tasks_retry_after(const struct tasks *ts)
{
        uint64_t pace = MAX(ts->pace_ns, ts->ended_ns > 0 ? (time_mono_ns() - ts->ended_ns) / 8 : 0);
        uint64_t s = pace / NS_PER_MS * MAX(ts->queued / 4, 1U) / 1000 + 1;

        return (unsigned)MIN(s, (uint64_t)RETRY_AFTER_MAX);
}

struct tasks_counts tasks_count(const struct tasks *ts, const char *owner)
{
        const struct owner *o = owner ? map_find(ts->owners, owner) : NULL;

        if (!owner)
                return (struct tasks_counts){ .queued = ts->queued, .running = ts->running };
        return (struct tasks_counts){ .queued = o ? o->queued : 0, .running = o ? o->running : 0 };
}
