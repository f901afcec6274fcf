#include "image/operation.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REST_NS (2 * NS_PER_S)
#define REST_MAX_NS (60 * NS_PER_S)

const op_step op_load_steps[] = {
        step_index, step_read_archive, step_names, step_prepare,     step_list_layers, step_list_trees,   step_unpack,
        step_merge, step_lock_index,   step_names, step_write_index, step_publish,     step_unlock_index, NULL,
};

const op_step op_import_steps[] = {
        step_import_blob,  step_import_plain,  step_import_hash,
        step_import_some,  step_import_unpack, step_import_commit,
        step_import_image, step_prepare,       step_list_layers,
        step_list_trees,   step_unpack,        step_merge,
        step_lock_index,   step_names,         step_write_index,
        step_publish,      step_unlock_index,  NULL,
};

const op_step op_layer_steps[] = {
        step_list_layers,
        step_layer,
        NULL,
};

const op_step op_feed_steps[] = {
        step_list_layers,
        step_feed,
        NULL,
};

const op_step op_pull_steps[] = {
        step_pull_manifest, step_prepare,     step_list_layers, step_list_trees,   step_unpack, step_merge,
        step_lock_index,    step_write_index, step_publish,     step_unlock_index, NULL,
};

const op_step op_remove_steps[] = {
        step_lock_index,   step_remove_tree,   step_write_index,   step_remove_name,
        step_unlock_index, step_lock_collect,  step_list_layers,   step_list_trees,
        step_delete_trees, step_delete_layers, step_collect_blobs, NULL,
};

static const op_step op_no_steps[] = { NULL };

/* Of a collection, which collects once for all. */
const op_step op_take_out_steps[] = {
        step_lock_index, step_remove_tree, step_write_index, step_remove_name, step_unlock_index, NULL,
};

const op_step op_collect_steps[] = {
        step_lock_collect,  step_list_layers,   step_list_trees,       step_delete_trees,
        step_delete_layers, step_collect_blobs, step_collect_partials, NULL,
};

const op_step op_tag_steps[] = {
        step_lock_index, step_tag, step_names, step_prepare, step_write_index, step_publish, step_unlock_index, NULL,
};

const op_step op_pin_steps[] = {
        step_lock_index, step_pin, step_write_index, step_publish_pin, step_unlock_index, NULL,
};

const op_step op_usage_steps[] = { step_write_usage, NULL };

const op_step op_sweep_steps[] = {
        step_list_layers,   step_list_trees,    step_repair,     step_unpack,
        step_merge,         step_lock_index,    step_publish,    step_unlock_index,
        step_lock_collect,  step_list_layers,   step_list_trees, step_delete_trees,
        step_delete_layers, step_collect_blobs, step_tell_sweep, NULL,
};

const op_step op_clean_steps[] = {
        step_lock_collect,
        step_list_layers,
        step_list_trees,
        step_delete_trees,
        step_delete_layers,
        step_collect_blobs,
        NULL,
};

struct op *op_new(struct image_store *s, const op_step *steps, bool heavy)
{
        struct op *op = calloc(1, sizeof(*op));

        if (!op)
                return NULL;
        *op = (struct op){ .store = s,
                           .steps = steps,
                           .heavy = heavy,
                           .seq = ++s->last_seq,
                           .queue = IMAGE_QUEUE,
                           .layout = s->layout,
                           .archive = -EBADF,
                           .plain = -EBADF,
                           .report = -EBADF };
        op->layout.claimant = op->seq;
        if (heavy)
                op->queue = IMAGE_HEAVY_QUEUE + s->next_queue++ % IMAGE_HEAVY_QUEUES;
        list_init(&op->node);
        op->layers = map_new();
        op->trees = map_new();
        op->verified = map_new();
        if (!op->layers || !op->trees || !op->verified) {
                op_free(op);
                return NULL;
        }
        return op;
}

void op_free(struct op *op)
{
        if (!op)
                return;
        image_layout_release(&op->layout);
        fd_close(op->archive);
        layer_flow_free(op->flow);
        free(op->came);
        fd_close(op->plain);
        fd_close(op->report);
        free(op->ref);
        free(op->namer);
        free(op->tag);
        strv_free(op->changes);
        image_manifest_done(&op->parts);
        strv_free(op->broken);
        image_found_done(&op->found);
        stored_list_done(&op->images);
        stored_list_done(&op->fresh);
        map_free(op->layers);
        map_free(op->trees);
        map_free(op->keep_blobs);
        map_free(op->keep_trees);
        map_free(op->verified);
        str_done(&op->text);
        free(op);
}

