/* The life of one task. */

#include "base/log.h"
#include "base/time.h"
#include "task/internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Between two looks at whether a program runs whose time would be over by now. */
#define STARTED_LOOK_NS (20 * NS_PER_MS)

static void on_output(struct engine_container *c, enum engine_stream stream, void *data);
static void on_exited(struct engine_container *c, const struct engine_exit *exit, void *data);

static const struct engine_events events = { .output = on_output, .exited = on_exited };
static const struct engine_events live_events = { .output = on_output, .exited = on_exited, .data = task_on_data };

/* moves[from][to] */
static const bool moves[WIRE_KILLED + 1][WIRE_KILLED + 1] = {
        [WIRE_QUEUED] = { [WIRE_PULLING] = true, [WIRE_FAILED] = true, [WIRE_KILLED] = true },
        [WIRE_PULLING] = { [WIRE_QUEUED] = true, [WIRE_RUNNING] = true, [WIRE_FAILED] = true, [WIRE_KILLED] = true },
        [WIRE_RUNNING] = { [WIRE_QUEUED] = true, [WIRE_EXITED] = true, [WIRE_FAILED] = true, [WIRE_KILLED] = true },
};

static void task_move(struct task *t, enum wire_status to)
{
        assert(moves[t->state][to]);
        t->state = to;
}

/* ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

void task_tell(struct task *t)
{
        struct task_waiter *waiters = t->waiters.items;
        size_t n = t->waiters.len;
        struct wire_task result;

        if (n == 0)
                return;
        /* Whoever forgets itself from within finds an empty list. */
        memset(&t->waiters, 0, sizeof(t->waiters));
        task_describe(t, &result);
        for (size_t i = 0; i < n; i++)
                waiters[i].ended(t, &result, waiters[i].data);
        free(waiters);
}

void task_end(struct task *t, enum wire_status status, enum wire_reason reason, int exit_code, int signo,
              const char *detail)
{
        struct tasks *ts = t->ts;

        task_move(t, status);
        loop_timer_cancel(&t->timer);
        loop_timer_cancel(&t->grace);
        loop_timer_cancel(&t->cpu);
        t->reason = reason;
        t->exit_code = exit_code;
        t->signo = signo;
        t->ended_ns = time_mono_ns();
        if (detail && detail[0])
                t->detail = strdup(detail);
        if (t->container)
                task_load_output(t);
        tasks_release(t);
        tasks_ended(ts);
        task_drop_request(t);
        task_tell(t);
        task_live_close(t);
        task_follow_tell(t);
        task_store(t);
        tasks_admit(ts);
}

/* ── once more ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool may_begin_anew(const struct task *t, enum wire_reason reason)
{
        bool fits = reason == WIRE_REASON_NODE_LOST || reason == WIRE_REASON_REGISTRY_ERROR ||
                    reason == WIRE_REASON_REGISTRY_BUSY || reason == WIRE_REASON_START_ERROR;

        /* Of a live task the streams have been heard already. */
        return fits && t->request.retries > 0 && t->rec.attempts <= t->request.retries && !t->rec.kill_reason &&
               !t->ts->draining && !(t->is_live && t->state == WIRE_RUNNING);
}

/* Doubles each time; half of it by chance, so that what failed together does not come back together. */
static uint64_t backoff_ns(unsigned attempts)
{
        uint64_t ns = TASK_BACKOFF_NS << MIN(attempts, 8U);
        uint32_t chance = 0;

        ns = MIN(ns, TASK_BACKOFF_MAX_NS);
        if (getrandom(&chance, sizeof(chance), GRND_NONBLOCK) != sizeof(chance))
                chance = UINT32_MAX / 2;
        return ns / 2 + (uint64_t)((double)ns / 2 * chance / UINT32_MAX);
}

static void on_backoff(struct loop_timer *timer, void *data)
{
        struct task *t = data;

        (void)timer;
        task_remove_container(t);
        t->cost = task_cost(&t->rec.limits);
        task_watch_queue(t);
        tasks_enqueue(t);
        tasks_admit(t->ts);
}

