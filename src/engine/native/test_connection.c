#include "engine/native/test_fixture.h"

static void test_slots(void **state)
{
        struct fixture *f = *state;
        const struct image_workers *w;
        struct engine_container *c[3];

        f->slots = 1;
        start_engine(f);
        w = engine_native_workers(f->engine);
        c[0] = start(f, "c0");
        (void)expect_start(f);
        c[1] = start(f, "c1");
        c[2] = start(f, "c2");
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_false(side_poll(&f->launcher));
        /* Nor is the image of those who wait taken away, of which the launcher does not know yet. */
        assert_int_equal(w->remove(w->context, IMAGE_TREE, the_image.tree, NULL, NULL, NULL), -EBUSY);
        /* Whoever is killed while it waits never starts. */
        assert_int_equal(f->engine->ops->signal(c[1], SIGKILL, NULL), 0);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_SIGNALED);
        assert_int_equal(f->exit.signo, SIGKILL);
        f->engine->ops->remove(c[1]);
        send_exited(f, "c0", exit_3);
        wait_exits(f, 2);
        f->engine->ops->remove(c[0]);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        assert_memory_equal(expect_start(f).m.id, "c2", 3);
}

static void test_no_namespace(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct net_msg m;

        while (f->index < 2)
                turn(f); /* until the stock of the default mode is there */
        f->netd_serves = false;
        spec.network = ENGINE_NET_INTERNET;
        assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
        side_expect(f, &f->netd, NET_OP_ACQUIRE);
        memcpy(&m, f->netd.buf, sizeof(m));
        assert_int_equal(m.mode, NET_INTERNET);
        m.op = NET_OP_FAILED;
        m.error = ENOSPC;
        netd_send(f, m, -1);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_START_ERROR);
        assert_int_equal(f->exit.error, ENOSPC);
}

static void test_netd_comes_back(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        int adopted = 0;
        struct net_msg m = { .op = NET_OP_ADOPT };

        (void)expect_start(f);
        side_hang_up(&f->netd);
        f->netd_serves = false;
        while (f->engine->ops->check(f->engine, NULL) == 0)
                turn(f);
        assert_int_equal(f->engine->ops->check(f->engine, NULL), -ENETDOWN);
        netd_greet(f);
        while (m.op == NET_OP_ADOPT) {
                while (!side_poll(&f->netd))
                        turn(f);
                memcpy(&m, f->netd.buf, sizeof(m));
                if (m.op != NET_OP_ADOPT)
                        break;
                assert_int_equal(f->netd.n_fds, 1);
                /* The one in use is ours again; those in stock are not. */
                netd_send(f, (struct net_msg){ .op = NET_OP_CLEANED, .seq = m.seq, .ok = m.index == 1 }, -1);
                adopted++;
        }
        assert_int_equal(m.op, NET_OP_SYNCED);
        assert_true(adopted >= 2);
        f->netd_serves = true;
        for (int i = 0; i < 5; i++)
                turn(f);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        wait_cleans(f, 1);
        assert_int_equal(f->clean.index, 1);
        f->engine->ops->remove(c);
}

static void test_launcher_dies(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1"), *later;

        (void)expect_start(f);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "said", 4), 4);
        side_hang_up(&f->launcher);
        while (f->engine->ops->check(f->engine, NULL) != -ENOTCONN)
                turn(f);
        later = start(f, "c2"); /* waits for the next launcher */
        assert_int_equal(f->exits, 0);
        launcher_greet(f);
        launcher_send_op(f, LAUNCH_READY, 0);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_LOST);
        check_output(c, ENGINE_STDOUT, "said", 4);
        assert_memory_equal(expect_start(f).m.id, "c2", 3);
        f->engine->ops->remove(c);
        send_exited(f, "c2", exit_3);
        wait_exits(f, 2);
        f->engine->ops->remove(later);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
}

static void send_adopt(struct fixture *f, const char *id, const int *fds, const struct launch_exit *exit)
{
        struct launch_adopt m = { .h = { .op = LAUNCH_ADOPT } };

        memcpy(m.id, id, strlen(id));
        if (exit) {
                m.ended = 1;
                m.exit = *exit;
        }
        side_send(&f->launcher, &m, sizeof(m), fds, LAUNCH_ADOPT_COUNT);
}

static void test_connection_is_lost(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        int fds[LAUNCH_ADOPT_COUNT];

        (void)expect_start(f);
        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        side_hang_up(&f->launcher);
        launcher_greet(f);
        send_adopt(f, "c1", fds, NULL);
        send_adopt(f, "stranger", fds, NULL);
        launcher_send_op(f, LAUNCH_READY, 0);
        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fd_close(fds[i]);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        assert_memory_equal(((struct launch_id *)f->launcher.buf)->id, "stranger", 9);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_int_equal(f->exits, 0);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        assert_int_equal(f->exit.code, 3);
        f->engine->ops->remove(c);
}

