/* Live streams, copies out, and the parts of a spec that come with them. */
#include "engine/native/test_fixture.h"

/* ── live ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct live {
        struct str got[NATIVE_STREAMS];
        size_t pieces;
        bool stop; /* pause() at the first piece */
        int exits_at_last;
};

static struct live live;

static void on_data(struct engine_container *c, enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct fixture *f = data;

        assert_true(len > 0);
        assert_int_equal(str_add(&live.got[stream], bytes, len), 0);
        live.pieces++;
        live.exits_at_last = f->exits;
        if (live.stop)
                c->engine->ops->pause(c, stream, true);
}

static const struct engine_events live_events = { .output = on_output, .exited = on_exited, .data = on_data };

static struct engine_container *start_live(struct fixture *f, struct engine_spec *spec)
{
        struct engine_container *c = NULL;

        live.pieces = 0;
        live.stop = false;
        str_clear(&live.got[0]);
        str_clear(&live.got[1]);
        spec->live = true;
        assert_int_equal(f->engine->ops->create(f->engine, spec, &live_events, f, &c, NULL), 0);
        assert_int_equal(f->engine->ops->start(c, NULL), 0);
        return c;
}

static int live_done(void **state)
{
        str_done(&live.got[0]);
        str_done(&live.got[1]);
        return teardown(state);
}

static void wait_bytes(struct fixture *f, enum engine_stream stream, size_t n)
{
        for (int i = 0; i < 2000 && live.got[stream].len < n; i++)
                turn(f);
        assert_int_equal(live.got[stream].len, n);
}

/* More than is kept (8 bytes) is handed on all the same. */
static void test_live(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c = start_live(f, &spec);
        int out, err;

        (void)expect_start(f);
        out = f->launcher.fds[LAUNCH_FD_STDOUT_W];
        err = f->launcher.fds[LAUNCH_FD_STDERR_W];
        assert_int_equal(write(out, "hello", 5), 5);
        wait_bytes(f, ENGINE_STDOUT, 5);
        assert_int_equal(write(out, ", world", 7), 7);
        assert_int_equal(write(err, "x", 1), 1);
        wait_bytes(f, ENGINE_STDOUT, 12);
        wait_bytes(f, ENGINE_STDERR, 1);
        assert_string_equal(live.got[ENGINE_STDOUT].data, "hello, world");
        check_output(c, ENGINE_STDOUT, "hello, w", 12);
        assert_true(f->outputs >= 3);
        assert_int_equal(write(out, "!", 1), 1); /* and ends at once */
        side_drop_fds(&f->launcher);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        assert_string_equal(live.got[ENGINE_STDOUT].data, "hello, world!");
        assert_int_equal(live.exits_at_last, 0);
        check_output(c, ENGINE_STDOUT, "hello, w", 13);
        c->engine->ops->remove(c);
}

/* A whole pipe comes byte for byte, in order. */
static void test_live_much(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c;
        static uint8_t block[4096];
        size_t sent = 0;
        int out;

        spec.limits.output = 300000;
        c = start_live(f, &spec);
        (void)expect_start(f);
        out = f->launcher.fds[LAUNCH_FD_STDOUT_W];
        assert_int_equal(fd_set_nonblock(out, true), 0);
        while (sent < 1000000) {
                ssize_t n;

                for (size_t i = 0; i < sizeof(block); i++)
                        block[i] = (uint8_t)((sent + i) * 7 >> 3);
                n = write(out, block, sizeof(block));
                sent += n > 0 ? (size_t)n : 0;
                turn(f);
        }
        wait_bytes(f, ENGINE_STDOUT, sent);
        for (size_t i = 0; i < sent; i++)
                if ((uint8_t)live.got[0].data[i] != (uint8_t)(i * 7 >> 3))
                        fail_msg("byte %zu", i);
        side_drop_fds(&f->launcher);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        c->engine->ops->remove(c);
}

