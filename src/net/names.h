/* What the objects of an instance are called on the host. */
#pragma once

#include "base/err.h"
#include "net/proto.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#define NAMES_DEFAULT "mayfly"
#define NAMES_INSTANCE_MAX 32
#define NAMES_PREFIX_MAX 6

bool names_instance_valid(const char *name); /* [a-z][a-z0-9_-]*: it becomes the name of a table */

/* Prefix of an instance's links: "mf", and for other names than the default three characters of a hash. Their first is
 * never n or i, so that "mfn*" matches no link of another instance. */
void names_prefix(const char *instance, char out[NAMES_PREFIX_MAX]);

/* The interface group of its links, never 0; a second one is (group ^ NAMES_GROUP_OLD): links about to be removed. */
#define NAMES_GROUP_OLD UINT32_C(0x40000000)
uint32_t names_group(const char *instance);

/* Takes the instance's name in this network namespace, until the descriptor is closed. -EBUSY: a process of the same user
 * has it (two that try at once may both be told so). Other users can neither take it nor keep us out, and there is
 * nothing that they could talk to. */
int names_lock(const char *instance, int *ret, struct err *err);

/* prefix, 'n' or 'i', index */
void names_link(const char *prefix, uint32_t mode, uint32_t index, char out[IFNAMSIZ]);
bool names_link_parse(const char *prefix, const char *link, uint32_t *ret_mode, uint32_t *ret_index);
