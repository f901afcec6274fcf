#include "history/history.h"

#include "base/list.h"
#include "base/log.h"
#include "base/time.h"
#include "history/db.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HISTORY_QUEUE 3                   /* of the loop's workers */
#define HISTORY_GROUP_MAX 256             /* records of one transaction */
#define HISTORY_GROUP_NS (25 * NS_PER_MS) /* how long a record waits for company */
#define HISTORY_PRUNE_NS (60 * NS_PER_S)
#define HISTORY_ERASE_NS NS_PER_S /* how long what was deleted may stay in the log */

struct history {
        struct loop *loop;
        struct history_db *db; /* touched by jobs only, which come one after the other */
        struct history_bounds bounds;
        uint64_t max_age_ms;
        struct list waiting; /* struct entry */
        size_t n_waiting;
        uint64_t bytes; /* of entries waiting or being written */
        struct loop_timer group_timer, prune_timer, erase_timer;
        size_t jobs;
        bool writing, pruning, prune_again, closing;
};

struct entry {
        struct list node;
        struct history_change change;
        uint64_t size;
        int r;
        struct err err;
        history_done_fn fn;
        void *data;
};

struct write_job {
        struct history *h;
        struct entry *entries[HISTORY_GROUP_MAX];
        size_t n;
        bool durable, erases;
        bool over; /* a bound is passed */
};

struct erase_job {
        struct history *h;
        int r;
};

struct prune_job {
        struct history *h;
        struct history_bounds bounds;
        bool more;
        int r;
        struct err err;
};

enum read_kind { READ_GET, READ_KEY, READ_LIST, READ_REQUESTS };

struct read_job {
        struct history *h;
        enum read_kind kind;
        char *id, *owner, *key, *status, *image, *labels[HISTORY_LABELS_MAX];
        uint64_t since_ms;
        struct history_query query;
        history_record_fn record_fn;
        history_list_fn list_fn;
        history_requests_fn requests_fn;
        void *data;
        struct history_record record, *records;
        struct history_request *requests;
        size_t n, n_requests;
        bool more;
        int r;
        struct err err;
};

static void history_write(struct history *h);
static void history_prune(struct history *h);
static void erase_later(struct history *h);

void history_record_done(struct history_record *r)
{
        free(r->owner);
        free(r->status);
        free(r->image);
        free(r->idempotency_key);
        str_done(&r->document);
        str_done(&r->times);
        for (int i = 0; i < 2 && !r->out_borrowed; i++)
                str_done(&r->out[i]);
        if (!r->out_borrowed)
                str_done(&r->outputs);
        strv_free(r->labels);
        memset(r, 0, sizeof(*r));
}

uint64_t history_record_size(const struct history_record *r)
{
        return r->document.len + r->out[0].len + r->out[1].len + r->outputs.len + r->times.len;
}

void history_request_done(struct history_request *q)
{
        free(q->owner);
        free(q->idempotency_key);
        str_done(&q->sealed);
        memset(q, 0, sizeof(*q));
}

static void entry_free(struct entry *e)
{
        history_record_done(&e->change.record);
        history_request_done(&e->change.request);
        free(e);
}

static void on_prune_timer(struct loop_timer *timer, void *data)
{
        struct history *h = data;

        history_prune(h);
        (void)loop_timer_set(h->loop, timer, time_mono_ns() + HISTORY_PRUNE_NS, on_prune_timer, h);
}

int history_open(struct loop *loop, const struct history_config *config, struct history **ret, struct err *err)
{
        struct history *h;
        int r;

        h = calloc(1, sizeof(*h));
        if (!h)
                return err_oom(err);
        h->loop = loop;
        h->bounds.max_tasks = config->max_tasks ? config->max_tasks : 100000;
        h->bounds.max_bytes = config->max_bytes ? config->max_bytes : UINT64_C(1) << 30;
        h->bounds.max_keys = config->max_keys ? config->max_keys : 1000000;
        h->max_age_ms = config->max_age_ms ? config->max_age_ms : 7 * 24 * UINT64_C(3600000);
        list_init(&h->waiting);
        r = history_db_open(config->path, &h->db, err);
        if (r == 0 && loop_timer_set(loop, &h->prune_timer, time_mono_ns() + NS_PER_S, on_prune_timer, h) < 0)
                r = err_oom(err);
        if (r < 0) {
                history_db_close(h->db);
                free(h);
                return r;
        }
        erase_later(h); /* what the one before deleted and did not come to erase */
        *ret = h;
        return 0;
}