static void task_again(struct task *t)
{
        struct task_record *r = &t->rec;
        uint64_t asked_ns = MIN((uint64_t)t->retry_after_s * NS_PER_S, TASK_BACKOFF_MAX_NS);

        if (t->state != WIRE_QUEUED)
                task_move(t, WIRE_QUEUED);
        loop_timer_cancel(&t->grace);
        loop_timer_cancel(&t->cpu);
        tasks_release(t);
        tasks_count_queued(t);
        r->admitted_ns = r->pulled_ns = r->started_ns = 0;
        memset(&t->exit, 0, sizeof(t->exit));
        for (int i = 0; i < 2; i++)
                times_done(&t->times[i]);
        t->exited = false;
        t->retry_after_s = 0;
        if (loop_timer_set(t->ts->loop, &t->timer, time_mono_ns() + MAX(backoff_ns(r->attempts), asked_ns), on_backoff,
                           t) < 0)
                task_end(t, WIRE_FAILED, WIRE_REASON_START_ERROR, -1, 0, "out of memory");
        else
                tasks_admit(t->ts);
}

void task_fail(struct task *t, enum wire_reason reason, int exit_code, const char *detail)
{
        if (may_begin_anew(t, reason))
                task_again(t);
        else
                task_end(t, WIRE_FAILED, reason, exit_code, 0, detail);
}

/* ── how it ended ────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool output_exceeded(const struct task *t)
{
        for (int i = 0; i < 2; i++) {
                struct engine_output o;

                t->engine->ops->attach(t->container, (enum engine_stream)i, &o);
                if (o.total > (uint64_t)t->rec.limits.output)
                        return true;
        }
        return false;
}

/* What we did to the task comes before what it did itself, so that the answer does not depend on who was faster. */
void task_end_by_exit(struct task *t)
{
        enum wire_reason reason = t->rec.kill_reason;
        const struct engine_exit *e = &t->exit;
        int signo = SIGKILL;

        if (!reason && e->oom)
                reason = WIRE_REASON_OOM;
        if (!reason && t->rec.kill_on_output_limit && output_exceeded(t))
                reason = WIRE_REASON_OUTPUT_LIMIT;
        if (reason) {
                if (reason == t->rec.kill_reason && t->rec.kill_signo == SIGTERM)
                        signo = SIGTERM;
                task_end(t, WIRE_KILLED, reason, 128 + signo, signo, NULL);
        } else if (e->end == ENGINE_END_SIGNALED) {
                task_end(t, WIRE_EXITED, WIRE_REASON_SIGNAL, 128 + e->signo, e->signo, NULL);
        } else {
                reason = e->code != 0 && e->disk_full ? WIRE_REASON_DISK_LIMIT : WIRE_REASON_NONE;
                task_end(t, WIRE_EXITED, reason, e->code, 0, NULL);
        }
}

static void on_exited(struct engine_container *c, const struct engine_exit *exit, void *data)
{
        struct task *t = data;

        (void)c;
        if (t->ts->freeing)
                return; /* the next daemon hears of it again */
        /* Whether it has a request on disk, which then goes, and may let it begin anew before, is not known yet. */
        if (t->ts->listing && !t->ts->recovered) {
                t->exit = *exit;
                t->early = true;
                return;
        }
        t->exit = *exit;
        t->exited = true;
        loop_timer_cancel(&t->timer);
        loop_timer_cancel(&t->grace);
        loop_timer_cancel(&t->cpu);
        switch (exit->end) {
        case ENGINE_END_EXITED:
        case ENGINE_END_SIGNALED:
                if (!task_collect(t))
                        task_end_by_exit(t);
                break;
        case ENGINE_END_NOT_FOUND:
                task_end(t, WIRE_FAILED, WIRE_REASON_COMMAND_NOT_FOUND, 127, 0, exit->text);
                break;
        case ENGINE_END_NOT_EXECUTABLE:
                task_end(t, WIRE_FAILED, WIRE_REASON_COMMAND_NOT_EXECUTABLE, 126, 0, exit->text);
                break;
        case ENGINE_END_START_ERROR:
                /* Killed on its way to the program, by us. */
                if (t->rec.kill_reason && exit->error == ECANCELED)
                        task_end_by_exit(t);
                else
                        task_fail(t, WIRE_REASON_START_ERROR, -1, exit->text);
                break;
        case ENGINE_END_LOST:
                task_fail(t, WIRE_REASON_NODE_LOST, -1, exit->text);
                break;
        }
}

void task_tell_early(struct task *t)
{
        const struct engine_exit exit = t->exit;

        if (!t->early)
                return;
        t->early = false;
        on_exited(t->container, &exit, t);
}

