#include "image/save.h"

#include "base/fd.h"
#include "base/vec.h"
#include "image/install.h"
#include "image/operation.h"
#include "image/ref.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 512
#define OCTAL_SIZE_MAX ((UINT64_C(1) << 33) - 1) /* eleven octal digits */
#define NAME_LEN 100
#define BLOBS "blobs/sha256/"

/* An entry of the archive: a directory, a text of ours, or a blob. */
struct piece {
        char name[NAME_LEN];
        const char *text; /* owned; NULL: no text */
        char digest[IMAGE_DIGEST_MAX];
        uint64_t size;
};

struct image_save {
        struct image_layout layout; /* of which only `blobs` is open */
        struct image_hold *hold;
        VEC(struct piece) pieces;
        size_t at; /* the piece in hand */
        enum { AT_HEADER, AT_BODY, AT_PADDING, AT_END } part;
        uint64_t done; /* bytes of the part */
        char header[BLOCK];
        int fd; /* of the blob in hand */
        EVP_MD_CTX *hash;
};

/* An image that goes out, and by which names. */
struct chosen {
        const struct stored *image;
        char **names;
};

struct choice {
        struct image_store *store;
        bool (*may)(const struct image *image, void *data);
        void *data;
        VEC(struct chosen) images;
};

static char wanted;

/* ── which images ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static void choice_done(struct choice *c)
{
        for (size_t i = 0; i < c->images.len; i++)
                strv_free(c->images.items[i].names);
        VEC_DONE(&c->images);
}

static bool has_name(char *const *names, const char *name)
{
        for (; names && *names; names++) {
                if (str_eq(*names, name))
                        return true;
        }
        return false;
}

/* name: NULL for none. */
static int choose_image(struct choice *c, const struct image *image, const char *name)
{
        const struct stored *stored = CONTAINER_OF(image, const struct stored, image);
        struct chosen *at = NULL;

        for (size_t i = 0; i < c->images.len && !at; i++) {
                if (c->images.items[i].image == stored)
                        at = &c->images.items[i];
        }
        if (!at) {
                if (VEC_ADD(&c->images, ((struct chosen){ .image = stored })) < 0)
                        return -ENOMEM;
                at = &c->images.items[c->images.len - 1];
        }
        return !name || has_name(at->names, name) ? 0 : strv_add(&at->names, name);
}

static bool may_use(const struct choice *c, const struct image *image)
{
        return !c->may || c->may(image, c->data);
}

/* All tags of a repository, as `docker save` takes a name without one. *ret_any: whether there was one. */
static int choose_repository(struct choice *c, const struct image_ref *ref, bool *ret_any)
{
        const struct image *image;
        size_t pos = 0;

        while ((image = image_store_next(c->store, &pos))) {
                for (char **n = may_use(c, image) ? image->names : NULL; n && *n; n++) {
                        struct image_ref have;

                        if (image_ref_parse(*n, &have, NULL) < 0 || have.digest[0] ||
                            !str_eq(have.domain, ref->domain) || !str_eq(have.path, ref->path))
                                continue;
                        *ret_any = true;
                        if (choose_image(c, image, *n) < 0)
                                return -ENOMEM;
                }
        }
        return 0;
}

static int choose(struct choice *c, const char *text, struct err *err)
{
        struct err why = ERR_INIT;
        const struct image *image;
        char name[REF_TEXT_MAX] = "", shown[STR_SHOWN_MAX];
        struct image_ref ref;
        bool any = false;

        if (image_ref_parse_normalized(text, &ref, NULL) == 0 && !ref.tag[0] && !ref.digest[0] &&
            !str_eq(ref.domain, IMAGE_BUILTIN_DOMAIN)) {
                if (choose_repository(c, &ref, &any) < 0)
                        return err_oom(err);
                if (any)
                        return 0;
        }
        image = image_store_find(c->store, text, &why);
        if (!image && why.num)
                return err_set(err, why.num, "%s", why.text);
        if (!image || !may_use(c, image))
                return err_set(err, ENOENT, "there is no image '%s'", str_show(text, shown));
        if (image_is_builtin(image))
                return err_set(err, EPERM, "the image '%s' is part of Mayfly", str_show(text, shown));
        if (image_ref_parse_docker(text, &ref, NULL) == 0 && !ref.digest[0])
                image_ref_format(&ref, name);
        return choose_image(c, image, has_name(image->names, name) ? name : NULL) < 0 ? err_oom(err) : 0;
}

