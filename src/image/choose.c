#include "image/choose.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"

static const char *text_of(const json_t *o, const char *name)
{
        const char *s = json_string_value(json_object_get(o, name));

        return s ? s : "";
}

static bool is_index_type(const char *media)
{
        return str_eq(media, MEDIA_OCI_INDEX) || str_eq(media, MEDIA_DOCKER_LIST);
}

static bool is_image_type(const char *media)
{
        return str_eq(media, MEDIA_OCI_MANIFEST) || str_eq(media, MEDIA_DOCKER_MANIFEST);
}

/* Charts, signatures, models: a configuration of another type, or none (image-spec, manifest.md, «Guidelines for Artifact
 * Usage»). */
static int check_artifact(const json_t *o, struct err *err)
{
        const char *config = text_of(json_object_get(o, "config"), "mediaType"), *artifact = text_of(o, "artifactType");
        char shown[STR_SHOWN_MAX];

        if (str_eq(config, MEDIA_OCI_CONFIG) || str_eq(config, DOCKER_CONFIG))
                return 0;
        return err_set(err, EOPNOTSUPP, "it is no container image but an artifact of type %s",
                       str_show(*artifact ? artifact
                                : *config ? config
                                          : "unknown",
                                shown));
}

int manifest_kind(const char *text, size_t len, const char *content_type, enum manifest_kind *ret,
                  char ret_media[IMAGE_MEDIA_MAX], struct err *err)
{
        char shown[STR_SHOWN_MAX];
        const char *said, *media;
        auto_json o = NULL;
        bool named;

        if (len > IMAGE_JSON_MAX || json_read(text, len, &o, NULL) < 0 || !json_is_object(o))
                return err_set(err, EBADMSG, "its manifest is no JSON object");
        said = text_of(o, "mediaType");
        if (json_integer_value(json_object_get(o, "schemaVersion")) == 1 || json_object_get(o, "fsLayers"))
                return err_set(err, EOPNOTSUPP, "its manifest has schema version 1, which nobody pushes any more");
        named = is_index_type(content_type) || is_image_type(content_type);
        /* Two answers to what it is (CVE-2021-41190). */
        if (named && *said && !str_eq(said, content_type))
                return err_set(err, EBADMSG, "its manifest says to be something else than the registry does: %s",
                               str_show(said, shown));
        if (json_object_get(o, "manifests") && (json_object_get(o, "layers") || json_object_get(o, "config")))
                return err_set(err, EBADMSG, "its manifest is ambiguous: an image and an index");
        media = named                             ? content_type
                : *said                           ? said
                : json_object_get(o, "manifests") ? MEDIA_OCI_INDEX
                                                  : MEDIA_OCI_MANIFEST;
        if (!is_index_type(media) && !is_image_type(media))
                return err_set(err, EOPNOTSUPP, "its manifest is of type %s", str_show(media, shown));
        *ret = is_index_type(media) ? MANIFEST_INDEX : MANIFEST_IMAGE;
        (void)snprintf(ret_media, IMAGE_MEDIA_MAX, "%s", media);
        return *ret == MANIFEST_IMAGE ? check_artifact(o, err) : 0;
}

static void list_platforms(const struct image_index *x, char *out, size_t size)
{
        size_t at = 0;

        out[0] = '\0';
        for (size_t i = 0; i < x->n && at + 1 < size; i++) {
                const struct image_index_entry *e = &x->entries[i];
                char os[STR_SHOWN_MAX], architecture[STR_SHOWN_MAX];
                int n;

                if (e->attestation || !e->os[0])
                        continue;
                n = snprintf(out + at, size - at, "%s%s/%s%s%s", at ? ", " : "", str_show(e->os, os),
                             str_show(e->architecture, architecture), e->variant[0] ? "/" : "", e->variant);
                at = n < 0 || (size_t)n >= size - at ? size : at + (size_t)n;
        }
}

int manifest_choose(const char *text, size_t len, struct image_descriptor *ret, struct err *err)
{
        auto_index x = { .entries = NULL };
        const struct image_index_entry *e;
        char platforms[200];
        int r = image_index_parse(text, len, &x, err);

        if (r < 0)
                return r;
        e = image_index_choose(&x, image_host_architecture());
        if (!e) {
                list_platforms(&x, platforms, sizeof(platforms));
                return err_set(err, EOPNOTSUPP, "it has nothing for linux/%s, but for: %s", image_host_architecture(),
                               *platforms ? platforms : "nothing");
        }
        if (e->nested || (e->descriptor.media_type[0] && !is_image_type(e->descriptor.media_type)))
                return err_set(err, EOPNOTSUPP, "its index names no manifest for linux/%s, but %s",
                               image_host_architecture(), e->nested ? "another index" : "something else");
        if (e->descriptor.size > IMAGE_JSON_MAX)
                return err_set(err, EBADMSG, "its manifest is larger than %u bytes", IMAGE_JSON_MAX);
        *ret = e->descriptor;
        return 0;
}