int op_out_of_memory(struct op *op)
{
        return err_oom(&op->err);
}

bool op_is_passing(int r)
{
        static const int passing[] = { ENOMEM, ENOSPC, EDQUOT, EAGAIN, EMFILE, ENFILE, ENOTCONN, EPIPE, ECONNRESET };

        for (size_t i = 0; i < ARRAY_LEN(passing); i++)
                if (r == -passing[i])
                        return true;
        return false;
}

/* Bytes of a UTF-8 character that may be shown; 0: a control, one that turns the direction or is invisible, no UTF-8. */
static size_t shown_len(const char *c)
{
        unsigned char lead = (unsigned char)c[0];
        size_t len = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

        if (len == 1)
                return lead >= 0x20 && lead < 0x7f;
        if (strnlen(c, len) < len || !utf8_valid(c, len))
                return 0;
        /* U+0080 to U+009F; U+2000 to U+207F, which has them all but the byte order mark. */
        if ((lead == 0xc2 && (unsigned char)c[1] < 0xa0) || (lead == 0xe2 && (unsigned char)c[1] < 0x82) ||
            memcmp(c, "\xef\xbb\xbf", MIN(len, (size_t)3)) == 0)
                return 0;
        return len;
}

/* Names out of archives and manifests stand in these texts: what is not to be shown becomes \xNN. */
static void make_printable(struct err *err)
{
        struct err old = *err;
        size_t n = 0;

        for (const char *c = old.text; *c && n + 5 < sizeof(err->text);) {
                size_t len = shown_len(c);

                if (len > 0)
                        memcpy(err->text + n, c, len);
                else
                        (void)snprintf(err->text + n, 5, "\\x%02x", (unsigned char)*c);
                n += len > 0 ? len : 4;
                c += len > 0 ? len : 1;
        }
        err->text[n] = '\0';
}

static void tell(struct op *op)
{
        const char *digests[IMAGE_SAVED_MAX + IMAGE_INDEX_MAX];
        const struct err *err = op->result < 0 ? &op->err : NULL;
        size_t n = 0;

        make_printable(&op->err);
        if (op->done)
                op->done(op->result, err, op->data);
        if (!op->loaded)
                return;
        for (size_t i = 0; op->result == 0 && i < op->found.n && n < ARRAY_LEN(digests); i++)
                digests[n++] = op->found.items[i].manifest.digest;
        op->loaded(op->result, digests, n, err, op->data);
}

/* ── who may go on ────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool may_begin(const struct op *op)
{
        const struct image_store *s = op->store;
        unsigned running = 0;
        struct op *o;

        LIST_FOREACH(o, &s->ops, node)
                running += o->running && o->heavy;
        return !op->heavy || running < s->config.parallel;
}

static struct op *next_ready(struct image_store *s)
{
        struct op *op;

        LIST_FOREACH(op, &s->ops, node) {
                if (op->running ? op->free && op->free(op) : may_begin(op))
                        return op;
        }
        return NULL;
}

static void run(struct op *op);

/* In a turn of its own, so that nobody's callback meets its own. */
static void tick(struct loop_timer *timer, void *data)
{
        struct image_store *s = data;
        struct op *op;

        (void)timer;
        while ((op = next_ready(s))) {
                op->running = true;
                op->free = NULL;
                run(op);
        }
}

static int kick(struct image_store *s)
{
        return loop_timer_set(s->loop, &s->tick, 0, tick, s);
}

int op_wait(struct op *op, bool (*is_free)(const struct op *op))
{
        op->free = is_free;
        return STEP_AGAIN;
}

static bool index_free(const struct op *op)
{
        return !op->store->indexing || op->store->indexing == op;
}

int step_lock_index(struct op *op)
{
        if (!index_free(op))
                return op_wait(op, index_free);
        op->store->indexing = op;
        return STEP_NEXT;
}

int step_unlock_index(struct op *op)
{
        if (op->store->indexing == op)
                op->store->indexing = NULL;
        (void)kick(op->store);
        return STEP_NEXT;
}

static bool collection_free(const struct op *op)
{
        return !op->store->collecting || op->store->collecting == op;
}

int step_lock_collect(struct op *op)
{
        if (!collection_free(op))
                return op_wait(op, collection_free);
        op->store->collecting = op;
        return STEP_NEXT;
}