/* ── what the archive holds ───────────────────────────────────────────────────────────────────────────────────────── */

static int add_piece(struct image_save *w, const struct piece *p)
{
        return VEC_ADD(&w->pieces, *p);
}

static int add_dir(struct image_save *w, const char *name)
{
        struct piece p = { .text = NULL };

        (void)snprintf(p.name, sizeof(p.name), "%s", name);
        return add_piece(w, &p);
}

static int add_json(struct image_save *w, const char *name, const json_t *value)
{
        struct piece p = { .text = NULL };
        auto_str text = STR_INIT;

        if (!value || json_write(value, &text) < 0)
                return -ENOMEM;
        (void)snprintf(p.name, sizeof(p.name), "%s", name);
        p.size = text.len;
        p.text = str_take(&text);
        if (!p.text || add_piece(w, &p) < 0) {
                free((void *)(uintptr_t)p.text);
                return -ENOMEM;
        }
        return 0;
}

static void blob_name(const char *digest, char out[NAME_LEN])
{
        (void)snprintf(out, NAME_LEN, BLOBS "%s", digest + strlen("sha256:"));
}

static int compare_digests(const void *a, const void *b)
{
        return strcmp(((const struct piece *)a)->digest, ((const struct piece *)b)->digest);
}

/* Blobs that stand in several images come once. */
static int add_blob(struct image_save *w, const struct image_descriptor *d)
{
        struct piece p = { .size = d->size };

        if (map_find(w->hold->blobs, d->digest + strlen("sha256:")))
                return 0;
        memcpy(p.digest, d->digest, sizeof(p.digest));
        blob_name(d->digest, p.name);
        if (map_set(w->hold->blobs, d->digest + strlen("sha256:"), &wanted) < 0)
                return -ENOMEM;
        return add_piece(w, &p);
}

static int add_blobs(struct image_save *w, const struct choice *c)
{
        size_t first = w->pieces.len;
        int r = 0;

        for (size_t i = 0; i < c->images.len; i++) {
                const struct stored *s = c->images.items[i].image;

                r = add_blob(w, &s->manifest);
                if (r == 0)
                        r = add_blob(w, &s->parts.config);
                for (size_t k = 0; r == 0 && k < s->parts.n_layers; k++)
                        r = add_blob(w, &s->parts.layers[k]);
                if (r < 0)
                        return r;
        }
        qsort(w->pieces.items + first, w->pieces.len - first, sizeof(struct piece), compare_digests);
        return 0;
}

/* ── index.json, manifest.json, repositories ──────────────────────────────────────────────────────────────────────── */

static size_t count_tag(const struct choice *c, const char *tag)
{
        struct image_ref ref;
        size_t n = 0;

        for (size_t i = 0; i < c->images.len; i++) {
                for (char **name = c->images.items[i].names; name && *name; name++)
                        n += image_ref_parse(*name, &ref, NULL) == 0 && str_eq(ref.tag, tag);
        }
        return n;
}

/* As docker writes them: the whole name for containerd, and the tag, by which most tools find an image in a layout; where two
 * images have the same, the whole name there, too. */
static json_t *annotations_json(const struct choice *c, const char *name)
{
        struct image_ref ref;
        const char *short_name = name;

        if (image_ref_parse(name, &ref, NULL) == 0 && ref.tag[0] && count_tag(c, ref.tag) == 1)
                short_name = ref.tag;
        return json_pack("{s:s, s:s}", "io.containerd.image.name", name, "org.opencontainers.image.ref.name",
                         short_name);
}

static int add_index_entry(json_t *list, const struct choice *c, const struct stored *s, const char *name)
{
        auto_json e = json_pack("{s:s, s:s, s:I}", "mediaType", s->manifest.media_type, "digest", s->manifest.digest,
                                "size", (json_int_t)s->manifest.size);

        if (!e || (name && json_object_set_new(e, "annotations", annotations_json(c, name)) < 0))
                return -ENOMEM;
        return json_array_append(list, e) < 0 ? -ENOMEM : 0;
}

