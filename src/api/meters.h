/* What a key, and what an address, may ask of the API: requests a second with a burst (token buckets), requests at once, and
 * failed authentications. Pure but for the clock that it is given; both tables are bounded, what has been idle longest goes. */
#pragma once

#include "state/keys.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define METERS_MAX 8192 /* keys, and addresses, that are remembered */
#define METER_NAME_MAX 48

struct meters_config {
        double key_rate, address_rate; /* requests a second; 0: no bound */
        uint32_t key_burst, address_burst;
        uint32_t key_connections; /* requests that are being answered, unless the key's maxima say less; 0: no bound */
};

struct meters;

int meters_new(const struct meters_config *config, struct meters **ret); /* -ENOMEM */
void meters_free(struct meters *m);                                      /* accepts NULL */
void meters_configure(struct meters *m, const struct meters_config *config);

/* Each answers 0, or in how many seconds there is room: 1 and more. Nothing is taken then. */

/* One request from an address. */
unsigned meters_take_address(struct meters *m, const char *address, uint64_t now_ns);

/* One request of a key, which counts as open until meters_leave_key(). */
unsigned meters_enter_key(struct meters *m, const struct key *key, uint64_t now_ns);
void meters_leave_key(struct meters *m, const char *id);

/* A failed authentication: for how many milliseconds its answer is to be held back, growing with their number in the last
 * seconds; -1: too many wait already, it is to be refused at once. A valid key from the same address never waits. What was
 * held back ends with meters_answered(). */
int meters_failed(struct meters *m, const char *address, uint64_t now_ns);
void meters_answered(struct meters *m, const char *address);
