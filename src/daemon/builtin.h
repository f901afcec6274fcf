/* The image that is part of Mayfly: one program, by which health is checked. */
#pragma once

#include "base/err.h"
#include "image/ref.h"
#include "image/store.h"

#define BUILTIN_HEALTH_REF IMAGE_BUILTIN_DOMAIN "/health:1" /* another tag when the program changes */

/* The same image as an archive of `docker save`, in a memfd that the caller owns. -ENOENT: `ref` is not the name of one. */
int builtin_archive(const char *ref, int *ret, struct err *err);

/* Brings it into the store where it is missing. fn: r 0 at the end, also where there was nothing to do. */
int builtin_install(struct image_store *store, image_done_fn fn, void *data, struct err *err);
