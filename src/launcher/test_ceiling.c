#include "launcher/ceiling.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/test_skip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define REQUIRED "store /var/lib/mayfly/store\nuid 998\ngid 997\n"

static int parse(const char *text, struct ceiling *c)
{
        struct err err = ERR_INIT;
        int r = ceiling_parse(text, c, &err);

        if (r < 0)
                assert_int_equal(-r, err.num);
        return r;
}

static void test_defaults(void **state)
{
        struct ceiling c;

        (void)state;
        assert_int_equal(parse(REQUIRED, &c), 0);
        assert_string_equal(c.store, "/var/lib/mayfly/store");
        assert_string_equal(c.name, "mayfly");
        assert_string_equal(c.socket, "");
        assert_int_equal(c.socket_fd, -EBADF);
        assert_int_equal(c.uid, 998);
        assert_int_equal(c.gid, 997);
        assert_int_equal(c.id_base, 2013265920);
        assert_int_equal(c.slots, 512);
        assert_true(c.caps == UINT64_C(0x800405fb));
        assert_int_equal(c.cgroup, CEILING_CGROUP_AUTO);
}

static void test_all_keys(void **state)
{
        struct ceiling c;

        (void)state;
        assert_int_equal(parse("# comment\n\n" REQUIRED
                               "socket /run/mayfly/launcher.sock\nname a-b1\ncgroup delegated\n"
                               "id-base 1000000\nslots 7\ncaps 5\nmemory-max 1024\ncpu-max 2000\npids-max 9\n",
                               &c),
                         0);
        assert_string_equal(c.socket, "/run/mayfly/launcher.sock");
        assert_string_equal(c.name, "a-b1");
        assert_int_equal(c.cgroup, CEILING_CGROUP_DELEGATED);
        assert_int_equal(c.id_base, 1000000);
        assert_int_equal(c.slots, 7);
        assert_int_equal(c.caps, 5);
        assert_int_equal(c.memory_max, 1024);
        assert_int_equal(c.cpu_max, 2000);
        assert_int_equal(c.pids_max, 9);
}

static void test_bad(void **state)
{
        static const char *const bad[] = {
                "",
                "uid 1\ngid 1\n",
                "store /a\ngid 1\n",
                "store a\nuid 1\ngid 1\n",
                "store /a,b\nuid 1\ngid 1\n",
                "store /a:b\nuid 1\ngid 1\n",
                "store /a/../b\nuid 1\ngid 1\n",
                REQUIRED "uid 5\n",
                REQUIRED "slots 0\n",
                REQUIRED "slots 5000\n",
                REQUIRED "slots -1\n",
                REQUIRED "slots 0x10\n",
                REQUIRED "slots\n",
                REQUIRED "colour red\n",
                REQUIRED "name ../x\n",
                REQUIRED "name -x\n",
                REQUIRED "name \n",
                REQUIRED "cgroup here\n",
                REQUIRED "id-base 5\n",
                REQUIRED "id-base 4294900000\n",
                REQUIRED "socket-fd 1\n",
                REQUIRED "socket /a\nsocket-fd 3\n",
                REQUIRED "caps 99999999999999999999\n",
        };
        struct ceiling c = { .slots = 42 };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(parse(bad[i], &c), -EINVAL);
        assert_int_equal(c.slots, 42); /* failure leaves it alone */
}

static int load(const char *text, size_t len, mode_t mode)
{
        char path[] = "/tmp/test-ceiling-XXXXXX";
        struct err err = ERR_INIT;
        struct ceiling c;
        int fd = mkstemp(path), r;

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, len), 0);
        assert_int_equal(fchmod(fd, mode), 0);
        r = ceiling_load(path, &c, &err);
        fd_close(fd);
        assert_int_equal(unlink(path), 0);
        return r;
}

static void test_file(void **state)
{
        static char large[CEILING_FILE_MAX + 2];
        struct err err = ERR_INIT;
        struct ceiling c;

        (void)state;
        skip_unless_root();
        assert_int_equal(load(REQUIRED, strlen(REQUIRED), 0600), 0);
        assert_int_equal(load(REQUIRED, strlen(REQUIRED), 0620), -EPERM);
        assert_int_equal(load(REQUIRED, strlen(REQUIRED), 0602), -EPERM);
        assert_int_equal(load(REQUIRED "\0", strlen(REQUIRED) + 1, 0600), -EINVAL);
        memset(large, '\n', sizeof(large));
        assert_int_equal(load(large, sizeof(large), 0600), -EFBIG);
        assert_int_equal(ceiling_load("/dev/null", &c, &err), -EPERM);
        assert_int_equal(ceiling_load("/nonexistent", &c, &err), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_all_keys),
                cmocka_unit_test(test_bad),
                cmocka_unit_test(test_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
