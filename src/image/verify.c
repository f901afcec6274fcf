#include "image/verify.h"

#include "image/operation.h"
#include "image/relay.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const image_fault_kinds[] = { "blob", "layer", "tree", NULL };

#define REPAIRS_MAX 50 /* that are remembered; all are logged */

static char marked;

struct item {
        enum image_fault_kind kind;
        char name[IMAGE_DIGEST_MAX]; /* of a layer and a tree their hex */
        struct image_descriptor blob;
};

/* A blob that is uncompressed and hashed, and goes nowhere. */
struct hashing {
        struct relay *relay;
        unsigned running; /* of the two: worker and relay */
        int plain, relayed;
        struct err plain_err, relay_err;
};

struct verify {
        struct image_store *store;
        bool repair;
        VEC(struct item) items;
        size_t at;
        struct op *op;               /* what looks at the item now */
        bool told;                   /* a fault of it */
        struct map *seen;            /* "kind name" of items */
        struct map *bad;             /* blobs that are damaged, by digest */
        struct map *good, *replaced; /* layers that are as they should be, and those that were replaced, by hex */
        struct hashing hash;
        char why[300]; /* what is in hand could not be made anew */
        struct image_verification v;
        image_verify_progress_fn progress;
        image_verified_fn fn;
        void *data;
};

/* ── what is to be looked at ──────────────────────────────────────────────────────────────────────────────────────── */

static int add_item(struct verify *v, enum image_fault_kind kind, const char *name, const struct image_descriptor *blob)
{
        struct item item = { .kind = kind };
        auto_free char *key = str_printf("%d %s", (int)kind, name);

        if (!key)
                return -ENOMEM;
        if (map_find(v->seen, key))
                return 0;
        (void)snprintf(item.name, sizeof(item.name), "%s", name);
        if (blob)
                item.blob = *blob;
        if (map_set(v->seen, key, &marked) < 0)
                return -ENOMEM;
        v->v.total++;
        return VEC_ADD(&v->items, item);
}

static int add_blobs(struct verify *v, const struct stored *i)
{
        int r = add_item(v, IMAGE_FAULT_BLOB, i->manifest.digest, &i->manifest);

        if (r == 0)
                r = add_item(v, IMAGE_FAULT_BLOB, i->parts.config.digest, &i->parts.config);
        for (size_t k = 0; r == 0 && k < i->parts.n_layers; k++)
                r = add_item(v, IMAGE_FAULT_BLOB, i->parts.layers[k].digest, &i->parts.layers[k]);
        return r;
}

static int add_layers(struct verify *v, const struct stored *i)
{
        int r = 0;

        for (size_t k = 0; r == 0 && k < i->parts.n_layers; k++)
                r = add_item(v, IMAGE_FAULT_LAYER, i->config.diff_ids[k], &i->parts.layers[k]);
        return r;
}

/* Blobs come first: only of a good one a layer can be told to be damaged. Trees come last: they are made of layers. */
static int list_items(struct verify *v)
{
        const struct stored_list *l = &v->store->images;
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->len; i++)
                r = add_blobs(v, l->items[i]);
        for (size_t i = 0; r == 0 && i < l->len; i++)
                r = add_layers(v, l->items[i]);
        for (size_t i = 0; r == 0 && i < l->len; i++)
                r = add_item(v, IMAGE_FAULT_TREE, l->items[i]->image.tree, NULL);
        return r;
}

static bool concerns(const struct stored *i, const struct item *item)
{
        if (item->kind == IMAGE_FAULT_TREE)
                return str_eq(i->image.tree, item->name);
        if (item->kind == IMAGE_FAULT_BLOB &&
            (str_eq(i->manifest.digest, item->name) || str_eq(i->parts.config.digest, item->name)))
                return true;
        for (size_t k = 0; k < i->parts.n_layers; k++)
                if (str_eq(item->kind == IMAGE_FAULT_BLOB ? i->parts.layers[k].digest : i->config.diff_ids[k],
                           item->name))
                        return true;
        return false;
}

