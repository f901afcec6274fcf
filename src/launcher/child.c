#include "launcher/child.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "launcher/files.h"
#include "launcher/init/report.h"
#include "launcher/init/search.h"
#include "launcher/privilege.h"
#include "launcher/rootfs.h"
#include "launcher/sys.h"
#include "launcher/validate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INIT_PROGRAM_FD (INIT_REPORT_FD + 1)

struct unpacked {
        struct rootfs_text hostname, hosts, resolv;
        char *workdir;
        struct payload secrets, files;
};

static void at_stage(const struct child *c, enum launch_stage stage)
{
        c->slot->report->stage = stage;
}

static _Noreturn void fail(const struct child *c, int r)
{
        c->slot->report->error = r < 0 ? -r : EIO;
        _exit(127);
}

static void check(const struct child *c, int r)
{
        if (r != 0)
                fail(c, r);
}

/* ── the payload ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Records become strings in place: what follows a string is always another record, whose length is read first and then
 * overwritten by the NUL. */
struct reader {
        struct payload p;
        uint32_t len; /* of the record that comes next */
};

static int reader_start(struct reader *r, const struct child *c)
{
        r->p = (struct payload){ .at = c->payload, .end = c->payload + c->payload_len };
        return payload_u32(&r->p, &r->len);
}

static int read_string(struct reader *r, char **ret)
{
        char *s = (char *)r->p.at;
        uint32_t len = r->len;

        r->p.at += len;
        if (payload_u32(&r->p, &r->len) < 0)
                return -EBADMSG;
        s[len] = '\0';
        *ret = s;
        return 0;
}

static int read_strings(struct reader *r, char **v, uint32_t n)
{
        for (uint32_t i = 0; i < n; i++)
                if (read_string(r, &v[i]) < 0)
                        return -EBADMSG;
        v[n] = NULL;
        return 0;
}

static int read_text(struct reader *r, struct rootfs_text *ret, bool last)
{
        *ret = (struct rootfs_text){ .data = r->p.at, .len = r->len };
        r->p.at += r->len;
        return last ? 0 : payload_u32(&r->p, &r->len);
}

static int unpack(const struct child *c, struct unpacked *ret)
{
        struct reader r;
        int e = reader_start(&r, c);

        if (e == 0)
                e = read_strings(&r, c->argv, c->start->argc);
        if (e == 0)
                e = read_strings(&r, c->envp, c->start->envc);
        if (e == 0)
                e = read_text(&r, &ret->hostname, false);
        if (e == 0)
                e = read_string(&r, &ret->workdir);
        if (e == 0)
                e = read_text(&r, &ret->hosts, false);
        if (e == 0)
                e = read_text(&r, &ret->resolv, true);
        ret->secrets = r.p;
        for (uint32_t i = 0; e == 0 && i < 2 * c->start->n_secrets; i++)
                e = payload_next(&r.p, &(const uint8_t *){ NULL }, &(uint32_t){ 0 });
        ret->files = r.p;
        return e;
}

/* The next record as a string. */
static int copy_text(struct payload *p, char text[LAUNCH_TEXT_MAX])
{
        const uint8_t *data;
        uint32_t len;

        if (payload_next(p, &data, &len) < 0 || len >= LAUNCH_TEXT_MAX)
                return -EBADMSG;
        memcpy(text, data, len);
        text[len] = '\0';
        return 0;
}

static int place_file(struct payload *p, int root, const char *workdir, const struct files_owner *owner)
{
        char path[LAUNCH_TEXT_MAX], target[LAUNCH_TEXT_MAX];
        const uint8_t *data;
        uint32_t mode, len;

        if (payload_u32(p, &mode) < 0 || copy_text(p, path) < 0)
                return -EBADMSG;
        if (S_ISLNK(mode))
                return copy_text(p, target) < 0 ? -EBADMSG : files_place_link(root, workdir, path, target, owner);
        if (payload_next(p, &data, &len) < 0)
                return -EBADMSG;
        if (S_ISDIR(mode))
                return files_place_dir(root, workdir, path, mode & 07777, owner);
        return files_write(root, workdir, path, data, len, mode & 07777, owner);
}

/* ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int fd_of(const struct child *c, enum child_fd fd)
{
        return c->window + (int)fd;
}

static void make_root(const struct child *c, const struct unpacked *u)
{
        struct rootfs rootfs = {
                .upper = fd_of(c, CHILD_UPPER),
                .store = fd_of(c, CHILD_STORE),
                .overlay = c->slot->overlay < 0 ? -EBADF : fd_of(c, CHILD_OVERLAY),
                .pts = fd_of(c, CHILD_PTS),
                .shm = fd_of(c, CHILD_SHM),
                .tree = c->start->tree,
                .cgroup2 = c->cgroup->kind == LAUNCH_CGROUP_V2,
                .hostname = u->hostname,
                .hosts = u->hosts,
                .resolv = u->resolv,
                .secrets = u->secrets,
                .n_secrets = c->start->n_secrets,
                .base = c->slot->base,
                .uid = c->start->uid,
                .gid = c->start->gid,
        };

        at_stage(c, LAUNCH_STAGE_MOUNT);
        check(c, rootfs_mount(&rootfs));
        at_stage(c, LAUNCH_STAGE_IMAGE);
        check(c, rootfs_image(&rootfs));
        at_stage(c, LAUNCH_STAGE_KERNEL_FS);
        check(c, rootfs_kernel(&rootfs));
        at_stage(c, LAUNCH_STAGE_SECRETS);
        check(c, rootfs_secrets(&rootfs));
        at_stage(c, LAUNCH_STAGE_PIVOT);
        check(c, rootfs_pivot(&rootfs));
}

static void join(const struct child *c)
{
        check(c, sys_close_range(CHILD_WINDOW_END, UINT_MAX, CLOSE_RANGE_UNSHARE));
        at_stage(c, LAUNCH_STAGE_CGROUP);
        check(c, cgroup_enter(c->cgroup, fd_of(c, CHILD_ENTER)));
        if (c->cgroup->kind != LAUNCH_CGROUP_V2 && unshare(CLONE_NEWCGROUP) < 0)
                fail(c, -errno);
        at_stage(c, LAUNCH_STAGE_NET);
        if (setns(fd_of(c, CHILD_NETNS), CLONE_NEWNET) < 0)
                fail(c, -errno);
}

static void become_root(const struct child *c)
{
        at_stage(c, LAUNCH_STAGE_USER);
        check(c, privilege_rlimits());
        check(c, privilege_keyring());
        check(c, privilege_join(fd_of(c, CHILD_USERNS)));
}

static void place_files(const struct child *c, struct unpacked *u)
{
        struct files_owner owner = { c->start->uid, c->start->gid };
        int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        int dir = -EBADF;

        at_stage(c, LAUNCH_STAGE_WORKDIR);
        check(c, root < 0 ? -errno : files_make_dir(root, u->workdir, &owner, &dir));
        at_stage(c, LAUNCH_STAGE_FILES);
        for (uint32_t i = 0; i < c->start->n_files; i++)
                check(c, place_file(&u->files, root, u->workdir, &owner));
        at_stage(c, LAUNCH_STAGE_WORKDIR);
        check(c, files_chdir(dir));
}

/* The launcher keeps 0, 1 and 2 taken, and its own descriptors and the windows above what is used here. */
static void set_stdio(const struct child *c)
{
        unsigned first = 3;

        if (dup2(fd_of(c, CHILD_STDIN), 0) < 0 || dup2(fd_of(c, CHILD_STDOUT), 1) < 0 ||
            dup2(fd_of(c, CHILD_STDERR), 2) < 0)
                fail(c, -errno);
        if (c->init >= 0) {
                int init = fcntl(c->init, F_DUPFD_CLOEXEC, CHILD_WINDOW_END);

                if (init < 0 || dup2(fd_of(c, CHILD_INIT_REPORT), INIT_REPORT_FD) < 0 ||
                    dup3(init, INIT_PROGRAM_FD, O_CLOEXEC) < 0)
                        fail(c, -errno);
                first = INIT_PROGRAM_FD + 1;
        }
        check(c, sys_close_range(first, UINT_MAX, 0));
}

static int search(const struct child *c)
{
        const char *path = search_path(c->envp);
        char name[SEARCH_MAX];
        int report = ENOENT;

        if (!c->argv[0] || c->argv[0][0] == '\0')
                return -ENOENT;
        if (search_has_slash(c->argv[0])) {
                (void)execve(c->argv[0], c->argv, c->envp);
                return -errno;
        }
        while (path) {
                path = search_next(path, c->argv[0], name);
                (void)execve(name, c->argv, c->envp);
                if (!search_goes_on(errno, &report))
                        return -errno;
        }
        return -report;
}

_Noreturn void child_run(const void *arg)
{
        const struct child *c = arg;
        struct unpacked u = { .workdir = NULL };
        sigset_t none;

        join(c);
        check(c, unpack(c, &u));
        if (sethostname((const char *)u.hostname.data, u.hostname.len) < 0)
                fail(c, -errno);
        make_root(c, &u);
        become_root(c);
        place_files(c, &u);
        at_stage(c, LAUNCH_STAGE_PRIVILEGE);
        (void)setsid();
        set_stdio(c);
        check(c, privilege_drop(c->start));
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        check(c, privilege_seccomp());
        c->slot->report->exec_ns = time_mono_ns();
        at_stage(c, LAUNCH_STAGE_EXEC);
        if (c->init < 0)
                fail(c, search(c));
        fail(c, sys_execveat(INIT_PROGRAM_FD, "", c->argv, c->envp, AT_EMPTY_PATH));
}
