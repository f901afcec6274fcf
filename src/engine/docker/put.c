/* What Docker is given from files: images (POST /images/load), and archives into a container (PUT /containers/ID/archive). */

#include "engine/docker/internal.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PUT_TIMEOUT_S 3600

struct put {
        int fd;
        off_t at;
        struct docker_lines lines;
        struct err fault;
        engine_done_fn fn;
        void *data;
};

static void put_free(void *data)
{
        struct put *p = data;

        fd_close(p->fd);
        docker_lines_done(&p->lines);
        free(p);
}

static ssize_t on_send(void *buf, size_t max, void *data)
{
        struct put *p = data;
        ssize_t n;

        do
                n = pread(p->fd, buf, max, p->at);
        while (n < 0 && errno == EINTR);
        if (n > 0)
                p->at += n;
        return n < 0 ? -errno : n;
}

static int put_send(struct docker *d, struct docker_request *q, int fd, docker_call_fn answered, engine_done_fn fn,
                    void *data, struct err *err)
{
        struct stat st;
        struct put *p;
        int r;

        if (!d->up)
                return err_set(err, ENOTCONN, "%s", d->fault);
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return err_set(err, EINVAL, "an archive that is not a regular file");
        p = calloc(1, sizeof(*p));
        if (!p)
                return err_oom(err);
        *p = (struct put){ .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3), .fn = fn, .data = data };
        q->type = "application/x-tar";
        q->timeout_s = PUT_TIMEOUT_S;
        q->send = on_send;
        q->body_len = (size_t)st.st_size;
        q->drop = put_free;
        r = p->fd < 0 ? err_sys(err, "take over the descriptor of an archive")
                      : docker_call(d, q, answered, p, NULL, err);
        if (r < 0)
                put_free(p);
        return r;
}

/* ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* As in a pull, what is wrong stands in the stream (Engine API, ImageLoad). */
static void on_line(const json_t *line, void *data)
{
        struct put *p = data;
        const char *text = json_string_value(json_object_get(json_object_get(line, "errorDetail"), "message"));
        char shown[STR_SHOWN_MAX];

        if (!text)
                text = json_string_value(json_object_get(line, "error"));
        if (text && !p->fault.num)
                (void)err_set(&p->fault, EBADMSG, "load: %s", str_show(text, shown));
}

static int on_load_data(struct docker_call *call, const void *bytes, size_t len, void *data)
{
        struct put *p = data;

        (void)call;
        return docker_lines_feed(&p->lines, bytes, len, on_line, p);
}

static int load_error(unsigned status, const char *text)
{
        (void)text;
        return status == 400 ? -EBADMSG : -EREMOTEIO;
}

static void on_loaded(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct put *p = data;
        struct err fault = ERR_INIT;

        r = docker_call_result(call, r, err, "load", load_error, &fault);
        if (r == 0) {
                docker_lines_end(&p->lines, on_line, p);
                fault = p->fault;
                r = -p->fault.num;
        }
        p->fn(r, &fault, p->data);
        put_free(p);
}

int engine_docker_load(struct engine *e, int tar_fd, engine_done_fn fn, void *data, struct err *err)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);
        struct docker_request q = { .method = "POST", .path = "/images/load?quiet=true", .on_data = on_load_data };

        return put_send(d, &q, tar_fd, on_loaded, fn, data, err);
}

/* ── archives ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_put(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct put *p = data;
        struct err fault = ERR_INIT;

        r = docker_call_result(call, r, err, "copy", docker_copy_error, &fault);
        p->fn(r, &fault, p->data);
        put_free(p);
}

int docker_container_copy_in(struct engine_container *base, const char *path, int tar_fd, engine_done_fn fn, void *data,
                             struct err *err)
{
        struct docker_container *c = CONTAINER_OF(base, struct docker_container, base);
        struct docker_request q = { .method = "PUT" };
        auto_str url = STR_INIT;

        if (!c->created || c->state == DOCKER_CREATING)
                return err_set(err, ESRCH, "container %s was not started", c->id);
        if (!path[0] || strlen(path) > ENGINE_PATH_MAX)
                return err_set(err, EINVAL, "a path of no bytes or more than %d", ENGINE_PATH_MAX);
        if (docker_archive_path(c, path, &url) < 0)
                return err_oom(err);
        q.path = url.data;
        return put_send(c->docker, &q, tar_fd, on_put, fn, data, err);
}
