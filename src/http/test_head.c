#include "http/head.h"

#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_targets(void **state)
{
        static const struct {
                const char *raw, *path;
        } cases[] = {
                { "/", "/" },
                { "*", "*" },
                { "/a/b", "/a/b" },
                { "/a%20b", "/a b" },
                { "/a%2Fb%2fc", "/a%2Fb%2Fc" },
                { "/%41%c3%a4", "/A\xc3\xa4" },
                { "/a+b", "/a+b" },
                { "/a?b", "/a" },
                { "http://host/a", "/a" },
                { "HTTPS://host:1/a?b", "/a" },
                { "http://host", "/" },
                { "http://host?a=b", "/" },
                { "/a//b/../c", "/a//b/../c" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct http_target t = { .path = NULL };
                const char *why = NULL;

                assert_int_equal(http_target_parse(cases[i].raw, &t, &why), 0);
                assert_string_equal(t.path, cases[i].path);
                http_target_done(&t);
        }
}

static void test_bad_targets(void **state)
{
        static const char *const cases[] = {
                "",      "a",         "a/b",    "/a b",    "/a\tb",     "/a#b",         "/\x01",
                "/\x7f", "/\xc3\xa4", "/%",     "/%4",     "/%4g",      "/%00",         "/?%",
                "/?a=%", "/?%00",     "http:/", "http://", "http:///a", "ftp://host/a", "host:80",
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct http_target t = { .path = NULL };
                const char *why = NULL;

                assert_int_equal(http_target_parse(cases[i], &t, &why), -EINVAL);
                assert_non_null(why);
                assert_null(t.path);
        }
}

static void test_params(void **state)
{
        struct http_target t = { .path = NULL };
        auto_str many = STR_INIT;
        const char *why = NULL;

        (void)state;
        assert_int_equal(http_target_parse("/x?a=1&b&&a=%26+%2F&c=d=e&=f", &t, &why), 0);
        assert_int_equal(t.n_params, 5);
        assert_string_equal(t.params[0].name, "a");
        assert_string_equal(t.params[0].value, "1");
        assert_string_equal(t.params[1].name, "b");
        assert_string_equal(t.params[1].value, "");
        assert_string_equal(t.params[2].value, "& /");
        assert_string_equal(t.params[3].value, "d=e");
        assert_string_equal(t.params[4].name, "");
        http_target_done(&t);
        assert_int_equal(str_adds(&many, "/x?"), 0);
        for (int i = 0; i <= HTTP_PARAMS_MAX; i++)
                assert_int_equal(str_adds(&many, "a=b&"), 0);
        assert_int_equal(http_target_parse(many.data, &t, &why), -EINVAL);
}

/* Fields as "Name: value" lines, checked; the memory is *buffer's. */
static int check(bool http_1_0, const char *const *lines, struct http_framing *framing)
{
        struct http_field fields[8];
        char *copies[8];
        const char *why = NULL;
        size_t n = 0;
        int status;

        for (; lines[n]; n++) {
                char *colon;

                copies[n] = strdup(lines[n]);
                colon = strchr(copies[n], ':');
                *colon = '\0';
                fields[n] = (struct http_field){
                        .name = copies[n],
                        .name_len = strlen(copies[n]),
                        .value = colon + 2,
                        .value_len = strlen(colon + 2),
                };
        }
        status = http_fields_check(http_1_0, fields, n, framing, &why);
        assert_true(status == 0 || why);
        while (n > 0)
                free(copies[--n]);
        return status;
}

static void test_framing(void **state)
{
        static const struct {
                const char *lines[4];
                bool http_1_0;
                int status;
                struct http_framing framing;
        } cases[] = {
                { { "Host: x" }, false, 0, { .length = -1 } },
                { { "Host: " }, false, 0, { .length = -1 } },
                { { "host: [::1]:80" }, false, 0, { .length = -1 } },
                { { "Accept: x" }, true, 0, { .length = -1 } },
                { { "Host: x", "Content-Length: 5" }, false, 0, { .length = 5 } },
                { { "Host: x", "content-length: 0" }, false, 0, { .length = 0 } },
                { { "Host: x", "Content-Length: 5 \t" }, false, 0, { .length = 5 } },
                { { "Host: x", "Content-Length: 9223372036854775800" },
                  false,
                  0,
                  { .length = INT64_C(9223372036854775800) } },
                { { "Host: x", "Transfer-Encoding: Chunked" }, false, 0, { .length = -1, .chunked = true } },
                { { "Host: x", "Expect: 100-Continue" }, false, 0, { .length = -1, .expect_continue = true } },
                { { "Host: x", "X: \xc3\xa4\t b" }, false, 0, { .length = -1 } },
                { { "Accept: x" }, false, 400, { 0 } },
                { { "Host: x", "Host: x" }, false, 400, { 0 } },
                { { "Host: x", "HOST: y" }, true, 400, { 0 } },
                { { "Host: x/y" }, false, 400, { 0 } },
                { { "Host: x y" }, false, 400, { 0 } },
                { { "Host: u@x" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: 5", "Content-Length: 5" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: 5", "Transfer-Encoding: chunked" }, false, 400, { 0 } },
                { { "Host: x", "Transfer-Encoding: chunked", "Content-Length: 0" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: +5" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: -1" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: 1, 1" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: " }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: 9223372036854775808" }, false, 400, { 0 } },
                { { "Host: x", "Content-Length: 99999999999999999999999" }, false, 400, { 0 } },
                { { "Host: x", "Transfer-Encoding: chunked " }, false, 400, { 0 } },
                { { "Host: x", "Transfer-Encoding: gzip, chunked" }, false, 400, { 0 } },
                { { "Host: x", "Transfer-Encoding: " }, false, 400, { 0 } },
                { { "Host: x", "Transfer-Encoding: chunked", "transfer-encoding: chunked" }, false, 400, { 0 } },
                { { "Transfer-Encoding: chunked" }, true, 400, { 0 } },
                { { "Host: x", "Expect: x" }, false, 417, { 0 } },
                { { "Host: x", "A : b" }, false, 400, { 0 } },
                { { "Host: x", "A\t: b" }, false, 400, { 0 } },
                { { "Host: x", "A(: b" }, false, 400, { 0 } },
                { { "Host: x", ": b" }, false, 400, { 0 } },
                { { "Host: x", "A: b\x01" }, false, 400, { 0 } },
                { { "Host: x", "A: b\x7f" }, false, 400, { 0 } },
                { { "Host: x", "A: b\rc" }, false, 400, { 0 } },
                { { "Host: x", "Content-Type: a", "content-type: b" }, false, 400, { 0 } },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct http_framing f = { .length = -2 };
                int status = check(cases[i].http_1_0, cases[i].lines, &f);

                if (status != cases[i].status)
                        print_error("%s | %s: %d\n", cases[i].lines[0], cases[i].lines[1], status);
                assert_int_equal(status, cases[i].status);
                assert_true(f.length == (status ? -2 : cases[i].framing.length));
                assert_true(status || (f.chunked == cases[i].framing.chunked &&
                                       f.expect_continue == cases[i].framing.expect_continue));
        }
}

#define HEAD "GET\0/a\0HTTP/1.1\0\0Host\0 x\0\0A\0b\0\0\0\0"

static void test_contiguous(void **state)
{
        char head[] = HEAD;
        struct http_field f[2] = {
                { .name = head + 17, .name_len = 4, .value = head + 23, .value_len = 1 },
                { .name = head + 26, .name_len = 1, .value = head + 28, .value_len = 1 },
        };
        const char *end = head + sizeof(HEAD) - 1;

        (void)state;
        assert_true(http_head_contiguous(head, head + 4, 2, head + 7, f, 2, end));
        assert_false(http_head_contiguous(head, head + 4, 2, head + 7, f, 2, end + 1));
        assert_false(http_head_contiguous(head, head + 4, 2, head + 7, f, 1, end));
        assert_false(http_head_contiguous(head, head + 4, 1, head + 7, f, 2, end));
        assert_false(http_head_contiguous(head, head + 5, 2, head + 7, f, 2, end));
        f[0].value_len = 0;
        assert_false(http_head_contiguous(head, head + 4, 2, head + 7, f, 2, end));
        f[0].value_len = 1;
        head[22] = 'y';
        assert_false(http_head_contiguous(head, head + 4, 2, head + 7, f, 2, end));
        f[0].value = head + 17;
        assert_false(http_head_contiguous(head, head + 4, 2, head + 7, f, 2, end));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_targets), cmocka_unit_test(test_bad_targets), cmocka_unit_test(test_params),
                cmocka_unit_test(test_framing), cmocka_unit_test(test_contiguous),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
