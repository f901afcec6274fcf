/* Steps that write the index, take images out, and collect what none names. */

#include "image/operation.h"

#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char wanted;

struct stored *store_find_digest(const struct image_store *s, const char *digest)
{
        for (size_t i = 0; i < s->images.len; i++) {
                if (str_eq(s->images.items[i]->image.digest, digest))
                        return s->images.items[i];
        }
        return NULL;
}

static bool has_name(char *const *names, const char *name)
{
        for (; names && *names; names++) {
                if (str_eq(*names, name))
                        return true;
        }
        return false;
}

static struct stored *added(const struct op *op, const char *digest)
{
        for (size_t i = 0; i < op->images.len; i++) {
                if (str_eq(op->images.items[i]->image.digest, digest))
                        return op->images.items[i];
        }
        return NULL;
}

/* Whether `name` of an image that is there stays its name: a name means the image that got it last, and of two in one
 * archive the later one. */
static bool keeps(const struct op *op, const char *digest, const char *name)
{
        if (op->steps == op_pin_steps)
                return true;
        if (op->target.digest[0])
                return !str_eq(op->target.digest, digest) || (!op->whole && !str_eq(name, op->ref));
        for (size_t i = op->images.len; i > 0; i--) {
                if (has_name(op->images.items[i - 1]->image.names, name))
                        return str_eq(op->images.items[i - 1]->image.digest, digest);
        }
        return true;
}

/* ── index.json ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *notes_of(const struct image *image, const char *name)
{
        auto_json notes = json_object();
        char came[24];

        (void)snprintf(came, sizeof(came), "%" PRIu64, image->came_ms);
        if (!notes ||
            (name && json_object_set_new(notes, "org.opencontainers.image.ref.name", json_string(name)) < 0) ||
            (image->came_ms && json_object_set_new(notes, IMAGE_NOTE_CAME, json_string(came)) < 0) ||
            (image->source &&
             json_object_set_new(notes, IMAGE_NOTE_SOURCE, json_string(image_sources[image->source])) < 0) ||
            (image->pinned && json_object_set_new(notes, IMAGE_NOTE_PINNED, json_string("true")) < 0) ||
            (image->broken && json_object_set_new(notes, IMAGE_NOTE_BROKEN, json_string("true")) < 0) ||
            (image->lost && !name && json_object_set_new(notes, IMAGE_NOTE_LOST, json_string("true")) < 0))
                return NULL;
        return TAKE_PTR(notes);
}

static int add_entry(json_t *list, const struct stored *i, const struct image *notes, const char *name)
{
        auto_json e = json_pack("{s:s, s:s, s:I, s:o}", "mediaType", i->manifest.media_type, "digest",
                                i->manifest.digest, "size", (json_int_t)i->manifest.size, "annotations",
                                notes_of(notes, name));
        char check[IMAGE_DIGEST_MAX];

        if (!e || index_check(e, check, NULL) < 0 ||
            json_object_set_new(json_object_get(e, "annotations"), IMAGE_NOTE_CHECK, json_string(check)) < 0)
                return -ENOMEM;
        return json_array_append(list, e) < 0 ? -ENOMEM : 0;
}

/* What came again is as good as new. */
static void merge_notes(struct image *have, const struct image *more)
{
        if (!more || more->came_ms == 0)
                return;
        have->came_ms = more->came_ms;
        have->source = more->source;
        have->broken = false;
}

/* One entry for each name, or one without. */
static int add_image(const struct op *op, json_t *list, const struct stored *image, const struct stored *more)
{
        struct image notes = image->image;
        size_t n = 0;
        int r = 0;

        merge_notes(&notes, more ? &more->image : NULL);
        if (op->steps == op_pin_steps && str_eq(op->target.digest, notes.digest))
                notes.pinned = op->pin;

        for (char **name = image->image.names; r == 0 && name && *name; name++) {
                if (!keeps(op, image->image.digest, *name))
                        continue;
                r = add_entry(list, image, &notes, *name);
                n++;
        }
        for (char **name = more ? more->image.names : NULL; r == 0 && name && *name; name++) {
                if (has_name(image->image.names, *name) || !keeps(op, image->image.digest, *name))
                        continue;
                r = add_entry(list, image, &notes, *name);
                n++;
        }
        return r == 0 && n == 0 ? add_entry(list, image, &notes, NULL) : r;
}

