/* What stays in the store, and what is done about damage. */
#include "image/test_store.h"

static const struct image_audience everybody = { .may = NULL };

/* ── names, pins, collection ──────────────────────────────────────────────────────────────────────────────────────── */

static void import_text(struct fixture *f, const char *ref, const char *text)
{
        auto_str archive = STR_INIT;

        test_tar_file(&archive, "hello", text);
        test_tar_end(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, ref, NULL, &archive), 0);
}

static int change(struct fixture *f, const char *ref, const char *name, int pinned)
{
        struct err err = ERR_INIT;
        int r;

        f->told = false;
        r = name ? image_store_tag(f->store, ref, name, on_done, f, &err)
                 : image_store_pin(f->store, ref, pinned, on_done, f, &err);
        return r < 0 ? r : wait_told(f);
}

static void open_again(struct fixture *f)
{
        image_store_close(f->store);
        open_store(f);
}

static void test_tags_and_pins(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        import_text(f, "b:1", "b");
        assert_int_equal(change(f, "a:1", "c:1", 0), 0);
        assert_ptr_equal(image_store_find(f->store, "c:1", NULL), image_store_find(f->store, "a:1", NULL));
        assert_int_equal(change(f, "b:1", "c:1", 0), 0);
        assert_ptr_equal(image_store_find(f->store, "c:1", NULL), image_store_find(f->store, "b:1", NULL));
        assert_int_equal(change(f, "none:1", "c:1", 0), -ENOENT);
        assert_int_equal(change(f, "a:1", "c!", 0), -EINVAL);
        assert_int_equal(change(f, "a:1", IMAGE_BUILTIN_DOMAIN "/c:1", 0), -EPERM);
        assert_int_equal(change(f, "a:1", "sha256:1234", 0), -EPERM);
        assert_int_equal(change(f, "a:1", NULL, true), 0);
        assert_int_equal(remove_image(f, "a:1"), -EBUSY);
        open_again(f);
        assert_true(image_store_find(f->store, "a:1", NULL)->pinned);
        assert_int_equal(image_store_find(f->store, "a:1", NULL)->source, IMAGE_FROM_IMPORT);
        assert_true(image_store_find(f->store, "a:1", NULL)->came_ms > 0);
        assert_int_equal(change(f, "a:1", NULL, false), 0);
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_int_equal(remove_image(f, "b:1"), 0);
        assert_non_null(image_store_find(f->store, "c:1", NULL));
}

static void on_pruned(int r, const struct image_prune_result *result, const struct err *err, void *data)
{
        struct fixture *f = data;

        on_done(r, err, f);
        f->n_digests = result->n;
}

static size_t prune(struct fixture *f, const struct image_prune_policy *policy)
{
        struct err err = ERR_INIT;

        f->told = false;
        assert_int_equal(image_store_prune(f->store, policy, on_pruned, f, &err), 0);
        assert_int_equal(wait_told(f), 0);
        return f->n_digests;
}

static int nobody_uses(void *data, struct map *digests)
{
        static char used;

        return data ? map_set(digests, data, &used) : 0;
}

static void test_prune(void **state)
{
        const struct image_prune_policy dangling = { .dangling = true }, all = { .all = true };
        const struct image_prune_policy aged = { .aged = true, .unused_for_ms = 3600 * 1000 };
        struct image_prune_policy capped = { .capped = true };
        struct fixture *f = *state;
        struct image_prune_result plan;
        char used[80];

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        import_text(f, "b:1", "b");
        import_text(f, "a:1", "new");
        import_text(f, "p:1", "p");
        assert_int_equal(change(f, "p:1", NULL, true), 0);
        assert_int_equal(image_store_prune_plan(f->store, &dangling, &plan, NULL), 0);
        assert_int_equal(plan.n, 1);
        assert_true(plan.bytes > 0 && plan.bytes < plan.total);
        capped.keep_bytes = plan.total - 1;
        image_prune_result_done(&plan);
        assert_int_equal(prune(f, &aged), 0);
        (void)snprintf(used, sizeof(used), "%s", image_store_find(f->store, "b:1", NULL)->digest);
        image_store_set_users(f->store, nobody_uses, used);
        assert_int_equal(prune(f, &capped), 1); /* that without a name, which is the oldest */
        assert_int_equal(count(f, "layers"), 3);
        assert_int_equal(prune(f, &all), 1);
        assert_non_null(image_store_find(f->store, "b:1", NULL));
        image_store_set_users(f->store, nobody_uses, NULL);
        f->busy = true;
        assert_int_equal(prune(f, &all), 0);
        f->busy = false;
        assert_int_equal(prune(f, &all), 1);
        assert_non_null(image_store_find(f->store, "p:1", NULL));
        assert_int_equal(count(f, "layers"), 1);
        assert_int_equal(count(f, "images/blobs/sha256"), 3);
}

