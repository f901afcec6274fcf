/* Tasks over the API: what runs, what is refused, what becomes of them. */

#include "api/test_fixture.h"

static void test_run(void **state)
{
        auto_json v = run(*state, "{\"image\":\"busybox:demo\",\"cmd\":[\"cat\"],\"stdin\":\"hi\",\"user\":\"nobody\"}",
                          201);
        auto_free char *path = str_printf("/v1/tasks/%s", text_of(v, "id"));
        auto_json again = NULL;

        assert_string_equal(text_of(v, "status"), "exited");
        assert_string_equal(text_of(v, "stdout"), "hi");
        assert_string_equal(text_of(v, "engine"), "fake");
        assert_string_equal(text_of(json_object_get(v, "image"), "digest"), "sha256:1234");
        again = get(*state, path, 200);
        assert_true(json_equal(v, again));
}

static void test_large_streams(void **state)
{
        const size_t size = 1 << 20;
        auto_free char *body = malloc(2 * size);
        auto_json v = NULL;
        size_t len;

        len = (size_t)snprintf(body, 100, "{\"image\":\"b\",\"cmd\":[\"cat\"],\"encoding\":\"base64\",\"stdin\":\"");
        memset(body + len, 'x', size);
        memcpy(body + len + size, "\"}", 3);
        v = run(*state, body, 201);
        assert_int_equal(json_string_length(json_object_get(v, "stdout")), (size + 2) / 3 * 4);
}

/* What is little as text and would be much as values. */
static void test_many_values(void **state)
{
        auto_str body = STR_INIT;
        auto_json v = NULL;

        assert_int_equal(str_adds(&body, "{\"image\":\"b\",\"cmd\":[\"cat\"],\"outputs\":[\"\""), 0);
        for (int i = 0; i < WIRE_VALUES_MAX; i++)
                assert_int_equal(str_adds(&body, ",\"sixteen bytes, and more of them\""), 0);
        assert_int_equal(str_adds(&body, "]}"), 0);
        v = run(*state, body.data, 400);
        assert_problem(v, "bad_request", 400);
        assert_non_null(strstr(text_of(json_array_get(json_object_get(v, "errors"), 0), "detail"), "values"));
}

static void test_outcomes(void **state)
{
        static const struct {
                const char *body, *reason;
                int status;
        } rows[] = {
                { "{\"image\":\"none\"}", "image_not_found", 404 },
                { "{\"image\":\"theirs\"}", "image_unauthorized", 403 },
                { "{\"image\":\"far\"}", "registry_error", 502 },
                { "{\"image\":\"busy\"}", "registry_busy", 503 },
                { "{\"image\":\"wrong\"}", "image_invalid", 502 },
                { "{\"image\":\"strange\"}", "image_unsupported", 422 },
                { "{\"image\":\"unsigned\"}", "image_untrusted", 403 },
                { "{\"image\":\"rotten\"}", "image_broken", 500 },
                { "{\"image\":\"large\"}", "no_space", 507 },
                { "{\"image\":\"b\",\"cmd\":[\"uncreatable\"]}", "start_error", 500 },
                { "{\"image\":\"b\",\"cmd\":[\"broken\"]}", "start_error", 500 },
        };
        auto_json v = run(*state, "{\"image\":\"b\",\"cmd\":[\"missing\"]}", 201);

        assert_string_equal(text_of(v, "reason"), "command_not_found");
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                auto_json p = run(*state, rows[i].body, rows[i].status);
                auto_free char *path = str_printf("/v1/tasks/%s", text_of(p, "task_id"));
                auto_json kept = get(*state, path, 200);

                assert_problem(p, rows[i].reason, rows[i].status);
                assert_string_equal(text_of(kept, "reason"), rows[i].reason);
                assert_string_equal(text_of(kept, "status"), "failed");
        }
}

static void test_bad_bodies(void **state)
{
        static const struct {
                const char *body, *pointer;
        } cases[] = {
                { "{", "" },
                { "", "" },
                { "{\"image\":\"A\"}", "/image" },
                { "{\"image\":\"b\",\"tty\":true}", "/tty" },
                { "{\"image\":\"busybox:demo\",\"user\":\"ghost\"}", "/user" },
        };

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_json v = run(*state, cases[i].body, 400);

                assert_problem(v, "bad_request", 400);
                assert_string_equal(text_of(json_array_get(json_object_get(v, "errors"), 0), "pointer"),
                                    cases[i].pointer);
        }
}

