/* index.json: which images there are, by which names, and since when.
 *
 * It is written whole, and is never half there but by a disk or a hand that damaged it. Then it is kept aside; what its text still
 * tells up to the damage is taken, and every other image whose manifest lies among the blobs comes back without a name: its
 * names are known nowhere else. A pull or a load by the name gives it back, and brings nothing that is here. Since nobody can
 * tell whose those images are, they are of those who may use all until then.
 *
 * Each entry holds its own digest: one whose name was damaged must not become one without a name, which is everybody's. Only an
 * index in which no entry has one, and which nothing else is wrong with, is of an older daemon. */

#include "base/log.h"
#include "image/operation.h"
#include "image/ref.h"

#include <errno.h>
#include <string.h>

#define ENTRY_DEPTH 2 /* of objects and arrays around an entry */

struct reading {
        struct image_store *store;
        bool unchecked;   /* of an older daemon: entries without digests count */
        bool left_out;    /* an image whose blobs are not as they should be */
        struct err why;   /* index.json is damaged; num 0: it is not */
        unsigned found;   /* images that came back out of the blobs */
        struct err fault; /* of this moment, not of a file: the store cannot be opened */
};

/* ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

int index_check(const json_t *entry, char digest[IMAGE_DIGEST_MAX], struct err *err)
{
        json_t *written = json_object_get(entry, "annotations");
        auto_json plain = json_copy((json_t *)(uintptr_t)entry);
        auto_json notes = json_copy(written);
        auto_str text = STR_INIT;

        (void)json_object_del(notes, IMAGE_NOTE_CHECK);
        if (!plain || (written && !notes) || (notes && json_object_set(plain, "annotations", notes) < 0) ||
            json_write(plain, &text) < 0)
                return err_oom(err);
        return image_sha256_text(text.data, text.len, digest, err);
}

static const char *check_of(const json_t *o)
{
        return json_string_value(json_object_get(json_object_get(o, "annotations"), IMAGE_NOTE_CHECK));
}

/* Whether it has none, and may have none, or has the right one. -errno into x->fault. */
static int is_as_written(struct reading *x, const json_t *entry)
{
        const char *check = check_of(entry);
        char digest[IMAGE_DIGEST_MAX];
        int r;

        if (!check)
                return x->unchecked;
        r = index_check(entry, digest, &x->fault);
        return r < 0 ? r : str_eq(check, digest);
}

/* A text that is all there, and says of nothing that it has a digest. */
static bool is_older(const json_t *o)
{
        const json_t *v;
        size_t i;

        json_array_foreach(json_object_get(o, "manifests"), i, v) {
                if (json_object_get(json_object_get(v, "annotations"), IMAGE_NOTE_CHECK))
                        return false;
        }
        return !json_object_get(json_object_get(o, "annotations"), IMAGE_NOTE_CHECK);
}

static bool is_noted(const json_t *notes, const char *note)
{
        return str_eq(json_string_value(json_object_get(notes, note)), "true");
}

static void load_notes(struct image *image, const json_t *notes)
{
        const char *source = json_string_value(json_object_get(notes, IMAGE_NOTE_SOURCE));
        const char *came = json_string_value(json_object_get(notes, IMAGE_NOTE_CAME));

        image->pinned = is_noted(notes, IMAGE_NOTE_PINNED);
        image->broken = is_noted(notes, IMAGE_NOTE_BROKEN);
        image->lost = is_noted(notes, IMAGE_NOTE_LOST);
        if (came)
                (void)parse_u64(came, &image->came_ms);
        for (int i = 0; source && image_sources[i]; i++)
                if (str_eq(source, image_sources[i]))
                        image->source = (enum image_source)i;
}

