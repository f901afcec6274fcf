/* Image references: the grammar of distribution/reference, which Docker uses. */
#pragma once

#include "base/err.h"

#define REF_TEXT_MAX 512

/* Parts of a reference; empty where absent. */
struct image_ref {
        char domain[256];       /* docker.io, localhost:5000, [::1]:5000 */
        char path[256];         /* library/busybox */
        char tag[129];
        char digest[160];       /* algorithm:hex */
};

/* reference.ParseNormalizedNamed: "busybox" is docker.io/library/busybox. No tag is added. */
int image_ref_parse_normalized(const char *s, struct image_ref *ret, struct err *err);

/* reference.Parse, as written: no default domain (domain may be empty); anything but a bare digest needs a name. */
int image_ref_parse(const char *s, struct image_ref *ret, struct err *err);

/* reference.ParseDockerRef: normalised, "latest" where neither tag nor digest, the tag dropped where both. */
int image_ref_parse_docker(const char *s, struct image_ref *ret, struct err *err);

void image_ref_format(const struct image_ref *ref, char out[REF_TEXT_MAX]);
void image_ref_familiar(const struct image_ref *ref, char out[REF_TEXT_MAX]); /* docker.io/library/ left out */
