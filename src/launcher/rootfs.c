#include "launcher/rootfs.h"

#include "base/str.h"
#include "launcher/skeleton.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#define NO_FILES (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define OPTIONS_MAX 512

/* What shows the host to everybody. Those of the table of files to mask that only root of the host may open (kcore kmsg
 * kpagecgroup kpagecount kpageflags slabinfo sysrq-trigger timer_list vmallocinfo, modes 0400 and 0200) need no mask: root
 * of the host is no id of a container, and no capability of a container reaches an inode whose owner it does not know
 * (capable_wrt_inode_uidgid() of the kernel). Each mount costs a container about 1% of its life. */
static const char *const masked_files[] = {
        "proc/interrupts", "proc/kallsyms", "proc/keys", "proc/latency_stats", "proc/sched_debug", "proc/timer_stats",
};
static const char *const masked_dirs[] = {
        "proc/acpi", "proc/asound", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap",
};
/* /sys/kernel/{debug,tracing,security} and /sys/fs/{bpf,pstore} are mount points of the host: in a sysfs mounted anew
 * they are empty for good (sysfs_create_mount_point() of the kernel). */
static const char *const readonly_dirs[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys" };

static int write_text(const char *path, const struct rootfs_text *text)
{
        ssize_t n;
        int fd;

        if (text->len == 0)
                return 0;
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        n = write(fd, text->data, text->len);
        (void)close(fd);
        return n == (ssize_t)text->len ? 0 : -EIO;
}

static int write_hostname(const struct rootfs_text *name)
{
        uint8_t line[LAUNCH_HOSTNAME_MAX + 1];
        struct rootfs_text text = { .data = line, .len = name->len + 1 };

        memcpy(line, name->data, name->len);
        line[name->len] = '\n';
        return write_text("upper/etc/hostname", &text);
}

static int write_texts(const struct rootfs *r)
{
        int e = write_hostname(&r->hostname);

        if (e == 0)
                e = write_text("upper/etc/hosts", &r->hosts);
        return e < 0 ? e : write_text("upper/etc/resolv.conf", &r->resolv);
}

int rootfs_mount(const struct rootfs *r)
{
        int e = sys_attach(r->upper, AT_FDCWD, ROOTFS_MOUNT);

        if (e < 0)
                return e;
        if (chdir(ROOTFS_MOUNT) < 0)
                return -errno;
        /* On 6.1 an overlay over a detached mount is EINVAL, so the store must be attached, too. */
        if (r->idmapped) {
                e = sys_attach(r->store, AT_FDCWD, "store");
                if (e < 0)
                        return e;
        }
        return write_texts(r);
}

/* Names are relative to the tmpfs, so that nothing has to be quoted. No redirects: a rename of an image's directory is
 * EXDEV, and no file can point to another place of the lower layers. */
int rootfs_image(const struct rootfs *r)
{
        const char *store = r->idmapped ? "store" : ROOTFS_STORE;
        char options[OPTIONS_MAX];

        (void)snprintf(options, sizeof(options),
                       "lowerdir=%s/" SKELETON_NAME ":%s/trees/%.*s,upperdir=upper,workdir=work,xino=off,index=off,"
                       "uuid=off,redirect_dir=off,metacopy=off",
                       store, store, LAUNCH_HEX, r->tree);
        return mount("overlay", "root", "overlay", 0, options) < 0 || chdir("root") < 0 ? -errno : 0;
}

static int set_readonly(const char *path)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

        return sys_mount_setattr(AT_FDCWD, path, AT_RECURSIVE | AT_SYMLINK_NOFOLLOW, &attr);
}

/* What the kernel does not have needs no mask. */
static int bind(const char *from, const char *to)
{
        return mount(from, to, NULL, MS_BIND, NULL) < 0 && errno != ENOENT ? -errno : 0;
}

static int mask(void)
{
        int e = 0;

        for (size_t i = 0; e == 0 && i < ARRAY_LEN(masked_files); i++)
                e = bind("dev/null", masked_files[i]);
        for (size_t i = 0; e == 0 && i < ARRAY_LEN(masked_dirs); i++)
                e = bind(ROOTFS_EMPTY, masked_dirs[i]);
        for (size_t i = 0; e == 0 && i < ARRAY_LEN(readonly_dirs); i++) {
                e = bind(readonly_dirs[i], readonly_dirs[i]);
                if (e == 0)
                        e = set_readonly(readonly_dirs[i]);
        }
        return e;
}

/* The skeleton makes every target here a directory of ours; nothing else runs in this mount namespace yet. */
int rootfs_kernel(const struct rootfs *r)
{
        int e;

        if (mount("proc", "proc", "proc", NO_FILES, NULL) < 0 || mount("sysfs", "sys", "sysfs", NO_FILES, NULL) < 0)
                return -errno;
        /* Only from the container's cgroup namespace: from the host's it would change the options of the host's. */
        if (r->cgroup2 && mount("cgroup2", "sys/fs/cgroup", "cgroup2", NO_FILES, NULL) < 0)
                return -errno;
        e = set_readonly("sys");
        if (e == 0)
                e = sys_attach(r->pts, AT_FDCWD, "dev/pts");
        if (e == 0)
                e = sys_attach(r->shm, AT_FDCWD, "dev/shm");
        if (e < 0)
                return e;
        if (mount("mqueue", "dev/mqueue", "mqueue", NO_FILES, NULL) < 0)
                return -errno;
        return mask();
}

int rootfs_pivot(void)
{
        int e = sys_pivot_root(".", ".");

        if (e < 0)
                return e;
        return umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ? -errno : 0;
}
