/* What a clean-up had to leave, since the workers could not be asked, goes later. */
#include "image/operation.h"
#include "image/test_store.h"

static bool away; /* the launcher */
static unsigned asked;

static int list(void *context, enum image_kind kind, image_names_fn fn, void *data, struct err *err)
{
        asked += away;
        return away ? err_set(err, ENOTCONN, "the launcher cannot be reached") : do_list(context, kind, fn, data, err);
}

static bool keeps;   /* no layer can be removed */
static bool refuses; /* the same, as it says later */

static int no_removal(void *context, enum image_kind kind, const char *name, image_done_fn fn, void *data,
                      struct err *err)
{
        if (refuses && kind == IMAGE_LAYER)
                return later(context, (struct answer){ .r = -EROFS, .done = fn, .data = data });
        return keeps && kind == IMAGE_LAYER ? err_set(err, ENOTCONN, "the launcher cannot be reached")
                                            : do_remove(context, kind, name, fn, data, err);
}

static void with_launcher(struct fixture *f)
{
        away = keeps = refuses = false;
        asked = 0;
        image_store_close(f->store);
        f->workers.list = list;
        f->workers.remove = no_removal;
        open_store(f);
}

static void import(struct fixture *f, const char *name)
{
        auto_str archive = STR_INIT;

        test_tar_file(&archive, "hello", name);
        test_tar_end(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, name, NULL, &archive), 0);
}

static void back_again(struct fixture *f)
{
        assert_true(count(f, "images/blobs/sha256") > 0);
        away = false;
        for (unsigned i = 0; i < 1000 && count(f, "images/blobs/sha256") > 0; i++)
                assert_int_equal(loop_turn(f->loop, 100, NULL), 0);
        for (unsigned i = 0; i < 1000 && count(f, "layers") > 0; i++)
                assert_int_equal(loop_turn(f->loop, 100, NULL), 0);
        assert_no_trace(f);
}

/* The name has gone: that is what the answer says. */
static void test_removal(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        with_launcher(f);
        import(f, "a:1");
        away = true;
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_null(image_store_find(f->store, "a:1", NULL));
        assert_int_equal(asked, 1);
        back_again(f);
}

/* It died when it had told what is there. */
static void test_layers(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        with_launcher(f);
        import(f, "a:1");
        keeps = true;
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_int_equal(count(f, "layers"), 1);
        keeps = false;
        for (unsigned i = 0; i < 1000 && count(f, "layers") > 0; i++)
                assert_int_equal(loop_turn(f->loop, 100, NULL), 0);
        assert_no_trace(f);
}

/* What never goes is asked for ever more seldom. */
static void test_layers_that_stay(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        with_launcher(f);
        import(f, "a:1");
        refuses = true;
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_int_equal(f->store->rest_ns, 2 * NS_PER_S);
        for (unsigned i = 0; i < 1000 && f->store->rest_ns <= 2 * NS_PER_S; i++)
                assert_int_equal(loop_turn(f->loop, 100, NULL), 0);
        assert_int_equal(f->store->rest_ns, 4 * NS_PER_S);
        assert_int_equal(count(f, "layers"), 1);
        refuses = false;
        for (unsigned i = 0; i < 1000 && f->store->rest_ns > 0; i++)
                assert_int_equal(loop_turn(f->loop, 100, NULL), 0);
        assert_no_trace(f);
}

static void on_pruned(int r, const struct image_prune_result *result, const struct err *err, void *data)
{
        struct fixture *f = data;

        on_done(r, err, f);
        f->n_digests = result ? result->n : 0;
}

static void test_prune(void **state)
{
        const struct image_prune_policy policy = { .all = true };
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        with_launcher(f);
        import(f, "a:1");
        away = true;
        f->told = false;
        assert_int_equal(image_store_prune(f->store, &policy, on_pruned, f, NULL), 0);
        assert_int_equal(wait_told(f), 0);
        assert_int_equal(f->n_digests, 1);
        assert_null(image_store_find(f->store, "a:1", NULL));
        back_again(f);
        /* Nothing went: then that is what is told. */
        away = true;
        f->told = false;
        assert_int_equal(image_store_prune(f->store, &policy, on_pruned, f, NULL), 0);
        assert_int_equal(wait_told(f), -ENOTCONN);
}

static void test_import(void **state)
{
        auto_str archive = STR_INIT;
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        with_launcher(f);
        test_tar_file(&archive, "hello", "world");
        test_tar_end(&archive);
        away = true;
        /* Many at once put it off no further than one. */
        for (unsigned i = 1; i <= 5; i++) {
                assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), -ENOTCONN);
                assert_int_equal(asked, 2 * i);
        }
        assert_true(f->store->rest.at_ns - time_mono_ns() <= 2 * NS_PER_S);
        back_again(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_removal, setup, teardown),
                cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_layers_that_stay, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/rest", tests, NULL, NULL);
}
