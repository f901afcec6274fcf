/* Streams of a task while it runs, and what is brought back after it. */

#include "base/tar.h"
#include "task/test_fake.h"

struct heard {
        unsigned started, ready, pieces;
        char out[64];
};

static void on_live_output(struct task *t, enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct heard *h = data;

        h->pieces++;
        (void)snprintf(h->out, sizeof(h->out), "%d:%.*s", (int)stream, (int)len, (const char *)bytes);
        task_pause(t, stream, true);
}

static void on_live_started(struct task *t, void *data)
{
        (void)t;
        ((struct heard *)data)->started++;
}

static void on_live_ready(struct task *t, void *data)
{
        (void)t;
        ((struct heard *)data)->ready++;
}

static struct task *submit_live(struct fixture *f, struct wire_task_request q, struct heard *h, struct result *r)
{
        const struct task_live live = {
                .output = on_live_output, .started = on_live_started, .stdin_ready = on_live_ready, .data = h
        };
        const struct task_submit how = {
                .owner = "alice", .cancel_when_alone = true, .unlimited = true, .live = &live
        };
        struct task *t = NULL;

        assert_int_equal(submit_how(f, q, &how, r, &t), 0);
        return t;
}

static void test_live(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct heard h = { .pieces = 0 };
        struct fake_container *c;
        static char big[1 << 20];
        struct task *t;
        ssize_t n, taken;

        q.limits.timeout_ns = 0;
        t = submit_live(f, q, &h, &r);
        assert_int_equal(task_stdin_write(t, "x", 1), 0);
        c = running(f, 1);
        assert_true(f->fake.live);
        assert_int_equal(h.started, 1);
        assert_int_equal(h.ready, 1);
        assert_true(c->stdin_fd >= 0);
        c->base.events->data(&c->base, ENGINE_STDERR, "oops", 4, c->base.data);
        assert_string_equal(h.out, "1:oops");
        assert_true(c->paused[1] && !c->paused[0]);
        task_pause(t, ENGINE_STDERR, false);
        assert_false(c->paused[1]);
        /* As much as the pipe holds, and word when there is room again. */
        taken = task_stdin_write(t, big, sizeof(big));
        assert_true(taken > 0 && (size_t)taken < sizeof(big));
        turn(f);
        assert_int_equal(h.ready, 1);
        while (taken > 0 && (n = read(c->stdin_fd, big, sizeof(big))) > 0)
                taken -= n;
        for (int i = 0; i < 100 && h.ready < 2; i++)
                turn(f);
        assert_int_equal(h.ready, 2);
        assert_int_equal(task_stdin_write(t, "end", 3), 3);
        task_stdin_end(t);
        assert_int_equal(task_stdin_write(t, "x", 1), -EINVAL);
        assert_int_equal(read(c->stdin_fd, big, sizeof(big)), 3);
        assert_int_equal(read(c->stdin_fd, big, sizeof(big)), 0);
        end(c, exit_0);
        assert_int_equal(r.calls, 1);
        wait_stored(f);
}

/* Nobody reads: what blocks the program goes, and then the program. */
static void test_live_hang_up(void **state)
{
        struct fixture *f = *state;
        struct heard h = { .pieces = 0 };
        struct fake_container *c;
        struct task *t;

        /* The waiter and the streams have the same data. */
        t = submit_live(f, request(), &h, (struct result *)(void *)&h);
        c = running(f, 1);
        c->base.events->data(&c->base, ENGINE_STDOUT, "x", 1, c->base.data);
        assert_true(c->paused[0]);
        task_forget(t, &h);
        assert_false(c->paused[0]);
        assert_int_equal(c->signals[0], SIGKILL);
        c->base.events->data(&c->base, ENGINE_STDOUT, "y", 1, c->base.data);
        assert_int_equal(h.pieces, 1);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        wait_stored(f);
}

static void test_live_stdin_ends_early(void **state)
{
        struct fixture *f = *state;
        struct heard h = { .pieces = 0 };
        struct task *t = submit_live(f, request(), &h, NULL);
        struct fake_container *c;
        char byte;

        task_stdin_end(t);
        c = running(f, 1);
        assert_int_equal(read(c->stdin_fd, &byte, 1), 0);
        end(c, exit_0);
        wait_stored(f);
}