/* of: the blob, "": any. */
static bool claimed_by_other(const struct op *op, enum image_kind kind, const char *name, const char *of)
{
        struct op *o;

        LIST_FOREACH(o, &op->store->ops, node) {
                if (o != op && o->claim_kind == kind && str_eq(o->claim, name) &&
                    (!*of || !o->claim_of[0] || str_eq(o->claim_of, of)))
                        return true;
        }
        return false;
}

/* The name is remembered while it waits: `wanted` only, since two of that name may wait for a third. */
bool op_claimable(const struct op *op)
{
        return !claimed_by_other(op, op->wants_kind, op->wants, op->wants_of);
}

static bool claim(struct op *op, enum image_kind kind, const char *name, const char *of)
{
        op_unclaim(op);
        op->wants_kind = kind;
        (void)snprintf(op->wants, sizeof(op->wants), "%s", name);
        (void)snprintf(op->wants_of, sizeof(op->wants_of), "%s", of);
        if (!op_claimable(op))
                return false;
        op->claim_kind = kind;
        memcpy(op->claim, op->wants, sizeof(op->claim));
        memcpy(op->claim_of, op->wants_of, sizeof(op->claim_of));
        return true;
}

bool op_claim(struct op *op, enum image_kind kind, const char *name)
{
        return claim(op, kind, name, "");
}

bool op_claim_layer(struct op *op, const char *diff_id, const char *blob)
{
        return claim(op, IMAGE_LAYER, diff_id, blob);
}

void op_unclaim(struct op *op)
{
        if (op->claim[0])
                (void)kick(op->store);
        op->claim[0] = '\0';
}

int op_announce(struct op *op, const char *pair)
{
        static char present;
        struct op *o;
        int r = 0;

        LIST_FOREACH(o, &op->store->ops, node) {
                if (r == 0 && o->running)
                        r = map_set(op->claim_kind == IMAGE_TREE ? o->trees : o->layers, op->claim, &present);
                if (r == 0 && o->running && pair)
                        r = map_set(o->verified, pair, &present);
        }
        op_unclaim(op);
        return r;
}

/* ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* What it stored keeps its claims while somebody collects who does not know that images name it now. */
static void give_up(struct op *op)
{
        struct image_store *s = op->store;
        struct op *o;

        if (s->indexing == op)
                s->indexing = NULL;
        if (s->collecting == op) {
                s->collecting = NULL;
                LIST_FOREACH(o, &s->lingering, node) {
                        list_remove(&o->node);
                        op_free(o);
                }
        }
        if (s->leaver == op) {
                s->leaver = NULL;
                s->leaving = NULL;
        }
}

static void rest_done(int r, const struct err *err, void *data)
{
        struct image_store *s = data;

        (void)err;
        if (r == 0)
                s->rest_ns = 0;
}

static void rest_collect(struct loop_timer *timer, void *data)
{
        struct image_store *s = data;
        struct op *op = op_new(s, op_clean_steps, false);

        (void)timer;
        if (!op)
                return;
        op->done = rest_done;
        op->data = s;
        op_add(op);
}

/* What a clean-up cannot do, since the launcher died or the disk has no room, is done later. */
static void leave_rest(struct image_store *s)
{
        /* Several at once are one failure. */
        if (s->rest.heap_index > 0)
                return;
        s->rest_ns = s->rest_ns > 0 ? MIN(2 * s->rest_ns, REST_MAX_NS) : REST_NS;
        (void)loop_timer_set(s->loop, &s->rest, time_mono_ns() + s->rest_ns, rest_collect, s);
}

static void end(struct op *op)
{
        struct image_store *s = op->store;
        uint64_t rest_ns = s->rest_ns;

        list_remove(&op->node);
        give_up(op);
        if (kick(s) < 0)
                log_warn("images: out of memory: what waits begins later");
        tell(op);
        if (op->rests) {
                s->rest_ns = rest_ns; /* it ended well, but left something: that has not gone better (rest_done()) */
                leave_rest(s);
        }
        if (s->collecting && op->result == 0)
                list_append(&s->lingering, &op->node);
        else
                op_free(op);
}

/* Whether all that it is about is done, but for taking away what nobody needs. */
static bool only_collects(const struct op *op)
{
        for (size_t i = 0; !op->cleaning && i < op->at; i++)
                if (op->steps[i] == step_remove_name)
                        return true;
        return op->cleaning || op->steps == op_clean_steps;
}

