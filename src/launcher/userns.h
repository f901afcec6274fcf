/* User namespaces that outlive no process: each is a descriptor (user_namespaces(7)). */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What a namespace is made for. */
enum userns_use {
        USERNS_CONTAINER, /* 0 to 65535 inside are `outside` on; nothing can make another one in it */
        USERNS_IDMAP,     /* `inside` on to `outside` on, and 0 to 0: for mounts (mount_setattr(2)); so root's own
                                 * directories above a tree can be walked through the mount */
};

/* `proc` is a descriptor of /proc. The host's user `outside` owns the namespace: what its processes use is counted as his
 * (kernel/ucount.c), not as root's. Blocks for about 0.3 ms. The caller owns *ret. */
int userns_make(int proc, enum userns_use use, uint32_t inside, uint32_t outside, int *ret, struct err *err);
