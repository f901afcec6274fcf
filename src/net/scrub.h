/* Makes a namespace fit for its owner's next task after the last process has gone: what closing cannot end at once
 * (connections that still say goodbye, TIME_WAIT) is destroyed by sock_diag(7), and nothing may be left then. */
#pragma once

#include "base/err.h"
#include "net/ns.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 1: no socket is left. 0: some are, and cannot be ended: throw the namespace away. -errno. */
int scrub_sockets(const struct ns_home *h, const struct ns_fds *fds, struct err *err);

/* The figures of /proc/net/sockstat that count, all per namespace. */
struct scrub_stat {
        uint64_t used, tcp, time_wait, udp, udplite, raw, fragments;
};
int scrub_parse_sockstat(const char *text, struct scrub_stat *ret); /* -EINVAL */

/* Sum of the column "sockets" of /proc/net/protocols. */
int scrub_parse_protocols(const char *text, uint64_t *ret); /* -EINVAL */
