/* The bounds of a key as JSON, in the API's form, in which the store keeps them too. */
#pragma once

#include "state/keys.h"
#include "json/json.h"

/* Reads the members limits, images, networks, engines of the object; what is absent or null stays none. Faults go to the cursor's.
 * The arrays are the key's. */
void key_bounds_read(struct json_obj *o, struct key *ret);

/* Sets the same members; what has no bound is null. -ENOMEM. */
int key_bounds_write(const struct key *k, json_t *object);