void history_close(struct history *h)
{
        struct entry *e;

        if (!h)
                return;
        h->closing = true;
        loop_timer_cancel(&h->prune_timer);
        loop_timer_cancel(&h->erase_timer);
        history_flush(h);
        while (h->jobs > 0)
                if (loop_turn(h->loop, 1000, NULL) < 0)
                        break;
        loop_timer_cancel(&h->group_timer);
        while ((e = LIST_FIRST(&h->waiting, struct entry, node))) {
                list_remove(&e->node);
                entry_free(e);
        }
        history_db_close(h->db);
        free(h);
}

static int history_job(struct history *h, void (*run)(void *data), void (*done)(void *data), void *job, struct err *err)
{
        int r = loop_work(h->loop, HISTORY_QUEUE, run, done, job);

        if (r < 0)
                return err_set(err, -r, "history: too much is waiting");
        h->jobs++;
        return 0;
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool is_durable(const struct entry *e)
{
        return e->change.kind == HISTORY_ACCEPT || e->change.kind == HISTORY_STARTED;
}

static bool erases(const struct entry *e)
{
        const struct history_change *c = &e->change;

        return c->kind == HISTORY_DROP || c->kind == HISTORY_DELETE || (c->kind == HISTORY_ADD && c->record.accepted);
}

/* What one entry is refused for is not the fault of its company. */
static void write_apart(struct write_job *job)
{
        for (size_t i = 0; i < job->n; i++) {
                struct entry *e = job->entries[i];
                struct history_change *change = &e->change;

                e->r = history_db_write(job->h->db, &change, 1, is_durable(e), &e->err);
        }
}

static void write_run(void *data)
{
        struct history_change *changes[HISTORY_GROUP_MAX];
        struct write_job *job = data;
        struct err err = ERR_INIT;
        int r;

        for (size_t i = 0; i < job->n; i++)
                changes[i] = &job->entries[i]->change;
        r = history_db_write(job->h->db, changes, job->n, job->durable, &err);
        for (size_t i = 0; i < job->n; i++) {
                job->entries[i]->r = r;
                job->entries[i]->err = err;
        }
        if (r < 0 && r != -ENOSPC && job->n > 1)
                write_apart(job);
        job->over = history_db_over(job->h->db, &job->h->bounds);
}

static void erase_run(void *data)
{
        struct erase_job *job = data;

        job->r = history_db_checkpoint(job->h->db, NULL);
}

static void erase_done(void *data)
{
        struct erase_job *job = data;
        struct history *h = job->h;

        h->jobs--;
        if (job->r < 0 && !h->closing)
                erase_later(h);
        free(job);
}

static void on_erase_timer(struct loop_timer *timer, void *data)
{
        struct history *h = data;
        struct erase_job *job = calloc(1, sizeof(*job));

        (void)timer;
        if (job)
                job->h = h;
        if (!job || history_job(h, erase_run, erase_done, job, NULL) < 0) {
                free(job);
                erase_later(h);
        }
}

static void erase_later(struct history *h)
{
        if (h->erase_timer.heap_index == 0)
                (void)loop_timer_set(h->loop, &h->erase_timer, time_mono_ns() + HISTORY_ERASE_NS, on_erase_timer, h);
}

static void write_done(void *data)
{
        struct write_job *job = data;
        struct history *h = job->h;

        h->jobs--;
        h->writing = false;
        for (size_t i = 0; i < job->n; i++) {
                struct entry *e = job->entries[i];
                int r = e->r < 0 ? e->r : e->change.r;

                h->bytes -= e->size;
                if (e->r < 0)
                        log_debug("%s", e->err.text);
                if (!h->closing && e->fn)
                        e->fn(r, &e->err, e->data);
                entry_free(e);
        }
        if (job->erases && !h->closing)
                erase_later(h);
        if (job->over && !h->closing)
                history_prune(h);
        if (h->n_waiting > 0)
                history_write(h);
        free(job);
}

static void on_group_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        history_write(data);
}

/* Tries again later when there is no memory or no place for the job: the records keep waiting. */
static void history_write(struct history *h)
{
        struct write_job *job;
        struct entry *e;

        if (h->writing || h->n_waiting == 0)
                return;
        loop_timer_cancel(&h->group_timer);
        job = calloc(1, sizeof(*job));
        if (job) {
                job->h = h;
                LIST_FOREACH(e, &h->waiting, node) {
                        if (job->n == HISTORY_GROUP_MAX)
                                break;
                        job->entries[job->n++] = e;
                        job->durable |= is_durable(e);
                        job->erases |= erases(e);
                }
        }
        if (!job || history_job(h, write_run, write_done, job, NULL) < 0) {
                free(job);
                (void)loop_timer_set(h->loop, &h->group_timer, time_mono_ns() + HISTORY_GROUP_NS, on_group_timer, h);
                return;
        }
        /* The job only reads the entries; taking them off the list is this thread's. */
        for (size_t i = 0; i < job->n; i++)
                list_remove(&job->entries[i]->node);
        h->n_waiting -= job->n;
        h->writing = true;
}

