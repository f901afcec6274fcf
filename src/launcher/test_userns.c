/* User namespaces for containers. Needs root. */
#include "launcher/userns.h"

#include "base/fd.h"
#include "base/test_skip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BASE 2013134848u
#define INSTANCES_MAX 65536

static int make(void)
{
        auto_fd proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct err err = ERR_INIT;
        int fd = -EBADF;

        if (userns_make(proc, USERNS_CONTAINER, 0, BASE, &fd, &err) < 0)
                fail_msg("%s", err.text);
        return fd;
}

/* Runs fn as root of the namespace; it answers its exit code. */
static int inside(int userns, int (*fn)(int arg), int arg)
{
        int status = 0;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0)
                _exit(setns(userns, CLONE_NEWUSER) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 ||
                                      syscall(SYS_setresuid, 0, 0, 0) < 0
                              ? 100
                              : fn(arg));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

static int try_nested(int unused)
{
        (void)unused;
        return unshare(CLONE_NEWUSER) < 0 && errno == ENOSPC ? 0 : 1;
}

static void nothing_nests(void **state)
{
        auto_fd userns = -EBADF;

        (void)state;
        skip_unless_root();
        userns = make();
        assert_int_equal(inside(userns, try_nested, 0), 0);
}

/* Takes all that it can get, and holds it until the other end of the pipe has tried. */
static int hoard(int arg)
{
        char c = 0;
        int n = 0;

        while (n < INSTANCES_MAX && inotify_init1(IN_CLOEXEC) >= 0)
                n++;
        return n < 8 || write(arg, &c, 1) != 1 || read(arg, &c, 1) != 1;
}

static void what_is_roots_stays_roots(void **state)
{
        auto_fd userns = -EBADF;
        int pair[2], fd, status;
        pid_t pid;
        char c;

        (void)state;
        skip_unless_root();
        userns = make();
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                _exit(inside(userns, hoard, pair[1]));
        (void)close(pair[1]);
        assert_int_equal(read(pair[0], &c, 1), 1);
        fd = inotify_init1(IN_CLOEXEC);
        assert_int_equal(write(pair[0], &c, 1), 1);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        (void)close(pair[0]);
        assert_true(fd >= 0);
        (void)close(fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nothing_nests),
                cmocka_unit_test(what_is_roots_stays_roots),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
