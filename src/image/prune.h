/* Collection: images that nobody needs go, by hand (prune) or because the disk is full. Never one that a task uses, that is
 * pinned, part of Mayfly, or that came within config.keep_for_ms.
 *
 *   prune:  plan ─▶ take out one after the other ─▶ collect what none needs ─▶ told
 *   pressure:  look ─▶ above high_water? plan, least recently used first ─▶ … ─▶ the disk settles ─▶ look */
#pragma once

#include "base/map.h"
#include "image/store.h"

struct image_prune_policy {
        bool dangling;          /* images without a name */
        bool all;               /* all images */
        bool aged, capped;      /* unused_for_ms, keep_bytes are set */
        uint64_t unused_for_ms; /* of those that these leave: not used for so long */
        uint64_t keep_bytes;    /* and only until images take no more than this */
        /* Images that it denies are as good as none; called before image_store_prune() returns. NULL: all may go. */
        bool (*may)(const struct image *image, void *data);
        void *data;
};

struct image_pruned {
        char digest[80];
        char **names;
        uint64_t bytes, used_ms; /* what comes back; when it was used last */
};

struct image_prune_result {
        struct image_pruned *items;
        size_t n, cap;
        uint64_t bytes;                  /* of all of them: more than their sum where they share */
        uint64_t total;                  /* that images took before */
        unsigned in_use, pinned, recent; /* that were left for this reason */
};
void image_prune_result_done(struct image_prune_result *r);

/* What would go. The caller owns *ret. -ENOMEM. */
int image_store_prune_plan(struct image_store *s, const struct image_prune_policy *policy,
                           struct image_prune_result *ret, struct err *err);
/* result: what has gone; a peek. */
typedef void (*image_pruned_fn)(int r, const struct image_prune_result *result, const struct err *err, void *data);
int image_store_prune(struct image_store *s, const struct image_prune_policy *policy, image_pruned_fn fn, void *data,
                      struct err *err);

/* Puts the digests of images that tasks use, or wait for, into the map, with any value. */
typedef int (*image_users_fn)(void *data, struct map *digests);
void image_store_set_users(struct image_store *s, image_users_fn fn, void *data);

/* The disk is full: collects down to the low mark at once. r 0: something has gone, and trying again may do; -ENOSPC:
 * there was nothing to collect. fn comes later, once. -ENOSPC at once where nothing is ever collected. */
int image_store_make_room(struct image_store *s, image_done_fn fn, void *data, struct err *err);

/* What is wrong with the room for images, in words; NULL: nothing. A peek. */
const char *image_store_fault(const struct image_store *s);
