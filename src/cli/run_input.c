#include "cli/run_input.h"

#include "base/fd.h"
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_PIECE ((size_t)64 * 1024)
#define DEPTH_MAX 32

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

/* ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int add_file(int fd, const struct stat *st, const char *host, const char *path,
                    struct wire_task_request *request, struct err *err)
{
        auto_str data = STR_INIT;
        struct wire_file *files;
        int r;

        if (request->n_files == WIRE_FILES_MAX)
                return err_set(err, E2BIG, "more than %d files; pack them with tar and send that by -i",
                               WIRE_FILES_MAX);
        r = read_all(fd, WIRE_BODY_MAX, &data, err);
        if (r < 0)
                return err_wrap(err, "%s", host);
        files = realloc(request->files, (request->n_files + 1) * sizeof(*files));
        if (!files)
                return err_oom(err);
        request->files = files;
        files += request->n_files++;
        *files = (struct wire_file){ .path = strdup(path), .len = data.len, .mode = st->st_mode & 07777 };
        files->content = str_take(&data);
        return files->path && files->content ? 0 : err_oom(err);
}

static int add_any(int dirfd, const char *name, const char *host, const char *path, unsigned depth,
                   struct wire_task_request *request, struct err *err);

static int add_dir(int fd, const char *host, const char *path, unsigned depth, struct wire_task_request *request,
                   struct err *err)
{
        struct dirent *e;
        DIR *dir;
        int r = 0;

        if (depth == DEPTH_MAX)
                return err_set(err, ELOOP, "%s: deeper than %d directories", host, DEPTH_MAX);
        dir = fdopendir(dup(fd));
        if (!dir)
                return err_sys(err, "read %s", host);
        while (r == 0 && (e = readdir(dir))) {
                auto_free char *below = NULL, *to = NULL;

                if (str_eq(e->d_name, ".") || str_eq(e->d_name, ".."))
                        continue;
                below = str_printf("%s/%s", host, e->d_name);
                to = str_printf("%s/%s", path, e->d_name);
                r = below && to ? add_any(fd, e->d_name, below, to, depth + 1, request, err) : err_oom(err);
        }
        (void)closedir(dir);
        return r;
}

/* Links below a directory are refused: what they name may be meant or not. */
static int add_any(int dirfd, const char *name, const char *host, const char *path, unsigned depth,
                   struct wire_task_request *request, struct err *err)
{
        auto_fd fd = -EBADF;
        struct stat st;

        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (depth ? O_NOFOLLOW : 0));
        if (fd < 0 && errno == ELOOP)
                return err_set(err, ELOOP, "%s is a symbolic link; only files and directories can be copied", host);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "open %s", host);
        if (S_ISDIR(st.st_mode))
                return add_dir(fd, host, path, depth, request, err);
        if (!S_ISREG(st.st_mode))
                return err_set(err, EINVAL, "%s is neither a file nor a directory", host);
        return add_file(fd, &st, host, path, request, err);
}

int run_copy(const char *spec, struct wire_task_request *request, struct err *err)
{
        const char *colon = strrchr(spec, ':'), *base;
        auto_free char *host = NULL, *path = NULL;

        if (!colon || colon == spec || !colon[1])
                return err_set(err, EINVAL, "--copy: '%s' is not HOST:PATH", spec);
        host = strndup(spec, (size_t)(colon - spec));
        if (!host)
                return err_oom(err);
        base = strrchr(host, '/');
        base = base ? base + 1 : host;
        path = str_ends(colon, "/") ? str_printf("%s%s", colon + 1, base) : strdup(colon + 1);
        if (!path)
                return err_oom(err);
        return add_any(AT_FDCWD, host, host, path, 0, request, err);
}
