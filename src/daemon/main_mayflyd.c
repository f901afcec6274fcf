/* mayflyd: the daemon. Unprivileged; its supervisor or systemd gives it the API's listening socket. */
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "daemon/config.h"
#include "daemon/listen.h"
#include "daemon/node.h"
#include "json/json.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define LISTEN_FDS_START 3 /* sd_listen_fds(3) */
#define MALLOC_MMAP_FROM (256 * 1024)
#define MALLOC_TRIM_FROM (1024 * 1024)

/* Flags of this program alone; the rest is the configuration's. */
struct own_flags {
        int listen_fds[LISTEN_MAX + 1], ready_fd;
        size_t n_listen_fds;
        const char *reload_config;
        char **reload_args; /* of the supervisor, or our own */
        int n_reload_args;
        bool end_tasks;
};

static int take_fd_flag(const char *value, int *ret, struct err *err)
{
        uint32_t fd;

        if (parse_u32(value, &fd) < 0 || fd < LISTEN_FDS_START || fd > 1023 || fcntl((int)fd, F_GETFD) < 0)
                return err_set(err, EINVAL, "'%s' is no open descriptor", value);
        (void)fcntl((int)fd, F_SETFD, FD_CLOEXEC);
        *ret = (int)fd;
        return 0;
}

/* Takes our flags out of argv. */
static int take_own_flags(int *argc, char **argv, struct own_flags *ret, struct err *err)
{
        int kept = 1, r = 0;

        for (int i = 1; i < *argc && r == 0; i++) {
                if (str_starts(argv[i], "--ready-fd="))
                        r = take_fd_flag(argv[i] + strlen("--ready-fd="), &ret->ready_fd, err);
                else if (str_starts(argv[i], "--reload-config="))
                        ret->reload_config = argv[i] + strlen("--reload-config=");
                else if (str_starts(argv[i], "--reload-arg="))
                        ret->reload_args[ret->n_reload_args++] = argv[i] + strlen("--reload-arg=");
                else if (str_eq(argv[i], "--end-tasks"))
                        ret->end_tasks = true;
                else
                        argv[kept++] = argv[i];
        }
        *argc = kept;
        return r;
}

/* From systemd, or from the supervisor in the same way. */
static int take_listen_fds(struct own_flags *flags, struct err *err)
{
        const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
        uint32_t of, n;
        int r = 0;

        if (!pid || !count || parse_u32(pid, &of) < 0 || (pid_t)of != getpid() || parse_u32(count, &n) < 0 || n < 1)
                return err_set(err, EINVAL, "no listening socket was passed: start it by `mayfly serve` or by systemd");
        if (n > ARRAY_LEN(flags->listen_fds))
                return err_set(err, EINVAL, "more than %zu listening sockets were passed",
                               ARRAY_LEN(flags->listen_fds));
        for (uint32_t i = 0; i < n && r == 0; i++) {
                char fd[16];

                (void)snprintf(fd, sizeof(fd), "%u", (unsigned)LISTEN_FDS_START + i);
                r = take_fd_flag(fd, &flags->listen_fds[i], err);
                flags->n_listen_fds = i + 1;
        }
        return r;
}

/* What we know is not for core files, nor for other processes of our uid. */
static int confine(struct err *err)
{
        struct rlimit none = { 0, 0 };

        if (geteuid() == 0)
                return err_set(err, EPERM, "mayflyd does not run as root: start it by `mayfly serve`");
        if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0 ||
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            /* Executed by descriptor, it would have the descriptor's number as its name. */
            prctl(PR_SET_NAME, "mayflyd") < 0)
                return err_sys(err, "confine");
        (void)signal(SIGPIPE, SIG_IGN);
        (void)umask(077);
        return 0;
}

/* Outputs of hundreds of megabytes come and go: glibc would take the first that is freed as the size from which on memory
 * is given back (mallopt(3)), and keep an arena for each thread. */
static void tune_memory(void)
{
        (void)mallopt(M_MMAP_THRESHOLD, MALLOC_MMAP_FROM);
        (void)mallopt(M_TRIM_THRESHOLD, MALLOC_TRIM_FROM);
        (void)mallopt(M_ARENA_MAX, 2);
        /* Requests hold secrets, and what others allocate is out of our hands: libraries' buffers are overwritten when they
         * are freed, but for the small ones, which glibc keeps for itself. Those of JSON are among them. */
        (void)mallopt(M_PERTURB, 0xa5);
        json_wipe_freed();
}

static int run(const struct config *config, const struct own_flags *flags, struct err *err)
{
        const struct node_config nc = {
                .config = config,
                .listen_fds = flags->listen_fds,
                .n_listen_fds = flags->n_listen_fds,
                .reload_config = flags->reload_config,
                .reload_args = flags->reload_args,
                .n_reload_args = flags->n_reload_args,
                .ready_fd = flags->ready_fd,
                .end_tasks = flags->end_tasks,
        };
        struct node *node = NULL;
        int r;

        r = node_new(&nc, &node, err);
        if (r < 0)
                return r;
        r = node_run(node, err);
        node_free(node);
        return r;
}

int main(int argc, char **argv)
{
        struct own_flags flags = { .ready_fd = -EBADF };
        struct err err = ERR_INIT;
        struct config config;
        bool check = false;
        int r;

        log_set_name("mayflyd");
        tune_memory();
        flags.reload_args = calloc((size_t)argc + 1, sizeof(char *));
        if (!flags.reload_args)
                return EXIT_FAILURE;
        r = take_own_flags(&argc, argv, &flags, &err);
        if (r == 0)
                r = config_from_args(&config, argc - 1, argv + 1, &check, &err);
        if (!flags.reload_config) {
                flags.reload_config = config_path(argc - 1, argv + 1);
                memcpy(flags.reload_args, argv + 1, (size_t)(argc - 1) * sizeof(char *));
                flags.n_reload_args = argc - 1;
        }
        if (r > 0)
                return EXIT_SUCCESS;
        if (r == 0 && check) {
                printf("ok\n");
                return EXIT_SUCCESS;
        }
        if (r == 0) {
                log_set_level(config_log_level(&config));
                r = confine(&err);
        }
        if (r == 0)
                r = take_listen_fds(&flags, &err);
        if (r == 0)
                r = run(&config, &flags, &err);
        if (r < 0) {
                log_error("%s", err.text);
                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
