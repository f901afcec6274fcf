#include "launcher/container.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "launcher/child.h"
#include "launcher/init/report.h"
#include "launcher/loan.h"
#include "launcher/sys.h"
#include "launcher/validate.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#ifndef PIDFD_GET_MNT_NAMESPACE /* Linux 6.11 */
#define PIDFD_GET_MNT_NAMESPACE _IO(0xFF, 3)
#endif

static const bool moves[CONTAINER_STATES][CONTAINER_STATES] = {
        [CONTAINER_FREE] = { [CONTAINER_RUNNING] = true, [CONTAINER_ENDED] = true },
        [CONTAINER_RUNNING] = { [CONTAINER_ENDED] = true, [CONTAINER_DOOMED] = true },
        [CONTAINER_ENDED] = { [CONTAINER_FREE] = true },
        [CONTAINER_DOOMED] = { [CONTAINER_FREE] = true },
};

/* A move that is not in the table is a fault of ours that no later step could mend. */
static void container_move(struct container *c, enum container_state to)
{
        if (!moves[c->state][to])
                abort();
        c->state = to;
}

static bool alive(const struct container *c)
{
        return c->state == CONTAINER_RUNNING || c->state == CONTAINER_DOOMED;
}

int containers_init(struct containers *cs, uint32_t n, struct slots *slots, struct cgroup *cg, int proc, int init,
                    struct err *err)
{
        *cs = (struct containers){ .n = n, .slots = slots, .cgroup = cg, .proc = proc, .init = init };
        cs->items = calloc(n, sizeof(*cs->items));
        return cs->items ? 0 : err_oom(err);
}

/* ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct container *containers_find(struct containers *cs, const char id[LAUNCH_ID_MAX])
{
        for (uint32_t i = 0; i < cs->top; i++) {
                struct container *c = &cs->items[i];

                if ((c->state == CONTAINER_RUNNING || c->state == CONTAINER_ENDED) &&
                    memcmp(c->id, id, LAUNCH_ID_MAX) == 0)
                        return c;
        }
        return NULL;
}

struct container *containers_find_pid(struct containers *cs, pid_t pid)
{
        for (uint32_t i = 0; i < cs->top; i++)
                if (alive(&cs->items[i]) && cs->items[i].pid == pid)
                        return &cs->items[i];
        return NULL;
}

struct container *containers_find_slot(struct containers *cs, uint32_t slot)
{
        for (uint32_t i = 0; i < cs->top; i++)
                if (alive(&cs->items[i]) && cs->items[i].slot->n == slot)
                        return &cs->items[i];
        return NULL;
}

bool containers_use_tree(const struct containers *cs, const char *tree)
{
        for (uint32_t i = 0; i < cs->top; i++)
                if (cs->items[i].slot && memcmp(cs->items[i].tree, tree, LAUNCH_HEX) == 0)
                        return true;
        return false;
}

static struct container *find_free(struct containers *cs)
{
        for (uint32_t i = 0; i < cs->n; i++)
                if (cs->items[i].state == CONTAINER_FREE) {
                        cs->top = MAX(cs->top, i + 1);
                        return &cs->items[i];
                }
        return NULL;
}

/* ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void close_fds(int *fds, size_t n)
{
        for (size_t i = 0; i < n; i++)
                fd_replace(&fds[i], -EBADF);
}

/* Every user of the task may open /dev/stdout by name, also after it has dropped its ids. */
static int open_pipes(const int *fds)
{
        struct stat st;

        if (fchmod(fds[LAUNCH_FD_STDOUT_W], 0666) < 0 || fchmod(fds[LAUNCH_FD_STDERR_W], 0666) < 0)
                return -errno;
        if (fstat(fds[LAUNCH_FD_STDIN], &st) < 0 || (S_ISFIFO(st.st_mode) && fchmod(fds[LAUNCH_FD_STDIN], 0666) < 0))
                return -errno;
        return 0;
}

