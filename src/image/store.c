#include "image/store.h"

#include "base/fd.h"
#include "base/log.h"
#include "image/changes.h"
#include "image/operation.h"
#include "image/ref.h"
#include "image/users.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_BYTES (UINT64_C(64) << 30)
#define DEFAULT_ENTRIES 2000000
#define DEFAULT_PARALLEL 4
#define PREFIX_MIN 4
#define HEX 64

const char *const image_sources[] = { "unknown", "pull", "load", "import", NULL };

/* ── one image ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void fill_image(struct stored *s)
{
        struct image *image = &s->image;
        const struct image_config *c = &s->config;

        memcpy(image->digest, s->manifest.digest, sizeof(image->digest));
        memcpy(image->config_digest, s->parts.config.digest, sizeof(image->config_digest));
        memcpy(image->created, c->created, sizeof(image->created));
        memcpy(image->architecture, c->architecture, sizeof(image->architecture));
        memcpy(image->os, c->os, sizeof(image->os));
        memcpy(image->variant, c->variant, sizeof(image->variant));
        memcpy(image->stop_signal, c->stop_signal, sizeof(image->stop_signal));
        image->entrypoint = c->entrypoint;
        image->cmd = c->cmd;
        image->env = c->env;
        image->workdir = c->workdir;
        image->user = c->user;
        image->config = c->json;
        image->layers = c->diff_ids;
        image->n_layers = c->n_diff_ids;
        image->size = s->parts.config.size;
        for (size_t i = 0; i < s->parts.n_layers; i++)
                image->size += s->parts.layers[i].size;
}

static int read_parts(const struct image_layout *l, struct stored *s, struct err *err)
{
        auto_str manifest = STR_INIT, config = STR_INIT;
        int r;

        r = image_layout_read_blob(l, s->manifest.digest, IMAGE_JSON_MAX, &manifest, err);
        if (r == 0)
                r = image_manifest_parse(manifest.data ? manifest.data : "", manifest.len, &s->parts, err);
        if (r == 0)
                r = image_layout_read_blob(l, s->parts.config.digest, IMAGE_JSON_MAX, &config, err);
        if (r == 0)
                r = image_config_parse(config.data ? config.data : "", config.len, &s->config, err);
        if (r < 0)
                return r;
        if (s->config.n_diff_ids != s->parts.n_layers)
                return err_set(err, EBADMSG, "the image has %zu layers and %zu diff_ids", s->parts.n_layers,
                               s->config.n_diff_ids);
        s->manifest.size = manifest.len;
        return image_tree_name((const char(*)[65])s->config.diff_ids, s->config.n_diff_ids, s->image.tree, err);
}

static void stored_cleanup(struct stored **s)
{
        stored_free(*s);
}

int stored_new(const struct image_layout *l, const struct image_descriptor *manifest, struct stored **ret,
               struct err *err)
{
        __attribute__((cleanup(stored_cleanup))) struct stored *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return err_oom(err);
        s->manifest = *manifest;
        r = read_parts(l, s, err);
        if (r < 0)
                return r;
        fill_image(s);
        *ret = TAKE_PTR(s);
        return 0;
}

void stored_free(struct stored *i)
{
        if (!i)
                return;
        image_manifest_done(&i->parts);
        image_config_done(&i->config);
        strv_free(i->image.names);
        free(i->passwd);
        free(i->group);
        free(i);
}

int stored_list_add(struct stored_list *l, struct stored *image)
{
        int r = vec_grow((void **)&l->items, &l->cap, l->len, sizeof(struct stored *));

        if (r < 0)
                stored_free(image);
        else
                l->items[l->len++] = image;
        return r;
}

void stored_list_done(struct stored_list *l)
{
        for (size_t i = 0; i < l->len; i++)
                stored_free(l->items[i]);
        VEC_DONE(l);
}

static int take_users(const json_t *o, const char *name, char **ret, struct err *err)
{
        const char *text = json_string_value(json_object_get(o, name));
        auto_str decoded = STR_INIT;
        int r;

        if (!text)
                return 0;
        r = base64_decode(&decoded, text, strlen(text));
        if (r < 0)
                return r == -ENOMEM ? err_oom(err) : err_set(err, EIO, "the worker's report cannot be read");
        free(*ret);
        *ret = str_take(&decoded);
        return *ret ? 0 : err_oom(err);
}

int stored_set_users(struct stored *i, const char *report, size_t len, struct err *err)
{
        auto_json o = NULL;
        int r;

        if (json_read(report, len, &o, NULL) < 0)
                return err_set(err, EIO, "the worker's report cannot be read");
        r = take_users(o, "passwd", &i->passwd, err);
        return r < 0 ? r : take_users(o, "group", &i->group, err);
}

/* ── open, close ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void store_cleanup(struct image_store **s)
{
        image_store_close(*s);
}

int image_store_open(struct loop *loop, const struct image_store_config *config, const struct image_workers *workers,
                     struct image_store **ret, struct err *err)
{
        __attribute__((cleanup(store_cleanup))) struct image_store *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return err_oom(err);
        s->loop = loop;
        s->config = *config;
        s->config.dir = NULL;
        s->config.trees_dir = config->trees_dir ? strdup(config->trees_dir) : NULL;
        s->workers = *workers;
        s->layout = (struct image_layout)IMAGE_LAYOUT_NONE;
        list_init(&s->ops);
        list_init(&s->holds);
        list_init(&s->sinks);
        list_init(&s->lingering);
        list_init(&s->prunes);
        list_init(&s->pressure.rooms);
        if (s->config.parallel == 0)
                s->config.parallel = DEFAULT_PARALLEL;
        if (s->config.max_layer_bytes == 0)
                s->config.max_layer_bytes = DEFAULT_BYTES;
        if (s->config.max_layer_entries == 0)
                s->config.max_layer_entries = DEFAULT_ENTRIES;
        if (s->config.max_archive_bytes == 0)
                s->config.max_archive_bytes = DEFAULT_BYTES;
        r = image_layout_open(config->dir, &s->layout, err);
        if (r == 0)
                r = index_load(s, err);
        if (r == 0 && s->layout.cut_off > 0)
                store_note_repair(s, "%u files whose writing was cut off were removed", s->layout.cut_off);
        if (r == 0 && usage_load(s) < 0)
                r = err_oom(err);
        if (r < 0)
                return r;
        pressure_start(s);
        *ret = TAKE_PTR(s);
        return 0;
}

static void leave_sinks(struct image_store *s);

static void free_ops(struct list *ops)
{
        struct op *op;

        LIST_FOREACH(op, ops, node) {
                list_remove(&op->node);
                op_free(op);
        }
}

void image_store_close(struct image_store *s)
{
        struct op *op;

        if (!s)
                return;
        loop_timer_cancel(&s->tick);
        loop_timer_cancel(&s->rest);
        loop_timer_cancel(&s->usage_timer);
        loop_timer_cancel(&s->pressure.timer);
        /* Whoever is owed a call still needs all of it, and comes back here. */
        s->closed = false;
        LIST_FOREACH(op, &s->ops, node)
                s->closed |= op->owed;
        if (s->closed)
                return;
        free_ops(&s->ops);
        free_ops(&s->lingering);
        leave_sinks(s);
        usage_close(s);
        prune_close(s);
        verify_close(s);
        strv_free(s->repairs);
        free((char *)(uintptr_t)s->config.trees_dir);
        stored_list_done(&s->images);
        image_layout_close(&s->layout);
        free(s);
}