static json_t *index_json(const struct choice *c)
{
        auto_json o = json_pack("{s:i, s:s, s:[]}", "schemaVersion", 2, "mediaType", MEDIA_OCI_INDEX, "manifests");
        json_t *list = json_object_get(o, "manifests");
        int r = o ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < c->images.len; i++) {
                const struct chosen *x = &c->images.items[i];

                for (char **name = x->names; r == 0 && name && *name; name++)
                        r = add_index_entry(list, c, x->image, *name);
                if (r == 0 && !x->names)
                        r = add_index_entry(list, c, x->image, NULL);
        }
        return r == 0 ? TAKE_PTR(o) : NULL;
}

static json_t *tags_json(char *const *names)
{
        auto_json array = json_array();
        char text[REF_TEXT_MAX];
        struct image_ref ref;

        for (; array && names && *names; names++) {
                if (image_ref_parse(*names, &ref, NULL) < 0)
                        continue;
                image_ref_familiar(&ref, text);
                if (json_array_append_new(array, json_string(text)) < 0)
                        return NULL;
        }
        return TAKE_PTR(array);
}

static json_t *saved_json(const struct chosen *x)
{
        const struct image_manifest *m = &x->image->parts;
        auto_json layers = json_array();
        char name[NAME_LEN];

        for (size_t i = 0; layers && i < m->n_layers; i++) {
                blob_name(m->layers[i].digest, name);
                if (json_array_append_new(layers, json_string(name)) < 0)
                        return NULL;
        }
        blob_name(m->config.digest, name);
        return json_pack("{s:s, s:o, s:O}", "Config", name, "RepoTags", x->names ? tags_json(x->names) : json_null(),
                         "Layers", layers);
}

static json_t *manifests_json(const struct choice *c)
{
        auto_json array = json_array();

        for (size_t i = 0; array && i < c->images.len; i++) {
                if (json_array_append_new(array, saved_json(&c->images.items[i])) < 0)
                        return NULL;
        }
        return TAKE_PTR(array);
}

/* {"name": {"tag": "id of the uppermost layer"}}, for what is older than manifest.json. */
static int add_repository(json_t *o, const struct stored *s, const char *name)
{
        const struct image_manifest *m = &s->parts;
        char text[REF_TEXT_MAX], tag[sizeof(((struct image_ref *)0)->tag)];
        struct image_ref ref;
        json_t *tags;

        if (m->n_layers == 0 || image_ref_parse(name, &ref, NULL) < 0 || !ref.tag[0])
                return 0;
        memcpy(tag, ref.tag, sizeof(tag));
        ref.tag[0] = '\0';
        image_ref_familiar(&ref, text);
        tags = json_object_get(o, text);
        if (!tags) {
                tags = json_object();
                if (json_object_set_new(o, text, tags) < 0)
                        return -ENOMEM;
        }
        return json_object_set_new(tags, tag, json_string(m->layers[m->n_layers - 1].digest + strlen("sha256:"))) < 0
                       ? -ENOMEM
                       : 0;
}

static json_t *repositories_json(const struct choice *c)
{
        auto_json o = json_object();

        for (size_t i = 0; o && i < c->images.len; i++) {
                const struct chosen *x = &c->images.items[i];

                for (char **name = x->names; name && *name; name++) {
                        if (add_repository(o, x->image, *name) < 0)
                                return NULL;
                }
        }
        return TAKE_PTR(o);
}

static int add_all(struct image_save *w, const struct choice *c, enum image_save_format format)
{
        auto_json layout = json_pack("{s:s}", "imageLayoutVersion", "1.0.0");
        auto_json index = index_json(c);
        auto_json manifests = manifests_json(c);
        auto_json repositories = repositories_json(c);
        int r;

        r = add_json(w, "oci-layout", layout);
        if (r == 0)
                r = add_json(w, "index.json", index);
        if (r == 0 && format == IMAGE_SAVE_DOCKER)
                r = add_json(w, "manifest.json", manifests);
        if (r == 0 && format == IMAGE_SAVE_DOCKER && json_object_size(repositories) > 0)
                r = add_json(w, "repositories", repositories);
        if (r == 0)
                r = add_dir(w, "blobs/");
        if (r == 0)
                r = add_dir(w, BLOBS);
        return r == 0 ? add_blobs(w, c) : r;
}