struct followed {
        unsigned calls;
        bool ended;
        char text[64];
};

static void on_more(struct task *t, bool ended, void *data)
{
        struct followed *f = data;
        size_t len = strlen(f->text);
        ssize_t n = task_read_output(t, ENGINE_STDOUT, len, f->text + len, sizeof(f->text) - 1 - len);

        assert_false(f->ended);
        assert_true(n >= 0);
        f->text[len + (size_t)n] = '\0';
        f->calls++;
        f->ended = ended;
}

static void test_follow(void **state)
{
        struct fixture *f = *state;
        struct followed a = { .calls = 0 }, b = { .calls = 0 }, late = { .calls = 0 };
        struct task *t = submit(f, request(), NULL);
        struct fake_container *c;

        assert_int_equal(task_follow(t, &(struct task_follower){ on_more, &a }, NULL), 0);
        assert_int_equal(task_follow(t, &(struct task_follower){ on_more, &b }, NULL), 0);
        c = running(f, 1);
        say(c, ENGINE_STDOUT, "one ");
        assert_string_equal(a.text, "");
        turn(f);
        assert_string_equal(a.text, "one ");
        assert_string_equal(b.text, "one ");
        task_unfollow(t, &b);
        say(c, ENGINE_STDOUT, "two");
        end(c, exit_0);
        assert_int_equal(task_follow(t, &(struct task_follower){ on_more, &late }, NULL), 0);
        wait_stored(f);
        assert_string_equal(a.text, "one two");
        assert_true(a.ended);
        assert_string_equal(b.text, "one ");
        assert_false(b.ended);
        assert_string_equal(late.text, "one two");
        assert_true(late.ended);
}

static void test_cpu_time(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct fake_container *c;

        q.limits.cpu_time_ns = 20 * (int64_t)NS_PER_MS;
        (void)submit(f, q, &r);
        c = running(f, 1);
        while (c->n_stats < 3)
                turn(f);
        assert_int_equal(c->n_signals, 0);
        c->cpu_ns = 20 * NS_PER_MS;
        while (c->n_signals == 0)
                turn(f);
        assert_int_equal(c->signals[0], SIGKILL);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        assert_int_equal(r.t.reason, WIRE_REASON_CPU_TIME);
        assert_int_equal(r.t.exit_code, 137);
}

static void test_signal(void **state)
{
        struct fixture *f = *state;
        struct task *t = submit(f, request(), NULL);
        struct fake_container *c;

        assert_int_equal(task_signal(t, SIGUSR1, NULL), -ESRCH);
        c = running(f, 1);
        assert_int_equal(task_signal(t, SIGUSR1, NULL), 0);
        assert_int_equal(c->signals[0], SIGUSR1);
        end(c, exit_0);
        assert_int_equal(task_signal(t, SIGUSR1, NULL), -ESRCH);
}

static int to_fd(const void *bytes, size_t len, void *data)
{
        return fd_write_all(*(int *)data, bytes, len);
}

static void answer_copy(struct fake_container *c, int r, enum tar_kind kind, const char *content)
{
        struct tar_writer w = { .fn = to_fd, .data = &c->copy_fd };
        const struct tar_member m = {
                .kind = kind,
                .path = "x",
                .target = kind == TAR_KIND_SYMLINK ? content : "",
                .mode = 0640,
                .size = kind == TAR_KIND_FILE ? strlen(content) : 0,
        };
        engine_done_fn fn = c->copy_fn;

        assert_non_null(fn);
        c->copy_fn = NULL;
        if (r == 0) {
                assert_int_equal(tar_write_member(&w, &m), 0);
                if (kind == TAR_KIND_FILE)
                        assert_int_equal(tar_write_content(&w, content, strlen(content)), 0);
                assert_int_equal(tar_write_end(&w), 0);
        }
        fn(r, NULL, c->copy_data);
}

static char outputs_text[8192];

static void on_ended_with_outputs(struct task *t, const struct wire_task *w, void *data)
{
        (void)t;
        ((struct result *)data)->calls++;
        (void)snprintf(outputs_text, sizeof(outputs_text), "%s", w->outputs_text->data);
}

