#include "image/manifest.h"

#include "base/str.h"
#include "image/ref.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX 4096
#define STRING_MAX (128U << 10) /* what execve(2) takes as one argument */
#define URLS_MAX 64
#define BLOB_MAX (UINT64_C(1) << 50)

#define ANNOTATION_NAME "org.opencontainers.image.ref.name"
#define ANNOTATION_CONTAINERD "io.containerd.image.name"
#define ANNOTATION_DOCKER_TYPE "vnd.docker.reference.type"

static int bad(struct err *err, const char *what, const char *text)
{
        return err_set(err, EBADMSG, "%s: %s", what, text);
}

static int read_object(const char *what, const char *text, size_t len, json_t **ret, struct err *err)
{
        struct err inner = ERR_INIT;
        auto_json v = NULL;
        int r;

        if (len > IMAGE_JSON_MAX)
                return bad(err, what, "too large");
        r = json_read_within(text, len, IMAGE_VALUES_MAX, &v, &inner);
        if (r == -ENOMEM)
                return err_oom(err);
        if (r < 0)
                return err_set(err, EBADMSG, "%s: bad JSON: %s", what, inner.text);
        if (!json_is_object(v))
                return bad(err, what, "no JSON object");
        *ret = TAKE_PTR(v);
        return 0;
}

/* A string member without NUL that fits; absent and null are "". */
static int get_text(const json_t *o, const char *name, char *out, size_t size, struct err *err)
{
        const json_t *v = json_object_get(o, name);

        out[0] = '\0';
        if (!v || json_is_null(v))
                return 0;
        if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v) ||
            json_string_length(v) >= size)
                return bad(err, name, "not a string of a sensible length");
        memcpy(out, json_string_value(v), json_string_length(v) + 1);
        return 0;
}

static int get_owned(const json_t *o, const char *name, char **ret, struct err *err)
{
        const json_t *v = json_object_get(o, name);
        const char *s = v && !json_is_null(v) ? json_string_value(v) : "";

        if (!s || (*s && (strlen(s) != json_string_length(v) || strlen(s) > STRING_MAX)))
                return bad(err, name, "not a string of a sensible length");
        *ret = strdup(s);
        return *ret ? 0 : err_oom(err);
}

static int get_strings(const json_t *o, const char *name, size_t max, char ***ret, struct err *err)
{
        const json_t *v = json_object_get(o, name), *s;
        auto_strv list = NULL;
        size_t i;

        *ret = NULL;
        if (!v || json_is_null(v))
                return 0;
        if (!json_is_array(v) || json_array_size(v) > max)
                return bad(err, name, "not a list of strings, or too long");
        list = calloc(1, sizeof(*list));
        if (!list)
                return err_oom(err);
        json_array_foreach(v, i, s) {
                if (!json_is_string(s) || strlen(json_string_value(s)) != json_string_length(s) ||
                    json_string_length(s) > STRING_MAX)
                        return bad(err, name, "not a list of strings, or one is too long");
                if (strv_add(&list, json_string_value(s)) < 0)
                        return err_oom(err);
        }
        *ret = TAKE_PTR(list);
        return 0;
}

/* restricted-name of RFC 6838, section 4.2; the bytes it took, 0: it is none. */
static size_t media_name(const char *s)
{
        static const char more[] = "!#$&-^_.+";
        size_t n = 0;

        while (isalnum((unsigned char)s[n]) || (n > 0 && s[n] && strchr(more, s[n])))
                n++;
        return n <= 127 ? n : 0;
}

static bool media_type_valid(const char *s)
{
        size_t type = media_name(s), subtype;

        if (type == 0 || s[type] != '/')
                return false;
        subtype = media_name(s + type + 1);
        return subtype > 0 && !s[type + 1 + subtype];
}

/* A media type, or "" where it is absent. */
static int get_media(const json_t *o, const char *name, char out[IMAGE_MEDIA_MAX], struct err *err)
{
        int r = get_text(o, name, out, IMAGE_MEDIA_MAX, err);

        if (r == 0 && out[0] && !media_type_valid(out))
                r = bad(err, name, "no media type");
        return r;
}

/* RFC 3986, section 3: a scheme, and more. */
static bool is_uri(const char *s)
{
        size_t n = 0;

        while (isalnum((unsigned char)s[n]) || (n > 0 && s[n] && strchr("+-.", s[n])))
                n++;
        return isalpha((unsigned char)s[0]) && s[n] == ':' && s[n + 1];
}

