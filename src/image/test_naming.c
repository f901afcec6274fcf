/* Names that are not everybody's to give. */
#include "image/test_store.h"

static bool asked_of_loop = true;

/* "private/…" is key:good's alone. */
static bool may_name(const char *owner, const char *name, void *data)
{
        asked_of_loop &= data == &asked_of_loop;
        return !str_starts(name, "docker.io/private/") || str_eq(owner, "key:good");
}

static void archive_of(struct str *out, const char *tag)
{
        char diff_id[IMAGE_DIGEST_MAX];
        auto_str layer = STR_INIT;

        root_fs(&layer);
        digest_of(&layer, diff_id);
        saved(out, &layer, diff_id, tag);
}

static int tag(struct fixture *f, const char *owner, const char *name)
{
        struct err err = ERR_INIT;
        int r;

        f->told = false;
        r = image_store_tag_by(f->store, owner, "a:1", name, on_done, f, &err);
        return r < 0 ? r : wait_told(f);
}

static int load(struct fixture *f, const char *owner, const char *name)
{
        auto_str archive = STR_INIT;
        struct image_sink *sink = NULL;

        archive_of(&archive, name);
        f->told = false;
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_own(sink, owner, NULL), 0);
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        assert_int_equal(image_sink_finish(sink, on_loaded, f, NULL), 0);
        return wait_told(f);
}

/* What an import is told before its archive comes; 0: it went well. */
static int import(struct fixture *f, const char *owner, const char *name)
{
        auto_str archive = STR_INIT;
        struct image_sink *sink = NULL;
        int r;

        test_tar_file(&archive, "hello", name);
        test_tar_end(&archive);
        f->told = false;
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, name, NULL, &sink, NULL), 0);
        r = image_sink_own(sink, owner, NULL);
        if (r < 0) {
                image_sink_discard(sink);
                return r;
        }
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        assert_int_equal(image_sink_finish(sink, on_loaded, f, NULL), 0);
        return wait_told(f);
}

static void test_names(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        image_store_set_may_name(f->store, may_name, &asked_of_loop);
        assert_int_equal(import(f, "key:bad", "private/app:1"), -EPERM);
        assert_int_equal(load(f, "key:bad", "private/app:1"), -EPERM);
        assert_non_null(strstr(f->text, "private"));
        assert_no_trace(f);
        assert_int_equal(import(f, "key:bad", "a:1"), 0);
        assert_int_equal(tag(f, "key:bad", "private/app:1"), -EPERM);
        assert_int_equal(tag(f, "key:bad", "b:1"), 0);
        assert_null(image_store_find(f->store, "private/app:1", NULL));
        assert_int_equal(tag(f, "key:good", "private/app:1"), 0);
        assert_int_equal(tag(f, NULL, "private/app:2"), 0);
        assert_int_equal(load(f, "key:good", "private/app:3"), 0);
        assert_int_equal(import(f, NULL, "private/app:4"), 0);
        assert_true(asked_of_loop);
}

static bool closed;

static bool while_open(const char *owner, const char *name, void *data)
{
        (void)owner;
        (void)name;
        (void)data;
        return !closed;
}

/* What was somebody's to give when an archive began to come may not be when it is there. */
static void test_closed_meanwhile(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;
        struct image_sink *sink = NULL;

        NEEDS_WORKER(f);
        closed = false;
        image_store_set_may_name(f->store, while_open, NULL);
        test_tar_file(&archive, "hello", "world");
        test_tar_end(&archive);
        f->told = false;
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "a:1", NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_own(sink, "key:1", NULL), 0);
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        closed = true;
        assert_int_equal(image_sink_finish(sink, on_loaded, f, NULL), 0);
        assert_int_equal(wait_told(f), -EPERM);
        assert_no_trace(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_names, setup, teardown),
                cmocka_unit_test_setup_teardown(test_closed_meanwhile, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/naming", tests, NULL, NULL);
}
