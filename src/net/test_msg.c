#include "net/msg.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int parse(struct net_msg m, size_t n_fds)
{
        struct net_msg out = { .op = 77 };
        int r = msg_parse(&m, sizeof(m), n_fds, &out);

        if (r == 0)
                assert_memory_equal(&m, &out, sizeof(m));
        else
                assert_int_equal(out.op, 77);
        return r;
}

static void accepts_what_the_protocol_has(void **state)
{
        (void)state;
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_HELLO, .seq = 4, .version = 1 }, 0), 0);
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_ADOPT, .mode = NET_NONE, .index = 1 }, 1), 0);
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_ADOPT, .mode = NET_NAT, .index = 1, .address = 1 }, 1),
                         0);
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_SYNCED }, 0), 0);
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_ACQUIRE, .mode = NET_NAT, .count = 64 }, 0), 0);
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_CLEAN, .index = 5, .seq = UINT32_MAX }, 0), 0);
        assert_int_equal(parse((struct net_msg){ .op = NET_OP_DROP, .index = UINT32_MAX }, 0), 0);
}

static void refuses_everything_else(void **state)
{
        static const struct {
                struct net_msg msg;
                size_t n_fds;
        } bad[] = {
                { { .op = 0 }, 0 },
                { { .op = NET_OP_DROP + 1 }, 0 },
                { { .op = NET_OP_NETNS }, 0 },
                { { .op = NET_OP_HELLO }, 0 },
                { { .op = NET_OP_HELLO, .version = 1 }, 1 },
                { { .op = NET_OP_HELLO, .version = 1, .mode = 1 }, 0 },
                { { .op = NET_OP_ADOPT, .mode = NET_NONE }, 0 },
                { { .op = NET_OP_ADOPT, .mode = NET_NONE }, 2 },
                { { .op = NET_OP_ADOPT, .mode = 0 }, 1 },
                { { .op = NET_OP_ADOPT, .mode = NET_NONE, .address = 1 }, 1 },
                { { .op = NET_OP_ADOPT, .mode = NET_NAT }, 1 },
                { { .op = NET_OP_SYNCED, .index = 1 }, 0 },
                { { .op = NET_OP_ACQUIRE, .mode = NET_NAT, .count = 0 }, 0 },
                { { .op = NET_OP_ACQUIRE, .mode = NET_NAT, .count = NET_ACQUIRE_MAX + 1 }, 0 },
                { { .op = NET_OP_ACQUIRE, .mode = NET_INTERNET + 1, .count = 1 }, 0 },
                { { .op = NET_OP_ACQUIRE, .mode = NET_NAT, .count = 1, .len = 1 }, 0 },
                { { .op = NET_OP_CLEAN, .index = 1, .error = -1 }, 0 },
                { { .op = NET_OP_DROP, .ok = 1 }, 0 },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(parse(bad[i].msg, bad[i].n_fds), -EBADMSG);
}

static void refuses_other_sizes(void **state)
{
        char data[sizeof(struct net_msg) + 1] = { NET_OP_SYNCED };
        struct net_msg out;

        (void)state;
        for (size_t n = 0; n <= sizeof(data); n++)
                assert_int_equal(msg_parse(data, n, 0, &out), n == sizeof(out) ? 0 : -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(accepts_what_the_protocol_has),
                cmocka_unit_test(refuses_everything_else),
                cmocka_unit_test(refuses_other_sizes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
