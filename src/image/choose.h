/* What a registry answered for a manifest: an image, or several of which one is for this host, or something else. */
#pragma once

#include "base/err.h"
#include "image/manifest.h"

enum manifest_kind { MANIFEST_IMAGE, MANIFEST_INDEX };

/* content_type: of the answer; "" where absent. ret_media: what it is. -EOPNOTSUPP: an artifact, another schema; -EBADMSG. */
int manifest_kind(const char *text, size_t len, const char *content_type, enum manifest_kind *ret,
                  char ret_media[IMAGE_MEDIA_MAX], struct err *err);

/* The entry of an index that is for this host. -EOPNOTSUPP: there is none (the text lists those that there are), or it is an
 * index again. */
int manifest_choose(const char *text, size_t len, struct image_descriptor *ret, struct err *err);
