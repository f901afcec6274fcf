#include "image/worker/place.h"
#include "base/fd.h"
#include "image/worker/report.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LINKS_MAX 40 /* as many as the kernel follows (path_resolution(7)) */
#define DIR_FLAGS (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

int place_open(int root, const char *path, int flags)
{
        struct open_how how = {
                .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
        };
        long fd = syscall(SYS_openat2, root, path[0] ? path : ".", &how, sizeof(how));

        return fd < 0 ? -errno : (int)fd;
}

void place_init(struct place *p, int root, struct meta *meta, uint64_t max_implied)
{
        *p = (struct place){ .root = root, .meta = meta, .max_implied = max_implied, .parent = -EBADF };
}

void place_done(struct place *p)
{
        fd_replace(&p->parent, -EBADF);
}

void place_forget(struct place *p)
{
        fd_replace(&p->parent, -EBADF);
}

/* The way to a directory: where we stand, and what is left to go. */
struct walk {
        int fd;
        char real[PATH_MAX];
        char rest[2 * PATH_MAX];
        unsigned links;
};

static int walk_to(struct place *p, struct walk *w)
{
        int fd = place_open(p->root, w->real, DIR_FLAGS);

        if (fd < 0)
                return fd;
        fd_replace(&w->fd, fd);
        return 0;
}

static int walk_up(struct place *p, struct walk *w)
{
        char *slash = strrchr(w->real, '/');

        *(slash ? slash : w->real) = '\0';
        return walk_to(p, w);
}

/* Makes the directory that real now names; it is the layer's only by what lies in it, and does not show in the times of the one
 * that holds it. */
static int walk_make(struct place *p, struct walk *w, const char *name)
{
        struct timespec times[2];
        struct stat st;
        int r;

        if (p->implied >= p->max_implied)
                return -EFBIG;
        if (fstat(w->fd, &st) < 0 || mkdirat(w->fd, name, PLACE_IMPLIED_MODE) < 0)
                return -errno;
        times[0] = st.st_atim;
        times[1] = st.st_mtim;
        if (utimensat(w->fd, ".", times, 0) < 0)
                return -errno;
        p->implied++;
        r = meta_imply(p->meta, w->real);
        if (r < 0)
                return r;
        r = openat(w->fd, name, DIR_FLAGS);
        return r < 0 ? -errno : r;
}

/* Puts the link's target in front of the rest. */
static int walk_link(struct place *p, struct walk *w, const char *name)
{
        char target[PATH_MAX], rest[sizeof(w->rest)];
        ssize_t n = readlinkat(w->fd, name, target, sizeof(target) - 1);

        if (n < 0)
                return errno == EINVAL ? -ENOTDIR : -errno;
        target[n] = '\0';
        if (++w->links > LINKS_MAX)
                return -ELOOP;
        memcpy(rest, w->rest, sizeof(rest));
        if ((size_t)snprintf(w->rest, sizeof(w->rest), "%s/%s", target, rest) >= sizeof(w->rest))
                return -ENAMETOOLONG;
        if (target[0] != '/')
                return 0;
        w->real[0] = '\0';
        return walk_to(p, w);
}

static int walk_down(struct place *p, struct walk *w, const char *name)
{
        size_t len = strlen(w->real), add = strlen(name);
        int fd;

        fd = openat(w->fd, name, DIR_FLAGS);
        if (fd < 0 && errno == ENOTDIR)
                return walk_link(p, w, name);
        if (fd < 0 && errno != ENOENT)
                return -errno;
        if (len + add + 2 > PATH_MAX) {
                fd_close(fd);
                return -ENAMETOOLONG;
        }
        if (len > 0)
                w->real[len++] = '/';
        memcpy(w->real + len, name, add + 1);
        if (fd < 0)
                fd = walk_make(p, w, name);
        if (fd < 0)
                return fd;
        fd_replace(&w->fd, fd);
        return 0;
}

static int walk_step(struct place *p, struct walk *w)
{
        char name[NAME_MAX + 1];
        size_t skip = strspn(w->rest, "/"), len = strcspn(w->rest + skip, "/");

        if (len > NAME_MAX)
                return -ENAMETOOLONG;
        memcpy(name, w->rest + skip, len);
        name[len] = '\0';
        memmove(w->rest, w->rest + skip + len, strlen(w->rest + skip + len) + 1);
        if (len == 0 || strcmp(name, ".") == 0)
                return 0;
        if (strcmp(name, "..") == 0)
                return walk_up(p, w);
        return walk_down(p, w, name);
}

static int find_parent(struct place *p, const char *raw, struct err *err)
{
        struct walk w = { .fd = -EBADF };
        char shown[STR_SHOWN_MAX];
        int r;

        r = place_open(p->root, raw, DIR_FLAGS);
        if (r >= 0) {
                fd_replace(&p->parent, r);
                memcpy(p->real, raw, strlen(raw) + 1);
                return 0;
        }
        memcpy(w.rest, raw, strlen(raw) + 1);
        r = walk_to(p, &w);
        while (r == 0 && w.rest[0])
                r = walk_step(p, &w);
        if (r < 0) {
                fd_close(w.fd);
                return err_set(err, r == -ENOTDIR || r == -ELOOP || r == -ENAMETOOLONG ? EBADMSG : -r,
                               "'%s' is no directory to put something into: %s", str_show(raw, shown), strerror(-r));
        }
        fd_replace(&p->parent, w.fd);
        memcpy(p->real, w.real, sizeof(p->real));
        return 0;
}

int place_find(struct place *p, const char *path, int *ret_dir, const char **ret_name, char real[PATH_MAX],
               struct err *err)
{
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        char raw[PATH_MAX];
        size_t len;
        int r;

        len = slash ? (size_t)(slash - path) : 0;
        memcpy(raw, path, len);
        raw[len] = '\0';
        if (p->parent < 0 || strcmp(raw, p->raw) != 0) {
                place_forget(p);
                r = find_parent(p, raw, err);
                if (r < 0)
                        return r;
                memcpy(p->raw, raw, len + 1);
        }
        if (snprintf(real, PATH_MAX, "%s%s%s", p->real, p->real[0] ? "/" : "", name) >= PATH_MAX)
                return err_set(err, EBADMSG, "a path through links is too long");
        *ret_dir = p->parent;
        *ret_name = name;
        return 0;
}