static int write_text(struct op *op, json_t *list)
{
        const struct image_store *s = op->store;
        int r = 0;

        for (size_t i = 0; r == 0 && i < s->images.len; i++) {
                const struct stored *image = s->images.items[i];

                if (op->whole && str_eq(op->target.digest, image->image.digest))
                        continue;
                r = add_image(op, list, image, added(op, image->image.digest));
        }
        for (size_t i = 0; r == 0 && i < op->images.len; i++) {
                if (!store_find_digest(s, op->images.items[i]->image.digest))
                        r = add_image(op, list, op->images.items[i], NULL);
        }
        return r;
}

static int work_write_index(struct op *op, struct err *err)
{
        return image_layout_write_index(&op->store->layout, op->text.data, op->text.len, err);
}

int index_text(struct op *op)
{
        auto_json o = json_pack("{s:i, s:s, s:{s:s}, s:[]}", "schemaVersion", 2, "mediaType", MEDIA_OCI_INDEX,
                                "annotations", IMAGE_NOTE_CHECK, "sha256", "manifests");

        str_clear(&op->text);
        return !o || write_text(op, json_object_get(o, "manifests")) < 0 ? -ENOMEM : json_write(o, &op->text);
}

int step_write_index(struct op *op)
{
        int r;

        if (index_text(op) < 0)
                return op_out_of_memory(op);
        r = op_work(op, work_write_index);
        return r < 0 ? r : STEP_WAIT;
}

/* ── what is in memory follows what is on disk ────────────────────────────────────────────────────────────────────── */

static void drop_names(struct op *op)
{
        struct image_store *s = op->store;

        for (size_t i = 0; i < s->images.len; i++) {
                struct image *image = &s->images.items[i]->image;
                size_t kept = 0;

                for (size_t k = 0; image->names && image->names[k]; k++) {
                        if (keeps(op, image->digest, image->names[k]))
                                image->names[kept++] = image->names[k];
                        else
                                free(image->names[k]);
                }
                if (image->names)
                        image->names[kept] = NULL;
        }
}

static int merge_into(const struct op *op, struct stored *have, struct stored *more)
{
        for (char **name = more->image.names; name && *name; name++) {
                if (!has_name(have->image.names, *name) && keeps(op, have->image.digest, *name) &&
                    strv_add(&have->image.names, *name) < 0)
                        return -ENOMEM;
        }
        merge_notes(&have->image, &more->image);
        have->image.used_ms = MAX(have->image.used_ms, more->image.used_ms);
        if (!have->passwd)
                have->passwd = TAKE_PTR(more->passwd);
        if (!have->group)
                have->group = TAKE_PTR(more->group);
        return 0;
}

int step_publish(struct op *op)
{
        struct image_store *s = op->store;

        drop_names(op);
        for (size_t i = 0; i < op->images.len; i++) {
                struct stored *image = op->images.items[i], *have = store_find_digest(s, image->image.digest);

                if (have) {
                        if (merge_into(op, have, image) < 0)
                                return op_out_of_memory(op);
                        continue;
                }
                op->images.items[i] = NULL;
                if (stored_list_add(&s->images, image) < 0)
                        return op_out_of_memory(op);
        }
        stored_list_done(&op->images);
        usage_changed(s);
        return STEP_NEXT;
}

/* ── names and pins ───────────────────────────────────────────────────────────────────────────────────────────────── */

static struct stored *find_named(struct op *op)
{
        struct stored *i = store_find_digest(op->store, op->ref);

        if (!i || i == op->store->leaving)
                (void)err_set(&op->err, ENOENT, "there is no image '%s'", op->ref);
        return i == op->store->leaving ? NULL : i;
}

