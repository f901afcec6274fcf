/* The small init of containers: runs the program as its child, passes signals on, reaps what is left over, and ends as the
 * program ended. Without a C library: it starts four times faster, and there is nothing in it to attack.
 *
 * It gets the program's arguments and environment as its own, so /proc/1/cmdline shows them, and a pipe to the launcher as
 * descriptor 3. Pid 1 cannot die of most signals, so how the program died goes through that pipe (report.h). */
#include "launcher/init/call.h"
#include "launcher/init/report.h"
#include "launcher/init/search.h"

#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/time.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

#define SIGCHLD_NUMBER 17
#define SIGSET_SIZE 8
#define CLD_EXITED_CODE 1
#define CLD_KILLED_CODE 2
#define CLD_DUMPED_CODE 3

static _Noreturn void leave(int code)
{
        for (;;)
                (void)call(__NR_exit_group, code, 0, 0, 0, 0);
}

static void tell(uint32_t kind, int code, int value)
{
        struct timespec now = { 0, 0 };
        struct init_report report;

        (void)call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)&now, 0, 0, 0);
        report.kind = kind;
        report.code = code;
        report.value = value;
        report.pad = 0;
        report.ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        (void)call(__NR_write, INIT_REPORT_FD, (long)&report, sizeof(report), 0, 0);
}

static int execute(const char *path, char **argv, char **envp)
{
        return (int)-call(__NR_execve, (long)path, (long)argv, (long)envp, 0, 0);
}

static int search(char **argv, char **envp)
{
        const char *path = search_path(envp);
        int report = ENOENT;
        char name[SEARCH_MAX];

        if (argv[0][0] == '\0')
                return ENOENT;
        if (search_has_slash(argv[0]))
                return execute(argv[0], argv, envp);
        while (path) {
                int error;

                path = search_next(path, argv[0], name);
                error = execute(name, argv, envp);
                if (!search_goes_on(error, &report))
                        return error;
        }
        return report;
}

static _Noreturn void run(char **argv, char **envp)
{
        uint64_t none = 0;

        tell(INIT_REPORT_EXEC, 0, 0);
        (void)call(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&none, 0, SIGSET_SIZE, 0);
        tell(INIT_REPORT_FAILED, 0, search(argv, envp));
        leave(127);
}

static _Noreturn void ended(int status)
{
        int number = status & 0x7f;

        if (number == 0) {
                int code = status >> 8 & 0xff;

                tell(INIT_REPORT_ENDED, CLD_EXITED_CODE, code);
                leave(code);
        }
        tell(INIT_REPORT_ENDED, status & 0x80 ? CLD_DUMPED_CODE : CLD_KILLED_CODE, number);
        leave(128 + number);
}

static void reap(long child)
{
        for (;;) {
                int status = 0;
                long pid = call(__NR_wait4, -1, (long)&status, WNOHANG, 0, 0);

                if (pid <= 0)
                        return;
                if (pid == child)
                        ended(status);
        }
}

/* Blocked signals are queued even for pid 1, which the kernel otherwise shields from those without a handler. */
static _Noreturn void watch(long child)
{
        uint64_t all = ~UINT64_C(0);

        for (;;) {
                long number = call(__NR_rt_sigtimedwait, (long)&all, 0, 0, SIGSET_SIZE, 0);

                if (number == SIGCHLD_NUMBER)
                        reap(child);
                else if (number > 0)
                        (void)call(__NR_kill, child, number, 0, 0, 0);
        }
}

_Noreturn void program_start(long *stack)
{
        long argc = stack[0];
        char **argv = (char **)(stack + 1);
        char **envp = argv + argc + 1;
        uint64_t all = ~UINT64_C(0);
        long child;

        (void)call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
        (void)call(__NR_fcntl, INIT_REPORT_FD, F_SETFD, 1 /* FD_CLOEXEC */, 0, 0);
        (void)call(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&all, 0, SIGSET_SIZE, 0);
        if (argc < 1)
                leave(127);
        child = call(__NR_clone, SIGCHLD_NUMBER, 0, 0, 0, 0);
        if (child == 0)
                run(argv, envp);
        if (child < 0) {
                tell(INIT_REPORT_FAILED, 0, (int)-child);
                leave(127);
        }
        watch(child);
}
