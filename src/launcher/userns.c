#include "launcher/userns.h"

#include "base/fd.h"
#include "base/str.h"
#include "launcher/ceiling.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the kernel counts for each user (inotify and fanotify, pending signals and timers, locked memory, message queues) it
 * counts in every namespace up to the host's, there for who made the namespace: if that were the host's root, one container
 * could use up what is root's. The real id stays root's, so that no limit of processes is inherited. */
static int own_as(uid_t owner)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct caps[2];

        if (syscall(SYS_setresuid, -1, owner, -1) < 0 || syscall(SYS_capget, &header, caps) < 0)
                return -errno;
        for (size_t i = 0; i < ARRAY_LEN(caps); i++)
                caps[i].effective = caps[i].permitted;
        return syscall(SYS_capset, &header, caps) < 0 ? -errno : 0;
}

/* The child that the namespace is made by: seals it, says so, and waits to be killed, also by its parent's death: what it has
 * open holds the name of the instance. Other credentials forget the signal (prctl(2)), so that it is asked for after them. */
static _Noreturn void hold(int proc, uid_t owner, bool seal, pid_t parent, int ready)
{
        int status = own_as(owner);

        if (status == 0 && unshare(CLONE_NEWUSER) < 0)
                status = -errno;
        if (status == 0 && seal)
                status = fd_write_knob(proc, "sys/user/max_user_namespaces", "0", NULL);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                _exit(1);
        (void)!write(ready, &status, sizeof(status));
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

static int await(int ready)
{
        int status;

        return read(ready, &status, sizeof(status)) != sizeof(status) ? -EIO : status;
}

static int open_of(int proc, pid_t pid)
{
        char path[64];
        int fd;

        (void)snprintf(path, sizeof(path), "%d/ns/user", pid);
        fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

int userns_make(int proc, enum userns_use use, uint32_t inside, uint32_t outside, int *ret, struct err *err)
{
        struct clone_args args = { .exit_signal = SIGCHLD };
        auto_fd r = -EBADF;
        auto_fd w = -EBADF;
        const pid_t parent = getpid();
        int fds[2], fd;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return err_sys(err, "make a pipe");
        r = fds[0];
        w = fds[1];
        pid = sys_clone3(&args);
        if (pid == 0)
                hold(proc, outside, use == USERNS_CONTAINER, parent, w);
        if (pid < 0)
                return err_set(err, -pid, "start a process (clone3)");
        fd_replace(&w, -EBADF);
        fd = await(r);
        if (fd == 0)
                fd = write_map(proc, pid, "uid_map", use, inside, outside);
        if (fd == 0)
                fd = write_map(proc, pid, "gid_map", use, inside, outside);
        if (fd == 0)
                fd = open_of(proc, pid);
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
                ;
        if (fd < 0)
                return err_set(err, -fd, "prepare a user namespace of ids from %u on", outside);
        *ret = fd;
        return 0;
}
