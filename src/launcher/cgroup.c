#include "launcher/cgroup.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/time.h"
#include "launcher/proto.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define CLAIM_SECONDS 2
#define KILL_SECONDS 20
#define KNOB_MAX 4096
#define MOVE_ROUNDS 100   /* who forks meanwhile is met in the next one */
#define PIDS_CONTROLLER 3 /* of v1_controllers */

/* Version 1 has a file `tasks` in each directory. */
static const char *const group_names_v1[CGROUP_GROUPS] = { "containers", "workers" };
static const char *const group_names_v2[CGROUP_GROUPS] = { "tasks", "workers" };
static const char *const v1_controllers[CGROUP_HIERARCHIES] = { "memory", "cpu", "cpuacct", "pids" };

static bool has_word(const char *list, const char *word, const char *separators)
{
        size_t n = strlen(word);

        for (const char *p = list; *p; p += strspn(p, separators)) {
                size_t len = strcspn(p, separators);

                if (len == n && memcmp(p, word, n) == 0)
                        return true;
                p += len;
        }
        return false;
}

static int read_knob(int dir, const char *name, char *ret, size_t max)
{
        auto_fd fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = pread(fd, ret, max - 1, 0);
        if (n < 0)
                return -errno;
        ret[n] = '\0';
        return 0;
}

/* ── finding the hierarchies ──────────────────────────────────────────────────────────────────────────────────────── */

struct found {
        char v2[CEILING_PATH_MAX];
        char v1[CGROUP_HIERARCHIES][CEILING_PATH_MAX];
};

static int find_mounts(struct found *ret, struct err *err)
{
        FILE *f = setmntent("/proc/self/mounts", "re");
        struct mntent *m;

        if (!f)
                return err_sys(err, "open /proc/self/mounts");
        while ((m = getmntent(f))) {
                if (strlen(m->mnt_dir) >= CEILING_PATH_MAX)
                        continue;
                if (str_eq(m->mnt_type, "cgroup2") && !ret->v2[0])
                        memcpy(ret->v2, m->mnt_dir, strlen(m->mnt_dir) + 1);
                if (!str_eq(m->mnt_type, "cgroup"))
                        continue;
                for (unsigned i = 0; i < CGROUP_HIERARCHIES; i++)
                        if (has_word(m->mnt_opts, v1_controllers[i], ",") && !ret->v1[i][0])
                                memcpy(ret->v1[i], m->mnt_dir, strlen(m->mnt_dir) + 1);
        }
        (void)endmntent(f);
        return 0;
}

static bool v2_complete(const char *dir)
{
        auto_fd fd = open(dir, DIR_FLAGS);
        char have[KNOB_MAX] = "";

        return fd >= 0 && read_knob(fd, "cgroup.controllers", have, sizeof(have)) == 0 &&
               has_word(have, "memory", " \n") && has_word(have, "cpu", " \n") && has_word(have, "pids", " \n");
}

/* Controllers that share a mount (cpu,cpuacct) are one hierarchy. */
static bool join_earlier(struct cgroup *cg, const struct found *found, unsigned i)
{
        for (unsigned k = 0; k < i; k++) {
                if (!str_eq(found->v1[k], found->v1[i]))
                        continue;
                for (unsigned h = 0; h < cg->n; h++)
                        if (cg->controllers[h] & (1u << k))
                                cg->controllers[h] |= 1u << i;
                return true;
        }
        return false;
}

static int open_v1(struct cgroup *cg, const struct found *found, struct err *err)
{
        for (unsigned i = 0; i < CGROUP_HIERARCHIES; i++) {
                if (!found->v1[i][0])
                        return err_set(err, ENOSYS, "no cgroup hierarchy has the controller %s", v1_controllers[i]);
                if (join_earlier(cg, found, i))
                        continue;
                cg->root[cg->n] = open(found->v1[i], DIR_FLAGS);
                if (cg->root[cg->n] < 0)
                        return err_sys(err, "open %s", found->v1[i]);
                cg->controllers[cg->n++] = 1u << i;
        }
        cg->kind = found->v2[0] ? LAUNCH_CGROUP_HYBRID : LAUNCH_CGROUP_V1;
        return 0;
}

