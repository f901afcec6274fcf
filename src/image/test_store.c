/* What comes into the store, and goes. */
#include "image/test_store.h"

static void check_hello(struct fixture *f, const struct image *image)
{
        char path[128];
        auto_str text = STR_INIT;

        (void)snprintf(path, sizeof(path), "trees/%s/hello", image->tree);
        assert_int_equal(fd_read_file(f->root, path, 100, &text, NULL), 0);
        assert_string_equal(text.data, "world");
}

static void test_import(void **state)
{
        char *changes[] = { (char *)"CMD [\"/hello\"]", (char *)"ENV A=1", (char *)"USER web", NULL };
        struct fixture *f = *state;
        auto_str plain = STR_INIT, archive = STR_INIT;
        const struct image *image;
        struct image_user user;

        NEEDS_WORKER(f);
        root_fs(&plain);
        gzip(&plain, &archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "demo", changes, &archive), 0);
        assert_int_equal(f->n_digests, 1);
        image = image_store_find(f->store, "demo", NULL);
        assert_non_null(image);
        assert_string_equal(image->names[0], "docker.io/library/demo:latest");
        assert_string_equal(image->cmd[0], "/hello");
        assert_string_equal(image->env[0], "A=1");
        assert_ptr_equal(image_store_find(f->store, f->digest, NULL), image);
        assert_ptr_equal(image_store_find(f->store, image->digest + 7, NULL), image);
        assert_ptr_equal(image_store_by_digest(f->store, image->digest), image);
        check_hello(f, image);
        assert_int_equal(image_user_resolve(f->store, image, image->user, &user, NULL), 0);
        assert_int_equal(user.uid, 33);
        assert_int_equal(user.gid, 34);
        assert_int_equal(user.n_groups, 1);
        assert_int_equal(user.groups[0], 50);
        /* The same after a restart. */
        image_store_close(f->store);
        open_store(f);
        image = image_store_find(f->store, "demo:latest", NULL);
        assert_non_null(image);
        assert_int_equal(image_user_resolve(f->store, image, "web:www", &user, NULL), 0);
        assert_int_equal(user.n_groups, 0);
        assert_int_equal(sweep(f), 0);
        check_hello(f, image);
}

static void test_remove(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        f->busy = true;
        assert_int_equal(remove_image(f, "a:1"), -EBUSY);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
        f->busy = false;
        assert_int_equal(remove_image(f, "nobody"), -ENOENT);
        assert_int_equal(remove_image(f, "UPPER"), -EINVAL);
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_no_trace(f);
}

static void test_builtin(void **state)
{
        struct fixture *f = *state;
        struct image_sink *sink = NULL;
        struct err err = ERR_INIT;
        auto_str archive = STR_INIT;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, IMAGE_BUILTIN_DOMAIN "/a:1", NULL, &sink, &err),
                         -EINVAL);
        assert_int_equal(take_archive(f, IMAGE_BUILTIN, IMAGE_BUILTIN_DOMAIN "/a:1", NULL, &archive), 0);
        assert_true(image_is_builtin(image_store_find(f->store, IMAGE_BUILTIN_DOMAIN "/a:1", NULL)));
        assert_int_equal(remove_image(f, IMAGE_BUILTIN_DOMAIN "/a:1"), -EPERM);
        assert_int_equal(remove_image(f, f->digest), -EPERM);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "b:1", NULL, &archive), 0);
        assert_false(image_is_builtin(image_store_find(f->store, "b:1", NULL)));
        assert_int_equal(remove_image(f, "b:1"), 0);
}

