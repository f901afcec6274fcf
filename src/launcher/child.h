/* The first process of a container, from clone to exec. */
#pragma once

#include "launcher/cgroup.h"
#include "launcher/proto.h"
#include "launcher/slot.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All borrowed from the launcher, of which the child is a copy. */
struct child {
        const struct launch_start *start;       /* validated */
        uint8_t *payload;                       /* validated; the child's own copy of the page, which it writes to */
        size_t payload_len;
        const struct slot *slot;
        const struct cgroup *cgroup;
        const int *fds;                         /* of START */
        int init;                               /* the program of init, -EBADF without */
        int init_report;                        /* write end of its pipe, likewise */
        bool idmapped;
};

/* Ends in the program, or tells the slot's report how far it came. */
_Noreturn void child_run(const struct child *c);
