#include "launcher/copy_child.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/tar.h"
#include "launcher/privilege.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#define OUT_FD 3
#define NOFILE (COPY_DEPTH_MAX + 16)
#define DIRENTS_SIZE 4096
#define PIECE_SIZE (64 * 1024)

/* As the kernel has it (getdents64(2)). */
struct dirent_head {
        uint64_t ino;
        int64_t off;
        uint16_t reclen;
        uint8_t type;
        char name[];
};

/* One open directory on the way down. */
struct level {
        int fd;
        size_t path_len; /* of the archive's name of it */
        size_t used, len;
        _Alignas(8) char dirents[DIRENTS_SIZE];
};

/* Static: untouched, it costs the launcher nothing, and the child has it without an allocator. */
static struct level levels[COPY_DEPTH_MAX];
static char name[TAR_NAME_MAX + 1]; /* in the archive, of what is looked at */
static char piece[PIECE_SIZE];

struct walk {
        struct tar_writer tar;
        uint64_t left; /* bytes of the archive */
        uint32_t entries;
        unsigned depth;
};

/* ── output ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int put(const void *bytes, size_t len, void *data)
{
        const struct copy_child *c = data;

        return fd_write_all(c->out, bytes, len);
}

static int put_member(struct walk *w, const struct tar_member *m)
{
        uint64_t bytes = tar_member_bytes(m);

        if (bytes > w->left)
                return bytes == UINT64_MAX ? -ENAMETOOLONG : -EFBIG;
        w->left -= bytes;
        return tar_write_member(&w->tar, m);
}

/* What the file lacks of its size, because it became shorter meanwhile, is zero. */
static int put_content(struct walk *w, int fd, uint64_t size)
{
        while (size > 0) {
                size_t want = (size_t)MIN(size, (uint64_t)sizeof(piece));
                ssize_t n = read(fd, piece, want);
                int r;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0) {
                        memset(piece, 0, want);
                        n = (ssize_t)want;
                }
                r = tar_write_content(&w->tar, piece, (size_t)n);
                if (r < 0)
                        return r;
                size -= (uint64_t)n;
        }
        return 0;
}

/* ── one entry ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static int open_entry(int dir, const char *entry, int flags)
{
        const struct open_how how = {
                .flags = (uint64_t)(flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC),
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
        };

        return sys_result(syscall(SYS_openat2, dir, entry, &how, sizeof(how)));
}

static struct tar_member member_of(const struct stat *st, enum tar_kind kind)
{
        return (struct tar_member){
                .kind = kind,
                .path = name,
                .target = "",
                .mode = st->st_mode & 07777,
                .uid = st->st_uid,
                .gid = st->st_gid,
                .mtime = st->st_mtime,
        };
}

/* What it was when it was looked at may have been exchanged: only what the descriptor shows counts. */
static int copy_file(struct walk *w, int dir, const char *entry)
{
        auto_fd fd = open_entry(dir, entry, O_RDONLY);
        struct tar_member m;
        struct stat st;
        int r;

        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -ENOENT;
        m = member_of(&st, TAR_KIND_FILE);
        m.size = (uint64_t)st.st_size;
        r = put_member(w, &m);
        return r < 0 ? r : put_content(w, fd, m.size);
}

static int copy_link(struct walk *w, int dir, const char *entry, const struct stat *st)
{
        static char target[TAR_NAME_MAX + 1];
        struct tar_member m = member_of(st, TAR_KIND_SYMLINK);
        ssize_t n = readlinkat(dir, entry, target, sizeof(target));

        if (n < 0)
                return errno == EINVAL ? -ENOENT : -errno;
        if (n == 0 || n >= (ssize_t)sizeof(target))
                return -ENAMETOOLONG;
        target[n] = '\0';
        m.target = target;
        return put_member(w, &m);
}

/* A directory on which something else is mounted is there, but nothing in it. */
static int copy_dir(struct walk *w, int dir, const char *entry, const struct stat *st)
{
        struct tar_member m = member_of(st, TAR_KIND_DIRECTORY);
        auto_fd fd = open_entry(dir, entry, O_RDONLY | O_DIRECTORY);
        struct level *l;
        int r;

        if (fd < 0 && fd != -EXDEV)
                return fd == -ENOTDIR ? -ENOENT : fd;
        if (fd >= 0 && w->depth == COPY_DEPTH_MAX)
                return -ENAMETOOLONG;
        r = put_member(w, &m);
        if (r < 0 || fd < 0)
                return r;
        l = &levels[w->depth++];
        l->fd = TAKE_FD(fd);
        l->path_len = strlen(name);
        l->used = l->len = 0;
        return 0;
}