/* ── killing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Before the signal goes out, so that the next daemon knows why the task died. */
static void save_record(struct task *t)
{
        auto_str record = STR_INIT;
        struct err err = ERR_INIT;
        int r = task_record_write(&t->rec, &record);

        if (r == 0)
                r = t->engine->ops->update_record(t->container, record.data, record.len, &err);
        if (r < 0)
                log_debug("task %s: record: %s", t->id, err.num ? err.text : strerror(-r));
}

static void on_grace(struct loop_timer *timer, void *data)
{
        struct task *t = data;

        (void)timer;
        task_kill(t, t->rec.kill_reason, SIGKILL);
}

/* The first reason stays; the signals may grow harsher. */
void task_kill(struct task *t, enum wire_reason reason, int signo)
{
        struct tasks *ts = t->ts;

        if (t->state != WIRE_RUNNING || t->exited || t->rec.kill_signo == SIGKILL)
                return;
        if (!t->rec.kill_reason)
                t->rec.kill_reason = reason;
        t->rec.kill_signo = signo;
        if (signo == SIGTERM) {
                t->rec.grace_end_ns = time_mono_ns() + (uint64_t)t->rec.limits.grace_ns;
                (void)loop_timer_set(ts->loop, &t->grace, t->rec.grace_end_ns, on_grace, t);
        }
        save_record(t);
        (void)t->engine->ops->signal(t->container, signo, NULL);
}

void task_cancel(struct task *t)
{
        switch (t->state) {
        case WIRE_QUEUED:
                /* What its engine says ends it. */
                if (t->awaited) {
                        t->rec.kill_reason = WIRE_REASON_CANCELLED;
                        break;
                }
                task_end(t, WIRE_KILLED, WIRE_REASON_CANCELLED, -1, 0, NULL);
                break;
        case WIRE_PULLING:
                /* The engine's answer about the image ends it. */
                t->rec.kill_reason = WIRE_REASON_CANCELLED;
                if (t->engine->ops->cancel_image)
                        t->engine->ops->cancel_image(t->engine, t);
                break;
        case WIRE_RUNNING:
                if (!t->rec.kill_reason)
                        task_kill(t, WIRE_REASON_CANCELLED, t->rec.limits.grace_ns > 0 ? SIGTERM : SIGKILL);
                break;
        case WIRE_EXITED:
        case WIRE_FAILED:
        case WIRE_KILLED:
                break;
        }
}

int task_signal(struct task *t, int signo, struct err *err)
{
        if (t->state != WIRE_RUNNING || t->exited)
                return err_set(err, ESRCH, "the task does not run");
        return t->engine->ops->signal(t->container, signo, err);
}

static void on_timeout(struct loop_timer *timer, void *data);

static void watch_timeout_at(struct task *t, uint64_t at_ns)
{
        if (loop_timer_set(t->ts->loop, &t->timer, at_ns, on_timeout, t) < 0)
                task_kill(t, WIRE_REASON_TIMEOUT, SIGKILL);
}

static void on_started(int r, const struct engine_stats *stats, const struct err *err, void *data)
{
        struct task *t = data;
        uint64_t now = time_mono_ns(), end = now + STARTED_LOOK_NS;

        (void)err;
        if (!task_settle(t) || t->state != WIRE_RUNNING || t->exited)
                return;
        if (r == 0 && stats->start_mono_ns > 0)
                end = stats->start_mono_ns + (uint64_t)t->rec.limits.timeout_ns;
        if (end <= now)
                task_kill(t, WIRE_REASON_TIMEOUT, SIGKILL);
        else
                watch_timeout_at(t, end);
}

/* The time is that of the program: waiting for a network and being prepared, which take long on a busy machine, are not
 * part of it. When it started is asked for only now, so that most tasks pay nothing for it. */
static void on_timeout(struct loop_timer *timer, void *data)
{
        const struct engine_ops *ops;
        struct task *t = data;
        int r;

        (void)timer;
        ops = t->engine->ops;
        r = ops->stats(t->container, on_started, t, NULL);
        if (r == 0)
                t->owed++;
        else if (r == -ESRCH)
                watch_timeout_at(t, time_mono_ns() + STARTED_LOOK_NS);
        else
                task_kill(t, WIRE_REASON_TIMEOUT, SIGKILL);
}

