#include "launcher/janitor.h"

#include "base/fd.h"
#include "launcher/sys.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define THREADS 4
#define STACK_SIZE (16 * 1024)
#define STOP_MS 2000 /* for one that was stopped by somebody */
#define SOCK_FD 3    /* behind the standard descriptors, which are /dev/null */

static int confine(pid_t parent)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct none[2] = { { .effective = 0 }, { .effective = 0 } };

        if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent ||
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capset, &header, none) < 0)
                return -EPERM;
        return 0;
}

/* errno is every thread's, so an error is only that; and never 0, which fd_close() of another thread would put back:
 * what was not received would be an end. */
static _Noreturn void work(const void *unused)
{
        struct pollfd ready = { .fd = SOCK_FD, .events = POLLIN };

        (void)unused;
        for (;;) {
                int fds[FD_MSG_MAX];
                size_t n = FD_MSG_MAX, len = 0;
                char byte;

                (void)poll(&ready, 1, -1);
                if (fd_recv(SOCK_FD, &byte, sizeof(byte), &len, fds, &n) < 0)
                        continue;
                if (len == 0)
                        _exit(0);
                for (size_t i = 0; i < n; i++)
                        fd_close(fds[i]);
        }
}

/* Threads that wait at the same time wait for the same thing (rcu_exp_wait_wake() of the kernel). */
static _Noreturn void serve(int sock, pid_t parent)
{
        static _Alignas(16) uint8_t stacks[THREADS - 1][STACK_SIZE];

        (void)prctl(PR_SET_NAME, "mayfly-janitor", 0, 0, 0);
        if (confine(parent) < 0 || dup2(STDIN_FILENO, STDOUT_FILENO) < 0 || dup2(STDIN_FILENO, STDERR_FILENO) < 0 ||
            dup2(sock, SOCK_FD) < 0 || sys_close_range(SOCK_FD + 1, UINT_MAX, 0) < 0)
                _exit(1);
        errno = EAGAIN;
        for (size_t i = 0; i < THREADS - 1; i++) {
                struct clone_args args = {
                        .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
                        .stack = (uintptr_t)stacks[i],
                        .stack_size = sizeof(stacks[i]),
                };

                (void)sys_clone3_call(&args, work, NULL);
        }
        work(NULL);
}

int janitor_start(struct janitor *j, struct err *err)
{
        struct clone_args args = { .exit_signal = SIGCHLD };
        auto_fd ours = -EBADF;
        auto_fd its = -EBADF;
        pid_t parent = getpid(), pid;
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                return err_sys(err, "make a pair of sockets");
        ours = fds[0];
        its = fds[1];
        pid = sys_clone3(&args);
        if (pid == 0)
                serve(its, parent);
        if (pid < 0)
                return err_set(err, -pid, "start the janitor (clone3)");
        *j = (struct janitor){ .sock = TAKE_FD(ours), .pid = pid };
        return 0;
}

void janitor_close(struct janitor *j, int **fds, size_t n)
{
        int given[FD_MSG_MAX];
        size_t n_given = 0;

        for (size_t i = 0; i < n && n_given < FD_MSG_MAX; i++)
                if (*fds[i] >= 0)
                        given[n_given++] = *fds[i];
        if (n_given > 0 && j->sock >= 0)
                (void)fd_send(j->sock, "", 1, given, n_given);
        for (size_t i = 0; i < n; i++)
                fd_replace(fds[i], -EBADF);
}

bool janitor_reaped(struct janitor *j, pid_t pid)
{
        if (j->sock < 0 || pid != j->pid)
                return false;
        fd_replace(&j->sock, -EBADF);
        return true;
}

void janitor_stop(struct janitor *j)
{
        struct pollfd ended = { .events = POLLIN };
        auto_fd pidfd = -EBADF;

        if (j->sock < 0)
                return;
        fd_replace(&j->sock, -EBADF);
        pidfd = (int)syscall(SYS_pidfd_open, j->pid, 0);
        ended.fd = pidfd;
        /* Its death closes the rest, too. */
        if (pidfd < 0 || poll(&ended, 1, STOP_MS) <= 0)
                (void)kill(j->pid, SIGKILL);
        while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
                ;
}
