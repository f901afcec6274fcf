/* Steps that bring images in: index, copy, unpack, merge. */

#include "base/fd.h"
#include "image/changes.h"
#include "image/operation.h"

#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define ENTRIES_MAX 100000 /* of an archive of images */
#define REPORT_MAX (80U << 20)

static char present;

/* ── reports of the workers ───────────────────────────────────────────────────────────────────────────────────────── */

int op_report(struct op *op)
{
        fd_replace(&op->report, memfd_create("report", MFD_CLOEXEC));
        return op->report < 0 ? err_sys(&op->err, "make a report") : 0;
}

int op_read_report(struct op *op, struct str *ret, struct err *err)
{
        struct stat st;
        size_t done = 0;

        if (fstat(op->report, &st) < 0 || st.st_size > REPORT_MAX)
                return err_set(err, EIO, "the worker's report cannot be read");
        if (str_reserve(ret, (size_t)st.st_size + 1) < 0)
                return err_oom(err);
        while (done < (size_t)st.st_size) {
                ssize_t n = pread(op->report, ret->data + done, (size_t)st.st_size - done, (off_t)done);

                if (n <= 0)
                        return err_set(err, EIO, "the worker's report cannot be read");
                done += (size_t)n;
        }
        ret->len = done;
        ret->data[done] = '\0';
        return 0;
}

/* Why a worker failed: its own words, else what its end says. */
int op_worker_error(struct op *op, int r, const struct err *err)
{
        auto_str text = STR_INIT;
        auto_json o = NULL;
        const char *why = NULL;
        int num = 0;

        if (op_read_report(op, &text, NULL) == 0 && json_read(text.data, text.len, &o, NULL) == 0) {
                why = json_string_value(json_object_get(o, "error"));
                num = (int)json_integer_value(json_object_get(o, "errno"));
        }
        /* Who judges its input says why: one that ends so without a word has failed itself. */
        if (!why && r == -EBADMSG)
                return err_set(&op->err, EIO, "the image worker ended without a report");
        if (!why)
                return err_set(&op->err, -r, "%s", err && err->text[0] ? err->text : strerror(-r));
        if (num == EFBIG)
                num = EBADMSG;
        if (num == EDQUOT)
                num = ENOSPC;
        if (num != EBADMSG && num != ENOSPC && num != ENOMEM)
                num = EIO;
        return err_set(&op->err, num, "%s", why);
}

void op_wake_failed(struct op *op, int r, const struct err *err)
{
        r = op_worker_error(op, r, err);
        op_wake(op, r, &op->err);
}

/* What made no token. */
static void on_worked(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        (void)token;
        if (r < 0)
                op_wake_failed(op, r, err);
        else
                op_wake(op, 0, NULL);
}

/* ── load ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

int step_index(struct op *op)
{
        struct image_store *s = op->store;
        int r;

        fd_replace(&op->plain, -EBADF);
        r = op_report(op);
        if (r == 0)
                r = image_layout_spool(&s->layout, &op->plain, &op->err);
        if (r == 0)
                r = s->workers.index(s->workers.context, op->archive, op->plain, op->report,
                                     s->config.max_archive_bytes, ENTRIES_MAX, on_worked, op, &op->err);
        return r < 0 ? r : STEP_WAIT;
}

static int work_read_archive(struct op *op, struct err *err)
{
        auto_str text = STR_INIT;
        int r;

        r = op_read_report(op, &text, err);
        if (r == 0)
                r = image_archive_read(&op->layout, text.data, text.len, op->archive, op->plain, &op->found, err);
        return r;
}

int step_read_archive(struct op *op)
{
        int r = op_work(op, work_read_archive);

        return r < 0 ? r : STEP_WAIT;
}

/* ── import ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int work_import_blob(struct op *op, struct err *err)
{
        int r;

        r = image_layer_media(op->archive, 0, op->layer.media_type, err);
        op->layer.size = op->archive_size;
        if (r == 0)
                r = image_layout_put(&op->layout, op->archive, 0, op->archive_size, op->layer.digest, err);
        return r;
}

int step_import_blob(struct op *op)
{
        int r = op_work(op, work_import_blob);

        return r < 0 ? r : STEP_WAIT;
}

/* ── the plain bytes of a layer ───────────────────────────────────────────────────────────────────────────────────── */