/* ── look up ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct stored *find_name(struct image_store *s, const char *name)
{
        for (size_t i = 0; i < s->images.len; i++) {
                for (char **n = s->images.items[i]->image.names; n && *n; n++) {
                        if (str_eq(*n, name))
                                return s->images.items[i];
                }
        }
        return NULL;
}

static const char *prefix_of(const char *ref)
{
        const char *hex = str_starts(ref, "sha256:") ? ref + 7 : ref;
        size_t len = strlen(hex);

        return len >= PREFIX_MIN && len <= HEX && strspn(hex, "0123456789abcdef") == len ? hex : NULL;
}

static struct stored *find_prefix(struct image_store *s, const char *hex, struct err *err)
{
        struct stored *found = NULL;

        for (size_t i = 0; i < s->images.len; i++) {
                if (!str_starts(s->images.items[i]->image.digest + 7, hex))
                        continue;
                if (found) {
                        (void)err_set(err, EINVAL, "'%s' is the beginning of more than one digest", hex);
                        return NULL;
                }
                found = s->images.items[i];
        }
        return found;
}

static int normalise(const char *text, struct image_ref *ref, char out[REF_TEXT_MAX], struct err *err)
{
        int r = image_ref_parse_docker(text, ref, err);

        if (r == 0)
                image_ref_format(ref, out);
        return r;
}

/* The digest decides; the name before it must be one that the image has, or had none. */
static struct stored *find_pinned(struct image_store *s, const struct image_ref *ref)
{
        struct stored *image = store_find_digest(s, ref->digest);