/* An image that has it, or will have; NULL: none any more. */
static struct stored *image_of(const struct verify *v, const struct item *item)
{
        const struct stored_list *l = &v->store->images;
        const struct op *o;

        for (size_t i = 0; i < l->len; i++)
                if (l->items[i] && l->items[i] != v->store->leaving && concerns(l->items[i], item))
                        return l->items[i];
        LIST_FOREACH(o, &v->store->ops, node) {
                for (size_t i = 0; item->kind == IMAGE_FAULT_TREE && i < o->images.len; i++)
                        if (concerns(o->images.items[i], item))
                                return o->images.items[i];
        }
        return NULL;
}

/* A layer of it is missing or may be damaged, and its blob is good: that no tree can be made of it now says nothing of the image. */
static bool awaits_layer(const struct verify *v, const struct stored *i)
{
        for (size_t k = 0; k < i->config.n_diff_ids; k++)
                if (!map_find(v->good, i->config.diff_ids[k]) && !map_find(v->replaced, i->config.diff_ids[k]) &&
                    !map_find(v->bad, i->parts.layers[k].digest))
                        return true;
        return false;
}

static bool is_remade(const struct verify *v, const struct stored *i)
{
        for (size_t k = 0; k < i->config.n_diff_ids; k++)
                if (map_find(v->replaced, i->config.diff_ids[k]))
                        return true;
        return false;
}

/* there: NULL, or those that are, of an operation that has not made all of them yet. */
static int add_trees(struct verify *v, const struct stored_list *l, const struct map *there)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->len; i++)
                if (is_remade(v, l->items[i]) && (!there || map_find(there, l->items[i]->image.tree)))
                        r = add_item(v, IMAGE_FAULT_TREE, l->items[i]->image.tree, NULL);
        return r;
}

/* Trees of images that came meanwhile: those that were made of a layer before it was replaced are links to damaged files. */
static int add_late_trees(struct verify *v)
{
        const struct op *o;
        int r = map_len(v->replaced) > 0 ? add_trees(v, &v->store->images, NULL) : 0;

        LIST_FOREACH(o, &v->store->ops, node) {
                if (r == 0 && map_len(v->replaced) > 0)
                        r = add_trees(v, &o->images, o->trees);
        }
        return r;
}

/* ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Of the item that is looked at, at the end of a list. NULL: out of memory. */
static struct image_fault *add_to(struct verify *v, const char *text, struct image_fault **list, size_t *n, size_t *cap)
{
        const struct item *item = &v->items.items[v->at];
        struct image_fault fault = { .kind = item->kind };

        (void)snprintf(fault.name, sizeof(fault.name), "%s%s", item->kind == IMAGE_FAULT_LAYER ? "sha256:" : "",
                       item->name);
        (void)snprintf(fault.text, sizeof(fault.text), "%s", text);
        for (size_t i = 0; i < v->store->images.len; i++)
                if (concerns(v->store->images.items[i], item) &&
                    strv_add(&fault.digests, v->store->images.items[i]->image.digest) < 0)
                        break;
        if (vec_grow((void **)list, cap, *n, sizeof(fault)) < 0) {
                strv_free(fault.digests);
                return NULL;
        }
        (*list)[*n] = fault;
        return &(*list)[(*n)++];
}

static struct image_fault *add_fault(struct verify *v, const char *text)
{
        struct image_verification *res = &v->v;
        struct image_fault *fault = add_to(v, text, &res->faults, &res->n_faults, &res->cap_faults);

        if (!fault)
                return NULL;
        v->told = true;
        log_warn("images: %s %s: %s", image_fault_kinds[fault->kind], fault->name, fault->text);
        return fault;
}

static void add_unchecked(struct verify *v, const char *text)
{
        struct image_verification *res = &v->v;
        const struct image_fault *left = add_to(v, text, &res->unchecked, &res->n_unchecked, &res->cap_unchecked);

        if (left)
                log_info("images: %s %s was not compared: %s", image_fault_kinds[left->kind], left->name, left->text);
}

