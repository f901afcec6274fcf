#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char dir[] = "/tmp/mayfly-test-path-XXXXXX";
static int top = -EBADF;

static int setup(void **state)
{
        (void)state;
        if (!mkdtemp(dir))
                return -1;
        top = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return top < 0 ? -1 : 0;
}

static int teardown(void **state)
{
        (void)state;
        fd_close(top);
        return rmdir(dir);
}

static void test_name(void **state)
{
        char name[257];

        (void)state;
        assert_true(path_name_valid("a"));
        assert_true(path_name_valid("..."));
        assert_false(path_name_valid(""));
        assert_false(path_name_valid("."));
        assert_false(path_name_valid(".."));
        assert_false(path_name_valid("a/b"));
        memset(name, 'a', sizeof(name));
        name[255] = '\0';
        assert_true(path_name_valid(name));
        name[255] = 'a';
        name[256] = '\0';
        assert_false(path_name_valid(name));
}

static void make_file(int at, const char *name)
{
        auto_fd fd = openat(at, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
}

static void test_open_in(void **state)
{
        auto_fd root = -EBADF;
        auto_fd fd = -EBADF;
        struct stat a, b;

        (void)state;
        assert_int_equal(path_mkdirs_in(top, "root/etc", 0755, NULL), 0);
        make_file(top, "passwd");
        root = path_open_in(top, "root", O_PATH | O_DIRECTORY, 0);
        assert_true(root >= 0);
        make_file(root, "etc/passwd");
        assert_int_equal(symlinkat("/etc", root, "absolute"), 0);
        assert_int_equal(symlinkat("../../../../etc", root, "upward"), 0);
        assert_int_equal(symlinkat("/proc/self/root", root, "magic"), 0);
        assert_int_equal(fstatat(root, "etc/passwd", &a, 0), 0);
        fd = path_open_in(root, "absolute/passwd", O_RDONLY, 0);
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &b), 0);
        assert_true(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
        fd_replace(&fd, path_open_in(root, "upward/passwd", O_RDONLY, 0));
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &b), 0);
        assert_true(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_int_equal(path_open_in(root, "../passwd", O_RDONLY, 0), -ENOENT);
        assert_int_equal(path_open_in(root, "magic/etc/passwd", O_RDONLY, 0), -ENOENT);
        fd_replace(&fd, path_open_in(root, "new", O_WRONLY | O_CREAT, 0640));
        assert_true(fd >= 0);
        assert_int_equal(path_remove_tree(top, "root"), 0);
        assert_int_equal(path_remove_tree(top, "passwd"), 0);
}

static void test_mkdirs_in(void **state)
{
        auto_fd fd = -EBADF;
        struct stat st;

        (void)state;
        assert_int_equal(path_mkdirs_in(top, "r/a", 0700, NULL), 0);
        assert_int_equal(symlinkat("/r/target", top, "r/link"), 0);
        assert_int_equal(symlinkat("/r/a", top, "r/good"), 0);
        make_file(top, "r/file");
        assert_int_equal(path_mkdirs_in(top, "r/good//b/./c/../d/", 0750, &fd), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0750);
        assert_int_equal(fstatat(top, "r/a/b/d", &st, 0), 0);
        assert_int_equal(path_mkdirs_in(top, "r/link/x", 0700, NULL), -ENOENT);
        assert_int_equal(path_mkdirs_in(top, "r/file/x", 0700, NULL), -ENOTDIR);
        assert_int_equal(path_mkdirs_in(top, "../../r/e", 0700, NULL), 0);
        assert_int_equal(fstatat(top, "r/e", &st, 0), 0);
        assert_int_equal(path_mkdirs_in(-EBADF, "x", 0700, NULL), -EBADF);
        assert_int_equal(path_remove_tree(top, "r"), 0);
}

