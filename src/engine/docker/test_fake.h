/* A small Docker of our own, on the loop of the driver that is tested, and what the tests do with both. */
#pragma once
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-const-variable"

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/tar.h"
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define TURNS 4000
#define CONNS 64

/* ── the fake ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The first that matches and is not used up. `status` 0: closes without a word; 101: the attach, whose frames follow the start. */
struct answer {
        const char *request; /* a part of "METHOD /path" */
        int times;           /* -1: ever */
        unsigned status;
        const char *body; /* NULL: fake.logged */
        size_t len;       /* 0: a string */
        const char *header;
};

struct conn {
        struct fake *fake;
        struct loop_io *io;
        int fd;
        struct str in;
};

struct fake {
        struct loop *loop;
        struct loop_io *io;
        int fd;
        struct answer answers[32];
        size_t n;
        struct str log;             /* lines of requests */
        struct str created, filled; /* the last bodies of a create call, and of an archive */
        struct conn conns[CONNS];
        struct conn *attached;
        const char *frames, *logged;
        size_t frames_len, logged_len;
        struct conn *attaches[4]; /* that were answered, since hold_open() */
        size_t n_attaches;
        bool hold;        /* the start is answered, and nothing follows */
        struct str stdin; /* of the one that has ended last */
};

static const struct answer usual[] = {
        { .request = "GET /version",
          .times = -1,
          .status = 200,
          .body = "{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\",\"Version\":\"20.10.24\"}" },
        { .request = "/info",
          .times = -1,
          .status = 200,
          .body = "{\"SecurityOptions\":[\"name=seccomp\",\"name=userns\"],\"LiveRestoreEnabled\":true,\"OSType\":"
                  "\"linux\"}" },
        { .request = "GET /v1.41/containers/json", .times = -1, .status = 200, .body = "[]" },
        { .request = "GET /v1.41/images/",
          .times = -1,
          .status = 200,
          .body = "{\"Id\":\"" DIGEST "\",\"Config\":{}}" },
        { .request = "POST /v1.41/containers/create",
          .times = -1,
          .status = 201,
          .body = "{\"Id\":\"x\",\"Warnings\":[]}" },
        { .request = "/attach?", .times = -1, .status = 101, .body = "" },
        { .request = "/start", .times = -1, .status = 204, .body = "" },
        { .request = "/wait", .times = -1, .status = 200, .body = "{\"StatusCode\":3}" },
        { .request = "DELETE /v1.41/containers/", .times = -1, .status = 204, .body = "" },
};

static void conn_close(struct conn *c)
{
        loop_io_remove(c->io);
        c->io = NULL;
        fd_replace(&c->fd, -EBADF);
        if (c->fake->attached == c) {
                c->fake->attached = NULL;
                str_done(&c->fake->stdin);
                c->fake->stdin = c->in;
                c->in = (struct str)STR_INIT;
        }
        str_done(&c->in);
}