static void on_output(struct engine_container *c, enum engine_stream stream, void *data)
{
        struct task *t = data;

        (void)c;
        task_note_time(t, stream);
        if (t->state == WIRE_RUNNING && t->rec.kill_on_output_limit && output_exceeded(t))
                task_kill(t, WIRE_REASON_OUTPUT_LIMIT, SIGKILL);
        tasks_count_output(t);
        task_follow_tell(t);
}

/* ── CPU time ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_cpu_timer(struct loop_timer *timer, void *data);

/* Its processors together can use up what is left in this time, and no sooner. */
static void watch_cpu(struct task *t, uint64_t left_ns)
{
        uint64_t wait = left_ns / (uint64_t)MAX(t->rec.limits.cpu_milli, 1) * 1000;

        wait = MAX(wait, TASK_CPU_LOOK_NS);
        if (loop_timer_set(t->ts->loop, &t->cpu, time_mono_ns() + wait, on_cpu_timer, t) < 0)
                task_kill(t, WIRE_REASON_CPU_TIME, SIGKILL);
}

static void on_cpu(int r, const struct engine_stats *stats, const struct err *err, void *data)
{
        struct task *t = data;
        uint64_t limit;

        (void)err;
        t->asking_cpu = false;
        if (!task_settle(t) || t->state != WIRE_RUNNING || t->exited)
                return;
        limit = (uint64_t)t->rec.limits.cpu_time_ns;
        if (r < 0 || stats->cpu_ns > INT64_MAX)
                watch_cpu(t, limit);
        else if (stats->cpu_ns >= limit)
                task_kill(t, WIRE_REASON_CPU_TIME, SIGKILL);
        else
                watch_cpu(t, limit - stats->cpu_ns);
}

static void on_cpu_timer(struct loop_timer *timer, void *data)
{
        struct task *t = data;

        (void)timer;
        if (t->asking_cpu)
                return;
        if (t->engine->ops->stats(t->container, on_cpu, t, NULL) < 0) {
                watch_cpu(t, 0);
                return;
        }
        t->asking_cpu = true;
        t->owed++;
}

/* ── the beginning ───────────────────────────────────────────────────────────────────────────────────────────────── */

static void watch_timeout(struct task *t)
{
        uint64_t timeout = (uint64_t)t->rec.limits.timeout_ns;

        if (timeout > 0)
                watch_timeout_at(t, t->rec.started_ns + timeout);
}

/* The files of a request with what its archives hold, in order. */
struct files {
        VEC(struct engine_file) items;
        struct wire_members *members;
        size_t n_members;
};

static void files_done(struct files *f)
{
        for (size_t i = 0; i < f->n_members; i++)
                wire_members_done(&f->members[i]);
        free(f->members);
        VEC_DONE(&f->items);
}

static int add_members(const struct wire_file *file, struct files *f, struct err *err)
{
        static const enum engine_file_type types[] = {
                [WIRE_MEMBER_FILE] = ENGINE_FILE_REGULAR,
                [WIRE_MEMBER_DIRECTORY] = ENGINE_FILE_DIRECTORY,
                [WIRE_MEMBER_SYMLINK] = ENGINE_FILE_SYMLINK,
        };
        struct wire_members *m = &f->members[f->n_members++];
        int r = wire_members_read(file, WIRE_MEMBERS_MAX, m, err);

        for (size_t i = 0; r == 0 && i < m->len; i++) {
                const struct engine_file e = {
                        .path = m->items[i].path,
                        .content = (void *)m->items[i].data,
                        .len = m->items[i].len,
                        .mode = m->items[i].mode,
                        .type = types[m->items[i].type],
                };

                if (VEC_ADD(&f->items, e) < 0)
                        r = err_oom(err);
        }
        return r;
}

static int files_fill(const struct wire_task_request *q, struct files *f, struct err *err)
{
        int r = 0;

        f->members = calloc(q->n_files + 1, sizeof(*f->members));
        if (!f->members)
                return err_oom(err);
        for (size_t i = 0; r == 0 && i < q->n_files; i++) {
                const struct wire_file *file = &q->files[i];
                const struct engine_file e = {
                        .path = file->path,
                        .content = file->content,
                        .len = file->len,
                        .mode = file->mode,
                };

                if (file->tar)
                        r = add_members(file, f, err);
                else if (VEC_ADD(&f->items, e) < 0)
                        r = err_oom(err);
        }
        return r;
}

