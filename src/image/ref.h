/* Image references: the grammar of distribution/reference, which Docker uses. */
#pragma once

#include "base/err.h"

#include <stdbool.h>

#define REF_TEXT_MAX 512
#define IMAGE_BUILTIN_DOMAIN "mayfly.internal" /* reserved for what is part of Mayfly; no registry */

/* Parts of a reference; empty where absent. A whole reference has at most REF_TEXT_MAX - 1 bytes. */
struct image_ref {
        char domain[256]; /* docker.io, localhost:5000, [::1]:5000 */
        char path[256];   /* library/busybox */
        char tag[129];
        char digest[160]; /* algorithm:hex; only sha256 is known */
};

/* All of these: -EINVAL with upstream's text; -ENAMETOOLONG where the whole is too long for REF_TEXT_MAX. */

/* reference.ParseNormalizedNamed: "busybox" is docker.io/library/busybox. No tag is added. */
int image_ref_parse_normalized(const char *s, struct image_ref *ret, struct err *err);

/* reference.Parse, as written: no default domain (domain may be empty). */
int image_ref_parse(const char *s, struct image_ref *ret, struct err *err);

/* reference.ParseDockerRef: normalised, "latest" where neither tag nor digest, the tag dropped where both. */
int image_ref_parse_docker(const char *s, struct image_ref *ret, struct err *err);

/* reference.ParseNamed: normalised already, or an error. */
int image_ref_parse_named(const char *s, struct image_ref *ret, struct err *err);

/* reference.ParseAnyReference: as normalised, but 64 hex digits or a bare digest are a digest without a name. */
int image_ref_parse_any(const char *s, struct image_ref *ret, struct err *err);

/* reference.WithName: a name alone, neither tag nor digest. */
int image_ref_with_name(const char *name, struct image_ref *ret, struct err *err);

/* Whether nobody can give such a name: of what is part of Mayfly, and what reads as a digest ("sha256:1234"), by which it
 * could not be found. */
bool image_ref_is_reserved(const struct image_ref *ref);

/* digest.Parse of opencontainers/go-digest: sha256 and 64 hex digits in lower case. */
bool image_digest_valid(const char *s);
int image_digest_parse(const char *s, struct err *err);

void image_ref_format(const struct image_ref *ref, char out[REF_TEXT_MAX]);
void image_ref_familiar(const struct image_ref *ref, char out[REF_TEXT_MAX]); /* docker.io/library/ left out */
