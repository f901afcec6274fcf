#include "launcher/skeleton.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SKELETON_NEW "skeleton.new"

struct entry {
        const char *name;
        mode_t mode; /* with the type */
        unsigned major, minor;
        const char *target;
};

/* Modes, majors and minors: Documentation/admin-guide/devices.txt. */
static const struct entry entries[] = {
        { "dev", S_IFDIR | 0755, 0, 0, NULL },
        { "dev/null", S_IFCHR | 0666, 1, 3, NULL },
        { "dev/zero", S_IFCHR | 0666, 1, 5, NULL },
        { "dev/full", S_IFCHR | 0666, 1, 7, NULL },
        { "dev/random", S_IFCHR | 0666, 1, 8, NULL },
        { "dev/urandom", S_IFCHR | 0666, 1, 9, NULL },
        { "dev/tty", S_IFCHR | 0666, 5, 0, NULL },
        { "dev/ptmx", S_IFLNK, 0, 0, "pts/ptmx" },
        { "dev/fd", S_IFLNK, 0, 0, "/proc/self/fd" },
        { "dev/stdin", S_IFLNK, 0, 0, "/proc/self/fd/0" },
        { "dev/stdout", S_IFLNK, 0, 0, "/proc/self/fd/1" },
        { "dev/stderr", S_IFLNK, 0, 0, "/proc/self/fd/2" },
        { "dev/pts", S_IFDIR | 0755, 0, 0, NULL },
        { "dev/shm", S_IFDIR | 01777, 0, 0, NULL },
        { "dev/mqueue", S_IFDIR | 01777, 0, 0, NULL },
        { "proc", S_IFDIR | 0555, 0, 0, NULL },
        { "sys", S_IFDIR | 0555, 0, 0, NULL },
        { "etc", S_IFDIR | 0755, 0, 0, NULL },
        { "etc/mtab", S_IFLNK, 0, 0, "/proc/mounts" },
        { "run", S_IFDIR | 0755, 0, 0, NULL },
        { "tmp", S_IFDIR | 01777, 0, 0, NULL },
};

static int make_entry(int dir, const struct entry *e)
{
        if (S_ISDIR(e->mode))
                return mkdirat(dir, e->name, 0700);
        if (S_ISLNK(e->mode))
                return symlinkat(e->target, dir, e->name);
        return mknodat(dir, e->name, e->mode, makedev(e->major, e->minor));
}

static int fill(int dir, uid_t base, struct err *err)
{
        auto_fd dev = -EBADF;

        for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
                const struct entry *e = &entries[i];

                if (make_entry(dir, e) < 0 || fchownat(dir, e->name, base, base, AT_SYMLINK_NOFOLLOW) < 0)
                        return err_sys(err, "make %s of the skeleton", e->name);
                if (!S_ISLNK(e->mode) && fchmodat(dir, e->name, e->mode & 07777, 0) < 0)
                        return err_sys(err, "set the mode of %s of the skeleton", e->name);
        }
        /* Nothing of the image's /dev is seen (Documentation/filesystems/overlayfs.rst, «whiteouts and opaque
         * directories»). */
        dev = openat(dir, "dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dev < 0 || fsetxattr(dev, "trusted.overlay.opaque", "y", 1, 0) < 0)
                return err_sys(err, "make /dev of the skeleton opaque");
        return fchown(dir, base, base) < 0 || fchmod(dir, 0755) < 0 ? err_sys(err, "own the skeleton") : 0;
}

int skeleton_make(int store, uid_t base, struct err *err)
{
        auto_fd dir = -EBADF;
        int r;

        r = path_remove_tree(store, SKELETON_NEW);
        if (r == 0 || r == -ENOENT)
                r = path_remove_tree(store, SKELETON_NAME);
        if (r < 0 && r != -ENOENT)
                return err_set(err, -r, "remove the old skeleton");
        if (mkdirat(store, SKELETON_NEW, 0700) < 0)
                return err_sys(err, "make the skeleton");
        dir = openat(store, SKELETON_NEW, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return err_sys(err, "open the skeleton");
        r = fill(dir, base, err);
        if (r < 0)
                return r;
        return renameat(store, SKELETON_NEW, store, SKELETON_NAME) < 0 ? err_sys(err, "rename the skeleton") : 0;
}
