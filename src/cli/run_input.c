#include "cli/run_input.h"

#include "base/fd.h"
#include "base/tar.h"
#include "base/vec.h"
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_PIECE ((size_t)64 * 1024)
#define DEPTH_MAX 64

static int read_all(int fd, size_t max, struct str *ret, struct err *err)
{
        for (;;) {
                ssize_t n;

                if (str_reserve(ret, READ_PIECE) < 0)
                        return err_oom(err);
                n = read(fd, ret->data + ret->len, READ_PIECE);
                if (n < 0 && (errno != EINTR || cli_aborted))
                        return err_sys(err, "read");
                if (n == 0)
                        return 0;
                ret->len += n > 0 ? (size_t)n : 0;
                ret->data[ret->len] = '\0';
                if (ret->len > max)
                        return err_set(err, EFBIG, "more than %zu MiB, which is what a request can hold", max >> 20);
        }
}

int run_read_stdin(int fd, struct wire_task_request *request, struct err *err)
{
        auto_str data = STR_INIT;
        int r;

        r = read_all(fd, WIRE_BODY_MAX, &data, err);
        if (r < 0)
                return err_wrap(err, "stdin");
        request->stdin_len = data.len;
        request->stdin_data = str_take(&data);
        return request->stdin_data ? 0 : err_oom(err);
}

/* ── a directory as tar ──────────────────────────────────────────────────────────────────────────────────────────── */

struct packing {
        struct str archive;
        struct tar_writer writer;
        const char *host; /* what was named, for messages */
};

static int append(const void *bytes, size_t len, void *data)
{
        struct packing *p = data;

        if (p->archive.len + len > WIRE_BODY_MAX)
                return -EFBIG;
        return str_add(&p->archive, bytes, len);
}

static int packing_error(const struct packing *p, int r, const char *path, struct err *err)
{
        if (r == -EFBIG)
                return err_set(err, EFBIG, "%s: more than %d MiB, which is what a request can hold", p->host,
                               WIRE_BODY_MAX >> 20);
        return err_set(err, -r, "%s/%s: %s", p->host, path, strerror(-r));
}

static int pack_link(struct packing *p, int dirfd, const char *name, const char *path, const struct stat *st,
                     struct err *err)
{
        char target[TAR_NAME_MAX + 1];
        ssize_t n = readlinkat(dirfd, name, target, sizeof(target));
        struct tar_member m = {
                .kind = TAR_KIND_SYMLINK, .path = path, .target = target, .mode = 0777, .mtime = st->st_mtime
        };
        int r;

        if (n < 0 || (size_t)n == sizeof(target))
                return err_set(err, n < 0 ? errno : ENAMETOOLONG, "%s/%s: a link that cannot be read", p->host, path);
        target[n] = '\0';
        r = tar_write_member(&p->writer, &m);
        return r < 0 ? packing_error(p, r, path, err) : 0;
}

static int pack_file(struct packing *p, int dirfd, const char *name, const char *path, struct err *err)
{
        struct tar_member m = { .kind = TAR_KIND_FILE, .path = path, .target = "" };
        auto_str data = STR_INIT;
        auto_fd fd = -EBADF;
        struct stat st;
        int r;

        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "%s/%s", p->host, path);
        r = read_all(fd, WIRE_BODY_MAX, &data, err);
        if (r < 0)
                return err_wrap(err, "%s/%s", p->host, path);
        m.mode = st.st_mode & 07777;
        m.mtime = st.st_mtime;
        m.size = data.len;
        r = tar_write_member(&p->writer, &m);
        if (r == 0)
                r = tar_write_content(&p->writer, data.data ? data.data : "", data.len);
        return r < 0 ? packing_error(p, r, path, err) : 0;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* In one order always: an idempotency key compares the bytes of requests. */
static int read_names(int fd, char ***ret, struct err *err)
{
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *e;
        int r = 0;

        if (!dir) {
                fd_close(copy);
                return err_sys(err, "read a directory");
        }
        while (r == 0 && (e = readdir(dir)))
                if (!str_eq(e->d_name, ".") && !str_eq(e->d_name, ".."))
                        r = strv_add(ret, e->d_name) < 0 ? err_oom(err) : 0;
        (void)closedir(dir);
        if (*ret)
                qsort(*ret, strv_len(*ret), sizeof(**ret), by_name);
        return r;
}

static int pack_dir(struct packing *p, int dirfd, const char *name, const char *path, unsigned depth, struct err *err);

