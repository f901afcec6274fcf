/* Containers as the launcher knows them. One is remembered until the daemon says that its result is stored.
 *
 *              start                    pid 1 reaped               REMOVE
 *     FREE ─────────────▶ RUNNING ───────────────────▶ ENDED ───────────────────▶ FREE
 *                            │                                                      ▲
 *                            │ REMOVE: killed             pid 1 reaped              │
 *                            └───────────▶ DOOMED ──────────────────────────────────┘ */
#pragma once

#include "base/err.h"
#include "launcher/cgroup.h"
#include "launcher/child.h"
#include "launcher/loan.h"
#include "launcher/proto.h"
#include "launcher/slot.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

enum container_state { CONTAINER_FREE, CONTAINER_RUNNING, CONTAINER_ENDED, CONTAINER_DOOMED, CONTAINER_STATES };

struct container {
        enum container_state state;
        char id[LAUNCH_ID_MAX];
        char tree[LAUNCH_HEX];
        pid_t pid;         /* while RUNNING or DOOMED: not yet reaped, so it names nobody else */
        bool adopted;      /* the present peer knows it */
        bool oom;          /* it was killed on the kernel's word that memory had run out */
        bool keep;         /* its root, after its end (LAUNCH_F_KEEP_ROOT) */
        struct slot *slot; /* while RUNNING or DOOMED; if `keep`, also while ENDED */
        char *workdir;     /* if `keep` */
        int fds[LAUNCH_ADOPT_COUNT];
        int init_report; /* read end, -EBADF without init */
        struct launch_exit exit;
};

struct containers {
        struct container *items;
        uint32_t n, top;     /* items from top on are FREE */
        struct slots *slots; /* borrowed, as all here */
        struct cgroup *cgroup;
        int proc;
        int init;                                       /* the program of init */
        const struct container *windows[CHILD_WINDOWS]; /* whose child may still use it; NULL: empty */
        unsigned next_window;
        struct loans loans;
};

/* n: how many may be remembered, running or not. */
int containers_init(struct containers *cs, uint32_t n, struct slots *slots, struct cgroup *cg, int proc, int init,
                    struct err *err);

/* Starts one, or ends it at once (ENDED, stage CLONE) where the kernel refuses the clone. All is validated; the payload is
 * the child's to change. Takes the descriptors of START, also on failure. -EAGAIN: no slot; -EEXIST: the id is known. */
int containers_start(struct containers *cs, const struct launch_start *start, uint8_t *payload, size_t payload_len,
                     int *fds, size_t n_fds, struct container **ret, struct err *err);

struct container *containers_find(struct containers *cs, const char id[LAUNCH_ID_MAX]); /* NULL: unknown, or DOOMED */
struct container *containers_find_pid(struct containers *cs, pid_t pid);
struct container *containers_find_slot(struct containers *cs, uint32_t slot);
bool containers_use_tree(const struct containers *cs, const char *tree); /* one that runs, or is kept */

/* The mount namespace and the user namespace that belong to its root file system, to be borrowed; -EBADF: it has none yet,
 * or none any more. */
int container_root(const struct container *c, int *ret_userns);

/* Pid 1 was reaped, and with it everything in its pid namespace. True: `exit` is filled, the peer is to be told. */
bool container_reaped(struct containers *cs, struct container *c, const siginfo_t *info, const struct rusage *usage);

void container_signal(struct container *c, int signo); /* of one that has ended: nothing */
void container_counters(struct containers *cs, struct container *c, struct launch_counters *ret);
uint64_t container_exec_ns(const struct container *c); /* of init, where there is one; 0: it is still being prepared */
void container_remove(struct containers *cs, struct container *c); /* forgets it, now or once it is dead */
void containers_drop_kept(struct containers *cs);                  /* forgets those that have ended */
void containers_kill(struct containers *cs);