/* As if it were brought once more, by another name. */
int step_tag(struct op *op)
{
        const struct stored *have = find_named(op);

        if (!have)
                return -ENOENT;
        op->found.items = calloc(1, sizeof(*op->found.items));
        if (!op->found.items)
                return op_out_of_memory(op);
        op->found.n = 1;
        op->found.items[0].manifest = have->manifest;
        return strv_add(&op->found.items[0].names, op->tag) < 0 ? op_out_of_memory(op) : STEP_NEXT;
}

int step_pin(struct op *op)
{
        const struct stored *have = find_named(op);

        if (!have)
                return -ENOENT;
        op->target = have->manifest;
        return STEP_NEXT;
}

int step_publish_pin(struct op *op)
{
        struct stored *have = store_find_digest(op->store, op->target.digest);

        if (have)
                have->image.pinned = op->pin;
        return STEP_NEXT;
}

/* Images whose tree has gone, as after a launcher's store was lost, are unpacked again. */
static int work_repair(struct op *op, struct err *err)
{
        for (size_t i = 0; i < op->found.n; i++) {
                struct stored *image = NULL;
                struct err why = ERR_INIT;

                if (stored_new(&op->layout, &op->found.items[i].manifest, &image, &why) < 0) {
                        log_debug("images: %s: %s", op->found.items[i].manifest.digest, why.text);
                        continue;
                }
                if (stored_list_add(&op->fresh, image) < 0)
                        return err_oom(err);
        }
        return 0;
}

static bool needs(const struct stored *i, const char *name)
{
        for (size_t k = 0; k < i->config.n_diff_ids; k++)
                if (str_eq(i->config.diff_ids[k], name))
                        return true;
        return str_eq(i->image.tree, name);
}

bool sweep_skip(struct op *op, int r)
{
        bool any = false;

        if (op->steps != op_sweep_steps || op->cleaning || op_is_passing(r) ||
            (op->steps[op->at] != step_unpack && op->steps[op->at] != step_merge))
                return false;
        /* That a worker died says nothing of what it read. */
        if ((r == -EIO || r == -ETIMEDOUT) && !str_eq(op->again, op->name)) {
                memcpy(op->again, op->name, sizeof(op->again));
                op->err = (struct err)ERR_INIT;
                op_unclaim(op);
                return true;
        }
        for (size_t i = op->images.len; i > 0; i--) {
                struct stored *image = op->images.items[i - 1], *have;

                if (!needs(image, op->name))
                        continue;
                have = store_find_digest(op->store, image->image.digest);
                if (have)
                        have->image.broken = true;
                store_note_repair(op->store, "image %s is broken, and has to be brought again: %s",
                                  have && have->image.names && have->image.names[0] ? have->image.names[0]
                                                                                    : image->image.digest,
                                  op->err.text);
                op->images.items[i - 1] = op->images.items[--op->images.len];
                stored_free(image);
                any = true;
        }
        op->err = (struct err)ERR_INIT;
        op_unclaim(op);
        return any;
}

int step_tell_sweep(struct op *op)
{
        if (op->made[0] > 0 || op->made[1] > 0)
                store_note_repair(op->store, "what was missing was made again: %u of layers, %u of trees", op->made[0],
                                  op->made[1]);
        if (op->dropped[0] > 0 || op->dropped[1] > 0)
                store_note_repair(op->store, "what no image needs was removed: %u of layers, %u of trees",
                                  op->dropped[0], op->dropped[1]);
        return STEP_NEXT;
}

int step_repair(struct op *op)
{
        const struct image_store *s = op->store;
        int r;

        image_found_done(&op->found);
        op->found.items = calloc(s->images.len + 1, sizeof(*op->found.items));
        if (!op->found.items)
                return op_out_of_memory(op);
        for (size_t i = 0; i < s->images.len; i++) {
                const struct stored *have = s->images.items[i];

                if (have->image.broken)
                        continue;
                if (!map_find(op->trees, have->image.tree) || (!have->passwd && !have->group))
                        op->found.items[op->found.n++].manifest = have->manifest;
        }
        r = op_work(op, work_repair);
        return r < 0 ? r : STEP_WAIT;
}

/* ── what is wanted ───────────────────────────────────────────────────────────────────────────────────────────────── */

