#include "daemon/prepare.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOKUP_MAX 16384

/* ── users ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int user_missing(const char *key, const char *name, struct err *err)
{
        return err_set(err, ENOENT,
                       "%s: there is no user '%s': make it with\n"
                       "  useradd --system --user-group --no-create-home --shell /usr/sbin/nologin %s\n"
                       "or run tools/setup.sh run",
                       key, name, name);
}

static int user_find(const char *key, const char *name, uid_t *ret_uid, gid_t *ret_gid, struct err *err)
{
        struct passwd pw, *found = NULL;
        char buf[LOOKUP_MAX];
        int r;

        r = getpwnam_r(name, &pw, buf, sizeof(buf), &found);
        if (!found)
                return r && r != ENOENT ? err_set(err, r, "%s: look up '%s': %s", key, name, strerror(r))
                                        : user_missing(key, name, err);
        if (found->pw_uid == 0 || found->pw_gid == 0)
                return err_set(err, EINVAL, "%s: '%s' is root", key, name);
        *ret_uid = found->pw_uid;
        *ret_gid = found->pw_gid;
        return 0;
}

static int group_find(const char *name, gid_t *ret, struct err *err)
{
        struct group gr, *found = NULL;
        char buf[LOOKUP_MAX];
        int r;

        r = getgrnam_r(name, &gr, buf, sizeof(buf), &found);
        if (!found)
                return err_set(err, r ? r : ENOENT,
                               "group: there is no group '%s': make it with\n  groupadd --system %s\nor run "
                               "tools/setup.sh run",
                               name, name);
        *ret = found->gr_gid;
        return 0;
}

/* Of those that the native engine needs. */
static int native_users_find(const struct config *config, struct users *u, struct err *err)
{
        int r;

        r = user_find("net_user", config->net_user, &u->net_uid, &u->net_gid, err);
        if (r == 0)
                r = user_find("dns_user", config->dns_user, &u->dns_uid, &u->dns_gid, err);
        if (r == 0 && u->uid == u->net_uid)
                r = err_set(err, EINVAL, "user and net_user have the same uid %u", u->uid);
        if (r == 0 && (u->uid == u->dns_uid || u->net_uid == u->dns_uid))
                r = err_set(err, EINVAL, "dns_user has the uid %u of another one", u->dns_uid);
        return r;
}

/* Docker makes its socket when it starts, with the group that this one has by then. */
static int docker_group_by_name(gid_t *ret)
{
        struct group gr, *found = NULL;
        char buf[LOOKUP_MAX];

        (void)getgrnam_r("docker", &gr, buf, sizeof(buf), &found);
        if (!found || found->gr_gid == 0)
                return 0;
        *ret = found->gr_gid;
        return 1;
}

int docker_group_find(const char *path, uid_t uid, gid_t *ret, struct err *err)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return docker_group_by_name(ret);
        if ((st.st_mode & 06) == 06 || st.st_uid == uid)
                return 0;
        if ((st.st_mode & 060) != 060 || st.st_gid == 0)
                return err_set(
                        err, EPERM,
                        "docker.host: only root may use '%s', and mayflyd is not root: give the socket a group of "
                        "its own (dockerd --group docker; for Podman SocketGroup= and SocketMode=0660 of "
                        "podman.socket)",
                        path);
        *ret = st.st_gid;
        return 1;
}

int users_find(const struct config *config, struct users *ret, struct err *err)
{
        struct users u = { .uid = 0 };
        int r;

        r = user_find("user", config->user, &u.uid, &u.gid, err);
        if (r == 0)
                r = group_find(config->group, &u.api_gid, err);
        if (r == 0 && config_has_engine(config, "native"))
                r = native_users_find(config, &u, err);
        if (r == 0 && config_has_engine(config, "docker") && str_starts(config->docker.host, "unix://"))
                r = docker_group_find(config->docker.host + strlen("unix://"), u.uid, &u.docker_gid, err);
        if (r < 0)
                return r;
        u.has_docker_gid = r > 0;
        *ret = u;
        return 0;
}

