#include "net/names.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/test_skip.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* A socket of another user under any name that looks like a lock; when it is there, `ready` is written to. */
static _Noreturn void squat(int ready)
{
        static const char name[] = "\0mayfly-netd/testlock/0000000000000000";
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        memcpy(sa.sun_path, name, sizeof(name) - 1);
        if (setuid(65534) < 0)
                _exit(1);
        close(fd);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (bind(fd, (struct sockaddr *)&sa, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof(name) - 1)) <
                    0 ||
            listen(fd, 1) < 0 || write(ready, "x", 1) != 1)
                _exit(1);
        (void)pause();
        _exit(0);
}

static void locks_keep_others_out(void **state)
{
        struct err err = ERR_INIT;
        auto_fd first = -EBADF, second = -EBADF;
        struct sockaddr_un sa;
        socklen_t len = sizeof(sa);
        int client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        (void)state;
        assert_int_equal(names_lock("testlock", &first, &err), 0);
        assert_int_equal(names_lock("testlock", &second, &err), -EBUSY);
        assert_int_equal(second, -EBADF);
        assert_int_equal(names_lock("testlock-2", &second, &err), 0);
        fd_replace(&second, -EBADF);
        assert_int_equal(names_lock("testloc", &second, &err), 0);
        /* There is nobody behind it. */
        assert_int_equal(getsockname(first, (struct sockaddr *)&sa, &len), 0);
        assert_int_equal(connect(client, (struct sockaddr *)&sa, len), -1);
        assert_int_equal(errno, ECONNREFUSED);
        close(client);
        fd_replace(&first, -EBADF);
        assert_int_equal(names_lock("testlock", &first, &err), 0);
}

static void other_users_cannot_lock(void **state)
{
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;
        int ready[2];
        char c;
        pid_t pid;

        (void)state;
        skip_unless_root();
        assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                squat(ready[1]);
        close(ready[1]);
        assert_int_equal(read(ready[0], &c, 1), 1);
        close(ready[0]);
        assert_int_equal(names_lock("testlock", &fd, &err), 0);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(instances),
                cmocka_unit_test(links),
                cmocka_unit_test(instances_do_not_meet),
                cmocka_unit_test(locks_keep_others_out),
                cmocka_unit_test(other_users_cannot_lock),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
