#include "base/startup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const relocated[] = { "one", "two", "three" };
static char written[] = "before";

static unsigned long rss_file_kb(void)
{
        char text[4096];
        FILE *f = fopen("/proc/self/status", "re");
        size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
        const char *line;

        text[n] = '\0';
        if (f)
                fclose(f);
        line = strstr(text, "RssFile:");
        return line ? strtoul(line + strlen("RssFile:"), NULL, 10) : 0;
}

/* Code, constants, what was relocated and what was written are all still there; less is mapped. */
static void test_all_still_works(void **state)
{
        unsigned long before = rss_file_kb(), after;
        char text[64];

        (void)state;
        written[0] = 'B';
        startup_forget();
        after = rss_file_kb();
        assert_string_equal(written, "Before");
        for (size_t i = 0; i < 3; i++)
                assert_in_range(strlen(relocated[i]), 3, 5);
        snprintf(text, sizeof(text), "%s %.2f", relocated[2], 1.5);
        assert_string_equal(text, "three 1.50");
        assert_true(after < before);
        startup_forget();
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all_still_works),
        };

        return cmocka_run_group_tests_name("base/startup", tests, NULL, NULL);
}
