#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROC_MAGIC 0x9fa0
#define TMPFS_MAGIC 0x01021994
#define MAX_LINE 4096

/* A masked file is /dev/null or cannot be opened; a masked directory is empty. */
static void masked(const char *path)
{
        char name[128], byte;
        struct stat st;
        int fd;
        ssize_t n;

        snprintf(name, sizeof(name), "masked: %s", path);
        if (lstat(path, &st) < 0) {
                check(errno == ENOENT, name, "%s", strerror(errno));
                return;
        }
        if (S_ISDIR(st.st_mode)) {
                DIR *d = opendir(path);
                char inside[160];
                int entries = 0;

                if (!d) {
                        check(errno == EACCES || errno == EPERM, name, "%s", strerror(errno));
                        return;
                }
                for (struct dirent *e; (e = readdir(d));)
                        entries += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
                closedir(d);
                snprintf(inside, sizeof(inside), "%s/mf-x", path);
                if (entries == 0 && TRY(mkdir(inside, 0700)) == 0) {
                        fail(name, "the mask can be written to");
                        return;
                }
                check(entries == 0, name, "%d entries", entries);
                return;
        }
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) {
                pass(name);
                return;
        }
        n = read(fd, &byte, 1);
        close(fd);
        check(n == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3), name, "read %zd, mode %o, device %u:%u", n,
              st.st_mode, major(st.st_rdev), minor(st.st_rdev));
}

static void masks(void)
{
        static const char *const paths[] = {
                "/proc/acpi",        "/proc/asound",        "/proc/interrupts",     "/proc/kcore",
                "/proc/keys",        "/proc/latency_stats", "/proc/sched_debug",    "/proc/scsi",
                "/proc/timer_list",  "/proc/timer_stats",   "/proc/kallsyms",       "/proc/kmsg",
                "/proc/kpagecgroup", "/proc/kpagecount",    "/proc/kpageflags",     "/proc/slabinfo",
                "/proc/vmallocinfo", "/proc/sysrq-trigger", "/sys/firmware",        "/sys/devices/virtual/powercap",
                "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf",
                "/sys/fs/pstore",
        };

        for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
                masked(paths[i]);
}

static void read_only(const char *path)
{
        char name[128];
        struct statvfs v;

        snprintf(name, sizeof(name), "read-only: %s", path);
        if (statvfs(path, &v) < 0) {
                check(errno == ENOENT, name, "%s", strerror(errno));
                return;
        }
        check(v.f_flag & ST_RDONLY, name, "mount flags %lx", v.f_flag);
}

/* Opening for writing must be refused because of the mount, whoever asks. */
static void refused_write(const char *path)
{
        char name[160];
        int e = TRY(open(path, O_WRONLY | O_CLOEXEC));

        snprintf(name, sizeof(name), "not writable: %s", path);
        check(e == EROFS || e == EACCES || e == ENOENT || e == EPERM, name, "%s", e ? strerror(e) : "it opened");
}

