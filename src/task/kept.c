/* Results that history did not take, because the disk is full for one: they were answered, so they are kept until it does. At
 * first with their containers, where a daemon that follows finds them; when these are too many, here. When there are too many of
 * both, no new task is taken. */

#include "task/internal.h"

#include <errno.h>

/* What is wrong with the record itself stays wrong. */
static bool may_pass(int r)
{
        return r != -EFBIG && r != -EBADMSG && r != -EINVAL;
}

static uint64_t size_of(const struct task *t)
{
        return sizeof(*t) + t->out_len[0] + t->out_len[1] + t->outputs.text.len;
}

bool task_keep(struct task *t, int r)
{
        struct tasks *ts = t->ts;

        if (!may_pass(r) && t->tries >= TASK_HISTORY_TRIES)
                return false;
        if (t->kept == 0) {
                t->kept = size_of(t);
                ts->kept_bytes += t->kept;
                ts->n_kept++;
        }
        /* One that was accepted would be started again by a daemon that finds neither container nor result. */
        if (t->container && t->disk == TASK_UNSTORED && ts->lingering > ts->config.max_running / 4)
                task_remove_container(t);
        if (t->container && !t->keeps_slot) {
                t->keeps_slot = true;
                ts->kept_slots++;
        }
        return true;
}

void task_unkeep_slot(struct task *t)
{
        t->ts->kept_slots -= t->keeps_slot;
        t->keeps_slot = false;
}

void task_unkeep(struct task *t)
{
        task_unkeep_slot(t);
        if (t->kept == 0)
                return;
        t->ts->kept_bytes -= t->kept;
        t->ts->n_kept--;
        t->kept = 0;
}

bool tasks_kept_full(const struct tasks *ts)
{
        return ts->n_kept >= TASK_KEPT_MAX || ts->kept_bytes >= ts->config.max_kept ||
               ts->kept_slots >= ts->config.max_running;
}