/* What lies in a window is closed; the numbers stay taken (by /dev/null), so that nothing else comes to lie there. */
static void empty_window(struct containers *cs, unsigned window)
{
        int first = CHILD_WINDOW_FIRST + (int)window * CHILD_WINDOW_SIZE;

        if (!cs->windows[window])
                return;
        for (int i = 0; i < CHILD_FDS; i++)
                (void)dup3(STDIN_FILENO, first + i, O_CLOEXEC);
        cs->windows[window] = NULL;
}

/* Its child has a table of its own by now, or has been killed before. */
static bool has_left(const struct container *c)
{
        siginfo_t info = { .si_pid = 0 };

        if (__atomic_load_n(&c->slot->report->stage, __ATOMIC_ACQUIRE) != LAUNCH_STAGE_CLONE)
                return true;
        return sys_waitid(P_PID, c->pid, &info, WEXITED | WNOHANG | WNOWAIT, NULL) < 0 || info.si_pid == c->pid;
}

/* The descriptors of START that the task has for itself are closed here once they are in the child's table alone. */
static void empty_left_windows(struct containers *cs)
{
        for (unsigned i = 0; i < CHILD_WINDOWS; i++)
                if (cs->windows[i] && has_left(cs->windows[i]))
                        empty_window(cs, i);
}

/* Windows are used in turn, so the child of this one began a while ago, and leaves within its first system call. */
static void take_window(struct containers *cs, const struct container *c, struct child *child)
{
        unsigned window = cs->next_window;

        cs->next_window = (window + 1) % CHILD_WINDOWS;
        while (cs->windows[window] && !has_left(cs->windows[window]))
                (void)sched_yield();
        empty_window(cs, window);
        cs->windows[window] = c;
        child->window = CHILD_WINDOW_FIRST + (int)window * CHILD_WINDOW_SIZE;
}

static int fill_window(const struct child *child, const int *fds, int init_report)
{
        const struct slot *slot = child->slot;
        const int from[CHILD_FDS] = {
                [CHILD_NETNS] = fds[LAUNCH_FD_NETNS],
                [CHILD_STDIN] = fds[LAUNCH_FD_STDIN],
                [CHILD_STDOUT] = fds[LAUNCH_FD_STDOUT_W],
                [CHILD_STDERR] = fds[LAUNCH_FD_STDERR_W],
                [CHILD_UPPER] = slot->upper,
                [CHILD_STORE] = slot->store,
                [CHILD_PTS] = slot->pts,
                [CHILD_SHM] = slot->shm,
                [CHILD_USERNS] = slot->userns,
                [CHILD_OVERLAY] = slot->overlay,
                [CHILD_INIT_REPORT] = init_report,
                [CHILD_ENTER] = slot->leaf.enter[0],
                slot->leaf.enter[1],
                slot->leaf.enter[2],
                slot->leaf.enter[3],
        };

        for (int i = 0; i < CHILD_FDS; i++)
                if (from[i] >= 0 && dup3(from[i], child->window + i, O_CLOEXEC) < 0)
                        return -errno;
        return 0;
}

/* Who borrows the launcher's address space until it executes must not meet a limit on the way: see loan.h, and who is
 * throttled there could keep the launcher from its own memory. What is larger than a packet goes with a copy, too. */
#define BORROW_MEMORY_MIN (UINT64_C(64) << 20)
#define BORROW_CPU_MIN 1000 /* thousandths: one thread is never throttled */

static bool may_borrow(const struct child *child)
{
        const struct launch_start *s = child->start;
        const struct launch_limits *l = &s->limits;

        return s->n_files == 0 && s->n_secrets == 0 && !(s->flags & LAUNCH_F_SPEC) && l->cpu_milli >= BORROW_CPU_MIN &&
               l->memory + l->disk + l->shm >= BORROW_MEMORY_MIN && l->memory >= BORROW_MEMORY_MIN / 4;
}