static void test_mkdirs(void **state)
{
        auto_free char *path = str_printf("%s/m/n/o", dir);
        auto_free char *file = str_printf("%s/m/file", dir);
        auto_free char *below = str_printf("%s/m/file/x", dir);
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(path_mkdirs(path, 0700, &err), 0);
        assert_int_equal(path_mkdirs(path, 0700, &err), 0);
        make_file(top, "m/file");
        assert_int_equal(path_mkdirs(file, 0700, &err), -ENOTDIR);
        assert_int_equal(path_mkdirs(below, 0700, &err), -ENOTDIR);
        assert_int_equal(path_mkdirs("", 0700, &err), -ENOENT);
        assert_int_equal(path_remove_tree(top, "m"), 0);
}

static void test_remove_tree(void **state)
{
        struct stat st;

        (void)state;
        assert_int_equal(path_mkdirs_in(top, "kept", 0700, NULL), 0);
        make_file(top, "kept/file");
        for (int i = 0; i < 30; i++) {
                char name[64];

                (void)snprintf(name, sizeof(name), "t/%d/%d/deep", i, i);
                assert_int_equal(path_mkdirs_in(top, name, 0700, NULL), 0);
                (void)snprintf(name, sizeof(name), "t/%d/file", i);
                make_file(top, name);
        }
        assert_int_equal(symlinkat("../kept", top, "t/link"), 0);
        assert_int_equal(symlinkat("../../kept", top, "t/3/link"), 0);
        assert_int_equal(path_remove_tree(top, "t"), 0);
        assert_int_equal(fstatat(top, "t", &st, 0), -1);
        assert_int_equal(fstatat(top, "kept/file", &st, 0), 0);
        assert_int_equal(symlinkat("kept", top, "l"), 0);
        assert_int_equal(path_remove_tree(top, "l"), 0);
        assert_int_equal(path_remove_tree(top, "kept"), 0);
        assert_int_equal(path_remove_tree(top, "none"), -ENOENT);
        assert_int_equal(path_remove_tree(top, ".."), -EINVAL);
        assert_int_equal(path_remove_tree(top, "a/b"), -EINVAL);
}

/* Deeper than a path can name, or descriptors reach. */
static void test_remove_deep(void **state)
{
        auto_fd at = -EBADF;

        (void)state;
        assert_int_equal(mkdirat(top, "deep", 0700), 0);
        at = openat(top, "deep", O_PATH | O_DIRECTORY | O_CLOEXEC);
        for (int i = 0; i < 3000; i++) {
                assert_int_equal(mkdirat(at, "some-directory", 0700), 0);
                fd_replace(&at, openat(at, "some-directory", O_PATH | O_DIRECTORY | O_CLOEXEC));
                assert_true(at >= 0);
        }
        assert_int_equal(path_remove_tree(top, "deep"), 0);
}

struct seen {
        int dir, n, stop;
};

static int see(const char *name, void *data)
{
        struct seen *s = data;

        assert_true(name[0] != '.');
        s->n++;
        if (s->stop == s->n)
                return -EXDEV;
        return unlinkat(s->dir, name, 0) < 0 ? -errno : 0;
}

static void test_each_entry(void **state)
{
        char name[] = "/tmp/test-path-XXXXXX";
        auto_fd fd = -EBADF;
        struct seen s = { .n = 0 };

        (void)state;
        assert_non_null(mkdtemp(name));
        s.dir = fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_each_entry(fd, see, &s), 0);
        assert_int_equal(s.n, 0);
        for (int i = 0; i < 300; i++) {
                char file[8];

                (void)snprintf(file, sizeof(file), "f%d", i);
                fd_close(openat(fd, file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        }
        s.stop = 100;
        assert_int_equal(path_each_entry(fd, see, &s), -EXDEV);
        assert_int_equal(s.n, 100);
        s = (struct seen){ .dir = fd };
        assert_int_equal(path_each_entry(fd, see, &s), 0);
        assert_int_equal(s.n, 201);
        assert_int_equal(rmdir(name), 0);
        assert_int_equal(path_each_entry(-EBADF, see, &s), -EBADF);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_each_entry),  cmocka_unit_test(test_name),   cmocka_unit_test(test_open_in),
                cmocka_unit_test(test_mkdirs_in),   cmocka_unit_test(test_mkdirs), cmocka_unit_test(test_remove_tree),
                cmocka_unit_test(test_remove_deep),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
