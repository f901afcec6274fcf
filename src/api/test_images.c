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
        auto_json roomed = NULL;

        memset(large, 'x', 3000000);
        full = ask(f->client, "POST", "/v1/images/load", NULL, tar, large, 507);
        atomic_store(&rooms, 1);
        roomed = ask(f->client, "POST", "/v1/images/load", NULL, tar, large, 201);
        assert_int_equal(atomic_load(&rooms), 0);
        assert_int_equal(json_array_size(json_object_get(roomed, "images")), 1);
        assert_string_equal(text_of(json_array_get(json_object_get(import, "images"), 0), "digest"), "sha256:1234");
        assert_string_equal(text_of(json_array_get(json_object_get(load, "images"), 0), "digest"), "sha256:1234");
        assert_problem(broken, "bad_archive", 400);
        assert_problem(no_ref, "bad_request", 400);
        assert_problem(bad_ref, "bad_request", 400);
        assert_problem(form, "unsupported_media_type", 415);
        assert_problem(full, "no_space", 507);
}

static int save(struct fixture *f, const char *path, struct http_answer *answer)
{
        const struct http_client_request request = { .method = "GET", .path = path, .body_fd = -EBADF };

        return http_client_do(f->client, &request, answer, NULL);
}

static void test_saves(void **state)
{
        struct fixture *f = *state;
        auto_json none = get(f, "/v1/images/save?ref=none:1", 404);
        auto_json nothing = get(f, "/v1/images/save", 400);
        auto_json form = get(f, "/v1/images/save?ref=busybox:demo&format=zip", 400);
        auto_json damaged = get(f, "/v1/images/save?ref=damaged:1", 500);
        auto_answer answer = { .status = 0 }, cut = { .status = 0 };

        assert_problem(none, "image_not_found", 404);
        assert_problem(nothing, "bad_request", 400);
        assert_problem(form, "bad_request", 400);
        assert_problem(damaged, "image_broken", 500);
        assert_int_equal(save(f, "/v1/images/save?ref=busybox:demo&ref=a:b&format=oci", &answer), 0);
        assert_int_equal(answer.status, 200);
        assert_string_equal(answer.content_type, "application/x-tar");
        assert_int_equal(answer.body.len, SAVED_LEN);
        /* What is damaged never looks whole. */
        assert_true(save(f, "/v1/images/save?ref=broken:1", &cut) < 0);
        for (int i = 0; i < 1000 && atomic_load(&saves) > 0; i++)
                (void)usleep(10000);
        assert_int_equal(atomic_load(&saves), 0);
}

static json_t *post(struct fixture *f, const char *path, int status)
{
        return ask(f->client, "POST", path, NULL, NULL, NULL, status);
}

static void test_tags_and_pins(void **state)
{
        struct fixture *f = *state;
        auto_json tagged = post(f, "/v1/images/tag?ref=busybox:demo&name=busybox:demo", 200);
        auto_json no_name = post(f, "/v1/images/tag?ref=busybox:demo", 400);
        auto_json bad_name = post(f, "/v1/images/tag?ref=busybox:demo&name=a%21", 400);
        auto_json absent = post(f, "/v1/images/tag?ref=none&name=a:b", 404);
        auto_json pinned = post(f, "/v1/images/pin?ref=busybox:demo", 200);
        auto_json unpinned = post(f, "/v1/images/pin?ref=busybox:demo&pinned=false", 200);
        auto_json unclear = post(f, "/v1/images/pin?ref=busybox:demo&pinned=maybe", 400);
        auto_json nothing = post(f, "/v1/images/pin?ref=none", 404);
        auto_json one = get(f, "/v1/images/busybox:demo", 200);

        assert_string_equal(text_of(tagged, "digest"), "sha256:1234");
        assert_problem(no_name, "bad_request", 400);
        assert_problem(bad_name, "bad_request", 400);
        assert_problem(absent, "image_not_found", 404);
        assert_true(json_is_true(json_object_get(pinned, "pinned")));
        assert_true(json_is_false(json_object_get(unpinned, "pinned")));
        assert_problem(unclear, "bad_request", 400);
        assert_problem(nothing, "image_not_found", 404);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(one, "bytes"), "freed")), 16);
        assert_string_equal(text_of(json_array_get(json_object_get(one, "blobs"), 0), "diff_id"), "sha256:ab");
}

/* Who asked does not wait for the answer. */
static void test_gone_clients(void **state)
{
        static const char *const paths[] = {
                "POST /v1/images/tag?ref=busybox:demo&name=busybox:demo",
                "POST /v1/images/pin?ref=busybox:demo",
                "DELETE /v1/images/busybox:demo",
        };
        struct fixture *f = *state;

        atomic_store(&store_delay_ns, NS_PER_S / 5);
        for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
                auto_free char *text = str_printf("%s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", paths[i]);
                auto_fd fd = -EBADF;

                assert_int_equal(fd_connect_unix(f->path, SOCK_STREAM, &fd, NULL), 0);
                assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
                (void)usleep(50000);
        }
        (void)usleep(400000);
        atomic_store(&store_delay_ns, 0);
        json_decref(get(f, "/v1/images/busybox:demo", 200));
}

static void test_prune(void **state)
{
        struct fixture *f = *state;
        auto_json plan = post(f, "/v1/images/prune?unused_for=1h&keep_bytes=10", 200);
        auto_json done = post(f, "/v1/images/prune?dry_run=false&all=1", 200);
        auto_json both = post(f, "/v1/images/prune?dangling=1&all=1", 400);
        auto_json age = post(f, "/v1/images/prune?unused_for=week", 400);
        auto_json bytes = post(f, "/v1/images/prune?keep_bytes=-1", 400);

        assert_true(json_is_true(json_object_get(plan, "dry_run")));
        assert_int_equal(json_integer_value(json_object_get(plan, "bytes")), 16);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(plan, "kept"), "pinned")), 1);
        assert_true(json_is_false(json_object_get(done, "dry_run")));
        assert_string_equal(text_of(json_array_get(json_object_get(done, "images"), 0), "digest"), "sha256:1234");
        assert_problem(both, "bad_request", 400);
        assert_problem(age, "bad_request", 400);
        assert_problem(bytes, "bad_request", 400);
}

static void test_verify(void **state)
{
        struct fixture *f = *state;
        auto_json found = post(f, "/v1/images/verify", 200);
        auto_json repaired = post(f, "/v1/images/verify?repair=true", 200);
        auto_json unclear = post(f, "/v1/images/verify?repair=maybe", 400);
        auto_json health = get(f, "/v1/health", 200);
        const json_t *fault = json_array_get(json_object_get(found, "faults"), 0);

        assert_true(json_is_false(json_object_get(found, "ok")));
        assert_string_equal(text_of(fault, "kind"), "layer");
        assert_string_equal(json_string_value(json_array_get(json_object_get(fault, "images"), 0)), image_name);
        assert_int_equal(json_array_size(json_object_get(found, "repairs")), 1);
        assert_true(json_is_true(json_object_get(repaired, "ok")));
        assert_problem(unclear, "bad_request", 400);
        assert_int_equal(json_array_size(json_object_get(json_object_get(health, "store"), "repairs")), 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_verify, setup, teardown),
                cmocka_unit_test_setup_teardown(test_images, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tags_and_pins, setup, teardown),
                cmocka_unit_test_setup_teardown(test_gone_clients, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
                cmocka_unit_test_setup_teardown(test_uploads, setup, teardown),
                cmocka_unit_test_setup_teardown(test_saves, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
