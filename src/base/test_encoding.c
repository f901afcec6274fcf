#include "base/str.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define BYTES(s) (s), sizeof(s) - 1

static void test_utf8(void **state)
{
        (void)state;
        assert_true(utf8_valid(BYTES("")));
        assert_true(utf8_valid(BYTES("plain, and longer than a word")));
        assert_true(utf8_valid(BYTES("a\0b")));
        assert_true(utf8_valid(BYTES("12345678\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80")));
        assert_true(utf8_valid(BYTES("\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf")));
        assert_int_equal(utf8_len(""), 0);
        assert_int_equal(utf8_len("a\xc3"), 1);
        assert_int_equal(utf8_len("\xf0\x9f\x98\x80x"), 4);
        assert_int_equal(utf8_len("\xf0\x9f\x98"), 0);
        assert_int_equal(utf8_len("\x9b"), 0);
        assert_false(utf8_valid(BYTES("\x80")));
        assert_false(utf8_valid(BYTES("\xc0\x80"))); /* two bytes for what fits one */
        assert_false(utf8_valid(BYTES("\xc1\xbf")));
        assert_false(utf8_valid(BYTES("\xe0\x9f\xbf")));
        assert_false(utf8_valid(BYTES("\xf0\x8f\xbf\xbf")));
        assert_false(utf8_valid(BYTES("\xed\xa0\x80")));     /* a surrogate */
        assert_false(utf8_valid(BYTES("\xf4\x90\x80\x80"))); /* beyond U+10FFFF */
        assert_false(utf8_valid(BYTES("\xf5\x80\x80\x80")));
        assert_false(utf8_valid(BYTES("\xe2\x82")));
        assert_false(utf8_valid(BYTES("\xe2\x82z")));
        assert_false(utf8_valid(BYTES("12345678\xff")));
}

static void test_hex(void **state)
{
        unsigned char out[4];
        char text[9];

        (void)state;
        hex_encode("\x00\xab\xcd\xff", 4, text);
        assert_string_equal(text, "00abcdff");
        assert_int_equal(hex_decode(text, 8, out), 0);
        assert_memory_equal(out, "\x00\xab\xcd\xff", 4);
        assert_int_equal(hex_decode("abc", 3, out), -EINVAL);
        assert_int_equal(hex_decode("AB", 2, out), -EINVAL);
        assert_true(hex_is_lower("00abcdff", 8));
        assert_false(hex_is_lower("00abcdff", 6));
        assert_false(hex_is_lower("00abcd", 8));
        assert_false(hex_is_lower("00ABCDFF", 8));
}

/* RFC 4648 section 10. */
static void test_base64(void **state)
{
        static const char *const pairs[][2] = { { "", "" },
                                                { "f", "Zg==" },
                                                { "fo", "Zm8=" },
                                                { "foo", "Zm9v" },
                                                { "foob", "Zm9vYg==" },
                                                { "fooba", "Zm9vYmE=" },
                                                { "foobar", "Zm9vYmFy" } };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
                auto_str text = STR_INIT;
                auto_str back = STR_INIT;

                assert_int_equal(base64_encode(&text, pairs[i][0], strlen(pairs[i][0])), 0);
                assert_string_equal(text.data, pairs[i][1]);
                assert_int_equal(base64_decode(&back, text.data, text.len), 0);
                assert_int_equal(back.len, strlen(pairs[i][0]));
                assert_memory_equal(back.data, pairs[i][0], back.len);
        }
}

static void test_base64_all(void **state)
{
        auto_str text = STR_INIT;
        auto_str back = STR_INIT;
        unsigned char bytes[256];

        (void)state;
        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (unsigned char)i;
        assert_int_equal(str_adds(&text, "before:"), 0);
        assert_int_equal(base64_encode(&text, bytes, sizeof(bytes)), 0);
        assert_int_equal(base64_decode(&back, text.data + 7, text.len - 7), 0);
        assert_int_equal(back.len, sizeof(bytes));
        assert_memory_equal(back.data, bytes, sizeof(bytes));
}

static void test_base64_bad(void **state)
{
        static const char *const bad[] = { "Zg",   "Zg=",  "Zg=a",   "Z===",     "====", "Zh==",
                                           "Zm9=", "Zm 9", "Zm9v\n", "Zg==Zg==", "Zm-_" };
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(str_adds(&out, "kept"), 0);
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                assert_int_equal(base64_decode(&out, bad[i], strlen(bad[i])), -EINVAL);
                assert_string_equal(out.data, "kept");
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_utf8),       cmocka_unit_test(test_hex),        cmocka_unit_test(test_base64),
                cmocka_unit_test(test_base64_all), cmocka_unit_test(test_base64_bad),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
