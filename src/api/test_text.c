#include "api/text.h"

#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_media_types(void **state)
{
        (void)state;
        assert_true(media_type_is("application/json", "application/json"));
        assert_true(media_type_is("Application/JSON; charset=utf-8", "application/json"));
        assert_true(media_type_is("application/json ;x", "application/json"));
        assert_false(media_type_is("application/jsonx", "application/json"));
        assert_false(media_type_is("application/jso", "application/json"));
        assert_false(media_type_is("", "application/json"));
        assert_true(media_type_is_form("text/plain;charset=utf-8"));
        assert_true(media_type_is_form("multipart/form-data; boundary=x"));
        assert_true(media_type_is_form("application/x-www-form-urlencoded"));
        assert_false(media_type_is_form("application/x-tar"));
}

static void test_ids(void **state)
{
        auto_free char *long_text = calloc(1, 300);

        (void)state;
        memset(long_text, 'a', 299);
        assert_true(request_id_valid("aZ09._-"));
        assert_false(request_id_valid(""));
        assert_false(request_id_valid("a b"));
        assert_false(request_id_valid("a\n"));
        assert_false(request_id_valid(long_text));
        assert_true(request_id_valid(long_text + 299 - 64));
        assert_false(request_id_valid(long_text + 299 - 65));
        assert_true(idempotency_key_valid("a~!\"{}"));
        assert_false(idempotency_key_valid(""));
        assert_false(idempotency_key_valid("a b"));
        assert_false(idempotency_key_valid("\xc3\xa4"));
        assert_true(idempotency_key_valid(long_text + 299 - 255));
        assert_false(idempotency_key_valid(long_text + 299 - 256));
}

static void test_times(void **state)
{
        static const struct {
                const char *text;
                uint64_t ms;
        } good[] = {
                { "1970-01-01T00:00:00Z", 0 },
                { "2026-01-01T00:00:00.000Z", UINT64_C(1767225600000) },
                { "2026-01-01t01:30:00.5+01:30", UINT64_C(1767225600500) },
                { "2025-12-31 19:00:00.123456-05:00", UINT64_C(1767225600123) },
                { "2024-02-29T00:00:00Z", UINT64_C(1709164800000) },
                { "2016-12-31T23:59:60Z", UINT64_C(1483228799000) },
        };
        static const char *const bad[] = {
                "",
                "2026",
                "2026-01-01",
                "2026-01-01T00:00:00",
                "2026-01-01T00:00:00Zx",
                "2026-1-01T00:00:00Z",
                "2026-13-01T00:00:00Z",
                "2026-00-01T00:00:00Z",
                "2026-02-29T00:00:00Z",
                "2026-01-00T00:00:00Z",
                "2026-01-01T24:00:00Z",
                "2026-01-01T00:60:00Z",
                "2026-01-01T00:00:61Z",
                "2026-01-01T00:00:00.Z",
                "2026-01-01T00:00:00+24:00",
                "2026-01-01T00:00:00+00:60",
                "2026-01-01T00:00:00+0000",
                "1969-12-31T23:59:59Z",
                "-026-01-01T00:00:00Z",
        };
        uint64_t ms = 1;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(good); i++) {
                assert_int_equal(rfc3339_parse(good[i].text, &ms), 0);
                assert_true(ms == good[i].ms);
        }
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(rfc3339_parse(bad[i], &ms), -EINVAL);
}

static void test_slashes(void **state)
{
        char text[] = "a%2Fb%2fc%2", plain[] = "abc";

        (void)state;
        slashes_decode(text);
        assert_string_equal(text, "a/b/c%2");
        slashes_decode(plain);
        assert_string_equal(plain, "abc");
}

static void test_ranges(void **state)
{
        static const struct {
                const char *text;
                int r;
                uint64_t first, len;
        } rows[] = {
                { "bytes=0-3", 0, 0, 4 },
                { "Bytes=2-", 0, 2, 8 },
                { "bytes=-3", 0, 7, 3 },
                { "bytes=-30", 0, 0, 10 },
                { "bytes=9-100", 0, 9, 1 },
                { "bytes=10-", -ERANGE, 0, 0 },
                { "bytes=-0", -ERANGE, 0, 0 },
                { "bytes=3-2", -ENOENT, 0, 0 },
                { "bytes=0-1,3-4", -ENOENT, 0, 0 },
                { "bytes=", -ENOENT, 0, 0 },
                { "bytes=a-b", -ENOENT, 0, 0 },
                { "lines=0-1", -ENOENT, 0, 0 },
                { "bytes=99999999999999999999-", -ENOENT, 0, 0 },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                uint64_t first = 0, len = 0;

                assert_int_equal(range_parse(rows[i].text, 10, &first, &len), rows[i].r);
                assert_int_equal(first, rows[i].first);
                assert_int_equal(len, rows[i].len);
        }
}

static void test_event_ids(void **state)
{
        static const char *const bad[] = { "", "1", "1.", ".1", "1.2.3", "-1.2", "a.b", "1.99999999999999999999" };
        uint64_t at[2] = { 7, 8 };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(event_id_parse(bad[i], at), -EINVAL);
        assert_true(at[0] == 7 && at[1] == 8);
        assert_int_equal(event_id_parse("12.0", at), 0);
        assert_true(at[0] == 12 && at[1] == 0);
}

static void test_credentials(void **state)
{
        static const char *const good[] = { "Bearer a:b", "bearer   a:b", "Basic YTpi", "basic YTpi" };
        static const char *const bad[] = { "",          "Basic",       "Basic ",     "Bearer ",    "BearerX a:b",
                                           "Basic YTp", "Basic YTpi!", "Basic AA==", "Digest a:b", "a:b" };
        auto_free char *huge = str_printf("Bearer %0*d", CREDENTIALS_MAX + 1, 0);

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(good); i++) {
                auto_str out = STR_INIT;

                assert_true(credentials_parse(good[i], &out));
                assert_string_equal(out.data, "a:b");
        }
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                auto_str out = STR_INIT;

                assert_false(credentials_parse(bad[i], &out));
        }
        assert_false(credentials_parse(huge, &(struct str)STR_INIT));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_media_types), cmocka_unit_test(test_ids),    cmocka_unit_test(test_times),
                cmocka_unit_test(test_slashes),     cmocka_unit_test(test_ranges), cmocka_unit_test(test_event_ids),
                cmocka_unit_test(test_credentials),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
