/* Archives out of a container: GET /containers/ID/archive, read as it comes, and written again without what does not belong
 * into it; so what a hostile container makes of it reaches nobody. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/tar.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define COPY_PENDING_MAX (256 * 1024)

struct copy {
        struct docker *docker;
        struct docker_call *call;
        struct tar_reader reader;
        struct tar_writer writer;
        struct str pending;
        size_t written;
        uint64_t bytes, max_bytes;
        uint32_t entries, max_entries;
        bool skip, ended;
        bool answered; /* Docker has sent all of it */
        bool looked;
        char *link, *name; /* where it leads, when that is all that is copied */
        int fd, r;
        struct loop_io *io;
        engine_done_fn fn;
        void *data;
};

static void copy_free(struct copy *k)
{
        loop_io_remove(k->io);
        fd_close(k->fd);
        str_done(&k->pending);
        free(k->link);
        free(k->name);
        free(k);
}

static void copy_drop(void *data)
{
        copy_free(data);
}

static void copy_answer(struct copy *k, int r, const struct err *err)
{
        k->fn(r, err, k->data);
        copy_free(k);
}

static int to_pending(const void *bytes, size_t len, void *data)
{
        struct copy *k = data;

        k->bytes += len;
        if (k->bytes > k->max_bytes)
                return -EFBIG;
        return str_add(&k->pending, bytes, len);
}

static int copy_piece(struct copy *k, const struct tar_piece *p)
{
        if (p->event == TAR_MEMBER) {
                enum tar_kind kind = p->member.kind;

                k->skip = kind == TAR_KIND_CHARACTER || kind == TAR_KIND_BLOCK || kind == TAR_KIND_UNKNOWN;
                if (k->skip)
                        return 0;
                if (++k->entries > k->max_entries)
                        return -E2BIG;
                return tar_write_member(&k->writer, &p->member);
        }
        return p->event == TAR_CONTENT && !k->skip ? tar_write_content(&k->writer, p->data, p->len) : 0;
}

/* 0: all is written; 1: the pipe is full. */
static int copy_flush(struct copy *k)
{
        while (k->written < k->pending.len) {
                struct pollfd p = { .fd = k->fd, .events = POLLOUT };
                ssize_t n;

                if (poll(&p, 1, 0) == 0)
                        return 1;
                /* A pipe that is ready takes that much at once (pipe(7)). */
                n = write(k->fd, k->pending.data + k->written, MIN(k->pending.len - k->written, (size_t)PIPE_BUF));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                k->written += (size_t)n;
        }
        str_clear(&k->pending);
        k->written = 0;
        return 0;
}

static void copy_finish(struct copy *k)
{
        struct err err = ERR_INIT;

        if (k->r < 0)
                (void)err_set(&err, -k->r, "copy: %s", strerror(-k->r));
        copy_answer(k, k->r, &err);
}

static void on_room(struct loop_io *io, uint32_t events, void *data)
{
        struct copy *k = data;
        int r = copy_flush(k);

        (void)events;
        if (r == 1)
                return;
        if (k->r == 0)
                k->r = r;
        if (k->answered) {
                copy_finish(k);
                return;
        }
        (void)loop_io_set(io, 0);
        fetch_resume(k->call->fetch);
}

static int copy_wait(struct copy *k)
{
        if (k->io)
                return loop_io_set(k->io, EPOLLOUT);
        return loop_io_add(k->docker->loop, k->fd, EPOLLOUT, on_room, k, &k->io, NULL);
}

/* ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define STAT_LINK (INT64_C(1) << 27) /* Go's os.ModeSymlink */

char *docker_stat_link(const char *stat)
{
        auto_str text = STR_INIT;
        auto_json o = NULL;
        const char *target;

        if (!stat || base64_decode(&text, stat, strlen(stat)) < 0 || text.len == 0 ||
            json_read(text.data, text.len, &o, NULL) < 0 ||
            !(json_integer_value(json_object_get(o, "mode")) & STAT_LINK))
                return NULL;
        target = json_string_value(json_object_get(o, "linkTarget"));
        return target && target[0] ? strdup(target) : NULL;
}

/* Podman sends what a link leads to, or 404 where that is nothing, and tells of the link in a header. */
static void look_for_link(struct copy *k, const char *stat)
{
        if (k->docker->podman && !k->link)
                k->link = docker_stat_link(stat);
        k->looked = true;
}

static int write_link(struct copy *k)
{
        const struct tar_member m = { .kind = TAR_KIND_SYMLINK, .path = k->name, .target = k->link, .mode = 0777 };

        if (strlen(k->name) > TAR_NAME_MAX || strlen(k->link) > TAR_NAME_MAX)
                return -ENAMETOOLONG;
        return tar_write_member(&k->writer, &m);
}

static char *name_of(const char *path)
{
        size_t end = strlen(path), begin;

        while (end > 0 && path[end - 1] == '/')
                end--;
        begin = end;
        while (begin > 0 && path[begin - 1] != '/')
                begin--;
        return strndup(path + begin, end - begin);
}