/* Members of a descriptor that nothing here follows, but that must be what they are to be. */
static int check_others(const json_t *o, struct err *err)
{
        const json_t *data = json_object_get(o, "data");
        auto_str decoded = STR_INIT;
        char media[IMAGE_MEDIA_MAX];
        auto_strv urls = NULL;
        int r;

        r = get_media(o, "artifactType", media, err);
        if (r == 0)
                r = get_strings(o, "urls", URLS_MAX, &urls, err);
        if (r < 0)
                return r;
        for (char **u = urls; u && *u; u++) {
                if (!is_uri(*u))
                        return bad(err, "urls", "one is no URL");
        }
        if (data && !json_is_null(data) &&
            (!json_is_string(data) || base64_decode(&decoded, json_string_value(data), json_string_length(data)) < 0 ||
             (json_int_t)decoded.len != json_integer_value(json_object_get(o, "size"))))
                return bad(err, "data", "not the contents in base64");
        return 0;
}

static int get_descriptor(const json_t *o, struct image_descriptor *ret, struct err *err)
{
        const json_t *size = json_object_get(o, "size");
        int r;

        if (!json_is_object(o))
                return bad(err, "descriptor", "no JSON object");
        r = get_media(o, "mediaType", ret->media_type, err);
        if (r == 0)
                r = get_text(o, "digest", ret->digest, sizeof(ret->digest), err);
        if (r == 0)
                r = image_digest_parse(ret->digest, err);
        if (r < 0)
                return err_set(err, EBADMSG, "descriptor: no valid digest or media type");
        if (!json_is_integer(size) || json_integer_value(size) < 0 || (uint64_t)json_integer_value(size) > BLOB_MAX)
                return bad(err, "descriptor", "no valid size");
        ret->size = (uint64_t)json_integer_value(size);
        return check_others(o, err);
}

static int check_schema(const json_t *o, const char *what, const char *oci, const char *docker, struct err *err)
{
        const json_t *version = json_object_get(o, "schemaVersion"), *subject = json_object_get(o, "subject");
        char media[IMAGE_MEDIA_MAX];
        int r;

        r = get_text(o, "mediaType", media, sizeof(media), err);
        if (r < 0)
                return r;
        if (json_is_integer(version) && json_integer_value(version) == 1)
                return bad(err, what, "schema version 1 is not supported");
        if (!json_is_integer(version) || json_integer_value(version) != 2)
                return bad(err, what, "schemaVersion is not 2");
        if (media[0] && !str_eq(media, oci) && !str_eq(media, docker))
                return bad(err, what, "its media type is another one");
        if (subject && !json_is_null(subject) && !json_is_object(subject))
                return bad(err, what, "its subject is no descriptor");
        return get_media(o, "artifactType", media, err);
}

static bool is_layer_type(const char *media)
{
        static const char *const types[] = {
                MEDIA_OCI_LAYER,
                MEDIA_OCI_LAYER "+gzip",
                MEDIA_OCI_LAYER "+zstd",
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                "application/vnd.docker.image.rootfs.diff.tar",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
        };

        for (size_t i = 0; i < ARRAY_LEN(types); i++) {
                if (str_eq(media, types[i]))
                        return true;
        }
        return false;
}

static int parse_layers(const json_t *v, struct image_manifest *m, struct err *err)
{
        const json_t *layer;
        size_t i;

        if (!json_is_array(v) || json_array_size(v) > IMAGE_LAYERS_MAX)
                return err_set(err, EBADMSG, "manifest: no list of at most %d layers", IMAGE_LAYERS_MAX);
        m->layers = calloc(json_array_size(v) + 1, sizeof(*m->layers));
        if (!m->layers)
                return err_oom(err);
        json_array_foreach(v, i, layer) {
                struct image_descriptor *d = &m->layers[m->n_layers];
                int r = get_descriptor(layer, d, err);

                if (r < 0)
                        return err_wrap(err, "manifest: layer %zu", i + 1);
                if (!is_layer_type(d->media_type))
                        return err_set(err, EBADMSG, "manifest: layer %zu is no file system layer (%s)", i + 1,
                                       d->media_type);
                m->n_layers++;
        }
        return 0;
}

