#include "image/operation.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const op_step op_load_steps[] = {
        step_index,  step_read_archive, step_prepare,     step_list_layers, step_list_trees,
        step_unpack, step_merge,        step_write_index, step_publish,     NULL,
};

const op_step op_import_steps[] = {
        step_import_blob,   step_import_plain,
        step_import_hash,   step_import_unpack,
        step_import_commit, step_import_image,
        step_prepare,       step_list_layers,
        step_list_trees,    step_unpack,
        step_merge,         step_write_index,
        step_publish,       NULL,
};

const op_step op_layer_steps[] = {
        step_list_layers, step_layer_plain, step_layer_hash, step_layer_unpack, NULL,
};

const op_step op_pull_steps[] = {
        step_pull_manifest, step_prepare, step_list_layers, step_list_trees, step_unpack, step_merge, step_write_index,
        step_publish,       NULL,
};

const op_step op_remove_steps[] = {
        step_remove_tree,   step_write_index,   step_remove_name,
        step_list_layers,   step_list_trees,    step_delete_trees,
        step_delete_layers, step_collect_blobs, NULL,
};

const op_step op_sweep_steps[] = {
        step_list_layers, step_list_trees,   step_repair,        step_unpack,        step_merge,
        step_publish,     step_delete_trees, step_delete_layers, step_collect_blobs, NULL,
};

const op_step op_clean_steps[] = {
        step_list_layers, step_list_trees, step_delete_trees, step_delete_layers, step_collect_blobs, NULL,
};

struct op *op_new(struct image_store *s, const op_step *steps)
{
        struct op *op = calloc(1, sizeof(*op));

        if (!op)
                return NULL;
        *op = (struct op){ .store = s, .steps = steps, .archive = -EBADF, .plain = -EBADF, .report = -EBADF };
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
        fd_close(op->archive);
        fd_close(op->plain);
        fd_close(op->report);
        free(op->ref);
        strv_free(op->changes);
        strv_free(op->partials);
        image_found_done(&op->found);
        stored_list_done(&op->images);
        map_free(op->layers);
        map_free(op->trees);
        map_free(op->verified);
        str_done(&op->text);
        free(op);
}

int op_out_of_memory(struct op *op)
{
        return err_oom(&op->err);
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

static void begin(void *data);

/* The next operation begins in a later turn, so that nobody's callback meets its own. */
static void begin_next(struct image_store *s)
{
        struct op *op = LIST_FIRST(&s->ops, struct op, node);

        if (!op)
                return;
        op->owed = loop_defer(s->loop, begin, op) == 0;
        if (!op->owed) {
                op->result = err_oom(&op->err);
                list_remove(&op->node);
                tell(op);
                op_free(op);
        }
}

static void end(struct op *op)
{
        struct image_store *s = op->store;

        s->leaving = NULL;
        list_remove(&op->node);
        begin_next(s);
        tell(op);
        op_free(op);
}

/* A failure is told after the clean-up; what the clean-up itself cannot do is left to the next one. An image that could not
 * be taken out of the index gets its tree back. */
static void fail(struct op *op, int r)
{
        op->result = r;
        op->cleaning = true;
        op->steps = op->store->leaving ? op_sweep_steps : op_clean_steps;
        op->target = (struct image_descriptor){ .size = 0 };
        op->whole = false;
        op->at = 0;
}

static void run(struct op *op)
{
        while (op->steps[op->at]) {
                struct err told = op->err;
                bool cleaning = op->cleaning;
                int r = op->steps[op->at](op);

                if (r == STEP_WAIT || r == STEP_AGAIN) {
                        op->waiting = (enum step)r;
                        return;
                }
                if (r < 0) {
                        if (cleaning) {
                                log_debug("images: clean up: %s", op->err.text);
                                op->err = told;
                                end(op);
                                return;
                        }
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

static void begin(void *data)
{
        if (!op_is_late(data))
                run(data);
}

void op_wake(struct op *op, int r, const struct err *err)
{
        if (r < 0) {
                if (op->cleaning) {
                        log_debug("images: clean up: %s", err ? err->text : strerror(-r));
                        end(op);
                        return;
                }
                if (err && err != &op->err)
                        op->err = *err;
                if (!op->err.num)
                        (void)err_set(&op->err, -r, "%s", strerror(-r));
                fail(op, r);
        } else if (op->waiting == STEP_WAIT) {
                op->at++;
        }
        run(op);
}

void op_add(struct op *op)
{
        struct image_store *s = op->store;
        bool idle = list_empty(&s->ops);

        list_append(&s->ops, &op->node);
        if (idle)
                begin_next(s);
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

        if (!op_is_late(op))
                op_wake(op, op->work_result, &op->work_err);
}

int op_work(struct op *op, int (*work)(struct op *op, struct err *err))
{
        int r;

        op->work = work;
        r = loop_work(op->store->loop, IMAGE_QUEUE, work_run, work_done, op);
        op->owed = r == 0;
        return r < 0 ? err_set(&op->err, -r, "too much work waits") : 0;
}
