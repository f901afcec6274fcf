/* What the forwarder may ask of the kernel once it has its sockets. */
#pragma once

#include "base/err.h"

/* No capability, no_new_privs, not dumpable, and a seccomp filter: sockets of IPv4 and IPv6, reading files, memory. All
 * else is EPERM, and for another architecture the end. For the life of the process. */
int dns_sandbox(struct err *err);