int image_manifest_parse(const char *text, size_t len, struct image_manifest *ret, struct err *err)
{
        auto_manifest m = { .layers = NULL };
        auto_json o = NULL;
        int r;

        r = read_object("manifest", text, len, &o, err);
        if (r == 0)
                r = check_schema(o, "manifest", MEDIA_OCI_MANIFEST, MEDIA_DOCKER_MANIFEST, err);
        if (r < 0)
                return r;
        if (json_object_get(o, "manifests") || json_object_get(o, "fsLayers"))
                return bad(err, "manifest", "it says to be something else, too");
        r = get_descriptor(json_object_get(o, "config"), &m.config, err);
        if (r < 0)
                return err_wrap(err, "manifest: config");
        if (!str_eq(m.config.media_type, MEDIA_OCI_CONFIG) &&
            !str_eq(m.config.media_type, "application/vnd.docker.container.image.v1+json"))
                return err_set(err, EBADMSG, "manifest: this is no container image but %s",
                               m.config.media_type[0] ? m.config.media_type : "unknown");
        r = parse_layers(json_object_get(o, "layers"), &m, err);
        if (r < 0)
                return r;
        *ret = m;
        m = (struct image_manifest){ .layers = NULL };
        return 0;
}

void image_manifest_done(struct image_manifest *m)
{
        free(m->layers);
        *m = (struct image_manifest){ .layers = NULL };
}

static int parse_entry(const json_t *v, struct image_index_entry *e, struct err *err)
{
        const json_t *platform = json_object_get(v, "platform"), *notes = json_object_get(v, "annotations");
        char type[64] = "";
        int r;

        r = get_descriptor(v, &e->descriptor, err);
        if (r == 0)
                r = get_text(platform, "os", e->os, sizeof(e->os), err);
        if (r == 0)
                r = get_text(platform, "architecture", e->architecture, sizeof(e->architecture), err);
        if (r == 0)
                r = get_text(platform, "variant", e->variant, sizeof(e->variant), err);
        if (r == 0)
                r = get_text(notes, ANNOTATION_CONTAINERD, e->name, sizeof(e->name), err);
        if (r == 0 && !e->name[0])
                r = get_text(notes, ANNOTATION_NAME, e->name, sizeof(e->name), err);
        if (r == 0)
                r = get_text(notes, ANNOTATION_DOCKER_TYPE, type, sizeof(type), err);
        e->nested = str_eq(e->descriptor.media_type, MEDIA_OCI_INDEX) ||
                    str_eq(e->descriptor.media_type, MEDIA_DOCKER_LIST);
        e->unknown = e->descriptor.media_type[0] && !e->nested &&
                     !str_eq(e->descriptor.media_type, MEDIA_OCI_MANIFEST) &&
                     !str_eq(e->descriptor.media_type, MEDIA_DOCKER_MANIFEST);
        e->attestation = str_eq(type, "attestation-manifest") || str_eq(e->os, "unknown");
        return r;
}

int image_index_parse(const char *text, size_t len, struct image_index *ret, struct err *err)
{
        auto_index x = { .entries = NULL };
        const json_t *list, *v;
        auto_json o = NULL;
        size_t i;
        int r;

        r = read_object("index", text, len, &o, err);
        if (r == 0)
                r = check_schema(o, "index", MEDIA_OCI_INDEX, MEDIA_DOCKER_LIST, err);
        if (r < 0)
                return r;
        if (json_object_get(o, "layers") || json_object_get(o, "config") || json_object_get(o, "fsLayers"))
                return bad(err, "index", "it says to be something else, too");
        list = json_object_get(o, "manifests");
        if (!json_is_array(list) || json_array_size(list) > IMAGE_INDEX_MAX)
                return err_set(err, EBADMSG, "index: no list of at most %d manifests", IMAGE_INDEX_MAX);
        x.entries = calloc(json_array_size(list) + 1, sizeof(*x.entries));
        if (!x.entries)
                return err_oom(err);
        json_array_foreach(list, i, v) {
                r = parse_entry(v, &x.entries[x.n++], err);
                if (r < 0)
                        return err_wrap(err, "index: manifest %zu", i + 1);
        }
        *ret = x;
        x.entries = NULL;
        x.n = 0;
        return 0;
}

