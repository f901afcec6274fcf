#include "daemon/supervisor.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child that lived this long owes nothing to its last death. */
#define LIFE_MS 500
#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS 5000

/* ── states ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const char *const state_names[] = {
        [CHILD_DOWN] = "down",         [CHILD_UP] = "up",           [CHILD_WAITING] = "waiting",
        [CHILD_STOPPING] = "stopping", [CHILD_STOPPED] = "stopped",
};

static const bool allowed[CHILD_STOPPED + 1][CHILD_STOPPED + 1] = {
        [CHILD_DOWN] = { [CHILD_UP] = true, [CHILD_STOPPED] = true },
        [CHILD_UP] = { [CHILD_WAITING] = true, [CHILD_STOPPING] = true, [CHILD_STOPPED] = true },
        [CHILD_WAITING] = { [CHILD_UP] = true, [CHILD_WAITING] = true, [CHILD_STOPPED] = true },
        [CHILD_STOPPING] = { [CHILD_STOPPED] = true },
};

static void child_move(struct child *c, enum child_state to)
{
        if (!allowed[c->state][to])
                log_error("%s: from %s to %s: this cannot be", c->spec.name, state_names[c->state], state_names[to]);
        c->state = to;
}

/* ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void write_pids(const struct supervisor *s)
{
        auto_str text = STR_INIT;

        if (s->pids_fd < 0 || str_addf(&text, "%d\n%s", getpid(), s->pids_note ? s->pids_note : "") < 0)
                return;
        for (size_t i = 0; i < s->n; i++)
                if (s->children[i].pid > 0 &&
                    str_addf(&text, "%s %d\n", s->children[i].spec.name, s->children[i].pid) < 0)
                        return;
        if (ftruncate(s->pids_fd, 0) == 0)
                (void)!pwrite(s->pids_fd, text.data, text.len, 0);
}

static void schedule_restart(struct child *c)
{
        uint64_t now = time_mono_ns();

        if (now - c->started_ns >= LIFE_MS * NS_PER_MS)
                c->backoff_ms = 0;
        else if (c->spec.ready_pipe && c->ready)
                c->backoff_ms = BACKOFF_FIRST_MS; /* it could serve, so the next one can */
        else
                c->backoff_ms = c->backoff_ms ? MIN(c->backoff_ms * 2, BACKOFF_MAX_MS) : BACKOFF_FIRST_MS;
        c->due_ns = now + c->backoff_ms * NS_PER_MS;
        child_move(c, CHILD_WAITING);
}

static int child_start(struct supervisor *s, struct child *c, struct err *err)
{
        int r;

        fd_replace(&c->ready_fd, -EBADF);
        c->ready = !c->spec.ready_pipe;
        c->started_ns = time_mono_ns();
        r = spawn_child(&c->spec, &c->pid, &c->ready_fd, err);
        if (r < 0)
                return r;
        child_move(c, CHILD_UP);
        write_pids(s);
        log_debug("%s runs as pid %d", c->spec.name, c->pid);
        return 0;
}

static void restart_due(struct supervisor *s)
{
        uint64_t now = time_mono_ns();

        for (size_t i = 0; i < s->n; i++) {
                struct child *c = &s->children[i];
                struct err err = ERR_INIT;

                if (c->state != CHILD_WAITING || c->due_ns > now)
                        continue;
                if (child_start(s, c, &err) < 0) {
                        log_error("restart %s: %s", c->spec.name, err.text);
                        schedule_restart(c);
                }
        }
}

/* ── death ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void describe_end(const siginfo_t *si, char out[64])
{
        if (si->si_code == CLD_EXITED)
                (void)snprintf(out, 64, "exit code %d", si->si_status);
        else
                (void)snprintf(out, 64, "signal %d", si->si_status);
}

static void child_died(struct supervisor *s, struct child *c, const siginfo_t *si)
{
        char how[64];

        describe_end(si, how);
        c->pid = 0;
        if (c->state == CHILD_STOPPING || s->stopping) {
                if (c->state == CHILD_STOPPING && (si->si_code != CLD_EXITED || si->si_status != 0))
                        log_warn("%s: ended with %s while it was stopped", c->spec.name, how);
                child_move(c, CHILD_STOPPED);
                return;
        }
        if (!s->served) {
                log_error("%s: ended with %s before Mayfly was ready", c->spec.name, how);
                child_move(c, CHILD_STOPPED);
                s->failed = true;
                return;
        }
        schedule_restart(c);
        log_warn("%s: ended with %s; restarting it in %u ms", c->spec.name, how, c->backoff_ms);
}

/* Also what the children left behind, which a subreaper inherits. */
static void reap(struct supervisor *s)
{
        for (;;) {
                siginfo_t si = { .si_pid = 0 };

                if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
                        return;
                for (size_t i = 0; i < s->n; i++)
                        if (s->children[i].pid == si.si_pid)
                                child_died(s, &s->children[i], &si);
        }
}