static unsigned sides_told;

static void on_side_loaded(int r, const char *const *digests, size_t n, const struct err *err, void *data)
{
        (void)digests;
        (void)n;
        (void)data;
        if (r < 0)
                fail_msg("%s", err->text);
        sides_told++;
}

static void on_side_done(int r, const struct err *err, void *data)
{
        on_side_loaded(r, NULL, 0, err, data);
}

static int uses_later(void *data, struct map *digests)
{
        static char used;
        struct fixture *f = data;
        const struct image *image = f->uses++ > 0 ? image_store_find(f->store, "c:1", NULL) : NULL;

        return image ? map_set(digests, image->digest, &used) : 0;
}

/* What is named, or asked for, while others are taken out. */
static void test_changed_plan(void **state)
{
        const struct image_prune_policy all = { .all = true };
        struct fixture *f = *state;
        unsigned told = 0;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        (void)usleep(3000);
        import_text(f, "b:1", "b");
        import_text(f, "c:1", "c");
        (void)usleep(3000);
        image_store_set_users(f->store, uses_later, f);
        f->told = false;
        assert_int_equal(image_store_prune(f->store, &all, on_pruned, f, NULL), 0);
        sides_told = 0;
        assert_int_equal(image_store_tag(f->store, "b:1", "keep:1", on_side_done, &told, NULL), 0);
        assert_int_equal(wait_told(f), 0);
        assert_int_equal(sides_told, 1);
        assert_null(image_store_find(f->store, "a:1", NULL));
        assert_non_null(image_store_find(f->store, "b:1", NULL));
        assert_non_null(image_store_find(f->store, "keep:1", NULL));
        assert_non_null(image_store_find(f->store, "c:1", NULL));
}

static void test_recent(void **state)
{
        const struct image_prune_policy all = { .all = true };
        struct fixture *f = *state;
        struct image_prune_result plan;

        NEEDS_WORKER(f);
        f->config.keep_for_ms = 3600 * 1000;
        open_again(f);
        import_text(f, "a:1", "a");
        assert_int_equal(image_store_prune_plan(f->store, &all, &plan, NULL), 0);
        assert_int_equal(plan.n, 0);
        assert_int_equal(plan.recent, 1);
        image_prune_result_done(&plan);
}

/* A step that meets a full disk is tried once more when something has gone, and only then. */
static void test_full(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;

        NEEDS_WORKER(f);
        f->config.high_water = 99;
        f->config.low_water = 98;
        open_again(f);
        test_tar_file(&archive, "hello", "new");
        test_tar_end(&archive);
        f->full = true;
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "b:1", NULL, &archive), -ENOSPC);
        assert_int_equal(count(f, "layers"), 0);
        import_text(f, "a:1", "a");
        f->full = true;
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "b:1", NULL, &archive), 0);
        assert_null(image_store_find(f->store, "a:1", NULL));
        assert_non_null(image_store_find(f->store, "b:1", NULL));
}