/* Out of blobs. 1: they are not there, or not right, as `why` says; -errno: this cannot be told now. */
static int load_image(struct reading *x, const struct image_descriptor *d, struct stored **ret, struct err *why)
{
        struct image_store *s = x->store;
        auto_str users = STR_INIT;
        struct stored *image;
        int r = stored_new(&s->layout, d, &image, why);

        if (r < 0 && op_is_passing(r)) {
                x->fault = *why;
                return r;
        }
        if (r < 0)
                return 1;
        if (image_layout_read_users(&s->layout, image->image.tree, &users, NULL) == 0)
                (void)stored_set_users(image, users.data ? users.data : "", users.len, NULL);
        r = stored_list_add(&s->images, image);
        if (r < 0)
                return err_oom(&x->fault);
        *ret = image;
        return 0;
}

static int load_entry(struct reading *x, const json_t *v)
{
        const char *digest = json_string_value(json_object_get(v, "digest"));
        const json_t *notes = json_object_get(v, "annotations");
        const json_t *named = json_object_get(notes, "org.opencontainers.image.ref.name");
        const char *name = json_string_value(named), *media = json_string_value(json_object_get(v, "mediaType"));
        struct image_descriptor d = { .media_type = MEDIA_OCI_MANIFEST };
        struct err why = ERR_INIT;
        struct stored *image;
        int r;

        if (!digest || !image_digest_valid(digest) || (named && !name) || (notes && !json_is_object(notes))) {
                (void)err_set(&x->why, EINVAL, "an entry is no image");
                return 0;
        }
        r = is_as_written(x, v);
        if (r <= 0) {
                if (r == 0)
                        (void)err_set(&x->why, EINVAL, "an entry is not as it was written");
                return r;
        }
        memcpy(d.digest, digest, strlen(digest) + 1);
        if (media && strlen(media) < sizeof(d.media_type))
                memcpy(d.media_type, media, strlen(media) + 1);
        image = store_find_digest(x->store, d.digest);
        if (!image) {
                r = load_image(x, &d, &image, &why);
                if (r == 1)
                        store_note_repair(x->store, "%s (%s) is left out: %s", name ? name : "an image without a name",
                                          digest, why.text);
                x->left_out |= r == 1;
                if (r != 0)
                        return MIN(r, 0);
                load_notes(&image->image, notes);
        }
        return name && strv_add(&image->image.names, name) < 0 ? err_oom(&x->fault) : 0;
}

/* ── the text ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Entries up to the first that is damaged: of a text that was cut off, or that goes on with something else, what is before that is
 * as good as ever. NULL: out of memory. */
static json_t *parse_entries(const char *text, size_t len)
{
        auto_json o = json_pack("{s:[]}", "manifests");
        json_t *list = json_object_get(o, "manifests");
        bool in_string = false;
        size_t depth = 0, start = 0;

        for (size_t i = 0; o && i < len; i++) {
                json_t *entry = NULL;

                if (in_string) {
                        if (text[i] == '\\')
                                i++;
                        else if (text[i] == '"')
                                in_string = false;
                } else if (text[i] == '"') {
                        in_string = true;
                } else if ((text[i] == '{' || text[i] == '[') && depth++ == ENTRY_DEPTH) {
                        start = i;
                } else if ((text[i] == '}' || text[i] == ']') && depth > 0 && --depth == ENTRY_DEPTH) {
                        if (json_read(text + start, i + 1 - start, &entry, NULL) < 0)
                                break;
                        if (json_array_append_new(list, entry) < 0)
                                return NULL;
                }
        }
        return TAKE_PTR(o);
}

static json_t *parse(struct reading *x, const struct str *text)
{
        const char *data = text->data ? text->data : "";
        json_t *o = NULL;
        int r = json_read(data, text->len, &o, &x->why);

        if (r == -ENOMEM)
                x->fault = x->why;
        else if (r < 0 && text->len > 0)
                o = parse_entries(data, text->len);
        if (r == 0 && !json_is_array(json_object_get(o, "manifests")))
                (void)err_set(&x->why, EINVAL, "it has no list of manifests");
        x->unchecked = r == 0 && !x->why.num && is_older(o);
        return o;
}

/* ── out of the blobs ─────────────────────────────────────────────────────────────────────────────────────────────── */