/* ── open, close ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int prepare(struct image_save *w, const struct choice *c, enum image_save_format format, struct err *err)
{
        int r = image_hold_new(c->store, NULL, 0, &w->hold, err);

        if (r < 0)
                return r;
        w->hold->blobs = map_new();
        w->hash = EVP_MD_CTX_new();
        if (!w->hold->blobs || !w->hash || add_all(w, c, format) < 0)
                return err_oom(err);
        w->layout.blobs = fcntl(c->store->layout.blobs, F_DUPFD_CLOEXEC, 3);
        return w->layout.blobs < 0 ? err_sys(err, "hold the blobs") : 0;
}

static void save_cleanup(struct image_save **w)
{
        if (*w)
                image_save_release(*w);
        image_save_close(*w);
}

int image_save_open(struct image_store *s, const char *const *refs, size_t n, enum image_save_format format,
                    bool (*may)(const struct image *image, void *data), void *data, struct image_save **ret,
                    struct err *err)
{
        __attribute__((cleanup(choice_done))) struct choice c = { .store = s, .may = may, .data = data };
        __attribute__((cleanup(save_cleanup))) struct image_save *w = NULL;
        int r = 0;

        if (n == 0 || n > IMAGE_SAVE_REFS_MAX)
                return err_set(err, EINVAL, "between 1 and %d images are to be named", IMAGE_SAVE_REFS_MAX);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = choose(&c, refs[i], err);
        if (r < 0)
                return r;
        if (c.images.len > IMAGE_SAVED_MAX)
                return err_set(err, EINVAL, "more than %d images", IMAGE_SAVED_MAX);
        w = calloc(1, sizeof(*w));
        if (!w)
                return err_oom(err);
        w->layout = (struct image_layout)IMAGE_LAYOUT_NONE;
        w->fd = -EBADF;
        r = prepare(w, &c, format, err);
        if (r == 0)
                *ret = TAKE_PTR(w);
        return r;
}

void image_save_release(struct image_save *w)
{
        if (w->hold)
                map_free(w->hold->blobs);
        image_hold_free(TAKE_PTR(w->hold));
}

void image_save_close(struct image_save *w)
{
        if (!w)
                return;
        for (size_t i = 0; i < w->pieces.len; i++)
                free((void *)(uintptr_t)w->pieces.items[i].text);
        VEC_DONE(&w->pieces);
        EVP_MD_CTX_free(w->hash);
        fd_close(w->fd);
        image_layout_close(&w->layout);
        free(w);
}

static uint64_t padding_of(uint64_t size)
{
        return (BLOCK - size % BLOCK) % BLOCK;
}

uint64_t image_save_size(const struct image_save *w)
{
        uint64_t n = 2 * BLOCK;

        for (size_t i = 0; i < w->pieces.len; i++)
                n += BLOCK + w->pieces.items[i].size + padding_of(w->pieces.items[i].size);
        return n;
}

/* ── the bytes ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* ustar (POSIX.1-1988); sizes beyond 8 GiB as GNU tar and Go write them, in binary. */
static void make_header(const struct piece *p, char h[BLOCK])
{
        static const char magic[] = { 'u', 's', 't', 'a', 'r', '\0', '0', '0' };
        bool dir = !p->text && !p->digest[0];
        unsigned sum = 0;

        memset(h, 0, BLOCK);
        (void)snprintf(h, NAME_LEN, "%s", p->name);
        memcpy(h + 100, dir ? "0000755" : "0000644", 8);
        memcpy(h + 108, "0000000", 8);
        memcpy(h + 116, "0000000", 8);
        if (p->size <= OCTAL_SIZE_MAX) {
                (void)snprintf(h + 124, 12, "%011" PRIo64, p->size);
        } else {
                h[124] = '\x80';
                for (int i = 0; i < 8; i++)
                        h[128 + i] = (char)(p->size >> (56 - 8 * i));
        }
        memcpy(h + 136, "00000000000", 12); /* always the same time, so always the same bytes */
        memset(h + 148, ' ', 8);
        h[156] = dir ? '5' : '0';
        memcpy(h + 257, magic, sizeof(magic));
        for (int i = 0; i < BLOCK; i++)
                sum += (unsigned char)h[i];
        (void)snprintf(h + 148, 7, "%06o", sum);
}

