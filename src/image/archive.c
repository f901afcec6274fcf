#include "image/archive.h"

#include "base/map.h"
#include "base/str.h"
#include "image/ref.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENTRIES_MAX 100000
#define LINKS_MAX 8
#define NESTED_MAX 4
#define PATH_LEN_MAX 4096

enum entry_type { ENTRY_FILE, ENTRY_DIR, ENTRY_SYMLINK, ENTRY_LINK };

struct entry {
        enum entry_type type;
        uint64_t offset, size;
        const char *target; /* borrowed from the report */
        char *digest;       /* of the blob that it has become, or NULL */
};

struct archive {
        const struct image_layout *layout;
        json_t *report;
        struct entry *entries;
        size_t n_entries;
        struct map *by_name; /* values: struct entry * */
        int fd;
        uint64_t fd_size;
        struct image_found_list found;
        struct known *known; /* manifests of index.json, beside manifest.json */
        size_t n_known;
};

struct known {
        struct image_descriptor manifest;
        struct image_manifest parts;
};

static void archive_done(struct archive *a)
{
        json_decref(a->report);
        for (size_t i = 0; i < a->n_entries; i++)
                free(a->entries[i].digest);
        free(a->entries);
        map_free(a->by_name);
        image_found_done(&a->found);
        for (size_t i = 0; i < a->n_known; i++)
                image_manifest_done(&a->known[i].parts);
        free(a->known);
}

void image_found_done(struct image_found_list *l)
{
        for (size_t i = 0; i < l->n; i++)
                strv_free(l->items[i].names);
        free(l->items);
        *l = (struct image_found_list){ .items = NULL };
}

/* ── the index of the archive ─────────────────────────────────────────────────────────────────────────────────────── */

static int type_of(const char *s)
{
        static const char *const types[] = { "file", "dir", "symlink", "link" };

        for (int i = 0; i < (int)ARRAY_LEN(types); i++) {
                if (str_eq(s, types[i]))
                        return i;
        }
        return -1;
}

/* The worker is no more trusted than the archive: offsets must lie within it. */
static int take_entry(struct archive *a, const json_t *v, struct entry *e)
{
        const char *name = json_string_value(json_object_get(v, "name"));
        json_int_t offset = json_integer_value(json_object_get(v, "offset"));
        json_int_t size = json_integer_value(json_object_get(v, "size"));
        int type = type_of(json_string_value(json_object_get(v, "type")));

        if (!name || type < 0 || offset < 0 || size < 0)
                return -EBADMSG;
        *e = (struct entry){ .type = (enum entry_type)type, .offset = (uint64_t)offset, .size = (uint64_t)size };
        if (e->type == ENTRY_FILE && (e->offset > a->fd_size || e->size > a->fd_size - e->offset))
                return -EBADMSG;
        if (e->type == ENTRY_SYMLINK || e->type == ENTRY_LINK) {
                e->target = json_string_value(json_object_get(v, "target"));
                if (!e->target)
                        return -EBADMSG;
        }
        return map_set(a->by_name, name, e);
}

static int open_archive(struct archive *a, const char *report, size_t len, int archive_fd, int plain_fd,
                        struct err *err)
{
        const json_t *list, *v;
        const char *compression;
        struct stat st;
        size_t i;

        if (json_read(report, len, &a->report, NULL) < 0 || !json_is_object(a->report))
                return err_set(err, EIO, "the worker's report cannot be read");
        compression = json_string_value(json_object_get(a->report, "compression"));
        list = json_object_get(a->report, "entries");
        if (!compression || !json_is_array(list) || json_array_size(list) > ENTRIES_MAX)
                return err_set(err, EIO, "the worker's report cannot be read");
        a->fd = str_eq(compression, "none") ? archive_fd : plain_fd;
        if (fstat(a->fd, &st) < 0)
                return err_sys(err, "read the archive");
        a->fd_size = (uint64_t)st.st_size;
        a->entries = calloc(json_array_size(list) + 1, sizeof(*a->entries));
        a->by_name = map_new();
        if (!a->entries || !a->by_name)
                return err_oom(err);
        json_array_foreach(list, i, v) {
                int r = take_entry(a, v, &a->entries[i]);

                a->n_entries = i + 1;
                if (r < 0)
                        return r == -ENOMEM ? err_oom(err) : err_set(err, EIO, "the worker's report is wrong");
        }
        return 0;
}