/* ── readiness ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void read_ready(struct supervisor *s, struct child *c)
{
        char text[64];
        ssize_t n;

        n = read(c->ready_fd, text, sizeof(text));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return;
        c->ready = n > 0;
        fd_replace(&c->ready_fd, -EBADF);
        for (size_t i = 0; i < s->n; i++)
                if (!s->children[i].ready || s->children[i].state != CHILD_UP)
                        return;
        if (!s->served && !s->stopping && !s->failed) {
                s->served = true;
                if (s->ready)
                        s->ready(s->data);
        }
}

/* ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int timeout_ms(const struct supervisor *s)
{
        uint64_t now = time_mono_ns(), next = UINT64_MAX;

        for (size_t i = 0; i < s->n; i++) {
                const struct child *c = &s->children[i];

                if (c->state == CHILD_WAITING || c->state == CHILD_STOPPING)
                        next = MIN(next, c->due_ns);
        }
        if (next == UINT64_MAX)
                return -1;
        return next <= now ? 0 : (int)MIN((next - now) / NS_PER_MS + 1, 60000);
}

static void pass_hangup(const struct supervisor *s)
{
        for (size_t i = 0; i < s->n; i++)
                if (s->children[i].spec.reload && s->children[i].state == CHILD_UP)
                        (void)kill(s->children[i].pid, SIGHUP);
}

/* Waits for one thing to happen and deals with it. *ret_stop: somebody asked for the end. */
static int turn(struct supervisor *s, bool *ret_stop, struct err *err)
{
        struct pollfd fds[SUPERVISOR_CHILDREN_MAX + 1] = { { .fd = s->signal_fd, .events = POLLIN } };
        struct signalfd_siginfo info;

        for (size_t i = 0; i < s->n; i++)
                fds[i + 1] = (struct pollfd){ .fd = s->children[i].ready_fd, .events = POLLIN };
        if (poll(fds, s->n + 1, timeout_ms(s)) < 0 && errno != EINTR)
                return err_sys(err, "poll");
        while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
                if (info.ssi_signo == SIGHUP && info.ssi_code != SI_KERNEL)
                        pass_hangup(s);
                else if (info.ssi_signo != SIGCHLD)
                        *ret_stop = true;
        /* Readiness before death: who served and died at once has served. */
        for (size_t i = 0; i < s->n; i++)
                if (fds[i + 1].fd >= 0 && fds[i + 1].revents)
                        read_ready(s, &s->children[i]);
        reap(s);
        return 0;
}

/* ── stop ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* A second request to stop cuts the wait short. */
static void stop_child(struct supervisor *s, struct child *c)
{
        struct err err = ERR_INIT;
        bool hurry = false;

        if (c->state != CHILD_UP) {
                if (c->state != CHILD_STOPPED)
                        child_move(c, CHILD_STOPPED);
                return;
        }
        child_move(c, CHILD_STOPPING);
        c->due_ns = time_mono_ns() + c->spec.stop_ms * NS_PER_MS;
        (void)kill(c->pid, SIGTERM);
        while (c->state == CHILD_STOPPING) {
                if (turn(s, &hurry, &err) < 0)
                        c->due_ns = 0;
                if (c->state == CHILD_STOPPING && (hurry || time_mono_ns() >= c->due_ns)) {
                        log_warn("%s: killed, it did not stop by itself", c->spec.name);
                        (void)kill(c->pid, SIGKILL);
                        c->due_ns = time_mono_ns() + NS_PER_S;
                        hurry = false;
                }
        }
}

