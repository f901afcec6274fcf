/* Tasks: queue, admission, life cycle, output, limits, over any engine. One thread.
 *
 *      ┌───────────◀───────────┐ retries
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
#include <sys/types.h>

struct keys;
struct times;
struct seal;
struct task;
struct tasks;

struct tasks_config {
        uint32_t max_running;        /* 0: 512 */
        uint32_t max_queued;         /* 0: 10,000 */
        double overcommit;           /* 0: 4; the sum of memory + disk + shm, and of output that is kept, stays
                                      * below RAM × this */
        uint64_t reserve;            /* bytes of available memory below which nothing starts; 0: 128 MiB */
        enum engine_network network; /* default of `network` */
        const struct seal *seal;     /* for requests on disk; borrowed; NULL: none is accepted there (-ENOTSUP) */
        uint32_t max_running_owner;  /* of one owner, unless its maxima say less; 0: no bound of its own */
        uint32_t max_queued_owner;   /* the same */
        /* What the maxima of a recovered task's owner are taken from, until its next submit; borrowed; NULL: none. */
        const struct keys *keys;
        uint64_t max_held; /* bytes of requests that wait or may be needed again; 0: 512 MiB */
        uint64_t
                max_kept; /* bytes of results that history could not take yet, from which on nothing starts; 0: 128 MiB */
        /* Beside the default: borrowed until tasks_free(), but the array. */
        struct engine *const *more_engines;
        size_t n_more_engines;
        uint64_t engines_wait_ns; /* how long tasks_adopt() waits for an engine that does not answer; 0: without end */
};

#define TASKS_ENGINES_MAX 4

/* engine: the one of tasks that name none. */
int tasks_new(struct loop *loop, struct engine *engine, struct history *history, const struct tasks_config *config,
              struct tasks **ret, struct err *err);
/* Takes over what an earlier daemon left in the engine and among the accepted requests; before the first submit. What never
 * started is queued again with its id; what had started and is gone becomes failed, node_lost, or starts anew where its
 * retries allow. `done` when all is known. Where an engine does not answer for engines_wait_ns, what it may have waits for it,
 * and `done` comes without it; an engine that answers later is heard then. */
int tasks_adopt(struct tasks *ts, engine_done_fn done, void *data, struct err *err);
/* Containers run on where the engine can do that. Turns the loop until history has what it was given, so not from within
 * a callback; before the engine's free and history_close(). Accepts NULL. */
void tasks_free(struct tasks *ts);

size_t tasks_live(const struct tasks *ts); /* not ended, or ended and not yet in history */
void tasks_drain(struct tasks *ts);        /* refuses new ones: -ESHUTDOWN */
void tasks_cancel_all(struct tasks *ts);   /* but what is on disk and did not start, which is the next daemon's */

/* Who waits for the end of a task. `result` is a peek for the call. The task goes some time after it, so `t` is not to be
 * used later. */
struct task_waiter {
        void (*ended)(struct task *t, const struct wire_task *result, void *data);
        void *data;
};

/* What an owner may ask for at most. 0 and NULL: no bound but the node's. Borrowed for the call. */
struct task_maxima {
        struct wire_limits limits; /* queue_timeout and grace, too */
        char *const *images;       /* patterns of fnmatch(3) without FNM_PATHNAME over docker.io/library/busybox:1.36 */
        uint32_t networks;         /* bits 1 << ENGINE_NET_* */
        char *const *engines;
        uint32_t max_running, max_queued; /* tasks of this owner */
};

/* One task's streams, live. They end with the waiter that has the same data: when it goes, the task goes on without them. None is called from within a function of this header but task_pause() is allowed in output(). */
struct task_live {
        /* A piece of the output as it came; borrowed for the call. */
        void (*output)(struct task *t, enum engine_stream stream, const void *bytes, size_t len, void *data);
        void (*started)(struct task *t, void *data); /* it runs; may be NULL */
        void (*pulling)(struct task *t, uint64_t done, uint64_t total,
                        void *data);                     /* bytes of its image; may be NULL */
        void (*stdin_ready)(struct task *t, void *data); /* after a short task_stdin_write(): more fits now */
        void *data;
};

/* The request is on disk (r 0), or cannot be (r < 0). Called once, never from within; `id` is borrowed. */
typedef void (*task_stored_fn)(int r, const char *id, const struct err *err, void *data);