/* Paused, the writer blocks as on a full pipe; the rest comes with the end. */
static void test_pause(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c = start_live(f, &spec);
        static const char block[4096];
        size_t in_pipe = 0;
        ssize_t n;
        int out;

        (void)expect_start(f);
        out = f->launcher.fds[LAUNCH_FD_STDOUT_W];
        assert_int_equal(fd_set_nonblock(out, true), 0);
        live.stop = true; /* from within data() */
        assert_int_equal(write(out, "a", 1), 1);
        wait_bytes(f, ENGINE_STDOUT, 1);
        while ((n = write(out, block, sizeof(block))) > 0) {
                in_pipe += (size_t)n;
                turn(f);
        }
        assert_true(n < 0 && errno == EAGAIN);
        assert_true(in_pipe >= 4096);
        for (int i = 0; i < 50; i++)
                turn(f);
        assert_int_equal(live.got[ENGINE_STDOUT].len, 1);
        /* The other stream flows on. */
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDERR_W], "e", 1), 1);
        wait_bytes(f, ENGINE_STDERR, 1);
        live.stop = false;
        c->engine->ops->pause(c, ENGINE_STDOUT, false);
        wait_bytes(f, ENGINE_STDOUT, 1 + in_pipe);
        c->engine->ops->pause(c, ENGINE_STDOUT, true);
        assert_int_equal(write(out, "rest", 4), 4);
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_int_equal(live.got[ENGINE_STDOUT].len, 1 + in_pipe);
        side_drop_fds(&f->launcher);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        assert_int_equal(live.got[ENGINE_STDOUT].len, 5 + in_pipe);
        c->engine->ops->remove(c);
}

/* Removed while it runs: nobody is told of anything. */
static void test_live_removed(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c = start_live(f, &spec);

        (void)expect_start(f);
        c->engine->ops->remove(c);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "late", 4), 4);
        for (int i = 0; i < 20; i++)
                turn(f);
        side_drop_fds(&f->launcher);
        send_exited(f, "c1", exit_3);
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_int_equal(live.pieces, 0);
        assert_int_equal(f->exits, 0);
}

static void test_stdin(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c;
        char text[8] = "";
        int fds[2];

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        spec.stdin_fd = fds[0];
        c = start_live(f, &spec);
        fd_close(fds[0]);
        (void)expect_start(f);
        assert_int_equal(write(fds[1], "typed", 5), 5);
        assert_int_equal(read(f->launcher.fds[LAUNCH_FD_STDIN], text, sizeof(text)), 5);
        assert_string_equal(text, "typed");
        /* The launcher's is the last read end. */
        side_drop_fds(&f->launcher);
        (void)signal(SIGPIPE, SIG_IGN);
        assert_true(write(fds[1], "x", 1) < 0 && errno == EPIPE);
        fd_close(fds[1]);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        c->engine->ops->remove(c);
}

/* ── specs ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_secrets(void **state)
{
        struct fixture *f = *state;
        const struct engine_secret secrets[] = { { "token", "canary", 6 }, { "empty", "", 0 } };
        struct engine_spec spec = base_spec("c1");
        const char want[] = "\5\0\0\0token\6\0\0\0canary\5\0\0\0empty\0\0\0";
        const struct launch_start *m = (const void *)f->launcher.buf;
        struct native *n = CONTAINER_OF(f->engine, struct native, engine);
        struct engine_container *c;

        spec.secrets = secrets;
        spec.n_secrets = 2;
        spec.keep_root = true;
        c = create(f, &spec);
        assert_int_equal(f->engine->ops->start(c, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_START);
        assert_int_equal(m->n_secrets, 2);
        assert_true(m->flags & LAUNCH_F_KEEP_ROOT);
        assert_memory_equal(f->launcher.buf + f->launcher.len - sizeof(want), want, sizeof(want));
        /* Neither the buffer that it was built in nor the record knows it. */
        assert_null(memmem(n->scratch, LAUNCH_MSG_MAX, "canary", 6));
        assert_true(pread(f->launcher.fds[LAUNCH_FD_RECORD], n->scratch, 4096, 0) > 0);
        assert_null(memmem(n->scratch, 4096, "canary", 6));
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        c->engine->ops->remove(c);
}