static int create_with(struct task *t, const struct str *record, const struct files *files, int stdin_fd,
                       struct err *err)
{
        struct wire_task_request *q = &t->request;
        struct engine_secret secrets[WIRE_SECRETS_MAX];
        const struct engine_spec spec = {
                .id = t->id,
                .owner = t->rec.owner,
                .digest = t->rec.image_digest,
                .cmd = q->cmd,
                .entrypoint = q->entrypoint,
                .env = q->env,
                .workdir = q->workdir,
                .user = q->user,
                .stdin_fd = stdin_fd,
                .stdin_data = q->stdin_data,
                .stdin_len = q->stdin_len,
                .files = files->items.items,
                .n_files = files->items.len,
                .secrets = secrets,
                .n_secrets = q->n_secrets,
                .limits = {
                        .memory = (uint64_t)q->limits.memory,
                        .disk = (uint64_t)q->limits.disk,
                        .shm = (uint64_t)q->limits.shm,
                        .cpu_milli = (uint32_t)q->limits.cpu_milli,
                        .pids = (uint32_t)q->limits.pids,
                        .output = (uint64_t)q->limits.output,
                },
                .network = t->network,
                .init = q->init,
                .live = t->is_live,
                .keep_root = t->rec.outputs && t->rec.outputs[0],
                .record = record->data,
                .record_len = record->len,
        };

        for (size_t i = 0; i < q->n_secrets; i++)
                secrets[i] = (struct engine_secret){ q->secrets[i].name, q->secrets[i].value, q->secrets[i].len };
        return t->engine->ops->create(t->engine, &spec, t->is_live ? &live_events : &events, t, &t->container, err);
}

static int create_container(struct task *t, const struct str *record, struct err *err)
{
        struct files files = { .members = NULL };
        int stdin_fd = -EBADF;
        int r = t->is_live ? task_live_open(t, &stdin_fd, err) : 0;

        if (r == 0)
                r = files_fill(&t->request, &files, err);
        if (r == 0)
                r = create_with(t, record, &files, stdin_fd, err);
        tasks_count_started(t);
        files_done(&files);
        return r;
}

static void task_start(struct task *t)
{
        auto_str record = STR_INIT;
        struct err err = ERR_INIT;
        int r;

        t->rec.pulled_ns = t->rec.started_ns = time_mono_ns();
        r = task_record_write(&t->rec, &record);
        if (r < 0)
                (void)err_set(&err, -r, "the record of the task: %s", strerror(-r));
        else
                r = create_container(t, &record, &err);
        if (r == 0)
                r = t->engine->ops->start(t->container, &err);
        if (r < 0) {
                task_fail(t, WIRE_REASON_START_ERROR, -1, err.text);
                return;
        }
        task_move(t, WIRE_RUNNING);
        if (t->request.retries < t->rec.attempts || t->is_live)
                task_drop_request(t);
        watch_timeout(t);
        if (t->rec.limits.cpu_time_ns > 0)
                watch_cpu(t, (uint64_t)t->rec.limits.cpu_time_ns);
        task_live_started(t);
}

static void on_marked(int r, const struct err *err, void *data)
{
        struct task *t = data;
        struct tasks *ts = t->ts;

        ts->storing--;
        if (!task_settle(t))
                return;
        if (ts->freeing) {
                /* It did not start, and is the next daemon's to start. */
                task_move(t, WIRE_QUEUED);
                t->rec.attempts--;
                (void)task_accept(t, NULL);
                return;
        }
        if (t->rec.kill_reason) {
                task_end(t, WIRE_KILLED, t->rec.kill_reason, -1, 0, NULL);
        } else if (r == -ENOSPC || r == -EIO) {
                /* It was accepted, and waits for a disk that takes something. */
                t->rec.attempts--;
                task_again(t);
        } else if (r < 0) {
                task_fail(t, WIRE_REASON_START_ERROR, -1, err->text);
        } else {
                task_start(t);
        }
}

/* What is on disk is marked there first, so that no later daemon takes it for one that never started. */
static void mark_and_start(struct task *t)
{
        struct err err = ERR_INIT;

        if (t->disk == TASK_UNSTORED) {
                task_start(t);
                return;
        }
        t->rec.accepted = true;
        if (history_started(t->ts->history, t->id, engine_life(t->engine), t->rec.attempts, on_marked, t, &err) < 0) {
                task_fail(t, WIRE_REASON_START_ERROR, -1, err.text);
                return;
        }
        t->owed++;
        t->ts->storing++;
}

