/* What a layer says that its tree of files cannot: the file `meta` beside root/. Paths are cleaned (tar_clean()) and lead
 * through real directories of the layer.
 *
 * The file: "mayfly-layer 1\n", then records of a letter, a path and a NUL:
 *   I path          a directory that the layer only implies, by something in it
 *   W path          a whiteout: what lower layers have here goes
 *   O path          an opaque directory: what lower layers have in it goes
 *   L path, target  a hard link to a file of a lower layer */
#pragma once

#include "base/err.h"
#include "base/map.h"

#include <stdbool.h>
#include <stddef.h>

#define META_NAME "meta"
#define META_MAX (256U << 20)
#define META_MAGIC "mayfly-layer 1\n"

struct meta_record {
        char *path;
        char *target; /* of L */
};

struct meta_list {
        struct meta_record *items;
        size_t len, cap;
};

struct meta {
        struct map *implied;
        struct meta_list whiteouts, opaques, links;
};

int meta_init(struct meta *m);  /* -ENOMEM */
void meta_done(struct meta *m); /* accepts a zeroed one */
#define auto_meta __attribute__((cleanup(meta_done))) struct meta

int meta_imply(struct meta *m, const char *path); /* these: -ENOMEM */
void meta_make_explicit(struct meta *m, const char *path);
bool meta_implied(const struct meta *m, const char *path);
int meta_add(struct meta_list *l, const char *path, const char *target);

int meta_write(const struct meta *m, int dirfd, struct err *err);
/* The file is as untrusted as the layer. m is initialised by the caller. */
int meta_read(struct meta *m, int dirfd, struct err *err);