        for (char **n = image ? image->image.names : NULL; n && *n; n++) {
                struct image_ref have;

                if (image_ref_parse(*n, &have, NULL) == 0 && str_eq(have.domain, ref->domain) &&
                    str_eq(have.path, ref->path))
                        return image;
        }
        return image && (!image->image.names || !image->image.names[0]) ? image : NULL;
}

const struct image *image_store_find(struct image_store *s, const char *ref, struct err *err)
{
        const char *hex = prefix_of(ref);
        struct stored *image = NULL;
        char name[REF_TEXT_MAX];
        struct image_ref parsed;
        int r = -EINVAL;

        if (!hex || (strlen(hex) != HEX && hex == ref)) {
                r = normalise(ref, &parsed, name, hex ? NULL : err);
                if (r == 0)
                        image = find_name(s, name);
                if (r == 0 && !image && parsed.digest[0])
                        image = find_pinned(s, &parsed);
        }
        if (!image && hex)
                image = find_prefix(s, hex, err);
        return image && image != s->leaving ? &image->image : NULL;
}

const struct image *image_store_by_digest(struct image_store *s, const char *digest)
{
        const struct stored *image = store_find_digest(s, digest);

        return image && image != s->leaving ? &image->image : NULL;
}

const struct image *image_store_next(struct image_store *s, size_t *pos)
{
        return *pos < s->images.len ? &s->images.items[(*pos)++]->image : NULL;
}

int image_user_resolve(struct image_store *s, const struct image *image, const char *user, struct image_user *ret,
                       struct err *err)
{
        const struct stored *i = CONTAINER_OF(image, const struct stored, image);

        (void)s;
        return image_users_find(i->passwd, i->group, user, ret, err);
}

bool image_is_builtin(const struct image *image)
{
        for (char **n = image->names; n && *n; n++) {
                if (str_starts(*n, IMAGE_BUILTIN_DOMAIN "/"))
                        return true;
        }
        return false;
}

/* ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────── */

int image_store_sweep(struct image_store *s, image_done_fn fn, void *data, struct err *err)
{
        struct op *op = op_new(s, op_sweep_steps, true);

        if (!op)
                return err_oom(err);
        op->done = fn;
        op->data = data;
        op_add(op);
        return 0;
}