void image_index_done(struct image_index *x)
{
        free(x->entries);
        *x = (struct image_index){ .entries = NULL };
}

const char *image_host_architecture(void)
{
#if defined(__x86_64__)
        return "amd64";
#elif defined(__aarch64__)
        return "arm64";
#else
        return "unknown";
#endif
}

/* How well an entry suits: 0 not at all. */
static int suits(const struct image_index_entry *e, const char *architecture)
{
        if (e->attestation || e->unknown)
                return 0;
        if (!e->os[0] && !e->architecture[0])
                return 1;
        if (!str_eq(e->os, "linux") || !str_eq(e->architecture, architecture))
                return 0;
        /* amd64/v2 and beyond may need what this processor lacks; arm64 is always v8. */
        if (!e->variant[0] || str_eq(e->variant, "v8") || str_eq(e->variant, "v1"))
                return 3;
        return 2;
}

const struct image_index_entry *image_index_choose(const struct image_index *x, const char *architecture)
{
        const struct image_index_entry *best = NULL;
        int best_suits = 0, unnamed = 0;

        for (size_t i = 0; i < x->n; i++) {
                int s = suits(&x->entries[i], architecture);

                unnamed += s == 1;
                if (s > best_suits) {
                        best = &x->entries[i];
                        best_suits = s;
                }
        }
        return best_suits == 1 && unnamed > 1 ? NULL : best;
}

static int parse_diff_ids(const json_t *rootfs, struct image_config *c, struct err *err)
{
        const json_t *list = json_object_get(rootfs, "diff_ids"), *v;
        const char *type = json_string_value(json_object_get(rootfs, "type"));
        size_t i;

        if (!json_is_object(rootfs) || !str_eq(type, "layers") ||
            (list && !json_is_null(list) && (!json_is_array(list) || json_array_size(list) > IMAGE_LAYERS_MAX)))
                return bad(err, "configuration", "no list of at most 127 diff_ids");
        c->diff_ids = calloc(json_array_size(list) + 1, sizeof(*c->diff_ids));
        if (!c->diff_ids)
                return err_oom(err);
        json_array_foreach(list, i, v) {
                const char *s = json_string_value(v);

                if (!s || strlen(s) != json_string_length(v) || !image_digest_valid(s))
                        return bad(err, "configuration", "a diff_id is no sha256 digest");
                memcpy(c->diff_ids[c->n_diff_ids++], s + strlen("sha256:"), 65);
        }
        return 0;
}

static int check_env(char *const *env, struct err *err)
{
        for (; env && *env; env++) {
                if ((*env)[0] == '=' || !strchr(*env, '='))
                        return bad(err, "configuration", "an entry of Env is not of the form K=V");
        }
        return 0;
}

static int parse_process(const json_t *o, struct image_config *c, struct err *err)
{
        int r;

        if (o && !json_is_null(o) && !json_is_object(o))
                return bad(err, "configuration", "config is no JSON object");
        r = get_strings(o, "Entrypoint", ARGS_MAX, &c->entrypoint, err);
        if (r == 0)
                r = get_strings(o, "Cmd", ARGS_MAX, &c->cmd, err);
        if (r == 0)
                r = get_strings(o, "Env", ARGS_MAX, &c->env, err);
        if (r == 0)
                r = check_env(c->env, err);
        if (r == 0)
                r = get_owned(o, "WorkingDir", &c->workdir, err);
        if (r == 0)
                r = get_owned(o, "User", &c->user, err);
        if (r == 0)
                r = get_text(o, "StopSignal", c->stop_signal, sizeof(c->stop_signal), err);
        return r;
}

int image_config_parse(const char *text, size_t len, struct image_config *ret, struct err *err)
{
        auto_config c = { .json = NULL };
        int r;

        r = read_object("configuration", text, len, &c.json, err);
        if (r == 0)
                r = get_text(c.json, "created", c.created, sizeof(c.created), err);
        if (r == 0)
                r = get_text(c.json, "architecture", c.architecture, sizeof(c.architecture), err);
        if (r == 0)
                r = get_text(c.json, "os", c.os, sizeof(c.os), err);
        if (r == 0)
                r = get_text(c.json, "variant", c.variant, sizeof(c.variant), err);
        if (r == 0 && c.os[0] && !str_eq(c.os, "linux"))
                r = err_set(err, EBADMSG, "configuration: the image is for %s, not linux", c.os);
        if (r == 0)
                r = parse_diff_ids(json_object_get(c.json, "rootfs"), &c, err);
        if (r == 0)
                r = parse_process(json_object_get(c.json, "config"), &c, err);
        if (r < 0)
                return r;
        *ret = c;
        c = (struct image_config){ .json = NULL };
        return 0;
}

