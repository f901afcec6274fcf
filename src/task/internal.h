/* What the files of the task module share. */
#pragma once

#include "base/id.h"
#include "base/list.h"
#include "base/map.h"
#include "base/vec.h"
#include "task/record.h"
#include "task/task.h"

#define TASK_HISTORY_TRIES 5
#define TASK_SAMPLE_NS (100 * UINT64_C(1000000)) /* how long a look at the available memory holds */
#define TASK_RETRY_NS (50 * UINT64_C(1000000))   /* while nothing can start */

struct task {
        struct tasks *ts;
        struct list node, queue_node;
        char id[ID_LEN + 1];
        enum wire_status state;
        struct task_record rec;
        struct wire_task_request request; /* until it has started */
        enum engine_network network;
        uint64_t cost;   /* memory + disk + shm */
        bool admitted;   /* counts among the running ones */
        bool ensuring;   /* the engine's answer about the image is awaited */
        bool asking;     /* the engine's answer about when the program started is awaited */
        int image_error; /* -errno: the engine refused to answer that */
        bool orphan;     /* tasks_free() was called meanwhile */
        bool storing;    /* history has the record and will answer */
        bool cancel_when_alone;
        VEC(struct task_waiter) waiters;
        bool telling; /* waiters of an ended task are called at the end of this turn */
        struct engine_container *container;
        struct loop_timer timer; /* queue_timeout, timeout; once ended: another try at history */
        struct loop_timer grace;
        unsigned tries;

        /* The result. */
        enum wire_reason reason;
        int exit_code, signo;
        char *detail;
        struct engine_exit exit;
        uint64_t ended_ns;
        void *out[2];
        size_t out_len[2];
        uint64_t out_total[2];
        bool mapped[2];
};

struct tasks {
        struct loop *loop;
        struct engine *engine;
        struct history *history;
        struct tasks_config config;
        struct map *by_id, *by_key;
        struct list all, queue;
        size_t n_all;
        uint32_t queued, running, lingering; /* lingering: ended, with a container until history has it */
        uint32_t storing;
        uint64_t committed, capacity; /* bytes promised to running tasks */
        uint64_t available, sampled_ns;
        struct loop_timer admit_timer;
        bool draining, freeing, admitting;
        engine_done_fn adopted;
        void *adopted_data;
};

/* life.c: each moves a task on. */
void task_admit(struct task *t);
void task_end(struct task *t, enum wire_status status, enum wire_reason reason, int exit_code, int signo,
              const char *detail);
void task_kill(struct task *t, enum wire_reason reason, int signo);
int task_adopt(struct tasks *ts, struct engine_container *c, const char *id, struct task_record *rec);
/* Calls the waiters of an ended task. */
void task_tell(struct task *t);
/* The container is the engine's. A call that is owed to the task ends what is left of it. */
void task_free(struct task *t);
void task_remove_container(struct task *t);

/* task.c: what a task's end leaves room for. */
void tasks_admit(struct tasks *ts);
void tasks_release(struct task *t);
struct task *tasks_add(struct tasks *ts, const char *id); /* NULL: out of memory */
int tasks_add_key(struct task *t);

/* result.c */
void task_load_output(struct task *t);
void task_unload_output(struct task *t);
void task_store(struct task *t);
