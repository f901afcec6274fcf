/* Archives of images that go out: OCI image layouts (image-spec, image-layout.md) and, on top of that, what `docker load` of
 * any version reads (manifest.json, repositories), as `docker save` has written them since version 25. The same images, asked
 * for in the same order, make the same bytes. Blobs go out as they are stored, shared ones once, and are verified on the way. */
#pragma once

#include "base/err.h"
#include "image/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define IMAGE_SAVE_REFS_MAX 256

enum image_save_format { IMAGE_SAVE_DOCKER, IMAGE_SAVE_OCI };

struct image_save;

/* refs: as for image_store_find(), which go out with that name, or by digest without one; a name without a tag stands for all
 * tags of the repository that are here. may: whether an image exists for the caller; NULL: all do. From here on the blobs
 * stay, whatever is removed. -ENOENT, -EINVAL, -EPERM: it is part of Mayfly. */
int image_save_open(struct image_store *s, const char *const *refs, size_t n, enum image_save_format format,
                    bool (*may)(const struct image *image, void *data), void *data, struct image_save **ret,
                    struct err *err);

uint64_t image_save_size(const struct image_save *w); /* of the whole archive */

/* The next bytes; 0 at the end. Blocks: for a work thread. -EBADMSG: a blob is damaged, and what was read before is to be
 * thrown away. */
ssize_t image_save_read(struct image_save *w, void *buf, size_t len, struct err *err);

/* The blobs may go, on the loop; what is read after this may fail. Before the store is closed. */
void image_save_release(struct image_save *w);
void image_save_close(struct image_save *w); /* after release; accepts NULL */
