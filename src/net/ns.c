#include "net/ns.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define NS_SELF "/proc/thread-self/ns/net"
#define EHASH_ENTRIES "4096"
#define KNOB_TEXT_MAX 64

static const char knob_paths[NS_KNOBS][48] = {
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "/proc/sys/net/ipv4/ping_group_range",
};

static int knob_value(const struct ns_home *h, int i, char out[KNOB_TEXT_MAX])
{
        if (i == 0)
                return snprintf(out, KNOB_TEXT_MAX, "0");
        return snprintf(out, KNOB_TEXT_MAX, "%" PRIu32 "\t%" PRIu32, h->id_lo, h->id_hi);
}

void ns_fds_done(struct ns_fds *fds)
{
        fd_replace(&fds->ns, -EBADF);
        fd_replace(&fds->sockstat, -EBADF);
        for (int i = 0; i < NS_KNOBS; i++)
                fd_replace(&fds->knobs[i], -EBADF);
}

static void go_home(const struct ns_home *h)
{
        if (setns(h->home, CLONE_NEWNET) == 0)
                return;
        log_error("cannot come back to the host's network namespace: %s", strerror(errno));
        abort();
}

static int open_self(int *ret, struct err *err)
{
        int fd = open(NS_SELF, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return err_sys(err, "open " NS_SELF);
        *ret = fd;
        return 0;
}

int ns_home_init(struct ns_home *h, uint32_t id_lo, uint32_t id_hi, struct err *err)
{
        struct err ignored = ERR_INIT;
        int r;

        *h = (struct ns_home){ .home = -EBADF, .nursery = -EBADF, .id_lo = id_lo, .id_hi = id_hi };
        r = open_self(&h->home, err);
        if (r < 0)
                return r;
        if (unshare(CLONE_NEWNET) < 0)
                return err_sys(err, "make a network namespace");
        r = open_self(&h->nursery, err);
        /* Without it (a kernel built otherwise) the children share the host's table. */
        (void)fd_write_knob(AT_FDCWD, "/proc/sys/net/ipv4/tcp_child_ehash_entries", EHASH_ENTRIES, &ignored);
        go_home(h);
        return r;
}

void ns_home_done(struct ns_home *h)
{
        fd_replace(&h->home, -EBADF);
        fd_replace(&h->nursery, -EBADF);
}

int ns_inside(const struct ns_home *h, int ns_fd, int (*fn)(void *data, struct err *err), void *data, struct err *err)
{
        int r;

        if (setns(ns_fd, CLONE_NEWNET) < 0)
                return err_sys(err, "enter a network namespace");
        r = fn(data, err);
        go_home(h);
        return r;
}

static int set_knob(const char *path, const char *value, struct err *err)
{
        struct err cause = ERR_INIT;
        int r = fd_write_knob(AT_FDCWD, path, value, &cause);

        if (r == -ENOENT)
                return 0; /* a kernel without IPv6 */
        return r < 0 ? err_set(err, -r, "%s", cause.text) : 0;
}

/* Few, and each opened once: all namespaces' files of one name lie in one chain of the kernel's cache of names, which
 * every opening goes through. "all" sets "default" too. */
static int set_knobs(const struct ns_home *h, struct ns_fds *fds, struct err *err)
{
        char value[KNOB_TEXT_MAX];
        int r = set_knob("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1", err);

        if (r < 0)
                return r;
        for (int i = 0; i < NS_KNOBS; i++) {
                size_t len = (size_t)knob_value(h, i, value);

                fds->knobs[i] = open(knob_paths[i], O_RDWR | O_CLOEXEC);
                if (fds->knobs[i] < 0 || write(fds->knobs[i], value, len) != (ssize_t)len)
                        return err_sys(err, "write '%s' to %s", value, knob_paths[i]);
        }
        return 0;
}

static int open_sockstat(struct ns_fds *fds, struct err *err)
{
        fds->sockstat = open("/proc/thread-self/net/sockstat", O_RDONLY | O_CLOEXEC);
        return fds->sockstat < 0 ? err_sys(err, "open /proc/net/sockstat") : 0;
}

int ns_make(const struct ns_home *h, int (*fn)(void *data, struct err *err), void *data, struct ns_fds *ret,
            struct err *err)
{
        auto_ns_fds fds = NS_FDS_INIT;
        int r;

        if (setns(h->nursery, CLONE_NEWNET) < 0 || unshare(CLONE_NEWNET) < 0) {
                r = err_sys(err, "make a network namespace");
                go_home(h);
                return r;
        }
        r = open_self(&fds.ns, err);
        if (r == 0)
                r = set_knobs(h, &fds, err);
        if (r == 0)
                r = open_sockstat(&fds, err);
        if (r == 0)
                r = fn(data, err);
        go_home(h);
        if (r < 0)
                return r;
        *ret = fds;
        fds = (struct ns_fds)NS_FDS_INIT;
        return 0;
}

static int same_file(int a, int b)
{
        struct stat sa, sb;

        if (fstat(a, &sa) < 0 || fstat(b, &sb) < 0)
                return -errno;
        return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static int check_ns(const struct ns_home *h, int ns_fd)
{
        auto_fd owner = -EBADF, mine = -EBADF;
        uint64_t mount, home_mount;
        struct statfs fs;

        if (fstatfs(ns_fd, &fs) < 0 || fs.f_type != NSFS_MAGIC || ioctl(ns_fd, NS_GET_NSTYPE) != CLONE_NEWNET)
                return -EPERM;
        if (same_file(ns_fd, h->home) != 0 || same_file(ns_fd, h->nursery) != 0)
                return -EPERM;
        /* One that is bound to a name (ip-netns(8)) is somebody else's, and everybody may open it. */
        if (fd_mount(ns_fd, &mount) < 0 || fd_mount(h->home, &home_mount) < 0 || mount != home_mount)
                return -EPERM;
        owner = ioctl(ns_fd, NS_GET_USERNS);
        mine = open("/proc/thread-self/ns/user", O_RDONLY | O_CLOEXEC);
        if (owner < 0 || mine < 0 || same_file(owner, mine) != 1)
                return -EPERM;
        return 0;
}

static int open_files_inside(void *data, struct err *err)
{
        struct ns_fds *fds = data;

        for (int i = 0; i < NS_KNOBS; i++) {
                fds->knobs[i] = open(knob_paths[i], O_RDONLY | O_CLOEXEC);
                if (fds->knobs[i] < 0)
                        return err_sys(err, "open %s", knob_paths[i]);
        }
        return open_sockstat(fds, err);
}

int ns_open(const struct ns_home *h, int ns_fd, struct ns_fds *ret, struct err *err)
{
        auto_ns_fds fds = NS_FDS_INIT;
        int r;

        fds.ns = ns_fd;
        r = check_ns(h, ns_fd);
        if (r < 0)
                return err_set(err, -r, "not a network namespace of ours");
        r = ns_inside(h, ns_fd, open_files_inside, &fds, err);
        if (r < 0)
                return r;
        *ret = fds;
        fds = (struct ns_fds)NS_FDS_INIT;
        return 0;
}

int ns_knobs_intact(const struct ns_home *h, const struct ns_fds *fds)
{
        char value[KNOB_TEXT_MAX], now[KNOB_TEXT_MAX];

        for (int i = 0; i < NS_KNOBS; i++) {
                ssize_t n = pread(fds->knobs[i], now, sizeof(now), 0);
                int len = knob_value(h, i, value);

                if (n < 0)
                        return -errno;
                if (n != len + 1 || memcmp(now, value, (size_t)len) != 0)
                        return 0;
        }
        return 1;
}

int ns_flush_routes(void *unused, struct err *err)
{
        (void)unused;
        return fd_write_knob(AT_FDCWD, "/proc/sys/net/ipv4/route/flush", "1", err);
}