/* target, relative to the directory of `name`, without "." and ".."; false if it leads out of the archive. */
static bool join(const char *name, const char *target, char out[PATH_LEN_MAX])
{
        const char *slash = strrchr(name, '/');
        size_t n = slash && target[0] != '/' ? (size_t)(slash - name) : 0;

        if (n >= PATH_LEN_MAX)
                return false;
        memcpy(out, name, n);
        for (const char *p = target; *p; p += strspn(p, "/")) {
                size_t len = strcspn(p, "/");

                if (len == 2 && p[0] == '.' && p[1] == '.') {
                        if (n == 0)
                                return false;
                        while (n > 0 && out[n - 1] != '/')
                                n--;
                        n -= n > 0;
                } else if (len > 0 && !(len == 1 && p[0] == '.')) {
                        if (n + len + 2 > PATH_LEN_MAX)
                                return false;
                        if (n > 0)
                                out[n++] = '/';
                        memcpy(out + n, p, len);
                        n += len;
                }
                p += len;
        }
        out[n] = '\0';
        return true;
}

/* The file of a name, links followed within the archive: `docker save` once wrote a layer that it had already as one. */
static struct entry *find(const struct archive *a, const char *name)
{
        char path[PATH_LEN_MAX], next[PATH_LEN_MAX];

        if (!join("", name, path))
                return NULL;
        for (int i = 0; i < LINKS_MAX; i++) {
                struct entry *e = map_find(a->by_name, path);

                if (!e || e->type == ENTRY_DIR)
                        return NULL;
                if (e->type == ENTRY_FILE)
                        return e;
                if (!join(e->type == ENTRY_LINK ? "" : path, e->target, next))
                        return NULL;
                memcpy(path, next, sizeof(path));
        }
        return NULL;
}

static int read_entry(const struct archive *a, const struct entry *e, const char *name, struct str *ret,
                      struct err *err)
{
        char shown[STR_SHOWN_MAX];
        size_t done = 0;

