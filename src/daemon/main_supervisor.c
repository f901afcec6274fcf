/* mayfly-supervisor: what `mayfly serve` becomes. Root, without a socket and without input: it prepares directories, starts
 * the launcher, netd and the daemon, or the daemon alone where no engine needs the others, restarts what dies and stops all in
 * order. With --prepare it only makes what the
 * processes need, for service managers that start them themselves. */
#include "base/fd.h"
#include "base/log.h"
#include "base/program.h"
#include "base/startup.h"
#include "base/str.h"
#include "daemon/config.h"
#include "daemon/notify.h"
#include "daemon/prepare.h"
#include "daemon/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define AWAIT_OLD_MS 10000
#define LOCK_FILE_MAX 4096
#define RUN_IS_OURS "made 1\n" /* in the lock file: the run directory is to be removed at the end */

struct plan {
        struct config config;
        const char *config_file; /* "": none */
        char **args;             /* of the command line */
        int n_args;
        struct users users;
        struct sockets sockets;
        struct locks locks;
        bool made_run;
        bool native;                             /* an engine needs launcher and netd */
        char **launcher, **net, **dns, **daemon; /* arguments */
};

static void plan_done(struct plan *p)
{
        sockets_done(&p->sockets);
        locks_done(&p->locks);
        strv_free(p->launcher);
        strv_free(p->net);
        strv_free(p->dns);
        strv_free(p->daemon);
}

/* ── arguments of the children ───────────────────────────────────────────────────────────────────────────────────── */

static int start_args(char ***args, const char *program, struct err *err)
{
        char path[PATH_MAX];
        int r;

        r = program_find(program, path, err);
        if (r < 0)
                return r;
        return strv_add(args, path) < 0 ? err_oom(err) : 0;
}

static int add_all(char ***args, char *const *more, struct err *err)
{
        for (; *more; more++)
                if (strv_add(args, *more) < 0)
                        return err_oom(err);
        return 0;
}

static int plan_launcher(struct plan *p, struct err *err)
{
        auto_free char *ceiling = str_printf("%s/launcher.conf", p->config.run);
        char *const more[] = { (char[]){ "--ceiling" }, ceiling, (char[]){ "--die-with-parent" }, NULL };
        int r;

        if (!ceiling)
                return err_oom(err);
        r = start_args(&p->launcher, "mayfly-launcher", err);
        return r < 0 ? r : add_all(&p->launcher, more, err);
}

static int plan_net(struct plan *p, struct err *err)
{
        char *const own[] = { (char[]){ "--die-with-parent" }, NULL };
        auto_strv more = NULL;
        int r;

        r = start_args(&p->net, "mayfly-netd", err);
        if (r == 0)
                r = prepare_netd_args(&p->config, &p->users, &more, err);
        if (r == 0)
                r = add_all(&p->net, own, err);
        return r < 0 ? r : add_all(&p->net, more, err);
}

static int plan_dns(struct plan *p, struct err *err)
{
        char *const own[] = { (char[]){ "--die-with-parent" }, NULL };
        auto_strv more = NULL;
        int r;

        r = start_args(&p->dns, "mayfly-dns", err);
        if (r == 0)
                r = prepare_dns_args(&p->config, &p->users, &more, err);
        if (r == 0)
                r = add_all(&p->dns, own, err);
        return r < 0 ? r : add_all(&p->dns, more, err);
}

/* Where the daemon looks when it is to read its configuration again: as a path that means the same there. */
static char *reload_flag(const struct plan *p)
{
        char *path = *p->config_file ? realpath(p->config_file, NULL) : NULL, *flag;

        flag = str_printf("--reload-config=%s", path ? path : "");
        free(path);
        return flag;
}

static int plan_daemon(struct plan *p, struct err *err)
{
        auto_free char *ready = str_printf("--ready-fd=%zu", 4 + p->sockets.n_tcp);
        auto_free char *reload = reload_flag(p);
        char *const own[] = { ready, reload, (char[]){ "--end-tasks" }, NULL };
        auto_strv more = NULL;
        int r;

        if (!ready || !reload)
                return err_oom(err);
        r = start_args(&p->daemon, "mayflyd", err);
        if (r == 0)
                r = config_to_args(&p->config, &more, err);
        if (r == 0)
                r = add_all(&p->daemon, own, err);
        if (r == 0)
                r = add_all(&p->daemon, more, err);
        for (int i = 0; i < p->n_args && r == 0; i++) {
                auto_free char *arg = str_printf("--reload-arg=%s", p->args[i]);

                r = !arg || strv_add(&p->daemon, arg) < 0 ? err_oom(err) : 0;
        }
        return r;
}

/* ── preparation ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int require_root(struct err *err)
{
        if (geteuid() != 0)
                return err_set(err, EPERM, "serve needs root: try `sudo mayfly serve`");
        return 0;
}

static int prepare(struct plan *p, struct err *err)
{
        int r;

        r = require_root(err);
        if (r == 0)
                r = users_find(&p->config, &p->users, err);
        if (r == 0)
                r = prepare_dirs(&p->config, &p->users, &p->made_run, err);
        return r;
}

static int prepare_only(struct plan *p, struct err *err)
{
        struct err why = ERR_INIT;
        int r;

        r = prepare(p, err);
        if (r == 0 && p->native)
                r = prepare_ceiling(&p->config, &p->users, err);
        if (r == 0 && p->native)
                r = prepare_netd_env(&p->config, &p->users, err);
        /* Without it netd edits the chain all the same, and tries again where somebody was faster. */
        if (r == 0 && p->native && prepare_xtables_lock(PREPARE_XTABLES_LOCK, (gid_t)p->users.net_gid, &why) < 0)
                log_warn("%s", why.text);
        return r;
}