/* Who sends an archive gets room once. */
static void test_room_for_a_sink(void **state)
{
        struct fixture *f = *state;
        struct image_sink *sink = NULL;

        NEEDS_WORKER(f);
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_make_room(sink, on_done, f, NULL), -ENOSPC); /* nothing is ever collected */
        image_sink_discard(sink);
        f->config.high_water = 99;
        f->config.low_water = 98;
        open_again(f);
        import_text(f, "a:1", "a");
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        f->told = false;
        assert_int_equal(image_sink_make_room(sink, on_done, f, NULL), 0);
        assert_int_equal(wait_told(f), 0);
        assert_null(image_store_find(f->store, "a:1", NULL));
        assert_int_equal(image_sink_make_room(sink, on_done, f, NULL), -ENOSPC);
        image_sink_discard(sink);
        /* Nobody is told who has gone, or whose store has. */
        f->told = false;
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_make_room(sink, on_done, f, NULL), 0);
        image_sink_discard(sink);
        import_text(f, "b:1", "b");
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        f->told = false;
        assert_int_equal(image_sink_make_room(sink, on_done, f, NULL), 0);
        open_again(f);
        image_sink_discard(sink);
        assert_false(f->told);
}

/* What could not be given its name is made again: an image that is there has its tree. */
static void test_full_at_the_end(void **state)
{
        static const enum image_kind kinds[] = { IMAGE_LAYER, IMAGE_TREE };
        struct fixture *f = *state;
        auto_str layer = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        f->config.high_water = 99;
        f->config.low_water = 98;
        open_again(f);
        test_tar_file(&layer, "hello", "new");
        test_tar_end(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, "b:1");
        for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
                import_text(f, "a:1", "a");
                f->full_commit = kinds[i];
                assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), 0);
                assert_int_equal(f->full_commit, 0);
                assert_null(image_store_find(f->store, "a:1", NULL));
                assert_non_null(image_store_find(f->store, "b:1", NULL));
                assert_int_equal(count(f, "layers"), 1);
                assert_int_equal(count(f, "trees"), 1);
                assert_int_equal(remove_image(f, "b:1"), 0);
        }
}

static void on_verified(int r, const struct image_verification *v, const struct err *err, void *data)
{
        struct fixture *f = data;

        on_done(r, err, f);
        f->n_digests = v->n_faults;
        f->n_unchecked = v->n_unchecked;
        (void)snprintf(f->text, sizeof(f->text), "%s", v->n_faults > 0 ? v->faults[0].text : "");
        f->result = r < 0 ? r : v->n_faults > 0 && v->faults[v->n_faults - 1].repaired;
}

/* How many faults there are; *ret_repaired: whether the last was repaired. */
static size_t verify(struct fixture *f, bool repair, bool *ret_repaired)
{
        f->told = false;
        assert_int_equal(image_store_verify(f->store, repair, NULL, on_verified, f, NULL), 0);
        assert_int_equal(image_store_verify(f->store, repair, NULL, on_verified, f, NULL), -EBUSY);
        *ret_repaired = wait_told(f) == 1;
        return f->n_digests;
}

#define SIDES 6

static void start_side(struct fixture *f, unsigned i)
{
        auto_str layer = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX], name[32];
        struct image_sink *sink = NULL;

        (void)snprintf(name, sizeof(name), "side:%u", i);
        test_tar_file(&layer, "hello", i % 2 ? name : "shared");
        test_tar_end(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, name);
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        assert_int_equal(image_sink_finish(sink, on_side_loaded, f, NULL), 0);
}

/* Those that bring images, and those that collect: nobody takes what another needs, or looks at what a thread changes (which
 * ThreadSanitizer sees). */
static void test_side_by_side(void **state)
{
        struct fixture *f = *state;
        char name[32];

        NEEDS_WORKER(f);
        for (int round = 0; round < 3; round++) {
                import_text(f, "old:1", "old");
                import_text(f, "old:2", "older");
                sides_told = 0;
                for (unsigned i = 0; i < SIDES; i++) {
                        start_side(f, i);
                        if (i == 1 || i == 3)
                                assert_int_equal(
                                        image_store_remove(f->store, i == 1 ? "old:1" : "old:2", on_side_done, f, NULL),
                                        0);
                }
                while (sides_told < SIDES + 2)
                        assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
                assert_int_equal(verify(f, false, &(bool){ false }), 0);
                for (unsigned i = 0; i < SIDES; i++) {
                        (void)snprintf(name, sizeof(name), "side:%u", i);
                        assert_int_equal(remove_image(f, name), 0);
                }
                assert_no_trace(f);
        }
}