static bool list_wants_tree(const struct stored_list *l, const char *name, const struct image *but)
{
        for (size_t i = 0; i < l->len; i++) {
                if (&l->items[i]->image != but && str_eq(l->items[i]->image.tree, name))
                        return true;
        }
        return false;
}

/* By another image than `but`, or by an operation that brings one. */
static bool tree_wanted_but(const struct op *op, const char *name, const struct image *but)
{
        const struct image_store *s = op->store;
        const struct op *o;

        LIST_FOREACH(o, &s->ops, node) {
                if (o != op && (list_wants_tree(&o->images, name, NULL) || str_eq(o->name, name)))
                        return true;
        }
        return list_wants_tree(&s->images, name, but);
}

static bool tree_wanted(const struct op *op, const char *name)
{
        return tree_wanted_but(op, name, NULL);
}

static bool list_wants_layer(const struct stored_list *l, const char *name)
{
        for (size_t i = 0; i < l->len; i++) {
                const struct image_config *c = &l->items[i]->config;

                for (size_t k = 0; k < c->n_diff_ids; k++) {
                        if (str_eq(c->diff_ids[k], name))
                                return true;
                }
        }
        return false;
}

static bool layer_wanted(const struct op *op, const char *name)
{
        const struct image_store *s = op->store;
        const struct image_hold *h;
        const struct op *o;

        LIST_FOREACH(h, &s->holds, node) {
                if (map_find(h->diff_ids, name))
                        return true;
        }
        LIST_FOREACH(o, &s->ops, node) {
                if (o != op &&
                    (list_wants_layer(&o->images, name) || str_eq(o->name, name) || str_eq(o->diff_id, name)))
                        return true;
        }
        return list_wants_layer(&s->images, name);
}

/* ── removal ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_tree_removed(int r, const struct err *err, void *data)
{
        struct err used = ERR_INIT;
        struct op *op = data;

        if (r == -ENOENT)
                r = 0;
        if (r == -EBUSY) { /* whoever removes it knows of no trees */
                (void)err_set(&used, EBUSY, "the image '%s' is in use: a task runs from it", op->ref);
                err = &used;
        }
        if (r == 0) {
                op->store->leaver = op;
                op->store->leaving = store_find_digest(op->store, op->target.digest);
        }
        op_wake(op, r, err);
}

/* Names by digest, which pulls give beside a tag, do not keep what has lost its last tag. */
static bool is_last_name(const struct image *image, const char *name)
{
        for (char **n = image->names; n && *n; n++) {
                if (!str_eq(*n, name) && !strchr(*n, '@'))
                        return false;
        }
        return image->names && (!strchr(name, '@') || !image->names[1]);
}

/* Whether it must not go, though it could. */
static int check_spared(struct op *op, const struct stored *i)
{
        if (i->image.pinned)
                return err_set(&op->err, EBUSY, "the image '%s' is pinned", op->ref);
        if (!op->pruning)
                return 0;
        /* Since it was planned somebody may have named it, or asked for a task of it. */
        if (i->image.used_ms > op->planned_ms || i->image.came_ms > op->planned_ms ||
            strv_len(i->image.names) > op->planned_names || prune_in_use(op->store, i->image.digest) != 0)
                return err_set(&op->err, EBUSY, "the image '%s' is in use", op->ref);
        return 0;
}

/* Decides what goes, and takes the tree first: while a container uses it, nothing goes. What is looked at is the image that was
 * meant: that it may go was decided of it, and its name may be another's by now. */
int step_remove_tree(struct op *op)
{
        struct image_store *s = op->store;
        const struct stored *i = store_find_digest(s, op->looked_at);
        const struct image *image = i ? &i->image : NULL;
        int r;

        if (!image || i == s->leaving || (!op->whole && !has_name(image->names, op->ref)))
                return err_set(&op->err, ENOENT, "there is no image '%s' any more", op->ref);
        op->target = i->manifest;
        if (!op->whole)
                op->whole = is_last_name(image, op->ref);
        r = op->whole ? check_spared(op, i) : 0;
        if (r < 0)
                return r;
        if (!op->whole || tree_wanted_but(op, image->tree, image))
                return STEP_NEXT;
        r = s->workers.remove(s->workers.context, IMAGE_TREE, image->tree, on_tree_removed, op, &op->err);
        return r < 0 ? r : STEP_WAIT;
}

