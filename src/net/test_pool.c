#include "net/pool.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void pools(void **state)
{
        static const char *const bad[] = {
                "",    "10.0.0.0",     "10.0.0.0/",    "10.0.0.0/8", "10.0.0.0/29",  "10.0.0.1/16",        "10.0.0/16",
                "/16", "10.0.0.0/+16", "10.0.0.0/016", "fd00::/16",  "10.0.0.0/16 ", "10.0.0.0/4294967312"
        };
        uint32_t base = 7;
        unsigned bits = 7;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(pool_parse_cidr(bad[i], &base, &bits), -EINVAL);
        assert_int_equal(base, 7);
        assert_int_equal(pool_parse_cidr("10.213.64.0/18", &base, &bits), 0);
        assert_int_equal(base, 0x0ad54000);
        assert_int_equal(bits, 18);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(pools),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
