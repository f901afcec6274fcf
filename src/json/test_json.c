#include "json/json.h"

#include "base/test_skip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int read_text(const char *text, json_t **ret)
{
        struct err err = ERR_INIT;
        int r = json_read(text, strlen(text), ret, &err);

        if (r < 0)
                assert_true(err.num == -r && err.text[0]);
        return r;
}

static void test_read(void **state)
{
        static const char *const bad[] = {
                "",
                "{",
                "[1,]",
                "{\"a\":1,\"a\":2}",
                "{\"a\":1} x",
                "NaN",
                "[NaN]",
                "Infinity",
                "01",
                "1e999",
                "99999999999999999999",
                "'a'",
                "\"\\ud800\"",
                "\"\xff\"",
                "{\"a\\u0000b\":1}",
                "\xef\xbb\xbf{}",
                "nul",
                "[1] [2]",
                "\"\n\"",
                "{a:1}",
                "// x\n1",
        };
        static const char *const good[] = { "{}", "[]", "1", "\"x\"", "null", " [ 1 , 2.5e3 ] \n", "\"\\u0000\"" };
        struct err err = ERR_INIT;
        json_t *v = NULL;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(read_text(bad[i], &v), -EINVAL);
        assert_null(v);
        assert_int_equal(json_read("{}\0", 3, &v, &err), -EINVAL);
        for (size_t i = 0; i < ARRAY_LEN(good); i++) {
                assert_int_equal(read_text(good[i], &v), 0);
                json_decref(v);
                v = NULL;
        }
}

static void nested(struct str *out, size_t depth, const char *open, const char *close)
{
        for (size_t i = 0; i < depth; i++)
                assert_int_equal(str_adds(out, open), 0);
        assert_int_equal(str_adds(out, "1"), 0);
        for (size_t i = 0; i < depth; i++)
                assert_int_equal(str_adds(out, close), 0);
}

static void test_depth(void **state)
{
        auto_str just = STR_INIT;
        auto_str more = STR_INIT;
        auto_str far = STR_INIT;
        struct err err = ERR_INIT;
        json_t *v = NULL;

        (void)state;
        nested(&just, JSON_DEPTH_MAX, "[", "]");
        assert_int_equal(json_read(just.data, just.len, &v, &err), 0);
        json_decref(v);
        nested(&more, JSON_DEPTH_MAX + 1, "{\"a\":", "}");
        assert_int_equal(json_read(more.data, more.len, &v, &err), -EINVAL);
        nested(&far, 10000, "[", "]");
        assert_int_equal(json_read(far.data, far.len, &v, &err), -EINVAL);
        /* Brackets in strings are no depth. */
        str_clear(&far);
        assert_int_equal(str_adds(&far, "\"\\\""), 0);
        for (int i = 0; i < 1000; i++)
                assert_int_equal(str_addc(&far, '['), 0);
        assert_int_equal(str_addc(&far, '"'), 0);
        assert_int_equal(json_read(far.data, far.len, &v, &err), 0);
        json_decref(v);
}

static int read_repeated(const char *piece, size_t n)
{
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        auto_json v = NULL;

        assert_int_equal(str_addc(&text, '['), 0);
        for (size_t i = 0; i < n; i++)
                assert_true(str_adds(&text, piece) == 0 && str_addc(&text, i + 1 < n ? ',' : ']') == 0);
        return json_read(text.data, text.len, &v, &err);
}

/* Little text that would take much memory. */
static void test_values(void **state)
{
        static const char text[] = "[1,{\"a\":[],\"b\":\"[,,,\"},3]";
        struct err err = ERR_INIT;
        json_t *v = NULL;

        (void)state;
        assert_int_equal(read_repeated("0", JSON_VALUES_FREE), 0);
        assert_int_equal(read_repeated("0", JSON_VALUES_FREE * 6 / 5), -EINVAL);
        assert_int_equal(read_repeated("{}", JSON_VALUES_FREE), -EINVAL);
        assert_int_equal(read_repeated("\"sixteen and more bytes\"", JSON_VALUES_FREE * 3), 0);
        assert_int_equal(json_read_within(text, strlen(text), 7, &v, &err), 0);
        json_decref(v);
        v = NULL;
        assert_int_equal(json_read_within(text, strlen(text), 6, &v, &err), -EINVAL);
        assert_null(v);
}