/* A failure is told after the clean-up; what the clean-up itself cannot do is left to the next one. An image that could not
 * be taken out of the index gets its tree back. */
static void fail(struct op *op, int r)
{
        struct image_store *s = op->store;

        op->result = r;
        op->cleaning = true;
        op->steps = s->leaver == op ? op_sweep_steps : op->pruning || op->came ? op_no_steps : op_clean_steps;
        if (s->leaver != op)
                (void)step_unlock_index(op);
        op_unclaim(op);
        op->name[0] = op->diff_id[0] = '\0';
        stored_list_done(&op->images);
        image_layout_release(&op->layout);
        op->target = (struct image_descriptor){ .size = 0 };
        op->whole = false;
        op->at = 0;
}

static void clean_up_failed(struct op *op, int r)
{
        if (op->steps == op_clean_steps && !op->cleaning)
                op->result = r;
        op->rests = true;
        end(op);
}

/* ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_room(int r, const struct err *err, void *data)
{
        struct op *op = data;

        (void)err; /* what failed first tells more */
        if (r < 0)
                fail(op, -ENOSPC);
        else
                op->err = (struct err)ERR_INIT;
        run(op);
}

/* Images are collected, and the step is tried once more. Every step but one bears that: the index is not held meanwhile, since
 * collecting needs it. */
static bool make_room(struct op *op, int r)
{
        struct image_store *s = op->store;

        if ((r != -ENOSPC && r != -EDQUOT) || op->cleaning || op->roomed || !op->heavy ||
            image_store_make_room(s, on_room, op, NULL) < 0)
                return false;
        op->roomed = true;
        op_unclaim(op);
        while (s->indexing == op && op->steps[op->at] != step_lock_index)
                op->at--;
        (void)step_unlock_index(op);
        return true;
}

static void run(struct op *op)
{
        while (op->steps[op->at]) {
                struct err told = op->err;
                bool cleaning = only_collects(op);
                int r = op->steps[op->at](op);

                if (r == STEP_WAIT || r == STEP_AGAIN) {
                        op->waiting = (enum step)r;
                        return;
                }
                if (r < 0) {
                        if (cleaning) {
                                log_debug("images: clean up: %s", op->err.text);
                                op->err = told;
                                clean_up_failed(op, r);
                                return;
                        }
                        if (make_room(op, r))
                                return;
                        if (!sweep_skip(op, r))
                                fail(op, r);
                        continue;
                }
                op->at++;
        }
        end(op);
}

bool op_is_late(struct op *op)
{
        op->owed = false;
        if (!op->store->closed)
                return false;
        image_store_close(op->store);
        return true;
}

void op_wake(struct op *op, int r, const struct err *err)
{
        if (r < 0) {
                if (only_collects(op)) {
                        log_debug("images: clean up: %s", err ? err->text : strerror(-r));
                        clean_up_failed(op, r);
                        return;
                }
                if (err && err != &op->err)
                        op->err = *err;
                if (!op->err.num)
                        (void)err_set(&op->err, -r, "%s", strerror(-r));
                if (make_room(op, r))
                        return;
                if (!sweep_skip(op, r))
                        fail(op, r);
        } else if (op->waiting == STEP_WAIT) {
                op->at++;
        }
        run(op);
}

void op_add(struct op *op)
{
        struct image_store *s = op->store;

        list_append(&s->ops, &op->node);
        if (kick(s) < 0) {
                op->result = op_out_of_memory(op);
                end(op);
        }
}

static void work_run(void *data)
{
        struct op *op = data;

        op->work_err = (struct err)ERR_INIT;
        op->work_result = op->work(op, &op->work_err);
}

static void work_done(void *data)
{
        struct op *op = data;
        int r = op->work_result;

        if (op_is_late(op))
                return;
        for (size_t i = 0; r == 0 && i < op->fresh.len; i++) {
                r = stored_list_add(&op->images, TAKE_PTR(op->fresh.items[i]));
                if (r < 0)
                        (void)err_oom(&op->work_err);
        }
        stored_list_done(&op->fresh);
        op_wake(op, r, &op->work_err);
}

int op_work(struct op *op, int (*work)(struct op *op, struct err *err))
{
        int r;

        op->work = work;
        r = loop_work(op->store->loop, op->queue, work_run, work_done, op);
        op->owed = r == 0;
        return r < 0 ? err_set(&op->err, -r, "too much work waits") : 0;
}
