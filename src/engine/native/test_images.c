#include "engine/native/test_fixture.h"

static void test_workers(void **state)
{
        static const struct {
                int si_code, status;
                uint32_t oom;
                int r;
        } table[] = {
                { CLD_EXITED, 0, 0, 0 },
                { CLD_EXITED, IMAGE_WORKER_BAD, 0, -EBADMSG },
                { CLD_EXITED, IMAGE_WORKER_FAILED, 0, -EIO },
                { CLD_EXITED, IMAGE_WORKER_NO_SPACE, 0, -ENOSPC },
                { CLD_EXITED, IMAGE_WORKER_NO_MEMORY, 0, -ENOMEM },
                { CLD_EXITED, IMAGE_WORKER_NOT_STARTED, 0, -EIO },
                { CLD_EXITED, 127, 0, -EIO }, /* the loader's */
                { CLD_KILLED, SIGKILL, 0, -EIO },
                { CLD_DUMPED, SIGSEGV, 0, -EIO },
                { CLD_KILLED, SIGKILL, 1, -ENOMEM },
                { CLD_KILLED, SIGXCPU, 0, -ETIMEDOUT },
                { CLD_KILLED, SIGSYS, 0, -EIO },
        };
        struct fixture *f = *state;
        const struct image_workers *w = engine_native_workers(f->engine);
        auto_fd fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        char layers[2][65] = { { 0 } };
        struct answer a = { .calls = 0 };

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct launch_work_done done = {
                        .h = { .op = LAUNCH_WORK_DONE },
                        .token = 7,
                        .si_code = table[i].si_code,
                        .status = table[i].status,
                        .oom = table[i].oom,
                };

                assert_int_equal(w->unpack(w->context, fd, fd, 10, 20, on_work, &a, NULL), 0);
                side_expect(f, &f->launcher, LAUNCH_WORK);
                assert_int_equal(f->launcher.n_fds, 2);
                done.h.seq = last_seq(f);
                side_send(&f->launcher, &done, sizeof(done), NULL, 0);
                wait_answer(f, &a, (int)i + 1);
                assert_int_equal(a.r, table[i].r);
                assert_int_equal(a.token, table[i].r == 0 ? 7 : 0);
        }
        memset(layers[0], 'a', 64);
        memset(layers[1], 'b', 64);
        a.calls = 0;
        assert_int_equal(w->merge(w->context, (const char(*)[65])layers, 2, fd, on_work, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_WORK);
        assert_int_equal(f->launcher.len, sizeof(struct launch_work_start) + 2 * LAUNCH_HEX);
        assert_int_equal(w->index(w->context, fd, fd, fd, 1, 1, on_work, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_WORK);
        assert_int_equal(f->launcher.n_fds, 3);
        /* Both are still at work when the launcher dies. */
        side_hang_up(&f->launcher);
        wait_answer(f, &a, 2);
        assert_int_equal(a.r, -ENOTCONN);
        assert_int_equal(w->index(w->context, fd, fd, fd, 1, 1, on_work, &a, NULL), -ENOTCONN);
}

static void test_store_operations(void **state)
{
        struct fixture *f = *state;
        const struct image_workers *w = engine_native_workers(f->engine);
        struct launch_refused refused = { .h = { .op = LAUNCH_REFUSED }, .error = EEXIST, .text = "there already" };
        struct answer a = { .calls = 0 };
        char name[65] = "";
        struct {
                struct launch_names m;
                char names[2][LAUNCH_HEX];
        } names = { .m = { .h = { .op = LAUNCH_NAMES }, .n = 2, .more = 1 } };

        memset(name, 'c', 64);
        memset(names.names, 'd', sizeof(names.names));
        assert_int_equal(w->commit(w->context, 7, IMAGE_TREE, "short", on_done, &a, NULL), -EINVAL);
        assert_int_equal(w->commit(w->context, 7, IMAGE_TREE, name, on_done, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_COMMIT);
        launcher_send_op(f, LAUNCH_DONE, last_seq(f));
        wait_answer(f, &a, 1);
        assert_int_equal(a.r, 0);
        assert_int_equal(w->remove(w->context, IMAGE_LAYER, name, on_done, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_DELETE);
        refused.h.seq = last_seq(f);
        side_send(&f->launcher, &refused, sizeof(refused), NULL, 0);
        wait_answer(f, &a, 2);
        assert_int_equal(a.r, -EEXIST);
        assert_int_equal(w->discard(w->context, 7, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_DISCARD);
        launcher_send_op(f, LAUNCH_DONE, last_seq(f));
        assert_int_equal(w->list(w->context, IMAGE_LAYER, on_names, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_LIST);
        names.m.h.seq = last_seq(f);
        side_send(&f->launcher, &names, sizeof(names), NULL, 0);
        names.m.n = 1;
        names.m.more = 0;
        side_send(&f->launcher, &names, sizeof(names.m) + LAUNCH_HEX, NULL, 0);
        wait_answer(f, &a, 3);
        assert_int_equal(a.n, 3);
        assert_int_equal(strlen(a.last), 64);
}

static void test_stats(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        struct launch_stats m = { .h = { .op = LAUNCH_COUNTERS }, .id = "c1", .counters = { .memory_now = 99 } };
        struct answer a = { .calls = 0 };

        (void)expect_start(f);
        assert_int_equal(f->engine->ops->stats(c, on_stats, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_STATS);
        m.h.seq = last_seq(f);
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
        wait_answer(f, &a, 1);
        assert_int_equal(a.n, 99);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        assert_int_equal(f->engine->ops->stats(c, on_stats, &a, NULL), -ESRCH);
}

static void test_ensure_image(void **state)
{
        static const struct {
                const char *ref;
                int r;
        } table[] = { { "x", 0 }, { DIGEST, 0 }, { "unknown", -ENOENT }, { "!", -EINVAL } };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct answer a = { .calls = 0 };

                assert_int_equal(f->engine->ops->ensure_image(
                                         f->engine, &(struct engine_image_request){ .ref = table[i].ref, .owner = "o" },
                                         on_image, &a, NULL),
                                 0);
                assert_int_equal(a.calls, 0);
                wait_answer(f, &a, 1);
                assert_int_equal(a.r, table[i].r);
                if (a.r < 0)
                        continue;
                assert_string_equal(a.image.ref, "docker.io/library/x:latest");
                assert_string_equal(a.image.digest, DIGEST);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_workers, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_store_operations, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_stats, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_ensure_image, setup_started, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