struct task_submit {
        const char *owner;
        const char *idempotency_key;      /* NULL: none */
        const uint8_t *body_hash;         /* 32 bytes, with the key */
        bool cancel_when_alone;           /* unless the request says on_disconnect: detach */
        const struct task_maxima *maxima; /* NULL: none */
        bool unlimited;                   /* `timeout` 0 means none, within the maxima */
        const struct task_live *live; /* copied; NULL: not live. What is kept is bounded by limits.output as always */
        /* Not NULL: nothing starts before the request is on disk; where it cannot be, there is no task, and the waiter is not
         * called. Such a task is not cancelled when it is alone. */
        task_stored_fn stored;
        void *stored_data;
        struct json_faults *faults; /* where -EPERM and -EINVAL name what is refused; NULL: only the first, in err */
};

/* Takes the request's contents on success. 0: a new task. 1: the key's task, live, joined: the waiter is added (its
 * request is freed), `stored` is called for it. -EEXIST: the key with another body. -EAGAIN: the queue is full, or the
 * owner's share of it: tasks_retry_after(). -ENOSPC: too many results wait for room on the disk. -ESHUTDOWN. -EINVAL: limits that this machine can never grant, or what the engine
 * cannot do. -EPERM: above the owner's maxima. -ENOTSUP: no seal. The waiter (NULL: none) is called once, never from within.
 * A key that only history knows is the caller's to look up before. */
int tasks_submit(struct tasks *ts, struct wire_task_request *request, const struct task_submit *how,
                 const struct task_waiter *waiter, struct task **ret, struct err *err);

/* In how many seconds one who got -EAGAIN may find room: 1 to 60, by how fast tasks end. */
unsigned tasks_retry_after(const struct tasks *ts);

/* Puts a live task's request on disk, so that `202` can be answered; from then on it is not cancelled when it is alone. The
 * task may have ended when fn is called. -EAGAIN, -ENOMEM, -ENOTSUP. */
int task_store_request(struct task *t, task_stored_fn fn, void *data, struct err *err);

/* One more waiter. -ENOMEM. */
int task_join(struct task *t, const struct task_waiter *waiter, struct err *err);
/* The waiter goes (client hung up). With cancel_when_alone and no other waiter, the task is cancelled. */
void task_forget(struct task *t, void *waiter_data);
void task_leave(struct task *t, void *waiter_data); /* as task_forget(), but the task runs on: the daemon stops */
void task_cancel(struct task *t); /* SIGTERM and, after limits.grace, SIGKILL; of an ended one nothing */
int task_signal(struct task *t, int signo, struct err *err); /* -ESRCH: it does not run */

/* ── live streams ── */

/* Who has no room for more stops a stream: the task then blocks, as on a full pipe. */
void task_pause(struct task *t, enum engine_stream stream, bool paused);
/* How many bytes were taken, maybe 0; stdin_ready() follows where that is less than len. -EPIPE: nobody reads any more;
 * -EINVAL: the task is not live, or its stdin has ended. */
ssize_t task_stdin_write(struct task *t, const void *data, size_t len);
void task_stdin_end(struct task *t); /* after what was taken */

/* ── followers of what is kept ── */

/* Told, never from within, when there is more (at once the first time if there is something), and once with `ended`, the last
 * call: what is kept can be read within it still. A follower never slows the task. */
struct task_follower {
        void (*more)(struct task *t, bool ended, void *data);
        void *data;
};
int task_follow(struct task *t, const struct task_follower *f, struct err *err); /* -ENOMEM */
void task_unfollow(struct task *t, void *follower_data);
/* Copies what is kept from an offset on: bytes copied, 0 at what is the end now, or -errno. */
ssize_t task_read_output(struct task *t, enum engine_stream stream, uint64_t offset, void *buf, size_t len);

/* What an ended task left of a stream stays as long as it is referred to, also when the task has gone. NULL: nothing. */
struct task_output;
struct task_output *task_output_ref(struct task *t, enum engine_stream stream);
void task_output_unref(struct task_output *o); /* accepts NULL */

/* When what is kept came. What no mark reaches has come with the end, or comes now. A peek. */
const struct times *task_times(const struct task *t, enum engine_stream stream);

struct task *tasks_find(struct tasks *ts, const char *id); /* live ones; peek or NULL */
struct task *tasks_next(struct tasks *ts, size_t *pos);    /* iteration over live ones */
/* Live and ended tasks that the query matches, newest first, as the text of GET /v1/tasks. query.image as it was given. fn is
 * called once, never from within. */
typedef void (*tasks_list_fn)(int r, const struct str *text, const struct err *err, void *data);
int tasks_list(struct tasks *ts, const struct history_query *q, tasks_list_fn fn, void *data, struct err *err);

struct tasks_counts {
        uint32_t queued, running;
};
struct tasks_counts tasks_count(const struct tasks *ts, const char *owner); /* NULL: of all */

const char *task_id(const struct task *t);
const char *task_owner(const struct task *t);
void task_describe(struct task *t, struct wire_task *ret); /* peek; with streams once it has ended */
