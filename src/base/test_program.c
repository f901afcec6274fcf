#include "base/program.h"

#include "base/str.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static void test_finds_itself(void **state)
{
        char self[PATH_MAX] = "", found[PATH_MAX];
        struct err err = ERR_INIT;

        (void)state;
        assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
        assert_int_equal(program_find(strrchr(self, '/') + 1, found, &err), 0);
        assert_string_equal(found, self);
}

static void test_says_where_it_looked(void **state)
{
        struct err err = ERR_INIT;
        char found[PATH_MAX];

        (void)state;
        assert_int_equal(program_find("no-such-program", found, &err), -ENOENT);
        assert_non_null(strstr(err.text, "../libexec/mayfly"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_finds_itself),
                cmocka_unit_test(test_says_where_it_looked),
        };

        return cmocka_run_group_tests_name("base/program", tests, NULL, NULL);
}