/* A daemon dies with two containers, one of which has ended; the next one gets both with all they wrote. */
static void test_adoption(void **state)
{
        static const int from[LAUNCH_ADOPT_COUNT] = {
                LAUNCH_FD_STDOUT_R,   LAUNCH_FD_STDERR_R, LAUNCH_FD_STDOUT_MEM,
                LAUNCH_FD_STDERR_MEM, LAUNCH_FD_RECORD,   LAUNCH_FD_NETNS,
        };
        struct fixture *f = *state;
        int kept[2][LAUNCH_ADOPT_COUNT], writers[2];
        struct engine_container *c;

        for (int k = 0; k < 2; k++) {
                c = start(f, k ? "c1" : "c0");
                (void)expect_start(f);
                writers[k] = fcntl(f->launcher.fds[LAUNCH_FD_STDOUT_W], F_DUPFD_CLOEXEC, 0);
                for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                        kept[k][i] = fcntl(f->launcher.fds[from[i]], F_DUPFD_CLOEXEC, 0);
                assert_int_equal(f->engine->ops->update_record(c, "first", 5, NULL), 0);
                assert_int_equal(f->engine->ops->update_record(c, "second", 6, NULL), 0);
                assert_int_equal(write(writers[k], "0123456789", 10), 10);
        }
        for (int i = 0; i < 2000 && f->outputs < 2; i++)
                turn(f);
        f->engine->ops->free(f->engine);
        side_hang_up(&f->launcher);
        side_hang_up(&f->netd);
        f->netd_serves = false;
        turn(f);
        assert_int_equal(write(writers[0], "more", 4), 4);
        f->exits = f->outputs = 0;

        new_engine(f);
        launcher_greet(f);
        send_adopt(f, "c0", kept[0], NULL);
        send_adopt(f, "c1", kept[1], &exit_3);
        launcher_send_op(f, LAUNCH_READY, 0);
        wait_exits(f, 1);
        assert_int_equal(f->n_found, 2);
        assert_string_equal(f->found_record, "second");
        assert_int_equal(f->exit.code, 3);
        check_output(f->found[1], ENGINE_STDOUT, "01234567", 10);
        send_exited(f, "c0", exit_3);
        wait_exits(f, 2);
        check_output(f->found[0], ENGINE_STDOUT, "01234567", 14);
        netd_greet(f);
        side_expect(f, &f->netd, NET_OP_SYNCED); /* both have ended: nothing is in use */
        for (int k = 0; k < 2; k++) {
                f->engine->ops->remove(f->found[k]);
                side_expect(f, &f->launcher, LAUNCH_REMOVE);
                fd_close(writers[k]);
                for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                        fd_close(kept[k][i]);
        }
}

static void test_adoption_without_record(void **state)
{
        struct fixture *f = *state;
        int fds[LAUNCH_ADOPT_COUNT];

        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fds[i] = memfd_create("empty", MFD_CLOEXEC);
        new_engine(f);
        launcher_greet(f);
        send_adopt(f, "c1", fds, NULL);
        launcher_send_op(f, LAUNCH_READY, 0);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        while (!f->listed)
                turn(f);
        assert_int_equal(f->n_found, 0);
        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fd_close(fds[i]);
}

static void test_malformed(void **state)
{
        static const uint32_t ops[] = { 0, LAUNCH_START, 1000, LAUNCH_HELLO, LAUNCH_EXITED, LAUNCH_READY };
        struct fixture *f = *state;

        f->netd_serves = false;
        for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
                launcher_send_op(f, ops[i], 1);
                side_send(&f->netd, &(uint32_t){ 77 }, sizeof(uint32_t), NULL, 0);
                while (f->engine->ops->check(f->engine, NULL) != -ENOTCONN)
                        turn(f);
                side_hang_up(&f->launcher);
                side_hang_up(&f->netd);
                launcher_greet(f);
                launcher_send_op(f, LAUNCH_READY, 0);
                netd_greet(f);
                for (int k = 0; k < 2000 && f->engine->ops->check(f->engine, NULL) < 0; k++)
                        turn(f);
                assert_int_equal(f->engine->ops->check(f->engine, NULL), 0);
                turn(f);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_slots, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_namespace, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_netd_comes_back, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_launcher_dies, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_connection_is_lost, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_adoption, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_adoption_without_record, setup, teardown),
                cmocka_unit_test_setup_teardown(test_malformed, setup_started, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