/* Of the item that is looked at. */
static struct image_fault *its_fault(struct verify *v)
{
        return v->told ? &v->v.faults[v->v.n_faults - 1] : NULL;
}

static void verify_free(struct verify *v)
{
        for (size_t i = 0; i < v->v.n_faults; i++)
                strv_free(v->v.faults[i].digests);
        for (size_t i = 0; i < v->v.n_unchecked; i++)
                strv_free(v->v.unchecked[i].digests);
        vec_free((void **)&v->v.faults);
        vec_free((void **)&v->v.unchecked);
        relay_cancel(v->hash.relay);
        VEC_DONE(&v->items);
        map_free(v->seen);
        map_free(v->bad);
        map_free(v->good);
        map_free(v->replaced);
        free(v);
}

void verify_close(struct image_store *s)
{
        if (s->verify)
                verify_free(s->verify);
        s->verify = NULL;
}

/* ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Not what memory still has of it. */
static int work_blob(struct op *op, struct err *err)
{
        char digest[IMAGE_DIGEST_MAX];
        auto_fd fd = -EBADF;
        uint64_t size;
        int r = image_layout_open_blob(&op->layout, op->layer.digest, &fd, &size, err);

        if (r < 0)
                return r;
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        r = image_layout_digest(fd, digest, err);
        op->archive_size = size;
        if (r == 0 && (op->layer.size > 0 && size != op->layer.size))
                r = err_set(err, EBADMSG, "it has %llu bytes, not %llu", (unsigned long long)size,
                            (unsigned long long)op->layer.size);
        if (r == 0 && !str_eq(digest, op->layer.digest))
                r = err_set(err, EBADMSG, "what is there has the digest %s", digest);
        return r;
}

static int step_verify_blob(struct op *op)
{
        int r = op_work(op, work_blob);

        return r < 0 ? r : STEP_WAIT;
}

/* Whoever needs it finds it missing, and brings it again. */
static int work_drop_blob(struct op *op, struct err *err)
{
        (void)err;
        image_layout_drop_blob(&op->layout, op->layer.digest);
        return 0;
}

static int step_drop_blob(struct op *op)
{
        int r = op_work(op, work_drop_blob);

        return r < 0 ? r : STEP_WAIT;
}

/* ── layers and trees ─────────────────────────────────────────────────────────────────────────────────────────────── */

/* Nobody else makes it meanwhile. */
static int step_verify_claim(struct op *op)
{
        return op_claim(op, op->verify_kind, op->name) ? STEP_NEXT : op_wait(op, op_claimable);
}

static int step_verify_plain(struct op *op)
{
        auto_fd fd = -EBADF;
        uint64_t size;
        int r = image_layout_open_blob(&op->store->layout, op->layer.digest, &fd, &size, &op->err);

        if (r == 0)
                r = layer_plain_start(op, fd);
        return r == 1 ? STEP_WAIT : r;
}

static int step_verify_diff_id(struct op *op)
{
        return str_eq(op->diff_id, op->name) ? STEP_NEXT
                                             : err_set(&op->err, EBADMSG, "its blob unpacks to sha256:%s", op->diff_id);
}

static void on_made(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        op->token = r == 0 ? token : 0;
        if (r < 0)
                op_wake_failed(op, r, err);
        else
                op_wake(op, 0, NULL);
}

static int step_verify_merge(struct op *op)
{
        struct image_store *s = op->store;
        const struct verify *v = s->verify;
        const struct stored *i = v ? image_of(v, &v->items.items[v->at]) : NULL;
        int r;

        if (!i)
                return err_set(&op->err, ENOENT, "the image has gone meanwhile");
        r = op_report(op);
        if (r == 0)
                r = s->workers.merge(s->workers.context, (const char(*)[65])i->config.diff_ids, i->config.n_diff_ids,
                                     op->report, on_made, op, &op->err);
        return r < 0 ? r : STEP_WAIT;
}