static void test_outputs(void **state)
{
        static const char *const paths[] = { "f", "l", "d", "none", "p", "big" };
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        const struct task_submit how = { .owner = "alice" };
        const struct task_waiter waiter = { on_ended_with_outputs, &r };
        struct fake_container *c;
        struct task *t;

        for (size_t i = 0; i < ARRAY_LEN(paths); i++)
                assert_int_equal(strv_add(&q.outputs, paths[i]), 0);
        assert_int_equal(tasks_submit(f->ts, &q, &how, &waiter, &t, NULL), 0);
        c = running(f, 1);
        assert_true(f->fake.keep_root);
        end(c, exit_0);
        assert_int_equal(r.calls, 0);
        assert_string_equal(c->copy_path, "f");
        answer_copy(c, 0, TAR_KIND_FILE, "hello");
        answer_copy(c, 0, TAR_KIND_SYMLINK, "/etc");
        /* Too late for a signal, and for a cancellation. */
        task_cancel(t);
        assert_int_equal(c->n_signals, 0);
        answer_copy(c, 0, TAR_KIND_DIRECTORY, "");
        assert_string_equal(c->copy_path, "none");
        answer_copy(c, -ENOENT, TAR_KIND_FILE, "");
        answer_copy(c, 0, TAR_KIND_FIFO, "");
        assert_int_equal(r.calls, 0);
        answer_copy(c, -EFBIG, TAR_KIND_FILE, "");
        assert_int_equal(r.calls, 1);
        assert_non_null(strstr(outputs_text,
                               "{\"path\":\"f\",\"type\":\"file\",\"mode\":\"0640\",\"size\":5,\"encoding\":"
                               "\"utf-8\",\"content\":\"hello\"}"));
        assert_non_null(strstr(outputs_text, "{\"path\":\"l\",\"type\":\"symlink\""));
        assert_non_null(strstr(outputs_text, "{\"path\":\"d\",\"type\":\"directory\""));
        assert_non_null(strstr(outputs_text, "{\"path\":\"none\",\"error\":\"not_found\"}"));
        assert_non_null(strstr(outputs_text, "{\"path\":\"p\",\"error\":\"not_supported\"}"));
        assert_non_null(strstr(outputs_text, "{\"path\":\"big\",\"error\":\"too_large\"}"));
        wait_stored(f);
}

static void test_files_of_an_archive(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        int fd = memfd_create("tar", MFD_CLOEXEC);
        struct tar_writer w = { .fn = to_fd, .data = &fd };

        assert_int_equal(tar_write_member(&w, &(struct tar_member){ TAR_KIND_FILE, "a/b", "", .mode = 0644 }), 0);
        assert_int_equal(tar_write_end(&w), 0);
        q.files = calloc(2, sizeof(*q.files));
        q.n_files = 2;
        q.files[0] = (struct wire_file){ .path = strdup("/srv"), .tar = true, .len = (size_t)lseek(fd, 0, SEEK_END) };
        q.files[0].content = malloc(q.files[0].len);
        assert_int_equal(pread(fd, q.files[0].content, q.files[0].len, 0), q.files[0].len);
        q.files[1] = (struct wire_file){ .path = strdup("c"), .content = strdup("x"), .len = 1 };
        fd_close(fd);
        (void)submit(f, q, NULL);
        end(running(f, 1), exit_0);
        assert_int_equal(f->fake.n_files, 2);
        assert_string_equal(f->fake.file_paths[0], "/srv/a/b");
        assert_string_equal(f->fake.file_paths[1], "c");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_live, setup, teardown),
                cmocka_unit_test_setup_teardown(test_live_hang_up, setup, teardown),
                cmocka_unit_test_setup_teardown(test_live_stdin_ends_early, setup, teardown),
                cmocka_unit_test_setup_teardown(test_follow, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cpu_time, setup, teardown),
                cmocka_unit_test_setup_teardown(test_signal, setup, teardown),
                cmocka_unit_test_setup_teardown(test_outputs, setup, teardown),
                cmocka_unit_test_setup_teardown(test_files_of_an_archive, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
