#include "base/time.h"

#include <errno.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_rfc3339(void **state)
{
        static const struct {
                uint64_t ms;
                const char *text;
        } cases[] = {
                { 0, "1970-01-01T00:00:00.000Z" },
                { 951782399999, "2000-02-28T23:59:59.999Z" },
                { 951782400000, "2000-02-29T00:00:00.000Z" },
                { 951868800000, "2000-03-01T00:00:00.000Z" },
                { 1767225600001, "2026-01-01T00:00:00.001Z" },
                { 1709164800000, "2024-02-29T00:00:00.000Z" },
                { 4107542400000, "2100-03-01T00:00:00.000Z" },
                { UINT64_MAX, "9999-12-31T23:59:59.999Z" },
        };
        char out[TIME_RFC3339_MAX];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                time_rfc3339(cases[i].ms, out);
                assert_string_equal(out, cases[i].text);
        }
}

static void test_duration(void **state)
{
        static const struct {
                const char *text;
                int64_t ns;
        } cases[] = {
                { "0", 0 },
                { "90", 90000000000 },
                { "1.5", 1500000000 },
                { "-2", -2000000000 },
                { ".5", 500000000 },
                { "1m30s", 90000000000 },
                { "1.5h", 5400000000000 },
                { "10\xc2\xb5s", 10000 },
                { "10\xce\xbcs", 10000 },
        };
        static const char *const bad[] = { "",    "-",   "+",   ".",    "s",     "1d", "1s2", "1 s",
                                           " 1s", "1s ", "1e3", "--1s", "1..5s", "1S", "0x1" };
        int64_t ns = 7;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                assert_int_equal(time_parse_duration(cases[i].text, &ns), 0);
                assert_true(ns == cases[i].ns);
        }
        ns = 7;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(time_parse_duration(bad[i], &ns), -EINVAL);
        assert_int_equal(time_parse_duration("3000000h", &ns), -ERANGE);
        assert_int_equal(time_parse_duration("9223372036854775808ns", &ns), -ERANGE);
        assert_int_equal(time_parse_duration("2562047h2562047h", &ns), -ERANGE);
        assert_int_equal(time_parse_duration("99999999999999999999", &ns), -ERANGE);
        assert_int_equal(ns, 7);
        assert_int_equal(time_parse_duration("-9223372036854775808ns", &ns), 0);
        assert_true(ns == INT64_MIN);
}

static void test_clocks(void **state)
{
        uint64_t a = time_mono_ns();

        (void)state;
        assert_true(a > 0);
        assert_true(time_mono_ns() >= a);
        assert_true(time_real_ms() > 1700000000000);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_rfc3339),
                cmocka_unit_test(test_duration),
                cmocka_unit_test(test_clocks),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