static bool is_there(const struct op *op)
{
        return map_find(op->verify_kind == IMAGE_LAYER ? op->layers : op->trees, op->name);
}

static void on_compared(int r, uint32_t token, const struct err *err, void *data)
{
        (void)token;
        if (r < 0)
                op_wake_failed(data, r, err);
        else
                op_wake(data, 0, NULL);
}

static int step_verify_compare(struct op *op)
{
        struct image_store *s = op->store;
        int r;

        if (!is_there(op))
                return STEP_NEXT;
        r = op_report(op);
        if (r == 0)
                r = s->workers.compare(s->workers.context, op->token, op->verify_kind, op->name, op->report,
                                       on_compared, op, &op->err);
        return r < 0 ? r : STEP_WAIT;
}

/* "3 differences: other contents: 'root/etc/passwd', …"; 0: none. */
static int read_differences(struct op *op, char *text, size_t size)
{
        auto_str report = STR_INIT;
        auto_json o = NULL;
        const json_t *list, *v;
        json_int_t n;
        size_t i, len;
        int r = op_read_report(op, &report, &op->err);

        if (r < 0)
                return r;
        if (json_read(report.data, report.len, &o, &op->err) < 0)
                return err_set(&op->err, EIO, "the worker's report cannot be read");
        n = json_integer_value(json_object_get(o, "differences"));
        op->archive_size += (uint64_t)MAX(json_integer_value(json_object_get(o, "bytes")), (json_int_t)0);
        if (n <= 0)
                return 0;
        list = json_object_get(o, "list");
        (void)snprintf(text, size, "%lld difference%s", (long long)n, n == 1 ? "" : "s");
        json_array_foreach(list, i, v) {
                const char *what = json_string_value(json_object_get(v, "what"));
                const char *path = json_string_value(json_object_get(v, "path"));

                if (!what || !path)
                        return err_set(&op->err, EIO, "the worker's report cannot be read");
                len = strlen(text);
                (void)snprintf(text + len, size - len, "%s%s: '%s'", i == 0 ? ": " : ", ", what, path);
        }
        return 1;
}

static void on_replaced(int r, const struct err *err, void *data)
{
        struct op *op = data;
        struct verify *v = op->store->verify;
        struct image_fault *fault = v ? its_fault(v) : NULL;

        op->token = 0;
        if (r == 0 && fault)
                fault->repaired = true;
        if (r == 0 && v && op->verify_kind == IMAGE_LAYER && map_set(v->replaced, op->name, &marked) < 0)
                r = op_out_of_memory(op);
        if (r == -EBUSY && fault) {
                size_t len = strlen(fault->text);

                (void)snprintf(fault->text + len, sizeof(fault->text) - len, "; a task uses it");
                r = 0;
        }
        op_wake(op, r, err);
}

static bool has_layer(const struct stored *i, const char *name)
{
        for (size_t k = 0; k < i->config.n_diff_ids; k++)
                if (str_eq(i->config.diff_ids[k], name))
                        return true;
        return false;
}

/* The launcher does what it is sent in this order: what is asked for from now on is made of the new layer, what was asked for before
 * perhaps of the old one. What has been committed by then is looked at when layers are done (add_late_trees()). */
static void spoil_merges(struct image_store *s, const char *layer)
{
        struct op *o;

        LIST_FOREACH(o, &s->ops, node) {
                for (size_t i = 0; o->claim[0] && o->claim_kind == IMAGE_TREE && i < o->images.len; i++)
                        if (str_eq(o->images.items[i]->image.tree, o->claim) && has_layer(o->images.items[i], layer))
                                o->stale = true;
        }
}

/* Made of a layer that was replaced, it shares files with what is in the trash. */
static bool is_stale(const struct verify *v, const struct item *item)
{
        const struct stored *i = item->kind == IMAGE_FAULT_TREE ? image_of(v, item) : NULL;

        return i && is_remade(v, i);
}

