/* Whether there are tasks: the cgroup of who makes them has processes. Links do not tell: a socket that has not yet said
 * all it was given holds a network namespace for minutes after its process has gone (tcp(7), tcp_orphan_retries). */
#pragma once

#include <stdbool.h>

#define USAGE_CGROUP_MAX 255

/* `cgroup`: "/a/b" below the root of cgroups, else one beside this process's own. Not there: false; unreadable: true. */
bool usage_is_any(const char *cgroup);

/* The path of `cgroup` relative to the root, of a process whose /proc/PID/cgroup is `own`; exposed for its test. false: it
 * cannot be told. */
bool usage_path(const char *own, const char *cgroup, char *ret, unsigned size);

const char *usage_root(void); /* of cgroups of version 2; likewise */
