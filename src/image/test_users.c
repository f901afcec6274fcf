#include "image/users.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
                             "\n"
                             "# comment\n"
                             "web:x:33:34:Web,,,:/srv/www:/bin/false\r\n"
                             "  spaced:x:40:41::/home/spaced:\n"
                             "1000:x:77:78::/numbered:\n"
                             "big:x:70000:1::/:\n"
                             "huge:x:4294967296:0::/:\n"
                             "short:x:5\n"
                             "web:x:99:99::/second:\n";
static const char group[] = "root:x:0:root\n"
                            "www:x:34:\n"
                            "extra:x:50:nobody,web,spaced\n"
                            "webs:x:51:webs\n"
                            "more:x:52:web\n"
                            "44:x:45:\n"
                            "bad:x:-1:web\n";

struct expected {
        const char *user;
        int r;
        uint32_t uid, gid;
        size_t n_groups;
        const char *home;
};

static const struct expected cases[] = {
        { "", 0, 0, 0, 1, "/root" },
        { "root", 0, 0, 0, 1, "/root" },
        { "0", 0, 0, 0, 1, "/root" },
        { "web", 0, 33, 34, 2, "/srv/www" },
        { "33", 0, 33, 34, 2, "/srv/www" },
        { "033", 0, 33, 34, 2, "/srv/www" },
        { "web:", 0, 33, 34, 2, "/srv/www" },
        { "web:www", 0, 33, 34, 0, "/srv/www" },
        { "web:extra", 0, 33, 50, 0, "/srv/www" },
        { "web:51", 0, 33, 51, 0, "/srv/www" },
        { "web:60000", 0, 33, 60000, 0, "/srv/www" },
        { ":www", 0, 0, 34, 0, "/root" },
        { "spaced", 0, 40, 41, 1, "/home/spaced" },
        { "1000", 0, 77, 78, 0, "/numbered" },
        { "1234", 0, 1234, 0, 0, "/" },
        { "1234:1235", 0, 1234, 1235, 0, "/" },
        { "web:44", 0, 33, 45, 0, "/srv/www" },
        { "65535", 0, 65535, 0, 0, "/" },
        { "65536", -EINVAL, 0, 0, 0, "" },
        { "4294967296", -EINVAL, 0, 0, 0, "" },
        { "18446744073709551616", -EINVAL, 0, 0, 0, "" },
        { "-1", -EINVAL, 0, 0, 0, "" },
        { "+0", -EINVAL, 0, 0, 0, "" },
        { "0x0", -EINVAL, 0, 0, 0, "" },
        { " 0", -EINVAL, 0, 0, 0, "" },
        { "nobody", -EINVAL, 0, 0, 0, "" },
        { "short", -EINVAL, 0, 0, 0, "" },
        { "big", -EINVAL, 0, 0, 0, "" },
        { "huge", -EINVAL, 0, 0, 0, "" },
        { "web:nobody", -EINVAL, 0, 0, 0, "" },
        { "web:65536", -EINVAL, 0, 0, 0, "" },
        { "web:-1", -EINVAL, 0, 0, 0, "" },
        { "web:www:x", -EINVAL, 0, 0, 0, "" },
        { "# comment", -EINVAL, 0, 0, 0, "" },
};

static void test_cases(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                const struct expected *e = &cases[i];
                struct image_user u = { .uid = 4711 };
                struct err err = ERR_INIT;
                int r = image_users_find(passwd, group, e->user, &u, &err);

                if (r != e->r)
                        fail_msg("'%s': %d: %s", e->user, r, err.text);
                if (r < 0) {
                        assert_int_equal(u.uid, 4711);
                        assert_true(err.text[0] != '\0');
                        continue;
                }
                if (u.uid != e->uid || u.gid != e->gid || u.n_groups != e->n_groups || !str_eq(u.home, e->home))
                        fail_msg("'%s': %u:%u, %zu groups, %s", e->user, u.uid, u.gid, u.n_groups, u.home);
        }
}

static void test_nothing(void **state)
{
        struct image_user u;

        (void)state;
        assert_int_equal(image_users_find(NULL, NULL, "", &u, NULL), 0);
        assert_int_equal(u.uid, 0);
        assert_string_equal(u.home, "/");
        assert_int_equal(image_users_find(NULL, NULL, "7:8", &u, NULL), 0);
        assert_int_equal(u.gid, 8);
        assert_int_equal(image_users_find(NULL, NULL, "web", &u, NULL), -EINVAL);
        assert_int_equal(image_users_find(NULL, NULL, "0:www", &u, NULL), -EINVAL);
}

static void test_many_groups(void **state)
{
        auto_str text = STR_INIT;
        struct image_user u;

        (void)state;
        for (int i = 0; i < 100; i++)
                assert_int_equal(str_addf(&text, "g%d:x:%d:root\n", i, i), 0);
        assert_int_equal(image_users_find(passwd, text.data, "root", &u, NULL), 0);
        assert_int_equal(u.n_groups, ARRAY_LEN(u.groups));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cases),
                cmocka_unit_test(test_nothing),
                cmocka_unit_test(test_many_groups),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