static void end_by_image(struct task *t, int r, const char *text)
{
        static const struct {
                int num;
                enum wire_reason reason;
        } reasons[] = {
                { ENOENT, WIRE_REASON_IMAGE_NOT_FOUND },
                { EINVAL, WIRE_REASON_IMAGE_NOT_FOUND },
                { EACCES, WIRE_REASON_IMAGE_UNAUTHORIZED },
                { EBUSY, WIRE_REASON_REGISTRY_BUSY },
                { EBADMSG, WIRE_REASON_IMAGE_INVALID },
                { EOPNOTSUPP, WIRE_REASON_IMAGE_UNSUPPORTED },
                { EKEYREJECTED, WIRE_REASON_IMAGE_UNTRUSTED },
                { EUCLEAN, WIRE_REASON_IMAGE_BROKEN },
                { ENOSPC, WIRE_REASON_NO_SPACE },
                { EDQUOT, WIRE_REASON_NO_SPACE },
                /* What failed here, and no registry: memory, the launcher, a worker. */
                { ENOMEM, WIRE_REASON_START_ERROR },
                { EIO, WIRE_REASON_START_ERROR },
                { ETIMEDOUT, WIRE_REASON_START_ERROR },
                { ENOTCONN, WIRE_REASON_START_ERROR },
        };
        enum wire_reason reason = WIRE_REASON_REGISTRY_ERROR;

        for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
                if (reasons[i].num == -r)
                        reason = reasons[i].reason;
        task_fail(t, reason, -1, text);
}

static bool replace_text(char **text, const char *with)
{
        char *copy = strdup(with);

        if (!copy)
                return false;
        free(*text);
        *text = copy;
        return true;
}

static void on_image(int r, const struct engine_image *image, const struct err *err, void *data)
{
        struct task *t = data;

        if (!task_settle(t))
                return;
        t->pull_done = t->pull_total = 0;
        t->retry_after_s = r == -EBUSY && image ? image->retry_after_s : 0;
        if (t->rec.kill_reason)
                task_end(t, WIRE_KILLED, t->rec.kill_reason, -1, 0, NULL);
        else if (r < 0)
                end_by_image(t, r, err->text);
        else if (!replace_text(&t->rec.image_ref, image->ref) || !replace_text(&t->rec.image_digest, image->digest))
                task_end(t, WIRE_FAILED, WIRE_REASON_START_ERROR, -1, 0, "out of memory");
        else
                mark_and_start(t);
}

/* The engine tells it some times a second, until its answer. */
static void on_image_progress(const struct engine_progress *p, void *data)
{
        struct task *t = data;

        if (t->orphan || t->state != WIRE_PULLING)
                return;
        t->pull_done = p->done;
        t->pull_total = p->total;
        if (t->is_live && t->live.pulling && p->total > 0)
                t->live.pulling(t, p->done, p->total, t->live.data);
}

static void on_refused(struct loop_timer *timer, void *data)
{
        struct task *t = data;
        auto_free char *detail = TAKE_PTR(t->detail);

        (void)timer;
        end_by_image(t, t->image_error, detail);
}

void task_admit(struct task *t)
{
        const struct engine_image_request request = {
                .ref = t->rec.image_ref,
                .owner = t->rec.owner,
                .pull = (enum engine_pull)t->request.pull,
                .username = t->request.registry_username,
                .password = t->request.registry_password,
                .progress = on_image_progress,
        };
        struct engine *e = t->engine;
        struct err err = ERR_INIT;
        int r;

        loop_timer_cancel(&t->timer);
        t->rec.admitted_ns = time_mono_ns();
        t->rec.attempts++;
        task_move(t, WIRE_PULLING);
        r = e->ops->ensure_image(e, &request, on_image, t, &err);
        if (r == 0) {
                t->owed++;
                return;
        }
        /* Nothing ends from within a submit. */
        t->image_error = r;
        t->detail = strdup(err.text);
        if (loop_timer_set(t->ts->loop, &t->timer, time_mono_ns(), on_refused, t) < 0)
                log_error("task %s: out of memory", t->id);
}
_Static_assert((int)WIRE_PULL_MISSING == (int)ENGINE_PULL_MISSING && (int)WIRE_PULL_ALWAYS == (int)ENGINE_PULL_ALWAYS &&
                       (int)WIRE_PULL_NEVER == (int)ENGINE_PULL_NEVER,
               "when an image is pulled has the same numbers everywhere");

