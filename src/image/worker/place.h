/* Places within the layer that is being unpacked: each name leads to its parent directory, through symbolic links of the
 * layer itself that stay in its root, and directories that are only implied are made on the way. */
#pragma once

#include "base/err.h"
#include "image/worker/meta.h"

#include <limits.h>
#include <stdint.h>

struct place {
        int root;          /* of the layer; borrowed */
        struct meta *meta; /* borrowed; gets the implied directories */
        uint64_t implied;  /* directories made so far */
        uint64_t max_implied;
        int parent;          /* of the last answer; owned */
        char raw[PATH_MAX];  /* the parent as asked for */
        char real[PATH_MAX]; /* and where it is */
};

void place_init(struct place *p, int root, struct meta *meta, uint64_t max_implied);
void place_done(struct place *p);
/* Something was removed: forget what is known. */
void place_forget(struct place *p);

/* For a cleaned, not empty path: the directory that holds it (peek, until the next call), its last component (points into
 * path), and its path through real directories. -EBADMSG: a parent is no directory, or the links turn in circles. */
int place_find(struct place *p, const char *path, int *ret_dir, const char **ret_name, char real[PATH_MAX],
               struct err *err);

/* The directory `path` within the layer's real directories, no link followed (openat2(2), RESOLVE_BENEATH). */
int place_open(int root, const char *path, int flags);

#define PLACE_IMPLIED_MODE 0755