/* ── directories ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/* A directory that somebody else can write would let him swap what is below; with the sticky bit, only what is his. */
static int check_way(const char *path, struct err *err)
{
        auto_free char *way = strdup(path);
        struct stat st;

        if (!way)
                return err_oom(err);
        for (char *slash = strrchr(way, '/'); slash; slash = strrchr(way, '/')) {
                slash[slash == way] = '\0';
                if (stat(way, &st) < 0)
                        return err_sys(err, "stat '%s'", way);
                if (st.st_uid != 0 || ((st.st_mode & 022) && !(st.st_mode & S_ISVTX)))
                        return err_set(err, EPERM, "'%s', in which '%s' lies, can be written by others than root", way,
                                       path);
                if (slash == way)
                        break;
        }
        return 0;
}

/* The same of where it really lies: links on the way are root's, what they lead through may not be. */
static int check_real_way(int fd, struct err *err)
{
        char link[32], real[PATH_MAX];
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, real, sizeof(real) - 1);
        if (n < 0)
                return err_sys(err, "read '%s'", link);
        real[n] = '\0';
        return check_way(real, err);
}

static int open_own_dir(const char *path, bool *ret_made, int *ret, struct err *err)
{
        auto_fd fd = -EBADF;
        struct stat st;
        bool made;
        int r;

        made = access(path, F_OK) < 0;
        r = path_mkdirs(path, 0755, err);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "open '%s'", path);
        if (st.st_uid != 0)
                return err_set(err, EPERM, "'%s' belongs to uid %u, not to root", path, st.st_uid);
        if (st.st_mode & 022)
                return err_set(err, EPERM, "'%s' can be written by others than root", path);
        r = check_way(path, err);
        if (r == 0)
                r = check_real_way(fd, err);
        if (r < 0)
                return r;
        if (fchmod(fd, 0755) < 0)
                return err_sys(err, "set the mode of '%s'", path);
        if (ret_made)
                *ret_made = made;
        *ret = TAKE_FD(fd);
        return 0;
}

static int make_below(int dirfd, const char *parent, const char *name, mode_t mode, uid_t uid, gid_t gid,
                      struct err *err)
{
        auto_fd fd = -EBADF;

        if (mkdirat(dirfd, name, mode) < 0 && errno != EEXIST)
                return err_sys(err, "make '%s/%s'", parent, name);
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
                return err_sys(err, "set the owner of '%s/%s'", parent, name);
        return 0;
}

int prepare_dirs(const struct config *config, const struct users *users, bool *ret_made_run, struct err *err)
{
        bool native = config_has_engine(config, "native");
        auto_fd data = -EBADF, run = -EBADF;
        int r;

        r = open_own_dir(config->data, NULL, &data, err);
        if (r == 0 && native)
                r = make_below(data, config->data, "store", 0700, 0, 0, err);
        if (r == 0)
                r = make_below(data, config->data, "state", 0700, users->uid, users->gid, err);
        if (r == 0)
                r = open_own_dir(config->run, ret_made_run, &run, err);
        if (r == 0 && native)
                r = make_below(run, config->run, "netd", 0700, users->net_uid, users->net_gid, err);
        return r;
}

