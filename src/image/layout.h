/* The files of the image store: an OCI image layout (image-spec, image-layout.md), and beside it what the workers found in
 * passwd and group of each tree.
 *
 *   oci-layout  index.json  usage.json  blobs/sha256/<hex>  users/<tree>.json  partial/<hex>.<size>
 *
 * All writes are atomic and durable. Everything blocks, and may be called from several threads at once, but for the index and
 * the users of one tree, which one thread at a time may write.
 *
 * Who stores something that no image names yet claims it, so that nobody collects it: struct image_layout is a view, whose
 * `claimant` owns what is stored by it. */
#pragma once

#include "base/err.h"
#include "base/map.h"
#include "base/str.h"
#include "image/manifest.h"

#include <stdint.h>

struct image_claims;

struct image_layout {
        int dir, blobs, users, partial;
        struct image_claims *claims; /* of all views */
        unsigned cut_off;            /* files that the opening removed, whose writing had not ended */
        uint64_t claimant;           /* 0: nobody; nothing is claimed */
};
#define IMAGE_LAYOUT_NONE                                                                                              \
        {                                                                                                              \
                .dir = -EBADF, .blobs = -EBADF, .users = -EBADF, .partial = -EBADF                                     \
        }

#define IMAGE_USERS_FILE_MAX (4U << 20) /* passwd and group in base64, twice 1 MiB, and a little */
#define IMAGE_INDEX_FILE_MAX (64U << 20)

/* Makes what is missing, removes temporary files. */
int image_layout_open(const char *path, struct image_layout *ret, struct err *err);
void image_layout_close(struct image_layout *l);

int image_layout_spool(const struct image_layout *l, int *ret, struct err *err); /* a file without a name */

/* Stores `size` bytes of from_fd from `offset` on. *digest is what they must have (-EBADMSG), or empty, and then it is set. */
int image_layout_put(const struct image_layout *l, int from_fd, uint64_t offset, uint64_t size,
                     char digest[IMAGE_DIGEST_MAX], struct err *err);
int image_layout_put_text(const struct image_layout *l, const void *data, size_t len, char digest[IMAGE_DIGEST_MAX],
                          struct err *err);
int image_layout_sync(const struct image_layout *l,
                      struct err *err); /* names of blobs, before an index that uses them */

/* The caller owns *ret. -ENOENT. */
int image_layout_open_blob(const struct image_layout *l, const char *digest, int *ret, uint64_t *ret_size,
                           struct err *err);
void image_layout_drop_blob(const struct image_layout *l,
                            const char *digest); /* as one that is damaged; partials of it, too */
/* SHA-256 of a whole file. Reads all of it. */
int image_layout_digest(int fd, char digest[IMAGE_DIGEST_MAX], struct err *err);
/* A small one, its digest verified. */
int image_layout_read_blob(const struct image_layout *l, const char *digest, size_t max, struct str *ret,
                           struct err *err);

int image_layout_read_index(const struct image_layout *l, struct str *ret, struct err *err); /* -ENOENT */
/* Gives what is called index.json one more name, before another takes its place: name says which. At most nine are kept. */
#define IMAGE_ASIDE_MAX 32
int image_layout_keep_index(const struct image_layout *l, char name[IMAGE_ASIDE_MAX], struct err *err);
/* Calls fn for each blob that may be a manifest by its size and its first byte, until it answers other than 0, which is the
 * answer where it is negative. written_ms: when it came, by the real clock. */
int image_layout_search(const struct image_layout *l, int (*fn)(const char *digest, uint64_t written_ms, void *data),
                        void *data, struct err *err);
int image_layout_write_index(const struct image_layout *l, const char *text, size_t len, struct err *err);

/* usage.json: see usage.c. */
int image_layout_read_usage(const struct image_layout *l, struct str *ret, struct err *err); /* -ENOENT */
int image_layout_write_usage(const struct image_layout *l, const char *text, size_t len, struct err *err);

int image_layout_read_users(const struct image_layout *l, const char *tree, struct str *ret, struct err *err);
int image_layout_write_users(const struct image_layout *l, const char *tree, const char *text, size_t len,
                             struct err *err);

/* What pulls have brought so far: bytes of a blob from its beginning, or all of it, until the image that needs it is there.
 * Whoever says another size of the same digest has another file. They outlive the daemon; opening the layout removes those that
 * are blobs, and those that nobody has touched for a week. */
int image_layout_partial_open(const struct image_layout *l, const char *digest, uint64_t size, int *ret,
                              struct err *err); /* made if absent */
/* A blob becomes one. -ENOENT: it is none; -EBADMSG: it has another size. */
int image_layout_partial_hold(const struct image_layout *l, const char *digest, uint64_t size);
void image_layout_partial_remove(const struct image_layout *l, const char *digest, uint64_t size);
/* A whole one, which was found right, is written to disk and becomes a blob, too. Nothing where the blob is there. -EBADMSG: it
 * is not whole. */
int image_layout_partial_commit(const struct image_layout *l, const char *digest, uint64_t size, struct err *err);

/* Removes those that nobody has touched for so long. */
void image_layout_drop_partials(const struct image_layout *l, uint64_t age_s);

/* Keeps a blob that is there, or will be, from being collected. -ENOMEM */
int image_layout_claim(const struct image_layout *l, const char *digest);
int image_layout_hold_blob(const struct image_layout *l, const char *digest,
                           struct err *err);             /* -ENOENT: it is not there */
void image_layout_release(const struct image_layout *l); /* all that the claimant has; it is none any more */

/* Removes each blob whose hex is no key of `blobs`, and the users of each tree that is no key of `trees`, but for what is
 * claimed. */
int image_layout_collect(const struct image_layout *l, const struct map *blobs, const struct map *trees,
                         struct err *err);
