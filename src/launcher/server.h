/* The launcher's loop: one peer at a time on a SOCK_SEQPACKET socket, children that end, OOM events, and what is left to do
 * in idle moments. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "launcher/ceiling.h"
#include "launcher/cgroup.h"
#include "launcher/container.h"
#include "launcher/copy.h"
#include "launcher/janitor.h"
#include "launcher/slot.h"
#include "launcher/validate.h"
#include "launcher/work.h"

#include <stdbool.h>
#include <stdint.h>

struct server {
        const struct ceiling *ceiling;
        struct validate_host host;
        struct cgroup cgroup;
        struct slots slots;
        struct containers containers;
        struct copies copies;
        struct janitor janitor;
        struct work *work;
        struct cgroup_leaf work_leaves[WORK_RUNNING_MAX];
        int epoll, listener, signals, peer;
        enum { PEER_NONE, PEER_NEW, PEER_GREETING, PEER_SERVED } peer_state; /* NEW: no HELLO yet */
        uint32_t greeted;                                                    /* next container to ADOPT */
        uint64_t life;                                                       /* as HELLO tells it */
        struct str out; /* packets that did not fit in the socket: u32 length and bytes each */
        size_t out_sent;
        bool just_ended; /* a container has, and none was started since */
        bool deaf;       /* no descriptor for the peer that waits: the listener is not watched for a while */
        bool stop;
};

/* What is inherited or was opened before the launcher left the host's mount namespace. All borrowed. */
struct server_fds {
        int listener;
        int proc;
        int init;   /* sealed memfd with mayfly-init */
        int worker; /* with mayfly-worker; -EBADF: image work is refused */
        int store;
        bool detached; /* setup_mounts() */
};

/* cgroup and host are filled in before (they need the host's mounts). SIGCHLD and SIGTERM are blocked. */
int server_init(struct server *s, const struct ceiling *ceiling, const struct server_fds *fds, struct err *err);

/* Serves until SIGTERM. */
int server_run(struct server *s, struct err *err);

/* Kills all containers and workers, waits for their end, removes the cgroups. */
void server_done(struct server *s);
