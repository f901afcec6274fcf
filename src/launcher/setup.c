#include "launcher/setup.h"

#include "base/fd.h"
#include "base/str.h"
#include "launcher/child.h"
#include "launcher/rootfs.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef MFD_EXEC /* Linux 6.3 */
#define MFD_EXEC 0x0010U
#endif

#define PROGRAM_MAX (64 * 1024 * 1024)
#define NOFILE_WANTED 1048576
#define LISTEN_FD 3 /* sd_listen_fds(3) */
#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int parse_sealed(const char *value, struct setup *ret)
{
        char init[16];
        const char *comma = strchr(value, ',');
        uint32_t a, b;

        if (!comma || (size_t)(comma - value) >= sizeof(init))
                return -EINVAL;
        memcpy(init, value, (size_t)(comma - value));
        init[comma - value] = '\0';
        if (parse_u32(init, &a) < 0 || a > INT_MAX)
                return -EINVAL;
        ret->init = (int)a;
        ret->sealed = true;
        if (str_eq(comma + 1, "-"))
                return 0;
        if (parse_u32(comma + 1, &b) < 0 || b > INT_MAX)
                return -EINVAL;
        ret->worker = (int)b;
        return 0;
}

int setup_parse(int argc, char **argv, struct setup *ret, struct err *err)
{
        struct setup s = { .init = -EBADF, .worker = -EBADF };

        for (int i = 1; i < argc; i++) {
                if (str_eq(argv[i], "--ceiling") && i + 1 < argc)
                        s.ceiling = argv[++i];
                else if (str_eq(argv[i], "--die-with-parent"))
                        s.die_with_parent = true;
                else if (str_eq(argv[i], "--sealed") && i + 1 < argc && parse_sealed(argv[i + 1], &s) == 0)
                        i++;
                else
                        return err_set(err, EINVAL, "unknown argument '%s'", argv[i]);
        }
        if (!s.ceiling)
                return err_set(err, EINVAL, "usage: mayfly-launcher --ceiling FILE [--die-with-parent]");
        *ret = s;
        return 0;
}

/* ── sealed programs ──────────────────────────────────────────────────────────────────────────────────────────────── */