static void test_write(void **state)
{
        auto_json v = NULL;
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(read_text("{\"b\": 1, \"a\": [true, null, 0.1, \"x\"] , \"big\": 9223372036854775807}", &v),
                         0);
        assert_int_equal(str_adds(&out, "> "), 0);
        assert_int_equal(json_write(v, &out), 0);
        assert_string_equal(out.data, "> {\"b\":1,\"a\":[true,null,0.1,\"x\"],\"big\":9223372036854775807}");
        assert_int_equal(json_write(NULL, &out), -ENOMEM);
        assert_int_equal(out.len, strlen("> {\"b\":1,\"a\":[true,null,0.1,\"x\"],\"big\":9223372036854775807}"));
}

static void test_string(void **state)
{
        static const char all[] = "plain \"quoted\" \\ \b\f\n\r\t \x01\x1f\x7f \xc3\xa4 \0 end";
        auto_str out = STR_INIT;
        auto_json v = NULL;

        (void)state;
        assert_int_equal(json_add_string(&out, "", 0), 0);
        assert_string_equal(out.data, "\"\"");
        str_clear(&out);
        assert_int_equal(json_add_string(&out, all, sizeof(all) - 1), 0);
        assert_non_null(strstr(out.data, "\\u0001\\u001f"));
        assert_non_null(strstr(out.data, "\\b\\f\\n\\r\\t"));
        assert_int_equal(read_text(out.data, &v), 0);
        assert_int_equal(json_string_length(v), sizeof(all) - 1);
        assert_memory_equal(json_string_value(v), all, sizeof(all) - 1);
        assert_int_equal(json_add_string(&out, all, PTRDIFF_MAX), -ENOMEM);
}

static void test_faults(void **state)
{
        struct json_faults f = { 0 };

        (void)state;
        for (int i = 0; i < 100; i++)
                json_faults_add(&f, "/a", "is %d", i);
        assert_int_equal(f.len, JSON_FAULTS_MAX);
        assert_string_equal(f.items[63].pointer, "/a");
        assert_string_equal(f.items[63].detail, "is 63");
        json_faults_done(&f);
        assert_int_equal(f.len, 0);
        json_faults_done(&f);
}

/* In the middle of a string that is long. Left alone the parser asks again for each byte: minutes. */
static void memory_runs_out(bool wiped)
{
        const size_t len = 24 << 20;
        const struct rlimit cpu = { 10, 10 };
        struct rlimit data = { 48 << 20, 48 << 20 };
        int status;
        pid_t pid;

#if defined(__SANITIZE_ADDRESS__)
        skip_because("the address sanitizer ends a program that runs out of memory");
#endif
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                char *text = malloc(len + 1);
                auto_json v = NULL;

                if (!text || setrlimit(RLIMIT_CPU, &cpu) < 0 || setrlimit(RLIMIT_DATA, &data) < 0)
                        _exit(1);
                if (wiped)
                        json_wipe_freed();
                memset(text, 'x', len);
                text[0] = text[len - 1] = '"';
                if (json_read(text, len, &v, NULL) != -ENOMEM || json_read("[1, \"two\"]", 10, &v, NULL) < 0)
                        _exit(2);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void test_memory_runs_out(void **state)
{
        (void)state;
        memory_runs_out(false);
        memory_runs_out(true);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_read),
                cmocka_unit_test(test_depth),
                cmocka_unit_test(test_write),
                cmocka_unit_test(test_values),
                cmocka_unit_test(test_string),
                cmocka_unit_test(test_faults),
                cmocka_unit_test(test_memory_runs_out),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
