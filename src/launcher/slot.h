/* Slots: each has a range of 65,536 ids of its own, and what a container needs that can be made ahead: its user
 * namespace, its cgroup leaf, the mounts of the writable layer, of the store in its ids, of /dev/pts and /dev/shm.
 *
 *            slot_prepare()          container takes it          container gone
 *     COLD ─────────────────▶ READY ───────────────────▶ BUSY ──────────────────▶ USED
 *                               ▲                                                   │
 *                               └────────── slot_prepare(): leftovers go, new ──────┘
 *
 * Where the store's file system cannot be idmapped, all slots share the store's ids. */
#pragma once

#include "base/err.h"
#include "launcher/cgroup.h"
#include "launcher/janitor.h"
#include "launcher/proto.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

enum slot_state { SLOT_COLD, SLOT_READY, SLOT_BUSY, SLOT_USED, SLOT_STATES };

/* What a child tells before it executes; a page that both see, which exec takes from the child. */
struct slot_report {
        uint32_t stage;   /* enum launch_stage */
        int32_t error;    /* positive errno */
        uint64_t exec_ns; /* CLOCK_MONOTONIC, just before exec */
};

struct slot {
        enum slot_state state;
        uint32_t n;
        uid_t base;        /* host id of the container's 0 */
        int userns, idmap; /* user namespaces: the container's; store's ids to the slot's */
        int upper;         /* detached tmpfs: upper/ work/ store/ root/ */
        int store;         /* detached mount of the store in the slot's ids; from Linux 6.15 on it stays */
        int overlay;       /* file system context of the root, all but the image's tree; -EBADF: the child mounts it */
        int pts, shm;      /* detached; from Linux 6.15 on a container gets a clone of shm */
        struct stat shm_new;     /* its root directory before anybody saw it */
        int mntns;               /* of the container, so that its end does not wait for the mounts to go */
        uint64_t disk, shm_size; /* bytes that upper and shm have */
        struct cgroup_leaf leaf;
        struct slot_report *report;
};

#define SLOT_EVENT (UINT64_C(1) << 32)

/* What slots are made of. All borrowed. */
struct slots_host {
        int proc;      /* /proc */
        int store;     /* setup_mounts() */
        bool detached; /* likewise */
        int epoll;     /* version 1's OOM events are added here, as SLOT_EVENT | n */
        struct cgroup *cgroup;
        struct janitor *janitor;
};

struct slots {
        struct slot *items;
        uint32_t n;
        uint32_t top;         /* items from here on were never prepared */
        uint32_t ready, used; /* how many are in these states */
        uint32_t busy;
        uint32_t id_base;
        bool idmapped;
        struct slots_host host;
        struct launch_limits limits; /* of the last container: those made ahead get them */
};

int slots_init(struct slots *s, uint32_t n, uint32_t id_base, const struct slots_host *host, struct err *err);

#define SLOTS_USED_MAX 8 /* used ones that may wait for an idle moment; above, the server does not wait for one */

/* One step of work off the critical path: cleans one used slot, or prepares one more if fewer than wanted are ready.
 * False: there is nothing to do. */
bool slots_idle(struct slots *s);

/* A READY slot, now BUSY, with its limits set; prepares one if none is ready. -EAGAIN: all are busy. */
int slots_take(struct slots *s, const struct launch_limits *limits, struct slot **ret, struct err *err);
void slots_release(struct slots *s, struct slot *slot); /* BUSY to USED: no process of it is left */
void slots_done(struct slots *s);                       /* closes all; what is busy must have ended */

/* Bytes and inodes of the writable layer. */
void slot_disk(const struct slot *slot, uint64_t *ret_used, bool *ret_full);

uint32_t slot_inodes(uint64_t disk); /* inodes that a writable layer of that size may have */