/* The index cannot be written once the tree has gone: nobody finds the image until it has its tree again. */
static void test_removal_that_fails(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;
        bool missed = false;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        assert_int_equal(mkdirat(f->root, "images/index.json.tmp", 0700), 0);
        f->told = false;
        assert_int_equal(image_store_remove(f->store, "a:1", on_done, f, NULL), 0);
        while (!f->told) {
                missed |= !image_store_find(f->store, "a:1", NULL);
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        }
        assert_true(missed);
        assert_true(f->result < 0);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
        assert_int_equal(count(f, "trees"), 1);
        assert_int_equal(unlinkat(f->root, "images/index.json.tmp", AT_REMOVEDIR), 0);
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_no_trace(f);
}

/* Two images of one layer share it and the tree; a name moves to the image that got it last. */
static void test_shared(void **state)
{
        char *changes[] = { (char *)"ENV A=2", NULL };
        struct fixture *f = *state;
        char first[IMAGE_DIGEST_MAX];
        auto_str archive = STR_INIT;
        const struct image *image;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        memcpy(first, f->digest, sizeof(first));
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", changes, &archive), 0);
        assert_int_equal(count(f, "layers"), 1);
        assert_int_equal(count(f, "trees"), 1);
        image = image_store_find(f->store, "a:1", NULL);
        assert_non_null(image);
        assert_string_equal(image->env[0], "A=2");
        image = image_store_by_digest(f->store, first);
        assert_non_null(image);
        assert_true(!image->names || !image->names[0]);
        f->busy = true;
        assert_int_equal(remove_image(f, first), 0);
        f->busy = false;
        assert_int_equal(count(f, "trees"), 1);
        check_hello(f, image_store_find(f->store, "a:1", NULL));
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_no_trace(f);
}

static void test_load_saved(void **state)
{
        struct fixture *f = *state;
        auto_str layer = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];
        const struct image *image;

        NEEDS_WORKER(f);
        root_fs(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, "saved:1");
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), 0);
        image = image_store_find(f->store, "saved:1", NULL);
        assert_non_null(image);
        assert_int_equal(image->n_layers, 2);
        check_hello(f, image);
        assert_int_equal(remove_image(f, "saved:1"), 0);
        assert_no_trace(f);
}

static void test_load_oci(void **state)
{
        struct fixture *f = *state;
        auto_str plain = STR_INIT, layer = STR_INIT, archive = STR_INIT, packed = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];
        const struct image *image;

        NEEDS_WORKER(f);
        root_fs(&plain);
        digest_of(&plain, diff_id);
        gzip(&plain, &layer);
        oci_layout(&archive, &layer, diff_id);
        gzip(&archive, &packed);
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &packed), 0);
        image = image_store_find(f->store, "oci:1", NULL);
        assert_non_null(image);
        check_hello(f, image);
        assert_string_equal(image->user, "web");
        assert_int_equal(f->plains, 1);
}

/* Each is refused with its reason, and leaves no trace. */
static void test_refused(void **state)
{
        struct fixture *f = *state;
        auto_str layer = STR_INIT, lie = STR_INIT, escape = STR_INIT, text = STR_INIT, bare = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        root_fs(&layer);
        saved(&lie, &layer, "sha256:1111111111111111111111111111111111111111111111111111111111111111", "lie:1");
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &lie), -EBADMSG);
        assert_non_null(strstr(f->text, "diff_id"));
        assert_no_trace(f);

        test_tar_file(&escape, "fine", "x");
        test_tar_file(&escape, "../escape", "x");
        test_tar_end(&escape);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "escape", NULL, &escape), -EBADMSG);
        assert_non_null(strstr(f->text, "'../escape' leads out of the root"));
        assert_no_trace(f);

        test_tar_check(str_adds(&text, "this is no archive at all, but it is long enough to look for one in it"));
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "text", NULL, &text), -EBADMSG);
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &text), -EBADMSG);
        assert_no_trace(f);

        root_fs(&bare);
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &bare), -EBADMSG);
        assert_non_null(strstr(f->text, "manifest.json"));
        assert_no_trace(f);
        digest_of(&layer, diff_id);
}