/* A worker uncompresses, this process hashes, and another worker unpacks what was hashed. Who takes over the first can make
 * others' bytes of the blob, but then those are unpacked; who takes over the second chooses what lies under the digest of
 * the very bytes that did it. */
#define PLAIN_EXTRA (UINT64_C(64) << 20)
#define PLAIN_PER_ENTRY 2048 /* headers and padding; together no more than the contents may be */

static uint64_t plain_max(const struct image_store *s)
{
        uint64_t headers = MIN(s->config.max_layer_entries, (uint64_t)UINT32_MAX) * PLAIN_PER_ENTRY;

        headers = MIN(headers, s->config.max_layer_bytes) + PLAIN_EXTRA;
        return s->config.max_layer_bytes > INT64_MAX - headers ? INT64_MAX : s->config.max_layer_bytes + headers;
}

/* Sees to op->plain. 1: a worker makes it, and op_wake() follows; 0: the blob is what it has to be, and so is its digest;
 * -errno. */
static int start_plain(struct op *op, int blob)
{
        struct image_store *s = op->store;
        char media[IMAGE_MEDIA_MAX];
        int r = image_layer_media(blob, 0, media, &op->err);

        if (r < 0)
                return r;
        fd_replace(&op->plain, -EBADF);
        if (str_eq(media, MEDIA_OCI_LAYER)) {
                memcpy(op->diff_id, op->layer.digest + strlen("sha256:"), sizeof(op->diff_id));
                op->plain = fcntl(blob, F_DUPFD_CLOEXEC, 3);
                return op->plain < 0 ? err_sys(&op->err, "hold a layer") : 0;
        }
        op->diff_id[0] = '\0';
        r = image_layout_spool(&s->layout, &op->plain, &op->err);
        if (r == 0)
                r = op_report(op);
        if (r == 0)
                r = s->workers.plain(s->workers.context, blob, op->plain, op->report, plain_max(s),
                                     s->config.max_layer_entries, on_worked, op, &op->err);
        return r < 0 ? r : 1;
}

static int work_hash(struct op *op, struct err *err)
{
        char digest[IMAGE_DIGEST_MAX];
        int r = image_layout_digest(op->plain, digest, err);

        if (r == 0)
                memcpy(op->diff_id, digest + strlen("sha256:"), sizeof(op->diff_id));
        return r;
}

static int read_unpack_report(struct op *op, json_t **ret)
{
        auto_str text = STR_INIT;
        int r = op_read_report(op, &text, &op->err);

        if (r == 0 && json_read(text.data, text.len, ret, NULL) < 0)
                r = err_set(&op->err, EIO, "the worker's report cannot be read");
        return r;
}

/* A worker may say anything; what it says is added up. */
static uint64_t number_of(const json_t *report, const char *name, uint64_t max)
{
        return MIN((uint64_t)MAX(json_integer_value(json_object_get(report, name)), (json_int_t)0), max);
}

static void note_usage(struct op *op, const json_t *report)
{
        const struct image_store_config *c = &op->store->config;

        usage_note_layer(op->store, op->diff_id, number_of(report, "bytes", c->max_layer_bytes),
                         number_of(report, "entries", c->max_layer_entries));
}

/* Of a file the unpacking worker hashes too; another answer than ours means that it read something else: what was uncompressed
 * is compressed once more, or the worker lies. */
