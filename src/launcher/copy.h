/* COPY_OUT of proto.h: children of the launcher that read files of a container and write them as a tar. Each joins the
 * container's mount and user namespace, as root of its ids that may read everything and change nothing, and resolves no
 * name but inside the container's root; it can stay no longer than its time, and the launcher never waits for it. */
#pragma once

#include "base/err.h"
#include "launcher/container.h"
#include "launcher/proto.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct copy {
        pid_t pid; /* 0: free */
        const struct container *container;
        uint32_t seq;
        uint64_t deadline_ns;
        bool late, silent; /* killed at its time; nobody waits for the answer */
};

struct copies {
        struct copy items[LAUNCH_COPIES_MAX];
        int timer;                                              /* timerfd, for the caller's loop */
        void (*reply)(const void *msg, size_t len, void *data); /* to the peer */
        void *data;
};

int copies_init(struct copies *cs, void (*reply)(const void *msg, size_t len, void *data), void *data, struct err *err);

/* The message is validated, with the path behind it; `fd` is borrowed. -ESRCH, -EBUSY…; else an answer follows. */
int copies_start(struct copies *cs, const struct container *c, const struct launch_copy *m, int fd, struct err *err);

bool copies_reaped(struct copies *cs, const siginfo_t *info); /* false: it is none of them */
void copies_timer(struct copies *cs);                         /* the timer is readable */

/* No copy of the container goes on; answered all the same. NULL: of none, and nobody waits. */
void copies_stop(struct copies *cs, const struct container *c);
