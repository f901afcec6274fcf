/* Layers that are unpacked while they still come: when it pays, and that nothing is kept but what came whole. */
#include "image/test_store.h"

#include "image/pull_internal.h"

#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define MS NS_PER_MS

struct feeding {
        struct fixture *f;
        struct image_hold *hold;
        struct str layer, packed;
        struct image_descriptor blob;
        char diff_id[65];
        int pipe;
        bool *came;
};

static void make_layer(struct feeding *w)
{
        char digest[IMAGE_DIGEST_MAX];

        root_fs(&w->layer);
        gzip(&w->layer, &w->packed);
        digest_of(&w->packed, w->blob.digest);
        w->blob.size = w->packed.len;
        digest_of(&w->layer, digest);
        (void)snprintf(w->diff_id, sizeof(w->diff_id), "%s", digest + 7);
        if (!w->hold)
                assert_int_equal(image_hold_new(w->f->store, (const char(*)[65])w->diff_id, 1, &w->hold, NULL), 0);
}

static void begin(struct feeding *w)
{
        int ends[2];

        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        w->f->told = false;
        w->came = NULL;
        assert_int_equal(
                image_store_feed(w->f->store, w->hold, ends[0], &w->blob, w->diff_id, &w->came, on_done, w->f, NULL),
                0);
        assert_non_null(w->came);
        assert_false(*w->came);
        w->pipe = ends[1];
}

/* All of it goes in, or all but the last byte. */
static int end(struct feeding *w, bool all, bool whole)
{
        assert_int_equal(fd_write_all(w->pipe, w->packed.data, w->packed.len - !all), 0);
        *w->came = whole;
        fd_close(w->pipe);
        return wait_told(w->f);
}

static void done(struct feeding *w)
{
        image_hold_free(w->hold);
        str_done(&w->layer);
        str_done(&w->packed);
}

static void test_whole(void **state)
{
        struct feeding w = { .f = *state };

        NEEDS_WORKER(w.f);
        make_layer(&w);
        begin(&w);
        for (int i = 0; i < 5; i++)
                assert_int_equal(loop_turn(w.f->loop, 10, NULL), 0);
        assert_int_equal(count(w.f, "layers"), 0);
        assert_int_equal(end(&w, true, true), 0);
        assert_int_equal(count(w.f, "layers"), 1);
        /* What is there is not made again, neither by a feed… */
        begin(&w);
        assert_int_equal(wait_told(w.f), -EEXIST);
        fd_close(w.pipe);
        /* …nor from the file, since the hold knows what it was made of. */
        w.f->plains = 0;
        w.f->told = false;
        assert_int_equal(image_store_layer(w.f->store, w.hold, open("/dev/null", O_RDONLY | O_CLOEXEC), &w.blob,
                                           w.diff_id, on_done, w.f, NULL),
                         0);
        assert_int_equal(wait_told(w.f), 0);
        assert_int_equal(w.f->plains, 0);
        done(&w);
}

/* The workers end well, and yet the blob's digest was never right. */
static void test_not_whole(void **state)
{
        struct feeding w = { .f = *state };

        NEEDS_WORKER(w.f);
        make_layer(&w);
        begin(&w);
        assert_int_equal(end(&w, true, false), -ECANCELED);
        assert_int_equal(count(w.f, "layers"), 0);
        /* The pair is not taken for seen. */
        begin(&w);
        assert_int_equal(end(&w, true, true), 0);
        assert_int_equal(count(w.f, "layers"), 1);
        done(&w);
}

static void test_cut(void **state)
{
        struct feeding w = { .f = *state };

        NEEDS_WORKER(w.f);
        make_layer(&w);
        begin(&w);
        assert_true(end(&w, false, false) < 0);
        assert_int_equal(count(w.f, "layers"), 0);
        begin(&w);
        fd_close(w.pipe);
        assert_true(wait_told(w.f) < 0);
        done(&w);
}

/* A worker that was taken over makes others' bytes of what is whole. */
static void test_another_layer(void **state)
{
        struct feeding w = { .f = *state };
        auto_str lie = STR_INIT;

        NEEDS_WORKER(w.f);
        make_layer(&w);
        test_tar_file(&lie, "bin", "evil");
        test_tar_end(&lie);
        w.f->lie = &lie;
        begin(&w);
        *w.came = true;
        fd_close(w.pipe);
        assert_int_equal(wait_told(w.f), -EBADMSG);
        assert_int_equal(count(w.f, "layers"), 0);
        done(&w);
}

/* Who brings the same from a file does not wait for what drips. */
static void test_nobody_waits(void **state)
{
        struct feeding w = { .f = *state };
        struct fixture other = { .told = false };
        struct err err = ERR_INIT;
        auto_fd blob = memfd_create("blob", MFD_CLOEXEC);

        NEEDS_WORKER(w.f);
        make_layer(&w);
        assert_int_equal(fd_write_all(blob, w.packed.data, w.packed.len), 0);
        begin(&w);
        if (image_store_layer(w.f->store, w.hold, fcntl(blob, F_DUPFD_CLOEXEC, 3), &w.blob, w.diff_id, on_done, &other,
                              &err) < 0)
                fail_msg("%s", err.text);
        while (!other.told)
                assert_int_equal(loop_turn(w.f->loop, 1000, NULL), 0);
        assert_int_equal(other.result, 0);
        assert_false(w.f->told);
        assert_int_equal(count(w.f, "layers"), 1);
        /* The feed comes too late, which is as good. */
        assert_int_equal(end(&w, true, true), 0);
        assert_int_equal(count(w.f, "layers"), 1);
        done(&w);
}

/* ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_pays(void **state)
{
        const struct pace p = { .since = 0, .since_ns = 1 };
        const struct pace later = { .since = 50 * MIB, .since_ns = 1 };

        (void)state;
        /* 2 MiB in 10 ms; the rest of 100 takes half a second. */
        assert_true(feed_pays(&p, MIB, 2 * MIB, 100 * MIB, 10 * MS, false));
        /* Nothing of it is in the file yet; small ones; the rest is little. */
        assert_false(feed_pays(&p, 0, 2 * MIB, 100 * MIB, 10 * MS, false));
        assert_false(feed_pays(&p, MIB, 2 * MIB, 4 * MIB, 10 * MS, false));
        assert_false(feed_pays(&p, 99 * MIB, 99 * MIB, 100 * MIB, 10 * MS, false));
        /* 10 MiB a second: 300 MiB would hold the places for half a minute, the last 50 do not. */
        assert_false(feed_pays(&p, 4 * MIB, 4 * MIB, 300 * MIB, 400 * MS, false));
        assert_true(feed_pays(&later, 54 * MIB, 54 * MIB, 100 * MIB, 400 * MS, false));
        /* Where others want the places only what is about to end has them. */
        assert_true(feed_pays(&p, MIB, 2 * MIB, 100 * MIB, 10 * MS, true));
        assert_false(feed_pays(&later, 54 * MIB, 54 * MIB, 100 * MIB, 400 * MS, true));
        /* What drips, and what does not come at all. */
        assert_false(feed_pays(&later, 50 * MIB, 50 * MIB + 4096, 100 * MIB, 400 * MS, false));
        assert_false(feed_pays(&later, 50 * MIB, 50 * MIB, 100 * MIB, 400 * MS, false));
        assert_false(feed_pays(&p, UINT64_MAX, UINT64_MAX, 100 * MIB, 400 * MS, false));
        assert_true(feed_ends_within(&later, 54 * MIB, 100 * MIB, 400 * MS, 6));
        assert_false(feed_ends_within(&later, 54 * MIB, 100 * MIB, 400 * MS, 2));
}

static void on_other(int r, const struct err *err, void *data)
{
        (void)err;
        *(int *)data = r;
}

static int memory_of(const struct str *s)
{
        int fd = memfd_create("blob", MFD_CLOEXEC);

        assert_int_equal(fd_write_all(fd, s->data, s->len), 0);
        assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
        return fd;
}

/* Who says of a blob of his own that it unpacks to somebody else's layer keeps him from nothing, however long that takes. */
static void test_another_blob(void **state)
{
        struct feeding w = { .f = *state };
        struct image_descriptor other = { .size = 100 };
        auto_str text = STR_INIT, packed = STR_INIT;
        struct image_hold *hold = NULL;
        int result = 1;

        NEEDS_WORKER(w.f);
        make_layer(&w);
        assert_int_equal(str_adds(&text, "no layer"), 0);
        gzip(&text, &packed);
        digest_of(&packed, other.digest);
        assert_int_equal(image_hold_new(w.f->store, (const char(*)[65])w.diff_id, 1, &hold, NULL), 0);
        w.f->hold = HOLD_PLAIN;
        assert_int_equal(
                image_store_layer(w.f->store, hold, memory_of(&packed), &other, w.diff_id, on_other, &result, NULL), 0);
        while (!w.f->held)
                assert_int_equal(loop_turn(w.f->loop, 1000, NULL), 0);
        w.f->told = false;
        assert_int_equal(
                image_store_layer(w.f->store, w.hold, memory_of(&w.packed), &w.blob, w.diff_id, on_done, w.f, NULL), 0);
        for (int i = 0; i < 3000 && !w.f->told; i++)
                assert_int_equal(loop_turn(w.f->loop, 10, NULL), 0);
        assert_true(w.f->told);
        assert_int_equal(w.f->result, 0);
        assert_int_equal(count(w.f, "layers"), 1);
        assert_int_equal(result, 1);
        release(w.f);
        while (result == 1)
                assert_int_equal(loop_turn(w.f->loop, 1000, NULL), 0);
        assert_true(result < 0);
        assert_int_equal(count(w.f, "layers"), 1);
        image_hold_free(hold);
        done(&w);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_another_blob, setup, teardown),
                cmocka_unit_test_setup_teardown(test_whole, setup, teardown),
                cmocka_unit_test_setup_teardown(test_not_whole, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(test_another_layer, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nobody_waits, setup, teardown),
                cmocka_unit_test(test_pays),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