int image_store_remove(struct image_store *s, const char *ref, image_done_fn fn, void *data, struct err *err)
{
        struct err why = ERR_INIT;
        const struct image *image = image_store_find(s, ref, &why);
        char name[REF_TEXT_MAX], shown[STR_SHOWN_MAX];
        struct image_ref parsed;
        struct op *op;

        if (!image)
                return why.num ? err_set(err, why.num, "%s", why.text)
                               : err_set(err, ENOENT, "there is no image '%s'", str_show(ref, shown));
        if (image_is_builtin(image))
                return err_set(err, EPERM, "the image '%s' is part of Mayfly", str_show(ref, shown));
        op = op_new(s, op_remove_steps, false);
        if (!op)
                return err_oom(err);
        /* By name only this name goes; by digest all of it. */
        op->whole = normalise(ref, &parsed, name, NULL) < 0 || find_name(s, name) == NULL;
        op->ref = strdup(op->whole ? image->digest : name);
        memcpy(op->looked_at, image->digest, sizeof(op->looked_at));
        if (!op->ref) {
                op_free(op);
                return err_oom(err);
        }
        op->done = fn;
        op->data = data;
        op_add(op);
        return 0;
}

static int new_named(struct image_store *s, const char *ref, const op_step *steps, struct op **ret, struct err *err)
{
        struct err why = ERR_INIT;
        char shown[STR_SHOWN_MAX];
        const struct image *image = image_store_find(s, ref, &why);
        struct op *op;

        if (!image)
                return why.num ? err_set(err, why.num, "%s", why.text)
                               : err_set(err, ENOENT, "there is no image '%s'", str_show(ref, shown));
        op = op_new(s, steps, false);
        if (!op)
                return err_oom(err);
        op->ref = strdup(image->digest);
        if (!op->ref) {
                op_free(op);
                return err_oom(err);
        }
        *ret = op;
        return 0;
}

static int check_new_name(const char *text, char name[REF_TEXT_MAX], struct err *err)
{
        struct image_ref parsed;
        int r = normalise(text, &parsed, name, err);

        if (r < 0)
                return r;
        if (parsed.digest[0])
                return err_set(err, EINVAL, "'%s' cannot be given as a name: it holds a digest", name);
        if (image_ref_is_reserved(&parsed))
                return err_set(err, EPERM, "'%s' cannot be given as a name: it is reserved", name);
        return 0;
}

int image_store_tag_by(struct image_store *s, const char *owner, const char *ref, const char *text, image_done_fn fn,
                       void *data, struct err *err)
{
        char name[REF_TEXT_MAX];
        struct op *op = NULL;
        int r = check_new_name(text, name, err);

        if (r == 0)
                r = new_named(s, ref, op_tag_steps, &op, err);
        if (r < 0)
                return r;
        op->tag = strdup(name);
        op->namer = owner ? strdup(owner) : NULL;
        if (!op->tag || (owner && !op->namer)) {
                op_free(op);
                return err_oom(err);
        }
        op->done = fn;
        op->data = data;
        op_add(op);
        return 0;
}

int image_store_tag(struct image_store *s, const char *ref, const char *text, image_done_fn fn, void *data,
                    struct err *err)
{
        return image_store_tag_by(s, NULL, ref, text, fn, data, err);
}

int image_store_pin(struct image_store *s, const char *ref, bool pinned, image_done_fn fn, void *data, struct err *err)
{
        struct op *op = NULL;
        int r = new_named(s, ref, op_pin_steps, &op, err);

        if (r < 0)
                return r;
        op->pin = pinned;
        op->done = fn;
        op->data = data;
        op_add(op);
        return 0;
}

/* ── archives that come in pieces ─────────────────────────────────────────────────────────────────────────────────── */

struct image_sink {
        struct list node;
        struct op *op;
        uint64_t max;            /* a thread writes, and the store may be closed meanwhile */
        struct image_room *room; /* that it waits for */
        bool roomed;
        image_done_fn room_fn;
        void *room_data;
};

/* Who writes still has the file; there is nothing of the store in it any more. */
static void leave_sinks(struct image_store *s)
{
        struct image_sink *sink;

        LIST_FOREACH(sink, &s->sinks, node) {
                list_remove(&sink->node);
                sink->op->layout = (struct image_layout)IMAGE_LAYOUT_NONE;
                sink->op->store = NULL;
                room_leave(TAKE_PTR(sink->room));
        }
}

static int prepare_import(struct op *op, enum image_sink_kind kind, const char *ref, char *const *changes,
                          struct err *err)
{
        char name[REF_TEXT_MAX];
        struct image_ref parsed;
        auto_json trial = NULL;
        int r;