static int step_verify_settle(struct op *op)
{
        struct image_store *s = op->store;
        struct verify *v = s->verify;
        char text[300] = "it is missing";
        int r = is_there(op) ? read_differences(op, text, sizeof(text)) : 1;
        bool stale = r == 0 && v && v->repair && is_stale(v, &v->items.items[v->at]);

        if (r == 0 && v && op->verify_kind == IMAGE_LAYER && map_set(v->good, op->name, &marked) < 0)
                return op_out_of_memory(op);
        if (r == 1 && v)
                (void)add_fault(v, text);
        if (r >= 0 && v && v->repair && (r == 1 || stale) && op->verify_kind == IMAGE_LAYER)
                spoil_merges(s, op->name);
        if (r >= 0 && v && v->repair && (r == 1 || stale))
                r = s->workers.replace(s->workers.context, op->token, op->verify_kind, op->name, on_replaced, op,
                                       &op->err);
        else
                return r < 0 ? r : STEP_NEXT;
        return r < 0 ? r : STEP_WAIT;
}

/* ── what cannot be made anew ─────────────────────────────────────────────────────────────────────────────────────── */

static void hash_ended(struct op *op, struct verify *v)
{
        struct hashing *h = &v->hash;
        int r = 0;

        if (--h->running > 0)
                return;
        if (h->plain < 0)
                r = op_worker_error(op, h->plain, &h->plain_err);
        else if (h->relayed < 0)
                r = err_set(&op->err, h->relayed == -EFBIG ? EBADMSG : -h->relayed, "%s", h->relay_err.text);
        op_wake(op, r, &op->err);
}

static void on_hash_plain(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;
        struct verify *v = op->store->verify;

        (void)token;
        v->hash.plain = r;
        if (r < 0)
                v->hash.plain_err = *err;
        hash_ended(op, v);
}

static void on_hashed(int r, const char digest[65], uint64_t bytes, const struct err *err, void *data)
{
        struct op *op = data;
        struct verify *v = op->store->verify;

        v->hash.relay = NULL;
        v->hash.relayed = r;
        if (r < 0)
                v->hash.relay_err = *err;
        else
                memcpy(op->diff_id, digest, sizeof(op->diff_id));
        op->archive_size += bytes;
        hash_ended(op, v);
}

/* What a layer may be, headers and all, as install.c has it. */
static uint64_t hash_max(const struct image_store *s)
{
        return s->config.max_layer_bytes > INT64_MAX / 4 ? INT64_MAX : 2 * s->config.max_layer_bytes + (64U << 20);
}

static int hash_start(struct op *op, struct verify *v, int blob)
{
        struct image_store *s = op->store;
        int ends[2], r = op_report(op);

        if (r < 0)
                return r;
        if (pipe2(ends, O_CLOEXEC) < 0)
                return err_sys(&op->err, "make a pipe");
        v->hash = (struct hashing){ .running = 2 };
        r = relay_start(s->loop, op->queue, ends[0], -EBADF, hash_max(s), on_hashed, op, &v->hash.relay, &op->err);
        if (r == 0) {
                r = s->workers.plain(s->workers.context, blob, ends[1], op->report, hash_max(s),
                                     s->config.max_layer_entries, on_hash_plain, op, &op->err);
                if (r < 0)
                        relay_cancel(TAKE_PTR(v->hash.relay));
        }
        fd_close(ends[1]);
        return r;
}

/* One that is not compressed is what its blob is, which was read already. */
static int step_verify_hash(struct op *op)
{
        char media[IMAGE_MEDIA_MAX];
        auto_fd fd = -EBADF;
        uint64_t size;
        int r = image_layout_open_blob(&op->store->layout, op->layer.digest, &fd, &size, &op->err);

        if (r == 0)
                r = image_layer_media(fd, 0, media, &op->err);
        if (r == 0 && str_eq(media, MEDIA_OCI_LAYER)) {
                memcpy(op->diff_id, op->layer.digest + strlen("sha256:"), sizeof(op->diff_id));
                return STEP_NEXT;
        }
        if (r == 0)
                r = hash_start(op, op->store->verify, fd);
        return r < 0 ? r : STEP_WAIT;
}

