#include "engine/native/test_fixture.h"

static void test_one_container(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "abcdefghijklmnop");
        struct started s = expect_start(f);
        struct stat st;
        char buf[8];

        assert_memory_equal(s.m.id, "abcdefghijklmnop", 17);
        assert_memory_equal(s.m.tree, the_image.tree, LAUNCH_HEX);
        assert_int_equal(s.m.limits.memory, 100);
        assert_int_equal(s.m.limits.pids, 500);
        assert_int_equal(s.m.uid, 7);
        assert_int_equal(s.m.gid, 8);
        assert_int_equal(s.m.n_groups, 1);
        assert_int_equal(s.m.flags, 0);
        assert_int_equal(s.m.argc, 3);
        assert_string_equal(s.args[0], "/entry");
        assert_string_equal(s.args[2], "b");
        assert_int_equal(s.m.envc, 5);
        assert_string_equal(s.env[0], "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        assert_string_equal(s.env[1], "HOSTNAME=abcdefghijkl");
        assert_string_equal(s.env[4], "HOME=/home/app");
        assert_string_equal(s.hostname, "abcdefghijkl");
        assert_string_equal(s.workdir, "/srv");
        assert_string_equal(s.hosts, "127.0.0.1\tlocalhost\n10.213.0.1\tabcdefghijkl\n");
        assert_string_equal(s.resolv, "nameserver 9.9.9.9\n");
        /* No input: end of file, and nothing that could be written. */
        assert_int_equal(read(f->launcher.fds[LAUNCH_FD_STDIN], buf, 1), 0);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDIN], "x", 1), -1);
        assert_int_equal(fstat(f->launcher.fds[LAUNCH_FD_STDOUT_W], &st), 0);
        assert_int_equal(st.st_mode & 07777, 0666);

        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "0123456789", 10), 10);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDERR_W], "err", 3), 3);
        send_exited(f, "abcdefghijklmnop", exit_3);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_EXITED);
        assert_int_equal(f->exit.code, 3);
        assert_int_equal(f->exit.memory_peak, 5);
        assert_int_equal(f->exit.start_mono_ns, 20);
        check_output(c, ENGINE_STDOUT, "01234567", 10);
        check_output(c, ENGINE_STDERR, "err", 3);
        wait_cleans(f, 1);
        assert_int_equal(f->clean.index, 1);
        netd_send(f, (struct net_msg){ .op = NET_OP_CLEANED, .seq = f->clean.seq, .index = 1, .ok = 1 }, -1);
        f->engine->ops->remove(c);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);

        /* The next one of the same owner gets the namespace again, one of another owner does not. */
        for (int i = 0; i < 5; i++)
                turn(f);
        (void)start(f, "second");
        s = expect_start(f);
        assert_string_equal(s.hosts, "127.0.0.1\tlocalhost\n10.213.0.1\tsecond\n");
        (void)start(f, "third");
        s = expect_start(f);
        assert_string_equal(s.hosts, "127.0.0.1\tlocalhost\n10.213.0.2\tthird\n");
}

struct command {
        char *cmd[3], *entrypoint[3];
        const char *args[4];
};

static void test_commands(void **state)
{
        static char x[] = "x", y[] = "y";
        static struct command table[] = {
                { { NULL }, { NULL }, { "/entry", "a", "b" } },
                { { x, y }, { NULL }, { "/entry", "x", "y" } },
                { { NULL }, { x }, { "x" } },
                { { y }, { x }, { "x", "y" } },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct engine_spec spec = base_spec((const char *[]){ "c0", "c1", "c2", "c3" }[i]);
                struct started s;

                spec.cmd = table[i].cmd[0] ? table[i].cmd : NULL;
                spec.entrypoint = table[i].entrypoint[0] ? table[i].entrypoint : NULL;
                spec.network = ENGINE_NET_NONE;
                assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
                s = expect_start(f);
                for (size_t k = 0; k < 4 && table[i].args[k]; k++)
                        assert_string_equal(s.args[k], table[i].args[k]);
                assert_string_equal(s.resolv, "");
                send_exited(f, spec.id, exit_3);
                wait_exits(f, (int)i + 1);
                wait_cleans(f, (int)i + 1);
        }
}

static void test_request_over_image(void **state)
{
        char *env[] = { (char[]){ "B=mine" }, (char[]){ "C=" }, (char[]){ "HOME=/h" }, (char[]){ "PATH=/p" }, NULL };
        struct engine_file file = { (char[]){ "d/f" }, (char[]){ "hello" }, 5, 0640, ENGINE_FILE_REGULAR };
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct started s;

        spec.env = env;
        spec.user = "root";
        spec.workdir = "/w";
        spec.files = &file;
        spec.n_files = 1;
        spec.init = true;
        spec.stdin_data = "input";
        spec.stdin_len = 5;
        assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
        s = expect_start(f);
        assert_int_equal(s.m.flags, LAUNCH_F_INIT);
        assert_int_equal(s.m.uid, 0);
        assert_int_equal(s.m.envc, 6);
        assert_string_equal(s.env[0], "PATH=/p");
        assert_string_equal(s.env[2], "A=image");
        assert_string_equal(s.env[3], "B=mine");
        assert_string_equal(s.env[4], "C=");
        assert_string_equal(s.env[5], "HOME=/h");
        assert_string_equal(s.workdir, "/w");
        assert_string_equal(s.path, "/w/d/f");
        assert_string_equal(s.content, "hello");
        assert_int_equal(s.mode, S_IFREG | 0640);
}

