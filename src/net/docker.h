/* Beside Docker: its FORWARD chain drops what it does not know, but leaves the chain DOCKER-USER to others. Our traffic,
 * which our own table has filtered before, is accepted there, in the chain of iptables-nft and in that of iptables-legacy.
 * The chains are Docker's: they are neither made nor removed here. */
#pragma once

#include "base/err.h"
#include "net/nl.h"

#include <stdbool.h>

#define DOCKER_CHAIN "DOCKER-USER"
#define DOCKER_RULES 4 /* in by nat and internet links, out by them */

/* Puts our rules into the chain, if it is there and they are not: 1 if it did something, else 0. `nl` is a socket of
 * NETLINK_NETFILTER. Blocks for nft when there is something to do. */
int docker_keep(struct nl *nl, const char *prefix, struct err *err);
int docker_remove(struct nl *nl, const char *prefix, struct err *err); /* likewise */

/* The lock that every iptables-legacy holds while it changes a table (iptables(8), -w), which the kernel has as a whole
 * only: without it one's change undoes the other's. Opened as root, kept; -EBADF where that is not to be had. */
int docker_legacy_open_lock(void);
int docker_legacy_lock(int lock); /* waits at most DOCKER_LOCK_MS: -EBUSY. The end is flock(lock, LOCK_UN) */
#define DOCKER_LOCK_MS 2000

/* The same in iptables-legacy's table, which the kernel would make if it were asked in vain: only where there is a Docker.
 * `lock` is borrowed; with -EBADF it is done without. Blocks for the lock when there is something to do. */
int docker_legacy_keep(const char *prefix, int lock, struct err *err);
int docker_legacy_remove(const char *prefix, int lock, struct err *err);

/* What the legacy table `old` (ip_tables.h: entries one after the other) becomes with (`insert`) or without our rules;
 * exposed for its test. 1: *ret is another one, the caller frees ret->entries and ret->from; 0: nothing is to be done;
 * -EBADMSG: it is not understood. */
struct docker_legacy {
        unsigned char *entries;
        size_t size;
        unsigned n;                           /* entries */
        unsigned hook_entry[5], underflow[5]; /* offsets */
        int *from;                            /* per entry: its index in the old table, -1: it is new */
};
int docker_legacy_edit(const struct docker_legacy *old, const char *prefix, bool insert, struct docker_legacy *ret);
