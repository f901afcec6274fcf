#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static size_t count_fds(void)
{
        size_t n = 0;

        for (int fd = 0; fd < 256; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

static void pair(int s[2])
{
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
}

static void test_message(void **state)
{
        int s[2], fds[FD_MSG_MAX];
        size_t n = ARRAY_LEN(fds), len = 0;
        char out[16] = "";

        (void)state;
        pair(s);
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, fds, &n), -EAGAIN);
        assert_int_equal(fd_send(s[0], "hello", 5, (int[]){ 0, 1, 2 }, 3), 0);
        assert_int_equal(fd_send(s[0], "plain", 5, NULL, 0), 0);
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, fds, &n), 0);
        assert_int_equal(len, 5);
        assert_int_equal(n, 3);
        for (size_t i = 0; i < n; i++) {
                assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
                fd_close(fds[i]);
        }
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, NULL, NULL), 0);
        assert_int_equal(len, 5);
        fd_close(s[0]);
        n = 0;
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, NULL, &n), 0);
        assert_int_equal(len + n, 0);
        fd_close(s[1]);
}

static void test_too_much(void **state)
{
        int s[2], fds[FD_MSG_MAX], many[FD_MSG_MAX + 1] = { 0 };
        size_t n = 2, len = 0, before;
        char out[4] = "";

        (void)state;
        pair(s);
        before = count_fds();
        assert_int_equal(fd_send(s[0], "x", 1, many, ARRAY_LEN(many)), -EINVAL);
        assert_int_equal(fd_send(s[0], "x", 1, many, 3), 0);
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, fds, &n), -EMSGSIZE);
        assert_int_equal(count_fds(), before);
        n = 2;
        assert_int_equal(fd_send(s[0], "longer", 6, many, 1), 0);
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, fds, &n), -EMSGSIZE);
        assert_int_equal(count_fds(), before);
        assert_int_equal(fd_send(s[0], "x", 1, many, FD_MSG_MAX), 0);
        assert_int_equal(fd_recv(s[1], out, sizeof(out), &len, NULL, NULL), -EMSGSIZE);
        assert_int_equal(count_fds(), before);
        fd_close(s[1]);
        assert_int_equal(fd_send(s[0], "x", 1, NULL, 0), -EPIPE);
        fd_close(s[0]);
}

/* A peer that does not use this library may send more descriptors than any message of ours. */
static void test_flood_of_fds(void **state)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(64 * sizeof(int))];
        } control = { .space = { 0 } };
        struct iovec iov = { .iov_base = (char[]){ 'x' }, .iov_len = 1 };
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        int s[2], fds[FD_MSG_MAX];
        size_t n = FD_MSG_MAX, len, before;
        char out;

        (void)state;
        pair(s);
        before = count_fds();
        *c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(64 * sizeof(int)),
                               .cmsg_level = SOL_SOCKET,
                               .cmsg_type = SCM_RIGHTS };
        assert_int_equal(sendmsg(s[0], &msg, 0), 1);
        assert_int_equal(fd_recv(s[1], &out, 1, &len, fds, &n), -EMSGSIZE);
        assert_int_equal(count_fds(), before);
        fd_close(s[0]);
        fd_close(s[1]);
}

static void test_full(void **state)
{
        char big[8192] = "";
        int s[2], r = 0;

        (void)state;
        pair(s);
        for (int i = 0; i < 10000 && r == 0; i++)
                r = fd_send(s[0], big, sizeof(big), NULL, 0);
        assert_int_equal(r, -EAGAIN);
        fd_close(s[0]);
        fd_close(s[1]);
}

static void test_listen(void **state)
{
        char dir[] = "/tmp/mayfly-test-socket-XXXXXX";
        auto_free char *path = NULL;
        auto_free char *deep = NULL;
        struct err err = ERR_INIT;
        int l = -EBADF, again = -EBADF, c = -EBADF, a;
        struct stat st;
        uid_t uid;

        (void)state;
        assert_non_null(mkdtemp(dir));
        path = str_printf("%s/sock", dir);
        deep = str_printf("%s/%0200d", dir, 0);
        assert_int_equal(fd_listen_unix(path, SOCK_SEQPACKET, (uid_t)-1, (gid_t)-1, 0640, &l, &err), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0640);
        assert_int_equal(fd_connect_unix(path, SOCK_SEQPACKET, &c, &err), 0);
        a = accept4(l, NULL, NULL, SOCK_CLOEXEC);
        assert_true(a >= 0);
        assert_int_equal(fd_peer_uid(a, &uid), 0);
        assert_int_equal(uid, geteuid());
        assert_int_equal(fd_peer_uid(-EBADF, &uid), -EBADF);
        /* A socket that is there is replaced, another file is not. */
        assert_int_equal(fd_listen_unix(path, SOCK_STREAM, geteuid(), getegid(), 0600, &again, &err), 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(fd_connect_unix(path, SOCK_STREAM, &c, &err), -ENOENT);
        assert_int_equal(mkdir(path, 0700), 0);
        fd_close(again);
        assert_int_equal(fd_listen_unix(path, SOCK_STREAM, geteuid(), getegid(), 0600, &again, &err), -EADDRINUSE);
        assert_int_equal(fd_listen_unix(deep, SOCK_STREAM, 0, 0, 0600, &again, &err), -ENAMETOOLONG);
        assert_int_equal(fd_connect_unix("", SOCK_STREAM, &again, &err), -ENAMETOOLONG);
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(rmdir(dir), 0);
        fd_close(a);
        fd_close(c);
        fd_close(l);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_message), cmocka_unit_test(test_too_much), cmocka_unit_test(test_flood_of_fds),
                cmocka_unit_test(test_full),    cmocka_unit_test(test_listen),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