/* mode 0111 makes a program whose process can be neither read nor traced by who runs it (execve(2), ptrace(2)). */
static int seal_program(int file, const char *name, mode_t mode, int *ret, struct err *err)
{
        auto_fd fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
        struct stat st;

        if (fd < 0 && errno == EINVAL)
                fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return err_sys(err, "make a memfd");
        if (fstat(file, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > PROGRAM_MAX)
                return err_set(err, EINVAL, "%s is no program", name);
        for (off_t left = st.st_size; left > 0;) {
                ssize_t n = sendfile(fd, file, NULL, (size_t)left);

                if (n <= 0)
                        return err_sys(err, "copy %s", name);
                left -= n;
        }
        if (fchmod(fd, mode) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
                return err_sys(err, "seal %s", name);
        *ret = TAKE_FD(fd);
        return 0;
}

/* A program beside our own, or in ../libexec/mayfly of where that lies. */
static int open_sibling(const char *dir, const char *name)
{
        char path[PATH_MAX];

        for (size_t i = 0; i < 2; i++) {
                int n = i == 0 ? snprintf(path, sizeof(path), "%s/%s", dir, name)
                               : snprintf(path, sizeof(path), "%s/../libexec/mayfly/%s", dir, name);
                int fd = n < (int)sizeof(path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;

                if (fd >= 0)
                        return fd;
        }
        return -ENOENT;
}

static int own_dir(char *ret, size_t max, struct err *err)
{
        ssize_t n = readlink("/proc/self/exe", ret, max - 1);
        char *slash;

        if (n < 0)
                return err_sys(err, "read /proc/self/exe");
        ret[n] = '\0';
        slash = strrchr(ret, '/');
        if (!slash)
                return err_set(err, EINVAL, "our own program has no path");
        *slash = '\0';
        return 0;
}

static int seal_sibling(const char *dir, const char *name, mode_t mode, bool required, int *ret, struct err *err)
{
        auto_fd file = open_sibling(dir, name);
        int r;

        if (file < 0)
                return required ? err_set(err, ENOENT, "%s is not beside the launcher", name) : 0;
        r = seal_program(file, name, mode, ret, err);
        return r < 0 || fcntl(*ret, F_SETFD, 0) == 0 ? r : err_sys(err, "pass %s on", name);
}

int setup_reexec(const struct setup *s, struct err *err)
{
        auto_fd self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        auto_fd sealed = -EBADF;
        int init = -EBADF, worker = -EBADF, r;
        char dir[PATH_MAX], programs[32], listen_fds[32], listen_pid[32];
        const char *argv[] = { "mayfly-launcher",
                               "--ceiling",
                               s->ceiling,
                               "--sealed",
                               programs,
                               s->die_with_parent ? "--die-with-parent" : NULL,
                               NULL };
        const char *envp[3] = { NULL };
        const char *count = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");

        if (self < 0)
                return err_sys(err, "open /proc/self/exe");
        r = own_dir(dir, sizeof(dir), err);
        if (r == 0)
                r = seal_sibling(dir, "mayfly-init", 0111, true, &init, err);
        if (r == 0)
                r = seal_sibling(dir, "mayfly-worker", 0555, false, &worker, err);
        if (r == 0)
                r = seal_program(self, "mayfly-launcher", 0555, &sealed, err);
        if (r < 0)
                return r;
        if (worker >= 0)
                (void)snprintf(programs, sizeof(programs), "%d,%d", init, worker);
        else
                (void)snprintf(programs, sizeof(programs), "%d,-", init);
        if (count && pid) {
                (void)snprintf(listen_fds, sizeof(listen_fds), "LISTEN_FDS=%.8s", count);
                (void)snprintf(listen_pid, sizeof(listen_pid), "LISTEN_PID=%.16s", pid);
                envp[0] = listen_fds;
                envp[1] = listen_pid;
        }
        (void)sys_execveat(sealed, "", (char *const *)argv, (char *const *)envp, AT_EMPTY_PATH);
        return err_sys(err, "execute the sealed copy");
}

/* ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int check_sealed(struct err *err)
{
        auto_fd self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        int seals = self < 0 ? -1 : fcntl(self, F_GET_SEALS);

        return seals >= 0 && (seals & SEALS) == SEALS ? 0 : err_set(err, EPERM, "our own program is not sealed");
}

static int take_stdio(struct err *err)
{
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        if (null < 0)
                return err_sys(err, "open /dev/null");
        while (null >= 0 && null <= STDERR_FILENO)
                null = dup(null);
        if (null < 0 || dup2(null, STDIN_FILENO) < 0)
                return err_sys(err, "take descriptor 0");
        /* The windows of children (child.h) are taken before anything else can come to lie there. */
        for (int i = CHILD_WINDOW_FIRST; i < CHILD_WINDOW_END; i++)
                if (dup3(null, i, O_CLOEXEC) < 0)
                        return err_sys(err, "take descriptor %d", i);
        return close(null) < 0 ? err_sys(err, "close") : 0;
}

/* What a program of ours may have left ignored or blocked would be inherited by every container. */
static void reset_signals(void)
{
        sigset_t set;

        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGCHLD);
        (void)sigaddset(&set, SIGTERM);
        (void)sigprocmask(SIG_SETMASK, &set, NULL);
}

static void raise_nofile(void)
{
        struct rlimit wanted = { NOFILE_WANTED, NOFILE_WANTED }, now;

        if (setrlimit(RLIMIT_NOFILE, &wanted) == 0 || getrlimit(RLIMIT_NOFILE, &now) < 0)
                return;
        now.rlim_cur = now.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &now);
}

int setup_process(const struct setup *s, struct err *err)
{
        pid_t parent = getppid();
        int r = check_sealed(err);

        if (r == 0)
                r = take_stdio(err);
        if (r < 0)
                return r;
        reset_signals();
        raise_nofile();
        (void)umask(022);
        (void)prctl(PR_SET_NAME, "mayfly-launcher", 0, 0, 0);
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return err_sys(err, "become undumpable");
        if (s->die_with_parent && (prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0) < 0 || getppid() != parent))
                return err_set(err, ESRCH, "the parent has gone");
        if (fcntl(s->init, F_SETFD, FD_CLOEXEC) < 0 || (s->worker >= 0 && fcntl(s->worker, F_SETFD, FD_CLOEXEC) < 0))
                return err_sys(err, "find mayfly-init and mayfly-worker");
        return 0;
}

