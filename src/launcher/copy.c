#include "launcher/copy.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "launcher/copy_child.h"
#include "launcher/sys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

int copies_init(struct copies *cs, void (*reply)(const void *msg, size_t len, void *data), void *data, struct err *err)
{
        *cs = (struct copies){ .reply = reply, .data = data };
        cs->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        return cs->timer < 0 ? err_sys(err, "make a timer") : 0;
}

static void set_timer(const struct copies *cs)
{
        struct itimerspec t = { .it_value = { .tv_sec = 0 } };
        uint64_t first = TIME_NEVER;

        for (size_t i = 0; i < LAUNCH_COPIES_MAX; i++)
                if (cs->items[i].pid > 0 && !cs->items[i].late)
                        first = MIN(first, cs->items[i].deadline_ns);
        if (first != TIME_NEVER) {
                t.it_value.tv_sec = (time_t)(first / NS_PER_S);
                t.it_value.tv_nsec = (long)(first % NS_PER_S);
        }
        (void)timerfd_settime(cs->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

static struct copy *find(struct copies *cs, pid_t pid)
{
        for (size_t i = 0; i < LAUNCH_COPIES_MAX; i++)
                if (cs->items[i].pid == pid)
                        return &cs->items[i];
        return NULL;
}

int copies_start(struct copies *cs, const struct container *c, const struct launch_copy *m, int fd, struct err *err)
{
        struct clone_args args = { .exit_signal = SIGCHLD };
        struct copy_child child = { .out = fd, .max_bytes = m->max_bytes, .max_entries = m->max_entries };
        const char *path = (const char *)(m + 1);
        struct copy *copy = find(cs, 0);
        pid_t pid;

        child.mntns = container_root(c, &child.userns);
        if (child.mntns < 0)
                return err_set(err, ESRCH, "the container has no root file system that could be read");
        if (!copy)
                return err_set(err, EBUSY, "%d copies are made already", LAUNCH_COPIES_MAX);
        child.seconds = m->timeout_ms / 1000 + 1;
        (void)snprintf(child.path, sizeof(child.path), "%s/%.*s", path[0] == '/' || !c->workdir ? "" : c->workdir,
                       (int)m->path_len, path);
        pid = sys_clone3(&args);
        if (pid == 0)
                copy_child_run(&child);
        if (pid < 0)
                return err_set(err, -pid, "start a copy: %s", strerror(-pid));
        *copy = (struct copy){
                .pid = pid,
                .container = c,
                .seq = m->h.seq,
                .deadline_ns = time_mono_ns() + m->timeout_ms * NS_PER_MS,
        };
        set_timer(cs);
        return 0;
}

static const char *describe(int error)
{
        switch (error) {
        case ENOENT:
                return "no such file or directory";
        case EACCES:
                return "this file system is not copied from";
        case EFBIG:
                return "more bytes than may be copied";
        case E2BIG:
                return "more entries than may be copied";
        case ETIMEDOUT:
                return "the copy took too long";
        case ESRCH:
                return "the container has gone";
        default:
                return strerror(error);
        }
}

static int error_of(const struct copy *c, const siginfo_t *info)
{
        if (info->si_code == CLD_EXITED)
                return info->si_status;
        if (c->late || info->si_status == SIGXCPU)
                return ETIMEDOUT;
        if (info->si_status == SIGXFSZ)
                return EFBIG;
        return info->si_status == SIGKILL ? ESRCH : EIO;
}

bool copies_reaped(struct copies *cs, const siginfo_t *info)
{
        struct copy *c = find(cs, info->si_pid), ended;
        const struct launch_done good = { .h = { .op = LAUNCH_DONE, .seq = c ? c->seq : 0 } };
        struct launch_refused bad = { .h = { .op = LAUNCH_REFUSED, .seq = c ? c->seq : 0 } };

        if (!c)
                return false;
        ended = *c;
        c->pid = 0;
        set_timer(cs);
        if (ended.silent)
                return true;
        bad.error = error_of(&ended, info);
        if (bad.error == 0) {
                cs->reply(&good, sizeof(good), cs->data);
                return true;
        }
        (void)snprintf(bad.text, sizeof(bad.text), "%s", describe(bad.error));
        cs->reply(&bad, sizeof(bad), cs->data);
        return true;
}

void copies_timer(struct copies *cs)
{
        uint64_t now = time_mono_ns(), ticks;

        (void)!read(cs->timer, &ticks, sizeof(ticks));
        for (size_t i = 0; i < LAUNCH_COPIES_MAX; i++) {
                struct copy *c = &cs->items[i];

                if (c->pid <= 0 || c->deadline_ns > now)
                        continue;
                c->late = true;
                (void)kill(c->pid, SIGKILL);
        }
        set_timer(cs);
}

void copies_stop(struct copies *cs, const struct container *c)
{
        for (size_t i = 0; i < LAUNCH_COPIES_MAX; i++) {
                struct copy *copy = &cs->items[i];

                if (copy->pid <= 0 || (c && copy->container != c))
                        continue;
                copy->silent |= c == NULL;
                (void)kill(copy->pid, SIGKILL);
        }
}
