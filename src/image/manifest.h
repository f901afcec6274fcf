/* Manifests, indexes and configurations as registries and archives carry them: OCI image-spec v1 (manifest.md,
 * image-index.md, config.md) and Docker's image manifest version 2, schema 2. All of it comes from outside: what is
 * ambiguous is refused (CVE-2021-41190), digests are checked before anything is named by them, unknown members are
 * ignored. Nothing here touches a disk. */
#pragma once

#include "base/err.h"
#include "json/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_LAYERS_MAX 127
#define IMAGE_JSON_MAX (4U << 20) /* any manifest, index or configuration */
#define IMAGE_VALUES_MAX 16384    /* in it: an image keeps its configuration in memory */
#define IMAGE_INDEX_MAX 1024      /* descriptors in an index */
#define IMAGE_DIGEST_MAX 80
#define IMAGE_MEDIA_MAX 256 /* twice 127, a slash, NUL: RFC 6838, section 4.2 */

#define MEDIA_OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define MEDIA_OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define MEDIA_OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define MEDIA_OCI_LAYER "application/vnd.oci.image.layer.v1.tar" /* +gzip, +zstd */
#define MEDIA_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define MEDIA_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"

struct image_descriptor {
        char media_type[IMAGE_MEDIA_MAX]; /* empty where absent */
        char digest[IMAGE_DIGEST_MAX];    /* sha256: and 64 hex digits */
        uint64_t size;
};

struct image_manifest {
        struct image_descriptor config;
        struct image_descriptor *layers; /* lowest first */
        size_t n_layers;
};

/* One manifest of an image for which there is a file system. -EBADMSG. */
int image_manifest_parse(const char *text, size_t len, struct image_manifest *ret, struct err *err);
void image_manifest_done(struct image_manifest *m);
#define auto_manifest __attribute__((cleanup(image_manifest_done))) struct image_manifest

struct image_index_entry {
        struct image_descriptor descriptor;
        bool nested;                                /* an index */
        bool attestation;                           /* describes another image and is none (buildkit) */
        bool unknown;                               /* of a type that is neither, to be passed over (image-index.md) */
        char os[32], architecture[32], variant[32]; /* empty where no platform is given */
        char name[512];                             /* io.containerd.image.name, or org.opencontainers.image.ref.name */
};

struct image_index {
        struct image_index_entry *entries;
        size_t n;
};

int image_index_parse(const char *text, size_t len, struct image_index *ret, struct err *err);
void image_index_done(struct image_index *x);
#define auto_index __attribute__((cleanup(image_index_done))) struct image_index

/* The entry for linux on this architecture ("amd64", "arm64"): by platform, the plain or v8 variant first; an entry
 * without a platform is taken where it is the only one. NULL: none. */
const struct image_index_entry *image_index_choose(const struct image_index *x, const char *architecture);
const char *image_host_architecture(void); /* GOARCH of this build */

/* What of a configuration matters here. */
struct image_config {
        char created[40], architecture[32], os[32], variant[32], stop_signal[32];
        char **entrypoint, **cmd, **env; /* NULL where absent */
        char *workdir, *user;            /* "" where absent */
        char (*diff_ids)[65];            /* hex, lowest first */
        size_t n_diff_ids;
        json_t *json; /* all of it */
};

int image_config_parse(const char *text, size_t len, struct image_config *ret, struct err *err);
void image_config_done(struct image_config *c);
#define auto_config __attribute__((cleanup(image_config_done))) struct image_config

/* The file oci-layout (image-layout.md): of a version that is known here, 1.x. -EBADMSG. */
int image_layout_version(const char *text, size_t len, struct err *err);

/* Docker's manifest.json in archives of `docker save`. */
struct image_saved {
        char *config;          /* names in the archive */
        char **layers, **tags; /* NULL-terminated; tags may be NULL */
};
struct image_saved_list {
        struct image_saved *items;
        size_t n;
};
#define IMAGE_SAVED_MAX 256
int image_saved_parse(const char *text, size_t len, struct image_saved_list *ret, struct err *err);
void image_saved_done(struct image_saved_list *l);
#define auto_saved __attribute__((cleanup(image_saved_done))) struct image_saved_list

/* Name of the tree that these layers make: SHA-256 over their diff_ids, each with a line feed. */
int image_tree_name(const char (*diff_ids)[65], size_t n, char out[65], struct err *err);

int image_sha256_text(const void *data, size_t len, char digest[IMAGE_DIGEST_MAX], struct err *err);