static void on_moved(int r, const struct err *err, void *data)
{
        (void)err;
        *(int *)data = r;
}

/* What was looked at goes, or nothing: a name that has become another image's keeps that. */
static void test_removal_of_what_was_meant(void **state)
{
        struct fixture *f = *state;
        char first[IMAGE_DIGEST_MAX];
        int moved = 1;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        memcpy(first, image_store_find(f->store, "a:1", NULL)->digest, sizeof(first));
        import_text(f, "b:1", "b");
        assert_int_equal(image_store_tag(f->store, "b:1", "a:1", on_moved, &moved, NULL), 0);
        assert_int_equal(remove_image(f, "a:1"), -ENOENT);
        assert_int_equal(moved, 0);
        assert_ptr_equal(image_store_find(f->store, "a:1", NULL), image_store_find(f->store, "b:1", NULL));
        assert_non_null(image_store_by_digest(f->store, first));
}

static void test_use_outlives(void **state)
{
        struct fixture *f = *state;
        struct image_layer_info layer;
        uint64_t used;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        image_store_touch(f->store, image_store_find(f->store, "a:1", NULL));
        used = image_store_find(f->store, "a:1", NULL)->used_ms;
        assert_true(used > 0);
        open_again(f);
        assert_int_equal(image_store_find(f->store, "a:1", NULL)->used_ms, used);
        assert_true(image_store_layer_info(f->store, image_store_find(f->store, "a:1", NULL), 0, &everybody, &layer));
        assert_int_equal(layer.unpacked, 3);
        assert_false(image_store_layer_info(f->store, image_store_find(f->store, "a:1", NULL), 1, &everybody, &layer));
        /* One that cannot be read costs nothing but what was in it. */
        image_store_close(f->store);
        assert_int_equal(fd_write_file(f->root, "images/usage.json", 0600, "{\"used\":[", 9, NULL), 0);
        open_store(f);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
}

/* Blobs that an operation has stored, and that no image names yet, are nobody else's to collect. */
static void test_claims(void **state)
{
        struct fixture *f = *state;
        struct map *none = map_new();
        struct image_layout l = IMAGE_LAYOUT_NONE, mine, other;
        char digest[IMAGE_DIGEST_MAX] = "", dir[128];

        (void)snprintf(dir, sizeof(dir), "%s/images", f->dir);
        NEEDS_WORKER(f);
        assert_int_equal(image_layout_open(dir, &l, NULL), 0);
        mine = l;
        mine.claimant = 7;
        assert_int_equal(image_layout_put_text(&mine, "abc", 3, digest, NULL), 0);
        assert_int_equal(image_layout_collect(&l, none, none, NULL), 0);
        assert_int_equal(count(f, "images/blobs/sha256"), 1);
        /* Claimed twice by one, and by another: as long as anybody has it. */
        other = mine;
        other.claimant = 8;
        assert_int_equal(image_layout_claim(&mine, digest), 0);
        assert_int_equal(image_layout_claim(&other, digest), 0);
        image_layout_release(&mine);
        assert_int_equal(image_layout_collect(&l, none, none, NULL), 0);
        assert_int_equal(count(f, "images/blobs/sha256"), 1);
        image_layout_release(&other);
        assert_int_equal(image_layout_collect(&l, none, none, NULL), 0);
        assert_int_equal(count(f, "images/blobs/sha256"), 0);
        image_layout_close(&l);
        map_free(none);
}

/* ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_verify(void **state)
{
        struct fixture *f = *state;
        const struct image *image;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        assert_int_equal(verify(f, false, &repaired), 0);
        import_text(f, "a:1", "abc");
        assert_int_equal(verify(f, false, &repaired), 0);
        image = image_store_find(f->store, "a:1", NULL);
        (void)snprintf(path, sizeof(path), "layers/%s/root/hello", image->layers[0]);
        assert_int_equal(fchmodat(f->root, path, 0777, 0), 0);
        assert_int_equal(verify(f, false, &repaired), 1);
        assert_non_null(strstr(f->text, "another mode: 'root/hello'"));
        assert_false(repaired);
        assert_true(verify(f, true, &repaired) >= 1 && repaired);
        assert_int_equal(verify(f, false, &repaired), 0);
        (void)snprintf(path, sizeof(path), "trees/%s/more", image->tree);
        assert_int_equal(mkdirat(f->root, path, 0755), 0);
        f->busy = true;
        assert_int_equal(verify(f, true, &repaired), 1);
        assert_false(repaired);
        f->busy = false;
        assert_int_equal(verify(f, true, &repaired), 1);
        assert_true(repaired);
        assert_int_equal(verify(f, false, &repaired), 0);
}

static void test_verify_blob(void **state)
{
        struct fixture *f = *state;
        struct image_layer_info layer;
        const struct image *image;
        auto_fd layers = -EBADF;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        image = image_store_find(f->store, "a:1", NULL);
        assert_true(image_store_layer_info(f->store, image, 0, &everybody, &layer));
        (void)snprintf(path, sizeof(path), "images/blobs/sha256/%s", layer.digest + 7);
        assert_int_equal(fd_write_file(f->root, path, 0600, "x", 1, NULL), 0);
        assert_int_equal(verify(f, true, &repaired), 1);
        assert_false(repaired || image->broken); /* an import cannot be pulled: it runs on */
        layers = openat(f->root, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(layers, image->layers[0]), 0);
        /* Without its layer the next start cannot make its tree, and says so; nothing else suffers. */
        import_text(f, "b:1", "b");
        (void)snprintf(path, sizeof(path), "trees/%s", image->tree);
        assert_int_equal(renameat(f->root, path, f->root, "gone"), 0);
        assert_int_equal(sweep(f), 0);
        assert_true(image_store_find(f->store, "a:1", NULL)->broken);
        assert_false(image_store_find(f->store, "b:1", NULL)->broken);
        assert_non_null(image_store_repairs(f->store));
        import_text(f, "a:1", "abc");
        assert_int_equal(sweep(f), 0);
}

/* The layer of an image, as its files are: damaged. */
static void damage(struct fixture *f, const char *name)
{
        char path[200];

        (void)snprintf(path, sizeof(path), "layers/%s/root/hello", image_store_find(f->store, name, NULL)->layers[0]);
        assert_int_equal(fchmodat(f->root, path, 0777, 0), 0);
}

static mode_t mode_in_tree(struct fixture *f, const char *name)
{
        char path[200];
        struct stat st;

        (void)snprintf(path, sizeof(path), "trees/%s/hello", image_store_find(f->store, name, NULL)->tree);
        assert_int_equal(fstatat(f->root, path, &st, 0), 0);
        return st.st_mode & 07777;
}

/* Another image of the same layer, twice, which makes another tree. */
static void load_twice(struct fixture *f, const char *name, const char *text)
{
        auto_str layer = STR_INIT, archive = STR_INIT;
        struct image_sink *sink = NULL;
        char diff_id[IMAGE_DIGEST_MAX];

        test_tar_file(&layer, "hello", text);
        test_tar_end(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, name);
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        assert_int_equal(image_sink_finish(sink, on_side_loaded, f, NULL), 0);
}

static void begin_repair(struct fixture *f)
{
        f->told = false;
        assert_int_equal(image_store_verify(f->store, true, NULL, on_verified, f, NULL), 0);
}

/* A merge that has linked the files of a layer which is replaced before the tree has its name. */
static void test_merge_before_repair(void **state)
{
        struct fixture *f = *state;
        bool repaired;
        mode_t good;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        good = mode_in_tree(f, "a:1");
        damage(f, "a:1");
        sides_told = 0;
        f->hold = HOLD_MERGE;
        load_twice(f, "b:1", "abc");
        while (!f->held)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        begin_repair(f);
        while (f->replaced == 0)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        release(f);
        assert_int_equal(wait_told(f), 1);
        assert_int_equal(f->n_digests, 2); /* the layer and its tree: this one was never damaged */
        while (sides_told < 1)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        assert_int_equal(mode_in_tree(f, "b:1"), good);
        assert_int_equal(verify(f, false, &repaired), 0);
}

