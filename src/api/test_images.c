/* Images over the API. */

#include "api/test_fixture.h"

static void test_images(void **state)
{
        struct fixture *f = *state;
        auto_json list = get(f, "/v1/images", 200);
        auto_json one = get(f, "/v1/images/busybox:demo", 200);
        auto_json named = get(f, "/v1/images/docker.io/library/busybox:demo", 200);
        auto_json encoded = get(f, "/v1/images/docker.io%2Flibrary%2fbusybox%3Ademo", 200);
        auto_json none = get(f, "/v1/images/none", 404);
        auto_json bad = get(f, "/v1/images/a%21", 400);
        auto_json gone = ask(f->client, "DELETE", "/v1/images/busybox:demo", NULL, NULL, NULL, 200);
        auto_json busy = ask(f->client, "DELETE", "/v1/images/a/b:busy", NULL, NULL, NULL, 409);
        auto_json absent = ask(f->client, "DELETE", "/v1/images/none", NULL, NULL, NULL, 404);

        assert_int_equal(json_array_size(json_object_get(list, "images")), 1);
        assert_string_equal(text_of(one, "digest"), "sha256:1234");
        assert_string_equal(json_string_value(json_array_get(json_object_get(one, "layers"), 0)), "sha256:ab");
        assert_true(json_equal(one, named) && json_equal(one, encoded));
        assert_problem(none, "image_not_found", 404);
        assert_problem(bad, "bad_request", 400);
        assert_string_equal(text_of(gone, "removed"), "busybox:demo");
        assert_problem(busy, "image_in_use", 409);
        assert_problem(absent, "image_not_found", 404);
}

static void test_uploads(void **state)
{
        static const char tar[] = "application/x-tar";
        struct fixture *f = *state;
        auto_free char *large = calloc(1, 3000001);
        auto_json import = ask(f->client, "POST", "/v1/images/import?ref=a:b&change=CMD%20true&change=ENV%20A=b", NULL,
                               tar, "tar", 201);
        auto_json load = ask(f->client, "POST", "/v1/images/load", NULL, NULL, "tar", 201);
        auto_json broken = ask(f->client, "POST", "/v1/images/load", NULL, tar, "broken", 400);
        auto_json no_ref = ask(f->client, "POST", "/v1/images/import", NULL, tar, "tar", 400);
        auto_json bad_ref = ask(f->client, "POST", "/v1/images/import?ref=a%21", NULL, tar, "tar", 400);
        auto_json form = ask(f->client, "POST", "/v1/images/load", NULL, "text/plain", "tar", 415);
        auto_json full = NULL;

        memset(large, 'x', 3000000);
        full = ask(f->client, "POST", "/v1/images/load", NULL, tar, large, 507);
        assert_string_equal(text_of(json_array_get(json_object_get(import, "images"), 0), "digest"), "sha256:1234");
        assert_string_equal(text_of(json_array_get(json_object_get(load, "images"), 0), "digest"), "sha256:1234");
        assert_problem(broken, "bad_archive", 400);
        assert_problem(no_ref, "bad_request", 400);
        assert_problem(bad_ref, "bad_request", 400);
        assert_problem(form, "unsupported_media_type", 415);
        assert_problem(full, "no_space", 507);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_images, setup, teardown),
                cmocka_unit_test_setup_teardown(test_uploads, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
