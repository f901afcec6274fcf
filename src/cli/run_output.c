#include "cli/run_output.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE_MASK 0777 /* no set-user-id, no set-group-id */

static const struct {
        const char *error, *text;
        int num;
} reasons[] = {
        { "not_found", "the task left no such file", ENOENT },
        { "too_large", "it is larger than what an answer can hold (32 MiB); write it to stdout instead", EFBIG },
        { "not_allowed", "it is not for bringing out", EPERM },
        { "not_supported", "the engine cannot bring files out", ENOTSUP },
        { "timeout", "it took too long to read", ETIMEDOUT },
};

static int failed(const struct wire_output *o, struct err *err)
{
        for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
                if (str_eq(reasons[i].error, o->error))
                        return err_set(err, reasons[i].num, "%s", reasons[i].text);
        return err_set(err, EIO, "%s", o->error);
}

/* HOST, or HOST/NAME where HOST is a directory. */
static char *destination(const char *host, const char *path)
{
        const char *base = strrchr(path, '/');
        struct stat st;

        base = base ? base + 1 : path;
        if (str_ends(host, "/"))
                return str_printf("%s%s", host, base);
        if (stat(host, &st) == 0 && S_ISDIR(st.st_mode))
                return str_printf("%s/%s", host, base);
        return strdup(host);
}

static int write_new(int dirfd, const char *name, mode_t mode, const void *data, size_t len, struct err *err)
{
        auto_fd fd = -EBADF;
        int r;

        fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "%s", name);
        r = len ? fd_write_all(fd, data, len) : 0;
        if (r == 0 && fchmod(fd, mode & MODE_MASK) < 0)
                r = -errno;
        return r < 0 ? err_set(err, -r, "%s: %s", name, strerror(-r)) : 0;
}

/* A device, a pipe of the caller's own, or a name that stands for a descriptor: replaced, /dev/null would be a file for all. */
static bool is_written_itself(const char *to)
{
        struct stat st;

        if (str_starts(to, "/dev/") || str_starts(to, "/proc/"))
                return stat(to, &st) == 0;
        return lstat(to, &st) == 0 &&
               (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) || (S_ISFIFO(st.st_mode) && st.st_uid == geteuid()));
}

static int write_itself(const char *to, const struct wire_output *o, struct err *err)
{
        auto_fd fd = open(to, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        int r;

        if (fd < 0)
                return err_sys(err, "%s", to);
        r = o->len ? fd_write_all(fd, o->data, o->len) : 0;
        return r < 0 ? err_set(err, -r, "%s: %s", to, strerror(-r)) : 0;
}

/* What is there is replaced whole, by a rename: a link that stands there is not written through. */
static int write_file(const char *to, const struct wire_output *o, struct err *err)
{
        auto_free char *temporary = str_printf("%s.mayfly-%d", to, (int)getpid());
        int r;

        if (!temporary)
                return err_oom(err);
        if (is_written_itself(to))
                return write_itself(to, o, err);
        r = write_new(AT_FDCWD, temporary, o->mode, o->data, o->len, err);
        if (r == 0 && rename(temporary, to) < 0)
                r = err_sys(err, "%s", to);
        if (r < 0)
                (void)unlink(temporary);
        return r;
}

/* ── a directory ─────────────────────────────────────────────────────────────────────────────────────────────────── */

#define ROOT "out" /* below it wire_members_read() puts what it reads */

/* Members are named NAME/…, after what was asked for; what they are called here is the caller's choice. */
static const char *inside(const char *path)
{
        const char *slash = strchr(path + sizeof(ROOT), '/');

        return slash ? slash + 1 : NULL;
}

static int put_member(int root, const struct wire_member *m, const char *path, struct err *err)
{
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        auto_free char *parent = strndup(path, slash ? (size_t)(slash - path) : 0);
        auto_fd dir = -EBADF;
        int r;

        if (!parent)
                return err_oom(err);
        if (!path_name_valid(name))
                return err_set(err, EINVAL, "'%s' is no name", name);
        r = *parent                                       ? path_mkdirs_in(root, parent, 0755, &dir)
            : (dir = fcntl(root, F_DUPFD_CLOEXEC, 3)) < 0 ? -errno
                                                          : 0;
        if (r < 0)
                return err_set(err, -r, "%s: %s", parent, strerror(-r));
        if (m->type == WIRE_MEMBER_DIRECTORY) {
                if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
                        return err_sys(err, "%s", path);
                return 0;
        }
        if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
                return err_sys(err, "%s", path);
        if (m->type == WIRE_MEMBER_SYMLINK)
                return symlinkat(m->target, dir, name) < 0 ? err_sys(err, "%s", path) : 0;
        return write_new(dir, name, m->mode, m->data, m->len, err);
}

/* Modes of directories come last: one that is read-only could not be filled. */
static int set_mode(int root, const struct wire_member *m, const char *path, struct err *err)
{
        auto_fd fd = -EBADF;

        if (m->type != WIRE_MEMBER_DIRECTORY)
                return 0;
        fd = path_open_in(root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
        if (fd < 0 || fchmod(fd, m->mode & MODE_MASK) < 0)
                return err_sys(err, "%s", path);
        return 0;
}

static int unpack(const char *to, const struct wire_members *members, struct err *err)
{
        auto_fd root = -EBADF;
        int r = 0;

        if (mkdir(to, 0755) < 0 && errno != EEXIST)
                return err_sys(err, "%s", to);
        root = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return err_sys(err, "%s", to);
        for (size_t i = 0; i < members->len && r == 0; i++) {
                const char *path = inside(members->items[i].path);

                r = path && *path ? put_member(root, &members->items[i], path, err) : 0;
        }
        for (size_t i = members->len; i > 0 && r == 0; i--) {
                const char *path = inside(members->items[i - 1].path);

                r = path && *path ? set_mode(root, &members->items[i - 1], path, err) : 0;
        }
        return r;
}

static int write_directory(const char *to, const struct wire_output *o, struct err *err)
{
        const struct wire_file archive = {
                .content = o->data, .len = o->len, .tar = true, .path = (char *)(uintptr_t)ROOT
        };
        struct wire_members members = { .items = NULL };
        int r;

        r = wire_members_read(&archive, WIRE_MEMBERS_MAX, &members, err);
        if (r == 0)
                r = unpack(to, &members, err);
        wire_members_done(&members);
        return r;
}

int run_write_output(const char *spec, const struct wire_output *o, struct err *err)
{
        const char *colon = strrchr(spec, ':');
        auto_free char *path = NULL, *to = NULL;
        int r;

        if (!colon)
                return err_set(err, EINVAL, "'%s' is not PATH:HOST", spec);
        /* Named after what was asked for, whatever the answer calls it. */
        path = strndup(spec, (size_t)(colon - spec));
        to = path ? destination(colon + 1, path) : NULL;
        if (!to)
                return err_oom(err);
        if (o->error)
                r = failed(o, err);
        else if (o->type == WIRE_OUTPUT_SYMLINK)
                r = err_set(err, ELOOP, "it is a symbolic link; name what it leads to");
        else if (o->type == WIRE_OUTPUT_DIRECTORY)
                r = write_directory(to, o, err);
        else
                r = write_file(to, o, err);
        return r < 0 ? err_wrap(err, "--output %s", spec) : 0;
}
