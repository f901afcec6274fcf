/* The life of one task. */

#include "base/log.h"
#include "base/time.h"
#include "task/internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Between two looks at whether a program runs whose time would be over by now. */
#define STARTED_LOOK_NS (20 * NS_PER_MS)

static void on_output(struct engine_container *c, enum engine_stream stream, void *data);
static void on_exited(struct engine_container *c, const struct engine_exit *exit, void *data);

static const struct engine_events events = { .output = on_output, .exited = on_exited };

/* moves[from][to] */
static const bool moves[WIRE_KILLED + 1][WIRE_KILLED + 1] = {
        [WIRE_QUEUED] = { [WIRE_PULLING] = true, [WIRE_FAILED] = true, [WIRE_KILLED] = true },
        [WIRE_PULLING] = { [WIRE_RUNNING] = true, [WIRE_FAILED] = true, [WIRE_KILLED] = true },
        [WIRE_RUNNING] = { [WIRE_EXITED] = true, [WIRE_FAILED] = true, [WIRE_KILLED] = true },
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
        t->reason = reason;
        t->exit_code = exit_code;
        t->signo = signo;
        t->ended_ns = time_mono_ns();
        if (detail && detail[0])
                t->detail = strdup(detail);
        if (t->container)
                task_load_output(t);
        tasks_release(t);
        wire_task_request_done(&t->request);
        task_tell(t);
        task_store(t);
        tasks_admit(ts);
}

static bool output_exceeded(const struct task *t)
{
        for (int i = 0; i < 2; i++) {
                struct engine_output o;

                t->ts->engine->ops->attach(t->container, (enum engine_stream)i, &o);
                if (o.total > (uint64_t)t->rec.limits.output)
                        return true;
        }
        return false;
}

/* What we did to the task comes before what it did itself, so that the answer does not depend on who was faster. */
static void end_by_exit(struct task *t, const struct engine_exit *e)
{
        enum wire_reason reason = t->rec.kill_reason;
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
        t->exit = *exit;
        switch (exit->end) {
        case ENGINE_END_EXITED:
        case ENGINE_END_SIGNALED:
                end_by_exit(t, exit);
                break;
        case ENGINE_END_NOT_FOUND:
                task_end(t, WIRE_FAILED, WIRE_REASON_COMMAND_NOT_FOUND, 127, 0, exit->text);
                break;
        case ENGINE_END_NOT_EXECUTABLE:
                task_end(t, WIRE_FAILED, WIRE_REASON_COMMAND_NOT_EXECUTABLE, 126, 0, exit->text);
                break;
        case ENGINE_END_START_ERROR:
                task_end(t, WIRE_FAILED, WIRE_REASON_START_ERROR, -1, 0, exit->text);
                break;
        case ENGINE_END_LOST:
                task_end(t, WIRE_FAILED, WIRE_REASON_NODE_LOST, -1, 0, exit->text);
                break;
        }
}

/* ── killing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Before the signal goes out, so that the next daemon knows why the task died. */
static void save_record(struct task *t)
{
        auto_str record = STR_INIT;
        struct err err = ERR_INIT;
        int r = task_record_write(&t->rec, &record);

        if (r == 0)
                r = t->ts->engine->ops->update_record(t->container, record.data, record.len, &err);
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

        if (t->state != WIRE_RUNNING || t->rec.kill_signo == SIGKILL)
                return;
        if (!t->rec.kill_reason)
                t->rec.kill_reason = reason;
        t->rec.kill_signo = signo;
        if (signo == SIGTERM) {
                t->rec.grace_end_ns = time_mono_ns() + (uint64_t)t->rec.limits.grace_ns;
                (void)loop_timer_set(ts->loop, &t->grace, t->rec.grace_end_ns, on_grace, t);
        }
        save_record(t);
        (void)ts->engine->ops->signal(t->container, signo, NULL);
}