static int on_archive(struct docker_call *call, const void *bytes, size_t len, void *data)
{
        struct copy *k = data;
        struct tar_piece p = { .event = TAR_MORE };
        int r = k->r;

        if (!k->looked)
                look_for_link(k, fetch_header(call->fetch, DOCKER_STAT));
        if (k->link)
                return 0;
        if (r == 0 && k->pending.len > COPY_PENDING_MAX)
                return FETCH_PAUSE;
        while (r == 0 && !k->ended) {
                r = tar_reader_next(&k->reader, &bytes, &len, &p, NULL);
                if (r == 0 && p.event == TAR_MORE)
                        break;
                k->ended = p.event == TAR_END;
                if (r == 0)
                        r = copy_piece(k, &p);
        }
        if (r == 0)
                r = copy_flush(k);
        if (r == 1)
                r = copy_wait(k);
        if (r < 0)
                k->r = r;
        return r;
}

int docker_copy_error(unsigned status, const char *text)
{
        if (status == 404)
                return strcasestr(text, "no such container") ? -ESRCH : -ENOENT;
        if (strstr(text, "not a directory"))
                return -ENOTDIR;
        if (strstr(text, "too many levels"))
                return -ELOOP;
        if (strstr(text, "name too long"))
                return -ENAMETOOLONG;
        return status == 403 ? -EACCES : -EREMOTEIO;
}

static int refused(const struct docker_call *call)
{
        char text[200];

        docker_call_message(call, text, sizeof(text));
        return docker_copy_error(call->status, text);
}

static void on_copied(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct copy *k = data;

        (void)err;
        k->call = NULL;
        k->answered = true;
        look_for_link(k, call->kept);
        if (k->r == 0 && r == 0 && k->link)
                k->r = write_link(k);
        else if (k->r == 0)
                k->r = r < 0 ? r : call->status == 200 ? tar_reader_finish(&k->reader, NULL) : refused(call);
        if (k->r == 0)
                k->r = tar_write_end(&k->writer);
        if (k->r == 0) {
                r = copy_flush(k);
                if (r == 1)
                        r = copy_wait(k);
                else if (r == 0)
                        r = -EALREADY;
                if (r == 0)
                        return;
                k->r = r == -EALREADY ? 0 : r;
        }
        copy_finish(k);
}

int docker_archive_path(const struct docker_container *c, const char *path, struct str *out)
{
        static const char digits[] = "0123456789ABCDEF";
        auto_free char *whole = path[0] == '/' ? strdup(path) : str_printf("%s/%s", c->workdir, path);
        int r = whole ? str_addf(out, "/containers/%s/archive?path=", c->name) : -ENOMEM;

        for (const unsigned char *p = (const unsigned char *)whole; r == 0 && *p; p++) {
                const char hex[] = { '%', digits[*p >> 4], digits[*p & 15] };

                r = str_add(out, hex, sizeof(hex));
        }
        return r;
}

int docker_container_copy_out(struct engine_container *base, const char *path, const struct engine_copy_limits *limits,
                              int tar_fd, engine_done_fn fn, void *data, struct err *err)
{
        struct docker_container *c = CONTAINER_OF(base, struct docker_container, base);
        uint64_t seconds = (limits->timeout_ns + NS_PER_S - 1) / NS_PER_S;
        struct docker_request q = { .method = "GET", .on_data = on_archive, .keep = DOCKER_STAT, .drop = copy_drop };
        auto_str url = STR_INIT;
        struct copy *k;
        int r;

        if (c->state < DOCKER_RUNNING || c->start_ns == 0)
                return err_set(err, ESRCH, "container %s was not started", c->id);
        if (limits->bytes == 0 || limits->entries == 0 || limits->timeout_ns == 0)
                return err_set(err, EINVAL, "a copy without bounds");
        if (!path[0] || strlen(path) > ENGINE_PATH_MAX)
                return err_set(err, EINVAL, "a path of no bytes or more than %d", ENGINE_PATH_MAX);
        k = calloc(1, sizeof(*k));
        if (!k || docker_archive_path(c, path, &url) < 0) {
                free(k);
                return err_oom(err);
        }
        *k = (struct copy){
                .docker = c->docker, .max_bytes = limits->bytes, .max_entries = limits->entries, .fn = fn, .data = data
        };
        k->name = name_of(path);
        tar_reader_init(&k->reader, NULL);
        k->writer = (struct tar_writer){ .fn = to_pending, .data = k };
        k->fd = fcntl(tar_fd, F_DUPFD_CLOEXEC, 3);
        q.path = url.data;
        q.timeout_s = (unsigned)MIN(seconds, (uint64_t)INT_MAX);
        r = k->fd < 0 ? err_sys(err, "take over the descriptor of a copy") : k->name ? 0 : err_oom(err);
        if (r == 0)
                r = docker_call(c->docker, &q, on_copied, k, &k->call, err);
        if (r < 0)
                copy_free(k);
        return r;
}