/* The path of our own cgroup in the unified hierarchy, without the final newline. */
static int own_path(char *ret, size_t max, struct err *err)
{
        auto_str text = STR_INIT;
        const char *line;
        size_t n;
        int r = fd_read_file(AT_FDCWD, "/proc/self/cgroup", 64 * 1024, &text, err);

        if (r < 0)
                return r;
        line = strstr(text.data ? text.data : "", "0::/");
        if (!line)
                return err_set(err, ENOENT, "this process is in no unified cgroup");
        n = strcspn(line + 3, "\n");
        if (n >= max)
                return err_set(err, ENAMETOOLONG, "the path of our cgroup is too long");
        memcpy(ret, line + 3, n);
        ret[n] = '\0';
        return 0;
}

static bool is_delegated(const char *dir)
{
        char value[8];

        /* systemd.resource-control(5), Delegate=: both names are in use (systemd 251 and later, and before). */
        return getxattr(dir, "trusted.delegate", value, sizeof(value)) > 0 ||
               getxattr(dir, "user.delegate", value, sizeof(value)) > 0;
}

static int open_v2(struct cgroup *cg, const char *mount, enum ceiling_cgroup where, struct err *err)
{
        char own[CEILING_PATH_MAX], path[2 * CEILING_PATH_MAX];
        int r;

        cg->kind = LAUNCH_CGROUP_V2;
        cg->n = 1;
        if (where != CEILING_CGROUP_ROOT) {
                r = own_path(own, sizeof(own), err);
                if (r < 0)
                        return r;
                (void)snprintf(path, sizeof(path), "%s%s", mount, own);
                cg->delegated = where == CEILING_CGROUP_DELEGATED || is_delegated(path);
        }
        cg->root[0] = open(cg->delegated ? path : mount, DIR_FLAGS);
        return cg->root[0] < 0 ? err_sys(err, "open %s", cg->delegated ? path : mount) : 0;
}

/* ── making ours ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int make_dir(int at, const char *name, int *ret, struct err *err)
{
        if (mkdirat(at, name, 0755) < 0 && errno != EEXIST)
                return err_sys(err, "make cgroup %s", name);
        *ret = openat(at, name, DIR_FLAGS);
        return *ret < 0 ? err_sys(err, "open cgroup %s", name) : 0;
}

static int enable_controllers(int dir, char *added, size_t max, struct err *err)
{
        static const char *const wanted[] = { "memory", "cpu", "pids" };
        char have[KNOB_MAX] = "", text[32] = "";
        size_t n = 0;
        int r = read_knob(dir, "cgroup.subtree_control", have, sizeof(have));

        if (r < 0)
                return err_set(err, -r, "read cgroup.subtree_control");
        for (unsigned i = 0; i < ARRAY_LEN(wanted); i++)
                if (!has_word(have, wanted[i], " \n"))
                        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s+%s", n ? " " : "", wanted[i]);
        if (n == 0)
                return 0;
        if (added && n < max)
                memcpy(added, text, n + 1);
        return fd_write_knob(dir, "cgroup.subtree_control", text, err);
}

/* One round over the processes of a cgroup. Answers how many it found; 0 from /proc's view means one of another pid
 * namespace, which nobody here can move. */
static int move_procs(int from, int to, struct err *err)
{
        auto_fd fd = openat(from, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "re");
        int n = 0, r = 0;
        char text[24];
        long pid;

        if (!f)
                return err_sys(err, "read the processes of our cgroup");
        TAKE_FD(fd);
        for (; r == 0 && fscanf(f, "%ld", &pid) == 1; n++) {
                (void)snprintf(text, sizeof(text), "%ld", pid);
                r = pid == 0 ? -EBUSY : fd_write_knob(to, "cgroup.procs", text, NULL);
                if (r == -ESRCH)
                        r = 0;
        }
        (void)fclose(f);
        return r < 0 ? err_set(err, -r, "process %ld in the cgroup that was delegated to us cannot be moved aside", pid)
                     : n;
}

/* A cgroup with processes cannot hand controllers to its children (cgroup-v2.rst, «No Internal Process Constraint»): who
 * started us, and whatever else is in it, moves with us. */
