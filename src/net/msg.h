/* Checks what a peer sent before anything looks at it. */
#pragma once

#include "net/proto.h"

#include <stdbool.h>
#include <stddef.h>

/* A packet from mayflyd: `len` bytes with n_fds descriptors. Copies it to *ret; -EBADMSG when size, operation, number of
 * descriptors or any member is not as net/proto.h says. */
int msg_parse(const void *data, size_t len, size_t n_fds, struct net_msg *ret);
