/* The answer to an attach, before the connection becomes the container's streams. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <sys/types.h>

struct docker_stream;

/* "HTTP/1.1 101 UPGRADED" or, of older ones, 200, in pieces. As many of these bytes as belong to the head, 0 while it is not
 * complete; -EREMOTEIO where Docker refuses (refused and why of the stream), -EMSGSIZE, -EBADMSG: no HTTP. */
ssize_t docker_stream_head(struct docker_stream *s, const char *bytes, size_t len, struct err *err);
