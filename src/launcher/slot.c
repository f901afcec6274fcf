#include "launcher/slot.h"

#include "base/fd.h"
#include "base/str.h"
#include "launcher/ceiling.h"
#include "launcher/skeleton.h"
#include "launcher/sys.h"
#include "launcher/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define SPARE 2 /* ready beyond what is busy: START after START without a wait */
#define READY_MAX 16
#define TTY_GID 5   /* as every distribution has it */
#define PTS_MAX 256 /* all instances of devpts share kernel.pty.max: one task must not take it */
#define OPTIONS_MAX 256
#define LEFT_MAX (256 * 1024) /* bytes in the mounts of a container that may be gone a little later than it */

uint32_t slot_inodes(uint64_t disk)
{
        return (uint32_t)MIN(disk / 4096 + 1024, (uint64_t)UINT32_MAX);
}

/* ── mounts made ahead ────────────────────────────────────────────────────────────────────────────────────────────── */

/* options: "key=value,key=value"; cut up in place. */
static int set_options(int fs, char *options)
{
        for (char *key = options, *next; *key; key = next) {
                char *value = strchr(key, '=');
                int r;

                next = key + strcspn(key, ",");
                if (*next)
                        *next++ = '\0';
                if (!value || value >= next)
                        return -EINVAL;
                *value++ = '\0';
                r = sys_fsconfig(fs, FSCONFIG_SET_STRING, key, value);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* A detached mount of a new file system. The caller owns it; -errno. */
static int make_fs(const char *type, unsigned attributes, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

static int make_fs(const char *type, unsigned attributes, const char *format, ...)
{
        auto_fd fs = sys_fsopen(type);
        char options[OPTIONS_MAX];
        va_list ap;
        int r;

        va_start(ap, format);
        (void)vsnprintf(options, sizeof(options), format, ap);
        va_end(ap);
        r = fs < 0 ? fs : set_options(fs, options);
        if (r == 0)
                r = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL);
        return r < 0 ? r : sys_fsmount(fs, attributes);
}

static int resize_fs(int mount, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int resize_fs(int mount, const char *format, ...)
{
        auto_fd fs = sys_result(syscall(SYS_fspick, mount, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC));
        char options[OPTIONS_MAX];
        va_list ap;
        int r;

        va_start(ap, format);
        (void)vsnprintf(options, sizeof(options), format, ap);
        va_end(ap);
        r = fs < 0 ? fs : set_options(fs, options);
        return r < 0 ? r : sys_fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL);
}

/* The files that each container gets are there already, empty, so that only their content is left to write. */
static int fill_upper(int upper, uid_t base, bool attached)
{
        static const struct {
                const char *name;
                mode_t mode;
                bool attached; /* only where layers are attached (rootfs.c) */
        } entries[] = {
                { "upper", S_IFDIR | 0755, false },
                { "work", S_IFDIR | 0755, false },
                { "store", S_IFDIR | 0755, true },
                { "root", S_IFDIR | 0755, true },
                { "upper/etc", S_IFDIR | 0755, false },
                { "upper/etc/hostname", S_IFREG | 0644, false },
                { "upper/etc/hosts", S_IFREG | 0644, false },
                { "upper/etc/resolv.conf", S_IFREG | 0644, false },
        };

        for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
                const char *name = entries[i].name;
                mode_t mode = entries[i].mode;

                if (entries[i].attached && !attached)
                        continue;
                if ((S_ISDIR(mode) ? mkdirat(upper, name, mode & 07777) : mknodat(upper, name, mode, 0)) < 0 ||
                    fchownat(upper, name, base, base, AT_SYMLINK_NOFOLLOW) < 0)
                        return -errno;
        }
        return 0;
}

static int make_upper(const struct slots *s, struct slot *slot, uint64_t disk, struct err *err)
{
        int r;

        slot->upper = make_fs("tmpfs", MOUNT_ATTR_NODEV, "size=%llu,nr_inodes=%u,mode=0755,uid=%u,gid=%u",
                              (unsigned long long)MAX(disk, (uint64_t)4096), slot_inodes(disk), slot->base, slot->base);
        if (slot->upper < 0)
                return err_set(err, -slot->upper, "mount the tmpfs of a writable layer");
        slot->disk = disk;
        r = fill_upper(slot->upper, slot->base, !s->host.detached);
        return r < 0 ? err_set(err, -r, "fill a writable layer") : 0;
}

/* In the ids of `idmap`, or as it is if there are none. */
static int make_store(const struct slots *s, struct slot *slot, struct err *err)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV };
        int r;

        slot->store = sys_open_tree(s->host.store, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
        if (slot->store < 0)
                return err_set(err, -slot->store, "clone the mount of the store");
        if (slot->idmap >= 0) {
                attr.attr_set |= MOUNT_ATTR_IDMAP;
                attr.userns_fd = (unsigned)slot->idmap;
        }
        r = sys_mount_setattr(slot->store, "", AT_EMPTY_PATH, &attr);
        return r < 0 ? err_set(err, -r, "map the store into the ids of slot %u", slot->n) : 0;
}