static int check_diff_id(struct op *op)
{
        auto_json o = NULL;
        const char *diff_id;
        int r;

        r = read_unpack_report(op, &o);
        if (r < 0)
                return r;
        diff_id = json_string_value(json_object_get(o, "diff_id"));
        if (!diff_id || !str_starts(diff_id, "sha256:") || !hex_is_lower(diff_id + 7, 64))
                return err_set(&op->err, EIO, "the worker's report has no diff_id");
        if (!str_eq(diff_id + 7, op->diff_id))
                return err_set(&op->err, EBADMSG, "the layer is no tar archive once it is uncompressed");
        note_usage(op, o);
        return 0;
}

static int start_unpack(struct op *op, image_work_fn fn)
{
        struct image_store *s = op->store;
        int r = op_report(op);

        if (r == 0)
                r = s->workers.unpack(s->workers.context, op->plain, op->report, s->config.max_layer_bytes,
                                      s->config.max_layer_entries, fn, op, &op->err);
        return r;
}

static void on_import_unpacked(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        if (r < 0) {
                op_wake_failed(op, r, err);
                return;
        }
        op->token = token;
        fd_replace(&op->plain, -EBADF);
        r = check_diff_id(op);
        if (r < 0) {
                (void)op->store->workers.discard(op->store->workers.context, token, NULL);
                op->token = 0;
        }
        op_wake(op, r, &op->err);
}

int step_import_plain(struct op *op)
{
        int r = start_plain(op, op->archive);

        return r == 1 ? STEP_WAIT : r == 0 ? STEP_NEXT : r;
}

int step_import_hash(struct op *op)
{
        int r;

        if (op->diff_id[0])
                return STEP_NEXT;
        r = op_work(op, work_hash);
        return r < 0 ? r : STEP_WAIT;
}

/* Layers of old archives of images are empty files, which stand for no files. What is imported comes from a program that may have
 * failed before it wrote anything: an archive of no files has its end, two blocks of zeros. */
int step_import_some(struct op *op)
{
        static const char nothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

        return !str_eq(op->diff_id, nothing)
                       ? STEP_NEXT
                       : err_set(&op->err, EBADMSG,
                                 "nothing came: a tar archive is expected, plain or compressed by gzip or zstd");
}

int step_import_unpack(struct op *op)
{
        int r = start_unpack(op, on_import_unpacked);

        return r < 0 ? r : STEP_WAIT;
}

void layer_pair_key(const char *blob, const char *diff_id, char out[LAYER_PAIR_MAX])
{
        (void)snprintf(out, LAYER_PAIR_MAX, "%s %s", blob, diff_id);
}

/* Who made a token owns it until here: what has the name already is the same. */
static void on_committed(int r, const struct err *err, void *data)
{
        char pair[LAYER_PAIR_MAX];
        struct op *op = data;

        op->token = 0;
        if (r == -EEXIST)
                r = 0;
        if (r == 0)
                op->made[op->claim_kind == IMAGE_TREE]++;
        layer_pair_key(op->layer.digest, op->claim, pair);
        if (r == 0 && op->claim[0] && op_announce(op, op->claim_kind == IMAGE_LAYER ? pair : NULL) < 0)
                r = op_out_of_memory(op);
        op_wake(op, r, err);
}

static int start_commit(struct op *op, enum image_kind kind, const char *name)
{
        struct image_store *s = op->store;
        int r = s->workers.commit(s->workers.context, op->token, kind, name, on_committed, op, &op->err);

        if (r < 0)
                (void)s->workers.discard(s->workers.context, op->token, NULL);
        return r;
}

int step_import_commit(struct op *op)
{
        int r = start_commit(op, IMAGE_LAYER, op->diff_id);

        return r < 0 ? r : STEP_WAIT;
}

