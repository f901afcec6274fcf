/* The instance's nftables table, `table inet <instance>`, made with the nft program: what tasks may reach, masquerading.
 * It is replaced in one transaction, so that running tasks keep their connectivity, and made again when somebody takes
 * it away. Everything happens in the namespace of the caller. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rules;

#define RULES_RESOLVERS_MAX 16

struct rules_conf {
        const char *instance, *prefix; /* borrowed for the life of the rules */
        uint32_t base;                 /* pool of addresses, host byte order */
        unsigned bits;
};

/* The batch for nft that replaces the table. Resolvers are IPv4 addresses, host byte order; *ret_rules (may be NULL) is
 * how many rules it holds. 0 or -ENOMEM. */
int rules_text(const struct rules_conf *conf, const uint32_t *resolvers, size_t n, struct str *ret, size_t *ret_rules);

int rules_new(const struct rules_conf *conf, struct rules **ret, struct err *err);
void rules_free(struct rules *r); /* accepts NULL; leaves the table */

/* Applies the rules with these resolvers, at most RULES_RESOLVERS_MAX; blocks for nft (some 10 ms). */
int rules_apply(struct rules *r, const uint32_t *resolvers, size_t n, struct err *err);
int rules_restore(struct rules *r, struct err *err); /* applies them again with the same resolvers */
int rules_remove(struct rules *r, struct err *err);

/* Readable when somebody changed any rule set; rules_drain() reads that away. */
int rules_fd(const struct rules *r);
void rules_drain(struct rules *r);

/* Whether the table is exactly as it was applied. */
bool rules_whole(struct rules *r);
