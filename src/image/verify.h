/* Verification: what is on disk is read again, and compared with what it came from.
 *
 *   blob:   hashed, and its size compared with what manifests say
 *   layer:  its blob is unpacked once more beside it, and a worker compares the two: names, types, modes, owners, sizes, times,
 *           targets of links, attributes, contents
 *   tree:   merged once more out of the layers (hard links: it costs no room), and compared in the same way
 *
 * With `repair` what was made anew takes the place of what is damaged. Where the blob of a damaged layer is damaged too, the
 * image becomes broken: it is as good as not there until a pull brings it again. What could not be made anew for want of room, or
 * since a worker died, stays as it is, and so does what is made of it: as long as its blobs are good, no image becomes broken. */
#pragma once

#include "image/store.h"

enum image_fault_kind { IMAGE_FAULT_BLOB, IMAGE_FAULT_LAYER, IMAGE_FAULT_TREE };
extern const char *const image_fault_kinds[]; /* "blob", "layer", "tree" */

struct image_fault {
        enum image_fault_kind kind;
        char name[80];  /* a digest, of a tree its hex */
        char text[300]; /* what is wrong; printable */
        char **digests; /* of the images that are concerned; may be NULL */
        bool repaired;
};

struct image_verification {
        uint64_t done, total;                 /* things to look at */
        uint64_t blobs, layers, trees, bytes; /* that were looked at; read or made anew */
        struct image_fault *faults;
        size_t n_faults, cap_faults;
        /* What could not be made anew, for want of room, or since a worker died, or of a layer that could not, and is there: nothing is
         * known to be wrong with it. Of a layer without room its blob was unpacked all the same, and hashed. */
        struct image_fault *unchecked;
        size_t n_unchecked, cap_unchecked;
};

/* v: a peek, as of now. */
typedef void (*image_verify_progress_fn)(const struct image_verification *v, void *data);
typedef void (*image_verified_fn)(int r, const struct image_verification *v, const struct err *err, void *data);

/* One at a time: -EBUSY. progress (NULL: none) after each thing that was looked at; fn once, later. */
int image_store_verify(struct image_store *s, bool repair, image_verify_progress_fn progress, image_verified_fn fn,
                       void *data, struct err *err);
/* Nobody is told any more; it ends after what it has in hand. */
void image_store_verify_cancel(struct image_store *s, void *data);

/* What was found and mended since the store was opened, in words; NULL-terminated, or NULL. A peek. */
char *const *image_store_repairs(const struct image_store *s);
