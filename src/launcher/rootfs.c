#include "launcher/rootfs.h"

#include "base/str.h"
#include "launcher/skeleton.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

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

/* Directories of the writable layer hide whatever the image has there, but other directories: no link of it leads away. */
static int make_target(const struct rootfs *r)
{
        static const char *const dirs[] = { "upper/run", "upper/run/secrets" };

        for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
                if (mkdir(dirs[i], 0755) < 0 || chown(dirs[i], r->base, r->base) < 0)
                        return -errno;
        return 0;
}

/* On 6.1 an overlay over a detached mount is EINVAL, so both must be attached. */
static int attach_layers(const struct rootfs *r)
{
        int e = sys_attach(r->upper, AT_FDCWD, ROOTFS_MOUNT);

        if (e < 0)
                return e;
        return chdir(ROOTFS_MOUNT) < 0 ? -errno : sys_attach(r->store, AT_FDCWD, "store");
}

int rootfs_mount(const struct rootfs *r)
{
        int e = r->overlay < 0 ? attach_layers(r) : fchdir(r->upper) < 0 ? -errno : 0;

        if (e == 0 && r->n_secrets > 0)
                e = make_target(r);
        return e < 0 ? e : write_texts(r);
}

/* Names are relative to the tmpfs, so that nothing has to be quoted. The options are those of make_overlay() in slot.c. */
static int mount_image(const struct rootfs *r)
{
        char options[OPTIONS_MAX];

        (void)snprintf(options, sizeof(options),
                       "lowerdir=store/" SKELETON_NAME
                       ":store/trees/%.*s,upperdir=upper,workdir=work,xino=off,index=off,"
                       "uuid=off,redirect_dir=off,metacopy=off",
                       LAUNCH_HEX, r->tree);
        return mount("overlay", "root", "overlay", 0, options) < 0 || chdir("root") < 0 ? -errno : 0;
}

/* The overlay covers the empty root of the launcher, which nothing leads to from there; see rootfs_pivot(). */
int rootfs_image(const struct rootfs *r)
{
        char path[sizeof("trees/") + LAUNCH_HEX];
        int tree, e, root;

        if (r->overlay < 0)
                return mount_image(r);
        (void)snprintf(path, sizeof(path), "trees/%.*s", LAUNCH_HEX, r->tree);
        tree = openat(r->store, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (tree < 0)
                return -errno;
        e = sys_result(syscall(SYS_fsconfig, r->overlay, FSCONFIG_SET_FD, "lowerdir+", NULL, tree));
        if (e == 0)
                e = sys_fsconfig(r->overlay, FSCONFIG_CMD_CREATE, NULL, NULL);
        if (e < 0)
                return e;
        root = sys_fsmount(r->overlay, 0);
        if (root < 0)
                return root;
        e = sys_attach(root, AT_FDCWD, "/");
        return e < 0 ? e : fchdir(root) < 0 ? -errno : 0;
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

/* The slot keeps it for the next container if this one does not touch it. */
static int attach_shm(const struct rootfs *r)
{
        int shm, e;

        if (r->overlay < 0)
                return sys_attach(r->shm, AT_FDCWD, "dev/shm");
        shm = sys_open_tree(r->shm, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
        if (shm < 0)
                return shm;
        e = sys_attach(shm, AT_FDCWD, "dev/shm");
        (void)close(shm);
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
                e = attach_shm(r);
        if (e < 0)
                return e;
        if (mount("mqueue", "dev/mqueue", "mqueue", NO_FILES, NULL) < 0)
                return -errno;
        return mask();
}

static int write_secret(const struct rootfs *r, int dir, struct payload *p)
{
        char text[LAUNCH_SECRET_NAME_MAX + 1];
        const uint8_t *name, *value;
        uint32_t name_len, len;
        int fd, e = 0;

        if (payload_next(p, &name, &name_len) < 0 || name_len >= sizeof(text) || payload_next(p, &value, &len) < 0)
                return -EBADMSG;
        memcpy(text, name, name_len);
        text[name_len] = '\0';
        fd = openat(dir, text, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
        if (fd < 0)
                return -errno;
        if (write(fd, value, len) != (ssize_t)len)
                e = -EIO;
        else if (fchown(fd, r->base + r->uid, r->base + r->gid) < 0)
                e = -errno;
        (void)close(fd);
        return e;
}

/* One page for each that a file begins, and as many inodes as files. */
static int make_secrets_fs(const struct rootfs *r)
{
        char size[24], inodes[24];
        struct payload p = r->secrets;
        unsigned pages = 1;
        const uint8_t *data;
        uint32_t len;
        int fs, e;

        for (uint32_t i = 0; i < r->n_secrets; i++) {
                if (payload_next(&p, &data, &len) < 0 || payload_next(&p, &data, &len) < 0)
                        return -EBADMSG;
                pages += len / 4096 + 1;
        }
        fs = sys_fsopen("tmpfs");
        if (fs < 0)
                return fs;
        (void)snprintf(size, sizeof(size), "%uk", pages * 4);
        (void)snprintf(inodes, sizeof(inodes), "%u", r->n_secrets + 2);
        e = sys_fsconfig(fs, FSCONFIG_SET_STRING, "size", size);
        if (e == 0)
                e = sys_fsconfig(fs, FSCONFIG_SET_STRING, "nr_inodes", inodes);
        if (e == 0)
                e = sys_fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0755");
        if (e == 0)
                e = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL);
        if (e == 0)
                e = sys_fsmount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        (void)close(fs);
        return e;
}

/* It belongs to root of the host, which is nobody inside, and is read-only: nothing can be put beside the secrets. */
int rootfs_secrets(const struct rootfs *r)
{
        struct payload p = r->secrets;
        int dir, e = 0;

        if (r->n_secrets == 0)
                return 0;
        dir = make_secrets_fs(r);
        if (dir < 0)
                return dir;
        for (uint32_t i = 0; e == 0 && i < r->n_secrets; i++)
                e = write_secret(r, dir, &p);
        if (e == 0)
                e = sys_attach(dir, AT_FDCWD, "run/secrets");
        (void)close(dir);
        return e < 0 ? e : set_readonly("run/secrets");
}

/* A root that covers another one is as final as one that took its place: ".." stops at it, however often a task changes its
 * root, and only who may unmount in this namespace, which the host's user namespace owns, could uncover the other. That one
 * is empty. To take its place would mean to look at all processes of the host (pivot_root(2)), and to unmount it, to wait
 * for all of its processors (synchronize_rcu_expedited()), together a sixth of a short task's time. */
int rootfs_pivot(const struct rootfs *r)
{
        int e;

        if (r->overlay >= 0)
                return chroot(".") < 0 || chdir("/") < 0 ? -errno : 0;
        e = sys_pivot_root(".", ".");
        if (e < 0)
                return e;
        return umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ? -errno : 0;
}
