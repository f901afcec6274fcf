#include "daemon/spawn.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_FD 3
#define NOFILE_WANTED 524288

/* ── in the child ────────────────────────────────────────────────────────────────────────────────────────────────── */

/* What a child tells its parent when it cannot go on. */
struct failure {
        int error;
        char step[40];
};

static void give_up(int fd, const char *step)
{
        struct failure f = { .error = errno };

        (void)snprintf(f.step, sizeof(f.step), "%s", step);
        (void)!write(fd, &f, sizeof(f));
        _exit(127);
}

static void reset_signals(void)
{
        sigset_t none;

        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* 3, 4… in order, everything else closed. First all go above the targets, so that none is overwritten. */
static int place_fds(int *fds, size_t n, int *report)
{
        for (size_t i = 0; i <= n; i++) {
                int *fd = i < n ? &fds[i] : report;

                *fd = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_FD + SUPERVISOR_FDS_MAX + 2);
                if (*fd < 0)
                        return -1;
        }
        for (size_t i = 0; i < n; i++)
                if (dup2(fds[i], FIRST_FD + (int)i) < 0)
                        return -1;
        if (dup3(*report, FIRST_FD + (int)n, O_CLOEXEC) < 0)
                return -1;
        *report = FIRST_FD + (int)n;
        return (int)syscall(SYS_close_range, *report + 1, ~0u, 0);
}

static int drop_capabilities(void)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 }, { 0 } };

        return (int)syscall(SYS_capset, &header, none);
}

static int drop_privileges(const struct child_spec *spec)
{
        for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
                if (prctl(PR_CAPBSET_DROP, cap) < 0)
                        return -1;
        if (setgroups(spec->n_groups, spec->groups) < 0 || setresgid(spec->gid, spec->gid, spec->gid) < 0 ||
            setresuid(spec->uid, spec->uid, spec->uid) < 0 || drop_capabilities() < 0)
                return -1;
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void set_limits(void)
{
        /* No core files; but 0 could not be raised to what the launcher gives to tasks (sys_limit_core()). */
        struct rlimit core = { 1, 1 }, files;

        (void)setrlimit(RLIMIT_CORE, &core);
        files = (struct rlimit){ NOFILE_WANTED, NOFILE_WANTED };
        if (setrlimit(RLIMIT_NOFILE, &files) == 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
                return;
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
}

/* What the service manager told the supervisor is not the child's. Listeners come as systemd passes them
 * (sd_listen_fds(3)), so that the programs know one way only. */
static int set_environment(size_t listeners)
{
        static const char *const names[] = { "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
                                             "WATCHDOG_USEC" };
        char pid[16], count[16];

        for (size_t i = 0; i < ARRAY_LEN(names); i++)
                (void)unsetenv(names[i]);
        if (listeners == 0)
                return 0;
        (void)snprintf(pid, sizeof(pid), "%d", getpid());
        (void)snprintf(count, sizeof(count), "%zu", listeners);
        return setenv("LISTEN_FDS", count, 1) < 0 ? -1 : setenv("LISTEN_PID", pid, 1);
}

static void become(const struct child_spec *spec, int *fds, size_t n, pid_t parent, int report)
{
        int null, program;

        reset_signals();
        (void)setsid();
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (null < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0)
                give_up(report, "open /dev/null");
        set_limits();
        if (place_fds(fds, n, &report) < 0)
                give_up(report, "pass descriptors");
        if (set_environment(n - (spec->ready_pipe ? 1 : 0)) < 0)
                give_up(report, "set the environment");
        /* While we may still look: the way to the program may lead through somebody's home. */
        program = open(spec->argv[0], O_PATH | O_CLOEXEC);
        if (program < 0)
                give_up(report, "find the program");
        if (spec->drop && drop_privileges(spec) < 0)
                give_up(report, "drop privileges");
        /* After the change of ids, which clears it (prctl(2)). */
        if (prctl(PR_SET_PDEATHSIG, spec->death_signal) < 0 || getppid() != parent)
                give_up(report, "die with the parent");
        (void)umask(022);
        if (spec->drop)
                (void)syscall(SYS_execveat, program, "", spec->argv, environ, AT_EMPTY_PATH);
        else
                (void)execv(spec->argv[0], spec->argv);
        give_up(report, "execute");
}

/* ── in the parent ───────────────────────────────────────────────────────────────────────────────────────────────── */

static int wait_for_exec(const struct child_spec *spec, pid_t pid, int report, struct err *err)
{
        struct failure f;
        ssize_t n;

        do
                n = read(report, &f, sizeof(f));
        while (n < 0 && errno == EINTR);
        if (n != sizeof(f))
                return 0;
        (void)waitpid(pid, NULL, 0);
        f.step[sizeof(f.step) - 1] = '\0';
        return err_set(err, f.error, "start %s: %s: %s", spec->argv[0], f.step, strerror(f.error));
}

int spawn_child(const struct child_spec *spec, pid_t *ret_pid, int *ret_ready_fd, struct err *err)
{
        int ready[2] = { -EBADF, -EBADF }, report[2], fds[SUPERVISOR_FDS_MAX + 1];
        pid_t parent = getpid(), pid;
        size_t n = 0;
        int r;

        while (n < SUPERVISOR_FDS_MAX && spec->fds[n] >= FIRST_FD) {
                fds[n] = spec->fds[n];
                n++;
        }
        if (spec->ready_pipe && pipe2(ready, O_CLOEXEC | O_NONBLOCK) < 0)
                return err_sys(err, "pipe");
        if (pipe2(report, O_CLOEXEC) < 0) {
                r = err_sys(err, "pipe");
                fd_close(ready[0]);
                fd_close(ready[1]);
                return r;
        }
        if (spec->ready_pipe)
                fds[n++] = ready[1];
        pid = fork();
        if (pid == 0)
                become(spec, fds, n, parent, report[1]);
        r = pid < 0 ? err_sys(err, "fork") : 0;
        fd_close(ready[1]);
        fd_close(report[1]);
        if (r == 0)
                r = wait_for_exec(spec, pid, report[0], err);
        fd_close(report[0]);
        if (r < 0) {
                fd_close(ready[0]);
                return r;
        }
        *ret_pid = pid;
        *ret_ready_fd = ready[0];
        return 0;
}