static int step_aside(struct cgroup *cg, struct err *err)
{
        auto_fd launcher = -EBADF;
        int r = make_dir(cg->root[0], "launcher", &launcher, err);

        for (unsigned i = 0; r == 0 && i < MOVE_ROUNDS; i++) {
                r = move_procs(cg->root[0], launcher, err);
                if (r <= 0)
                        return r;
                r = 0;
        }
        return r < 0 ? r : err_set(err, EBUSY, "ever more processes appear in the cgroup that was delegated to us");
}

static int make_ours_v2(struct cgroup *cg, struct err *err)
{
        int r;

        if (cg->delegated) {
                r = step_aside(cg, err);
                if (r < 0)
                        return r;
                r = enable_controllers(cg->root[0], NULL, 0, err);
                cg->instance[0] = fcntl(cg->root[0], F_DUPFD_CLOEXEC, 3);
        } else {
                r = enable_controllers(cg->root[0], cg->enabled, sizeof(cg->enabled), err);
                if (r < 0)
                        return r;
                r = make_dir(cg->root[0], cg->name, &cg->instance[0], err);
                if (r == 0)
                        r = enable_controllers(cg->instance[0], NULL, 0, err);
        }
        for (unsigned g = 0; r == 0 && g < CGROUP_GROUPS; g++) {
                r = make_dir(cg->instance[0], group_names_v2[g], &cg->groups[g][0], err);
                if (r == 0)
                        r = enable_controllers(cg->groups[g][0], NULL, 0, err);
        }
        return r;
}

static int make_ours_v1(struct cgroup *cg, struct err *err)
{
        int r = 0;

        for (unsigned i = 0; r == 0 && i < cg->n; i++) {
                r = make_dir(cg->root[i], cg->name, &cg->instance[i], err);
                for (unsigned g = 0; r == 0 && g < CGROUP_GROUPS; g++)
                        r = make_dir(cg->instance[i], group_names_v1[g], &cg->groups[g][i], err);
        }
        return r;
}

static uint64_t read_number(const char *path)
{
        char text[KNOB_MAX] = "";
        uint64_t n = 0;

        if (read_knob(AT_FDCWD, path, text, sizeof(text)) < 0)
                return UINT64_MAX;
        text[strcspn(text, "\n")] = '\0';
        return parse_u64(text, &n) < 0 ? UINT64_MAX : n;
}

/* All tasks together leave a quarter of the machine's processes to the host, however many each of them may have: where none is
 * left, not even root can start one. */
static int bound_processes(const struct cgroup *cg, struct err *err)
{
        uint64_t pids = read_number("/proc/sys/kernel/pid_max"), threads = read_number("/proc/sys/kernel/threads-max");
        uint64_t most = MIN(pids, threads);
        char text[32];
        int r = 0;

        if (most == UINT64_MAX)
                return 0;
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)(most - most / 4));
        for (unsigned i = 0; r == 0 && i < cg->n; i++)
                if (cg->kind == LAUNCH_CGROUP_V2 || (cg->controllers[i] & (1u << PIDS_CONTROLLER)))
                        r = fd_write_knob(cg->groups[CGROUP_TASKS][i], "pids.max", text, err);
        return r;
}

static void close_all(struct cgroup *cg)
{
        for (unsigned i = 0; i < CGROUP_HIERARCHIES; i++) {
                for (unsigned g = 0; g < CGROUP_GROUPS; g++)
                        fd_replace(&cg->groups[g][i], -EBADF);
                fd_replace(&cg->instance[i], -EBADF);
                fd_replace(&cg->root[i], -EBADF);
        }
}

/* A second launcher of the same name would kill what the first one runs. The lock goes with the last of our descriptors;
 * for a moment a child that has not executed its program yet may still have them. */