static void read_only_trees(void)
{
        static const char *const trees[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/sys" };
        static const char *const files[] = {
                "/proc/sys/kernel/core_pattern",
                "/proc/sys/kernel/modprobe",
                "/proc/sys/vm/overcommit_memory",
                "/proc/sys/net/ipv4/ip_forward",
                "/proc/sys/fs/binfmt_misc/register",
                "/sys/kernel/uevent_helper",
                "/sys/power/state",
                "/proc/sys/user/max_user_namespaces",
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "/proc/sys/kernel/ns_last_pid",
                "/proc/sys/kernel/hostname",
        };

        for (size_t i = 0; i < sizeof(trees) / sizeof(trees[0]); i++)
                read_only(trees[i]);
        for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
                refused_write(files[i]);
        check(TRY(mkdir("/sys/fs/cgroup/x", 0755)) != 0, "cgroup file system: no new group", "it could be made");
        check(TRY(mkdir("/proc/sys/x", 0755)) != 0, "/proc/sys: no new file", "it could be made");
}

/* Calls fn for each mount: its root, its mount point, its options, the type, the source and the superblock's options. */
static void each_mount(void (*fn)(const char *root, const char *point, const char *options, const char *type,
                                  const char *source, const char *super))
{
        char *text = strdup(slurp("/proc/self/mountinfo")), *save = NULL;

        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                static char root[MAX_LINE], point[MAX_LINE], options[MAX_LINE], type[64], source[MAX_LINE],
                        super[MAX_LINE];
                const char *rest = strstr(line, " - ");

                super[0] = '\0';
                if (!rest || sscanf(line, "%*d %*d %*s %4095s %4095s %4095s", root, point, options) != 3 ||
                    sscanf(rest + 3, "%63s %4095s %4095s", type, source, super) < 2) {
                        fail("mountinfo", "cannot read '%s'", line);
                        continue;
                }
                fn(root, point, options, type, source, super);
        }
        free(text);
}

static bool has_option(const char *options, const char *wanted)
{
        size_t len = strlen(wanted);

        for (const char *p = options; (p = strstr(p, wanted)); p += len) {
                if ((p == options || p[-1] == ',') && (p[len] == ',' || p[len] == '\0'))
                        return true;
        }
        return false;
}

static int host_paths, writable_sys, mounts_seen, cgroup_mounts;
static char first_host_path[MAX_LINE];

static void look_at_mount(const char *root, const char *point, const char *options, const char *type,
                          const char *source, const char *super)
{
        char paths[512] = "", *save = NULL;

        mounts_seen++;
        if (option("hostpaths"))
                snprintf(paths, sizeof(paths), "%s", option("hostpaths"));
        for (char *p = strtok_r(paths, ":", &save); p; p = strtok_r(NULL, ":", &save)) {
                if (strstr(root, p) || strstr(point, p) || strstr(source, p) || strstr(super, p)) {
                        host_paths++;
                        snprintf(first_host_path, sizeof(first_host_path), "%.900s %.900s %.900s %.900s", root, point,
                                 source, super);
                }
        }
        /* An image's tree may not be seen by the name it has on the host. */
        if (strcmp(type, "ext4") == 0 || strcmp(type, "xfs") == 0 || strcmp(type, "btrfs") == 0) {
                if (strstr(root, "/store/") || strstr(root, "/data/")) {
                        host_paths++;
                        snprintf(first_host_path, sizeof(first_host_path), "%.2000s %.2000s", root, point);
                }
        }
        if (strncmp(point, "/sys", 4) == 0 && !has_option(options, "ro")) {
                writable_sys++;
                fail("read-only: every mount of /sys", "%s %s %s", point, type, options);
        }
        if (strncmp(point, "/sys/fs/cgroup", 14) == 0)
                cgroup_mounts++;
}

static void mounts(void)
{
        char cgroup[1024];
        const char *p;
        bool root_only = true;

        each_mount(look_at_mount);
        check(mounts_seen > 3, "mountinfo: can be read", "%d mounts", mounts_seen);
        check(host_paths == 0, "mountinfo: no path of the host", "%s", first_host_path);
        if (writable_sys == 0)
                pass("read-only: every mount of /sys");
        snprintf(cgroup, sizeof(cgroup), "%s", slurp("/proc/self/cgroup"));
        for (p = cgroup; *p;) {
                const char *eol = strchr(p, '\n');
                size_t len = eol ? (size_t)(eol - p) : strlen(p);

                if (len < 2 || p[len - 1] != '/' || p[len - 2] != ':')
                        root_only = false;
                p += len + (eol != NULL);
        }
        check(root_only && cgroup[0], "cgroup: the path is /", "%s", cgroup);
}