/* A tree that got its name before the layer was replaced, of an image that came after the list of what to look at was made. */
static void test_tree_before_repair(void **state)
{
        struct fixture *f = *state;
        bool repaired;
        mode_t good;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        good = mode_in_tree(f, "a:1");
        damage(f, "a:1");
        sides_told = 0;
        f->hold = HOLD_COMPARE;
        begin_repair(f);
        while (!f->held)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        load_twice(f, "b:1", "abc");
        while (sides_told < 1)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        assert_int_not_equal(mode_in_tree(f, "b:1"), good);
        release(f);
        assert_int_equal(wait_told(f), 1);
        assert_int_equal(f->n_digests, 3);
        assert_int_equal(mode_in_tree(f, "b:1"), good);
        assert_int_equal(verify(f, false, &repaired), 0);
}

/* A layer for which there is no room is looked at as far as that goes, and so is everything else. */
static void test_verify_without_room(void **state)
{
        struct fixture *f = *state;
        auto_str plain = STR_INIT, archive = STR_INIT;
        const struct image *image;
        auto_fd layers = -EBADF;
        bool repaired;

        NEEDS_WORKER(f);
        test_tar_file(&plain, "hello", "packed");
        test_tar_end(&plain);
        gzip(&plain, &archive);
        for (int packed = 0; packed < 2; packed++) {
                assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, packed ? &archive : &plain), 0);
                f->full = true;
                assert_int_equal(verify(f, true, &repaired), 0);
                assert_int_equal(f->n_unchecked, 1);
                assert_int_equal(f->dying, 0);
                assert_int_equal(verify(f, true, &repaired), 0);
                assert_int_equal(f->n_unchecked, 0);
        }
        /* A worker that dies says nothing of the layer. */
        f->dying = 1;
        assert_int_equal(verify(f, true, &repaired), 0);
        assert_int_equal(f->n_unchecked, 1);
        image = image_store_find(f->store, "a:1", NULL);
        assert_false(image->broken);
        layers = openat(f->root, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(layers, image->layers[0]), 0);
        f->full = true;
        assert_true(verify(f, false, &repaired) >= 1);
        assert_non_null(strstr(f->text, "it is missing, and cannot be made now: "));
}