void prepare_undo(const struct config *config, bool made_run)
{
        static const char *const files[] = { "mayfly.sock",   "launcher.sock", "netd.sock",
                                             "launcher.conf", "netd.env",      "lock" };
        auto_fd run = -EBADF;

        run = open(config->run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (run < 0)
                return;
        (void)path_remove_tree(run, "netd");
        for (size_t i = 0; i < ARRAY_LEN(files); i++)
                (void)unlinkat(run, files[i], 0);
        if (made_run)
                (void)rmdir(config->run); /* not if somebody put more into it */
}

/* ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_run_file(const struct config *config, const char *name, mode_t mode, const struct str *text,
                          struct err *err)
{
        auto_fd run = -EBADF;
        int r;

        run = open(config->run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (run < 0)
                return err_sys(err, "open '%s'", config->run);
        r = fd_write_file(run, name, mode, text->data, text->len, err);
        return r < 0 ? err_wrap(err, "write '%s/%s'", config->run, name) : 0;
}

/* The format is launcher/ceiling.h's. Without a socket of its own: who starts the launcher passes the listener. */
int prepare_ceiling(const struct config *config, const struct users *users, struct err *err)
{
        auto_str text = STR_INIT;

        if (str_addf(&text,
                     "# What mayfly-launcher may grant; written from the configuration at each start.\n"
                     "store %s/store\n"
                     "uid %u\n"
                     "gid %u\n"
                     "name %s\n"
                     "id-base %u\n"
                     "slots %u\n",
                     config->data, users->uid, users->gid, config->name, config->id_base, config->slots) < 0)
                return err_oom(err);
        return write_run_file(config, "launcher.conf", 0600, &text, err);
}

static int add_arg(char ***args, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int add_arg(char ***args, const char *fmt, ...)
{
        auto_str text = STR_INIT;
        va_list ap;
        int r;

        va_start(ap, fmt);
        r = str_addv(&text, fmt, ap);
        va_end(ap);
        return r < 0 ? r : strv_add(args, text.data);
}

int prepare_xtables_lock(const char *path, gid_t gid, struct err *err)
{
        auto_fd fd = open(path, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "open '%s'", path);
        if (!S_ISREG(st.st_mode) || st.st_uid != 0 || st.st_nlink != 1)
                return err_set(err, EPERM, "'%s' is no file of root's own", path);
        if (fchown(fd, (uid_t)-1, gid) < 0 || fchmod(fd, (st.st_mode & 0777) | 0040) < 0)
                return err_sys(err, "let netd take the lock '%s'", path);
        return 0;
}

int prepare_netd_args(const struct config *config, const struct users *users, char ***ret, struct err *err)
{
        uint64_t end = (uint64_t)config->id_base + (uint64_t)(config->slots + 1) * CONFIG_ID_RANGE - 1;
        auto_strv args = NULL;

        if (add_arg(&args, "--socket") < 0 || add_arg(&args, "%s/netd.sock", config->run) < 0 ||
            add_arg(&args, "--peer-uid") < 0 || add_arg(&args, "%u", users->uid) < 0 ||
            add_arg(&args, "--peer-gid") < 0 || add_arg(&args, "%u", users->gid) < 0 || add_arg(&args, "--user") < 0 ||
            add_arg(&args, "%u:%u", users->net_uid, users->net_gid) < 0 || add_arg(&args, "--pool") < 0 ||
            add_arg(&args, "%s", config->network.pool) < 0 || add_arg(&args, "--stock") < 0 ||
            add_arg(&args, "%u", config->network.stock) < 0 || add_arg(&args, "--connections") < 0 ||
            add_arg(&args, "%u", config->network.connections) < 0 || add_arg(&args, "--name") < 0 ||
            add_arg(&args, "%s", config->name) < 0 || add_arg(&args, "--id-range") < 0 ||
            add_arg(&args, "%u:%llu", config->id_base, (unsigned long long)end) < 0 || add_arg(&args, "--state") < 0 ||
            add_arg(&args, "%s/netd", config->run) < 0)
                return err_oom(err);
        *ret = TAKE_PTR(args);
        return 0;
}

int prepare_dns_args(const struct config *config, const struct users *users, char ***ret, struct err *err)
{
        auto_strv args = NULL;

        if (add_arg(&args, "--pool") < 0 || add_arg(&args, "%s", config->network.pool) < 0 ||
            add_arg(&args, "--user") < 0 || add_arg(&args, "%u:%u", users->dns_uid, users->dns_gid) < 0)
                return err_oom(err);
        *ret = TAKE_PTR(args);
        return 0;
}

static int add_line(struct str *text, const char *name, char *const *args)
{
        int r = str_addf(text, "%s=", name);

        for (size_t i = 0; r == 0 && args[i]; i++)
                r = str_addf(text, "%s%s", i ? " " : "", args[i]);
        return r < 0 ? r : str_addc(text, '\n');
}

/* $MAYFLY_NETD_ARGS and $MAYFLY_DNS_ARGS, which systemd splits at blanks (systemd.exec(5)); no value of the configuration holds one. */
int prepare_netd_env(const struct config *config, const struct users *users, struct err *err)
{
        auto_str text = STR_INIT;
        auto_strv netd = NULL;
        auto_strv dns = NULL;
        int r;

        r = prepare_netd_args(config, users, &netd, err);
        if (r == 0)
                r = prepare_dns_args(config, users, &dns, err);
        if (r < 0)
                return r;
        r = add_line(&text, "MAYFLY_NETD_ARGS", netd);
        if (r == 0)
                r = add_line(&text, "MAYFLY_DNS_ARGS", dns);
        return r < 0 ? err_oom(err) : write_run_file(config, "netd.env", 0644, &text, err);
}

/* ── sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

void sockets_done(struct sockets *s)
{
        fd_replace(&s->api, -EBADF);
        fd_replace(&s->launcher, -EBADF);
        fd_replace(&s->net, -EBADF);
        for (size_t i = 0; i < s->n_tcp; i++)
                fd_replace(&s->tcp[i], -EBADF);
        s->n_tcp = 0;
}

static int bind_in_run(const struct config *config, const char *name, int type, uid_t uid, gid_t gid, mode_t mode,
                       int *ret, struct err *err)
{
        auto_free char *path = str_printf("%s/%s", config->run, name);

        return path ? fd_listen_unix(path, type, uid, gid, mode, ret, err) : err_oom(err);
}

static int bind_tcp(const struct config *config, struct sockets *s, struct err *err)
{
        struct listen_address addresses[LISTEN_MAX];
        size_t n = 0;
        int r;

        r = listen_parse_list(config->listen, addresses, &n, err);
        for (size_t i = 0; i < n && r == 0; i++) {
                r = listen_bind(&addresses[i], &s->tcp[s->n_tcp], err);
                if (r == 0)
                        s->n_tcp++;
        }
        return r;
}

int prepare_sockets(const struct config *config, const struct users *users, struct sockets *ret, struct err *err)
{
        struct sockets s = SOCKETS_INIT;
        int r = 0;

        if (config_has_engine(config, "native")) {
                r = bind_in_run(config, "launcher.sock", SOCK_SEQPACKET, users->uid, users->gid, 0600, &s.launcher,
                                err);
                if (r == 0)
                        r = bind_in_run(config, "netd.sock", SOCK_SEQPACKET, users->uid, users->gid, 0600, &s.net, err);
        }
        if (r == 0)
                r = bind_in_run(config, "mayfly.sock", SOCK_STREAM, users->uid, users->api_gid, 0660, &s.api, err);
        if (r == 0)
                r = bind_tcp(config, &s, err);
        if (r < 0)
                sockets_done(&s);
        else
                *ret = s;
        return r;
}

/* ── locks ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

int locks_read_old(const struct locks *l, char *text, size_t size)
{
        ssize_t n = pread(l->run, text, size - 1, 0);

        if (n < 0)
                return -errno;
        text[n] = '\0';
        return 0;
}

int locks_sign(const struct locks *l, struct err *err)
{
        const int fds[] = { l->run, l->data };

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                if (ftruncate(fds[i], 0) < 0 || dprintf(fds[i], "%d\n", getpid()) < 0)
                        return err_sys(err, "write a lock");
        return 0;
}

void locks_done(struct locks *l)
{
        fd_replace(&l->run, -EBADF);
        fd_replace(&l->data, -EBADF);
}

/* Who holds it wrote his pid into it; 0 where he did not yet. */
static unsigned lock_holder(int fd)
{
        unsigned pid = 0;
        char text[32];
        ssize_t n;

        n = pread(fd, text, sizeof(text) - 1, 0);
        for (ssize_t i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
                pid = pid * 10 + (unsigned)(text[i] - '0');
        return pid;
}

/* The file may be unlinked by who held it between our open and our flock: then ours is nobody's lock. */
static int lock_in(const char *dir, int *ret, struct err *err)
{
        auto_free char *path = str_printf("%s/lock", dir);

        if (!path)
                return err_oom(err);
        for (;;) {
                auto_fd fd = -EBADF;
                struct stat mine, named;

                fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
                if (fd < 0)
                        return err_sys(err, "open '%s'", path);
                if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                        if (errno != EWOULDBLOCK)
                                return err_sys(err, "lock '%s'", path);
                        return err_set(err, EBUSY,
                                       "another mayfly (pid %u) is using '%s'; stop it, or give this one its own "
                                       "--name, --data and --run",
                                       lock_holder(fd), dir);
                }
                if (fstat(fd, &mine) < 0)
                        return err_sys(err, "stat '%s'", path);
                if (stat(path, &named) == 0 && mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) {
                        *ret = TAKE_FD(fd);
                        return 0;
                }
        }
}

int locks_take(const struct config *config, struct locks *ret, struct err *err)
{
        struct locks l = LOCKS_INIT;
        int r;

        r = lock_in(config->run, &l.run, err);
        if (r == 0)
                r = lock_in(config->data, &l.data, err);
        if (r < 0)
                locks_done(&l);
        else
                *ret = l;
        return r;
}