static void refuse_spec(struct fixture *f, const struct engine_spec *spec, const char *text)
{
        struct engine_container *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(f->engine->ops->create(f->engine, spec, &events, f, &c, &err), -EINVAL);
        assert_non_null(strstr(err.text, text));
}

static void test_bad_specs(void **state)
{
        struct fixture *f = *state;
        static char large[ENGINE_SECRET_MAX + 1];
        const struct engine_secret bad[][2] = {
                { { "", "x", 1 }, { "b", "x", 1 } },
                { { "..", "x", 1 }, { "b", "x", 1 } },
                { { "a/b", "x", 1 }, { "b", "x", 1 } },
                { { "a", "x", 1 }, { "a", "y", 1 } },
                { { "a", large, sizeof(large) }, { "b", "x", 1 } },
        };
        static const char *const texts[] = { "name", "name", "name", "twice", "bytes" };
        struct engine_file link = {
                .path = (char[]){ "l" }, .content = (char[]){ "a\0b" }, .len = 3, .type = ENGINE_FILE_SYMLINK
        };
        struct engine_spec spec = base_spec("c1");

        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                spec.secrets = bad[i];
                spec.n_secrets = 2;
                refuse_spec(f, &spec, texts[i]);
        }
        spec.n_secrets = ENGINE_SECRETS_MAX + 1;
        refuse_spec(f, &spec, "more than");
        spec.n_secrets = 0;
        spec.files = &link;
        spec.n_files = 1;
        refuse_spec(f, &spec, "target");
        link.len = 0;
        refuse_spec(f, &spec, "target");
        spec.n_files = ENGINE_FILES_MAX + 1;
        refuse_spec(f, &spec, "more than");
}

static void test_kinds(void **state)
{
        struct fixture *f = *state;
        struct engine_file files[] = {
                { .path = (char[]){ "d" }, .content = NULL, .len = 99, .mode = 0750, .type = ENGINE_FILE_DIRECTORY },
                { .path = (char[]){ "l" },
                  .content = (char[]){ "to" },
                  .len = 2,
                  .mode = 0777,
                  .type = ENGINE_FILE_SYMLINK },
        };
        struct started s;

        for (size_t i = 0; i < ARRAY_LEN(files); i++) {
                struct engine_spec spec = base_spec(i ? "c1" : "c0");
                struct engine_container *c;

                spec.files = &files[i];
                spec.n_files = 1;
                c = create(f, &spec);
                assert_int_equal(f->engine->ops->start(c, NULL), 0);
                s = expect_start(f);
                assert_int_equal(s.mode, i ? S_IFLNK : S_IFDIR | 0750);
                assert_string_equal(s.content, i ? "to" : "");
                side_drop_fds(&f->launcher);
                send_exited(f, i ? "c1" : "c0", exit_3);
                wait_exits(f, (int)i + 1);
                c->engine->ops->remove(c);
                side_expect(f, &f->launcher, LAUNCH_REMOVE);
        }
}

/* ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const struct engine_copy_limits bounds = { 1000, 10, 5 * NS_PER_S };

static int copy(struct engine_container *c, const char *path, struct answer *a)
{
        auto_fd fd = memfd_create("copy", MFD_CLOEXEC);

        return c->engine->ops->copy_out(c, path, &bounds, fd, on_done, a, NULL);
}

static void expect_copy(struct fixture *f, const char *path)
{
        const struct launch_copy *m = (const void *)f->launcher.buf;

        side_expect(f, &f->launcher, LAUNCH_COPY_OUT);
        assert_int_equal(f->launcher.len, sizeof(*m) + m->path_len);
        assert_int_equal(m->path_len, strlen(path));
        assert_memory_equal(m + 1, path, m->path_len);
        assert_int_equal(f->launcher.n_fds, 1);
        assert_int_equal(m->max_bytes, 1000);
        assert_int_equal(m->max_entries, 10);
        assert_int_equal(m->timeout_ms, 5000);
        side_drop_fds(&f->launcher);
}

static void answer_copy(struct fixture *f, uint32_t seq, int error)
{
        struct launch_refused m = { .h = { .op = LAUNCH_REFUSED, .seq = seq }, .error = error, .text = "so it is" };

        if (error)
                side_send(&f->launcher, &m, sizeof(m), NULL, 0);
        else
                launcher_send_op(f, LAUNCH_DONE, seq);
}

/* Four at once, the others in turn; the answers are those of the launcher. */
static void test_copies(void **state)
{
        struct fixture *f = *state;
        const struct engine_copy_limits none = { 0, 10, NS_PER_S };
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c = create(f, &spec);
        struct answer a[LAUNCH_COPIES_MAX + 2] = { { .calls = 0 } };
        uint32_t seqs[LAUNCH_COPIES_MAX];
        char path[] = "p0";

        assert_int_equal(copy(c, "x", &a[0]), -ESRCH); /* not started */
        assert_int_equal(f->engine->ops->start(c, NULL), 0);
        (void)expect_start(f);
        side_drop_fds(&f->launcher);
        assert_int_equal(c->engine->ops->copy_out(c, "x", &none, 0, on_done, a, NULL), -EINVAL);
        assert_int_equal(copy(c, "/abs", &a[0]), 0);
        for (size_t i = 1; i < ARRAY_LEN(a); i++) {
                path[1] = (char)('0' + i);
                assert_int_equal(copy(c, path, &a[i]), 0);
        }
        expect_copy(f, "/abs");
        seqs[0] = last_seq(f);
        for (size_t i = 1; i < LAUNCH_COPIES_MAX; i++) {
                char want[] = "/srv/p0";

                want[6] = (char)('0' + i);
                expect_copy(f, want);
                seqs[i] = last_seq(f);
        }
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_false(side_poll(&f->launcher));
        answer_copy(f, seqs[1], ENOENT);
        wait_answer(f, &a[1], 1);
        assert_int_equal(a[1].r, -ENOENT);
        expect_copy(f, "/srv/p4");
        answer_copy(f, seqs[0], 0);
        wait_answer(f, &a[0], 1);
        assert_int_equal(a[0].r, 0);
        expect_copy(f, "/srv/p5");
        answer_copy(f, last_seq(f), EFBIG);
        wait_answer(f, &a[5], 1);
        assert_int_equal(a[5].r, -EFBIG);
        assert_int_equal(a[2].calls + a[3].calls + a[4].calls, 0); /* teardown forgets them */
}

/* What waits for a container that is removed is told so later; with the launcher all that runs is lost. */
static void test_copies_lost(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct engine_container *c = create(f, &spec);
        struct answer a[LAUNCH_COPIES_MAX + 1] = { { .calls = 0 } };

        assert_int_equal(f->engine->ops->start(c, NULL), 0);
        (void)expect_start(f);
        side_drop_fds(&f->launcher);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
                assert_int_equal(copy(c, "/x", &a[i]), 0);
        for (size_t i = 0; i < LAUNCH_COPIES_MAX; i++)
                expect_copy(f, "/x");
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        c->engine->ops->remove(c);
        assert_int_equal(a[LAUNCH_COPIES_MAX].calls, 0);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        side_hang_up(&f->launcher);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
                wait_answer(f, &a[i], 1);
        assert_int_equal(a[0].r, -ENOTCONN);
        assert_true(a[LAUNCH_COPIES_MAX].r == -ESRCH);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_live, setup_started, live_done),
                cmocka_unit_test_setup_teardown(test_live_much, setup_started, live_done),
                cmocka_unit_test_setup_teardown(test_pause, setup_started, live_done),
                cmocka_unit_test_setup_teardown(test_live_removed, setup_started, live_done),
                cmocka_unit_test_setup_teardown(test_stdin, setup_started, live_done),
                cmocka_unit_test_setup_teardown(test_secrets, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_bad_specs, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_kinds, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_copies, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_copies_lost, setup_started, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
