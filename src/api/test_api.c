/* What the API does with any request. */

#include "api/test_fixture.h"

static void test_health(void **state)
{
        struct fixture *f = *state;
        auto_json quick = get(f, "/v1/health", 200);
        auto_json full = NULL;
        auto_json again = NULL;
        auto_json broken = NULL;

        assert_string_equal(text_of(quick, "status"), "ok");
        assert_true(json_is_null(json_object_get(quick, "task")));
        full = get(f, "/v1/health?full=1", 200);
        assert_string_equal(text_of(json_object_get(full, "task"), "status"), "ok");
        again = get(f, "/v1/health?full=1", 200);
        assert_true(json_equal(full, again));
        assert_int_equal(atomic_load(&f->engine.started), 1);
        atomic_store(&f->engine.broken, EIO);
        broken = get(f, "/v1/health?full=1", 503);
        assert_string_equal(text_of(broken, "status"), "failed");
        assert_string_equal(text_of(json_object_get(broken, "engine"), "detail"), "the launcher does not answer");
}

static void test_health_warns(void **state)
{
        struct fixture *f = *state;
        auto_json calm = get(f, "/v1/health", 200);
        auto_json hindered = NULL;

        assert_int_equal(json_array_size(json_object_get(calm, "warnings")), 0);
        assert_true(json_is_array(json_object_get(calm, "warnings")));
        atomic_store(&f->engine.hindered, 1);
        hindered = get(f, "/v1/health", 200);
        assert_string_equal(text_of(hindered, "status"), "ok");
        assert_string_equal(json_string_value(json_array_get(json_object_get(hindered, "warnings"), 0)),
                            "a firewall drops what tasks send");
}

static void test_health_that_cannot_run(void **state)
{
        struct fixture *f = *state;
        auto_json v = NULL;

        (void)snprintf(f->health_image, sizeof(f->health_image), "none");
        v = get(f, "/v1/health?full=1", 503);
        assert_string_equal(text_of(v, "status"), "failed");
        assert_string_equal(text_of(json_object_get(v, "task"), "status"), "failed");
        assert_string_equal(text_of(json_object_get(v, "task"), "detail"), "there is no such image");
        assert_int_equal(atomic_load(&f->engine.started), 0);
}

static void test_routes(void **state)
{
        struct fixture *f = *state;
        auto_json version = get(f, "/v1/version", 200);
        auto_json none = get(f, "/v2", 404);
        auto_json task = get(f, "/v1/tasks/x", 404);
        auto_json unknown = get(f, "/v1/tasks/00000000000000000000000000", 404);
        auto_json method = ask(f->client, "PUT", "/v1/tasks", NULL, NULL, NULL, 405);
        auto_json word = get(f, "/v1/images/load", 405);
        auto_json type = ask(f->client, "POST", "/v1/tasks", NULL, "application/x-www-form-urlencoded", "{}", 415);
        auto_json head = ask(f->client, "HEAD", "/v1/version", NULL, NULL, NULL, 200);

        assert_string_equal(text_of(version, "name"), "mayfly");
        assert_string_equal(text_of(version, "engine"), "fake");
        assert_string_equal(text_of(none, "request_id"), "mine");
        assert_problem(none, "not_found", 404);
        assert_problem(task, "not_found", 404);
        assert_problem(unknown, "not_found", 404);
        assert_problem(method, "method_not_allowed", 405);
        assert_problem(word, "method_not_allowed", 405);
        assert_problem(type, "unsupported_media_type", 415);
        assert_null(head);
}

static void test_too_large(void **state)
{
        auto_free char *body = malloc(WIRE_BODY_MAX + 2);
        auto_json v = NULL;

        memset(body, ' ', WIRE_BODY_MAX + 1);
        body[WIRE_BODY_MAX + 1] = '\0';
        v = run(*state, body, 413);
        assert_problem(v, "payload_too_large", 413);
        json_decref(v);
        v = ask(((struct fixture *)*state)->client, "GET", "/healthz", NULL, NULL, body, 413);
        assert_problem(v, "payload_too_large", 413);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_health, setup, teardown),
                cmocka_unit_test_setup_teardown(test_health_warns, setup, teardown),
                cmocka_unit_test_setup_teardown(test_health_that_cannot_run, setup, teardown),
                cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