void image_config_done(struct image_config *c)
{
        strv_free(c->entrypoint);
        strv_free(c->cmd);
        strv_free(c->env);
        free(c->workdir);
        free(c->user);
        free(c->diff_ids);
        json_decref(c->json);
        *c = (struct image_config){ .json = NULL };
}

int image_layout_version(const char *text, size_t len, struct err *err)
{
        auto_json o = NULL;
        const char *version;
        int r = len > IMAGE_JSON_MAX ? -EBADMSG : json_read(text, len, &o, NULL);

        if (r == -ENOMEM)
                return err_oom(err);
        version = r < 0 ? NULL : json_string_value(json_object_get(o, "imageLayoutVersion"));
        if (!version)
                return bad(err, "oci-layout", "no JSON object with an imageLayoutVersion");
        return str_starts(version, "1.") ? 0 : bad(err, "oci-layout", "the layout's version is not 1");
}

static int parse_saved(const json_t *o, struct image_saved *s, struct err *err)
{
        int r;

        if (!json_is_object(o))
                return bad(err, "manifest.json", "an entry is no JSON object");
        r = get_owned(o, "Config", &s->config, err);
        if (r == 0)
                r = get_strings(o, "Layers", IMAGE_LAYERS_MAX, &s->layers, err);
        if (r == 0)
                r = get_strings(o, "RepoTags", IMAGE_INDEX_MAX, &s->tags, err);
        if (r == 0 && !s->config[0])
                r = bad(err, "manifest.json", "an entry without Config");
        return r;
}

int image_saved_parse(const char *text, size_t len, struct image_saved_list *ret, struct err *err)
{
        auto_saved l = { .items = NULL };
        auto_json list = NULL;
        const json_t *v;
        size_t i;
        int r;

        if (len > IMAGE_JSON_MAX)
                return bad(err, "manifest.json", "too large");
        r = json_read(text, len, &list, NULL);
        if (r == -ENOMEM)
                return err_oom(err);
        if (r < 0 || !json_is_array(list) || json_array_size(list) > IMAGE_SAVED_MAX)
                return bad(err, "manifest.json", "no JSON list of images");
        l.items = calloc(json_array_size(list) + 1, sizeof(*l.items));
        if (!l.items)
                return err_oom(err);
        json_array_foreach(list, i, v) {
                r = parse_saved(v, &l.items[l.n++], err);
                if (r < 0)
                        return r;
        }
        *ret = l;
        l.items = NULL;
        l.n = 0;
        return 0;
}

void image_saved_done(struct image_saved_list *l)
{
        for (size_t i = 0; i < l->n; i++) {
                free(l->items[i].config);
                strv_free(l->items[i].layers);
                strv_free(l->items[i].tags);
        }
        free(l->items);
        *l = (struct image_saved_list){ .items = NULL };
}

int image_sha256_text(const void *data, size_t len, char digest[IMAGE_DIGEST_MAX], struct err *err)
{
        unsigned char hash[SHA256_DIGEST_LENGTH];

        if (EVP_Digest(data, len, hash, NULL, EVP_sha256(), NULL) != 1)
                return err_set(err, EIO, "cannot compute SHA-256");
        (void)snprintf(digest, IMAGE_DIGEST_MAX, "sha256:");
        hex_encode(hash, sizeof(hash), digest + 7);
        return 0;
}

int image_tree_name(const char (*diff_ids)[65], size_t n, char out[65], struct err *err)
{
        char digest[IMAGE_DIGEST_MAX];
        auto_str text = STR_INIT;
        int r;

        for (size_t i = 0; i < n; i++) {
                if (str_addf(&text, "sha256:%s\n", diff_ids[i]) < 0)
                        return err_oom(err);
        }
        r = image_sha256_text(text.data ? text.data : "", text.len, digest, err);
        if (r == 0)
                memcpy(out, digest + 7, 65);
        return r;
}
