#include "base/str.h"
#include "base/units.h"

#include <errno.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_parse(void **state)
{
        static const struct {
                const char *text;
                int64_t bytes;
        } cases[] = {
                { "0", 0 },
                { "100", 100 },
                { "512m", 536870912 },
                { "1.5g", 1610612736 },
                { "64MiB", 67108864 },
                { "1 kB", 1024 },
                { "1b", 1 },
                { ".5k", 512 },
                { "1e3", 1000 },
                { "1.k", 1024 },
                { "+1", 1 },
                { "8191P", 9222246136947933184 },
        };
        static const char *const bad[] = { "",    "m",   "-1",  "1x",    "1kk", "1kib2", "1 k b", " 1",   "1kbb",
                                           "0x1", "inf", "nan", "1_000", "1e",  "e3",    ".",     "1..2", "1,5" };
        int64_t v = 7;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                assert_int_equal(units_parse_bytes(cases[i].text, &v), 0);
                assert_true(v == cases[i].bytes);
        }
        v = 7;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(units_parse_bytes(bad[i], &v), -EINVAL);
        assert_int_equal(units_parse_bytes("8192P", &v), -ERANGE);
        assert_int_equal(units_parse_bytes("9e99", &v), -ERANGE);
        assert_int_equal(units_parse_bytes("1"
                                           "0000000000000000000000000000000000000000000000000000000000000000000000",
                                           &v),
                         -EINVAL);
        assert_int_equal(v, 7);
}

static void test_human(void **state)
{
        static const struct {
                uint64_t bytes;
                const char *text;
        } cases[] = {
                { 0, "0B" },
                { 999, "999B" },
                { 1000, "1kB" },
                { 1024, "1.024kB" },
                { 1048576, "1.049MB" },
                { 1500000, "1.5MB" },
                { 12340000000, "12.34GB" },
                { UINT64_MAX, "18.45EB" },
        };
        char out[UNITS_HUMAN_MAX];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                units_human(cases[i].bytes, out);
                assert_string_equal(out, cases[i].text);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse),
                cmocka_unit_test(test_human),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