void history_flush(struct history *h)
{
        history_write(h);
}

/* Queues a change, whose contents are then the entry's. What is durable has somebody waiting for it: it goes with the next
 * group, at once or when the present one has ended. */
static int queue_change(struct history *h, const struct history_change *change, uint64_t bytes, bool urgent,
                        history_done_fn fn, void *data, struct err *err)
{
        uint64_t size = bytes + sizeof(struct entry);
        struct entry *e;

        if (h->bytes > 0 && h->bytes + size > HISTORY_QUEUE_MAX)
                return err_set(err, EAGAIN, "history: too much is waiting");
        e = calloc(1, sizeof(*e));
        if (!e)
                return err_oom(err);
        if (!h->writing && h->group_timer.heap_index == 0 &&
            loop_timer_set(h->loop, &h->group_timer, time_mono_ns() + HISTORY_GROUP_NS, on_group_timer, h) < 0) {
                free(e);
                return err_oom(err);
        }
        e->change = *change;
        e->size = size;
        e->fn = fn;
        e->data = data;
        list_append(&h->waiting, &e->node);
        h->n_waiting++;
        h->bytes += size;
        if (urgent || h->n_waiting >= HISTORY_GROUP_MAX || h->bytes >= HISTORY_QUEUE_MAX / 8)
                history_write(h);
        return 0;
}

int history_add(struct history *h, struct history_record *record, history_done_fn fn, void *data, struct err *err)
{
        const struct history_change change = { .kind = HISTORY_ADD, .record = *record };
        int r = queue_change(h, &change, history_record_size(record), false, fn, data, err);

        if (r == 0)
                memset(record, 0, sizeof(*record));
        return r;
}

int history_accept(struct history *h, struct history_request *q, history_done_fn fn, void *data, struct err *err)
{
        const struct history_change change = { .kind = HISTORY_ACCEPT, .request = *q };
        int r = queue_change(h, &change, q->sealed.len, true, fn, data, err);

        if (r == 0)
                memset(q, 0, sizeof(*q));
        return r;
}

static int change_request(struct history *h, enum history_write kind, const char *id, uint64_t started,
                          unsigned attempts, history_done_fn fn, void *data, struct err *err)
{
        struct history_change change = { .kind = kind };

        (void)snprintf(change.request.id, sizeof(change.request.id), "%s", id);
        change.request.started = started;
        change.request.attempts = attempts;
        return queue_change(h, &change, 0, kind == HISTORY_STARTED, fn, data, err);
}

int history_started(struct history *h, const char *id, uint64_t by, unsigned attempts, history_done_fn fn, void *data,
                    struct err *err)
{
        return change_request(h, HISTORY_STARTED, id, by, attempts, fn, data, err);
}

int history_drop(struct history *h, const char *id, history_done_fn fn, void *data, struct err *err)
{
        return change_request(h, HISTORY_DROP, id, 0, 0, fn, data, err);
}

int history_delete(struct history *h, const char *id, const char *owner, history_done_fn fn, void *data,
                   struct err *err)
{
        struct history_change change = { .kind = HISTORY_DELETE };
        int r;

        (void)snprintf(change.record.id, sizeof(change.record.id), "%s", id);
        change.record.owner = owner ? strdup(owner) : NULL;
        if (owner && !change.record.owner)
                return err_oom(err);
        r = queue_change(h, &change, 0, true, fn, data, err);
        if (r < 0)
                history_record_done(&change.record);
        return r;
}

/* ── pruning ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void prune_run(void *data)
{
        struct prune_job *job = data;

        job->r = history_db_prune(job->h->db, &job->bounds, &job->more, &job->err);
}

static void prune_done(void *data)
{
        struct prune_job *job = data;
        struct history *h = job->h;
        bool again = (job->r == 0 && job->more) || h->prune_again;

        h->jobs--;
        h->pruning = false;
        if (job->r < 0)
                log_debug("%s", job->err.text);
        free(job);
        /* A job of its own each time, so that writes and reads come in between. */
        if (again && !h->closing)
                history_prune(h);
}

static uint64_t ms_before(uint64_t now, uint64_t span)
{
        return now > span ? now - span : 0;
}