static int work_import_image(struct op *op, struct err *err)
{
        struct image_manifest m = { .layers = &op->layer, .n_layers = 1 };
        char created[TIME_RFC3339_MAX], diff_id[IMAGE_DIGEST_MAX];
        auto_json config = NULL;
        auto_str text = STR_INIT;
        int r;

        time_rfc3339(time_real_ms(), created);
        (void)snprintf(diff_id, sizeof(diff_id), "sha256:%s", op->diff_id);
        r = image_import_config(diff_id, op->changes, created, &config, err);
        if (r < 0)
                return r;
        if (json_write(config, &text) < 0)
                return err_oom(err);
        (void)snprintf(m.config.media_type, sizeof(m.config.media_type), "%s", MEDIA_OCI_CONFIG);
        m.config.size = text.len;
        r = image_layout_put_text(&op->layout, text.data, text.len, m.config.digest, err);
        if (r == 0)
                r = image_manifest_store(&op->layout, &m, &op->found.items[0].manifest, err);
        if (r == 0)
                r = image_layout_sync(&op->store->layout, err);
        return r;
}

int step_import_image(struct op *op)
{
        char key[LAYER_PAIR_MAX];
        int r = 0;

        op->found.items = calloc(1, sizeof(*op->found.items));
        if (!op->found.items)
                return op_out_of_memory(op);
        op->found.n = 1;
        layer_pair_key(op->layer.digest, op->diff_id, key);
        if (strv_add(&op->found.items[0].names, op->ref) < 0 || map_set(op->verified, key, &present) < 0)
                return op_out_of_memory(op);
        r = op_work(op, work_import_image);
        return r < 0 ? r : STEP_WAIT;
}

/* ── what is there, what is missing ───────────────────────────────────────────────────────────────────────────────── */

static int work_prepare(struct op *op, struct err *err)
{
        for (size_t i = 0; i < op->found.n; i++) {
                struct stored *image = NULL;
                int r = stored_new(&op->store->layout, &op->found.items[i].manifest, &image, err);

                if (r < 0)
                        return r;
                if (op->source != IMAGE_FROM_UNKNOWN) {
                        image->image.source = op->source;
                        image->image.came_ms = image->image.used_ms = time_real_ms();
                }
                if (stored_list_add(&op->fresh, image) < 0)
                        return err_oom(err);
                image->image.names = strv_dup(op->found.items[i].names);
                if (op->found.items[i].names && !image->image.names)
                        return err_oom(err);
        }
        return 0;
}

int step_prepare(struct op *op)
{
        int r = op_work(op, work_prepare);

        return r < 0 ? r : STEP_WAIT;
}