/* ── the queue ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_queue_timeout(struct loop_timer *timer, void *data)
{
        const char *detail = "it waited too long for room on this node";
        struct err err = ERR_INIT;
        struct task *t = data;

        (void)timer;
        if (t->engine->ops->check(t->engine, &err) < 0) {
                (void)err_wrap(&err, "engine %s", t->engine->ops->name);
                detail = err.text;
        }
        task_end(t, WIRE_FAILED, WIRE_REASON_QUEUE_TIMEOUT, -1, 0, detail);
}

void task_watch_queue(struct task *t)
{
        uint64_t timeout = (uint64_t)t->rec.limits.queue_timeout_ns;

        if (timeout > 0 && loop_timer_set(t->ts->loop, &t->timer, time_mono_ns() + timeout, on_queue_timeout, t) < 0)
                log_error("task %s: out of memory", t->id);
}

/* ── from an earlier daemon ──────────────────────────────────────────────────────────────────────────────────────── */

/* One that waits has the key of one that runs: its engine told of that too late, and the two are the same to their client. */
static void yield_key(struct tasks *ts, const char *owner, const char *key)
{
        struct task *t = key ? tasks_find_key(ts, owner, key) : NULL;

        if (t && t->state == WIRE_QUEUED)
                task_end(t, WIRE_FAILED, WIRE_REASON_START_ERROR, -1, 0,
                         "a task with its idempotency key was running already");
}

static int adopt_new(struct tasks *ts, const char *id, struct task_record *rec, struct task **ret)
{
        struct task *t;

        yield_key(ts, rec->owner, rec->key);
        t = tasks_add(ts, id);
        if (!t)
                return -ENOMEM;
        t->rec = *rec;
        memset(rec, 0, sizeof(*rec));
        if (tasks_own(t, t->rec.owner) < 0 || (t->rec.key && tasks_add_key(t) < 0)) {
                task_free(t);
                return -ENOMEM;
        }
        /* If its row is gone, nothing is lost by asking for its removal. */
        t->disk = t->rec.accepted ? TASK_STORED : TASK_UNSTORED;
        *ret = t;
        return 0;
}

/* It was cancelled meanwhile, maybe. */
static void adopt_awaited(struct task *t, struct task_record *rec)
{
        struct task_record old = t->rec;

        t->awaited = 0;
        t->rec = *rec;
        memset(rec, 0, sizeof(*rec));
        if (!t->rec.kill_reason && old.kill_reason) {
                t->rec.kill_reason = old.kill_reason;
                t->rec.kill_signo = SIGKILL;
        }
        task_record_done(&old);
        t->cancel_when_alone = false;
        if (t->rec.retries == 0)
                task_drop_request(t);
}

int task_adopt(struct tasks *ts, struct engine_container *c, const char *id, struct task_record *rec)
{
        struct task *t = tasks_find(ts, id);

        if (t && t->awaited && str_eq(t->rec.owner, rec->owner) && str_eq(t->rec.key, rec->key))
                adopt_awaited(t, rec);
        else if (t)
                return -EEXIST;
        else if (adopt_new(ts, id, rec, &t) < 0)
                return -ENOMEM;
        t->engine = c->engine;
        t->container = c;
        t->state = WIRE_RUNNING;
        t->cost = task_cost(&t->rec.limits);
        t->admitted = true;
        t->owner->running++;
        ts->running++;
        ts->committed += t->cost;
        engine_container_watch(c, &events, t);
        /* When it came is not known; who asks for the last minute's shall rather see too much. */
        task_note_time(t, ENGINE_STDOUT);
        task_note_time(t, ENGINE_STDERR);
        tasks_count_output(t);
        watch_timeout(t);
        if (t->rec.limits.cpu_time_ns > 0)
                watch_cpu(t, 0);
        /* The signal may not have gone out before its sender died. */
        if (t->rec.kill_signo)
                (void)t->engine->ops->signal(c, t->rec.kill_signo, NULL);
        if (t->rec.kill_signo == SIGTERM)
                (void)loop_timer_set(ts->loop, &t->grace, t->rec.grace_end_ns, on_grace, t);
        return 0;
}