static void history_prune(struct history *h)
{
        uint64_t now = time_real_ms();
        struct prune_job *job;

        if (h->pruning) {
                h->prune_again = true;
                return;
        }
        h->prune_again = false;
        job = calloc(1, sizeof(*job));
        if (!job)
                return;
        job->h = h;
        job->bounds = h->bounds;
        job->bounds.finished_after_ms = ms_before(now, h->max_age_ms);
        job->bounds.keys_after_ms = ms_before(now, HISTORY_KEY_MS);
        if (history_job(h, prune_run, prune_done, job, NULL) < 0) {
                free(job);
                return;
        }
        h->pruning = true;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void read_job_free(struct read_job *job)
{
        if (!job)
                return;
        free(job->id);
        free(job->owner);
        free(job->key);
        free(job->status);
        free(job->image);
        for (size_t i = 0; i < ARRAY_LEN(job->labels); i++)
                free(job->labels[i]);
        history_requests_free(job->requests, job->n_requests);
        history_record_done(&job->record);
        history_records_free(job->records, job->n);
        free(job);
}

static void read_run(void *data)
{
        struct read_job *job = data;
        struct history_db *db = job->h->db;

        switch (job->kind) {
        case READ_GET:
                job->r = history_db_get(db, job->id, job->owner, &job->record, &job->err);
                break;
        case READ_KEY:
                job->r = history_db_find_key(db, job->owner, job->key, job->since_ms, &job->record, &job->err);
                break;
        case READ_LIST:
                job->r = history_db_list(db, &job->query, &job->records, &job->n, &job->more, &job->err);
                break;
        case READ_REQUESTS:
                job->r = history_db_requests(db, &job->requests, &job->n_requests, &job->err);
                break;
        }
}

static void read_done(void *data)
{
        struct read_job *job = data;
        struct history *h = job->h;

        h->jobs--;
        if (h->closing)
                log_debug("history: a read ended after the close");
        else if (job->kind == READ_REQUESTS)
                job->requests_fn(job->r, job->requests, job->n_requests, &job->err, job->data);
        else if (job->kind == READ_LIST)
                job->list_fn(job->r, job->records, job->n, job->more, &job->err, job->data);
        else
                job->record_fn(job->r, job->r == 0 ? &job->record : NULL, &job->err, job->data);
        read_job_free(job);
}

static struct read_job *read_job_new(struct history *h, enum read_kind kind, void *data)
{
        struct read_job *job = calloc(1, sizeof(*job));

        if (job) {
                job->h = h;
                job->kind = kind;
                job->data = data;
        }
        return job;
}

static bool dup_to(char **ret, const char *s)
{
        if (s)
                *ret = strdup(s);
        return !s || *ret;
}

static int read_job_start(struct read_job *job, bool ok, struct err *err)
{
        int r = ok ? history_job(job->h, read_run, read_done, job, err) : err_oom(err);

        if (r < 0)
                read_job_free(job);
        return r;
}

int history_get(struct history *h, const char *id, const char *owner, history_record_fn fn, void *data, struct err *err)
{
        struct read_job *job = read_job_new(h, READ_GET, data);

        if (!job)
                return err_oom(err);
        job->record_fn = fn;
        return read_job_start(job, dup_to(&job->id, id) && dup_to(&job->owner, owner), err);
}

int history_find_key(struct history *h, const char *owner, const char *key, history_record_fn fn, void *data,
                     struct err *err)
{
        struct read_job *job = read_job_new(h, READ_KEY, data);

        if (!job)
                return err_oom(err);
        job->record_fn = fn;
        job->since_ms = ms_before(time_real_ms(), HISTORY_KEY_MS);
        return read_job_start(job, dup_to(&job->owner, owner) && dup_to(&job->key, key), err);
}

int history_list(struct history *h, const struct history_query *q, history_list_fn fn, void *data, struct err *err)
{
        struct read_job *job;
        bool ok;

        if (q->limit < 1 || q->limit > 1000)
                return err_set(err, EINVAL, "limit must be 1 to 1000");
        job = read_job_new(h, READ_LIST, data);
        if (!job)
                return err_oom(err);
        job->list_fn = fn;
        job->query = *q;
        ok = dup_to(&job->owner, q->owner) && dup_to(&job->status, q->status) && dup_to(&job->image, q->image) &&
             dup_to(&job->id, q->before);
        for (size_t i = 0; i < HISTORY_LABELS_MAX && q->labels[i]; i++) {
                ok = ok && dup_to(&job->labels[i], q->labels[i]);
                job->query.labels[i] = job->labels[i];
        }
        job->query.owner = job->owner;
        job->query.status = job->status;
        job->query.image = job->image;
        job->query.before = job->id;
        return read_job_start(job, ok, err);
}

int history_requests(struct history *h, history_requests_fn fn, void *data, struct err *err)
{
        struct read_job *job = read_job_new(h, READ_REQUESTS, data);

        if (!job)
                return err_oom(err);
        job->requests_fn = fn;
        return read_job_start(job, true, err);
}
