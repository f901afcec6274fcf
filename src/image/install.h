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

/* Makes an image of a manifest, whose configuration and layers are partials, or blobs, and gives it names: normalised
 * references. The partials stay. */
int image_store_install(struct image_store *s, struct image_hold *hold, const void *manifest, size_t len,
                        const char *media_type, char *const *names, image_done_fn fn, void *data, struct err *err);
