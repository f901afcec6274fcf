#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char dir[] = "/tmp/mayfly-test-fd-XXXXXX";
static int dirfd_ = -EBADF;

static int setup(void **state)
{
        (void)state;
        if (!mkdtemp(dir))
                return -1;
        dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return dirfd_ < 0 ? -1 : 0;
}

static int teardown(void **state)
{
        (void)state;
        (void)unlinkat(dirfd_, "file", 0);
        (void)unlinkat(dirfd_, "link", 0);
        (void)unlinkat(dirfd_, "sub/file", 0);
        (void)unlinkat(dirfd_, "sub", AT_REMOVEDIR);
        fd_close(dirfd_);
        return rmdir(dir);
}

static void test_cleanup(void **state)
{
        int p[2];

        (void)state;
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        {
                auto_fd a = p[0];
                auto_fd none = -EBADF;
                int b;

                errno = EXDEV;
                b = TAKE_FD(a);
                assert_int_equal(a, -EBADF);
                assert_int_equal(none, -EBADF);
                fd_replace(&b, p[1]);
                p[1] = b;
        }
        assert_int_equal(errno, EXDEV);
        assert_int_equal(fcntl(p[0], F_GETFD), -1);
        assert_true(fcntl(p[1], F_GETFD) >= 0);
        fd_close(p[1]);
        fd_close(-EBADF);
}

static void test_read_write(void **state)
{
        char out[4] = "";
        int p[2];

        (void)state;
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        assert_int_equal(fd_write_all(p[1], "abcdef", 6), 0);
        assert_int_equal(fd_read_full(p[0], out, 3), 0);
        assert_memory_equal(out, "abc", 3);
        fd_close(p[1]);
        assert_int_equal(fd_read_full(p[0], out, 4), -EPIPE);
        assert_int_equal(fd_read_full(-EBADF, out, 4), -EBADF);
        assert_int_equal(fd_write_all(-EBADF, out, 4), -EBADF);
        fd_close(p[0]);
}

static void test_files(void **state)
{
        auto_str s = STR_INIT;
        struct err err = ERR_INIT;
        struct stat st;

        (void)state;
        assert_int_equal(fd_write_file(dirfd_, "file", 0640, "one", 3, &err), 0);
        assert_int_equal(fstatat(dirfd_, "file", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0640);
        assert_int_equal(fd_write_file(dirfd_, "file", 0600, "second", 6, &err), 0);
        assert_int_equal(fd_read_file(dirfd_, "file", 6, &s, &err), 0);
        assert_string_equal(s.data, "second");
        assert_int_equal(fd_read_file(dirfd_, "file", 5, &s, &err), -EFBIG);
        assert_string_equal(s.data, "second");
        assert_int_equal(fd_read_file(dirfd_, "none", 5, &s, &err), -ENOENT);
        assert_int_equal(fd_read_file(dirfd_, ".", 5, &s, &err), -EISDIR);
        assert_int_equal(fd_read_file(AT_FDCWD, "/proc/self/status", 65536, &s, &err), 0);
        assert_true(str_starts(s.data, "Name:"));
        assert_int_equal(fd_read_file(AT_FDCWD, "/dev/zero", 100000, &s, &err), -EFBIG);
}

static void test_write_file_places(void **state)
{
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(mkdirat(dirfd_, "sub", 0700), 0);
        assert_int_equal(fd_write_file(dirfd_, "sub/file", 0600, "x", 1, &err), 0);
        assert_int_equal(fd_write_file(dirfd_, "none/file", 0600, "x", 1, &err), -ENOENT);
        assert_int_equal(fd_write_file(dirfd_, "sub", 0600, "x", 1, &err), -EISDIR);
        assert_int_equal(faccessat(dirfd_, "sub.tmp", F_OK, 0), -1);
        /* What a crash left behind is in nobody's way, and a link there is not followed. */
        assert_int_equal(symlinkat("/nowhere", dirfd_, "sub/file.tmp"), 0);
        assert_int_equal(fd_write_file(dirfd_, "sub/file", 0600, "y", 1, &err), 0);
}

static void test_knobs(void **state)
{
        struct err err = ERR_INIT;
        uint64_t v = 0;

        (void)state;
        assert_int_equal(fd_write_file(dirfd_, "file", 0600, "max\n", 4, &err), 0);
        assert_int_equal(fd_read_knob_u64(dirfd_, "file", &v), 0);
        assert_true(v == UINT64_MAX);
        assert_int_equal(fd_write_knob(dirfd_, "file", "1234", &err), 0);
        assert_int_equal(fd_read_knob_u64(dirfd_, "file", &v), 0);
        assert_int_equal(v, 1234);
        assert_int_equal(fd_write_knob(dirfd_, "file", "abcd", NULL), 0);
        assert_int_equal(fd_read_knob_u64(dirfd_, "file", &v), -EINVAL);
        assert_int_equal(fd_read_knob_u64(dirfd_, "none", &v), -ENOENT);
        assert_int_equal(fd_write_knob(dirfd_, "none", "1", &err), -ENOENT);
        assert_int_equal(symlinkat("file", dirfd_, "link"), 0);
        assert_int_equal(fd_write_knob(dirfd_, "link", "1", &err), -ELOOP);
        assert_int_equal(fd_read_knob_u64(dirfd_, "link", &v), -ELOOP);
}

static void test_nonblock(void **state)
{
        char c;
        int p[2];

        (void)state;
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        assert_int_equal(fd_set_nonblock(p[0], true), 0);
        assert_int_equal(fd_read_full(p[0], &c, 1), -EAGAIN);
        assert_int_equal(fd_set_nonblock(p[0], false), 0);
        assert_false(fcntl(p[0], F_GETFL) & O_NONBLOCK);
        assert_int_equal(fd_set_nonblock(-EBADF, true), -EBADF);
        fd_close(p[0]);
        fd_close(p[1]);
}

static void test_memfd(void **state)
{
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;
        char out[5] = "";

        (void)state;
        assert_int_equal(fd_memfd_sealed("test", "hello", 5, &fd, &err), 0);
        assert_int_equal(fd_read_full(fd, out, 5), 0);
        assert_memory_equal(out, "hello", 5);
        assert_int_equal(pwrite(fd, "x", 1, 0), -1);
        assert_int_equal(ftruncate(fd, 1), -1);
        assert_int_equal(ftruncate(fd, 10), -1);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void test_left(void **state)
{
        struct rlimit before, few;
        uint64_t left;
        int fds[2];

        (void)state;
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        assert_int_equal(fd_left(1), 1);
        few = (struct rlimit){ .rlim_cur = 40, .rlim_max = before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        left = fd_left(100);
        assert_in_range(left, 1, 37);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        assert_int_equal(fd_left(100), left - 2);
        few.rlim_cur = 1;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        assert_int_equal(fd_left(100), 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        fd_close(fds[0]);
        fd_close(fds[1]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cleanup), cmocka_unit_test(test_read_write),
                cmocka_unit_test(test_files),   cmocka_unit_test(test_write_file_places),
                cmocka_unit_test(test_knobs),   cmocka_unit_test(test_nonblock),
                cmocka_unit_test(test_memfd),   cmocka_unit_test(test_left),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