static void device(const char *name, unsigned maj, unsigned min)
{
        char path[64], text[96];
        struct stat st;

        snprintf(path, sizeof(path), "/dev/%s", name);
        snprintf(text, sizeof(text), "device: %s", path);
        if (lstat(path, &st) < 0) {
                fail(text, "%s", strerror(errno));
                return;
        }
        check(S_ISCHR(st.st_mode) && st.st_rdev == makedev(maj, min), text, "mode %o, %u:%u", st.st_mode,
              major(st.st_rdev), minor(st.st_rdev));
}

static void devices(void)
{
        static const char *const known[] = {
                "null", "zero",   "full", "random", "urandom", "tty",    "console", "pts",
                "shm",  "mqueue", "fd",   "stdin",  "stdout",  "stderr", "ptmx",    "core"
        };
        DIR *d = opendir("/dev");
        char extra[256] = "";
        size_t len = 0;
        int fd;

        device("null", 1, 3);
        device("zero", 1, 5);
        device("full", 1, 7);
        device("random", 1, 8);
        device("urandom", 1, 9);
        device("tty", 5, 0);
        for (struct dirent *e; d && (e = readdir(d));) {
                bool found = e->d_name[0] == '.';

                for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
                        found |= strcmp(e->d_name, known[i]) == 0;
                if (!found && len < sizeof(extra))
                        len += (size_t)snprintf(extra + len, sizeof(extra) - len, "%s ", e->d_name);
        }
        if (d)
                closedir(d);
        check(d && !extra[0], "devices: no other", "%s", d ? extra : strerror(errno));
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        check(fd >= 0 && write(fd, "x", 1) == 1, "device: /dev/null can be written", "%s", strerror(errno));
        if (fd >= 0)
                close(fd);
        check(TRY(mknod("/tmp/mf-null", S_IFCHR | 0666, makedev(1, 3))) != 0, "mknod: character device",
              "it could be made");
        check(TRY(mknod("/tmp/mf-disk", S_IFBLK | 0666, makedev(8, 0))) != 0, "mknod: block device",
              "it could be made");
        check(TRY(mknod("/dev/mf-kmsg", S_IFCHR | 0666, makedev(1, 11))) != 0, "mknod: in /dev", "it could be made");
        check(TRY(open("/dev/kmsg", O_RDONLY | O_CLOEXEC)) != 0, "no /dev/kmsg", "it opened");
        check(TRY(open("/dev/mem", O_RDONLY | O_CLOEXEC)) != 0, "no /dev/mem", "it opened");
}

static void shared_memory(void)
{
        uint64_t size = option_number("shm", 64u << 20);
        struct statfs fs = { 0 };
        struct statvfs v = { 0 };
        uint64_t have;

        statfs("/dev/shm", &fs);
        statvfs("/dev/shm", &v);
        have = (uint64_t)v.f_blocks * v.f_frsize;
        check(fs.f_type == TMPFS_MAGIC, "/dev/shm: tmpfs", "type %lx", (unsigned long)fs.f_type);
        check(v.f_flag & ST_NOSUID, "/dev/shm: nosuid", "flags %lx", v.f_flag);
        check(v.f_flag & ST_NODEV, "/dev/shm: nodev", "flags %lx", v.f_flag);
        check(v.f_flag & ST_NOEXEC, "/dev/shm: noexec", "flags %lx", v.f_flag);
        check(have == size, "/dev/shm: size", "%llu, not %llu", (unsigned long long)have, (unsigned long long)size);
}