/* ── what cannot be repaired ──────────────────────────────────────────────────────────────────────────────────────── */

static void on_gone(int r, const struct err *err, void *data)
{
        (void)r; /* it is not there, or in use: what is there is no better than before */
        (void)err;
        op_wake(data, 0, NULL);
}

static int step_drop_made(struct op *op)
{
        struct image_store *s = op->store;
        int r = s->workers.remove(s->workers.context, op->verify_kind, op->name, on_gone, op, &op->err);

        return r < 0 ? r : STEP_WAIT;
}

static bool is_among(char *const *list, const char *text)
{
        for (; list && *list; list++)
                if (str_eq(*list, text))
                        return true;
        return false;
}

static int step_break(struct op *op)
{
        for (size_t i = 0; i < op->store->images.len; i++) {
                struct stored *stored = op->store->images.items[i];

                if (is_among(op->broken, stored->image.digest))
                        stored->image.broken = true;
        }
        return STEP_NEXT;
}

static const op_step begin_steps[] = { NULL };
static const op_step blob_steps[] = { step_verify_blob, NULL };
static const op_step layer_steps[] = {
        step_verify_claim,   step_verify_plain,  step_import_hash,
        step_verify_diff_id, step_import_unpack, step_list_layers,
        step_verify_compare, step_verify_settle, NULL,
};
static const op_step hash_steps[] = {
        step_verify_claim, step_verify_hash, step_verify_diff_id, step_list_layers, NULL,
};
static const op_step look_steps[] = { step_verify_claim, step_list_layers, step_list_trees, NULL };
static const op_step tree_steps[] = {
        step_verify_claim, step_verify_merge, step_list_trees, step_verify_compare, step_verify_settle, NULL,
};
static const op_step break_steps[] = {
        step_drop_made, step_lock_index, step_break, step_write_index, step_unlock_index, NULL,
};
static const op_step break_blob_steps[] = {
        step_drop_blob, step_lock_index, step_break, step_write_index, step_unlock_index, NULL,
};

/* ── one after the other ──────────────────────────────────────────────────────────────────────────────────────────── */

static void look_at_next(struct verify *v);

static void finish(struct verify *v, int r, const struct err *err)
{
        struct image_store *s = v->store;

        s->verify = NULL;
        if (v->fn)
                v->fn(r, &v->v, err, v->data);
        verify_free(v);
}

static struct op *new_op(struct verify *v, const op_step *steps, image_done_fn fn)
{
        const struct item *item = &v->items.items[v->at];
        struct op *op = op_new(v->store, steps, false);

        if (!op)
                return NULL;
        op->queue = IMAGE_HEAVY_QUEUE + IMAGE_HEAVY_QUEUES - 1;
        op->pruning = true; /* it leaves nothing that was not there */
        op->layer = item->blob;
        op->verify_kind = item->kind == IMAGE_FAULT_TREE ? IMAGE_TREE : IMAGE_LAYER;
        if (item->kind != IMAGE_FAULT_BLOB)
                memcpy(op->name, item->name, sizeof(op->name) - 1);
        op->done = fn;
        op->data = v;
        return op;
}

static void done_with_item(struct verify *v)
{
        struct image_verification *res = &v->v;
        enum image_fault_kind kind = v->items.items[v->at].kind;

        *(kind == IMAGE_FAULT_BLOB ? &res->blobs : kind == IMAGE_FAULT_LAYER ? &res->layers : &res->trees) += 1;
        res->done = ++v->at;
        if (v->progress)
                v->progress(res, v->data);
        look_at_next(v);
}