static void take_away(struct fixture *f, const char *kind, const char *name)
{
        auto_fd dir = openat(f->root, kind, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(path_remove_tree(dir, name), 0);
}

/* What cannot be mended for want of room, or since a worker died, is told, and nothing goes: the image runs on, and is mended when
 * it can be. */
static void test_repair_without_room(void **state)
{
        struct fixture *f = *state;
        const struct image *image;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        for (int i = 0; i < 4; i++) {
                bool missing = i % 2 == 0;

                image = image_store_find(f->store, "a:1", NULL);
                if (missing)
                        take_away(f, "layers", image->layers[0]);
                (void)snprintf(path, sizeof(path), "layers/%s/meta", image->layers[0]);
                if (!missing) /* no tree can be made of it */
                        assert_int_equal(fd_write_file(f->root, path, 0600, "x", 1, NULL), 0);
                f->full = i < 2;
                f->dying = i < 2 ? 0 : 1;
                assert_int_equal(verify(f, true, &repaired), missing);
                assert_false(repaired || image->broken);
                assert_int_equal(f->n_unchecked, missing ? 1 : 2); /* its tree, and the layer that is there */
                assert_int_equal(count(f, "trees"), 1);
                assert_int_equal(count(f, "images/blobs/sha256"), 3);
                open_again(f);
                assert_false(image_store_find(f->store, "a:1", NULL)->broken);
                assert_true(verify(f, true, &repaired) >= 1 && repaired);
                assert_int_equal(verify(f, false, &repaired), 0);
        }
        /* Its tree as well: the next repair makes both. */
        image = image_store_find(f->store, "a:1", NULL);
        take_away(f, "layers", image->layers[0]);
        take_away(f, "trees", image->tree);
        f->full = true;
        assert_int_equal(verify(f, true, &repaired), 2);
        assert_false(repaired || image->broken);
        assert_int_equal(verify(f, true, &repaired), 2);
        assert_true(repaired);
        assert_int_equal(verify(f, false, &repaired), 0);
}

/* A worker that dies while the start mends is started once more; that it dies each time breaks the image. */
static void test_sweep_with_dying_workers(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        for (int dying = 1; dying <= 2; dying++) {
                auto_fd trees = openat(f->root, "trees", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                auto_fd layers = openat(f->root, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                const struct image *image;

                import_text(f, "a:1", "abc");
                image = image_store_find(f->store, "a:1", NULL);
                assert_int_equal(path_remove_tree(trees, image->tree), 0);
                assert_int_equal(path_remove_tree(layers, image->layers[0]), 0);
                f->dying = dying;
                assert_int_equal(sweep(f), 0);
                assert_int_equal(f->dying, 0);
                assert_int_equal(image_store_find(f->store, "a:1", NULL)->broken, dying == 2);
        }
}

/* ── a damaged index ──────────────────────────────────────────────────────────────────────────────────────────────── */

static size_t entry_end(const char *text, unsigned n)
{
        const char *at = text;

        for (; n > 0; n--)
                at = strstr(at, "}}") + 2;
        return (size_t)(at - text);
}

/* However index.json is damaged, the store opens with all images, keeps the file, and writes a good one. */
static void test_damaged_index(void **state)
{
        static const char *const texts[] = {
                "",
                "{",
                "[]",
                "{}",
                "null",
                "{\"manifests\":{}}",
                "{\"manifests\":[17,\"a\",{\"digest\":7}]}",
                "\x7f\x45\x4c",
                "\"",
                "}}]",
        };
        struct fixture *f = *state;
        char first[IMAGE_DIGEST_MAX], second[IMAGE_DIGEST_MAX];
        auto_str good = STR_INIT, kept = STR_INIT;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        memcpy(first, f->digest, sizeof(first));
        import_text(f, "b:1", "b");
        memcpy(second, f->digest, sizeof(second));
        assert_int_equal(fd_read_file(f->root, "images/index.json", 100000, &good, NULL), 0);
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
                image_store_close(f->store);
                assert_int_equal(fd_write_file(f->root, "images/index.json", 0600, texts[i], strlen(texts[i]), NULL),
                                 0);
                open_store(f);
                assert_non_null(image_store_repairs(f->store));
                assert_null(image_store_find(f->store, "a:1", NULL));
                assert_true(image_store_by_digest(f->store, first)->lost);
                assert_non_null(image_store_by_digest(f->store, second));
                assert_int_equal(sweep(f), 0);
                assert_int_equal(count(f, "images/blobs/sha256"), 6);
                /* It is not damaged any more, and what is lost stays so. */
                open_again(f);
                assert_null(image_store_repairs(f->store));
                assert_true(image_store_by_digest(f->store, first)->lost);
                assert_int_equal(change(f, first, "a:1", 0), 0);
                assert_non_null(image_store_find(f->store, "a:1", NULL));
        }
        assert_int_equal(fd_read_file(f->root, "images/index.json.damaged.9", 100, &kept, NULL), 0);
        assert_string_equal(kept.data, texts[ARRAY_LEN(texts) - 1]);
        assert_int_equal(count(f, "layers"), 2);
}

/* What stands before the damage is as good as ever. */
static void test_index_that_is_cut(void **state)
{
        struct fixture *f = *state;
        auto_str good = STR_INIT, text = STR_INIT;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        import_text(f, "b:1", "b");
        assert_int_equal(change(f, "a:1", NULL, true), 0);
        assert_int_equal(fd_read_file(f->root, "images/index.json", 100000, &good, NULL), 0);
        for (int i = 0; i < 2; i++) {
                image_store_close(f->store);
                str_clear(&text);
                assert_int_equal(str_add(&text, good.data, entry_end(good.data, 1) + 20), 0);
                if (i == 1) /* in the middle, not at the end */
                        assert_int_equal(str_addf(&text, "\x01%s", good.data + entry_end(good.data, 1) + 21), 0);
                assert_int_equal(fd_write_file(f->root, "images/index.json", 0600, text.data, text.len, NULL), 0);
                open_store(f);
                assert_true(image_store_find(f->store, "a:1", NULL)->pinned);
                assert_false(image_store_find(f->store, "a:1", NULL)->lost);
                assert_null(image_store_find(f->store, "b:1", NULL));
                assert_int_equal(count(f, "images/blobs/sha256"), 6);
        }
}

static void test_index_that_is_gone(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        image_store_close(f->store);
        assert_int_equal(unlinkat(f->root, "images/index.json", 0), 0);
        open_store(f);
        assert_true(image_store_by_digest(f->store, f->digest)->lost);
        assert_non_null(image_store_repairs(f->store));
        image_store_close(f->store);
        /* One that nothing can be read of, nor written to. */
        assert_int_equal(unlinkat(f->root, "images/index.json", 0), 0);
        assert_int_equal(mkdirat(f->root, "images/index.json", 0700), 0);
        open_store(f);
        assert_non_null(image_store_by_digest(f->store, f->digest));
        assert_int_equal(sweep(f), 0);
        import_text(f, "a:1", "a");
        assert_non_null(image_store_find(f->store, "a:1", NULL));
        open_again(f);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
        assert_int_equal(count(f, "layers"), 1);
}

/* That somebody else has died says nothing of images. */
static void test_lost_launcher(void **state)
{
        static const int lost[] = { -ENOTCONN, -EIO, -EMFILE };
        struct fixture *f = *state;
        const struct image *image;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        image = image_store_find(f->store, "a:1", NULL);
        for (size_t i = 0; i < ARRAY_LEN(lost); i++) {
                f->lost = lost[i];
                (void)verify(f, true, &repaired);
                assert_false(image->broken);
                assert_int_equal(count(f, "layers"), 1);
                assert_int_equal(count(f, "trees"), 1);
        }
        (void)snprintf(path, sizeof(path), "trees/%s", image->tree);
        assert_int_equal(renameat(f->root, path, f->root, "gone"), 0);
        f->lost = -ENOTCONN;
        assert_int_equal(sweep(f), -ENOTCONN);
        assert_false(image_store_find(f->store, "a:1", NULL)->broken);
        f->lost = 0;
        assert_int_equal(sweep(f), 0);
        assert_int_equal(count(f, "trees"), 1);
        assert_int_equal(verify(f, true, &repaired), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_tags_and_pins, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
                cmocka_unit_test_setup_teardown(test_changed_plan, setup, teardown),
                cmocka_unit_test_setup_teardown(test_recent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_room_for_a_sink, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full_at_the_end, setup, teardown),
                cmocka_unit_test_setup_teardown(test_side_by_side, setup, teardown),
                cmocka_unit_test_setup_teardown(test_removal_of_what_was_meant, setup, teardown),
                cmocka_unit_test_setup_teardown(test_use_outlives, setup, teardown),
                cmocka_unit_test_setup_teardown(test_claims, setup, teardown),
                cmocka_unit_test_setup_teardown(test_verify, setup, teardown),
                cmocka_unit_test_setup_teardown(test_verify_blob, setup, teardown),
                cmocka_unit_test_setup_teardown(test_merge_before_repair, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tree_before_repair, setup, teardown),
                cmocka_unit_test_setup_teardown(test_verify_without_room, setup, teardown),
                cmocka_unit_test_setup_teardown(test_repair_without_room, setup, teardown),
                cmocka_unit_test_setup_teardown(test_sweep_with_dying_workers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged_index, setup, teardown),
                cmocka_unit_test_setup_teardown(test_index_that_is_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(test_index_that_is_gone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lost_launcher, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
