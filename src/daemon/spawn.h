/* Starts one child of the supervisor: descriptors, session, privileges, exec. */
#pragma once

#include "base/err.h"
#include "daemon/supervisor.h"

/* Blocks until the child has executed its program or failed to. The caller owns *ret_ready_fd (-EBADF without
 * spec->ready_pipe) and reaps *ret_pid. */
int spawn_child(const struct child_spec *spec, pid_t *ret_pid, int *ret_ready_fd, struct err *err);
