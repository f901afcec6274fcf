/* From a container's end to the answer and to history. */

#include "base/log.h"
#include "base/time.h"
#include "task/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OUTPUT_MAP_MIN (64 * 1024) /* below, a copy is cheaper than page faults */

struct task_output {
        unsigned refs;
        bool mapped;
        size_t len;
        void *data;
};

void task_output_unref(struct task_output *o)
{
        if (!o || --o->refs > 0)
                return;
        if (o->mapped)
                (void)munmap(o->data, o->len);
        else
                free(o->data);
        free(o);
}

struct task_output *task_output_ref(struct task *t, enum engine_stream stream)
{
        struct task_output *o = t->kept_out[stream];

        if (o)
                o->refs++;
        return o;
}

static int read_stream(struct task_output *o, int fd)
{
        ssize_t n;

        if (o->len >= OUTPUT_MAP_MIN) {
                void *p = mmap(NULL, o->len, PROT_READ, MAP_SHARED, fd, 0);

                if (p == MAP_FAILED)
                        return -errno;
                o->data = p;
                o->mapped = true;
                return 0;
        }
        o->data = malloc(o->len);
        if (!o->data)
                return -ENOMEM;
        n = pread(fd, o->data, o->len, 0);
        return n < 0 ? -errno : (size_t)n != o->len ? -EIO : 0;
}

static int load_stream(struct task *t, int i, const struct engine_output *kept)
{
        struct task_output *o;
        int r;

        if (kept->kept == 0)
                return 0;
        o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        o->refs = 1;
        o->len = (size_t)kept->kept;
        r = read_stream(o, kept->fd);
        if (r < 0) {
                task_output_unref(o);
                return r;
        }
        t->kept_out[i] = o;
        t->out[i] = o->data;
        t->out_len[i] = o->len;
        return 0;
}

void task_load_output(struct task *t)
{
        for (int i = 0; i < 2; i++) {
                struct engine_output o = { .fd = -EBADF };
                int r;

                t->engine->ops->attach(t->container, (enum engine_stream)i, &o);
                t->out_total[i] = o.total;
                /* Without memory the stream is answered as truncated, which it then is. */
                r = load_stream(t, i, &o);
                if (r < 0)
                        log_debug("task %s: output: %s", t->id, strerror(-r));
        }
}

void task_unload_output(struct task *t)
{
        for (int i = 0; i < 2; i++) {
                task_output_unref(t->kept_out[i]);
                t->kept_out[i] = NULL;
                t->out[i] = NULL;
                t->out_len[i] = 0;
        }
}

/* ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int64_t span(uint64_t from, uint64_t to)
{
        return from == 0 || to == 0 || (int64_t)(to - from) < 0 ? -1 : (int64_t)(to - from);
}

/* Real time of a monotonic one, by the moment at which the task was made: no clock that is set can bend it. */
uint64_t task_real_ms(const struct task *t, uint64_t mono_ns)
{
        int64_t since = (int64_t)(mono_ns - t->rec.created_ns);

        return since < 0 ? 0 : t->rec.created_ms + (uint64_t)since / NS_PER_MS;
}

static void describe_times(const struct task *t, struct wire_task *ret)
{
        const struct engine_exit *e = &t->exit;
        bool ended = t->state > WIRE_RUNNING;

        ret->queued_ns = span(t->rec.created_ns, t->rec.admitted_ns);
        ret->pull_ns = span(t->rec.admitted_ns, t->rec.pulled_ns);
        ret->start_ns = ret->run_ns = ret->wall_ns = -1;
        if (e->start_mono_ns) {
                ret->start_ns = span(t->rec.pulled_ns, e->start_mono_ns);
                ret->run_ns = span(e->start_mono_ns, e->end_mono_ns);
                ret->wall_ns = span(t->rec.pulled_ns, e->end_mono_ns);
                ret->started_ms = task_real_ms(t, e->start_mono_ns);
        } else if (t->state == WIRE_RUNNING) {
                ret->started_ms = task_real_ms(t, t->rec.started_ns);
        }
        ret->created_ms = t->rec.created_ms;
        if (ended)
                ret->finished_ms = task_real_ms(t, e->start_mono_ns ? e->end_mono_ns : t->ended_ns);
}

static int64_t known(uint64_t v)
{
        return v > INT64_MAX ? -1 : (int64_t)v;
}

