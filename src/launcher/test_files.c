#include "launcher/files.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

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

struct place {
        char dir[64];
        int fd;
};

static const struct files_owner *me(void)
{
        static struct files_owner owner;

        owner = (struct files_owner){ geteuid(), getegid() };
        return &owner;
}

static int set_up(void **state)
{
        static struct place p;

        (void)snprintf(p.dir, sizeof(p.dir), "/tmp/test-files-XXXXXX");
        if (!mkdtemp(p.dir))
                return -1;
        p.fd = open(p.dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        *state = &p;
        return p.fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
        struct place *p = *state;
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        fd_close(p->fd);
        return path_remove_tree(tmp, strrchr(p->dir, '/') + 1);
}

static void content(const struct place *p, const char *name, const char *expected, mode_t mode)
{
        auto_str text = STR_INIT;
        struct stat st;

        assert_int_equal(fd_read_file(p->fd, name, 1024, &text, NULL), 0);
        assert_string_equal(text.data ? text.data : "", expected);
        assert_int_equal(fstatat(p->fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(st.st_mode & 07777, mode);
}

static int put(const struct place *p, const char *path, const char *text, mode_t mode)
{
        return files_write(p->fd, "/work", path, text, strlen(text), mode, me());
}

static void test_write(void **state)
{
        const struct place *p = *state;

        assert_int_equal(put(p, "a/b/c", "one", 0640), 0); /* below the working directory, with parents */
        content(p, "work/a/b/c", "one", 0640);
        assert_int_equal(put(p, "/etc/conf", "two", 04755), 0);
        content(p, "etc/conf", "two", 04755);
        assert_int_equal(put(p, "/etc/conf", "three", 0600), 0); /* replaced */
        content(p, "etc/conf", "three", 0600);
        assert_int_equal(put(p, "/etc", "x", 0600), -EISDIR);
        assert_int_equal(put(p, "/etc/conf/x", "x", 0600), -ENOTDIR);
        assert_int_equal(put(p, "dir/", "x", 0600), -EISDIR);
        assert_int_equal(put(p, "a/..", "x", 0600), -EISDIR);
        assert_int_equal(put(p, "/", "x", 0600), -EISDIR);
}

/* Whatever the image holds, nothing outside the root is touched. */
static void test_links(void **state)
{
        const struct place *p = *state;

        assert_int_equal(mkdirat(p->fd, "inside", 0755), 0);
        assert_int_equal(symlinkat("/inside", p->fd, "absolute"), 0);
        assert_int_equal(symlinkat("../../../../../../inside", p->fd, "up"), 0);
        assert_int_equal(symlinkat("/tmp/test-files-nowhere", p->fd, "dangling"), 0);
        assert_int_equal(symlinkat("/proc/self/root/tmp", p->fd, "magic"), 0);
        assert_int_equal(symlinkat("/etc/passwd", p->fd, "inside/passwd"), 0);
        assert_int_equal(put(p, "/absolute/x", "1", 0600), 0);
        content(p, "inside/x", "1", 0600);
        assert_int_equal(put(p, "/up/y", "2", 0600), 0);
        content(p, "inside/y", "2", 0600);
        assert_int_equal(put(p, "/../../z", "3", 0600), 0); /* as a shell in that root would */
        content(p, "z", "3", 0600);
        assert_int_equal(put(p, "/inside/passwd", "4", 0600), 0); /* the link is replaced, not followed */
        content(p, "inside/passwd", "4", 0600);
        assert_true(put(p, "/dangling/x", "5", 0600) < 0);
        assert_true(put(p, "/magic/x", "6", 0600) < 0);
        assert_int_equal(access("/tmp/test-files-nowhere", F_OK), -1);
}

static void test_make_dir(void **state)
{
        const struct place *p = *state;
        int fd = -EBADF;

        assert_int_equal(files_make_dir(p->fd, "/a//b/./c/", me(), &fd), 0);
        fd_close(fd);
        assert_int_equal(files_make_dir(p->fd, "/", me(), &fd), 0);
        fd_close(fd);
        assert_int_equal(symlinkat("b", p->fd, "a/link"), 0);
        assert_int_equal(files_make_dir(p->fd, "/a/link/d", me(), &fd), 0);
        fd_close(fd);
        assert_int_equal(faccessat(p->fd, "a/b/d", F_OK, 0), 0);
        assert_int_equal(symlinkat("loop", p->fd, "loop"), 0);
        assert_int_equal(files_make_dir(p->fd, "/loop/d", me(), &fd), -ELOOP);
}

/* A descriptor of the host's, as an image's WORKDIR of /proc/self/fd/N would bring it in. */
static void test_chdir(void **state)
{
        const struct place *p = *state;
        char cwd[4096];
        int fd = -EBADF;

        assert_non_null(getcwd(cwd, sizeof(cwd)));
        assert_int_equal(files_chdir(p->fd), 0);
        assert_int_equal(chdir(cwd), 0);
        assert_int_equal(symlinkat("/proc/self/fd/0", p->fd, "fd"), 0);
        assert_true(files_make_dir(p->fd, "/fd", me(), &fd) < 0);
        assert_true(files_make_dir(p->fd, "/proc/self/fd/0/x", me(), &fd) == 0); /* plain names below the root */
        fd_close(fd);
        assert_int_equal(faccessat(p->fd, "proc/self/fd/0/x", F_OK, 0), 0);
}

static void test_kinds(void **state)
{
        const struct place *p = *state;
        char target[16] = "";
        struct stat st;

        assert_int_equal(files_place_dir(p->fd, "/w", "d", 0700, me()), 0);
        assert_int_equal(fstatat(p->fd, "w/d", &st, 0), 0);
        assert_int_equal(st.st_mode, S_IFDIR | 0700);
        assert_int_equal(files_place_dir(p->fd, "/w", "d", 01777, me()), 0); /* it is there */
        assert_int_equal(fstatat(p->fd, "w/d", &st, 0), 0);
        assert_int_equal(st.st_mode, S_IFDIR | 01777);
        assert_int_equal(files_place_link(p->fd, "/w", "d/l", "../../..", me()), 0);
        assert_int_equal(files_place_link(p->fd, "/w", "d/l", "/etc", me()), 0); /* replaced */
        assert_int_equal(readlinkat(p->fd, "w/d/l", target, sizeof(target) - 1), 4);
        assert_string_equal(target, "/etc");
        /* A link that was placed leads nowhere but below the root. */
        assert_int_equal(files_place_dir(p->fd, "/w", "/etc", 0755, me()), 0);
        assert_int_equal(files_write(p->fd, "/w", "d/l/f", "in", 2, 0600, me()), 0);
        content(p, "etc/f", "in", 0600);
        assert_int_equal(files_place_link(p->fd, "/w", "/w/d", "x", me()), -EISDIR);
        assert_int_equal(files_write(p->fd, "/w", "d/l", "over", 4, 0600, me()), 0);
        content(p, "w/d/l", "over", 0600);
        assert_int_equal(files_place_dir(p->fd, "/w", "d/l", 0700, me()), -ENOTDIR);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_kinds, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_write, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_make_dir, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_chdir, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