static void test_refused_specs(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = NULL;
        struct engine_spec spec = base_spec("UPPER");

        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.digest = "sha256:none";
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -ENOENT);
        spec = base_spec("ok");
        spec.user = "nobody-here";
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.workdir = "relative";
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.entrypoint = (char *[]){ NULL };
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.network = 0;
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        c = create(f, &spec);
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        f->engine->ops->remove(c);
}

static void test_large_payload(void **state)
{
        static char content[300000];
        struct engine_file file = { (char[]){ "/f" }, content, sizeof(content), 0644, ENGINE_FILE_REGULAR };
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct started s;
        struct stat st;

        spec.files = &file;
        spec.n_files = 1;
        assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
        s = expect_start(f);
        assert_int_equal(s.m.flags, LAUNCH_F_SPEC);
        assert_int_equal(f->launcher.len, sizeof(s.m));
        assert_int_equal(fstat(f->launcher.fds[LAUNCH_FD_SPEC], &st), 0);
        assert_int_equal(st.st_size, s.m.payload_len);
        assert_true(s.m.payload_len > sizeof(content));
        assert_int_equal(fcntl(f->launcher.fds[LAUNCH_FD_SPEC], F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
}

static void test_output_while_it_runs(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");

        (void)expect_start(f);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "early", 5), 5);
        for (int i = 0; i < 2000 && f->outputs == 0; i++)
                turn(f);
        assert_true(f->outputs > 0);
        check_output(c, ENGINE_STDOUT, "early", 5);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "0123456789", 10), 10);
        for (int i = 0; i < 2000 && f->outputs == 1; i++)
                turn(f);
        check_output(c, ENGINE_STDOUT, "early012", 15);
        /* A stream that its writers closed is no busy loop. */
        side_drop_fds(&f->launcher);
        for (int i = 0; i < 5; i++)
                turn(f);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        check_output(c, ENGINE_STDOUT, "early012", 15);
}

struct ending {
        struct launch_exit e;
        enum engine_end end;
        int value;
};

static void test_endings(void **state)
{
        static const struct ending table[] = {
                { { .stage = LAUNCH_STAGE_EXECED, .si_code = CLD_KILLED, .status = SIGSEGV },
                  ENGINE_END_SIGNALED,
                  SIGSEGV },
                { { .stage = LAUNCH_STAGE_EXECED, .si_code = CLD_DUMPED, .status = SIGABRT },
                  ENGINE_END_SIGNALED,
                  SIGABRT },
                { { .stage = LAUNCH_STAGE_EXEC, .error = ENOENT }, ENGINE_END_NOT_FOUND, 0 },
                { { .stage = LAUNCH_STAGE_EXEC, .error = EACCES }, ENGINE_END_NOT_EXECUTABLE, 0 },
                { { .stage = LAUNCH_STAGE_EXEC, .error = ENOMEM }, ENGINE_END_START_ERROR, ENOMEM },
                { { .stage = LAUNCH_STAGE_MOUNT, .error = EPERM }, ENGINE_END_START_ERROR, EPERM },
                { { .stage = LAUNCH_STAGE_WORKDIR, .error = ENOTDIR }, ENGINE_END_START_ERROR, ENOTDIR },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                char id[8];
                struct engine_container *c;

                (void)snprintf(id, sizeof(id), "c%zu", i);
                c = start(f, id);
                (void)expect_start(f);
                send_exited(f, id, table[i].e);
                wait_exits(f, (int)i + 1);
                assert_int_equal(f->exit.end, table[i].end);
                if (f->exit.end == ENGINE_END_SIGNALED)
                        assert_int_equal(f->exit.signo, table[i].value);
                if (f->exit.end == ENGINE_END_START_ERROR) {
                        assert_int_equal(f->exit.error, table[i].value);
                        assert_true(strlen(f->exit.text) > 0);
                }
                f->engine->ops->remove(c);
                side_expect(f, &f->launcher, LAUNCH_REMOVE);
                wait_cleans(f, (int)i + 1);
        }
}

static void test_refused_start(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        struct launch_refused m = { .h = { .op = LAUNCH_REFUSED }, .id = "c1", .error = EPERM, .text = "too much" };

        (void)expect_start(f);
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_START_ERROR);
        assert_string_equal(f->exit.text, "too much");
        f->engine->ops->remove(c);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_false(side_poll(&f->launcher)); /* nothing to remove there */
}

static void test_signals_and_removal(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");

        (void)expect_start(f);
        assert_int_equal(f->engine->ops->signal(c, 0, NULL), -EINVAL);
        assert_int_equal(f->engine->ops->signal(c, SIGUSR1, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_SIGNAL);
        assert_int_equal(((struct launch_signal *)f->launcher.buf)->signo, SIGUSR1);
        f->engine->ops->remove(c);
        side_expect(f, &f->launcher, LAUNCH_SIGNAL);
        assert_int_equal(((struct launch_signal *)f->launcher.buf)->signo, SIGKILL);
        send_exited(f, "c1", exit_3);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        assert_int_equal(f->exits, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_one_container, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_commands, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_request_over_image, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_refused_specs, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_large_payload, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_output_while_it_runs, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_endings, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_refused_start, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_signals_and_removal, setup_started, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
