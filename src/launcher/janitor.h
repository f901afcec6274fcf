/* A child of the launcher that closes what takes long to be closed: the last reference to a mount namespace or to a file
 * system waits for all processors of the host (synchronize_rcu_expedited() of the kernel), 0.2 ms where they are idle and
 * many where they are not. It holds no capability and nothing but what it is given. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct janitor {
        int sock; /* -EBADF: there is none, everything is closed here */
        pid_t pid;
};

#define JANITOR_NONE                                                                                                   \
        {                                                                                                              \
                .sock = -EBADF                                                                                         \
        }

/* Before there is a container: it is a copy of the calling process. */
int janitor_start(struct janitor *j, struct err *err);

/* Closes all that are not -EBADF, there, or here if it has too much to do; they are -EBADF then. */
void janitor_close(struct janitor *j, int **fds, size_t n);

bool janitor_reaped(struct janitor *j, pid_t pid); /* whether it was this one that ended */
void janitor_stop(struct janitor *j);              /* waits until all is closed; it is killed where that takes long */