        if (e->size > IMAGE_JSON_MAX)
                return err_set(err, EBADMSG, "'%s' in the archive is too large", str_show(name, shown));
        if (str_reserve(ret, (size_t)e->size + 1) < 0)
                return err_oom(err);
        while (done < e->size) {
                ssize_t n = pread(a->fd, ret->data + done, (size_t)e->size - done, (off_t)(e->offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? err_sys(err, "read the archive") : err_set(err, EBADMSG, "archive cut short");
                done += (size_t)n;
        }
        ret->len = done;
        ret->data[done] = '\0';
        return 0;
}

static int read_file(const struct archive *a, const char *name, struct str *ret, struct err *err)
{
        const struct entry *e = find(a, name);
        char shown[STR_SHOWN_MAX];

        if (!e)
                return err_set(err, EBADMSG, "'%s' is not in the archive", str_show(name, shown));
        return read_entry(a, e, name, ret, err);
}

/* ── what both forms share ────────────────────────────────────────────────────────────────────────────────────────── */

int image_layer_media(int fd, uint64_t offset, char out[IMAGE_MEDIA_MAX], struct err *err)
{
        unsigned char magic[4] = { 0 };
        const char *suffix = "";

        if (pread(fd, magic, sizeof(magic), (off_t)offset) < 0)
                return err_sys(err, "read a layer");
        if (magic[0] == 0x1f && magic[1] == 0x8b)
                suffix = "+gzip";
        else if (memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0)
                suffix = "+zstd";
        (void)snprintf(out, IMAGE_MEDIA_MAX, "%s%s", MEDIA_OCI_LAYER, suffix);
        return 0;
}

static json_t *descriptor_json(const struct image_descriptor *d)
{
        return json_pack("{s:s, s:s, s:I}", "mediaType", d->media_type, "digest", d->digest, "size",
                         (json_int_t)d->size);
}

int image_manifest_store(const struct image_layout *l, const struct image_manifest *m, struct image_descriptor *ret,
                         struct err *err)
{
        auto_json o = json_pack("{s:i, s:s, s:o, s:[]}", "schemaVersion", 2, "mediaType", MEDIA_OCI_MANIFEST, "config",
                                descriptor_json(&m->config), "layers");
        auto_str text = STR_INIT;
        int r;

        if (!o)
                return err_oom(err);
        for (size_t i = 0; i < m->n_layers; i++) {
                if (json_array_append_new(json_object_get(o, "layers"), descriptor_json(&m->layers[i])) < 0)
                        return err_oom(err);
        }
        if (json_write(o, &text) < 0)
                return err_oom(err);
        r = image_layout_put_text(l, text.data, text.len, ret->digest, err);
        if (r < 0)
                return r;
        (void)snprintf(ret->media_type, sizeof(ret->media_type), "%s", MEDIA_OCI_MANIFEST);
        ret->size = text.len;
        return 0;
}

/* Takes names, also on failure. An image that was found already gets more names. */
static int add_found(struct archive *a, const struct image_descriptor *manifest, char **names, struct err *err)
{
        struct image_found *grown;
        auto_strv own = names;

        for (size_t i = 0; i < a->found.n; i++) {
                struct image_found *f = &a->found.items[i];

                if (!str_eq(f->manifest.digest, manifest->digest))
                        continue;
                for (char **n = own; n && *n; n++) {
                        if (strv_add(&f->names, *n) < 0)
                                return err_oom(err);
                }
                return 0;
        }
        grown = realloc(a->found.items, (a->found.n + 1) * sizeof(*grown));
        if (!grown)
                return err_oom(err);
        a->found.items = grown;
        grown[a->found.n++] = (struct image_found){ .manifest = *manifest, .names = TAKE_PTR(own) };
        return 0;
}

/* -EINVAL: it is no name, or a reserved one. */
static int add_name(char ***names, const char *name)
{
        char text[REF_TEXT_MAX];
        struct image_ref ref;

        if (image_ref_parse_docker(name, &ref, NULL) < 0 || ref.digest[0] || image_ref_is_reserved(&ref))
                return -EINVAL;
        image_ref_format(&ref, text);
        return strv_add(names, text);
}

/* The name of a blob is its digest. Older names ("<hex>.json", "<hex>/layer.tar") are ids that docker does not check, and
 * that tools leave as they were when they change what lies behind them. */
static void expected_digest(const char *name, char digest[IMAGE_DIGEST_MAX])
{
        digest[0] = '\0';
        if (str_starts(name, "blobs/sha256/") && hex_is_lower(name + strlen("blobs/sha256/"), 64))
                (void)snprintf(digest, IMAGE_DIGEST_MAX, "sha256:%s", name + strlen("blobs/sha256/"));
}

static int put_file(const struct archive *a, const char *name, struct image_descriptor *d, struct err *err)
{
        struct entry *e = find(a, name);
        char shown[STR_SHOWN_MAX];
        int r;

        if (!e)
                return err_set(err, EBADMSG, "'%s' is not in the archive", str_show(name, shown));
        d->size = e->size;
        /* Images share layers: each is copied once. */
        if (e->digest && (!d->digest[0] || str_eq(d->digest, e->digest))) {
                (void)snprintf(d->digest, sizeof(d->digest), "%s", e->digest);
                return 0;
        }
        r = image_layout_put(a->layout, a->fd, e->offset, e->size, d->digest, err);
        if (r < 0)
                return err_wrap(err, "'%s'", str_show(name, shown));
        free(e->digest);
        e->digest = strdup(d->digest);
        return e->digest ? 0 : err_oom(err);
}

static void blob_name(const char *digest, char out[128])
{
        (void)snprintf(out, 128, "blobs/sha256/%s", digest + strlen("sha256:"));
}

/* Copies what a descriptor names; its size and digest must be as it says. */
static int put_blob(const struct archive *a, const struct image_descriptor *d, struct err *err)
{
        struct image_descriptor copy = *d;
        const struct entry *e;
        char name[128];

        blob_name(d->digest, name);
        e = find(a, name);
        if (e && e->size != d->size)
                return err_set(err, EBADMSG, "blob %s has another size than its descriptor says", d->digest);
        return put_file(a, name, &copy, err);
}

static int read_blob(const struct archive *a, const struct image_descriptor *d, struct str *ret, struct err *err)
{
        char name[128], found[IMAGE_DIGEST_MAX];
        int r;

        blob_name(d->digest, name);
        r = read_file(a, name, ret, err);
        if (r == 0)
                r = image_sha256_text(ret->data, ret->len, found, err);
        if (r < 0)
                return r;
        if (ret->len != d->size || !str_eq(found, d->digest))
                return err_set(err, EBADMSG, "blob %s is not what its descriptor says", d->digest);
        return 0;
}

/* ── docker save ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int put_saved_layers(const struct archive *a, char *const *names, struct image_manifest *m, struct err *err)
{
        size_t n = names ? strv_len(names) : 0;

        m->layers = calloc(n + 1, sizeof(*m->layers));
        if (!m->layers)
                return err_oom(err);
        for (size_t i = 0; i < n; i++) {
                struct image_descriptor *d = &m->layers[m->n_layers++];
                const struct entry *e = find(a, names[i]);
                int r = 0;

                expected_digest(names[i], d->digest);
                if (e)
                        r = image_layer_media(a->fd, e->offset, d->media_type, err);
                if (r == 0)
                        r = put_file(a, names[i], d, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Today's archives of `docker save`, and ours, are layouts, too. There the image has its own manifest, which keeps its digest;
 * only where it says the very same as manifest.json does it count. What cannot be read is not needed. */
static void know(struct archive *a, const struct image_index_entry *e)
{
        struct known k = { .manifest = e->descriptor };
        auto_str text = STR_INIT;

        for (size_t i = 0; i < a->n_known; i++) {
                if (str_eq(a->known[i].manifest.digest, k.manifest.digest))
                        return;
        }
        if (a->n_known == IMAGE_SAVED_MAX || e->attestation || read_blob(a, &e->descriptor, &text, NULL) < 0)
                return;
        if (!k.manifest.media_type[0])
                (void)snprintf(k.manifest.media_type, sizeof(k.manifest.media_type), "%s", MEDIA_OCI_MANIFEST);
        if (image_manifest_parse(text.data, text.len, &k.parts, NULL) == 0)
                a->known[a->n_known++] = k;
}

/* d: an index in index.json; NULL: that itself. */
static void know_index(struct archive *a, const struct image_descriptor *d)
{
        auto_index x = { .entries = NULL };
        auto_str text = STR_INIT;
        int r = -ENOENT;

        if (d)
                r = read_blob(a, d, &text, NULL);
        else if (find(a, "index.json"))
                r = read_file(a, "index.json", &text, NULL);
        if (r < 0 || image_index_parse(text.data, text.len, &x, NULL) < 0)
                return;
        for (size_t i = 0; i < x.n && a->n_known < IMAGE_SAVED_MAX; i++) {
                if (!x.entries[i].nested)
                        know(a, &x.entries[i]);
                else if (!d)
                        know_index(a, &x.entries[i].descriptor);
        }
}

static bool same_blob(const struct image_descriptor *a, const struct image_descriptor *b)
{
        return a->size == b->size && str_eq(a->digest, b->digest);
}

static bool same_parts(const struct image_manifest *a, const struct image_manifest *b)
{
        bool same = a->n_layers == b->n_layers && same_blob(&a->config, &b->config);

        for (size_t i = 0; same && i < a->n_layers; i++)
                same = same_blob(&a->layers[i], &b->layers[i]);
        return same;
}

static int store_saved(struct archive *a, const struct image_manifest *m, struct image_descriptor *ret, struct err *err)
{
        for (size_t i = 0; i < a->n_known; i++) {
                if (!same_parts(&a->known[i].parts, m))
                        continue;
                *ret = a->known[i].manifest;
                return put_blob(a, ret, err);
        }
        return image_manifest_store(a->layout, m, ret, err);
}

static int read_saved(struct archive *a, const struct image_saved *s, struct err *err)
{
        auto_manifest m = { .layers = NULL };
        struct image_descriptor d;
        auto_strv names = NULL;
        char shown[STR_SHOWN_MAX];
        int r;

        (void)snprintf(m.config.media_type, sizeof(m.config.media_type), "%s", MEDIA_OCI_CONFIG);
        expected_digest(s->config, m.config.digest);
        r = put_file(a, s->config, &m.config, err);
        if (r == 0)
                r = put_saved_layers(a, s->layers, &m, err);
        if (r == 0)
                r = store_saved(a, &m, &d, err);
        for (char **t = s->tags; r == 0 && t && *t; t++) {
                r = add_name(&names, *t);
                if (r == -EINVAL)
                        r = err_set(err, EBADMSG, "manifest.json: '%s' is no name of an image", str_show(*t, shown));
                else if (r < 0)
                        r = err_oom(err);
        }
        return r < 0 ? r : add_found(a, &d, TAKE_PTR(names), err);
}

static int read_docker(struct archive *a, struct err *err)
{
        auto_saved list = { .items = NULL };
        auto_str text = STR_INIT;
        int r;

        r = read_file(a, "manifest.json", &text, err);
        if (r == 0)
                r = image_saved_parse(text.data, text.len, &list, err);
        a->known = calloc(IMAGE_SAVED_MAX, sizeof(*a->known));
        if (!a->known)
                return err_oom(err);
        know_index(a, NULL);
        for (size_t i = 0; r == 0 && i < list.n; i++)
                r = read_saved(a, &list.items[i], err);
        return r;
}

/* ── OCI image layout ─────────────────────────────────────────────────────────────────────────────────────────────── */

static int take_manifest(struct archive *a, const struct image_descriptor *d, char **names, struct err *err)
{
        auto_manifest m = { .layers = NULL };
        struct image_descriptor own = *d;
        auto_strv owned = names;
        auto_str text = STR_INIT;
        int r;

        r = read_blob(a, d, &text, err);
        if (r == 0)
                r = image_manifest_parse(text.data, text.len, &m, err);
        if (r == 0)
                r = put_blob(a, d, err);
        if (r == 0)
                r = put_blob(a, &m.config, err);
        for (size_t i = 0; r == 0 && i < m.n_layers; i++)
                r = put_blob(a, &m.layers[i], err);
        if (r < 0)
                return r;
        if (!own.media_type[0])
                (void)snprintf(own.media_type, sizeof(own.media_type), "%s", MEDIA_OCI_MANIFEST);
        return add_found(a, &own, TAKE_PTR(owned), err);
}

/* Down through indexes to the manifest for this machine. */
static int take_nested(struct archive *a, const struct image_descriptor *d, char **names, struct err *err)
{
        struct image_descriptor at = *d;
        auto_strv owned = names;

        for (int depth = 0; depth < NESTED_MAX; depth++) {
                const struct image_index_entry *e;
                auto_index x = { .entries = NULL };
                auto_str text = STR_INIT;
                int r;

                r = read_blob(a, &at, &text, err);
                if (r == 0)
                        r = image_index_parse(text.data, text.len, &x, err);
                if (r < 0)
                        return r;
                e = image_index_choose(&x, image_host_architecture());
                if (!e)
                        return err_set(err, EBADMSG, "the archive has no image for linux/%s",
                                       image_host_architecture());
                at = e->descriptor;
                if (!e->nested)
                        return take_manifest(a, &at, TAKE_PTR(owned), err);
        }
        return err_set(err, EBADMSG, "the archive's indexes are nested more than %d deep", NESTED_MAX);
}

/* "latest" alone, as skopeo writes it, names no image. */
static bool names_image(const char *name)
{
        return strpbrk(name, ":/") != NULL;
}

/* Some archives have none; one that is there counts. */
static int check_version(const struct archive *a, struct err *err)
{
        auto_str text = STR_INIT;
        int r;

        if (!find(a, "oci-layout"))
                return 0;
        r = read_file(a, "oci-layout", &text, err);
        return r < 0 ? r : image_layout_version(text.data, text.len, err);
}

static int read_oci(struct archive *a, struct err *err)
{
        auto_index x = { .entries = NULL };
        auto_str text = STR_INIT;
        bool any = false;
        int r;

        r = check_version(a, err);
        if (r == 0)
                r = read_file(a, "index.json", &text, err);
        if (r == 0)
                r = image_index_parse(text.data, text.len, &x, err);
        for (size_t i = 0; r == 0 && i < x.n; i++) {
                const struct image_index_entry *e = &x.entries[i];
                char **names = NULL;

                if (e->attestation || e->unknown || (e->os[0] && !str_eq(e->os, "linux")))
                        continue;
                if (e->architecture[0] && !str_eq(e->architecture, image_host_architecture()))
                        continue;
                if (names_image(e->name) && add_name(&names, e->name) == -ENOMEM)
                        return err_oom(err);
                any = true;
                r = e->nested ? take_nested(a, &e->descriptor, names, err)
                              : take_manifest(a, &e->descriptor, names, err);
        }
        if (r == 0 && !any)
                r = err_set(err, EBADMSG, "the archive has no image for linux/%s", image_host_architecture());
        return r;
}

int image_archive_read(const struct image_layout *l, const char *report, size_t report_len, int archive_fd,
                       int plain_fd, struct image_found_list *ret, struct err *err)
{
        __attribute__((cleanup(archive_done))) struct archive a = { .layout = l, .fd = -EBADF };
        int r;

        r = open_archive(&a, report, report_len, archive_fd, plain_fd, err);
        if (r < 0)
                return r;
        if (find(&a, "manifest.json"))
                r = read_docker(&a, err);
        else if (find(&a, "index.json"))
                r = read_oci(&a, err);
        else
                r = err_set(err, EBADMSG, "this is no archive of images: it has neither manifest.json nor index.json");
        if (r == 0 && a.found.n == 0)
                r = err_set(err, EBADMSG, "the archive holds no image");
        if (r == 0)
                r = image_layout_sync(l, err);
        if (r < 0)
                return r;
        *ret = a.found;
        a.found = (struct image_found_list){ .items = NULL };
        return 0;
}
