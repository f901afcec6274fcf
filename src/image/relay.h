/* Bytes from one pipe to another, hashed on the way. Who writes and who reads are not trusted: what the one wrote, and nothing
 * else, is what the digest is of and what the other gets. */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#include <stdint.h>

struct relay;

/* At the end of the bytes, with the SHA-256 of all in hex; or r: -EPIPE nobody reads any more; -EFBIG more than max; -ENOMEM,
 * -EIO. Both ends are closed then, and the relay is gone. */
typedef void (*relay_fn)(int r, const char digest[65], uint64_t bytes, const struct err *err, void *data);

/* Takes from and to, ends of pipes, also on failure; to: -EBADF: nobody reads, the bytes are hashed only. `queue` of the loop's threads reads, hashes and writes; never for long, so
 * that relays which share one do not wait for each other. */
int relay_start(struct loop *loop, unsigned queue, int from, int to, uint64_t max, relay_fn fn, void *data,
                struct relay **ret, struct err *err);
void relay_cancel(struct relay *r); /* no call follows, and both ends are closed, at once or soon; accepts NULL */