void task_cancel(struct task *t)
{
        switch (t->state) {
        case WIRE_QUEUED:
                task_end(t, WIRE_KILLED, WIRE_REASON_CANCELLED, -1, 0, NULL);
                break;
        case WIRE_PULLING:
                /* The engine's answer about the image ends it. */
                t->rec.kill_reason = WIRE_REASON_CANCELLED;
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
        t->asking = false;
        if (t->orphan) {
                task_free(t);
                return;
        }
        if (t->state != WIRE_RUNNING)
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
        ops = t->ts->engine->ops;
        r = ops->stats(t->container, on_started, t, NULL);
        if (r == 0)
                t->asking = true;
        else if (r == -ESRCH)
                watch_timeout_at(t, time_mono_ns() + STARTED_LOOK_NS);
        else
                task_kill(t, WIRE_REASON_TIMEOUT, SIGKILL);
}

static void on_output(struct engine_container *c, enum engine_stream stream, void *data)
{
        struct task *t = data;

        (void)c;
        (void)stream;
        if (t->state == WIRE_RUNNING && t->rec.kill_on_output_limit && output_exceeded(t))
                task_kill(t, WIRE_REASON_OUTPUT_LIMIT, SIGKILL);
}

/* ── the beginning ───────────────────────────────────────────────────────────────────────────────────────────────── */

static void watch_timeout(struct task *t)
{
        uint64_t timeout = (uint64_t)t->rec.limits.timeout_ns;

        if (timeout > 0)
                watch_timeout_at(t, t->rec.started_ns + timeout);
}

static int create_container(struct task *t, const struct str *record, struct err *err)
{
        struct wire_task_request *q = &t->request;
        auto_free struct engine_file *files = q->n_files ? calloc(q->n_files, sizeof(*files)) : NULL;
        const struct engine_spec spec = {
                .id = t->id,
                .owner = t->rec.owner,
                .digest = t->rec.image_digest,
                .cmd = q->cmd,
                .entrypoint = q->entrypoint,
                .env = q->env,
                .workdir = q->workdir,
                .user = q->user,
                .stdin_fd = -EBADF,
                .stdin_data = q->stdin_data,
                .stdin_len = q->stdin_len,
                .files = files,
                .n_files = q->n_files,
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
                .record = record->data,
                .record_len = record->len,
        };

        if (q->n_files && !files)
                return err_oom(err);
        for (size_t i = 0; i < q->n_files; i++)
                files[i] = (struct engine_file){
                        .path = q->files[i].path,
                        .content = q->files[i].content,
                        .len = q->files[i].len,
                        .mode = q->files[i].mode,
                };
        return t->ts->engine->ops->create(t->ts->engine, &spec, &events, t, &t->container, err);
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
                r = t->ts->engine->ops->start(t->container, &err);
        if (r < 0) {
                task_end(t, WIRE_FAILED, WIRE_REASON_START_ERROR, -1, 0, err.text);
                return;
        }
        task_move(t, WIRE_RUNNING);
        wire_task_request_done(&t->request);
        watch_timeout(t);
}

static void end_by_image(struct task *t, int r, const char *text)
{
        enum wire_reason reason = WIRE_REASON_REGISTRY_ERROR;

        if (r == -ENOENT || r == -EINVAL)
                reason = WIRE_REASON_IMAGE_NOT_FOUND;
        else if (r == -EACCES)
                reason = WIRE_REASON_IMAGE_UNAUTHORIZED;
        else if (r == -ENOMEM)
                reason = WIRE_REASON_START_ERROR;
        task_end(t, WIRE_FAILED, reason, -1, 0, text);
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

        t->ensuring = false;
        if (t->orphan) {
                task_free(t);
                return;
        }
        if (t->rec.kill_reason)
                task_end(t, WIRE_KILLED, t->rec.kill_reason, -1, 0, NULL);
        else if (r < 0)
                end_by_image(t, r, err->text);
        else if (!replace_text(&t->rec.image_ref, image->ref) || !replace_text(&t->rec.image_digest, image->digest))
                task_end(t, WIRE_FAILED, WIRE_REASON_START_ERROR, -1, 0, "out of memory");
        else
                task_start(t);
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
        const struct engine_image_request request = { .ref = t->rec.image_ref, .owner = t->rec.owner };
        struct engine *e = t->ts->engine;
        struct err err = ERR_INIT;
        int r;

        loop_timer_cancel(&t->timer);
        t->rec.admitted_ns = time_mono_ns();
        task_move(t, WIRE_PULLING);
        r = e->ops->ensure_image(e, &request, on_image, t, &err);
        if (r == 0) {
                t->ensuring = true;
                return;
        }
        /* Nothing ends from within a submit. */
        t->image_error = r;
        t->detail = strdup(err.text);
        if (loop_timer_set(t->ts->loop, &t->timer, time_mono_ns(), on_refused, t) < 0)
                log_error("task %s: out of memory", t->id);
}

/* ── from an earlier daemon ──────────────────────────────────────────────────────────────────────────────────────── */

int task_adopt(struct tasks *ts, struct engine_container *c, const char *id, struct task_record *rec)
{
        struct task *t = tasks_add(ts, id);

        if (!t)
                return -ENOMEM;
        t->rec = *rec;
        memset(rec, 0, sizeof(*rec));
        if (t->rec.key && tasks_add_key(t) < 0) {
                task_free(t);
                return -ENOMEM;
        }
        t->container = c;
        t->state = WIRE_RUNNING;
        t->cost = (uint64_t)t->rec.limits.memory + (uint64_t)t->rec.limits.disk + (uint64_t)t->rec.limits.shm;
        t->admitted = true;
        ts->running++;
        ts->committed += t->cost;
        engine_container_watch(c, &events, t);
        watch_timeout(t);
        /* The signal may not have gone out before its sender died. */
        if (t->rec.kill_signo)
                (void)ts->engine->ops->signal(c, t->rec.kill_signo, NULL);
        if (t->rec.kill_signo == SIGTERM)
                (void)loop_timer_set(ts->loop, &t->grace, t->rec.grace_end_ns, on_grace, t);
        return 0;
}