/* A program that failed before it wrote anything makes no image; an archive of no files does. */
static void test_nothing(void **state)
{
        struct fixture *f = *state;
        auto_str nothing = STR_INIT, packed = STR_INIT, end = STR_INIT, packed_end = STR_INIT;
        const struct str *empty[] = { &nothing, &packed }, *archives[] = { &end, &packed_end };

        NEEDS_WORKER(f);
        assert_int_equal(str_adds(&nothing, ""), 0);
        gzip(&nothing, &packed);
        test_tar_end(&end);
        assert_int_equal(end.len, 1024);
        gzip(&end, &packed_end);
        for (size_t i = 0; i < ARRAY_LEN(empty); i++) {
                assert_int_equal(take_archive(f, IMAGE_IMPORT, "nothing:1", NULL, empty[i]), -EBADMSG);
                assert_non_null(strstr(f->text, "nothing came: a tar archive is expected"));
                assert_no_trace(f);
                assert_int_equal(take_archive(f, IMAGE_IMPORT, "empty:1", NULL, archives[i]), 0);
                assert_int_equal(image_store_find(f->store, "empty:1", NULL)->n_layers, 1);
                assert_int_equal(remove_image(f, "empty:1"), 0);
        }
}

/* Who names the diff_id of somebody else's layer gets it only by bringing it. */
static void test_borrowed_layer(void **state)
{
        struct fixture *f = *state;
        auto_str layer = STR_INIT, other = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        root_fs(&layer);
        digest_of(&layer, diff_id);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "mine", NULL, &layer), 0);
        test_tar_file(&other, "other", "x");
        test_tar_end(&other);
        saved(&archive, &other, diff_id, "thief:1");
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), -EBADMSG);
        assert_null(image_store_find(f->store, "thief:1", NULL));
        check_hello(f, image_store_find(f->store, "mine", NULL));
}

/* A worker that was taken over by a compressed layer cannot put other bytes under the layer's diff_id. */
static void test_lying_worker(void **state)
{
        struct fixture *f = *state;
        auto_str plain = STR_INIT, layer = STR_INIT, archive = STR_INIT, lie = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        root_fs(&plain);
        digest_of(&plain, diff_id);
        gzip(&plain, &layer);
        oci_layout(&archive, &layer, diff_id);
        test_tar_file(&lie, "bin", "evil");
        test_tar_end(&lie);
        f->lie = &lie;
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), -EBADMSG);
        assert_non_null(strstr(f->text, "has the diff_id"));
        assert_no_trace(f);
        f->lie = NULL;
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), 0);
        check_hello(f, image_store_find(f->store, "oci:1", NULL));
}

/* A tree that was lost comes back from the blobs; what no image names goes. */
static void test_sweep(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;
        const struct image *image;
        auto_fd trees = -EBADF;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        image = image_store_find(f->store, "a:1", NULL);
        trees = openat(f->root, "trees", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(trees, image->tree), 0);
        assert_int_equal(mkdirat(f->root,
                                 "layers/"
                                 "1111111111111111111111111111111111111111111111111111111111111111",
                                 0700),
                         0);
        assert_int_equal(sweep(f), 0);
        check_hello(f, image_store_find(f->store, "a:1", NULL));
        assert_int_equal(count(f, "layers"), 1);
}

