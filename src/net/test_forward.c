#include "net/forward.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void forward_records(void **state)
{
        (void)state;
        assert_true(forward_record_valid("ip_forward 0\n"));
        assert_true(forward_record_valid("ip_forward 1\n"));
        assert_true(forward_record_valid("ip_forward 0\neth0\nbr-x\n"));
        assert_false(forward_record_valid(""));
        assert_false(forward_record_valid("ip_forward 2\n"));
        assert_false(forward_record_valid("ip_forward 0\neth0"));
        assert_false(forward_record_valid("ip_forward 0\n../x\n"));
        assert_false(forward_record_valid("ip_forward 0\na/b\n"));
        assert_false(forward_record_valid("ip_forward 0\n\n"));
        assert_false(forward_record_valid("ip_forward 0\naaaaaaaaaaaaaaaa\n"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(forward_records),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