        r = normalise(ref ? ref : "", &parsed, name, err);
        if (r < 0)
                return r;
        if (parsed.digest[0])
                return err_set(err, EINVAL, "an import cannot be given the name '%s': it holds a digest", name);
        if (kind != IMAGE_BUILTIN && image_ref_is_reserved(&parsed))
                return err_set(err, EINVAL, "an import cannot be given the name '%s': it is reserved", name);
        /* What is wrong with the changes should be known before the archive is sent. */
        r = image_import_config("sha256:", changes, "", &trial, err);
        if (r < 0)
                return r;
        op->ref = strdup(name);
        op->changes = strv_dup(changes);
        return !op->ref || (changes && !op->changes) ? err_oom(err) : 0;
}

int image_sink_open(struct image_store *s, enum image_sink_kind kind, const char *ref, char *const *changes,
                    struct image_sink **ret, struct err *err)
{
        struct image_sink *sink = calloc(1, sizeof(*sink));
        int r = 0;

        if (!sink)
                return err_oom(err);
        list_init(&sink->node);
        sink->max = s->config.max_archive_bytes;
        sink->op = op_new(s, kind == IMAGE_LOAD ? op_load_steps : op_import_steps, true);
        if (!sink->op)
                r = err_oom(err);
        if (r == 0 && kind != IMAGE_LOAD)
                r = prepare_import(sink->op, kind, ref, changes, err);
        if (r == 0)
                r = image_layout_spool(&s->layout, &sink->op->archive, err);
        if (r < 0) {
                image_sink_discard(sink);
                return r;
        }
        sink->op->source = kind == IMAGE_LOAD ? IMAGE_FROM_LOAD : IMAGE_FROM_IMPORT;
        list_append(&s->sinks, &sink->node);
        *ret = sink;
        return 0;
}

int image_sink_own(struct image_sink *sink, const char *owner, struct err *err)
{
        struct op *op = sink->op;

        op->namer = owner ? strdup(owner) : NULL;
        if (owner && !op->namer)
                return err_oom(err);
        return op->ref ? naming_check(op, op->ref, err) : 0;
}

int image_sink_write(struct image_sink *sink, const void *data, size_t len, struct err *err)
{
        struct op *op = sink->op;
        int r;

        if (len > sink->max - op->archive_size)
                return err_set(err, EFBIG, "the archive is larger than %llu bytes", (unsigned long long)sink->max);
        r = fd_write_all(op->archive, data, len);
        if (r < 0 && lseek(op->archive, (off_t)op->archive_size, SEEK_SET) < 0)
                return err_sys(err, "store the archive");
        if (r < 0)
                return err_set(err, -r, "store the archive: %s", strerror(-r));
        op->archive_size += len;
        return 0;
}

static void on_sink_room(int r, const struct err *err, void *data)
{
        struct image_sink *sink = data;

        sink->room = NULL;
        sink->room_fn(r, err, sink->room_data);
}

int image_sink_make_room(struct image_sink *sink, image_done_fn fn, void *data, struct err *err)
{
        int r;

        if (sink->roomed || !sink->op->store)
                return err_set(err, ENOSPC, "the disk is full");
        r = room_wait(sink->op->store, on_sink_room, sink, &sink->room, err);
        if (r < 0)
                return r;
        sink->roomed = true;
        sink->room_fn = fn;
        sink->room_data = data;
        return 0;
}

int image_sink_finish(struct image_sink *sink, image_loaded_fn fn, void *data, struct err *err)
{
        struct op *op = TAKE_PTR(sink->op);

        (void)err;
        list_remove(&sink->node);
        free(sink);
        op->loaded = fn;
        op->data = data;
        op_add(op);
        return 0;
}

void image_sink_discard(struct image_sink *sink)
{
        if (!sink)
                return;
        list_remove(&sink->node);
        room_leave(sink->room);
        op_free(sink->op);
        free(sink);
}