static void on_broken(int r, const struct err *err, void *data)
{
        struct verify *v = data;

        if (r < 0)
                log_warn("images: mark what is broken: %s", err ? err->text : strerror(-r));
        done_with_item(v);
}

/* Only what can be pulled again gains by it: an image that still runs is left alone. */
static bool breaks(const struct verify *v, const struct image_fault *fault, const char *digest)
{
        const struct stored *i = store_find_digest(v->store, digest);

        return i && (fault->kind != IMAGE_FAULT_BLOB || i->image.source == IMAGE_FROM_PULL);
}

static void mark_broken(struct verify *v)
{
        const struct image_fault *fault = its_fault(v);
        struct op *op = new_op(v, fault->kind == IMAGE_FAULT_BLOB ? break_blob_steps : break_steps, on_broken);
        bool any = false;

        for (char **d = fault->digests; op && d && *d; d++) {
                if (!breaks(v, fault, *d))
                        continue;
                any = true;
                if (strv_add(&op->broken, *d) < 0)
                        break;
        }
        if (op && any)
                op_add(op);
        else
                op_free(op);
        if (!op || !any)
                done_with_item(v);
}

/* A worker that was killed, or could not do its work, has found nothing: it says nothing of what it looked at, but the rest can be
 * looked at all the same. Of a blob no worker is asked. */
static bool is_no_answer(const struct item *item, int r)
{
        return r == -ENOSPC || r == -EDQUOT ||
               (item->kind != IMAGE_FAULT_BLOB && (r == -EIO || r == -ETIMEDOUT || r == -ENOMEM));
}

static bool is_certain(const struct item *item, int r)
{
        return r == -EBADMSG || r == -ENOENT || (item->kind == IMAGE_FAULT_BLOB && r == -EIO);
}

static void tell_fault(struct verify *v, int r, const struct err *err)
{
        const struct item *item = &v->items.items[v->at];
        struct image_fault *fault = add_fault(v, err->text);

        if (item->kind != IMAGE_FAULT_TREE && map_set(v->bad, item->blob.digest, &marked) < 0)
                fault = NULL;
        if (fault && v->repair && is_certain(item, r))
                mark_broken(v);
        else
                done_with_item(v);
}

/* Missing for certain, and there is nothing to put in its place: what is there of the image is left as it is. */
static void tell_left(struct verify *v, bool there, const char *rest)
{
        char text[300];

        if (!there)
                (void)snprintf(text, sizeof(text), "it is missing, and cannot be made now: %.240s", v->why);
        else
                (void)snprintf(text, sizeof(text), "%.250s%s", v->why, rest);
        if (!v->told && !there)
                (void)add_fault(v, text);
        else if (!v->told)
                add_unchecked(v, text);
        done_with_item(v);
}

/* Not even that can be told. */
static void tell_left_by(struct verify *v, const struct err *err)
{
        (void)snprintf(v->why, sizeof(v->why), "%s", err->text);
        tell_left(v, true, "");
}

static void on_left(int r, const struct err *err, void *data)
{
        const struct op *op = ((struct verify *)data)->op;
        bool hashed = op->steps == hash_steps, there = is_there(op);
        struct verify *v = data;

        v->v.bytes += op->archive_size;
        v->op = NULL;
        if (r == -ENOENT || r == -EBADMSG)
                tell_fault(v, r, err);
        else if (r < 0 && !is_no_answer(&v->items.items[v->at], r))
                finish(v, r, err);
        else if (r == 0)
                tell_left(v, there, hashed ? "; its blob is whole, and it is there" : "");
        else
                tell_left_by(v, err);
}

/* Whether it is there at all. Of a layer that cannot be unpacked once more for want of room, its blob is hashed without being
 * unpacked. */