static int add_layer(int fs, int dir, const char *name)
{
        auto_fd layer = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return layer < 0 ? -errno : sys_result(syscall(SYS_fsconfig, fs, FSCONFIG_SET_FD, "lowerdir+", NULL, layer));
}

/* The root file system of a container, but for the image's tree. No redirects: a rename of an image's directory is EXDEV,
 * and no file can point to another place of the lower layers. Layers as descriptors (Linux 6.13) of mounts that are in no
 * namespace (6.15) leave no trace of them in the container's. */
static int make_overlay(struct slot *slot, struct err *err)
{
        char options[] = "upperdir=upper,workdir=work,xino=off,index=off,uuid=null,redirect_dir=off,metacopy=off";
        auto_fd fs = sys_fsopen("overlay");
        int r = fs < 0 ? fs : fchdir(slot->upper) < 0 ? -errno : set_options(fs, options);

        (void)!chdir("/");
        if (r == 0)
                r = add_layer(fs, slot->store, SKELETON_NAME);
        if (r < 0)
                return err_set(err, -r, "prepare an overlay");
        slot->overlay = TAKE_FD(fs);
        return 0;
}

static int make_shm(struct slot *slot, uint64_t size, struct err *err)
{
        slot->shm = make_fs("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                            "size=%llu,mode=1777,uid=%u,gid=%u", (unsigned long long)MAX(size, (uint64_t)4096),
                            slot->base, slot->base);
        slot->shm_size = size;
        if (slot->shm < 0)
                return err_set(err, -slot->shm, "mount a /dev/shm");
        return fstat(slot->shm, &slot->shm_new) < 0 ? err_sys(err, "look at a /dev/shm") : 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
        return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Most tasks never look into /dev/shm. One that is as it was made, to the time of its last status change, which nobody can
 * set and which moves on with every change after it was looked at (multigrain timestamps, Linux 6.13), serves the next. */
static bool shm_is_new(const struct slot *slot)
{
        const struct stat *was = &slot->shm_new;
        struct statfs fs;
        struct stat is;

        return fstat(slot->shm, &is) == 0 && fstatfs(slot->shm, &fs) == 0 && fs.f_bfree == fs.f_blocks &&
               fs.f_ffree + 1 == fs.f_files && is.st_mode == was->st_mode && is.st_uid == was->st_uid &&
               is.st_gid == was->st_gid && is.st_nlink == was->st_nlink && is.st_size == was->st_size &&
               same_time(&is.st_atim, &was->st_atim) && same_time(&is.st_mtim, &was->st_mtim) &&
               same_time(&is.st_ctim, &was->st_ctim);
}

static int make_pts(struct slot *slot, struct err *err)
{
        slot->pts = make_fs("devpts", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "ptmxmode=0666,mode=0620,gid=%u,max=%d",
                            slot->base + TTY_GID, PTS_MAX);
        return slot->pts < 0 ? err_set(err, -slot->pts, "mount a /dev/pts") : 0;
}

/* ── preparing and cleaning ───────────────────────────────────────────────────────────────────────────────────────── */

static int make_namespaces(struct slots *s, struct slot *slot, struct err *err)
{
        int r = 0;

        if (slot->userns < 0)
                r = userns_make(s->host.proc, USERNS_CONTAINER, 0, slot->base, &slot->userns, err);
        if (r == 0 && s->idmapped && slot->idmap < 0)
                r = userns_make(s->host.proc, USERNS_IDMAP, s->id_base, slot->base, &slot->idmap, err);
        return r;
}

static int make_leaf(struct slots *s, struct slot *slot, struct err *err)
{
        const struct launch_limits *l = &s->limits;
        struct cgroup_limits limits = { l->memory + l->disk + l->shm, l->cpu_milli, l->pids };
        struct epoll_event event = { .events = EPOLLIN, .data.u64 = SLOT_EVENT | slot->n };
        int r;

        if (slot->leaf.name[0])
                return 0;
        r = cgroup_leaf_make(s->host.cgroup, CGROUP_TASKS, &limits, &slot->leaf, err);
        if (r < 0)
                return r;
        if (slot->leaf.oom_event < 0 || epoll_ctl(s->host.epoll, EPOLL_CTL_ADD, slot->leaf.oom_event, &event) == 0)
                return 0;
        r = err_sys(err, "watch for OOM");
        /* One that is not watched must not be found here the next time. */
        cgroup_leaf_remove(s->host.cgroup, &slot->leaf);
        return r;
}

static void remove_leaf(struct slots *s, struct slot *slot)
{
        if (slot->leaf.oom_event >= 0)
                (void)epoll_ctl(s->host.epoll, EPOLL_CTL_DEL, slot->leaf.oom_event, NULL);
        cgroup_leaf_remove(s->host.cgroup, &slot->leaf);
}

/* What a container had for itself. */
static void drop_mounts(struct slots *s, struct slot *slot)
{
        if (!s->host.detached)
                fd_replace(&slot->store, -EBADF);
        if (!s->host.detached || (slot->shm >= 0 && !shm_is_new(slot)))
                fd_replace(&slot->shm, -EBADF);
        fd_replace(&slot->mntns, -EBADF);
        fd_replace(&slot->upper, -EBADF);
        fd_replace(&slot->overlay, -EBADF);
        fd_replace(&slot->pts, -EBADF);
}

/* As drop_mounts(), by the janitor: but what is large is gone before the cgroup is used again, which it is charged to. */
static void hand_over_mounts(struct slots *s, struct slot *slot)
{
        int *fds[] = { &slot->mntns, &slot->upper, &slot->overlay, &slot->pts };
        uint64_t used;
        bool full;

        slot_disk(slot, &used, &full);
        if (used <= LEFT_MAX && s->host.detached && shm_is_new(slot))
                janitor_close(s->host.janitor, fds, ARRAY_LEN(fds));
        drop_mounts(s, slot);
}

static void clean(struct slots *s, struct slot *slot)
{
        hand_over_mounts(s, slot);
        if (slot->leaf.name[0] && !cgroup_leaf_reset(s->host.cgroup, &slot->leaf))
                remove_leaf(s, slot);
        slot->state = SLOT_COLD;
        s->used--;
}

static int prepare(struct slots *s, struct slot *slot, struct err *err)
{
        int r = make_namespaces(s, slot, err);

        if (r == 0)
                r = make_leaf(s, slot, err);
        if (r == 0)
                r = make_upper(s, slot, s->limits.disk, err);
        if (r == 0 && slot->store < 0)
                r = make_store(s, slot, err);
        if (r == 0 && s->host.detached)
                r = make_overlay(slot, err);
        if (r == 0 && slot->shm < 0)
                r = make_shm(slot, s->limits.shm, err);
        if (r == 0)
                r = make_pts(slot, err);
        if (r < 0) {
                drop_mounts(s, slot);
                return r;
        }
        slot->state = SLOT_READY;
        s->ready++;
        s->top = MAX(s->top, slot->n + 1);
        return 0;
}

static struct slot *find(struct slots *s, enum slot_state state, uint32_t end)
{
        for (uint32_t i = 0; i < end; i++)
                if (s->items[i].state == state)
                        return &s->items[i];
        return NULL;
}

bool slots_idle(struct slots *s)
{
        struct slot *slot;

        if (s->used > 0) {
                clean(s, find(s, SLOT_USED, s->top));
                return true;
        }
        if (s->ready >= MIN((uint32_t)READY_MAX, s->busy + SPARE))
                return false;
        slot = find(s, SLOT_COLD, MIN(s->top + 1, s->n));
        return slot && prepare(s, slot, NULL) == 0;
}

/* ── use ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int fit(struct slots *s, struct slot *slot, const struct launch_limits *l, struct err *err)
{
        struct cgroup_limits limits = { l->memory + l->disk + l->shm, l->cpu_milli, l->pids };
        int r = cgroup_leaf_limit(s->host.cgroup, &slot->leaf, &limits);

        if (r < 0)
                return err_set(err, -r, "set the limits of a container");
        if (slot->disk != l->disk) {
                r = resize_fs(slot->upper, "size=%llu,nr_inodes=%u", (unsigned long long)MAX(l->disk, (uint64_t)4096),
                              slot_inodes(l->disk));
                if (r < 0)
                        return err_set(err, -r, "set the size of a writable layer");
                slot->disk = l->disk;
        }
        if (slot->shm_size != l->shm) {
                r = resize_fs(slot->shm, "size=%llu", (unsigned long long)MAX(l->shm, (uint64_t)4096));
                if (r < 0)
                        return err_set(err, -r, "set the size of /dev/shm");
                slot->shm_size = l->shm;
        }
        return 0;
}

int slots_take(struct slots *s, const struct launch_limits *limits, struct slot **ret, struct err *err)
{
        struct slot *slot;
        int r = 0;

        s->limits = *limits;
        slot = s->ready > 0 ? find(s, SLOT_READY, s->top) : NULL;
        if (!slot) {
                slot = find(s, SLOT_COLD, s->n);
                if (!slot && s->used > 0) {
                        slot = find(s, SLOT_USED, s->n);
                        clean(s, slot);
                }
                if (!slot)
                        return err_set(err, EAGAIN, "no slot is free");
                r = prepare(s, slot, err);
        }
        if (r == 0)
                r = fit(s, slot, limits, err);
        if (r < 0)
                return r;
        slot->state = SLOT_BUSY;
        s->ready--;
        s->busy++;
        *slot->report = (struct slot_report){ .stage = LAUNCH_STAGE_CLONE };
        *ret = slot;
        return 0;
}

void slots_release(struct slots *s, struct slot *slot)
{
        slot->state = SLOT_USED;
        s->busy--;
        s->used++;
}

void slot_disk(const struct slot *slot, uint64_t *ret_used, bool *ret_full)
{
        struct statfs st;

        *ret_used = 0;
        *ret_full = false;
        if (fstatfs(slot->upper, &st) < 0)
                return;
        *ret_used = (uint64_t)(st.f_blocks - st.f_bfree) * (uint64_t)st.f_bsize;
        *ret_full = st.f_bfree == 0 || st.f_ffree == 0;
}

/* ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Whether the file system of the store can be idmapped: tried on a first slot. */
static int try_idmap(struct slots *s, struct err *err)
{
        struct slot *slot = &s->items[0];
        struct err ignored = ERR_INIT;
        int r = userns_make(s->host.proc, USERNS_IDMAP, s->id_base, slot->base, &slot->idmap, err);

        if (r < 0)
                return r;
        s->idmapped = make_store(s, slot, &ignored) == 0;
        fd_replace(&slot->store, -EBADF);
        if (s->idmapped)
                return 0;
        fd_replace(&slot->idmap, -EBADF);
        for (uint32_t i = 0; i < s->n; i++)
                s->items[i].base = s->id_base;
        return 0;
}

int slots_init(struct slots *s, uint32_t n, uint32_t id_base, const struct slots_host *host, struct err *err)
{
        struct slot_report *reports;

        *s = (struct slots){ .n = n, .id_base = id_base, .host = *host };
        s->limits = (struct launch_limits){
                .memory = 512 << 20, .disk = 256 << 20, .shm = 64 << 20, .cpu_milli = 1000, .pids = 512
        };
        s->items = calloc(n, sizeof(*s->items));
        reports = mmap(NULL, n * sizeof(*reports), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (!s->items || reports == MAP_FAILED)
                return err_oom(err);
        for (uint32_t i = 0; i < n; i++)
                s->items[i] = (struct slot){
                        .n = i,
                        .base = id_base + CEILING_IDS * (i + 1),
                        .userns = -EBADF,
                        .idmap = -EBADF,
                        .upper = -EBADF,
                        .store = -EBADF,
                        .overlay = -EBADF,
                        .pts = -EBADF,
                        .shm = -EBADF,
                        .mntns = -EBADF,
                        .leaf = CGROUP_LEAF_NONE,
                        .report = &reports[i],
                };
        return try_idmap(s, err);
}

void slots_done(struct slots *s)
{
        for (uint32_t i = 0; s->items && i < s->top; i++) {
                drop_mounts(s, &s->items[i]);
                fd_replace(&s->items[i].shm, -EBADF);
                fd_replace(&s->items[i].store, -EBADF);
                remove_leaf(s, &s->items[i]);
                fd_replace(&s->items[i].userns, -EBADF);
                fd_replace(&s->items[i].idmap, -EBADF);
        }
        free(s->items);
        s->items = NULL;
        s->n = s->top = 0;
}
