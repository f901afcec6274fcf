/* What the files of the task module share. */
#pragma once

#include "base/id.h"
#include "base/list.h"
#include "base/map.h"
#include "base/vec.h"
#include "history/times.h"
#include "task/record.h"
#include "task/task.h"

#define TASK_HISTORY_TRIES 5                     /* of a record that history finds fault with */
#define TASK_KEPT_MAX 10000                      /* results that wait for history */
#define TASK_SAMPLE_NS (100 * UINT64_C(1000000)) /* how long a look at the available memory holds */
#define TASK_RETRY_NS (50 * UINT64_C(1000000))   /* while nothing can start */
#define TASK_CPU_LOOK_NS (5 * UINT64_C(1000000)) /* between two looks at the CPU time, at least */
#define TASK_BACKOFF_NS (500 * UINT64_C(1000000))
#define TASK_BACKOFF_MAX_NS (30 * UINT64_C(1000000000))
#define TASK_OUTPUTS_NS (60 * UINT64_C(1000000000)) /* for bringing back all outputs */

/* An owner that has tasks. */
struct owner {
        struct list node;  /* of those with a queue, next one first */
        struct list queue; /* of struct task */
        char *name;
        size_t tasks;
        uint32_t queued, running;
        uint32_t max_running, max_queued; /* 0: no bound */
        uint64_t held;                    /* bytes of requests */
};

struct stored_call {
        task_stored_fn fn;
        void *data;
};

enum task_disk {
        TASK_UNSTORED,
        TASK_STORING, /* history will answer */
        TASK_STORED,
};

/* The files that are brought back after the end. */
struct task_outputs {
        size_t at; /* index of the path in work */
        int fd;
        uint64_t deadline_ns, left; /* bytes */
        struct wire_output *items;
        size_t n;
        struct str text; /* when all are there */
};

/* The caller's end of a live task's stdin. */
struct task_stdin {
        int fd, read_fd; /* read_fd: until the container has it */
        struct loop_io *io;
        bool ended, short_write;
};

struct task_engine {
        struct engine *engine;
        struct tasks *ts;
        bool listed; /* what it has is known */
        bool forgot; /* a container of an earlier daemon had to be removed unheard */
        bool down;   /* in this round of admission */
};

struct task {
        struct tasks *ts;
        struct engine *engine;
        struct owner *owner;
        struct list node, queue_node;
        char id[ID_LEN + 1];
        enum wire_status state;
        struct task_record rec;
        struct wire_task_request request; /* until it is not needed any more */
        uint64_t held;                    /* bytes that count for the request */
        enum engine_network network;
        uint64_t cost;                  /* memory + disk + shm + output, as task_cost() and tasks_count_output() say */
        bool queued;                    /* counts among the queued ones */
        bool admitted;                  /* counts among the running ones */
        bool starting;                  /* of those, without a container yet */
        bool lingering;                 /* ended, with a container */
        unsigned owed;                  /* calls that are to come with this task */
        int image_error;                /* -errno: the engine refused to answer that */
        uint64_t pull_done, pull_total; /* bytes, while the image comes */
        unsigned retry_after_s;         /* of a registry that is busy */
        bool orphan;                    /* tasks_free() was called meanwhile */
        bool storing;                   /* history has the record and will answer */
        uint64_t kept;                  /* bytes that count for a result which history did not take; 0: it is none */
        bool keeps_slot;                /* of those, with its container */
        bool cancel_when_alone;
        void *durable_waiter;
        bool nameless; /* durable from the start: there is no task until it is on disk */
        uint64_t
                awaited; /* it had started (history_request.started) in an engine that has not said what it has; 0: no */
        enum task_disk disk;
        VEC(struct stored_call) stored_calls;
        VEC(struct task_waiter) waiters;
        VEC(struct task_follower) followers;
        bool telling, following; /* called at the end of this turn */
        struct engine_container *container;
        struct loop_timer timer; /* queue_timeout, back-off, timeout; once ended: another try at history */
        struct loop_timer grace, cpu;
        bool asking_cpu;
        unsigned tries;
        struct task_live live;
        bool is_live;
        struct task_stdin in;
        struct task_outputs outputs;
        bool early;  /* it ended before the accepted requests were known: on_exited() is owed */
        bool exited; /* its program has ended, and what belongs to the result is being brought back */

        /* The result. */
        enum wire_reason reason;
        int exit_code, signo;
        char *detail;
        struct engine_exit exit;
        uint64_t ended_ns;
        struct task_output *kept_out[2]; /* NULL: nothing */
        void *out[2];                    /* of those */
        size_t out_len[2];
        uint64_t out_total[2];
        struct times times[2]; /* of output that came while it ran; what came with the end has its time */
};

