/* Tasks: queue, admission, life cycle, output, limits, over any engine. One thread.
 *
 *   queued ──▶ pulling ──▶ running ──▶ exited | failed | killed
 *      └───────────┴──────────────────▶ failed | killed
 */
#pragma once

#include "base/err.h"
#include "engine/engine.h"
#include "history/history.h"
#include "loop/loop.h"
#include "wire/task.h"

#include <stdbool.h>
#include <stdint.h>

struct task;
struct tasks;

struct tasks_config {
        uint32_t max_running;        /* 0: 512 */
        uint32_t max_queued;         /* 0: 10,000 */
        double overcommit;           /* 0: 4; the sum of memory + disk + shm stays below RAM × this */
        uint64_t reserve;            /* bytes of available memory below which nothing starts; 0: 128 MiB */
        enum engine_network network; /* default of `network` */
};

int tasks_new(struct loop *loop, struct engine *engine, struct history *history, const struct tasks_config *config,
              struct tasks **ret, struct err *err);
/* Takes over what an earlier daemon left in the engine; before the first submit. `done` when all is known. */
int tasks_adopt(struct tasks *ts, engine_done_fn done, void *data, struct err *err);
/* Containers run on where the engine can do that. Turns the loop until history has what it was given, so not from within
 * a callback; before the engine's free and history_close(). Accepts NULL. */
void tasks_free(struct tasks *ts);

size_t tasks_live(const struct tasks *ts); /* not ended, or ended and not yet in history */
void tasks_drain(struct tasks *ts);        /* refuses new ones: -ESHUTDOWN */

/* Who waits for the end of a task. `result` is a peek for the call. The task goes some time after it, so `t` is not to be
 * used later. */
struct task_waiter {
        void (*ended)(struct task *t, const struct wire_task *result, void *data);
        void *data;
};

struct task_submit {
        const char *owner;
        const char *idempotency_key; /* NULL: none */
        const uint8_t *body_hash;    /* 32 bytes, with the key */
        bool cancel_when_alone;      /* on_disconnect: cancel */
};

/* Takes the request's contents on success. 0: a new task. 1: the key's task, live, joined: the waiter is added (its
 * request is freed). -EEXIST: the key with another body. -EAGAIN: the queue is full. -ESHUTDOWN. -EINVAL: limits that this
 * machine can never grant. The waiter (NULL: none) is called once, never from within. A key that only history knows is the
 * caller's to look up before. */
int tasks_submit(struct tasks *ts, struct wire_task_request *request, const struct task_submit *how,
                 const struct task_waiter *waiter, struct task **ret, struct err *err);

/* One more waiter. -ENOMEM. */
int task_join(struct task *t, const struct task_waiter *waiter, struct err *err);
/* The waiter goes (client hung up). With cancel_when_alone and no other waiter, the task is cancelled. */
void task_forget(struct task *t, void *waiter_data);
void task_leave(struct task *t, void *waiter_data); /* as task_forget(), but the task runs on: the daemon stops */
void task_cancel(struct task *t);

struct task *tasks_find(struct tasks *ts, const char *id); /* live ones; peek or NULL */
struct task *tasks_next(struct tasks *ts, size_t *pos);    /* iteration over live ones */
const char *task_id(const struct task *t);
const char *task_owner(const struct task *t);
void task_describe(struct task *t, struct wire_task *ret); /* peek; with streams once it has ended */
