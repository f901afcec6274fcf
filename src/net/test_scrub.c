#include "net/scrub.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void sockstat(void **state)
{
        static const char text[] = "sockets: used 12\nTCP: inuse 3 orphan 1 tw 4 alloc 9 mem 1\nUDP: inuse 5 mem 2\n"
                                   "UDPLITE: inuse 6\nRAW: inuse 7\nFRAG: inuse 8 memory 9\n";
        struct scrub_stat s;

        (void)state;
        assert_int_equal(scrub_parse_sockstat(text, &s), 0);
        assert_int_equal(s.used, 12);
        assert_int_equal(s.tcp, 3);
        assert_int_equal(s.time_wait, 4);
        assert_int_equal(s.udp, 5);
        assert_int_equal(s.udplite, 6);
        assert_int_equal(s.raw, 7);
        assert_int_equal(s.fragments, 8);
        assert_int_equal(scrub_parse_sockstat("", &s), -EINVAL);
        assert_int_equal(scrub_parse_sockstat("sockets: used 12\n", &s), -EINVAL);
        assert_int_equal(scrub_parse_sockstat("sockets: used\nTCP: inuse 3 tw 1\nUDP: inuse 1\n", &s), -EINVAL);
}

static void protocols(void **state)
{
        uint64_t n;

        (void)state;
        assert_int_equal(scrub_parse_protocols("protocol  size sockets  memory\nPACKET    1600      2      -1   NI\n"
                                               "TCP       2304     40     157   no\n",
                                               &n),
                         0);
        assert_int_equal(n, 42);
        assert_int_equal(scrub_parse_protocols("", &n), -EINVAL);
        assert_int_equal(scrub_parse_protocols("protocol size\nTCP\n", &n), -EINVAL);
        assert_int_equal(scrub_parse_protocols("protocol size\nTCP 1 -1 2\n", &n), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sockstat),
                cmocka_unit_test(protocols),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
