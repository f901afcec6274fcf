/* The launcher's part of the cgroup hierarchies: one cgroup of the instance, below it `tasks` (version 1:
 * `containers`) and `workers`, below those one leaf for each container or worker. Version 2 where memory, cpu and pids are there (cgroup-v2.rst), else version 1
 * (cgroup-v1/memory.rst), hybrid included. Files are reached through descriptors that are opened once, so the launcher
 * needs no cgroup file system in its mount namespace.
 *
 * A leaf of version 2 is used once (its peak cannot be reset before Linux 6.12); one of version 1 is used again. */
#pragma once

#include "base/err.h"
#include "launcher/ceiling.h"

#include <stdbool.h>
#include <stdint.h>

#define CGROUP_HIERARCHIES 4 /* version 1: memory, cpu, cpuacct, pids */

enum cgroup_group { CGROUP_TASKS, CGROUP_WORKERS, CGROUP_GROUPS };

struct cgroup {
        uint32_t kind;                                 /* enum launch_cgroup */
        int groups[CGROUP_GROUPS][CGROUP_HIERARCHIES]; /* v2: [group][0] */
        int root[CGROUP_HIERARCHIES];                  /* where the instance's cgroup lies */
        int instance[CGROUP_HIERARCHIES];
        unsigned controllers[CGROUP_HIERARCHIES]; /* v1: what each hierarchy carries */
        unsigned n;                               /* hierarchies; v2: 1 */
        unsigned next;                            /* v2: number of the next leaf */
        bool delegated;
        char enabled[32]; /* v2: controllers that we enabled at the root, to be taken back */
        char name[CEILING_NAME_MAX + 1];
};

struct cgroup_limits {
        uint64_t memory; /* bytes, all of it; swap 0 */
        uint32_t cpu_milli, pids;
};

struct cgroup_counters {
        uint64_t memory_peak, memory_now, cpu_ns;
        uint64_t oom_kills, pids_refused;
};

enum cgroup_file { CGROUP_PEAK, CGROUP_NOW, CGROUP_CPU, CGROUP_OOM, CGROUP_PIDS, CGROUP_FILES };

struct cgroup_leaf {
        char name[24]; /* empty: none */
        enum cgroup_group group;
        int dir[CGROUP_HIERARCHIES];   /* v2: dir[0] is for CLONE_INTO_CGROUP */
        int enter[CGROUP_HIERARCHIES]; /* v1: `tasks` */
        int file[CGROUP_FILES];
        int oom_event;                /* v1: eventfd, readable after an OOM; -EBADF on v2, where oom.group acts */
        struct cgroup_limits limits;  /* as written */
        uint64_t oom_base, pids_base; /* v1: counters that cannot be reset */
};

#define CGROUP_LEAF_NONE                                                                                               \
        {                                                                                                              \
                .dir = { -EBADF, -EBADF, -EBADF, -EBADF }, .enter = { -EBADF, -EBADF, -EBADF, -EBADF },                \
                .file = { -EBADF, -EBADF, -EBADF, -EBADF, -EBADF }, .oom_event = -EBADF                                \
        }

/* Finds the hierarchies, kills and removes what an earlier launcher left in them, makes the instance's cgroups. Moves the
 * launcher itself only where systemd delegated. Blocks until everything is gone. */
int cgroup_open(struct cgroup *cg, const char *name, enum ceiling_cgroup where, struct err *err);

/* Kills whatever runs in our leaves and removes them. */
int cgroup_kill_all(struct cgroup *cg, struct err *err);

/* As cgroup_kill_all(), and removes the instance's cgroups. */
void cgroup_close(struct cgroup *cg);

int cgroup_leaf_make(struct cgroup *cg, enum cgroup_group group, const struct cgroup_limits *limits,
                     struct cgroup_leaf *ret, struct err *err);

/* Writes only what differs from what the leaf has. */
int cgroup_leaf_limit(struct cgroup *cg, struct cgroup_leaf *leaf, const struct cgroup_limits *limits);

/* In a child: the calling process (of one thread) joins the leaf, whose `enter` descriptors are `first` and those after
 * it. Version 1 only; on version 2 it was cloned into dir[0]. 0 or -errno. */
int cgroup_enter(const struct cgroup *cg, int first);

void cgroup_leaf_read(struct cgroup *cg, const struct cgroup_leaf *leaf, struct cgroup_counters *ret);

/* Once empty. True: fit for the next use (version 1). False: remove it. */
bool cgroup_leaf_reset(struct cgroup *cg, struct cgroup_leaf *leaf);

void cgroup_leaf_remove(struct cgroup *cg, struct cgroup_leaf *leaf); /* forgets it; kills what is left in it */