/* A reference to the mount namespace, so that the last process does not wait for its mounts to go. Without it everything
 * works, but later. The child itself opens nothing while it shares our table: killed then, it would leave it there. */
static int open_mntns(int proc, pid_t pid, int pidfd)
{
        int fd = ioctl(pidfd, PIDFD_GET_MNT_NAMESPACE, 0);
        char path[32];

        if (fd >= 0 || errno == ESRCH)
                return fd < 0 ? -EBADF : fd;
        (void)snprintf(path, sizeof(path), "%d/ns/mnt", pid);
        fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? -EBADF : fd;
}

static pid_t clone_child(struct containers *cs, struct child *child, struct slot *slot)
{
        /* Touched in the child's copy only, so they cost the launcher nothing. */
        static char *argv[LAUNCH_ARGS_MAX + 1], *envp[LAUNCH_ARGS_MAX + 1];
        int pidfd = -EBADF;
        struct clone_args args = {
                .flags = CLONE_PIDFD | CLONE_FILES | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
                .exit_signal = SIGCHLD,
                .pidfd = (uintptr_t)&pidfd,
        };
        struct loan *loan;
        pid_t pid = -EINVAL;

        if (cs->cgroup->kind == LAUNCH_CGROUP_V2) {
                args.flags |= CLONE_NEWCGROUP | CLONE_INTO_CGROUP;
                args.cgroup = (uint64_t)slot->leaf.dir[0];
        }
        loans_settle(&cs->loans);
        loan = may_borrow(child) ? loan_take(&cs->loans, child) : NULL;
        if (loan)
                pid = loan_clone(&cs->loans, loan, &args);
        if (pid == -EINVAL) {
                child->argv = argv;
                child->envp = envp;
                pid = sys_clone3_call(&args, child_run, child);
        }
        if (pid >= 0) {
                slot->mntns = open_mntns(cs->proc, pid, pidfd);
                fd_close(pidfd);
        }
        return pid;
}

static void keep_fds(struct container *c, int *fds)
{
        c->fds[LAUNCH_ADOPT_STDOUT_R] = TAKE_FD(fds[LAUNCH_FD_STDOUT_R]);
        c->fds[LAUNCH_ADOPT_STDERR_R] = TAKE_FD(fds[LAUNCH_FD_STDERR_R]);
        c->fds[LAUNCH_ADOPT_STDOUT_MEM] = TAKE_FD(fds[LAUNCH_FD_STDOUT_MEM]);
        c->fds[LAUNCH_ADOPT_STDERR_MEM] = TAKE_FD(fds[LAUNCH_FD_STDERR_MEM]);
        c->fds[LAUNCH_ADOPT_RECORD] = TAKE_FD(fds[LAUNCH_FD_RECORD]);
        c->fds[LAUNCH_ADOPT_NETNS] = TAKE_FD(fds[LAUNCH_FD_NETNS]);
}

/* Without memory for it, what is relative is looked for below the root. */
static void keep_root(struct container *c, const struct child *child)
{
        const struct launch_start *s = child->start;
        struct payload p = { .at = child->payload, .end = child->payload + child->payload_len };
        const uint8_t *text = NULL;
        uint32_t len = 0;

        c->keep = s->flags & LAUNCH_F_KEEP_ROOT;
        for (uint32_t i = 0; c->keep && i < s->argc + s->envc + 2; i++)
                if (payload_next(&p, &text, &len) < 0)
                        return;
        c->workdir = c->keep && text ? strndup((const char *)text, len) : NULL;
}

static int make_init_pipe(const struct launch_start *start, int *ret_r, int *ret_w)
{
        int fds[2];

        if (!(start->flags & LAUNCH_F_INIT))
                return 0;
        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        *ret_r = fds[0];
        *ret_w = fds[1];
        return 0;
}

