#include "base/fd.h"

#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_CHUNK 4096
#define KNOB_MAX 64

void fd_close(int fd)
{
        int saved = errno;

        if (fd >= 0)
                (void)close(fd);
        errno = saved;
}

void fd_cleanup(int *fd)
{
        fd_close(*fd);
}

void fd_replace(int *fd, int with)
{
        fd_close(*fd);
        *fd = with;
}

int fd_write_all(int fd, const void *data, size_t len)
{
        const char *p = data;

        while (len > 0) {
                ssize_t n = write(fd, p, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                p += n;
                len -= (size_t)n;
        }
        return 0;
}

int fd_read_full(int fd, void *data, size_t len)
{
        char *p = data;

        while (len > 0) {
                ssize_t n = read(fd, p, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EPIPE;
                p += n;
                len -= (size_t)n;
        }
        return 0;
}

int fd_read_file(int dirfd, const char *name, size_t max, struct str *ret, struct err *err)
{
        auto_fd fd = -EBADF;
        auto_str s = STR_INIT;
        struct stat st;

        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return err_sys(err, "open '%s'", name);
        if (fstat(fd, &st) < 0)
                return err_sys(err, "stat '%s'", name);
        /* Files of the kernel have size 0 and content. */
        if (S_ISREG(st.st_mode) && st.st_size > 0 && (uint64_t)st.st_size <= max &&
            str_reserve(&s, (size_t)st.st_size + 1) < 0)
                return err_oom(err);
        for (;;) {
                ssize_t n;

                if (s.cap - s.len <= 1 && str_reserve(&s, READ_CHUNK) < 0)
                        return err_oom(err);
                n = read(fd, s.data + s.len, s.cap - s.len - 1);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return err_sys(err, "read '%s'", name);
                if (n == 0)
                        break;
                s.len += (size_t)n;
                s.data[s.len] = '\0';
                if (s.len > max)
                        return err_set(err, EFBIG, "'%s' is larger than %zu bytes", name, max);
        }
        str_done(ret);
        *ret = s;
        s = (struct str)STR_INIT;
        return 0;
}

static int sync_parent(int dirfd, const char *name)
{
        const char *slash = strrchr(name, '/');
        auto_free char *parent = slash ? strndup(name, (size_t)MAX(slash - name, 1)) : strdup(".");
        auto_fd fd = -EBADF;

        if (!parent) {
                errno = ENOMEM;
                return -1;
        }
        fd = openat(dirfd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -1;
        return fsync(fd);
}

int fd_write_file(int dirfd, const char *name, mode_t mode, const void *data, size_t len, struct err *err)
{
        auto_free char *tmp = str_printf("%s.tmp", name);
        auto_fd fd = -EBADF;
        int r;

        if (!tmp)
                return err_oom(err);
        /* Left over from a crash; O_EXCL below then refuses whatever somebody else puts there. */
        if (unlinkat(dirfd, tmp, 0) < 0 && errno != ENOENT)
                return err_sys(err, "remove '%s'", tmp);
        fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "create '%s'", tmp);
        r = fd_write_all(fd, data, len);
        if (r == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0 || renameat(dirfd, tmp, dirfd, name) < 0 ||
                       sync_parent(dirfd, name) < 0))
                r = -errno;
        if (r < 0) {
                (void)unlinkat(dirfd, tmp, 0);
                errno = -r;
                return err_sys(err, "write '%s'", name);
        }
        return 0;
}

int fd_write_knob(int dirfd, const char *name, const char *text, struct err *err)
{
        auto_fd fd = -EBADF;
        size_t len = strlen(text);
        ssize_t n;

        fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
        if (fd < 0)
                return err_sys(err, "open '%s'", name);
        do
                n = write(fd, text, len);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return err_sys(err, "write '%s' to '%s'", text, name);
        if ((size_t)n != len)
                return err_set(err, EIO, "write '%s' to '%s': cut short", text, name);
        return 0;
}

int fd_read_knob_u64(int dirfd, const char *name, uint64_t *ret)
{
        char text[KNOB_MAX];
        auto_fd fd = -EBADF;
        ssize_t n;

        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
        if (fd < 0)
                return -errno;
        do
                n = read(fd, text, sizeof(text) - 1);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        if (n > 0 && text[n - 1] == '\n')
                n--;
        text[n] = '\0';
        if (str_eq(text, "max")) {
                *ret = UINT64_MAX;
                return 0;
        }
        return parse_u64(text, ret);
}

int fd_set_nonblock(int fd, bool on)
{
        int flags = fcntl(fd, F_GETFL), want;

        if (flags < 0)
                return -errno;
        want = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        if (want != flags && fcntl(fd, F_SETFL, want) < 0)
                return -errno;
        return 0;
}

static int count_entry(const char *name, void *data)
{
        (void)name;
        ++*(uint64_t *)data;
        return 0;
}

/* From Linux 6.2 the directory's size is the number of its entries (proc(5)). */
static uint64_t fd_open_now(void)
{
        auto_fd dir = -EBADF;
        struct stat st;
        uint64_t n = 0;

        if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
                return (uint64_t)st.st_size;
        dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0 || path_each_entry(dir, count_entry, &n) < 0)
                return UINT64_MAX; /* most probably because there is none left */
        return n - MIN(n, 1U);
}

uint64_t fd_left(uint64_t plenty)
{
        struct rlimit files = { .rlim_cur = 0 };
        uint64_t n;

        if (getrlimit(RLIMIT_NOFILE, &files) < 0)
                return 0;
        if (files.rlim_cur >= plenty)
                return plenty;
        n = fd_open_now();
        return files.rlim_cur > n ? files.rlim_cur - n : 0;
}

int fd_mount(int fd, uint64_t *ret)
{
        struct statx st;

        if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
                return -errno;
        if (!(st.stx_mask & STATX_MNT_ID))
                return -EOPNOTSUPP;
        *ret = st.stx_mnt_id;
        return 0;
}

int fd_memfd_sealed(const char *name, const void *data, size_t len, int *ret, struct err *err)
{
        auto_fd fd = -EBADF;
        int r;

        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return err_sys(err, "memfd '%s'", name);
        r = fd_write_all(fd, data, len);
        if (r < 0) {
                errno = -r;
                return err_sys(err, "write memfd '%s'", name);
        }
        if (lseek(fd, 0, SEEK_SET) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
                return err_sys(err, "seal memfd '%s'", name);
        *ret = TAKE_FD(fd);
        return 0;
}
