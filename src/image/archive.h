/* Archives of images (`docker save`, OCI image layouts), as a worker has indexed them: what they hold is copied into the
 * layout as blobs, verified, and described. Blocks: for a work thread. */
#pragma once

#include "base/err.h"
#include "image/layout.h"
#include "image/manifest.h"

#include <stdbool.h>

/* One image whose manifest, configuration and layers are blobs now. */
struct image_found {
        struct image_descriptor manifest;
        char **names; /* normalised references; may be NULL */
};

struct image_found_list {
        struct image_found *items;
        size_t n;
};
void image_found_done(struct image_found_list *l);

/* report: text of INDEX (image/worker.h). archive_fd, plain_fd: what the offsets in it are of. */
int image_archive_read(const struct image_layout *l, const char *report, size_t report_len, int archive_fd,
                       int plain_fd, struct image_found_list *ret, struct err *err);

/* Makes and stores a manifest of a configuration and layers that are blobs already. */
int image_manifest_store(const struct image_layout *l, const struct image_manifest *m, struct image_descriptor *ret,
                         struct err *err);

/* The media type of a layer, by its first bytes. */
int image_layer_media(int fd, uint64_t offset, char out[IMAGE_MEDIA_MAX], struct err *err);