static int start(struct containers *cs, struct container *c, const struct launch_start *s, uint8_t *payload,
                 size_t payload_len, int *fds, struct err *err)
{
        auto_fd report_r = -EBADF;
        auto_fd report_w = -EBADF;
        struct slot *slot = NULL;
        struct child child = {
                .start = s,
                .payload = payload,
                .payload_len = payload_len,
                .cgroup = cs->cgroup,
                .init = s->flags & LAUNCH_F_INIT ? cs->init : -EBADF,
                .proc = cs->proc,
        };
        uint64_t now = time_mono_ns();
        int r = open_pipes(fds);

        if (r == 0)
                r = make_init_pipe(s, &report_r, &report_w);
        if (r < 0)
                return err_set(err, -r, "prepare the pipes");
        r = slots_take(cs->slots, &s->limits, &slot, err);
        if (r < 0)
                return r;
        child.slot = c->slot = slot;
        take_window(cs, c, &child);
        r = fill_window(&child, fds, report_w);
        c->pid = r < 0 ? r : clone_child(cs, &child, slot);
        empty_left_windows(cs);
        c->init_report = TAKE_FD(report_r);
        c->exit = (struct launch_exit){ .clone_ns = now };
        c->oom = false;
        memcpy(c->id, s->id, LAUNCH_ID_MAX);
        memcpy(c->tree, s->tree, LAUNCH_HEX);
        keep_root(c, &child);
        keep_fds(c, fds);
        return 0;
}

/* No process of it is left. */
static void let_go(struct containers *cs, struct container *c)
{
        for (unsigned i = 0; i < CHILD_WINDOWS; i++)
                if (cs->windows[i] == c)
                        empty_window(cs, i);
        fd_replace(&c->init_report, -EBADF);
        if (c->keep)
                return;
        slots_release(cs->slots, c->slot);
        c->slot = NULL;
}

/* The kernel refused the clone: this container has ended before it began. */
static void stillborn(struct containers *cs, struct container *c)
{
        c->exit.stage = LAUNCH_STAGE_CLONE;
        c->exit.error = -c->pid;
        c->exit.exit_ns = time_mono_ns();
        c->keep = false;
        let_go(cs, c);
        container_move(c, CONTAINER_ENDED);
}

int containers_start(struct containers *cs, const struct launch_start *s, uint8_t *payload, size_t payload_len,
                     int *fds, size_t n_fds, struct container **ret, struct err *err)
{
        struct container *c = find_free(cs);
        int r;

        if (containers_find(cs, s->id))
                r = err_set(err, EEXIST, "this id is in use");
        else if (!c)
                r = err_set(err, EAGAIN, "%u containers are remembered", cs->n);
        else
                r = start(cs, c, s, payload, payload_len, fds, err);
        close_fds(fds, n_fds);
        if (r < 0)
                return r;
        if (c->pid < 0)
                stillborn(cs, c);
        else
                container_move(c, CONTAINER_RUNNING);
        *ret = c;
        return 0;
}

/* ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void container_counters(struct containers *cs, struct container *c, struct launch_counters *ret)
{
        struct cgroup_counters now = { 0 };
        bool full = false;

        if (!alive(c)) {
                *ret = c->exit.counters;
                return;
        }
        *ret = (struct launch_counters){ 0 };
        cgroup_leaf_read(cs->cgroup, &c->slot->leaf, &now);
        slot_disk(c->slot, &ret->disk_used, &full);
        ret->memory_peak = now.memory_peak;
        ret->memory_now = now.memory_now;
        ret->cpu_ns = now.cpu_ns;
        /* Version 1 tells before it kills, and counts nothing when our own signal was faster. */
        ret->oom_kills = MAX((uint32_t)now.oom_kills, (uint32_t)c->oom);
        ret->pids_refused = (uint32_t)now.pids_refused;
        ret->disk_full = full;
}

uint64_t container_exec_ns(const struct container *c)
{
        return alive(c) ? c->slot->report->exec_ns : c->exit.exec_ns;
}

