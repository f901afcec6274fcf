/* Hash map from bytes to pointers; keyed SipHash, so that keys from outside cannot be made to collide. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct map;

struct map *map_new(void);                                /* NULL: out of memory */
void map_free(struct map *m);                             /* values are the caller's; accepts NULL */
int map_set(struct map *m, const char *key, void *value); /* copies key; replaces; -ENOMEM */
void *map_find(const struct map *m, const char *key);     /* peek or NULL */
void *map_remove(struct map *m, const char *key);         /* hands the value back, or NULL */
size_t map_len(const struct map *m);

/* Iteration in no order; `*pos` starts at 0; false at the end. Removing the current entry is allowed. */
bool map_next(const struct map *m, size_t *pos, const char **ret_key, void **ret_value);