/* Whatever is still below us: a launcher that had to be killed leaves its containers to the subreaper. */
static void kill_rest(void)
{
        uint64_t until = time_mono_ns() + 5 * NS_PER_S;

        while (time_mono_ns() < until) {
                auto_str text = STR_INIT;
                unsigned long pid;
                char *p, *end;

                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                if (fd_read_file(AT_FDCWD, "/proc/thread-self/children", 1 << 20, &text, NULL) < 0 || text.len == 0)
                        return;
                for (p = text.data; (pid = strtoul(p, &end, 10)) > 1 && end != p; p = end)
                        (void)kill((pid_t)pid, SIGKILL);
                (void)poll(NULL, 0, 10);
        }
        log_error("processes are left that cannot be killed");
}

static void stop_all(struct supervisor *s)
{
        s->stopping = true;
        for (size_t i = s->n; i > 0; i--)
                stop_child(s, &s->children[i - 1]);
        kill_rest();
}

/* ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

int supervisor_init(struct supervisor *s, struct err *err)
{
        struct sigaction hup;
        sigset_t set;

        *s = (struct supervisor){ .signal_fd = -EBADF, .pids_fd = -EBADF };
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGCHLD);
        if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN)
                sigaddset(&set, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return err_sys(err, "block signals");
        (void)signal(SIGPIPE, SIG_IGN);
        s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (s->signal_fd < 0)
                return err_sys(err, "signalfd");
        if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                return err_sys(err, "become a subreaper");
        return 0;
}

int supervisor_add(struct supervisor *s, const struct child_spec *spec, struct err *err)
{
        if (s->n == SUPERVISOR_CHILDREN_MAX)
                return err_set(err, E2BIG, "more than %d children", SUPERVISOR_CHILDREN_MAX);
        s->children[s->n++] = (struct child){ .spec = *spec, .ready_fd = -EBADF };
        return 0;
}

int supervisor_run(struct supervisor *s, struct err *err)
{
        bool stop = false;
        int r = 0;

        for (size_t i = 0; i < s->n && r == 0; i++)
                r = child_start(s, &s->children[i], err);
        while (r == 0 && !stop && !s->failed) {
                r = turn(s, &stop, err);
                if (r == 0 && !stop && !s->failed)
                        restart_due(s);
        }
        stop_all(s);
        if (r == 0 && s->failed)
                r = err_set(err, ECHILD, "Mayfly could not start: the log above says why");
        return r;
}

void supervisor_done(struct supervisor *s)
{
        for (size_t i = 0; i < s->n; i++)
                fd_replace(&s->children[i].ready_fd, -EBADF);
        fd_replace(&s->signal_fd, -EBADF);
}

/* ── what an earlier one left ────────────────────────────────────────────────────────────────────────────────────── */

/* A descriptor, so that a pid that is used again is not taken for the old process. -EBADF: it is gone or another. */
static int open_old(const char *name, pid_t pid)
{
        auto_fd fd = -EBADF;
        char link[64], exe[PATH_MAX];
        const char *base;
        ssize_t n;

        fd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (fd < 0)
                return -EBADF;
        (void)snprintf(link, sizeof(link), "/proc/%d/exe", pid);
        n = readlink(link, exe, sizeof(exe) - 1);
        if (n < 0)
                return -EBADF;
        exe[n] = '\0';
        base = strrchr(exe, '/');
        if (!base)
                return -EBADF;
        base += str_starts(base, "/memfd:") ? strlen("/memfd:") : 1; /* the launcher runs from a sealed copy */
        return str_starts(base, name) ? TAKE_FD(fd) : -EBADF;        /* "(deleted)" may follow */
}

void supervisor_await_old(const char *text, unsigned wait_ms)
{
        uint64_t until = time_mono_ns() + wait_ms * NS_PER_MS;

        for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
                struct pollfd p = { .events = POLLIN };
                auto_fd fd = -EBADF;
                char name[64];
                uint64_t now;
                int pid;

                if (sscanf(line, "%63[a-z-] %d", name, &pid) != 2 || pid <= 1)
                        continue;
                fd = open_old(name, pid);
                if (fd < 0)
                        continue;
                now = time_mono_ns();
                p.fd = fd;
                if (poll(&p, 1, now < until ? (int)((until - now) / NS_PER_MS) : 0) > 0)
                        continue;
                log_warn("%s (pid %d) is left from before and does not end: killing it", name, pid);
                (void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
                (void)poll(&p, 1, 5000);
        }
}
