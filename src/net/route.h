/* The instance's own routes, and what can be told from the others: whether the pool of addresses is free, and over which
 * links the way leads out. */
#pragma once

#include "base/err.h"
#include "net/nl.h"

#include <net/if.h>
#include <stddef.h>
#include <stdint.h>

#define ROUTE_UPLINKS_MAX 16

struct route_pool {
        const char *prefix; /* of the instance's links */
        uint32_t metric;    /* names the instance, as the group of its links does */
        uint32_t base, dns; /* host byte order */
        unsigned bits;
};

/* -EADDRINUSE: the pool overlaps another instance's, or lies where the host has a route to already; the text says which.
 * What an earlier netd of this instance left does not count. */
int route_check(struct nl *nl, const struct route_pool *pool, struct err *err);

/* Marks the pool as used: its addresses that belong to nobody are unreachable, and `dns` is local, without an interface
 * that it would belong to. */
int route_claim(struct nl *nl, const struct route_pool *pool, struct err *err);
int route_release(struct nl *nl, const struct route_pool *pool, struct err *err);

/* Bridges over which the host reaches other networks, sorted. All other bridges are inside of this host: containers and
 * virtual machines. */
struct route_uplinks {
        size_t n;
        char names[ROUTE_UPLINKS_MAX][IFNAMSIZ];
};
int route_uplinks(struct nl *nl, struct route_uplinks *ret);