static int take_names(struct map *to, const char (*names)[65], size_t n)
{
        for (size_t i = 0; i < n; i++) {
                if (map_set(to, names[i], &present) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static void on_layers(int r, const char (*names)[65], size_t n, const struct err *err, void *data)
{
        struct op *op = data;

        if (r == 0)
                r = take_names(op->layers, names, n);
        op_wake(op, r, err);
}

static void on_trees(int r, const char (*names)[65], size_t n, const struct err *err, void *data)
{
        struct op *op = data;

        if (r == 0)
                r = take_names(op->trees, names, n);
        op_wake(op, r, err);
}

static int start_list(struct op *op, enum image_kind kind, struct map **map, image_names_fn fn)
{
        struct image_store *s = op->store;
        struct map *fresh = map_new();
        int r;

        if (!fresh)
                return op_out_of_memory(op);
        map_free(*map);
        *map = fresh;
        r = s->workers.list(s->workers.context, kind, fn, op, &op->err);
        return r < 0 ? r : STEP_WAIT;
}

int step_list_layers(struct op *op)
{
        return start_list(op, IMAGE_LAYER, &op->layers, on_layers);
}

int step_list_trees(struct op *op)
{
        return start_list(op, IMAGE_TREE, &op->trees, on_trees);
}

static bool stored_pair(const struct image_store *s, const char *blob, const char *diff_id)
{
        for (size_t i = 0; i < s->images.len; i++) {
                const struct stored *image = s->images.items[i];

                for (size_t k = 0; k < image->parts.n_layers; k++) {
                        if (str_eq(image->parts.layers[k].digest, blob) && str_eq(image->config.diff_ids[k], diff_id))
                                return true;
                }
        }
        return false;
}

static bool held_pair(const struct image_store *s, const char *key)
{
        const struct image_hold *h;

        LIST_FOREACH(h, &s->holds, node) {
                if (map_find(h->pairs, key))
                        return true;
        }
        return false;
}

/* A layer that is there counts only for a blob that was seen to unpack to it: who names somebody else's diff_id must
 * bring the layer. */
bool layer_missing(const struct op *op, const char *blob, const char *diff_id)
{
        char key[LAYER_PAIR_MAX];

        if (!map_find(op->layers, diff_id))
                return true;
        layer_pair_key(blob, diff_id, key);
        return !map_find(op->verified, key) && !held_pair(op->store, key) && !stored_pair(op->store, blob, diff_id);
}

static bool next_missing(const struct op *op, const struct image_descriptor **ret_blob, const char **ret_diff_id)
{
        for (size_t i = 0; i < op->images.len; i++) {
                const struct stored *image = op->images.items[i];

                for (size_t k = 0; k < image->parts.n_layers; k++) {
                        *ret_blob = &image->parts.layers[k];
                        *ret_diff_id = image->config.diff_ids[k];
                        if (layer_missing(op, (*ret_blob)->digest, *ret_diff_id))
                                return true;
                }
        }
        return false;
}

/* It was seen to come from this blob, and gets its name; or it goes. Only what has its name is there (op_announce()). */
static void keep_layer(struct op *op, int r)
{
        char key[LAYER_PAIR_MAX];

        layer_pair_key(op->layer.digest, op->name, key);
        if (r == 0 &&
            (map_set(op->verified, key, &present) < 0 || (op->hold && map_set(op->hold->pairs, key, &present) < 0)))
                r = op_out_of_memory(op);
        if (r < 0 && op->token)
                (void)op->store->workers.discard(op->store->workers.context, op->token, NULL);
        if (r == 0)
                r = start_commit(op, IMAGE_LAYER, op->name);
        if (r < 0)
                op_wake(op, r, &op->err);
}

static void on_unpacked(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        if (r < 0) {
                op_wake_failed(op, r, err);
                return;
        }
        op->token = token;
        fd_replace(&op->plain, -EBADF);
        keep_layer(op, check_diff_id(op));
}

static int check_name(struct op *op)
{
        if (str_eq(op->diff_id, op->name))
                return 0;
        return err_set(&op->err, EBADMSG, "layer %s has the diff_id sha256:%s, not sha256:%s", op->layer.digest,
                       op->diff_id, op->name);
}

/* A worker that was taken over may end before what it reads. */
static int check_came(struct op *op)
{
        return !op->came || *op->came ? 0 : err_set(&op->err, ECANCELED, "the blob did not come to its end");
}

void layer_flowed(struct op *op, int r)
{
        auto_json o = NULL;

        if (r == 0)
                r = check_came(op);
        if (r == 0)
                r = check_name(op);
        if (r == 0)
                r = read_unpack_report(op, &o);
        if (r == 0)
                note_usage(op, o);
        /* Whoever else makes it just now comes too late, or comes first, which is as good (on_committed()). */
        if (r == 0 && op->came)
                (void)op_claim_layer(op, op->name, op->layer.digest);
        keep_layer(op, r);
}

int layer_feed(struct op *op, int pipe)
{
        return layer_flow_start(op, pipe, plain_max(op->store));
}

int layer_plain_start(struct op *op, int blob)
{
        return start_plain(op, blob);
}

int layer_start(struct op *op, int blob)
{
        char media[IMAGE_MEDIA_MAX];
        int r = image_layer_media(blob, 0, media, &op->err);

        if (r == 0 && !str_eq(media, MEDIA_OCI_LAYER))
                return layer_flow_start(op, blob, plain_max(op->store));
        if (r == 0)
                r = start_plain(op, blob);
        if (r == 0)
                r = check_name(op);
        return r < 0 ? r : start_unpack(op, on_unpacked);
}

/* One missing layer after the other. */
int step_unpack(struct op *op)
{
        const struct image_descriptor *blob;
        auto_fd fd = -EBADF;
        const char *diff_id;
        uint64_t size;
        int r;

        if (!next_missing(op, &blob, &diff_id))
                return STEP_NEXT;
        if (!op_claim_layer(op, diff_id, blob->digest))
                return op_wait(op, op_claimable);
        op->layer = *blob;
        memcpy(op->name, diff_id, sizeof(op->name));
        r = image_layout_open_blob(&op->store->layout, blob->digest, &fd, &size, &op->err);
        if (r == 0)
                r = layer_start(op, fd);
        return r < 0 ? r : STEP_AGAIN;
}

/* A repair has replaced a layer since the merge was asked for (verify.c): what it made may be links to damaged files. */
static bool merge_again(struct op *op)
{
        if (!op->stale)
                return false;
        (void)op->store->workers.discard(op->store->workers.context, op->token, NULL);
        op->token = 0;
        op_wake(op, 0, NULL);
        return true;
}

/* The users' names are on disk before the tree has its name. */
static void users_run(void *data)
{
        struct op *op = data;

        op->work_err = (struct err)ERR_INIT;
        op->work_result = image_layout_write_users(&op->layout, op->name, op->text.data, op->text.len, &op->work_err);
}

static void users_done(void *data)
{
        struct op *op = data;
        int r = op->work_result;

        if (op_is_late(op))
                return;
        if (r < 0) {
                (void)op->store->workers.discard(op->store->workers.context, op->token, NULL);
                op_wake(op, r, &op->work_err);
                return;
        }
        if (merge_again(op))
                return;
        r = start_commit(op, IMAGE_TREE, op->name);
        if (r < 0)
                op_wake(op, r, &op->err);
}

static void on_merged(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        if (r < 0) {
                op_wake_failed(op, r, err);
                return;
        }
        op->token = token;
        if (merge_again(op))
                return;
        str_clear(&op->text);
        r = op_read_report(op, &op->text, &op->err);
        for (size_t i = 0; r == 0 && i < op->images.len; i++) {
                if (str_eq(op->images.items[i]->image.tree, op->name))
                        r = stored_set_users(op->images.items[i], op->text.data, op->text.len, &op->err);
        }
        if (r == 0)
                r = loop_work(op->store->loop, op->queue, users_run, users_done, op);
        op->owed = r == 0;
        if (r < 0) {
                (void)op->store->workers.discard(op->store->workers.context, token, NULL);
                op_wake(op, r, &op->err);
        }
}

/* A tree that is there serves only if what was read from it is there as well. */
static bool tree_present(struct op *op, struct stored *image)
{
        auto_str users = STR_INIT;

        if (!map_find(op->trees, image->image.tree))
                return false;
        if (image->passwd || image->group)
                return true;
        return image_layout_read_users(&op->store->layout, image->image.tree, &users, NULL) == 0 &&
               stored_set_users(image, users.data ? users.data : "", users.len, NULL) == 0;
}

int step_merge(struct op *op)
{
        struct image_store *s = op->store;
        struct stored *image = NULL;
        int r;

        for (size_t i = 0; i < op->images.len && !image; i++) {
                if (!tree_present(op, op->images.items[i]))
                        image = op->images.items[i];
        }
        if (!image)
                return STEP_NEXT;
        if (!op_claim(op, IMAGE_TREE, image->image.tree))
                return op_wait(op, op_claimable);
        memcpy(op->name, image->image.tree, sizeof(op->name));
        op->stale = false;
        r = op_report(op);
        if (r == 0)
                r = s->workers.merge(s->workers.context, (const char(*)[65])image->config.diff_ids,
                                     image->config.n_diff_ids, op->report, on_merged, op, &op->err);
        return r < 0 ? r : STEP_AGAIN;
}