static void test_idempotency(void **state)
{
        static const char body[] = "{\"image\":\"b\",\"cmd\":[\"echo\",\"x\"],\"encoding\":\"base64\"}";
        struct fixture *f = *state;
        auto_json first = ask(f->client, "POST", "/v1/tasks", "k", "application/json", body, 201);
        auto_json again = ask(f->client, "POST", "/v1/tasks", "k", "application/json", body, 201);
        auto_json other = ask(f->client, "POST", "/v1/tasks", "k", "application/json", "{\"image\":\"b\"}", 422);
        auto_json failed = ask(f->client, "POST", "/v1/tasks", "n", "application/json", "{\"image\":\"none\"}", 404);
        auto_json failed_again = ask(f->client, "POST", "/v1/tasks", "n", "application/json", "{\"image\":\"none\"}",
                                     404);
        auto_json bad = NULL;

        assert_true(json_equal(first, again));
        assert_string_equal(text_of(first, "stderr"), "eA==");
        assert_problem(other, "idempotency_mismatch", 422);
        assert_problem(failed_again, "image_not_found", 404);
        assert_string_equal(text_of(failed, "task_id"), text_of(failed_again, "task_id"));
        bad = ask(f->client, "POST", "/v1/tasks", "a b", "application/json", body, 400);
        assert_problem(bad, "bad_request", 400);
        assert_int_equal(atomic_load(&f->engine.started), 1);
}

static void test_list(void **state)
{
        auto_json one = run(*state, "{\"image\":\"busybox:demo\"}", 201);
        auto_json two = run(*state, "{\"image\":\"none\"}", 404);
        auto_json three = run(*state, "{\"image\":\"busybox:demo\"}", 201);
        auto_json page = get(*state, "/v1/tasks?limit=2", 200);
        auto_free char *next = str_printf("/v1/tasks?limit=2&cursor=%s", text_of(page, "next_cursor"));
        auto_json rest = get(*state, next, 200);
        auto_json failed = get(*state, "/v1/tasks?status=failed", 200);
        auto_json of_image = get(*state, "/v1/tasks?image=busybox:demo&since=2020-01-01T00:00:00Z", 200);
        auto_json old = get(*state, "/v1/tasks?until=1000", 200);
        const json_t *list = json_object_get(page, "tasks");

        assert_int_equal(json_array_size(list), 2);
        assert_string_equal(text_of(json_array_get(list, 0), "id"), text_of(three, "id"));
        assert_string_equal(text_of(json_array_get(list, 1), "id"), text_of(two, "task_id"));
        assert_null(json_object_get(json_array_get(list, 0), "stdout"));
        list = json_object_get(rest, "tasks");
        assert_int_equal(json_array_size(list), 1);
        assert_string_equal(text_of(json_array_get(list, 0), "id"), text_of(one, "id"));
        assert_true(json_is_null(json_object_get(rest, "next_cursor")));
        assert_int_equal(json_array_size(json_object_get(failed, "tasks")), 1);
        assert_int_equal(json_array_size(json_object_get(of_image, "tasks")), 2);
        assert_int_equal(json_array_size(json_object_get(old, "tasks")), 0);
}

static void test_bad_queries(void **state)
{
        static const char *const paths[] = {
                "/v1/tasks?limit=0",    "/v1/tasks?limit=1001",   "/v1/tasks?limit=x",  "/v1/tasks?status=dead",
                "/v1/tasks?since=soon", "/v1/tasks?until=2026-1", "/v1/tasks?cursor=x", "/v1/tasks?image=A",
                "/v1/tasks?colour=red", "/v1/version?a",          "/v1/health?full=2",  "/v1/images?all=1",
        };

        for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
                auto_json v = get(*state, paths[i], 400);

                assert_problem(v, "bad_request", 400);
        }
}

static void test_hang_up_cancels(void **state)
{
        struct fixture *f = *state;
        auto_fd fd = start_task(f, NULL);
        auto_json running = wait_count(f, "running", 1);
        auto_json killed = NULL;
        const json_t *t = json_array_get(json_object_get(running, "tasks"), 0);
        auto_free char *path = str_printf("/v1/tasks/%s", text_of(t, "id"));
        auto_json live = get(f, path, 200);

        assert_string_equal(text_of(live, "status"), "running");
        assert_true(json_is_null(json_object_get(live, "exit_code")));
        fd_replace(&fd, -EBADF);
        killed = wait_count(f, "killed", 1);
        t = json_array_get(json_object_get(killed, "tasks"), 0);
        assert_string_equal(text_of(t, "reason"), "cancelled");
        assert_string_equal(text_of(t, "signal"), "SIGKILL");
}

