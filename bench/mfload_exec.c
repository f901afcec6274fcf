/* A command per request: the floor (posix_spawn of the program itself) and the command lines of the peers. */
#include "mfload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define ARGS_MAX 128
#define ARG_MAX_LEN 512

struct slot {
        pid_t pid; /* 0: free */
        uint64_t begin;
};

static bool spawn(struct slot *slot, const struct load *load, uint64_t number,
                  const posix_spawn_file_actions_t *actions)
{
        static char text[ARGS_MAX][ARG_MAX_LEN];
        char *argv[ARGS_MAX + 1];
        int i;

        for (i = 0; i < ARGS_MAX && load->argv[i]; i++) {
                const char *hole = strstr(load->argv[i], "{}");

                argv[i] = load->argv[i];
                if (!hole)
                        continue;
                snprintf(text[i], sizeof(text[i]), "%.*s%d-%llu%s", (int)(hole - load->argv[i]), load->argv[i],
                         getpid(), (unsigned long long)number, hole + 2);
                argv[i] = text[i];
        }
        argv[i] = NULL;
        slot->begin = load_now();
        errno = posix_spawnp(&slot->pid, argv[0], actions, NULL, argv, environ);
        return errno == 0;
}

static double children_cpu(void)
{
        struct rusage u;

        getrusage(RUSAGE_CHILDREN, &u);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Whether it was one of ours that ended. */
static bool finish(struct slot *slots, const struct load *load, struct pace *pace, struct samples *ret)
{
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        uint64_t now = load_now();
        struct slot *slot = slots;
        char text[64];

        if (pid < 0)
                load_die("waitpid");
        while (slot < slots + load->flight && slot->pid != pid)
                slot++;
        if (slot == slots + load->flight)
                return false;
        slot->pid = 0;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                snprintf(text, sizeof(text), "status %#x", (unsigned)status);
                samples_error(ret, text, strlen(text));
                (void)pace_done(pace);
        } else if (pace_done(pace)) {
                samples_add(ret, now - slot->begin);
        }
        return true;
}

void load_exec(const struct load *load, struct samples *ret)
{
        struct slot slots[LOAD_FLIGHT_MAX] = { 0 };
        struct pace pace = { .load = load };
        posix_spawn_file_actions_t actions;
        double cpu = 0;
        unsigned live = 0;

        /* What a command leaves behind as a daemon (podman's conmon) is reaped and counted here, as it would be by nobody else. */
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
        for (;;) {
                for (unsigned i = 0; i < load->flight; i++) {
                        bool measuring = pace.begin_ns > 0;

                        if (slots[i].pid != 0 || !pace_more(&pace))
                                continue;
                        if (!measuring && pace.begin_ns > 0)
                                cpu = children_cpu();
                        if (!spawn(&slots[i], load, pace.started, &actions))
                                load_die(load->argv[0] ? load->argv[0] : "no command");
                        live++;
                }
                if (live == 0)
                        break;
                if (finish(slots, load, &pace, ret))
                        live--;
        }
        ret->seconds = (double)(load_now() - pace.begin_ns) / 1e9;
        ret->cpu_seconds = children_cpu() - cpu;
        posix_spawn_file_actions_destroy(&actions);
}
