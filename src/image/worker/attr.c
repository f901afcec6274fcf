#include "image/worker/attr.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ATTR_CAPABILITY "security.capability"

bool attr_wanted(const char *name)
{
        return str_starts(name, "user.") || str_eq(name, ATTR_CAPABILITY);
}

static int set_xattrs(int fd, const struct tar_entry *e, struct err *err)
{
        const char *name;
        const void *value;
        size_t len;

        tar_xattrs_start(e);
        while ((name = tar_xattr_next(e, &value, &len))) {
                if (!attr_wanted(name) || fsetxattr(fd, name, value, len, 0) == 0)
                        continue;
                /* What the file system cannot hold is left out, as docker does. */
                if (errno == EOPNOTSUPP || errno == EPERM)
                        continue;
                if (errno == ENOSPC || errno == E2BIG || errno == ERANGE || errno == EINVAL)
                        return err_set(err, EBADMSG, "attribute '%.64s': %s", name, strerror(errno));
                return err_sys(err, "attribute '%.64s'", name);
        }
        return 0;
}

int attr_set(int fd, const struct tar_entry *e, struct err *err)
{
        struct timespec times[2] = { e->mtime, e->mtime };
        int r;

        /* chown(2) clears set-id bits and capabilities, so it comes first. */
        if (fchown(fd, e->uid, e->gid) < 0)
                return err_sys(err, "owner");
        r = set_xattrs(fd, e, err);
        if (r < 0)
                return r;
        if (fchmod(fd, e->mode) < 0)
                return err_sys(err, "mode");
        if (e->type != TAR_DIR && futimens(fd, times) < 0)
                return err_sys(err, "times");
        return 0;
}

int attr_set_at(int dirfd, const char *name, const struct tar_entry *e, struct err *err)
{
        struct timespec times[2] = { e->mtime, e->mtime };

        if (fchownat(dirfd, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, "owner");
        if (e->type == TAR_FIFO && fchmodat(dirfd, name, e->mode, 0) < 0)
                return err_sys(err, "mode");
        if (utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, "times");
        return 0;
}

/* The list of names, NUL-terminated one after the other. */
static int list(int fd, char **ret, size_t *ret_len)
{
        auto_free char *names = NULL;
        ssize_t n = flistxattr(fd, NULL, 0);

        if (n < 0)
                return errno == EOPNOTSUPP ? 0 : -errno;
        names = malloc((size_t)n + 1);
        if (!names)
                return -ENOMEM;
        n = flistxattr(fd, names, (size_t)n);
        if (n < 0)
                return -errno;
        names[n] = '\0';
        *ret = TAKE_PTR(names);
        *ret_len = (size_t)n;
        return 0;
}

static int remove_xattrs(int fd)
{
        auto_free char *names = NULL;
        size_t len = 0;
        int r;

        r = list(fd, &names, &len);
        for (size_t i = 0; r == 0 && i < len; i += strlen(names + i) + 1) {
                if (attr_wanted(names + i) && fremovexattr(fd, names + i) < 0)
                        return -errno;
        }
        return r;
}

static int copy_xattrs(int from, int to)
{
        auto_free char *names = NULL, *value = malloc(XATTR_SIZE_MAX);
        size_t len = 0;
        int r;

        if (!value)
                return -ENOMEM;
        r = list(from, &names, &len);
        for (size_t i = 0; r == 0 && i < len; i += strlen(names + i) + 1) {
                ssize_t n;

                if (!attr_wanted(names + i))
                        continue;
                n = fgetxattr(from, names + i, value, XATTR_SIZE_MAX);
                if (n < 0 || fsetxattr(to, names + i, value, (size_t)n, 0) < 0)
                        return -errno;
        }
        return r;
}

int attr_copy(int from, const struct stat *st, int to)
{
        const struct timespec times[2] = { st->st_atim, st->st_mtim };
        int r;

        if (fchown(to, st->st_uid, st->st_gid) < 0)
                return -errno;
        r = remove_xattrs(to);
        if (r == 0)
                r = copy_xattrs(from, to);
        if (r < 0)
                return r;
        if (fchmod(to, st->st_mode & 07777) < 0 || futimens(to, times) < 0)
                return -errno;
        return 0;
}
