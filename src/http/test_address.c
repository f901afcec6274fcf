#include "http/address.h"

#include "base/str.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_addresses(void **state)
{
        static const struct {
                const char *text, *shown, *key;
        } good[] = {
                { "192.0.2.1", "192.0.2.1", "192.0.2.1" },
                { "2001:DB8:0::1", "2001:db8::1", "2001:db8::" },
                { "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::" },
                { "::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1" },
        };
        static const char *const bad[] = { "",    "1.2.3",     "1.2.3.4.5", "1.2.3.256", "x",
                                           "::g", "1.2.3.4/8", "[::1]",     " ::1" };
        struct http_address a;
        char key[HTTP_ADDRESS_KEY_MAX];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(good); i++) {
                assert_int_equal(http_address_parse(good[i].text, &a), 0);
                assert_string_equal(a.text, good[i].shown);
                http_address_key(&a, key);
                assert_string_equal(key, good[i].key);
        }
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(http_address_parse(bad[i], &a), -EINVAL);
}

static void test_networks(void **state)
{
        static const char *const bad[] = { "",       "/",         "10.0.0.0/33", "10.0.0.1/8",
                                           "::/129", "10.0.0.0/", "10.0.0.0/-1", "x/8" };
        static const struct {
                const char *network, *address;
                bool in;
        } cases[] = {
                { "10.0.0.0/8", "10.255.0.1", true },
                { "10.0.0.0/8", "11.0.0.1", false },
                { "10.0.0.0/8", "::ffff:10.1.1.1", true },
                { "0.0.0.0/0", "1.2.3.4", true },
                { "0.0.0.0/0", "::1", false },
                { "192.0.2.128/25", "192.0.2.127", false },
                { "192.0.2.128/25", "192.0.2.200", true },
                { "192.0.2.7", "192.0.2.7", true },
                { "192.0.2.7", "192.0.2.6", false },
                { "2001:db8::/33", "2001:db8:7fff::1", true },
                { "2001:db8::/33", "2001:db8:8000::1", false },
        };
        struct http_network n;
        struct http_address a;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(http_network_parse(bad[i], &n), -EINVAL);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                assert_int_equal(http_network_parse(cases[i].network, &n), 0);
                assert_int_equal(http_address_parse(cases[i].address, &a), 0);
                assert_int_equal(http_network_has(&n, 1, &a), cases[i].in);
        }
}

static void test_forwarded_for(void **state)
{
        static const struct {
                const char *lines[3];
                const char *client;
        } cases[] = {
                { { "198.51.100.7" }, "198.51.100.7" },
                { { "1.1.1.1, 198.51.100.7" }, "198.51.100.7" },
                { { "1.1.1.1, 198.51.100.7, 10.0.0.2" }, "198.51.100.7" },
                { { "1.1.1.1", "198.51.100.7", "10.0.0.2,10.0.0.3" }, "198.51.100.7" },
                { { "10.0.0.9, 10.0.0.2" }, "10.0.0.9" },
                { { "198.51.100.7:4711" }, "198.51.100.7" },
                { { "[2001:db8::1]:80" }, "2001:db8::1" },
                { { "\"[2001:db8::1]\"" }, "2001:db8::1" },
                { { "2001:db8::1 ,\t10.0.0.2 " }, "2001:db8::1" },
                { { "198.51.100.7, unknown, 10.0.0.2" }, "10.0.0.2" },
                { { "198.51.100.7, " }, "10.0.0.1" },
                { { "" }, "10.0.0.1" },
                { { "unknown" }, "10.0.0.1" },
                { { "[::1" }, "10.0.0.1" },
                { { NULL }, "10.0.0.1" },
        };
        struct http_network trusted;

        (void)state;
        assert_int_equal(http_network_parse("10.0.0.0/8", &trusted), 0);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct http_address a;
                size_t n = 0;

                while (n < 3 && cases[i].lines[n])
                        n++;
                assert_int_equal(http_address_parse("10.0.0.1", &a), 0);
                http_forwarded_for(cases[i].lines, n, &trusted, 1, &a);
                assert_string_equal(a.text, cases[i].client);
        }
}

/* Each prefix of a good header must ask for more, and nothing behind it may matter. */
static void check_proxy(const void *header, size_t len, const char *client)
{
        static const char behind[] = { 'G', 'E', 'T', ' ', '/', '\r', '\n' };
        char data[HTTP_PROXY_MAX + sizeof(behind)];
        struct http_address a = { .family = AF_UNIX, .text = "before" };

        for (size_t i = 0; i < len; i++)
                assert_int_equal(http_proxy_parse(header, i, &a), 0);
        assert_string_equal(a.text, "before");
        memcpy(data, header, len);
        memcpy(data + len, behind, sizeof(behind));
        assert_int_equal(http_proxy_parse(data, len + sizeof(behind), &a), len);
        assert_string_equal(a.text, client);
}

static void test_proxy_v1(void **state)
{
        static const char *const bad[] = {
                "GET / HTTP/1.1\r\n",
                "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
                "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
                "PROXY TCP4 ::1 ::2 1 2\r\n",
                "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
                "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
                "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
                "PROXY \r\n",
                "PROXY\r\n",
                "\r\n\r\nGET",
        };
        char longest[120] = "PROXY ";
        struct http_address a;

        (void)state;
        check_proxy("PROXY TCP4 198.51.100.7 10.0.0.1 4711 80\r\n", 42, "198.51.100.7");
        check_proxy("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", 32, "2001:db8::1");
        check_proxy("PROXY UNKNOWN\r\n", 15, "before");
        check_proxy("PROXY UNKNOWN what ever it may be\r\n", 35, "before");
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(http_proxy_parse(bad[i], strlen(bad[i]), &a), -EINVAL);
        memset(longest + 6, 'x', sizeof(longest) - 6);
        assert_int_equal(http_proxy_parse(longest, 106, &a), 0);
        assert_int_equal(http_proxy_parse(longest, 107, &a), -EINVAL);
}

static void test_proxy_v2(void **state)
{
        static const uint8_t client[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = 1 };
        char header[16 + 36 + 5] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x0a\0\0\1\x12\x67\0\x50";
        struct http_address a;

        (void)state;
        check_proxy(header, 28, "198.51.100.7");
        header[15] = 12 + 5; /* what follows the addresses is passed over */
        check_proxy(header, 33, "198.51.100.7");
        header[12] = 0x20; /* LOCAL: a proxy that speaks for itself */
        check_proxy(header, 33, "before");
        header[12] = 0x21;
        header[13] = 0x31; /* a unix socket */
        check_proxy(header, 33, "before");
        header[13] = 0x21;
        assert_int_equal(http_proxy_parse(header, 33, &a), -EINVAL);
        header[15] = 36;
        memcpy(header + 16, client, sizeof(client));
        check_proxy(header, 52, "2001:db8::1");
        header[12] = 0x22;
        assert_int_equal(http_proxy_parse(header, 52, &a), -EINVAL);
        header[12] = 0x11;
        assert_int_equal(http_proxy_parse(header, 52, &a), -EINVAL);
        header[12] = 0x21;
        header[14] = 0x40;
        assert_int_equal(http_proxy_parse(header, 52, &a), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_addresses), cmocka_unit_test(test_networks), cmocka_unit_test(test_forwarded_for),
                cmocka_unit_test(test_proxy_v1),  cmocka_unit_test(test_proxy_v2),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