/* One of two that wait for the same task hangs up: it runs on. */
static void test_join(void **state)
{
        struct fixture *f = *state;
        auto_fd first = start_task(f, "same"), second = start_task(f, "same"), third = -EBADF;

        wait_for(f, "running", 1);
        third = start_task(f, "other");
        wait_for(f, "running", 2);
        fd_replace(&first, -EBADF);
        fd_replace(&third, -EBADF);
        wait_for(f, "killed", 1);
        wait_for(f, "running", 1);
        assert_int_equal(atomic_load(&f->engine.started), 2);
        fd_replace(&second, -EBADF);
        wait_for(f, "killed", 2);
}

static void test_queue_full(void **state)
{
        struct fixture *f = *state;
        auto_json v = NULL;
        auto_json of_image = NULL;
        int fds[8];

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fds[i] = start_task(f, NULL);
        wait_for(f, "running", 4);
        wait_for(f, "queued", 4);
        v = run(f, "{\"image\":\"b\"}", 429);
        assert_problem(v, "queue_full", 429);
        /* Those that have no image yet match by the reference that was given. */
        of_image = get(f, "/v1/tasks?status=queued&image=docker.io/library/b", 200);
        assert_int_equal(json_array_size(json_object_get(of_image, "tasks")), 4);
        json_decref(v);
        v = run(f, "{\"image\":\"b\",\"limits\":{\"memory\":\"16t\"}}", 400);
        assert_problem(v, "bad_request", 400);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
}

static void test_queue_timeout(void **state)
{
        struct fixture *f = *state;
        auto_json v = NULL;
        int fds[4];

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fds[i] = start_task(f, NULL);
        wait_for(f, "running", 4);
        v = run(f, "{\"image\":\"b\",\"limits\":{\"queue_timeout\":\"1ms\"}}", 503);
        assert_problem(v, "queue_timeout", 503);
        assert_true(*text_of(v, "task_id"));
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
}

static void test_drain(void **state)
{
        struct fixture *f = *state;
        auto_json before = get(f, "/healthz", 200);
        auto_json after = NULL;
        auto_json v = NULL;

        assert_string_equal(text_of(before, "status"), "ok");
        atomic_store(&f->drain, 1);
        while (atomic_load(&f->drain))
                (void)usleep(1000);
        after = get(f, "/healthz", 503);
        assert_string_equal(text_of(after, "status"), "draining");
        v = run(f, "{\"image\":\"b\"}", 503);
        assert_problem(v, "draining", 503);
}

/* Those who wait when the daemon stops are no clients that hang up: teardown finds their tasks running. */
static void test_stop_with_tasks(void **state)
{
        struct fixture *f = *state;
        auto_fd fd = start_task(f, NULL);
        char c;

        wait_for(f, "running", 1);
        atomic_store(&f->stop, 1);
        assert_int_equal(pthread_join(f->thread, NULL), 0);
        api_free(f->api);
        f->api = NULL;
        assert_int_equal(recv(fd, &c, 1, 0), 0);
        assert_int_equal(atomic_load(&f->engine.live), 1);
        for (int i = 0; i < 5; i++)
                (void)loop_turn(f->loop, 1, NULL);
        assert_int_equal(tasks_live(f->tasks), 1);
        atomic_store(&f->stop, 0);
        assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_run, setup, teardown),
                cmocka_unit_test_setup_teardown(test_large_streams, setup, teardown),
                cmocka_unit_test_setup_teardown(test_many_values, setup, teardown),
                cmocka_unit_test_setup_teardown(test_outcomes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_bodies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_idempotency, setup, teardown),
                cmocka_unit_test_setup_teardown(test_list, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_queries, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hang_up_cancels, setup, teardown),
                cmocka_unit_test_setup_teardown(test_join, setup, teardown),
                cmocka_unit_test_setup_teardown(test_queue_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_queue_timeout, setup, teardown),
                cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stop_with_tasks, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
