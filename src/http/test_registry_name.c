#include "http/registry_name.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_names(void **state)
{
        static const struct {
                const char *text, *name;
        } rows[] = {
                { "docker.io", "docker.io" },
                { "https://index.docker.io/v1/", "docker.io" },
                { "registry-1.docker.io", "docker.io" },
                { "Registry.Example:5000", "registry.example:5000" },
                { "http://[::1]:5000/v2/", "[::1]:5000" },
                { "registry.example:443", "registry.example" },
                { "https://REGISTRY.example:443/v2/", "registry.example" },
                { "[::1]:443", "[::1]" },
                { "registry-1.docker.io:443", "docker.io" },
                /* Another port is another registry. */
                { "registry.example:80", "registry.example:80" },
                { "http://registry.example:443", "registry.example:443" },
                { "index.docker.io:5000", "index.docker.io:5000" },
        };
        static const char *const bad[] = { "", "https://", "a b", "user@host", "a:b", ":5" };
        char name[256];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                assert_int_equal(registry_name(rows[i].text, name, NULL), 0);
                assert_string_equal(name, rows[i].name);
        }
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(registry_name(bad[i], name, NULL), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
        };

        return cmocka_run_group_tests_name("http/registry_name", tests, NULL, NULL);
}