/* A supervisor that was killed leaves pids in the lock file; its children may still be on their way out. */
static int take_over(struct plan *p, struct err *err)
{
        char old[LOCK_FILE_MAX];

        if (locks_read_old(&p->locks, old, sizeof(old)) == 0) {
                supervisor_await_old(old, AWAIT_OLD_MS);
                p->made_run |= strstr(old, RUN_IS_OURS) != NULL;
        }
        return locks_sign(&p->locks, err);
}

/* ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void announce(void *data)
{
        const struct plan *p = data;

        printf("mayfly %s is ready: unix://%s/mayfly.sock\n", MAYFLY_VERSION, p->config.run);
        (void)fflush(stdout);
        notify_send("READY=1");
        startup_forget();
}

/* Stopped from the end: the daemon, then the launcher with its containers, then the network under them. */
static int add_children(struct supervisor *s, const struct plan *p, struct err *err)
{
        const struct child_spec natives[] = {
                { .name = "mayfly-netd",
                  .argv = p->net,
                  .fds = { p->sockets.net },
                  .stop_ms = 10000,
                  .death_signal = SIGTERM },
                /* It binds its port and becomes its user by itself, under a service manager, too. */
                { .name = "mayfly-dns", .argv = p->dns, .stop_ms = 2000, .death_signal = SIGTERM },
                { .name = "mayfly-launcher",
                  .argv = p->launcher,
                  .fds = { p->sockets.launcher },
                  .stop_ms = 15000,
                  .death_signal = SIGTERM },
        };
        struct child_spec daemon = {
                .name = "mayflyd",
                .argv = p->daemon,
                .fds = { p->sockets.api },
                .stop_ms = 20000,
                .ready_pipe = true,
                .reload = true,
                .drop = true,
                .uid = p->users.uid,
                .gid = p->users.gid,
                .groups = { p->users.api_gid, p->users.docker_gid },
                .n_groups = p->users.has_docker_gid ? 2 : 1,
                .death_signal = SIGKILL,
        };
        int r = 0;

        for (size_t i = 0; i < p->sockets.n_tcp; i++)
                daemon.fds[1 + i] = p->sockets.tcp[i];
        for (size_t i = 0; p->native && i < ARRAY_LEN(natives) && r == 0; i++)
                r = supervisor_add(s, &natives[i], err);
        return r == 0 ? supervisor_add(s, &daemon, err) : r;
}

static int supervise(struct plan *p, struct err *err)
{
        struct supervisor s;
        int r;

        r = supervisor_init(&s, err);
        if (r < 0)
                return r;
        s.pids_fd = p->locks.run;
        s.pids_note = p->made_run ? RUN_IS_OURS : NULL;
        s.ready = announce;
        s.data = p;
        r = add_children(&s, p, err);
        if (r == 0)
                r = supervisor_run(&s, err);
        supervisor_done(&s);
        return r;
}

static int serve(struct plan *p, struct err *err)
{
        int r;

        r = prepare(p, err);
        if (r == 0)
                r = locks_take(&p->config, &p->locks, err);
        if (r < 0) {
                if (p->made_run)
                        prepare_undo(&p->config, true); /* else what is there is somebody else's */
                return r;
        }
        r = take_over(p, err);
        if (r == 0 && p->native)
                r = prepare_ceiling(&p->config, &p->users, err);
        if (r == 0)
                r = prepare_sockets(&p->config, &p->users, &p->sockets, err);
        if (r == 0 && p->native)
                r = plan_launcher(p, err);
        if (r == 0 && p->native)
                r = plan_net(p, err);
        if (r == 0 && p->native)
                r = plan_dns(p, err);
        if (r == 0)
                r = plan_daemon(p, err);
        if (r == 0)
                r = supervise(p, err);
        notify_send("STOPPING=1");
        prepare_undo(&p->config, p->made_run);
        return r;
}

int main(int argc, char **argv)
{
        struct plan p = { .sockets = SOCKETS_INIT, .locks = LOCKS_INIT };
        bool only_prepare = argc > 1 && str_eq(argv[1], "--prepare"), check = false;
        struct err err = ERR_INIT;
        int skip = only_prepare ? 2 : 1, r;

        log_set_name("mayfly-supervisor");
        (void)umask(022);
        r = config_from_args(&p.config, argc - skip, argv + skip, &check, &err);
        p.config_file = config_path(argc - skip, argv + skip);
        p.args = argv + skip;
        p.n_args = argc - skip;
        if (r > 0)
                return EXIT_SUCCESS;
        if (r == 0 && check) {
                printf("ok\n");
                return EXIT_SUCCESS;
        }
        if (r == 0) {
                log_set_level(config_log_level(&p.config));
                p.native = config_has_engine(&p.config, "native");
                r = only_prepare ? prepare_only(&p, &err) : serve(&p, &err);
        }
        plan_done(&p);
        if (r < 0) {
                fprintf(stderr, "mayfly: %s\n", err.text);
                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