static void fake_write(struct conn *c, const char *data, size_t len)
{
        assert_int_equal(send(c->fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void fake_answer(struct conn *c, const struct answer *a)
{
        auto_str out = STR_INIT;

        if (a->status == 0) {
                conn_close(c);
                return;
        }
        if (a->status == 101) {
                (void)str_adds(&out, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
                c->fake->attached = c;
                if (c->fake->n_attaches < ARRAY_LEN(c->fake->attaches))
                        c->fake->attaches[c->fake->n_attaches++] = c;
        } else if (a->status == 204) {
                (void)str_adds(&out, "HTTP/1.1 204 No Content\r\n\r\n");
        } else {
                size_t len = !a->body ? c->fake->logged_len : a->len ? a->len : strlen(a->body);

                (void)str_addf(&out, "HTTP/1.1 %u X\r\n%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                               a->status, a->header ? a->header : "", len);
                (void)str_add(&out, a->body ? a->body : c->fake->logged, len);
        }
        fake_write(c, out.data, out.len);
        if (strstr(a->request, "/start") && a->status == 204 && c->fake->attached && !c->fake->hold) {
                fake_write(c->fake->attached, c->fake->frames, c->fake->frames_len);
                conn_close(c->fake->attached);
        }
}

static void fake_keep(struct fake *f, const char *line, const char *body, size_t len)
{
        struct str *to = strstr(line, "/containers/create?") ? &f->created
                         : str_starts(line, "PUT ")          ? &f->filled
                                                             : NULL;

        if (!to)
                return;
        str_clear(to);
        assert_int_equal(str_add(to, body, len), 0);
}

static void fake_request(struct conn *c, const char *line)
{
        struct fake *f = c->fake;

        assert_int_equal(str_addf(&f->log, "%s\n", line), 0);
        if (strstr(line, "/events"))
                return; /* it stays open */
        for (size_t i = 0; i < f->n; i++) {
                if (!strstr(line, f->answers[i].request) || f->answers[i].times == 0)
                        continue;
                if (f->answers[i].times > 0)
                        f->answers[i].times--;
                fake_answer(c, &f->answers[i]);
                return;
        }
        fail_msg("nobody expects '%s'", line);
}

static void on_readable(struct loop_io *io, uint32_t events, void *data)
{
        struct conn *c = data;
        char buf[16384], *end, *length;
        size_t need;
        ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

        (void)io;
        (void)events;
        if (n <= 0) {
                if (n == 0 || errno != EAGAIN)
                        conn_close(c);
                return;
        }
        assert_int_equal(str_add(&c->in, buf, (size_t)n), 0);
        while (c->io && c->in.len > 0 && (end = strstr(c->in.data, "\r\n\r\n"))) {
                auto_free char *line = strndup(c->in.data, strcspn(c->in.data, "\r"));

                length = strcasestr(c->in.data, "content-length:");
                need = (size_t)(end + 4 - c->in.data) + (length && length < end ? strtoul(length + 15, NULL, 10) : 0);
                if (c->in.len < need)
                        return;
                fake_keep(c->fake, line, end + 4, (size_t)(c->in.data + need - (end + 4)));
                memmove(c->in.data, c->in.data + need, c->in.len - need);
                c->in.len -= need;
                c->in.data[c->in.len] = '\0';
                line[strlen(line) - strlen(" HTTP/1.1")] = '\0';
                fake_request(c, line);
        }
}

static void on_connection(struct loop_io *io, uint32_t events, void *data)
{
        struct fake *f = data;
        int fd = accept4(f->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)io;
        (void)events;
        assert_true(fd >= 0);
        for (size_t i = 0; i < CONNS; i++) {
                struct conn *c = &f->conns[i];

                if (c->io)
                        continue;
                *c = (struct conn){ .fake = f, .fd = fd };
                assert_int_equal(loop_io_add(f->loop, fd, EPOLLIN, on_readable, c, &c->io, NULL), 0);
                return;
        }
        fail_msg("too many connections");
}

/* ── the fixture ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct world {
        char dir[64], socket[96], records[96];
        struct loop *loop;
        struct fake fake;
        struct engine *engine;
        bool listed;
        struct engine_container *c, *found;
        unsigned exits, images;
        struct engine_exit exit;
        struct err err;
        int r;
        struct engine_image image;
};

static void expect(struct world *w, const char *request, int times, unsigned status, const char *body)
{
        struct fake *f = &w->fake;

        assert_true(f->n < ARRAY_LEN(f->answers));
        memmove(&f->answers[1], &f->answers[0], f->n * sizeof(f->answers[0]));
        f->answers[0] = (struct answer){ request, times, status, body, 0, NULL };
        f->n++;
}

static unsigned asked(const struct world *w, const char *part)
{
        unsigned n = 0;

        for (const char *at = w->fake.log.data; at && (at = strstr(at, part)); at += strlen(part))
                n++;
        return n;
}

static void turn_until(struct world *w, const bool *done)
{
        for (int i = 0; i < TURNS && !*done; i++)
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
        assert_true(*done);
}

static void on_exited(struct engine_container *c, const struct engine_exit *e, void *data)
{
        struct world *w = data;

        (void)c;
        w->exit = *e;
        w->exits++;
}

static const struct engine_events events = { .exited = on_exited };

static void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data)
{
        struct world *w = data;

        assert_string_equal(id, "old");
        assert_int_equal(len, 6);
        assert_memory_equal(record, "record", 6);
        w->found = c;
        engine_container_watch(c, &events, w);
}

static void on_listed(int r, const struct err *err, void *data)
{
        struct world *w = data;

        (void)err;
        assert_int_equal(r, 0);
        w->listed = true;
}

static void fake_open(struct world *w)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        struct fake *f = &w->fake;

        f->loop = w->loop;
        f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", w->socket);
        assert_int_equal(bind(f->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        assert_int_equal(listen(f->fd, 64), 0);
        assert_int_equal(loop_io_add(w->loop, f->fd, EPOLLIN, on_connection, f, &f->io, NULL), 0);
}

static void world_open(struct world *w, unsigned prewarm)
{
        const struct engine_docker_config config = {
                .host = w->socket, .name = "test", .records = w->records, .prewarm = prewarm, .lost_ns = NS_PER_S
        };
        struct err err = ERR_INIT;

        memcpy(w->fake.answers + w->fake.n, usual, sizeof(usual));
        w->fake.n += ARRAY_LEN(usual);
        assert_int_equal(engine_docker_new(w->loop, &config, &w->engine, &err), 0);
        assert_int_equal(w->engine->ops->list(w->engine, on_found, on_listed, w, &err), 0);
        turn_until(w, &w->listed);
}

static int setup(void **state)
{
        struct world *w = calloc(1, sizeof(*w));

        (void)signal(SIGPIPE, SIG_IGN);
        assert_non_null(w);
        (void)snprintf(w->dir, sizeof(w->dir), "/tmp/mayfly-docker-test.XXXXXX");
        assert_non_null(mkdtemp(w->dir));
        (void)snprintf(w->socket, sizeof(w->socket), "%s/socket", w->dir);
        (void)snprintf(w->records, sizeof(w->records), "%s/records", w->dir);
        assert_int_equal(mkdir(w->records, 0700), 0);
        assert_int_equal(loop_new(&w->loop, NULL), 0);
        fake_open(w);
        *state = w;
        return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        (void)st;
        (void)type;
        (void)ftw;
        return remove(path);
}

static int teardown(void **state)
{
        struct world *w = *state;

        if (w->engine)
                w->engine->ops->free(w->engine);
        for (size_t i = 0; i < CONNS; i++)
                if (w->fake.conns[i].io)
                        conn_close(&w->fake.conns[i]);
        loop_io_remove(w->fake.io);
        fd_close(w->fake.fd);
        str_done(&w->fake.log);
        str_done(&w->fake.created);
        str_done(&w->fake.filled);
        str_done(&w->fake.stdin);
        loop_free(w->loop);
        (void)nftw(w->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        free(w);
        return 0;
}

static void on_image(int r, const struct engine_image *image, const struct err *err, void *data)
{
        struct world *w = data;

        w->r = r;
        w->images++;
        if (r == 0)
                w->image = *image;
        else
                w->err = *err;
}

static void get_images(struct world *w, unsigned n, const char *username)
{
        const struct engine_image_request q = {
                .ref = "busybox:1", .owner = "me", .username = username, .password = username ? "secret" : NULL
        };
        bool done = false;

        w->images = 0;
        for (unsigned i = 0; i < n; i++)
                assert_int_equal(w->engine->ops->ensure_image(w->engine, &q, on_image, w, NULL), 0);
        for (int i = 0; i < TURNS && !done; i++) {
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
                done = w->images == n;
        }
        assert_true(done);
}

static struct engine_spec spec_of(const char *id, char *const *cmd)
{
        return (struct engine_spec){
                .id = id,
                .owner = "me",
                .digest = DIGEST,
                .cmd = cmd,
                .stdin_fd = -EBADF,
                .limits = { .memory = 64 << 20, .shm = 1 << 20, .cpu_milli = 1000, .pids = 10, .output = 1 << 20 },
                .network = ENGINE_NET_NONE,
                .record = "record",
                .record_len = 6,
        };
}

static void start_spec(struct world *w, const struct engine_spec *spec)
{
        struct err err = ERR_INIT;

        assert_int_equal(w->engine->ops->create(w->engine, spec, &events, w, &w->c, &err), 0);
        assert_int_equal(w->engine->ops->start(w->c, &err), 0);
}

static void start_as(struct world *w, const char *id, bool live, int stdin_fd, const char *stdin_text)
{
        char *cmd[] = { (char[]){ "true" }, NULL };
        struct engine_spec spec = spec_of(id, cmd);

        spec.stdin_fd = stdin_fd;
        spec.stdin_data = stdin_text;
        spec.stdin_len = stdin_text ? strlen(stdin_text) : 0;
        spec.live = live;
        start_spec(w, &spec);
}

static void start(struct world *w, const char *id)
{
        start_as(w, id, false, -EBADF, NULL);
}

static void finish(struct world *w)
{
        unsigned before = w->exits;
        bool done = false;

        for (int i = 0; i < TURNS && !done; i++) {
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
                done = w->exits > before;
        }
        assert_true(done);
}

static void run(struct world *w, const char *id)
{
        start(w, id);
        finish(w);
}

static void wait_for(struct world *w, const char *part, unsigned n)
{
        for (int i = 0; i < TURNS && asked(w, part) < n; i++)
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
        assert_int_equal(asked(w, part), n);
}

static void frames(struct world *w, const char *bytes, size_t len)
{
        w->fake.frames = bytes;
        w->fake.frames_len = len;
}

static void hold_open(struct world *w)
{
        w->fake.hold = true;
        w->fake.n_attaches = 0;
}

static void turns(struct world *w, int n)
{
        for (int i = 0; i < n; i++)
                assert_true(loop_turn(w->loop, 5, NULL) >= 0);
}

static bool found(const struct world *w, const char *part)
{
        struct engine_docker_about about;

        engine_docker_about(w->engine, &about);
        for (size_t i = 0; i < about.n_findings; i++)
                if (strstr(about.findings[i], part))
                        return true;
        return false;
}