static int pack(struct packing *p, int dirfd, const char *name, const char *path, unsigned depth, struct err *err)
{
        struct stat st;

        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, "%s/%s", p->host, path);
        if (S_ISDIR(st.st_mode))
                return pack_dir(p, dirfd, name, path, depth, err);
        if (S_ISREG(st.st_mode))
                return pack_file(p, dirfd, name, path, err);
        if (S_ISLNK(st.st_mode))
                return pack_link(p, dirfd, name, path, &st, err);
        return err_set(err, EINVAL, "%s/%s is neither a file, a directory nor a link", p->host, path);
}

static int pack_dir(struct packing *p, int dirfd, const char *name, const char *path, unsigned depth, struct err *err)
{
        struct tar_member m = { .kind = TAR_KIND_DIRECTORY, .path = path, .target = "" };
        auto_strv names = NULL;
        auto_fd fd = -EBADF;
        struct stat st;
        int r;

        if (depth == DEPTH_MAX)
                return err_set(err, ELOOP, "%s: deeper than %d directories", p->host, DEPTH_MAX);
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (depth ? O_NOFOLLOW : 0));
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "%s/%s", p->host, path);
        m.mode = st.st_mode & 07777;
        m.mtime = st.st_mtime;
        r = tar_write_member(&p->writer, &m);
        if (r < 0)
                return packing_error(p, r, path, err);
        r = read_names(fd, &names, err);
        for (size_t i = 0; names && names[i] && r == 0; i++) {
                auto_free char *below = str_eq(path, ".") ? strdup(names[i]) : str_printf("%s/%s", path, names[i]);

                r = below ? pack(p, fd, names[i], below, depth + 1, err) : err_oom(err);
        }
        return r;
}

/* ── --copy ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct wire_file *add_file(struct wire_task_request *request, const char *path, struct err *err)
{
        struct wire_file *files;

        if (request->n_files == WIRE_FILES_MAX) {
                (void)err_set(err, E2BIG, "more than %d files: copy their directory", WIRE_FILES_MAX);
                return NULL;
        }
        files = realloc(request->files, (request->n_files + 1) * sizeof(*files));
        if (!files) {
                (void)err_oom(err);
                return NULL;
        }
        request->files = files;
        files += request->n_files++;
        *files = (struct wire_file){ .path = strdup(path) };
        if (!files->path)
                (void)err_oom(err);
        return files->path ? files : NULL;
}

static int take_content(struct wire_file *file, struct str *data, struct err *err)
{
        file->len = data->len;
        file->content = str_take(data);
        return file->content ? 0 : err_oom(err);
}

static int copy_dir(const char *host, const char *path, struct wire_task_request *request, struct err *err)
{
        struct packing p = { .writer = { .fn = append }, .host = host };
        struct wire_file *file;
        int r;

        p.writer.data = &p;
        r = pack_dir(&p, AT_FDCWD, host, ".", 0, err);
        if (r == 0 && tar_write_end(&p.writer) < 0)
                r = err_set(err, EFBIG, "%s: does not fit into a request", host);
        file = r == 0 ? add_file(request, path, err) : NULL;
        if (file) {
                file->tar = true;
                r = take_content(file, &p.archive, err);
        }
        str_done(&p.archive);
        return file ? r : r < 0 ? r : -ENOMEM;
}

static int copy_file(int fd, const struct stat *st, const char *host, const char *path,
                     struct wire_task_request *request, struct err *err)
{
        auto_str data = STR_INIT;
        struct wire_file *file;
        int r;

        r = read_all(fd, WIRE_BODY_MAX, &data, err);
        if (r < 0)
                return err_wrap(err, "%s", host);
        file = add_file(request, path, err);
        if (!file)
                return -ENOMEM;
        file->mode = st->st_mode & 07777;
        return take_content(file, &data, err);
}

int run_copy(const char *spec, struct wire_task_request *request, struct err *err)
{
        const char *colon = strrchr(spec, ':'), *base;
        auto_free char *host = NULL, *path = NULL;
        auto_fd fd = -EBADF;
        struct stat st;

        if (!colon || colon == spec || !colon[1])
                return err_set(err, EINVAL, "--copy: '%s' is not HOST:PATH", spec);
        host = strndup(spec, (size_t)(colon - spec));
        if (!host)
                return err_oom(err);
        while (strlen(host) > 1 && host[strlen(host) - 1] == '/')
                host[strlen(host) - 1] = '\0';
        base = strrchr(host, '/');
        base = base ? base + 1 : host;
        path = str_ends(colon, "/") ? str_printf("%s%s", colon + 1, base) : strdup(colon + 1);
        if (!path)
                return err_oom(err);
        fd = open(host, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "--copy: open %s", host);
        if (S_ISDIR(st.st_mode))
                return copy_dir(host, path, request, err);
        if (!S_ISREG(st.st_mode))
                return err_set(err, EINVAL, "--copy: %s is neither a file nor a directory", host);
        return copy_file(fd, &st, host, path, request, err);
}