void task_describe(struct task *t, struct wire_task *ret)
{
        *ret = (struct wire_task){
                .status = t->state,
                .exit_code = t->exit_code,
                .signal = t->signo,
                .reason = t->reason,
                .detail = t->detail,
                .retry_after_s = t->retry_after_s,
                .pull_done = t->state == WIRE_PULLING ? t->pull_done : 0,
                .pull_total = t->state == WIRE_PULLING ? t->pull_total : 0,
                .encoding = t->rec.encoding,
                .cpu_ns = -1,
                .memory_peak = -1,
                .image_ref = t->rec.image_ref,
                .image_digest = t->rec.image_digest,
                .engine = t->engine->ops->name,
                .limits = t->rec.limits,
                .labels = t->rec.labels,
                .attempts = t->rec.attempts,
        };
        (void)snprintf(ret->id, sizeof(ret->id), "%s", t->id);
        describe_times(t, ret);
        if (t->state <= WIRE_RUNNING)
                return;
        ret->has_output = true;
        ret->outputs_text = &t->outputs.text;
        for (int i = 0; i < 2; i++) {
                ret->out[i] = t->out[i];
                ret->out_len[i] = t->out_len[i];
                ret->out_total[i] = t->out_total[i];
                if (t->out_total[i] > t->out_len[i])
                        ret->truncated = true;
        }
        if (t->exit.start_mono_ns) {
                ret->cpu_ns = known(t->exit.cpu_ns);
                ret->memory_peak = known(t->exit.memory_peak);
        }
}

/* ── history ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_store_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        task_store(data);
}

static void store_later(struct task *t, uint64_t delay_ns)
{
        if (loop_timer_set(t->ts->loop, &t->timer, time_mono_ns() + delay_ns, on_store_timer, t) < 0)
                log_error("task %s is not in history: out of memory", t->id);
}

static void on_stored(int r, const struct err *err, void *data)
{
        struct task *t = data;
        struct tasks *ts = t->ts;

        t->storing = false;
        ts->storing--;
        if (r < 0 && !ts->freeing) {
                if (++t->tries == TASK_HISTORY_TRIES)
                        log_error("task %s is not in history: %s", t->id, err->text);
                if (task_keep(t, r)) {
                        tasks_admit(ts);
                        store_later(t, NS_PER_S);
                        return;
                }
        }
        if (r < 0 && ts->freeing)
                return;
        /* Who joined on this very turn would come too late. */
        task_tell(t);
        task_tell_stored(t, r, err);
        task_follow_end(t);
        task_remove_container(t);
        task_free(t);
        tasks_admit(ts);
}

static int fill_record(struct task *t, struct history_record *rec)
{
        struct wire_task w;

        task_describe(t, &w);
        w.has_output = false;
        (void)snprintf(rec->id, sizeof(rec->id), "%s", t->id);
        rec->owner = strdup(t->rec.owner);
        rec->status = strdup(wire_status_names[t->state]);
        rec->image = strdup(t->rec.image_ref);
        rec->created_ms = w.created_ms;
        rec->finished_ms = w.finished_ms;
        rec->out_borrowed = true;
        rec->accepted = t->disk != TASK_UNSTORED;
        rec->labels = t->rec.labels ? strv_dup(t->rec.labels) : NULL;
        rec->outputs = t->outputs.text;
        if (times_write(t->times, &rec->times) < 0)
                return -ENOMEM;
        for (int i = 0; i < 2; i++)
                rec->out[i] = (struct str){ .data = t->out[i], .len = t->out_len[i] };
        if (t->rec.key) {
                rec->idempotency_key = strdup(t->rec.key);
                memcpy(rec->body_hash, t->rec.body_hash, sizeof(rec->body_hash));
        }
        if (t->rec.labels && !rec->labels)
                return -ENOMEM;
        if (!rec->owner || !rec->status || !rec->image || (t->rec.key && !rec->idempotency_key))
                return -ENOMEM;
        return wire_task_write(&w, &rec->document);
}

void task_store(struct task *t)
{
        struct history_record rec = { .owner = NULL };
        struct tasks *ts = t->ts;
        struct err err = ERR_INIT;
        int r = fill_record(t, &rec);

        if (r == 0)
                r = history_add(ts->history, &rec, on_stored, t, &err);
        if (r < 0) {
                history_record_done(&rec);
                store_later(t, TASK_RETRY_NS);
                return;
        }
        t->storing = true;
        ts->storing++;
}
