#include "launcher/files.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "launcher/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_SIZE (2 * LAUNCH_TEXT_MAX)

static int own(int fd, const char *name, const struct files_owner *owner)
{
        return fchownat(fd, name, owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* The directory `path`; its last component `name` is made in `parent` if it is not there. */
static int step(int root, const char *path, int parent, const char *name, const struct files_owner *owner)
{
        int fd = path_open_in(root, path, O_PATH | O_DIRECTORY, 0);
        int r;

        if (fd != -ENOENT)
                return fd;
        if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
                return -errno;
        r = own(parent, name, owner);
        return r < 0 ? r : path_open_in(root, path, O_PATH | O_DIRECTORY, 0);
}

int files_make_dir(int root, const char *path, const struct files_owner *owner, int *ret)
{
        char copy[PATH_SIZE];
        size_t n = strlen(path);
        auto_fd fd = path_open_in(root, path, O_PATH | O_DIRECTORY, 0);

        if (fd == -ENOENT && n < sizeof(copy)) {
                memcpy(copy, path, n + 1);
                fd = path_open_in(root, "/", O_PATH | O_DIRECTORY, 0);
                for (char *p = copy; fd >= 0 && *(p += strspn(p, "/"));) {
                        char *end = p + strcspn(p, "/"), c = *end;

                        *end = '\0';
                        fd_replace(&fd, step(root, copy, fd, p, owner));
                        *end = c;
                        p = end;
                }
        }
        if (fd < 0)
                return fd;
        *ret = TAKE_FD(fd);
        return 0;
}

static int open_new(int dir, const char *name)
{
        int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

        if (fd >= 0 || errno != EEXIST)
                return fd < 0 ? -errno : fd;
        if (unlinkat(dir, name, 0) < 0)
                return -errno;
        fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        return fd < 0 ? -errno : fd;
}

/* The whole path in `full`, cut at its last component, whose directory is made. */
static int open_parent(int root, const char *workdir, const char *path, const struct files_owner *owner,
                       char full[PATH_SIZE], const char **ret_name, int *ret)
{
        char *slash;

        (void)snprintf(full, PATH_SIZE, "%s/%s", path[0] == '/' ? "" : workdir, path);
        slash = strrchr(full, '/');
        if (!path_name_valid(slash + 1))
                return -EISDIR;
        *slash = '\0';
        *ret_name = slash + 1;
        return files_make_dir(root, full[0] ? full : "/", owner, ret);
}

int files_write(int root, const char *workdir, const char *path, const void *data, size_t len, mode_t mode,
                const struct files_owner *owner)
{
        char full[PATH_SIZE];
        auto_fd dir = -EBADF;
        auto_fd fd = -EBADF;
        const char *name;
        int r = open_parent(root, workdir, path, owner, full, &name, &dir);

        if (r < 0)
                return r;
        fd = open_new(dir, name);
        if (fd < 0)
                return fd;
        r = fd_write_all(fd, data, len);
        if (r < 0)
                return r;
        if (fchown(fd, owner->uid, owner->gid) < 0 || fchmod(fd, mode) < 0)
                return -errno;
        return 0;
}

int files_place_dir(int root, const char *workdir, const char *path, mode_t mode, const struct files_owner *owner)
{
        char full[PATH_SIZE];
        auto_fd dir = -EBADF;
        auto_fd fd = -EBADF;
        int r;

        (void)snprintf(full, sizeof(full), "%s/%s", path[0] == '/' ? "" : workdir, path);
        r = files_make_dir(root, full, owner, &dir);
        if (r < 0)
                return r;
        fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 || fchmod(fd, mode) < 0 ? -errno : 0;
}

int files_place_link(int root, const char *workdir, const char *path, const char *target,
                     const struct files_owner *owner)
{
        char full[PATH_SIZE];
        auto_fd dir = -EBADF;
        const char *name;
        int r = open_parent(root, workdir, path, owner, full, &name, &dir);

        if (r < 0)
                return r;
        if (symlinkat(target, dir, name) < 0 &&
            (errno != EEXIST || unlinkat(dir, name, 0) < 0 || symlinkat(target, dir, name) < 0))
                return -errno;
        return own(dir, name, owner);
}

/* getcwd(2) begins with "(unreachable)" where the directory is not below the root. */
int files_chdir(int dir)
{
        char cwd[PATH_SIZE];

        if (fchdir(dir) < 0)
                return -errno;
        if (syscall(SYS_getcwd, cwd, sizeof(cwd)) < 0)
                return errno == ERANGE ? 0 : -errno;
        return cwd[0] == '/' ? 0 : -EXDEV;
}
