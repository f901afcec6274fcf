/* Image workers and the store of layers and trees, as the launcher keeps them: WORK, COMMIT, DISCARD, DELETE and LIST of
 * proto.h.
 *
 *   store/layers/<diff id>/{root,meta}   one unpacked layer; the files of a tree are hard links to those in root/
 *   store/trees/<name>/                  the merged root file system itself: what an overlay takes as its lower directory
 *   store/tmp/<token>/                   what a worker makes, until it is committed
 *   store/trash/<n>/                     deleted, emptied by a worker one after the other
 *
 * The four directories are the host root's, 0700: a worker, whose ids are those of the store, cannot climb into them from
 * the directories that it is given. It is given nothing else: its root is an empty file system, and the directories come
 * as descriptors of one detached mount (nosuid, nodev, noexec), so that hard links between them work.
 *
 * One thread; nothing blocks but renames and the making of processes. */
#pragma once

#include "base/err.h"
#include "launcher/proto.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WORK_RUNNING_MAX 4    /* workers at once: two layers, each uncompressed by one and unpacked by another */
#define WORK_QUEUE_MAX 64     /* WORK messages that wait; more are REFUSED EAGAIN */
#define WORK_TOKENS_MAX 64    /* made and not yet committed; more are REFUSED EAGAIN */
#define WORK_SECONDS_MAX 1800 /* of one worker, by the clock */
#define WORK_STALL_SECONDS 60 /* of one through which a layer goes, and in which nothing does, while others wait */
#define WORK_CGROUP_FILES_MAX 4

/* Where the worker in one of the WORK_RUNNING_MAX places lives. The memory limit is set by whoever makes the group. */
struct work_cgroup {
        int v2_fd;                           /* directory of an empty v2 leaf; -EBADF without v2 */
        int v1_tasks[WORK_CGROUP_FILES_MAX]; /* `tasks` of the v1 leaves, open for writing; -EBADF from the end on */
};

/* All descriptors are borrowed for the life of the struct work. */
struct work_config {
        int store_fd;     /* directory of the store, opened in the caller's mount namespace; not O_PATH */
        int proc_fd;      /* directory /proc */
        int worker_fd;    /* the program: a sealed memfd; -EBADF: WORK is refused */
        uint32_t id_base; /* owners on disk are id_base + id, 65,536 of them */
        struct work_cgroup cgroups[WORK_RUNNING_MAX];
        uint64_t stall_ns;  /* 0: WORK_STALL_SECONDS */
        uint64_t worker_ns; /* 0: WORK_SECONDS_MAX */

        void (*reply)(const void *msg, size_t len, void *data); /* to the peer; dropped if there is none */
        bool (*tree_busy)(const char *name, void *data);        /* 64 digits and a NUL; may be NULL */
        uint64_t (*oom_kills)(unsigned place, void *data);      /* of that cgroup so far; may be NULL */
        void *data;
};

struct work;

/* Makes the directories of the store where they are missing, and what workers need (user namespace, detached mount).
 * What lies in tmp/ goes to trash/, and the emptying of trash/ begins. Root with all capabilities. */
int work_new(const struct work_config *config, struct work **ret, struct err *err);
void work_free(struct work *w); /* kills and reaps the workers; accepts NULL */

/* Whether `op` is one that work_handle() takes. */
bool work_handles(uint32_t op);

/* One message of the peer. Takes the descriptors, also on failure. 0 (answers by reply(), at once or later); -EBADMSG: the
 * message is malformed, and the connection should be closed. */
int work_handle(struct work *w, const struct launch_header *msg, size_t len, int *fds, size_t n_fds);

/* A child was reaped (waitid(2)). False: it is none of the workers. */
bool work_reaped(struct work *w, pid_t pid, const siginfo_t *info);

/* The peer has gone: its workers are killed, what they made is thrown away, what it waits for is forgotten. */
void work_peer_lost(struct work *w);

/* Deadlines of the workers: a timerfd for the caller's loop, and what to call when it is readable. */
int work_timer_fd(const struct work *w);
void work_timer(struct work *w);

/* Nothing runs and nothing waits, the trash included. */
bool work_idle(const struct work *w);
