#include "launcher/work_child.h"

#include "base/fd.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* What a worker needs as root of its ids: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP. */
#define CAPS                                                                                                           \
        ((UINT64_C(1) << CAP_CHOWN) | (UINT64_C(1) << CAP_DAC_OVERRIDE) | (UINT64_C(1) << CAP_FOWNER) |                \
         (UINT64_C(1) << CAP_FSETID) | (UINT64_C(1) << CAP_SETFCAP))

#define NOFILE_MAX 1024 /* 127 layers, and two for each of 256 levels of a tree */
#define CPU_SECONDS_MAX 1200
#define STACK_MAX (16U << 20)
#define FD_ASIDE (WORK_CHILD_FIRST_FD + WORK_CHILD_FDS_MAX + 8)

/* An empty, read-only file system as root; the caller's is gone. */
static int enter_nowhere(void)
{
        auto_fd fs = -EBADF, mnt = -EBADF;

        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return -errno;
        fs = sys_fsopen("tmpfs");
        if (fs < 0)
                return fs;
        (void)sys_fsconfig(fs, FSCONFIG_SET_STRING, "size", "4k");
        (void)sys_fsconfig(fs, FSCONFIG_SET_STRING, "nr_inodes", "2");
        if (sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL) < 0)
                return -errno;
        mnt = sys_fsmount(fs, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        if (mnt < 0)
                return mnt;
        if (sys_attach(mnt, AT_FDCWD, "/") < 0 || fchdir(mnt) < 0 || sys_pivot_root(".", ".") < 0 ||
            umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
                return -errno;
        return 0;
}

static int join_cgroups(const struct work_cgroup *g)
{
        for (size_t i = 0; g->v2_fd < 0 && i < WORK_CGROUP_FILES_MAX && g->v1_tasks[i] >= 0; i++) {
                int r = fd_write_all(g->v1_tasks[i], "0", 1);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int put_aside(int *fd)
{
        int r = *fd < 0 ? *fd : fcntl(*fd, F_DUPFD_CLOEXEC, FD_ASIDE);

        if (r < 0 && *fd >= 0)
                return -errno;
        *fd = r;
        return 0;
}

/* Moves the descriptors to their numbers, and those that are needed until exec out of the way. Standard input and outputs
 * become the sealed program: reading it is harmless, writing to it fails. */
static int place_fds(struct work_child *c)
{
        int aside[WORK_CHILD_FDS_MAX];

        if (put_aside(&c->worker_fd) < 0 || put_aside(&c->userns_fd) < 0 || put_aside(&c->report_fd) < 0)
                return -errno;
        for (size_t i = 0; i < c->n_fds; i++) {
                aside[i] = c->fds[i] < 0 ? -EBADF : fcntl(c->fds[i], F_DUPFD_CLOEXEC, FD_ASIDE);
                if (c->fds[i] >= 0 && aside[i] < 0)
                        return -errno;
        }
        if (sys_close_range(WORK_CHILD_FIRST_FD, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
                return -errno;
        for (size_t i = 0; i < c->n_fds; i++) {
                if (aside[i] >= 0 && dup2(aside[i], WORK_CHILD_FIRST_FD + (int)i) < 0)
                        return -errno;
        }
        for (int fd = 0; fd < WORK_CHILD_FIRST_FD; fd++) {
                if (dup2(c->worker_fd, fd) < 0)
                        return -errno;
        }
        return 0;
}

static int set_rlimits(uint64_t max_file)
{
        const struct {
                __rlimit_resource_t resource;
                rlim_t value;
        } limits[] = {
                { RLIMIT_NOFILE, NOFILE_MAX }, { RLIMIT_CPU, CPU_SECONDS_MAX },
                { RLIMIT_STACK, STACK_MAX },   { RLIMIT_MEMLOCK, 0 },
                { RLIMIT_MSGQUEUE, 0 },        { RLIMIT_FSIZE, max_file ? max_file : RLIM_INFINITY },
        };

        for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
                struct rlimit l = { limits[i].value, limits[i].value };

                if (setrlimit(limits[i].resource, &l) < 0)
                        return -errno;
        }
        return sys_limit_core();
}

static int set_caps(uint64_t caps)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {
                { .effective = (uint32_t)caps, .permitted = (uint32_t)caps },
                { .effective = (uint32_t)(caps >> 32), .permitted = (uint32_t)(caps >> 32) },
        };

        for (int cap = 0; cap < 64; cap++) {
                if (!(caps & (UINT64_C(1) << cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
                        return -errno;
        }
        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* Root of the store's ids, and of nothing else: the other namespaces belong to the host's user namespace. */
static int become_worker(const struct work_child *c)
{
        int r;

        if (setns(c->userns_fd, CLONE_NEWUSER) < 0 || syscall(SYS_setgroups, 0, NULL) < 0 ||
            syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
                return -errno;
        r = set_caps(c->capable ? CAPS : 0);
        if (r < 0)
                return r;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
                return -errno;
        return 0;
}

static void reset_signals(void)
{
        const struct sigaction standard = { .sa_handler = SIG_DFL };
        sigset_t none;

        (void)sigaction(SIGPIPE, &standard, NULL);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child(struct work_child *c)
{
        char *const env[] = { NULL };
        const char *step = "cgroup";
        int r;

        reset_signals();
        (void)umask(0);
        r = join_cgroups(c->cgroup);
        if (r == 0) {
                step = "mount namespace";
                r = enter_nowhere();
        }
        if (r == 0) {
                step = "descriptors";
                r = place_fds(c);
        }
        if (r == 0) {
                step = "limits";
                r = set_rlimits(c->max_file);
        }
        if (r == 0) {
                step = "user namespace";
                r = become_worker(c);
        }
        if (r == 0) {
                step = "exec";
                r = sys_execveat(c->worker_fd, "", c->argv, env, AT_EMPTY_PATH);
        }
        if (c->report_fd >= 0)
                (void)dprintf(c->report_fd, "{\"errno\":%d,\"error\":\"start of the worker: %s: %s\"}", -r, step,
                              strerror(-r));
        _exit(WORK_CHILD_NOT_STARTED);
}

int work_child_start(const struct work_child *c, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
        int pidfd = -EBADF;
        struct clone_args args = {
                .flags = CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                         CLONE_NEWCGROUP,
                .pidfd = (uint64_t)(uintptr_t)&pidfd,
                .exit_signal = SIGCHLD,
        };
        struct work_child copy = *c;
        pid_t pid;

        if (c->n_fds > WORK_CHILD_FDS_MAX)
                return err_set(err, EINVAL, "too many descriptors for a worker");
        if (c->cgroup->v2_fd >= 0) {
                args.flags |= CLONE_INTO_CGROUP;
                args.cgroup = (uint64_t)(unsigned)c->cgroup->v2_fd;
        }
        pid = sys_clone3(&args);
        if (pid == 0)
                child(&copy);
        if (pid < 0)
                return err_set(err, -pid, "start a worker (clone3): %s", strerror(-pid));
        *ret_pid = pid;
        *ret_pidfd = pidfd;
        return 0;
}