static int begin_piece(struct image_save *w, struct err *err)
{
        const struct piece *p = &w->pieces.items[w->at];
        uint64_t size;
        int r;

        make_header(p, w->header);
        if (!p->digest[0])
                return 0;
        fd_replace(&w->fd, -EBADF);
        r = image_layout_open_blob(&w->layout, p->digest, &w->fd, &size, err);
        if (r < 0)
                return r;
        if (size != p->size)
                return err_set(err, EBADMSG, "blob %s is damaged: it has %" PRIu64 " bytes, not %" PRIu64, p->digest,
                               size, p->size);
        (void)posix_fadvise(w->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        return EVP_DigestInit_ex(w->hash, EVP_sha256(), NULL) != 1 ? err_oom(err) : 0;
}

static int end_piece(struct image_save *w, struct err *err)
{
        const struct piece *p = &w->pieces.items[w->at];
        unsigned char hash[SHA256_DIGEST_LENGTH];
        char found[2 * SHA256_DIGEST_LENGTH + 1];

        if (!p->digest[0])
                return 0;
        fd_replace(&w->fd, -EBADF);
        if (EVP_DigestFinal_ex(w->hash, hash, NULL) != 1)
                return err_set(err, EIO, "cannot compute SHA-256");
        hex_encode(hash, sizeof(hash), found);
        return str_eq(found, p->digest + strlen("sha256:")) ? 0
                                                            : err_set(err, EBADMSG, "blob %s is damaged", p->digest);
}

static ssize_t read_body(struct image_save *w, char *buf, size_t len, struct err *err)
{
        const struct piece *p = &w->pieces.items[w->at];
        ssize_t n;

        if (p->text) {
                memcpy(buf, p->text + w->done, len);
                return (ssize_t)len;
        }
        do
                n = pread(w->fd, buf, len, (off_t)w->done);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return err_sys(err, "read blob %s", p->digest);
        if (n == 0)
                return err_set(err, EBADMSG, "blob %s is damaged: it is cut short", p->digest);
        return EVP_DigestUpdate(w->hash, buf, (size_t)n) == 1 ? n : err_set(err, EIO, "cannot compute SHA-256");
}

static uint64_t part_size(const struct image_save *w)
{
        uint64_t size = w->at < w->pieces.len ? w->pieces.items[w->at].size : 0;

        switch (w->part) {
        case AT_HEADER:
                return BLOCK;
        case AT_BODY:
                return size;
        case AT_PADDING:
                return padding_of(size);
        default:
                return 2 * BLOCK;
        }
}

/* From a part that is complete to the next one. */
static int next_part(struct image_save *w, struct err *err)
{
        int r = 0;

        w->done = 0;
        switch (w->part) {
        case AT_HEADER:
                w->part = AT_BODY;
                return 0;
        case AT_BODY:
                w->part = AT_PADDING;
                return end_piece(w, err);
        default:
                w->at++;
                w->part = w->at < w->pieces.len ? AT_HEADER : AT_END;
                if (w->part == AT_HEADER)
                        r = begin_piece(w, err);
                return r;
        }
}

static ssize_t read_part(struct image_save *w, char *buf, size_t len, struct err *err)
{
        len = (size_t)MIN((uint64_t)len, part_size(w) - w->done);
        switch (w->part) {
        case AT_HEADER:
                memcpy(buf, w->header + w->done, len);
                return (ssize_t)len;
        case AT_BODY:
                return read_body(w, buf, len, err);
        default:
                memset(buf, 0, len);
                return (ssize_t)len;
        }
}

ssize_t image_save_read(struct image_save *w, void *buf, size_t len, struct err *err)
{
        size_t n = 0;

        if (w->at == 0 && w->part == AT_HEADER && w->done == 0) {
                int r = begin_piece(w, err);

                if (r < 0)
                        return r;
        }
        while (n < len) {
                ssize_t got;

                if (w->done == part_size(w)) {
                        int r;

                        if (w->part == AT_END)
                                break;
                        r = next_part(w, err);
                        if (r < 0)
                                return r;
                        continue;
                }
                got = read_part(w, (char *)buf + n, len - n, err);
                if (got < 0)
                        return got;
                w->done += (uint64_t)got;
                n += (size_t)got;
        }
        return (ssize_t)n;
}