static void own_proc(void)
{
        struct statfs fs = { 0 };
        struct stat root = { 0 }, root1 = { 0 };
        DIR *d = opendir("/proc");
        int most = 0, n = 0;
        char target[512] = "", cwd[512] = "";

        statfs("/proc", &fs);
        check(fs.f_type == PROC_MAGIC, "/proc: is procfs", "type %lx", (unsigned long)fs.f_type);
        for (struct dirent *e; d && (e = readdir(d));) {
                int pid = (int)strtol(e->d_name, NULL, 10);

                n += pid > 0;
                most = pid > most ? pid : most;
        }
        if (d)
                closedir(d);
        check(n >= 1 && n <= 8 && most < 1000, "/proc: only our own processes", "%d processes, the highest %d", n,
              most);
        check(getpid() == 1 || option_number("init", 0), "pid 1 is the task", "pid %d without an init", getpid());
        stat("/", &root);
        if (stat("/proc/1/root", &root1) == 0)
                check(root.st_dev == root1.st_dev && root.st_ino == root1.st_ino, "root of pid 1", "it is another");
        else
                check(errno == EACCES || errno == EPERM, "root of pid 1", "%s", strerror(errno));
        check(getcwd(cwd, sizeof(cwd)) && cwd[0] == '/', "cwd is below the root", "'%s'", cwd);
        for (int i = 0; i < 2; i++) {
                const char *path = i ? "/proc/1/exe" : "/proc/self/exe";
                char name[64];
                int e = TRY(open(path, O_RDWR | O_CLOEXEC));

                snprintf(name, sizeof(name), "%s: not writable", path);
                check(e == ETXTBSY || e == EROFS || e == EACCES || e == EPERM, name, "%s",
                      e ? strerror(e) : "it opened");
                snprintf(name, sizeof(name), "%s: no program of the host", path);
                memset(target, 0, sizeof(target));
                if (readlink(path, target, sizeof(target) - 1) < 0) {
                        check(errno == EACCES || errno == EPERM, name, "%s", strerror(errno));
                        continue;
                }
                check(!strstr(target, "launcher") && !strstr(target, "mayflyd") && !strstr(target, "build") &&
                              !strstr(target, "libexec"),
                      name, "%s", target);
        }
        check(!strstr(slurp("/proc/1/cmdline"), "launcher"), "/proc/1/cmdline: not the launcher's", "%s",
              slurp("/proc/1/cmdline"));
        check(!strstr(slurp("/proc/1/comm"), "launcher"), "/proc/1/comm: not the launcher's", "%s",
              slurp("/proc/1/comm"));
}

/* The mount calls themselves; which errno does not matter, that nothing is mounted does. */
static void mounting(void)
{
        mkdir("/tmp/mf-mount", 0755);
        check(TRY(mount("none", "/tmp/mf-mount", "tmpfs", 0, NULL)) != 0, "mount: tmpfs", "it was mounted");
        check(TRY(mount("none", "/tmp/mf-mount", "proc", 0, NULL)) != 0, "mount: proc", "it was mounted");
        check(TRY(mount("none", "/tmp/mf-mount", "sysfs", 0, NULL)) != 0, "mount: sysfs", "it was mounted");
        check(TRY(mount("none", "/tmp/mf-mount", "cgroup", 0, "memory")) != 0, "mount: cgroup v1", "it was mounted");
        check(TRY(mount("none", "/tmp/mf-mount", "cgroup2", 0, NULL)) != 0, "mount: cgroup v2", "it was mounted");
        check(TRY(mount("none", "/tmp/mf-mount", "overlay", 0, "lowerdir=/bin,upperdir=/tmp,workdir=/tmp")) != 0,
              "mount: overlay", "it was mounted");
        check(TRY(mount("/", "/tmp/mf-mount", NULL, MS_BIND | MS_REC, NULL)) != 0, "mount: bind", "it was mounted");
        check(TRY(mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL)) != 0, "mount: remount /proc/sys",
              "it was remounted");
        check(TRY(mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL)) != 0, "mount: remount /sys",
              "it was remounted");
        check(TRY(umount2("/proc/kcore", MNT_DETACH)) != 0, "umount: a mask", "it was unmounted");
        check(TRY(umount2("/proc", MNT_DETACH)) != 0, "umount: /proc", "it was unmounted");
        rmdir("/tmp/mf-mount");
}

void probe_paths(void)
{
        own_proc();
        masks();
        read_only_trees();
        mounts();
        devices();
        shared_memory();
        mounting();
}
