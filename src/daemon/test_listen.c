#include "daemon/listen.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/test_skip.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_parse(void **state)
{
        static const struct {
                const char *text, *shown;
                bool tls;
        } good[] = {
                { "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", false },
                { "http://localhost", "tcp://localhost:6293", false },
                { "tcp://[::1]:65535", "tcp://[::1]:65535", false },
                { "https://0.0.0.0:443", "https://0.0.0.0:443", true },
                { "https://*", "https://*:6293", true },
                { "https://[2001:db8::1]", "https://[2001:db8::1]:6293", true },
        };
        struct listen_address a;
        struct err err = ERR_INIT;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(good); i++) {
                assert_int_equal(listen_parse(good[i].text, &a, &err), 0);
                assert_string_equal(a.text, good[i].shown);
                assert_int_equal(a.tls, good[i].tls);
        }
        assert_int_equal(listen_parse("tcp://192.168.1.1:6293", &a, &err), -EINVAL);
        assert_non_null(strstr(err.text, "use https://"));
}

static void test_bind(void **state)
{
        struct listen_address a, other;
        struct err err = ERR_INIT;
        struct sockaddr_in *in = (struct sockaddr_in *)&a.addr;
        socklen_t len = sizeof(*in);
        auto_fd fd = -EBADF, again = -EBADF;

        (void)state;
        assert_int_equal(listen_parse("tcp://127.0.0.1:1", &a, &err), 0);
        assert_int_equal(listen_parse("tcp://127.0.0.1:2", &other, &err), 0);
        in->sin_port = 0;
        assert_int_equal(listen_bind(&a, &fd, &err), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)in, &len), 0);
        assert_true(listen_matches(&a, fd));
        assert_false(listen_matches(&other, fd));
        assert_true(listen_is_local(fd));
        assert_int_equal(listen_bind(&a, &again, &err), -EADDRINUSE);
        assert_int_equal(again, -EBADF);
}

static void test_all_addresses(void **state)
{
        struct listen_address a;
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;

        (void)state;
        assert_int_equal(listen_parse("https://*:1", &a, &err), 0);
        assert_true(a.both);
        ((struct sockaddr_in6 *)&a.addr)->sin6_port = 0;
        if (listen_bind(&a, &fd, &err) == -EAFNOSUPPORT)
                skip_because("no IPv6 here");
        assert_true(fd >= 0);
        assert_false(listen_is_local(fd));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse),
                cmocka_unit_test(test_bind),
                cmocka_unit_test(test_all_addresses),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
