/* Steps that bring in what a pull has downloaded. */

#include "image/install.h"

#include "base/fd.h"
#include "image/operation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char held;

const struct image_layout *image_store_layout(const struct image_store *s)
{
        return &s->layout;
}

int image_hold_new(struct image_store *s, const char (*diff_ids)[65], size_t n, struct image_hold **ret,
                   struct err *err)
{
        struct image_hold *h = calloc(1, sizeof(*h));
        bool good;

        if (!h)
                return err_oom(err);
        list_init(&h->node);
        h->diff_ids = map_new();
        h->pairs = map_new();
        good = h->diff_ids && h->pairs;
        for (size_t i = 0; good && i < n; i++)
                good = map_set(h->diff_ids, diff_ids[i], &held) == 0;
        if (!good) {
                image_hold_free(h);
                return err_oom(err);
        }
        list_append(&s->holds, &h->node);
        *ret = h;
        return 0;
}

void image_hold_free(struct image_hold *h)
{
        if (!h)
                return;
        list_remove(&h->node);
        map_free(h->diff_ids);
        map_free(h->pairs);
        free(h);
}

/* ── a layer ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Nothing where it is there. */
int step_layer(struct op *op)
{
        int r;

        if (!layer_missing(op, op->layer.digest, op->name))
                return STEP_NEXT;
        if (!op_claim_layer(op, op->name, op->layer.digest))
                return op_wait(op, op_claimable);
        r = layer_start(op, op->archive);
        return r < 0 ? r : STEP_WAIT;
}

static void layer_begin(struct op *op, struct image_hold *hold, int from, const struct image_descriptor *blob,
                        const char *diff_id, image_done_fn fn, void *data)
{
        op->archive = from;
        op->layer = *blob;
        op->hold = hold;
        (void)snprintf(op->name, sizeof(op->name), "%s", diff_id);
        op->done = fn;
        op->data = data;
        op_add(op);
}

int image_store_layer(struct image_store *s, struct image_hold *hold, int blob_fd, const struct image_descriptor *blob,
                      const char *diff_id, image_done_fn fn, void *data, struct err *err)
{
        struct op *op = op_new(s, op_layer_steps, true);

        if (!op) {
                fd_close(blob_fd);
                return err_oom(err);
        }
        layer_begin(op, hold, blob_fd, blob, diff_id, fn, data);
        return 0;
}

/* Nothing is claimed: what comes as slowly as somebody's registry likes holds up nobody who brings the same. */
int step_feed(struct op *op)
{
        int r;

        if (!layer_missing(op, op->layer.digest, op->name))
                return err_set(&op->err, EEXIST, "the layer is there");
        r = layer_feed(op, op->archive);
        fd_replace(&op->archive, -EBADF);
        return r < 0 ? r : STEP_WAIT;
}

int image_store_feed(struct image_store *s, struct image_hold *hold, int pipe, const struct image_descriptor *blob,
                     const char *diff_id, bool **ret_came, image_done_fn fn, void *data, struct err *err)
{
        struct op *op = op_new(s, op_feed_steps, false);

        if (op)
                op->came = calloc(1, sizeof(*op->came));
        if (!op || !op->came) {
                fd_close(pipe);
                op_free(op);
                return err_oom(err);
        }
        op->queue = IMAGE_HEAVY_QUEUE + s->next_queue++ % IMAGE_HEAVY_QUEUES;
        *ret_came = op->came;
        layer_begin(op, hold, pipe, blob, diff_id, fn, data);
        return 0;
}

bool image_store_crowded(const struct image_store *s)
{
        const struct op *op;
        size_t heavy = 0;

        LIST_FOREACH(op, &s->ops, node)
                heavy += op->heavy;
        return heavy > 1;
}

/* ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Without a hold nothing was downloaded: what lies among the partials is somebody else's, and not all of it may be there. */
static int take_blob(const struct op *op, const struct image_descriptor *d, struct err *err)
{
        return op->hold ? image_layout_partial_commit(&op->layout, d->digest, d->size, err)
                        : image_layout_hold_blob(&op->layout, d->digest, err);
}

static int work_pull_manifest(struct op *op, struct err *err)
{
        const struct image_layout *l = &op->layout;
        char digest[IMAGE_DIGEST_MAX];
        int r = take_blob(op, &op->parts.config, err);

        for (size_t i = 0; r == 0 && i < op->parts.n_layers; i++)
                r = take_blob(op, &op->parts.layers[i], err);
        if (r == 0)
                r = image_layout_put_text(l, op->text.data, op->text.len, digest, err);
        if (r == 0)
                r = image_layout_sync(l, err);
        return r;
}

int step_pull_manifest(struct op *op)
{
        int r = op_work(op, work_pull_manifest);

        return r < 0 ? r : STEP_WAIT;
}

static int describe(struct op *op, const char *media_type, char *const *names, struct err *err)
{
        struct image_found *found = calloc(1, sizeof(*found));

        op->found.items = found;
        if (!found)
                return err_oom(err);
        op->found.n = 1;
        (void)snprintf(found->manifest.media_type, sizeof(found->manifest.media_type), "%s", media_type);
        found->manifest.size = op->text.len;
        found->names = strv_dup(names);
        if (!found->names)
                return err_oom(err);
        return image_sha256_text(op->text.data, op->text.len, found->manifest.digest, err);
}

int image_store_install(struct image_store *s, struct image_hold *hold, const void *manifest, size_t len,
                        const char *media_type, char *const *names, image_done_fn fn, void *data, struct err *err)
{
        struct op *op = op_new(s, op_pull_steps, true);
        int r;

        if (!op || str_add(&op->text, manifest, len) < 0) {
                op_free(op);
                return err_oom(err);
        }
        r = image_manifest_parse(op->text.data, op->text.len, &op->parts, err);
        if (r == 0)
                r = describe(op, media_type, names, err);
        if (r < 0) {
                op_free(op);
                return r;
        }
        op->hold = hold;
        op->source = IMAGE_FROM_PULL;
        op->done = fn;
        op->data = data;
        op_add(op);
        return 0;
}
