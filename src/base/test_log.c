#include "base/log.h"
#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* What one call writes to stderr. */
static void capture(enum log_level level, const char *text, char *out, size_t size)
{
        int p[2], saved;
        ssize_t n;

        assert_int_equal(pipe(p), 0);
        saved = dup(STDERR_FILENO);
        assert_true(saved >= 0);
        assert_true(dup2(p[1], STDERR_FILENO) >= 0);
        close(p[1]);
        errno = EXDEV;
        log_at(level, "%s", text);
        assert_int_equal(errno, EXDEV);
        assert_true(dup2(saved, STDERR_FILENO) >= 0);
        close(saved);
        n = read(p[0], out, size - 1);
        close(p[0]);
        assert_true(n >= 0);
        out[n] = '\0';
}

static void test_line(void **state)
{
        char out[4096];

        (void)state;
        assert_int_equal(unsetenv("JOURNAL_STREAM"), 0);
        log_set_name("prog");
        capture(LOG_LEVEL_WARN, "two\nlines\x1b[31m \xc3\xa4", out, sizeof(out));
        assert_true(str_ends(out, " prog warning: two\\x0alines\\x1b[31m \xc3\xa4\n"));
        capture(LOG_LEVEL_WARN,
                "\xc2\x9b"
                "31m \x9b \xc3 \x7f",
                out, sizeof(out));
        assert_true(str_ends(out, ": \\xc2\\x9b31m \\x9b \\xc3 \\x7f\n"));
        capture(LOG_LEVEL_DEBUG, "quiet", out, sizeof(out));
        assert_string_equal(out, "");
        log_set_level(LOG_LEVEL_DEBUG);
        capture(LOG_LEVEL_DEBUG, "loud", out, sizeof(out));
        assert_true(str_ends(out, " prog debug: loud\n"));
}

static void test_journal(void **state)
{
        char out[4096];

        (void)state;
        assert_int_equal(setenv("JOURNAL_STREAM", "8:1", 1), 0);
        capture(LOG_LEVEL_ERROR, "broken", out, sizeof(out));
        assert_string_equal(out, "<3>broken\n");
}

static void test_long(void **state)
{
        char text[4096], out[8192];

        (void)state;
        memset(text, '\n', sizeof(text));
        text[sizeof(text) - 1] = '\0';
        capture(LOG_LEVEL_ERROR, text, out, sizeof(out));
        assert_true(strlen(out) < 2100);
        assert_true(str_ends(out, "\\x0a\n"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_line),
                cmocka_unit_test(test_journal),
                cmocka_unit_test(test_long),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