static void leave_unchecked(struct verify *v, int r, const struct err *err)
{
        const struct item *item = &v->items.items[v->at];
        bool hashes = item->kind == IMAGE_FAULT_LAYER && (r == -ENOSPC || r == -EDQUOT);

        (void)snprintf(v->why, sizeof(v->why), "%s%.280s",
                       is_no_answer(item, r) ? "" : "a layer of it is not as it should be: ", err->text);
        v->op = item->kind != IMAGE_FAULT_BLOB ? new_op(v, hashes ? hash_steps : look_steps, on_left) : NULL;
        if (v->op)
                op_add(v->op);
        else
                tell_left_by(v, err);
}

static void on_looked(int r, const struct err *err, void *data)
{
        struct verify *v = data;
        const struct item *item = &v->items.items[v->at];
        const struct stored *image = image_of(v, item);
        const struct op *op = v->op;

        v->v.bytes += op->archive_size;
        if (op->token)
                (void)v->store->workers.discard(v->store->workers.context, op->token, NULL);
        v->op = NULL;
        if (r == 0 || !image)
                done_with_item(v);
        else if (is_no_answer(item, r))
                leave_unchecked(v, r, err);
        else if (op_is_passing(r))
                finish(v, r, err);
        else if (item->kind == IMAGE_FAULT_TREE && awaits_layer(v, image))
                leave_unchecked(v, r, err);
        else
                tell_fault(v, r, err);
}

/* What has gone meanwhile, and layers whose blob was told already. */
static void pass_over(struct verify *v)
{
        while (v->at < v->items.len &&
               (!image_of(v, &v->items.items[v->at]) || (v->items.items[v->at].kind == IMAGE_FAULT_LAYER &&
                                                         map_find(v->bad, v->items.items[v->at].blob.digest))))
                v->at++;
}

static void fail(struct verify *v)
{
        struct err err = ERR_INIT;
        int r = err_oom(&err);

        finish(v, r, &err);
}

static void look_at_next(struct verify *v)
{
        static const op_step *const steps[] = { blob_steps, layer_steps, tree_steps };

        pass_over(v);
        if (v->at == v->items.len && add_late_trees(v) < 0) {
                fail(v);
                return;
        }
        pass_over(v);
        v->v.done = v->at;
        if (v->at == v->items.len || v->store->verify_ends) {
                finish(v, 0, NULL);
                return;
        }
        v->told = false;
        v->op = new_op(v, steps[v->items.items[v->at].kind], on_looked);
        if (v->op)
                op_add(v->op);
        else
                fail(v);
}

static void on_begun(int r, const struct err *err, void *data)
{
        (void)r;
        (void)err;
        look_at_next(data);
}

int image_store_verify(struct image_store *s, bool repair, image_verify_progress_fn progress, image_verified_fn fn,
                       void *data, struct err *err)
{
        struct verify *v;
        struct op *begin;

        if (s->verify)
                return err_set(err, EBUSY, "the images are being verified already");
        v = calloc(1, sizeof(*v));
        begin = v ? op_new(s, begin_steps, false) : NULL;
        if (!begin) {
                free(v);
                return err_oom(err);
        }
        v->store = s;
        v->repair = repair;
        v->seen = map_new();
        v->bad = map_new();
        v->good = map_new();
        v->replaced = map_new();
        if (!v->seen || !v->bad || !v->good || !v->replaced || list_items(v) < 0) {
                op_free(begin);
                verify_free(v);
                return err_oom(err);
        }
        v->progress = progress;
        v->fn = fn;
        v->data = data;
        s->verify = v;
        s->verify_ends = false;
        begin->done = on_begun;
        begin->data = v;
        op_add(begin);
        return 0;
}

void image_store_verify_cancel(struct image_store *s, void *data)
{
        if (!s->verify || s->verify->data != data)
                return;
        s->verify->fn = NULL;
        s->verify->progress = NULL;
        s->verify_ends = true;
}

char *const *image_store_repairs(const struct image_store *s)
{
        return s->repairs;
}

void store_note_repair(struct image_store *s, const char *fmt, ...)
{
        char text[400];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        log_warn("images: %s", text);
        if (strv_len(s->repairs) < REPAIRS_MAX)
                (void)strv_add(&s->repairs, text);
}