static void media_type_of(const struct image_layout *l, const char *digest, char out[IMAGE_MEDIA_MAX])
{
        auto_str text = STR_INIT;
        auto_json o = NULL;
        const char *media;

        if (image_layout_read_blob(l, digest, IMAGE_JSON_MAX, &text, NULL) < 0 ||
            json_read(text.data ? text.data : "", text.len, &o, NULL) < 0)
                return;
        media = json_string_value(json_object_get(o, "mediaType"));
        if (media && strlen(media) < IMAGE_MEDIA_MAX)
                memcpy(out, media, strlen(media) + 1);
}

static int take_blob(const char *digest, uint64_t written_ms, void *data)
{
        struct image_descriptor d = { .media_type = MEDIA_OCI_MANIFEST };
        struct reading *x = data;
        struct stored *image = NULL;
        struct err why = ERR_INIT;
        int r;

        if (store_find_digest(x->store, digest) || x->store->images.len >= IMAGE_INDEX_ENTRIES_MAX)
                return 0;
        (void)snprintf(d.digest, sizeof(d.digest), "%s", digest);
        media_type_of(&x->store->layout, digest, d.media_type);
        r = load_image(x, &d, &image, &why);
        if (r != 0)
                return MIN(r, 0);
        image->image.lost = true;
        image->image.came_ms = written_ms;
        x->found++;
        return 0;
}

/* ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_index(struct image_store *s, struct err *err)
{
        static const op_step none[] = { NULL };
        struct op *op = op_new(s, none, false);
        int r = op && index_text(op) == 0 ? 0 : err_oom(err);

        if (r == 0)
                r = image_layout_write_index(&s->layout, op->text.data, op->text.len, err);
        op_free(op);
        return r;
}

/* A store whose disk takes nothing serves all the same, and mends it at the next start. */
static void mend(struct reading *x, bool missing)
{
        struct image_store *s = x->store;
        char aside[IMAGE_ASIDE_MAX] = "";
        struct err err = ERR_INIT;
        size_t named = s->images.len - x->found;
        int r = 0;

        if (!missing)
                r = image_layout_keep_index(&s->layout, aside, &err);
        if (r == 0)
                r = write_index(s, &err);
        if (missing)
                store_note_repair(s, "index.json was missing: %u images came back out of their blobs, without names",
                                  x->found);
        else
                store_note_repair(
                        s,
                        "index.json is damaged (%s)%s%s: %zu images are as it says, %u came back out of their "
                        "blobs, without names",
                        x->why.text, aside[0] ? ", and kept as " : "", aside, named, x->found);
        if (x->found > 0)
                store_note_repair(
                        s,
                        "images without a name are for administrators until they are pulled, loaded or tagged again");
        if (r < 0)
                store_note_repair(s, "index.json cannot be mended now: %s", err.text);
}

int index_load(struct image_store *s, struct err *err)
{
        struct reading x = { .store = s, .why = ERR_INIT, .fault = ERR_INIT };
        auto_str text = STR_INIT;
        auto_json o = NULL;
        const json_t *v;
        bool missing;
        size_t i;
        int r;

        r = image_layout_read_index(&s->layout, &text, &x.why);
        missing = r == -ENOENT;
        if (r == 0)
                o = parse(&x, &text);
        else if (op_is_passing(r))
                x.fault = x.why;
        json_array_foreach(json_object_get(o, "manifests"), i, v) {
                if (x.fault.num || load_entry(&x, v) < 0)
                        break;
        }
        if (!x.fault.num && x.why.num && image_layout_search(&s->layout, take_blob, &x, err) < 0 && !x.fault.num)
                return err_wrap(err, "index.json of the images");
        if (x.fault.num) {
                *err = x.fault;
                return err_wrap(err, "index.json of the images");
        }
        if (missing && x.found == 0)
                return write_index(s, err);
        if (x.why.num)
                mend(&x, missing);
        else if (x.unchecked && !x.left_out && s->images.len > 0)
                (void)write_index(s, NULL); /* else with its next change */
        return 0;
}