static int claim(const struct cgroup *cg, struct err *err)
{
        uint64_t end = time_mono_ns() + CLAIM_SECONDS * NS_PER_S;

        while (flock(cg->instance[0], LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return err_sys(err, "lock the cgroup %s", cg->name);
                if (time_mono_ns() > end)
                        return err_set(err, EBUSY,
                                       "another instance here has the name '%s': give this one its own `name`",
                                       cg->name);
                (void)usleep(10000);
        }
        return 0;
}

int cgroup_open(struct cgroup *cg, const char *name, enum ceiling_cgroup where, struct err *err)
{
        struct found found = { .v2 = "" };
        int r;

        *cg = (struct cgroup){ .n = 0 };
        for (unsigned i = 0; i < CGROUP_HIERARCHIES; i++) {
                cg->root[i] = cg->instance[i] = -EBADF;
                for (unsigned g = 0; g < CGROUP_GROUPS; g++)
                        cg->groups[g][i] = -EBADF;
        }
        (void)snprintf(cg->name, sizeof(cg->name), "%s", name);
        r = find_mounts(&found, err);
        if (r < 0)
                return r;
        if (found.v2[0] && v2_complete(found.v2))
                r = open_v2(cg, found.v2, where, err);
        else
                r = open_v1(cg, &found, err);
        if (r == 0)
                r = cg->kind == LAUNCH_CGROUP_V2 ? make_ours_v2(cg, err) : make_ours_v1(cg, err);
        if (r == 0)
                r = claim(cg, err);
        if (r == 0)
                r = cgroup_kill_all(cg, err);
        if (r == 0)
                r = bound_processes(cg, err);
        if (r < 0)
                close_all(cg);
        return r;
}

/* ── ending what runs in ours ─────────────────────────────────────────────────────────────────────────────────────── */

static void kill_procs(int dir)
{
        auto_fd fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "re");
        long pid;

        if (!f)
                return;
        TAKE_FD(fd);
        while (fscanf(f, "%ld", &pid) == 1)
                if (pid > 1 && pid != getpid())
                        (void)kill((pid_t)pid, SIGKILL);
        (void)fclose(f);
}

/* One round over the leaves of a group: kills, then removes what is empty. Answers how many are left. */
static unsigned kill_round(const struct cgroup *cg, int group)
{
        auto_fd fd = openat(group, ".", DIR_FLAGS);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        unsigned left = 0;
        struct dirent *e;

        if (!d)
                return 0;
        TAKE_FD(fd);
        while ((e = readdir(d))) {
                auto_fd leaf = -EBADF;

                if (e->d_type != DT_DIR || e->d_name[0] == '.')
                        continue;
                if (unlinkat(group, e->d_name, AT_REMOVEDIR) == 0)
                        continue;
                left++;
                leaf = openat(group, e->d_name, DIR_FLAGS);
                if (leaf < 0)
                        continue;
                if (cg->kind == LAUNCH_CGROUP_V2)
                        (void)fd_write_knob(leaf, "cgroup.kill", "1", NULL);
                kill_procs(leaf);
        }
        (void)closedir(d);
        return left;
}

int cgroup_kill_all(struct cgroup *cg, struct err *err)
{
        uint64_t end = time_mono_ns() + KILL_SECONDS * NS_PER_S;
        unsigned left;

        for (;;) {
                left = 0;
                for (unsigned i = 0; i < cg->n; i++)
                        for (unsigned g = 0; g < CGROUP_GROUPS; g++)
                                left += kill_round(cg, cg->groups[g][i]);
                if (left == 0)
                        return 0;
                if (time_mono_ns() > end)
                        return err_set(err, EBUSY, "%u cgroups of %s do not become empty", left, cg->name);
                (void)usleep(500);
        }
}

static void take_back_controllers(struct cgroup *cg)
{
        if (!cg->enabled[0])
                return;
        for (char *p = cg->enabled; *p; p++)
                if (*p == '+')
                        *p = '-';
        (void)fd_write_knob(cg->root[0], "cgroup.subtree_control", cg->enabled, NULL);
}

void cgroup_close(struct cgroup *cg)
{
        if (cg->n == 0)
                return;
        (void)cgroup_kill_all(cg, NULL);
        for (unsigned i = 0; i < cg->n; i++) {
                const char *const *names = cg->kind == LAUNCH_CGROUP_V2 ? group_names_v2 : group_names_v1;

                for (unsigned g = 0; g < CGROUP_GROUPS; g++)
                        (void)unlinkat(cg->instance[i], names[g], AT_REMOVEDIR);
                if (!cg->delegated)
                        (void)unlinkat(cg->root[i], cg->name, AT_REMOVEDIR);
        }
        take_back_controllers(cg);
        close_all(cg);
        cg->n = 0;
}
