/* Namespaces: a stock of fresh ones for each mode, and those handed out.
 *
 *     (made) ──▶ STOCK ──▶ OUT ──▶ (forgotten: dropped, unfit, or its peer gone; it dies with its last user)
 *     (adopted) ──────────▶ OUT
 *
 * An index names a namespace; with a network it is also the place of its address in the pool, and part of its link's
 * name. It is given to another one only after its link is gone and its conntrack entries are deleted. */
#pragma once

#include "base/err.h"
#include "net/proto.h"

#include <stdbool.h>
#include <stdint.h>

struct pool;

#define POOL_BITS_MIN 16 /* prefix length of the pool of addresses */
#define POOL_BITS_MAX 28
#define POOL_DNS_INDEX 1   /* the address on which mayfly-dns listens */
#define POOL_FIRST_INDEX 2 /* of a namespace */

struct pool_conf {
        const char *prefix;    /* of links; borrowed for the life of the pool */
        uint32_t group;        /* interface group of links */
        uint32_t base;         /* first address, host byte order */
        unsigned bits;         /* prefix length */
        uint32_t id_lo, id_hi; /* host ids of containers */
        unsigned stock;        /* of each mode */
};

struct netns {
        uint32_t index, mode;
        uint32_t address; /* host byte order; 0 for NET_NONE */
        int fd;           /* the pool's */
};

/* "10.1.0.0/16" with no host bits set; -EINVAL. */
int pool_parse_cidr(const char *text, uint32_t *ret_base, unsigned *ret_bits);

int pool_new(const struct pool_conf *conf, struct pool **ret, struct err *err);
void pool_free(struct pool *p); /* accepts NULL; leaves links that are in use alone */

/* One from the stock, or made now. *ret is the pool's; it counts as handed out. */
int pool_take(struct pool *p, uint32_t mode, const struct netns **ret, struct err *err);

/* What the stock lacks: 0 nothing; 1 to be filled in quiet; 2 to be filled at once. */
int pool_lacks(const struct pool *p);
int pool_fill(struct pool *p, struct err *err); /* makes one of the mode that is scarcest */

const struct netns *pool_find(const struct pool *p, uint32_t index); /* handed out; or NULL */

/* Makes one that was handed out fit for the next task of the same owner. Answers whether it is; if not it has been
 * forgotten. `err` then says why. */
bool pool_clean(struct pool *p, uint32_t index, struct err *err);
void pool_drop(struct pool *p, uint32_t index); /* unknown: nothing */

/* Takes `fd`, a namespace that an earlier netd (or this one) handed out; what the message says about it is compared
 * with what it is. */
int pool_adopt(struct pool *p, int fd, uint32_t mode, uint32_t index, uint32_t address, struct err *err);

void pool_forget(struct pool *p); /* all that are handed out: the peer is gone */
/* Runs fn in a namespace of the stock that has a link; its address, 0 when there is none. */
uint32_t pool_from_stock(struct pool *p, int (*fn)(void *data, struct err *err), void *data);

int pool_sweep(struct pool *p, struct err *err); /* removes links of ours that belong to no namespace known here */
int pool_remove_links(struct pool *p, struct err *err); /* all links of ours: the end */