/* ── the socket ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static int inherited_listener(int fd, int *ret, struct err *err)
{
        socklen_t len = sizeof(int);
        int listening = 0, type = 0;

        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening ||
            getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
                return err_set(err, ENOTSOCK, "descriptor %d is no listening SOCK_SEQPACKET socket", fd);
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fd_set_nonblock(fd, true) < 0)
                return err_sys(err, "set up descriptor %d", fd);
        *ret = fd;
        return 0;
}

static int systemd_listener(int *ret, struct err *err)
{
        const char *count = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");
        uint32_t n, p;

        if (!count || !pid || parse_u32(count, &n) < 0 || n != 1 || parse_u32(pid, &p) < 0 || p != (uint32_t)getpid())
                return err_set(err, EINVAL, "the ceiling names no socket, and none was passed");
        return inherited_listener(LISTEN_FD, ret, err);
}

int setup_listener(const struct ceiling *c, int *ret, int *ret_dir, const char **ret_name, struct err *err)
{
        char dir[CEILING_PATH_MAX];
        const char *slash = strrchr(c->socket, '/');
        int r;

        if (c->socket_fd >= 0)
                return inherited_listener(c->socket_fd, ret, err);
        if (!c->socket[0])
                return systemd_listener(ret, err);
        r = fd_listen_unix(c->socket, SOCK_SEQPACKET, c->uid, c->gid, 0600, ret, err);
        if (r < 0)
                return r;
        if (fd_set_nonblock(*ret, true) < 0)
                return err_sys(err, "set up %s", c->socket);
        (void)snprintf(dir, sizeof(dir), "%.*s/", (int)(slash - c->socket), c->socket);
        *ret_dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        *ret_name = slash + 1;
        return 0;
}

/* ── mounts ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int fill_root(struct err *err)
{
        static const char *const dirs[] = { ROOTFS_STORE, ROOTFS_MOUNT, ROOTFS_EMPTY };

        for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
                if (mkdir(dirs[i] + 1, 0555) < 0)
                        return err_sys(err, "make %s of our root", dirs[i]);
        return 0;
}

static bool can_clone(int mount)
{
        auto_fd clone = sys_open_tree(mount, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);

        return clone >= 0;
}

/* All containers share one time namespace that is not the host's: an offset cannot be set any more once a process is in it,
 * so they share nothing that they could change. The launcher is in it, too: before Linux 6.3 no child may share its address
 * space that enters another one. Older or smaller kernels have none. */
static void enter_timens(void)
{
        auto_fd ns = unshare(CLONE_NEWTIME) < 0 ? -EBADF
                                                : open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);

        if (ns >= 0)
                (void)setns(ns, CLONE_NEWTIME);
}

/* Each mount that the launcher sees costs every clone a microsecond or more, so there is one, or two. Its root is read-only:
 * a masked directory of a container is one of its directories. */
int setup_mounts(const char *store, int *ret_store, bool *ret_detached, struct err *err)
{
        struct mount_attr readonly = { .attr_set = MOUNT_ATTR_RDONLY };
        auto_fd tree = -EBADF;
        bool detached;
        int r;

        enter_timens();
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return err_sys(err, "make a mount namespace");
        tree = sys_open_tree(AT_FDCWD, store, OPEN_TREE_CLONE);
        if (tree < 0)
                return err_set(err, -tree, "clone the mount of %s", store);
        if (mount("tmpfs", store, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=64k,nr_inodes=16") < 0 ||
            chdir(store) < 0)
                return err_sys(err, "mount our root");
        r = fill_root(err);
        if (r < 0)
                return r;
        detached = can_clone(tree);
        r = detached ? 0 : sys_attach(tree, AT_FDCWD, ROOTFS_STORE + 1);
        if (r < 0)
                return err_set(err, -r, "mount the store in our root");
        r = sys_pivot_root(".", ".");
        if (r < 0)
                return err_set(err, -r, "pivot into our root");
        if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
                return err_sys(err, "leave the host's root");
        r = sys_mount_setattr(AT_FDCWD, "/", 0, &readonly);
        if (r < 0)
                return err_set(err, -r, "make our root read-only");
        *ret_store = TAKE_FD(tree);
        *ret_detached = detached;
        return 0;
}
