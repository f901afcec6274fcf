#include "net/names.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static void instances(void **state)
{
        (void)state;
        assert_true(names_instance_valid("mayfly"));
        assert_true(names_instance_valid("a-b_9"));
        assert_false(names_instance_valid(""));
        assert_false(names_instance_valid("9a"));
        assert_false(names_instance_valid("a b"));
        assert_false(names_instance_valid("a;b"));
        assert_false(names_instance_valid("abcdefghijklmnopqrstuvwxyzabcdefg"));
}

static void links(void **state)
{
        char prefix[NAMES_PREFIX_MAX], link[IFNAMSIZ];
        uint32_t mode, index;

        (void)state;
        names_prefix("mayfly", prefix);
        assert_string_equal(prefix, "mf");
        names_link(prefix, NET_INTERNET, 65535, link);
        assert_string_equal(link, "mfi65535");
        assert_true(names_link_parse(prefix, link, &mode, &index));
        assert_int_equal(mode, NET_INTERNET);
        assert_int_equal(index, 65535);
        assert_true(names_link_parse(prefix, "mfn0", &mode, &index));
        assert_int_equal(mode, NET_NAT);
        assert_false(names_link_parse(prefix, "mfn", &mode, &index));
        assert_false(names_link_parse(prefix, "mfn01", &mode, &index));
        assert_false(names_link_parse(prefix, "mfx1", &mode, &index));
        assert_false(names_link_parse(prefix, "eth0", &mode, &index));
}

/* No instance's links look like those of the default one, whose pattern is mfn* and mfi*. */
static void instances_do_not_meet(void **state)
{
        (void)state;
        for (int i = 0; i < 20000; i++) {
                char name[16], prefix[NAMES_PREFIX_MAX], link[IFNAMSIZ];
                uint32_t mode, index;

                (void)snprintf(name, sizeof(name), "test%d", i);
                names_prefix(name, prefix);
                assert_int_equal(strlen(prefix), 5);
                assert_true(prefix[2] != 'n' && prefix[2] != 'i');
                names_link(prefix, NET_NAT, UINT32_C(65535), link);
                assert_false(names_link_parse("mf", link, &mode, &index));
                assert_int_not_equal(names_group(name), 0);
                assert_int_equal(names_group(name) & NAMES_GROUP_OLD, 0);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(instances),
                cmocka_unit_test(links),
                cmocka_unit_test(instances_do_not_meet),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