static int copy_entry(struct walk *w, int dir, const char *entry)
{
        struct stat st;

        if (w->entries == 0)
                return -E2BIG;
        w->entries--;
        if (fstatat(dir, entry, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
                return -errno;
        switch (st.st_mode & S_IFMT) {
        case S_IFREG:
                return copy_file(w, dir, entry);
        case S_IFDIR:
                return copy_dir(w, dir, entry, &st);
        case S_IFLNK:
                return copy_link(w, dir, entry, &st);
        case S_IFIFO: {
                const struct tar_member m = member_of(&st, TAR_KIND_FIFO);

                return put_member(w, &m);
        }
        default:
                return 0; /* sockets and devices */
        }
}

/* ── directories ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int set_name(size_t dir_len, const char *entry)
{
        size_t len = strlen(entry);

        if (dir_len + len + 2 > sizeof(name))
                return -ENAMETOOLONG;
        name[dir_len] = '/';
        memcpy(name + dir_len + 1, entry, len + 1);
        return 0;
}

/* The next entry of the lowest directory, or up to the one above. */
static int step(struct walk *w)
{
        struct level *l = &levels[w->depth - 1];
        const struct dirent_head *d = (const void *)(l->dirents + l->used);
        int r;

        if (l->used >= l->len) {
                long n = syscall(SYS_getdents64, l->fd, l->dirents, sizeof(l->dirents));

                if (n < 0)
                        return -errno;
                l->used = 0;
                l->len = (size_t)n;
                if (n == 0) {
                        fd_replace(&l->fd, -EBADF);
                        w->depth--;
                }
                return 0;
        }
        l->used += d->reclen;
        if (str_eq(d->name, ".") || str_eq(d->name, ".."))
                return 0;
        r = set_name(l->path_len, d->name);
        if (r == 0)
                r = copy_entry(w, l->fd, d->name);
        /* It has gone meanwhile, or became something else: the next copy will see. */
        return r == -ENOENT || r == -ELOOP ? 0 : r;
}

/* ── the beginning ───────────────────────────────────────────────────────────────────────────────────────────────── */

/* A container's own files lie on its overlay, or on a tmpfs that it has: not on what the kernel makes up, and not where its
 * secrets are, or a mask, which it cannot write to. */
static int check_place(int root, int fd)
{
        uint64_t top, here;
        struct statfs fs;

        if (fstatfs(fd, &fs) < 0 || fd_mount(fd, &here) < 0 || fd_mount(root, &top) < 0)
                return -errno;
        if (here == top)
                return 0;
        return fs.f_type == TMPFS_MAGIC && !(fs.f_flags & ST_RDONLY) ? 0 : -EACCES;
}

/* The directory that holds what was asked for, and its name there: "." where the path names a directory by itself. */
static int open_start(const char *path, int root, int *ret_dir, const char **ret_entry)
{
        static char parent[sizeof(((struct copy_child *)NULL)->path)];
        const char *slash = strrchr(path, '/');
        const char *last = slash + 1;
        bool whole = !last[0] || str_eq(last, ".") || str_eq(last, "..");

        (void)snprintf(parent, sizeof(parent), "%.*s", whole ? (int)strlen(path) : (int)(last - path), path);
        *ret_dir = path_open_in(root, parent, O_PATH | O_DIRECTORY, 0);
        *ret_entry = whole ? "." : last;
        return *ret_dir < 0 ? *ret_dir : 0;
}

/* "a/b/" is archived as "b", "a/." and the root as ".". */
static int name_start(const char *path, const char *entry)
{
        size_t len = strlen(path), begin;

        if (!str_eq(entry, ".")) {
                (void)snprintf(name, sizeof(name), "%s", entry);
                return strlen(entry) > NAME_MAX ? -ENAMETOOLONG : 0;
        }
        while (len > 0 && path[len - 1] == '/')
                len--;
        for (begin = len; begin > 0 && path[begin - 1] != '/';)
                begin--;
        if (len - begin > NAME_MAX)
                return -ENAMETOOLONG;
        (void)snprintf(name, sizeof(name), "%.*s", (int)(len - begin), path + begin);
        if (!path_name_valid(name))
                (void)snprintf(name, sizeof(name), ".");
        return 0;
}

/* The last component may itself be a place where something is mounted (/dev/shm): then that is meant. */
static int enter_mount(int *dir, const char **entry)
{
        auto_fd fd = -EBADF;
        struct stat st;

        if (fstatat(*dir, *entry, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        if (!S_ISDIR(st.st_mode))
                return 0;
        fd = openat(*dir, *entry, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        fd_replace(dir, TAKE_FD(fd));
        *entry = ".";
        return 0;
}

int copy_child_tree(const struct copy_child *c, int root)
{
        struct walk w = { .tar = { .fn = put, .data = (void *)c }, .left = c->max_bytes, .entries = c->max_entries };
        auto_fd dir = -EBADF;
        const char *entry;
        int r;

        if (w.left < 2 * TAR_BLOCK)
                return -EFBIG;
        w.left -= 2 * TAR_BLOCK;
        r = open_start(c->path, root, &dir, &entry);
        if (r == 0)
                r = name_start(c->path, entry);
        if (r == 0)
                r = enter_mount(&dir, &entry);
        if (r == 0)
                r = check_place(root, dir);
        if (r == 0)
                r = copy_entry(&w, dir, entry);
        while (r == 0 && w.depth > 0)
                r = step(&w);
        while (w.depth > 0)
                fd_replace(&levels[--w.depth].fd, -EBADF);
        return r < 0 ? r : tar_write_end(&w.tar);
}

/* ── privileges ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int set_limits(const struct copy_child *c)
{
        const struct {
                __rlimit_resource_t resource;
                rlim_t value;
        } limits[] = {
                { RLIMIT_CORE, 0 },         { RLIMIT_NOFILE, NOFILE },
                { RLIMIT_CPU, c->seconds }, { RLIMIT_FSIZE, c->max_bytes },
                { RLIMIT_NPROC, 0 },        { RLIMIT_MEMLOCK, 0 },
        };

        for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
                const struct rlimit l = { limits[i].value, limits[i].value };

                if (setrlimit(limits[i].resource, &l) < 0)
                        return -errno;
        }
        return 0;
}

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "name the audit architecture of this processor"
#endif

static int load_filter(void)
{
        static const uint32_t allowed[] = {
                SYS_read,  SYS_write,      SYS_getdents64, SYS_close, SYS_openat,  SYS_openat2,
                SYS_fstat, SYS_newfstatat, SYS_readlinkat, SYS_statx, SYS_fstatfs, SYS_exit_group,
        };
        struct sock_filter code[ARRAY_LEN(allowed) + 6];
        struct sock_fprog program = { .filter = code };
        unsigned short n = 0;

        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
                code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i],
                                                         (uint8_t)(ARRAY_LEN(allowed) - i), 0);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        program.len = n;
        return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 ? -errno : 0;
}

/* Root of the container's ids that may read whatever it finds, in the container's mount namespace. */
static int become_reader(const struct copy_child *c)
{
        pid_t parent = getppid();
        int r;

        if (setns(c->mntns, CLONE_NEWNS) < 0 || chdir("/") < 0)
                return -errno;
        r = privilege_join(c->userns);
        if (r == 0)
                r = privilege_only(UINT64_C(1) << CAP_DAC_READ_SEARCH);
        if (r < 0)
                return r;
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
                return -errno;
        return getppid() == parent ? 0 : -ESRCH;
}

/* Descriptors of the launcher are out of reach before the first byte of a container is looked at. */
static int keep_output(struct copy_child *c)
{
        if (c->out != OUT_FD && dup3(c->out, OUT_FD, O_CLOEXEC) < 0)
                return -errno;
        c->out = OUT_FD;
        for (int fd = 0; fd < OUT_FD; fd++)
                if (dup2(OUT_FD, fd) < 0)
                        return -errno;
        if (sys_close_range(OUT_FD + 1, ~0U, 0) < 0)
                return -errno;
        return fd_set_nonblock(OUT_FD, false);
}

static int run(struct copy_child *c)
{
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        int root, r = become_reader(c);

        (void)sigaction(SIGPIPE, &ignore, NULL);
        if (r == 0)
                r = keep_output(c);
        if (r == 0)
                r = set_limits(c);
        if (r < 0)
                return r;
        root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return -errno;
        r = load_filter();
        return r < 0 ? r : copy_child_tree(c, root);
}

_Noreturn void copy_child_run(const struct copy_child *c)
{
        struct copy_child own = *c;
        int r = run(&own);

        /* Errors that do not fit in an exit code do not come from these calls. */
        (void)syscall(SYS_exit_group, -r);
        __builtin_unreachable();
}