struct tasks {
        struct loop *loop;
        struct task_engine engines[TASKS_ENGINES_MAX]; /* the first is the default */
        size_t n_engines;
        struct history *history;
        struct tasks_config config;
        struct map *by_id, *by_key, *owners;
        struct list all, ring; /* ring: of owners with a queue */
        size_t n_all;
        uint32_t queued, running, lingering; /* lingering: ended, with a container until history has it */
        uint32_t starting;                   /* admitted, without a container yet */
        uint32_t storing;                    /* answers that history owes */
        uint64_t committed, capacity;        /* bytes promised to running tasks, and held by lingering ones */
        uint64_t held;                       /* bytes of requests */
        uint64_t kept_bytes;                 /* of results that history did not take */
        uint32_t n_kept, kept_slots;
        uint64_t available, sampled_ns;
        uint64_t ended_ns, pace_ns; /* the last end; how far apart ends are */
        struct loop_timer admit_timer;
        bool draining, freeing, admitting;
        engine_done_fn adopted;
        void *adopted_data;
        struct loop_timer adopt_timer; /* for engines that do not answer */
        bool listing;                  /* the engines were asked what they have */
        bool recovered;                /* and all accepted requests are known */
        bool recovering;               /* the accepted requests have been, or are being, looked through */
};

/* life.c: each moves a task on. */
void task_admit(struct task *t);
void task_end(struct task *t, enum wire_status status, enum wire_reason reason, int exit_code, int signo,
              const char *detail);
/* As task_end() with FAILED, unless its retries let it begin anew. */
void task_fail(struct task *t, enum wire_reason reason, int exit_code, const char *detail);
void task_kill(struct task *t, enum wire_reason reason, int signo);
void task_end_by_exit(struct task *t);
int task_adopt(struct tasks *ts, struct engine_container *c, const char *id, struct task_record *rec);
/* An awaited task: its engine has it not. */
void task_not_found(struct task *t);
void task_watch_queue(struct task *t);
void task_tell_early(struct task *t);
/* Calls the waiters of an ended task. */
void task_tell(struct task *t);

/* A call that is owed to the task has come: false where there is nobody left to hear it, and the task is gone. */
bool task_settle(struct task *t);
/* The container is the engine's. A call that is owed to the task ends what is left of it. */
void task_free(struct task *t);
void task_remove_container(struct task *t);
void task_drop_request(struct task *t);
void task_count_request(struct task *t); /* it has one now */

/* admit.c: the queue, and what a task's end leaves room for. */
int meminfo_read(uint64_t *ret_total, uint64_t *ret_available);
void tasks_admit(struct tasks *ts);
void tasks_release(struct task *t);
void tasks_count_queued(struct task *t);  /* it will be in the queue, or is */
void tasks_count_started(struct task *t); /* it has its container */
void tasks_enqueue(struct task *t);
int tasks_own(struct task *t, const char *owner); /* -ENOMEM */
uint32_t tasks_least(uint32_t a, uint32_t b);     /* of two bounds, of which 0 is none */
void tasks_disown(struct task *t);
void tasks_ended(struct tasks *ts);
void tasks_count_output(struct task *t); /* after there is more of it */

/* task.c */
struct task *tasks_add(struct tasks *ts, const char *id); /* NULL: out of memory */
int tasks_add_key(struct task *t);
struct task *tasks_find_key(struct tasks *ts, const char *owner, const char *key); /* NULL: none that lives */
/* Bytes of the machine that it is promised. Of its output, which lies in memory too, that is the part which most tasks ask
 * for at most; what is more counts when it is there. */
#define TASK_OUTPUT_PROMISED (UINT64_C(2) << 20)
uint64_t task_cost(const struct wire_limits *l);
/* A task of an earlier daemon, out of its accepted request, whose contents it takes on success; it is in no queue yet. */
int tasks_restore(struct tasks *ts, struct history_request *q, struct wire_task_request *request, struct task **ret);

/* maxima.c */
int tasks_check(struct tasks *ts, struct wire_task_request *q, const struct task_submit *how, struct err *err);

/* accept.c: requests on disk. */
int task_accept(struct task *t, struct err *err);
void task_tell_stored(struct task *t, int r, const struct err *err);
int tasks_recover(struct tasks *ts, struct err *err);
#define TASK_LIFE_UNKNOWN 1
uint64_t engine_life(struct engine *e); /* TASK_LIFE_UNKNOWN where it tells none */

/* engines.c */
struct task_engine *tasks_engine(struct tasks *ts,
                                 const char *name); /* NULL: the default's; NULL where there is none */
struct task_engine *task_engine_of(const struct task *t);
void tasks_engine_names(const struct tasks *ts, char *out, size_t size); /* "native, docker" */
bool tasks_engines_look(struct tasks *ts);                               /* notes which are down; false where one is */

/* live.c */
int task_live_open(struct task *t, int *ret_stdin_fd, struct err *err);
void task_live_started(struct task *t);
void task_live_close(struct task *t);
void task_follow_tell(struct task *t); /* at the end of this turn */
void task_follow_end(struct task *t);
void task_note_time(struct task *t, enum engine_stream stream); /* what has come of it has come by now */
void task_on_data(struct engine_container *c, enum engine_stream stream, const void *bytes, size_t len, void *data);

/* outputs.c: false where there is nothing to bring back. */
bool task_collect(struct task *t);
void task_outputs_done(struct task *t);

/* kept.c: false where it is not to be tried again. */
bool task_keep(struct task *t, int r); /* history answered r */
void task_unkeep(struct task *t);
void task_unkeep_slot(struct task *t); /* its container goes */
bool tasks_kept_full(const struct tasks *ts);

/* result.c */
uint64_t task_real_ms(const struct task *t, uint64_t mono_ns);
void task_load_output(struct task *t);
void task_unload_output(struct task *t);
void task_store(struct task *t);
