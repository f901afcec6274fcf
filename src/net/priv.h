/* What the process may do. */
#pragma once

#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

/* As root: becomes uid:gid without further groups. In every case keeps CAP_NET_ADMIN and CAP_SYS_ADMIN alone, the former
 * ambient too, for nft (capabilities(7)); no_new_privs, which leaves ambient capabilities alone; not dumpable.
 * -EPERM when it does not hold the two. */
int priv_drop(uid_t uid, gid_t gid, struct err *err);

/* SIGTERM when the parent dies. After priv_drop(): changing the user forgets it. -ESRCH: it is dead already. */
int priv_die_with(pid_t parent, struct err *err);

void priv_raise_nofile(void); /* the soft limit of descriptors to the hard one; as root the hard one too */

int priv_parse_pair(const char *text, uint32_t *ret_a, uint32_t *ret_b); /* "1:2"; -EINVAL */
