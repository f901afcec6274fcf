/* One confined worker process: from clone to exec. */
#pragma once

#include "base/err.h"
#include "launcher/work.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define WORK_CHILD_FIRST_FD 3
#define WORK_CHILD_FDS_MAX (4 + LAUNCH_LAYERS_MAX)
#define WORK_CHILD_NOT_STARTED 120 /* exit code; the report says why */

struct work_child {
        int worker_fd;
        int userns_fd; /* 0 to 65535 are the store's ids */
        const struct work_cgroup *cgroup;
        char *const *argv;
        const int *fds; /* fds[i] becomes 3 + i; -EBADF: that one stays closed */
        size_t n_fds;
        int report_fd;     /* one of them, or -EBADF */
        bool capable;      /* it makes or removes files of any owner */
        uint64_t max_file; /* bytes of one file that it writes; 0: no limit */
};

/* Borrows everything. The caller reaps *ret_pid, and owns *ret_pidfd. Blocks for about a millisecond. */
int work_child_start(const struct work_child *c, pid_t *ret_pid, int *ret_pidfd, struct err *err);
