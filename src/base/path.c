#include "base/path.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/vec.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OPENAT2_TRIES 16

bool path_name_valid(const char *name)
{
        size_t len = strlen(name);

        return len > 0 && len <= NAME_MAX && !strchr(name, '/') && !str_eq(name, ".") && !str_eq(name, "..");
}

/* openat2(2) answers EAGAIN where a rename on the way made it uncertain whether ".." left the root. */
static int open_how(int dirfd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
        struct open_how how = { .flags = (uint64_t)(unsigned)flags | O_CLOEXEC, .resolve = resolve };

        if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE)
                how.mode = mode;
        for (int i = 0;; i++) {
                long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));

                if (fd >= 0)
                        return (int)fd;
                if ((errno != EAGAIN && errno != EINTR) || i >= OPENAT2_TRIES)
                        return -errno;
        }
}

int path_open_in(int rootfd, const char *path, int flags, mode_t mode)
{
        return open_how(rootfd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

/* Opens the directory `path` in the root, or makes its last component `name` in `parent`. */
static int open_or_make(int rootfd, const char *path, int parent, const char *name, mode_t mode)
{
        int fd;

        fd = path_open_in(rootfd, path, O_PATH | O_DIRECTORY, 0);
        if (fd != -ENOENT || !path_name_valid(name))
                return fd;
        if (mkdirat(parent, name, mode) < 0 && errno != EEXIST)
                return -errno;
        return path_open_in(rootfd, path, O_PATH | O_DIRECTORY, 0);
}

int path_mkdirs_in(int rootfd, const char *path, mode_t mode, int *ret_fd)
{
        auto_free char *copy = strdup(path);
        auto_fd fd = -EBADF;
        char *p = copy;

        if (!copy)
                return -ENOMEM;
        fd = path_open_in(rootfd, ".", O_PATH | O_DIRECTORY, 0);
        while (fd >= 0) {
                char *name = p + strspn(p, "/");
                char *end = name + strcspn(name, "/");
                char c = *end;

                if (end == name)
                        break;
                *end = '\0';
                fd_replace(&fd, open_or_make(rootfd, copy, fd, name, mode));
                *end = c;
                p = end;
        }
        if (fd < 0)
                return fd;
        if (ret_fd)
                *ret_fd = TAKE_FD(fd);
        return 0;
}

int path_mkdirs(const char *path, mode_t mode, struct err *err)
{
        auto_free char *copy = strdup(path);
        struct stat st;

        if (!copy)
                return err_oom(err);
        for (char *p = copy + 1; *copy; p++) {
                char c = *p;

                if (c != '/' && c != '\0')
                        continue;
                *p = '\0';
                if (mkdir(copy, mode) < 0 && errno != EEXIST)
                        return err_sys(err, "make directory '%s'", copy);
                *p = c;
                if (!c)
                        break;
        }
        if (stat(path, &st) < 0)
                return err_sys(err, "make directory '%s'", path);
        if (!S_ISDIR(st.st_mode))
                return err_set(err, ENOTDIR, "'%s' is no directory", path);
        return 0;
}

int path_each_entry(int dirfd, int (*fn)(const char *name, void *data), void *data)
{
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *e;

        if (!dir) {
                r = -errno;
                fd_close(fd);
                return r;
        }
        errno = 0;
        while (r == 0 && (e = readdir(dir))) {
                if (!str_eq(e->d_name, ".") && !str_eq(e->d_name, ".."))
                        r = fn(e->d_name, data);
                errno = 0;
        }
        if (r == 0 && errno)
                r = -errno;
        closedir(dir);
        return r;
}

/* A directory on the way down. Depth is the owner's choice, so only the lowest one is open; ".." leads back, and must
 * be the very directory that we came from. */
struct remove_level {
        char *name;
        dev_t dev;
        ino_t ino;
};

struct remove_walk {
        VEC(struct remove_level) levels;
        DIR *dir;
};

static void remove_walk_done(struct remove_walk *w)
{
        if (w->dir)
                closedir(w->dir);
        for (size_t i = 0; i < w->levels.len; i++)
                free(w->levels.items[i].name);
        VEC_DONE(&w->levels);
}

/* Takes fd as the current directory. */
static int remove_walk_enter(struct remove_walk *w, int fd)
{
        DIR *dir = fdopendir(fd);

        if (!dir) {
                int r = -errno;

                fd_close(fd);
                return r;
        }
        if (w->dir)
                closedir(w->dir);
        w->dir = dir;
        return 0;
}

static int remove_walk_down(struct remove_walk *w, int dirfd, const char *name)
{
        auto_fd fd = -EBADF;
        auto_free char *copy = strdup(name);
        struct stat st;
        int r;

        if (!copy)
                return -ENOMEM;
        fd = open_how(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                      RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return -errno;
        r = VEC_ADD(&w->levels, ((struct remove_level){ .name = copy, .dev = st.st_dev, .ino = st.st_ino }));
        if (r < 0)
                return r;
        (void)TAKE_PTR(copy);
        return remove_walk_enter(w, TAKE_FD(fd));
}

/* The current directory is empty: removes it from its parent, which becomes the current one. */
static int remove_walk_up(struct remove_walk *w, int top)
{
        struct remove_level *child = &w->levels.items[w->levels.len - 1];
        auto_fd parent = -EBADF;
        struct stat st;
        int r = 0;

        if (w->levels.len == 1) {
                if (unlinkat(top, child->name, AT_REMOVEDIR) < 0)
                        return -errno;
                closedir(w->dir);
                w->dir = NULL;
        } else {
                parent = openat(dirfd(w->dir), "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (parent < 0 || fstat(parent, &st) < 0)
                        return -errno;
                if (st.st_dev != child[-1].dev || st.st_ino != child[-1].ino)
                        return -ESTALE;
                if (unlinkat(parent, child->name, AT_REMOVEDIR) < 0)
                        return -errno;
                r = remove_walk_enter(w, TAKE_FD(parent));
        }
        free(child->name);
        w->levels.len--;
        return r;
}

/* Removes entries until one is a directory, and enters that; at the end goes up. */
static int remove_walk_step(struct remove_walk *w, int top)
{
        int fd = dirfd(w->dir);

        for (;;) {
                struct dirent *e;

                errno = 0;
                e = readdir(w->dir);
                if (!e)
                        return errno ? -errno : remove_walk_up(w, top);
                if (str_eq(e->d_name, ".") || str_eq(e->d_name, ".."))
                        continue;
                if (e->d_type != DT_DIR) {
                        if (unlinkat(fd, e->d_name, 0) == 0 || errno == ENOENT)
                                continue;
                        if (errno != EISDIR)
                                return -errno;
                }
                return remove_walk_down(w, fd, e->d_name);
        }
}

int path_remove_tree(int dirfd, const char *name)
{
        __attribute__((cleanup(remove_walk_done))) struct remove_walk w = { .dir = NULL };
        int r;

        if (!path_name_valid(name))
                return -EINVAL;
        if (unlinkat(dirfd, name, 0) == 0)
                return 0;
        if (errno != EISDIR)
                return -errno;
        r = remove_walk_down(&w, dirfd, name);
        while (r == 0 && w.levels.len > 0)
                r = remove_walk_step(&w, dirfd);
        return r;
}
