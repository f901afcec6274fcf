/* The engines of a node: which there are, and what an earlier daemon left in them. */

#include "base/log.h"
#include "base/time.h"
#include "task/internal.h"

#include <errno.h>
#include <string.h>

struct task_engine *tasks_engine(struct tasks *ts, const char *name)
{
        if (!name)
                return &ts->engines[0];
        for (size_t i = 0; i < ts->n_engines; i++)
                if (str_eq(ts->engines[i].engine->ops->name, name))
                        return &ts->engines[i];
        return NULL;
}

struct task_engine *task_engine_of(const struct task *t)
{
        for (size_t i = 1; i < t->ts->n_engines; i++)
                if (t->ts->engines[i].engine == t->engine)
                        return &t->ts->engines[i];
        return &t->ts->engines[0];
}

void tasks_engine_names(const struct tasks *ts, char *out, size_t size)
{
        size_t len = 0;

        out[0] = '\0';
        for (size_t i = 0; i < ts->n_engines && len < size; i++) {
                int n = snprintf(out + len, size - len, "%s%s", i ? ", " : "", ts->engines[i].engine->ops->name);

                len += n > 0 ? (size_t)n : 0;
        }
}

bool tasks_engines_look(struct tasks *ts)
{
        bool all = true;

        for (size_t i = 0; i < ts->n_engines; i++) {
                struct task_engine *e = &ts->engines[i];

                e->down = (ts->listing && !e->listed) || e->engine->ops->check(e->engine, NULL) == -ENOTCONN;
                all = all && !e->down;
        }
        return all;
}

uint64_t engine_life(struct engine *e)
{
        uint64_t life = e->ops->life ? e->ops->life(e) : 0;

        return life ? life : TASK_LIFE_UNKNOWN;
}

/* ── what an earlier daemon left ─────────────────────────────────────────────────────────────────────────────────── */

static void on_found(struct engine_container *c, const char *id, const void *record, size_t record_len, void *data)
{
        struct task_record rec = { .owner = NULL };
        struct task_engine *e = data;
        struct err err = ERR_INIT;
        int r = id_valid(id) ? task_record_read(record, record_len, &rec, &err) : err_set(&err, EINVAL, "odd id");

        if (r == 0)
                r = task_adopt(e->ts, c, id, &rec);
        if (r < 0) {
                log_debug("container %s of an earlier daemon: %s", id, err.num ? err.text : strerror(-r));
                e->forgot = true;
                e->engine->ops->remove(c);
        }
        task_record_done(&rec);
}

static bool all_listed(const struct tasks *ts)
{
        for (size_t i = 0; i < ts->n_engines; i++)
                if (!ts->engines[i].listed)
                        return false;
        return true;
}

/* Only what has no container is looked for among the accepted requests. */
static void recover_now(struct tasks *ts)
{
        struct err err = ERR_INIT;
        int r;

        if (ts->recovering)
                return;
        ts->recovering = true;
        loop_timer_cancel(&ts->adopt_timer);
        r = tasks_recover(ts, &err);
        if (r < 0 && ts->adopted)
                ts->adopted(r, &err, ts->adopted_data);
}

static void on_adopt_timer(struct loop_timer *timer, void *data)
{
        struct tasks *ts = data;

        (void)timer;
        for (size_t i = 0; i < ts->n_engines; i++)
                if (!ts->engines[i].listed)
                        log_warn("engine %s does not answer: its tasks wait for it", ts->engines[i].engine->ops->name);
        recover_now(ts);
}

/* Later than others: its tasks of an earlier daemon are known by now, and those that it has not had are lost. */
static void settle_awaited(struct task_engine *e)
{
        struct tasks *ts = e->ts;
        struct task *t;

        LIST_FOREACH(t, &ts->all, node) {
                if (t->awaited && t->engine == e->engine)
                        task_not_found(t);
        }
        tasks_admit(ts);
}

static void on_listed(int r, const struct err *err, void *data)
{
        struct task_engine *e = data;
        struct tasks *ts = e->ts;

        if (ts->freeing)
                return;
        if (r < 0 && !ts->recovering) {
                ts->recovering = true;
                loop_timer_cancel(&ts->adopt_timer);
                if (ts->adopted)
                        ts->adopted(r, err, ts->adopted_data);
                return;
        }
        if (r < 0) {
                log_error("engine %s: %s", e->engine->ops->name, err->text);
                return;
        }
        e->listed = true;
        if (ts->recovering)
                settle_awaited(e);
        else if (all_listed(ts))
                recover_now(ts);
}

int tasks_adopt(struct tasks *ts, engine_done_fn done, void *data, struct err *err)
{
        int r = 0;

        ts->listing = true;
        ts->adopted = done;
        ts->adopted_data = data;
        if (ts->config.engines_wait_ns > 0 &&
            loop_timer_set(ts->loop, &ts->adopt_timer, time_mono_ns() + ts->config.engines_wait_ns, on_adopt_timer,
                           ts) < 0)
                return err_oom(err);
        for (size_t i = 0; i < ts->n_engines && r == 0; i++) {
                struct engine *e = ts->engines[i].engine;

                r = e->ops->list(e, on_found, on_listed, &ts->engines[i], err);
        }
        return r;
}