/* What init told, in order; at most one of each kind. */
static void read_init(struct container *c)
{
        struct init_report report;

        while (read(c->init_report, &report, sizeof(report)) == (ssize_t)sizeof(report)) {
                if (report.kind == INIT_REPORT_EXEC) {
                        c->exit.exec_ns = report.ns;
                } else if (report.kind == INIT_REPORT_FAILED) {
                        c->exit.stage = LAUNCH_STAGE_EXEC;
                        c->exit.error = report.value;
                } else if (report.kind == INIT_REPORT_ENDED) {
                        c->exit.si_code = report.code;
                        c->exit.status = report.value;
                }
        }
        fd_replace(&c->init_report, -EBADF);
}

static void read_report(struct container *c)
{
        const struct slot_report *report = c->slot->report;

        c->exit.stage = report->stage;
        c->exit.error = report->error;
        c->exit.exec_ns = report->exec_ns;
        if (report->stage == LAUNCH_STAGE_EXEC && report->error == 0)
                c->exit.stage = LAUNCH_STAGE_EXECED;
        else if (report->error == 0)
                c->exit.error = ECANCELED; /* killed on its way */
}

static uint64_t timeval_ns(const struct timeval *t)
{
        return (uint64_t)t->tv_sec * NS_PER_S + (uint64_t)t->tv_usec * 1000;
}

static void forget(struct containers *cs, struct container *c)
{
        if (c->slot)
                slots_release(cs->slots, c->slot);
        c->slot = NULL;
        free(c->workdir);
        c->workdir = NULL;
        close_fds(c->fds, LAUNCH_ADOPT_COUNT);
        c->adopted = false;
        container_move(c, CONTAINER_FREE);
}

bool container_reaped(struct containers *cs, struct container *c, const siginfo_t *info, const struct rusage *usage)
{
        bool wanted = c->state == CONTAINER_RUNNING;

        c->exit.exit_ns = time_mono_ns();
        loans_settle(&cs->loans);
        if (wanted) {
                c->exit.si_code = info->si_code;
                c->exit.status = info->si_status;
                c->exit.user_ns = timeval_ns(&usage->ru_utime);
                c->exit.system_ns = timeval_ns(&usage->ru_stime);
                container_counters(cs, c, &c->exit.counters);
                read_report(c);
                if (c->init_report >= 0)
                        read_init(c);
        }
        c->keep &= wanted;
        let_go(cs, c);
        if (wanted)
                container_move(c, CONTAINER_ENDED);
        else
                forget(cs, c);
        return wanted;
}

void container_signal(struct container *c, int signo)
{
        if (!alive(c))
                return;
        /* Stopped on its way out of its window it would hold up the next that needs it; pid 1 of a namespace is stopped by
         * this signal only (pid_namespaces(7)). */
        while (signo == SIGSTOP && !has_left(c))
                (void)sched_yield();
        (void)kill(c->pid, signo);
}

void container_remove(struct containers *cs, struct container *c)
{
        if (c->state == CONTAINER_RUNNING) {
                container_move(c, CONTAINER_DOOMED);
                container_signal(c, SIGKILL);
        } else if (c->state == CONTAINER_ENDED) {
                forget(cs, c);
        }
}

void containers_drop_kept(struct containers *cs)
{
        for (uint32_t i = 0; i < cs->top; i++)
                if (cs->items[i].state == CONTAINER_ENDED)
                        forget(cs, &cs->items[i]);
}

int container_root(const struct container *c, int *ret_userns)
{
        if (!c->slot || __atomic_load_n(&c->slot->report->stage, __ATOMIC_ACQUIRE) < LAUNCH_STAGE_EXEC)
                return -EBADF;
        *ret_userns = c->slot->userns;
        return c->slot->mntns;
}

void containers_kill(struct containers *cs)
{
        for (uint32_t i = 0; i < cs->top; i++)
                container_signal(&cs->items[i], SIGKILL);
}