int step_remove_name(struct op *op)
{
        struct image_store *s = op->store;

        drop_names(op);
        for (size_t i = 0; op->whole && i < s->images.len; i++) {
                struct stored *image = s->images.items[i];

                if (!str_eq(image->image.digest, op->target.digest))
                        continue;
                s->leaver = NULL;
                s->leaving = NULL;
                s->images.items[i] = s->images.items[--s->images.len];
                stored_free(image);
                break;
        }
        return STEP_NEXT;
}

/* A tree that a container still uses is left for the next collection. */
static void on_deleted(int r, const struct err *err, void *data)
{
        struct op *op = data;

        if (r < 0 && r != -EBUSY && r != -ENOENT) {
                log_debug("images: collect: %s", err ? err->text : strerror(-r));
                op->rests = true;
        }
        op_wake(op, 0, NULL);
}

static int delete_next(struct op *op, enum image_kind kind, struct map *present,
                       bool (*is_wanted)(const struct op *op, const char *name))
{
        struct image_store *s = op->store;
        const char *name;
        size_t pos = 0;
        void *value;

        while (map_next(present, &pos, &name, &value)) {
                char copy[65];

                memcpy(copy, name, MIN(strlen(name) + 1, sizeof(copy)));
                copy[64] = '\0';
                (void)map_remove(present, name);
                if (is_wanted(op, copy))
                        continue;
                if (s->workers.remove(s->workers.context, kind, copy, on_deleted, op, NULL) == 0) {
                        op->dropped[kind == IMAGE_TREE]++;
                        return STEP_AGAIN;
                }
                op->rests = true;
        }
        return STEP_NEXT;
}

int step_delete_trees(struct op *op)
{
        return delete_next(op, IMAGE_TREE, op->trees, tree_wanted);
}

int step_delete_layers(struct op *op)
{
        return delete_next(op, IMAGE_LAYER, op->layers, layer_wanted);
}

static int want(struct map *m, const char *digest)
{
        return map_set(m, digest, &wanted);
}

static int want_blobs(struct map *blobs, const struct stored *image)
{
        int r = want(blobs, image->manifest.digest + 7);

        if (r == 0)
                r = want(blobs, image->parts.config.digest + 7);
        for (size_t k = 0; r == 0 && k < image->parts.n_layers; k++)
                r = want(blobs, image->parts.layers[k].digest + 7);
        return r;
}

/* What goes out in an archive just now. */
static int want_held(struct map *blobs, const struct image_store *s)
{
        const struct image_hold *h;
        const char *name;
        void *value;
        int r = 0;

        LIST_FOREACH(h, &s->holds, node) {
                size_t pos = 0;

                while (r == 0 && h->blobs && map_next(h->blobs, &pos, &name, &value))
                        r = want(blobs, name);
        }
        return r;
}

static int work_collect(struct op *op, struct err *err)
{
        return image_layout_collect(&op->store->layout, op->keep_blobs, op->keep_trees, err);
}

static int want_list(struct op *op, const struct stored_list *l)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->len; i++) {
                r = want_blobs(op->keep_blobs, l->items[i]);
                if (r == 0)
                        r = want(op->keep_trees, l->items[i]->image.tree);
        }
        return r;
}

int step_collect_blobs(struct op *op)
{
        struct image_store *s = op->store;
        const struct op *o;
        int r = 0;

        /* A thread reads them, while others are told to op->layers and op->trees. */
        map_free(op->keep_blobs);
        map_free(op->keep_trees);
        op->keep_blobs = map_new();
        op->keep_trees = map_new();
        if (!op->keep_blobs || !op->keep_trees)
                return op_out_of_memory(op);
        r = want_list(op, &s->images);
        LIST_FOREACH(o, &s->ops, node) {
                if (r == 0)
                        r = want_list(op, &o->images);
        }
        if (r == 0)
                r = want_held(op->keep_blobs, s);
        if (r < 0)
                return op_out_of_memory(op);
        r = op_work(op, work_collect);
        return r < 0 ? r : STEP_WAIT;
}
