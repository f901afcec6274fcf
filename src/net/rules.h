/* The instance's nftables table, `table inet <instance>`, made with the nft program: what tasks may reach, masquerading.
 * It is replaced in one transaction, so that running tasks keep their connectivity, and made again when somebody takes
 * it away. Everything happens in the namespace of the caller. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "net/route.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rules;

#define RULES_RESOLVERS_MAX 16

struct rules_conf {
        const char *instance, *prefix; /* borrowed for the life of the rules */
        uint32_t base, dns;            /* pool of addresses, and the forwarder's in it; host byte order */
        unsigned bits;
        uint32_t connections; /* of one task, that are counted at once; 0: they are not */
};

/* What changes while the daemon runs. */
struct rules_input {
        uint32_t resolvers[RULES_RESOLVERS_MAX]; /* IPv4, host byte order */
        size_t n_resolvers;
        struct route_uplinks uplinks; /* bridges that tasks may use */
};

/* The batch for nft that replaces the table; *ret_rules (may be NULL) is how many rules it holds. 0 or -ENOMEM. */
int rules_text(const struct rules_conf *conf, const struct rules_input *input, struct str *ret, size_t *ret_rules);

int rules_new(const struct rules_conf *conf, struct rules **ret, struct err *err);
void rules_free(struct rules *r); /* accepts NULL; leaves the table */

int rules_apply(struct rules *r, const struct rules_input *input, struct err *err); /* blocks for nft (some 10 ms) */
int rules_restore(struct rules *r, struct err *err); /* applies them again with the same input */
int rules_remove(struct rules *r, struct err *err);

int rules_run(const char *text, struct err *err); /* a batch for nft; blocks */

/* Readable when somebody changed any rule set; rules_drain() reads that away. */
int rules_fd(const struct rules *r);
void rules_drain(struct rules *r);

/* Whether the table is exactly as it was applied. */
bool rules_whole(struct rules *r);
