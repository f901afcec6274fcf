#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_add(void **state)
{
        auto_str s = STR_INIT;

        (void)state;
        assert_int_equal(str_add(&s, NULL, 0), 0);
        assert_string_equal(s.data, "");
        assert_int_equal(str_adds(&s, "one"), 0);
        assert_int_equal(str_addc(&s, ','), 0);
        assert_int_equal(str_addf(&s, "%d-%s", 2, "two"), 0);
        assert_string_equal(s.data, "one,2-two");
        assert_int_equal(s.len, 9);
        for (int i = 0; i < 1000; i++)
                assert_int_equal(str_addf(&s, "%0200d", i), 0);
        assert_int_equal(s.len, 9 + 200000);
        assert_int_equal(strlen(s.data), s.len);
        str_clear(&s);
        assert_int_equal(s.len, 0);
        assert_string_equal(s.data, "");
        assert_int_equal(str_reserve(&s, SIZE_MAX), -ENOMEM);
        assert_int_equal(str_reserve(&s, PTRDIFF_MAX), -ENOMEM);
        assert_string_equal(s.data, "");
}

static void test_take(void **state)
{
        struct str s = STR_INIT;
        char *p;

        (void)state;
        p = str_take(&s);
        assert_string_equal(p, "");
        free(p);
        assert_int_equal(str_add(&s, "a\0b", 3), 0);
        p = str_take(&s);
        assert_memory_equal(p, "a\0b", 4);
        assert_null(s.data);
        free(p);
        str_clear(&s);
        str_done(&s);
        p = str_printf("%s/%d", "x", 7);
        assert_string_equal(p, "x/7");
        free(p);
}

static void test_compare(void **state)
{
        (void)state;
        assert_true(str_eq("a", "a"));
        assert_false(str_eq("a", "b"));
        assert_true(str_eq(NULL, NULL));
        assert_false(str_eq(NULL, ""));
        assert_true(str_starts("layer.tar", "layer"));
        assert_false(str_starts("lay", "layer"));
        assert_true(str_ends("layer.tar", ".tar"));
        assert_false(str_ends("tar", ".tar"));
}

static void test_strv(void **state)
{
        auto_strv v = NULL;
        auto_strv copy = NULL;

        (void)state;
        assert_int_equal(strv_len(NULL), 0);
        assert_null(strv_dup(NULL));
        assert_int_equal(strv_add(&v, "a"), 0);
        assert_int_equal(strv_add(&v, "b"), 0);
        assert_int_equal(strv_len(v), 2);
        copy = strv_dup(v);
        assert_int_equal(strv_len(copy), 2);
        assert_string_equal(copy[1], "b");
        assert_ptr_not_equal(copy[1], v[1]);
}

static void test_parse(void **state)
{
        static const char *const bad[] = { "", " 1", "1 ", "+1", "-1", "01", "0x1", "1e3", "00", "a", "1.0" };
        uint32_t small = 5;
        uint64_t v = 5;

        (void)state;
        assert_int_equal(parse_u64("0", &v), 0);
        assert_int_equal(v, 0);
        assert_int_equal(parse_u64("18446744073709551615", &v), 0);
        assert_true(v == UINT64_MAX);
        assert_int_equal(parse_u64("18446744073709551616", &v), -ERANGE);
        assert_int_equal(parse_u64("99999999999999999999", &v), -ERANGE);
        assert_int_equal(parse_u32("4294967295", &small), 0);
        assert_int_equal(small, UINT32_MAX);
        assert_int_equal(parse_u32("4294967296", &small), -ERANGE);
        assert_int_equal(parse_u32("x", &small), -EINVAL);
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(parse_u64(bad[i], &v), -EINVAL);
        assert_true(v == UINT64_MAX);
}

static void test_show(void **state)
{
        char shown[STR_SHOWN_MAX], name[2 * STR_SHOWN_MAX];

        (void)state;
        assert_string_equal(str_show("a\n\x1b\\\xff", shown), "a\\x0a\\x1b\\x5c\\xff");
        memset(name, 0xc3, sizeof(name) - 1);
        name[sizeof(name) - 1] = '\0';
        assert_true(strlen(str_show(name, shown)) < STR_SHOWN_MAX);
        assert_true(str_ends(shown, "..."));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_add),  cmocka_unit_test(test_take),  cmocka_unit_test(test_compare),
                cmocka_unit_test(test_strv), cmocka_unit_test(test_parse), cmocka_unit_test(test_show),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
