/* What pulls ask of the store: layers as they come, then the image. */
#pragma once

#include "image/layout.h"
#include "image/store.h"

struct image_hold;

const struct image_layout *image_store_layout(const struct image_store *s); /* a peek */

/* Keeps layers from being collected, whether they are there or come later. diff_ids: hex. The caller owns *ret. */
int image_hold_new(struct image_store *s, const char (*diff_ids)[65], size_t n, struct image_hold **ret,
                   struct err *err);
void image_hold_free(struct image_hold *h); /* accepts NULL; no operation uses it any more */

/* Sees to it that the layer of a blob is in the launcher's store: uncompressed and unpacked by workers, its diff_id checked.
 * Takes blob_fd. r: -EBADMSG, -ENOSPC… */
int image_store_layer(struct image_store *s, struct image_hold *hold, int blob_fd, const struct image_descriptor *blob,
                      const char *diff_id, image_done_fn fn, void *data, struct err *err);

/* As image_store_layer(), of a blob that still comes: its bytes are what goes into `pipe`, of which this is the end to read, and
 * taken. Before the caller closes the other end it sets **ret_came, which stays until fn is called, if all bytes went in and
 * have the blob's digest: else the layer is not kept. Nobody waits for this operation, and nothing is left of it when it fails.
 * r: -EEXIST the layer is there already. */
int image_store_feed(struct image_store *s, struct image_hold *hold, int pipe, const struct image_descriptor *blob,
                     const char *diff_id, bool **ret_came, image_done_fn fn, void *data, struct err *err);

/* Operations want more workers than one layer that comes slowly should keep from them. */
bool image_store_crowded(const struct image_store *s);

/* Makes an image of a manifest, whose configuration and layers are partials, or blobs, and gives it names: normalised
 * references. The partials stay. hold: of its layers; NULL: the image was there, so that all are blobs, r -ENOENT: not any more. */
int image_store_install(struct image_store *s, struct image_hold *hold, const void *manifest, size_t len,
                        const char *media_type, char *const *names, image_done_fn fn, void *data, struct err *err);
