#include "net/run.h"

#include "base/fd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define RUN_SAID_MAX 384

static _Noreturn void child(const char *const *places, const char *const *argv, int in, int out)
{
        static char *const no_env[] = { NULL };
        sigset_t none;

        (void)sigemptyset(&none);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0 ||
            dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
                _exit(126);
        for (; *places; places++)
                (void)execve(*places, (char *const *)argv, no_env);
        dprintf(STDERR_FILENO, "%s", strerror(errno));
        _exit(127);
}

static int wait_for(pid_t pid, int *ret_status)
{
        auto_fd pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        int n;

        do
                n = poll(&p, 1, RUN_TIMEOUT_MS);
        while (n < 0 && errno == EINTR);
        if (pidfd < 0 || n <= 0)
                (void)kill(pid, SIGKILL);
        while (waitpid(pid, ret_status, 0) < 0) {
                if (errno != EINTR)
                        return -errno;
        }
        return 0;
}

/* Its first line, for the log. */
static void read_said(int fd, char said[RUN_SAID_MAX])
{
        ssize_t n = pread(fd, said, RUN_SAID_MAX - 1, 0);

        said[n > 0 ? n : 0] = '\0';
        said[strcspn(said, "\n")] = '\0';
}

int run_program(const char *const *places, const char *const *argv, const char *input, struct err *err)
{
        auto_fd in = -EBADF, out = -EBADF;
        char said[RUN_SAID_MAX];
        int status = 0, r;
        pid_t pid;

        r = fd_memfd_sealed("input", input, strlen(input), &in, err);
        if (r < 0)
                return r;
        out = memfd_create("output", MFD_CLOEXEC);
        if (out < 0 || lseek(in, 0, SEEK_SET) < 0)
                return err_sys(err, "memfd");
        pid = fork();
        if (pid < 0)
                return err_sys(err, "fork");
        if (pid == 0)
                child(places, argv, in, out);
        r = wait_for(pid, &status);
        if (r < 0)
                return err_set(err, -r, "wait for %s: %s", argv[0], strerror(-r));
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        read_said(out, said);
        if (WIFSIGNALED(status))
                return err_set(err, EIO, "%s: killed by signal %d", argv[0], WTERMSIG(status));
        return err_set(err, EIO, "%s: exit code %d: %s", argv[0], WEXITSTATUS(status), said);
}
