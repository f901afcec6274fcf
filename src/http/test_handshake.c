#include "http/handshake.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="

/* RFC 6455 section 1.3; the other is of two SHA-1 blocks, as all are. */
static void test_accept(void **state)
{
        char out[HTTP_ACCEPT_MAX];

        (void)state;
        http_handshake_accept(KEY, out);
        assert_string_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        http_handshake_accept("x3JJHMbDL1EzLkh9GBhXDw==", out);
        assert_string_equal(out, "HSmrc0sMlYUkAGmm5OPpG2HaGWk=");
}

static void test_lists(void **state)
{
        (void)state;
        assert_true(http_list_has("keep-alive, Upgrade", "upgrade"));
        assert_true(http_list_has("upgrade", "upgrade"));
        assert_true(http_list_has(" ,, UPGRADE\t,x", "upgrade"));
        assert_false(http_list_has("upgraded", "upgrade"));
        assert_false(http_list_has("keep-alive", "upgrade"));
        assert_false(http_list_has("", "upgrade"));
        assert_false(http_list_has(NULL, "upgrade"));
}

static int check(struct http_handshake h)
{
        const char *why = NULL;
        int status = http_handshake_check(&h, &why);

        assert_true(status == 0 || why);
        return status;
}

static void test_requests(void **state)
{
        const struct http_handshake good = {
                .method = "GET",
                .upgrade = "websocket",
                .connection = "keep-alive, Upgrade",
                .key = KEY,
                .version = "13",
                .host = "mayfly.example:6293",
        };
        struct http_handshake h = good;

        (void)state;
        assert_int_equal(check(h), 0);
#define BAD(member, value, status)                                                                                     \
        h = good;                                                                                                      \
        h.member = value;                                                                                              \
        assert_int_equal(check(h), status)
        BAD(http_1_0, true, 426);
        BAD(upgrade, NULL, 426);
        BAD(upgrade, "h2c", 426);
        BAD(connection, "close", 426);
        BAD(version, NULL, 426);
        BAD(version, "8", 426);
        BAD(method, "POST", 400);
        BAD(key, NULL, 400);
        BAD(key, "", 400);
        BAD(key, "dGhlIHNhbXBsZSBub25jZ===", 400);
        BAD(key, "dGhlIHNhbXBsZSBub25jZSBhYQ==", 400);
        BAD(origin, "https://evil.example", 403);
        BAD(origin, "null", 403);
        BAD(origin, "", 403);
        BAD(origin, "http://", 403);
        BAD(origin, "https://mayfly.example", 403);
        BAD(origin, "https://mayfly.example:6293.evil.example", 403);
        BAD(origin, "file://mayfly.example:6293", 403);
        BAD(origin, "https://mayfly.example:6293", 0);
        BAD(origin, "HTTP://Mayfly.Example:6293", 0);
#undef BAD
        h = good;
        h.origin = "https://a";
        h.host = "a:443";
        assert_int_equal(check(h), 0);
        h.origin = "http://a";
        assert_int_equal(check(h), 403);
        h.host = NULL;
        assert_int_equal(check(h), 403);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_accept),
                cmocka_unit_test(test_lists),
                cmocka_unit_test(test_requests),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
