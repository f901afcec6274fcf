#include "net/resolv.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void check(const char *in, const char *out)
{
        struct resolv_conf conf;

        resolv_parse(in, strlen(in), 0, &conf);
        assert_int_equal(conf.len, strlen(out));
        assert_memory_equal(conf.text, out, conf.len);
}

static void keeps_what_a_task_can_use(void **state)
{
        (void)state;
        check("", "");
        check("nameserver 10.0.0.2\n", "nameserver 10.0.0.2\n");
        check("# nameserver 1.1.1.1\n;x\nnameserver\t 10.0.0.2 # tail\nsearch a.example  b.example\r\noptions ndots:2",
              "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2\n");
        check("options edns0\noptions trust-ad\n", "options edns0 trust-ad\n");
        check("domain first\nsearch last\n", "search last\n");
        check("nameserver 10.0.0.2\nnameserver 10.0.0.2\n", "nameserver 10.0.0.2\n");
        check("nameserver 169.254.169.253\n", "nameserver 169.254.169.253\n");
}

static void leaves_out_the_rest(void **state)
{
        (void)state;
        check("nameserver fd00::1\nnameserver fe80::1%eth0\nnameserver 10.1\nnameserver 10.0.0.256\n", "");
        check("nameserver 224.0.0.1\nnameserver 255.255.255.255\nnameserver 0.1.2.3\nnameserver\nnameserver \n", "");
        check("Nameserver 10.0.0.2\n nameserver10.0.0.2\nsortlist 10.0.0.0\n", "");
        check("search a;b $(x) ok\n", "search ok\n");
        check("nameserver 10.0.0.2222222222222222222222222222222222222222\n", "");
}

static void tells_servers_apart(void **state)
{
        static const struct {
                const char *four, *six; /* one of the two */
                uint16_t port;
                uint32_t scope;
        } rows[] = {
                { .four = "10.0.0.2", .port = 53 },
                { .four = "10.0.0.3", .port = 53 },
                { .four = "10.0.0.2", .port = 5353 },
                { .six = "fe80::1", .port = 53, .scope = 2 },
                { .six = "fe80::1", .port = 53, .scope = 3 },
                { .six = "fe80::1", .port = 5353, .scope = 2 },
                { .six = "fe80::2", .port = 53, .scope = 2 },
                { .six = "::ffff:10.0.0.2", .port = 53 },
                { .six = "::", .port = 53 },
                { .four = "0.0.0.0", .port = 53 },
        };
        union resolv_address all[2][ARRAY_LEN(rows)];

        (void)state;
        /* What lies beside the address says nothing. */
        memset(all[0], 0, sizeof(all[0]));
        memset(all[1], 0xff, sizeof(all[1]));
        for (size_t i = 0; i < 2 * ARRAY_LEN(rows); i++) {
                size_t row = i / 2;
                union resolv_address *a = &all[i % 2][row];

                if (rows[row].four) {
                        a->in.sin_family = AF_INET;
                        a->in.sin_port = htons(rows[row].port);
                        assert_int_equal(inet_pton(AF_INET, rows[row].four, &a->in.sin_addr), 1);
                        continue;
                }
                a->in6.sin6_family = AF_INET6;
                a->in6.sin6_port = htons(rows[row].port);
                a->in6.sin6_scope_id = rows[row].scope;
                assert_int_equal(inet_pton(AF_INET6, rows[row].six, &a->in6.sin6_addr), 1);
        }
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
                for (size_t k = 0; k < ARRAY_LEN(rows); k++)
                        assert_int_equal(resolv_address_eq(&all[0][i], &all[1][k]), i == k);
}

static void knows_loopback(void **state)
{
        static const char *const loopback[] = { "127.0.0.53", "127.0.0.1", "127.1.2.3", "0.0.0.0", "::1" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(loopback); i++) {
                auto_free char *text = str_printf("nameserver %s\nsearch x\n", loopback[i]);
                struct resolv_conf conf;

                assert_non_null(text);
                resolv_parse(text, strlen(text), 0, &conf);
                assert_true(conf.loopback);
                assert_int_equal(conf.n, 0);
                check(text, "search x\n");
        }
}

/* 10.213.0.1 */
#define FORWARDER UINT32_C(0x0ad50001)

static void check_forwarded(const char *in, const char *out, size_t asked, const char *first)
{
        char text[INET6_ADDRSTRLEN] = "";
        struct resolv_conf conf;

        resolv_parse(in, strlen(in), FORWARDER, &conf);
        assert_int_equal(conf.len, strlen(out));
        assert_memory_equal(conf.text, out, conf.len);
        assert_int_equal(conf.forwarded, strstr(out, "10.213.0.1") != NULL);
        assert_int_equal(conf.n_asked, asked);
        if (conf.asked[0].sa.sa_family == AF_INET)
                assert_non_null(inet_ntop(AF_INET, &conf.asked[0].in.sin_addr, text, sizeof(text)));
        else
                assert_non_null(inet_ntop(AF_INET6, &conf.asked[0].in6.sin6_addr, text, sizeof(text)));
        assert_string_equal(text, first);
        assert_int_equal(conf.asked[0].in.sin_port, htons(53));
}

static void forwards_what_a_task_cannot_ask(void **state)
{
        (void)state;
        check_forwarded("nameserver 127.0.0.53\nsearch x\n", "nameserver 10.213.0.1\nsearch x\n", 1, "127.0.0.53");
        check_forwarded("nameserver ::1\n", "nameserver 10.213.0.1\n", 1, "::1");
        check_forwarded("nameserver 2001:db8::1\nnameserver fe80::1%lo\n", "nameserver 10.213.0.1\n", 2, "2001:db8::1");
        check_forwarded("", "nameserver 10.213.0.1\n", 1, "127.0.0.1");
        check_forwarded("nameserver ::1\nnameserver 10.0.0.2\n", "nameserver 10.0.0.2\n", 2, "::1");
        check_forwarded("nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\nnameserver 127.0.0.4\n",
                        "nameserver 10.213.0.1\n", 3, "127.0.0.1");
        check_forwarded("nameserver ff02::fb\nnameserver 2001:db8::1::2\nnameserver 224.0.0.1\n",
                        "nameserver 10.213.0.1\n", 1, "127.0.0.1");
}

static void is_bounded(void **state)
{
        struct resolv_conf conf;
        auto_str s = STR_INIT;

        (void)state;
        for (int i = 0; i < 4000; i++) {
                assert_int_equal(str_addf(&s, "nameserver 10.0.%d.%d\n", i / 256, i % 256), 0);
                assert_int_equal(str_addf(&s, "options o%d:aaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", i), 0);
                assert_int_equal(str_adds(&s, "search"), 0);
                for (int j = 0; j < 50; j++)
                        assert_int_equal(str_addf(&s, " domain-number-%d.example", j), 0);
                assert_int_equal(str_addc(&s, '\n'), 0);
        }
        resolv_parse(s.data, s.len, 0, &conf);
        assert_int_equal(conf.n, RESOLV_SERVERS_MAX);
        assert_true(conf.len <= sizeof(conf.text));
        assert_int_equal(conf.text[conf.len - 1], '\n');
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(keeps_what_a_task_can_use),
                cmocka_unit_test(leaves_out_the_rest),
                cmocka_unit_test(tells_servers_apart),
                cmocka_unit_test(knows_loopback),
                cmocka_unit_test(forwards_what_a_task_cannot_ask),
                cmocka_unit_test(is_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