/* Archives that docker and others wrote; those that hold no image for any machine are refused. */
static void test_corpus(void **state)
{
        static const struct {
                const char *name;
                bool good;
        } archives[] = {
                { "containers-image/docker/archive/fixtures/almostempty.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/content.tar", false },
                { "go-containerregistry/pkg/v1/tarball/testdata/hello-world-v25.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/no_manifest.tar", false },
                { "go-containerregistry/pkg/v1/tarball/testdata/null_manifest.tar", false },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_bundle.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_image_1.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_link.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_load_manifest.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/overwritten_file.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/source_image_with_empty_layer_history.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/whiteout_dir.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/whiteout_image.tar", true },
        };
        const char *dir = getenv("MAYFLY_CORPORA");
        struct fixture *f = *state;
        const struct image *image;

        NEEDS_WORKER(f);
        if (!dir)
                dir = "../shared/corpora";
        if (access(dir, R_OK) < 0) {
                print_message("no '%s' (MAYFLY_CORPORA)\n", dir);
                skip();
        }
        for (size_t i = 0; i < ARRAY_LEN(archives); i++) {
                auto_free char *path = str_printf("%s/oci/%s", dir, archives[i].name);
                auto_str archive = STR_INIT;

                assert_non_null(path);
                if (fd_read_file(AT_FDCWD, path, 64 << 20, &archive, NULL) < 0)
                        fail_msg("no '%s'", path);
                if ((take_archive(f, IMAGE_LOAD, NULL, NULL, &archive) == 0) != archives[i].good)
                        fail_msg("%s: %s", archives[i].name, f->text);
        }
        for (size_t pos = 0; (image = image_store_next(f->store, &pos)); pos = 0)
                assert_int_equal(remove_image(f, image->digest), 0);
        assert_no_trace(f);
}

/* A daemon that stops closes the store whatever it does, and turns the loop once more for others. */
static void test_close_amid_an_import(void **state)
{
        struct fixture *f = *state;
        auto_str tar = STR_INIT;

        NEEDS_WORKER(f);
        root_fs(&tar);
        for (int turns = 0; turns < 3; turns++) {
                struct image_sink *sink = NULL;

                assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "demo:1", NULL, &sink, NULL), 0);
                assert_int_equal(image_sink_write(sink, tar.data, tar.len, NULL), 0);
                f->told = false;
                assert_int_equal(image_sink_finish(sink, on_loaded, f, NULL), 0);
                for (int i = 0; i < turns; i++)
                        assert_int_equal(loop_turn(f->loop, 0, NULL), 0);
                image_store_close(f->store);
                for (int i = 0; i < 20; i++)
                        assert_int_equal(loop_turn(f->loop, 10, NULL), 0);
                assert_false(f->told);
                open_store(f);
        }
        assert_int_equal(sweep(f), 0);
        assert_no_trace(f);
}

/* A thread may still write what came of an upload. */
static void test_close_amid_an_upload(void **state)
{
        struct fixture *f = *state;
        struct image_sink *sink = NULL;

        NEEDS_WORKER(f);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "demo:1", NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_write(sink, "abc", 3, NULL), 0);
        image_store_close(f->store);
        assert_int_equal(image_sink_write(sink, "def", 3, NULL), 0);
        image_sink_discard(sink);
        open_store(f);
        assert_no_trace(f);
}

static void test_bad_import(void **state)
{
        char *changes[] = { (char *)"RUN rm -rf /", NULL };
        struct fixture *f = *state;
        struct image_sink *sink = NULL;
        struct err err = ERR_INIT;

        NEEDS_WORKER(f);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "Bad", NULL, &sink, &err), -EINVAL);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "a", changes, &sink, &err), -EINVAL);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "a", NULL, &sink, &err), 0);
        assert_int_equal(image_sink_write(sink, "x", 1, &err), 0);
        image_sink_discard(sink);
        assert_no_trace(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_import, setup, teardown),
                cmocka_unit_test_setup_teardown(test_remove, setup, teardown),
                cmocka_unit_test_setup_teardown(test_builtin, setup, teardown),
                cmocka_unit_test_setup_teardown(test_removal_that_fails, setup, teardown),
                cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
                cmocka_unit_test_setup_teardown(test_load_saved, setup, teardown),
                cmocka_unit_test_setup_teardown(test_load_oci, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_borrowed_layer, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lying_worker, setup, teardown),
                cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
                cmocka_unit_test_setup_teardown(test_corpus, setup, teardown),
                cmocka_unit_test_setup_teardown(test_close_amid_an_import, setup, teardown),
                cmocka_unit_test_setup_teardown(test_close_amid_an_upload, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_import, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
