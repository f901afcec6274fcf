#include "launcher/userns.h"

#include "base/fd.h"
#include "launcher/ceiling.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* The child that the namespace is made with: seals it, says so, and waits to be killed. */
static _Noreturn void hold(int proc, bool seal, int ready)
{
        char status = 0;

        if (seal && fd_write_knob(proc, "sys/user/max_user_namespaces", "0", NULL) < 0)
                status = 1;
        (void)!write(ready, &status, 1);
        for (;;)
                (void)pause();
}

static int write_map(int proc, pid_t pid, const char *name, enum userns_use use, uint32_t inside, uint32_t outside)
{
        char path[64], text[64];

        (void)snprintf(path, sizeof(path), "%d/%s", pid, name);
        (void)snprintf(text, sizeof(text), "%s%u %u %u\n", use == USERNS_IDMAP ? "0 0 1\n" : "", inside, outside,
                       CEILING_IDS);
        return fd_write_knob(proc, path, text, NULL);
}

static int open_of(int proc, pid_t pid, int ready, bool seal)
{
        char path[64], status;
        int fd;

        if (seal && (read(ready, &status, 1) != 1 || status != 0))
                return -EIO;
        (void)snprintf(path, sizeof(path), "%d/ns/user", pid);
        fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

int userns_make(int proc, enum userns_use use, uint32_t inside, uint32_t outside, int *ret, struct err *err)
{
        struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
        auto_fd r = -EBADF;
        auto_fd w = -EBADF;
        bool seal = use == USERNS_CONTAINER;
        int fds[2], fd;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return err_sys(err, "make a pipe");
        r = fds[0];
        w = fds[1];
        pid = sys_clone3(&args);
        if (pid == 0)
                hold(proc, seal, w);
        if (pid < 0)
                return err_set(err, -pid, "make a user namespace (clone3)");
        fd_replace(&w, -EBADF);
        fd = write_map(proc, pid, "uid_map", use, inside, outside);
        if (fd == 0)
                fd = write_map(proc, pid, "gid_map", use, inside, outside);
        if (fd == 0)
                fd = open_of(proc, pid, r, seal);
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
                ;
        if (fd < 0)
                return err_set(err, -fd, "prepare a user namespace of ids from %u on", outside);
        *ret = fd;
        return 0;
}
