/* The first process of a container, from clone to exec. */
#pragma once

#include "launcher/cgroup.h"
#include "launcher/proto.h"
#include "launcher/slot.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The child is cloned with the launcher's table of descriptors, which holds thousands while hundreds of containers run, and
 * leaves it at once for a copy of the lowest ones only. So what it needs is put into one of a few windows down there. */
#define CHILD_WINDOWS 4
#define CHILD_WINDOW_FIRST 32 /* descriptors of the launcher itself are below, of containers above */
#define CHILD_WINDOW_SIZE 16
#define CHILD_WINDOW_END (CHILD_WINDOW_FIRST + CHILD_WINDOWS * CHILD_WINDOW_SIZE)

/* Places in a window. */
enum child_fd {
        CHILD_NETNS,
        CHILD_STDIN,
        CHILD_STDOUT,
        CHILD_STDERR,
        CHILD_UPPER,
        CHILD_STORE,
        CHILD_PTS,
        CHILD_SHM,
        CHILD_USERNS,
        CHILD_OVERLAY,
        CHILD_INIT_REPORT,
        CHILD_ENTER, /* version 1: CGROUP_HIERARCHIES of them */
        CHILD_FDS = CHILD_ENTER + 4,
};

/* All borrowed from the launcher, of which the child is a copy, or whose address space it borrows (loan.h). */
struct child {
        const struct launch_start *start; /* validated */
        uint8_t *payload;                 /* validated; the child's own copy of the page, which it writes to */
        size_t payload_len;
        char **argv, **envp;     /* room for LAUNCH_ARGS_MAX strings and NULL each */
        const struct slot *slot; /* its descriptors are out of reach, but for the window's */
        const struct cgroup *cgroup;
        int window; /* first descriptor of its window */
        int init;   /* the program of init, below the windows; -EBADF without */
        int proc;   /* of the host, below the windows */
};

/* Ends in the program, or tells the slot's report how far it came: stage CGROUP once it has left the launcher's table.
 * arg is a struct child. Allocates nothing and changes no memory but what it is given, so that it may run in the
 * launcher's address space. */
_Noreturn void child_run(const void *arg);

#define CHILD_STACK_SIZE (128 * 1024)
