/* The driver against a small Docker of our own on the same loop: what it asks, how often, and what it makes of the answers. */

#include "engine/docker/internal.h"

#include "base/fd.h"
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
        struct str log; /* lines of requests */
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
        { "GET /version", -1, 200, "{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\",\"Version\":\"20.10.24\"}" },
        { "/info", -1, 200,
          "{\"SecurityOptions\":[\"name=seccomp\",\"name=userns\"],\"LiveRestoreEnabled\":true,\"OSType\":\"linux\"}" },
        { "GET /v1.41/containers/json", -1, 200, "[]" },
        { "GET /v1.41/images/", -1, 200, "{\"Id\":\"" DIGEST "\",\"Config\":{}}" },
        { "POST /v1.41/containers/create", -1, 201, "{\"Id\":\"x\",\"Warnings\":[]}" },
        { "/attach?", -1, 101, "" },
        { "/start", -1, 204, "" },
        { "/wait", -1, 200, "{\"StatusCode\":3}" },
        { "DELETE /v1.41/containers/", -1, 204, "" },
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
                size_t len = a->body ? strlen(a->body) : c->fake->logged_len;

                (void)str_addf(&out, "HTTP/1.1 %u X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                               a->status, len);
                (void)str_add(&out, a->body ? a->body : c->fake->logged, len);
        }
        fake_write(c, out.data, out.len);
        if (strstr(a->request, "/start") && a->status == 204 && c->fake->attached && !c->fake->hold) {
                fake_write(c->fake->attached, c->fake->frames, c->fake->frames_len);
                conn_close(c->fake->attached);
        }
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
        f->answers[0] = (struct answer){ request, times, status, body };
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

static void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data)
{
        struct world *w = data;

        assert_string_equal(id, "old");
        assert_int_equal(len, 6);
        assert_memory_equal(record, "record", 6);
        w->found = c;
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
        str_done(&w->fake.stdin);
        loop_free(w->loop);
        (void)nftw(w->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        free(w);
        return 0;
}

static void on_exited(struct engine_container *c, const struct engine_exit *e, void *data)
{
        struct world *w = data;

        (void)c;
        w->exit = *e;
        w->exits++;
}

static const struct engine_events events = { .exited = on_exited };

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

static void start_as(struct world *w, const char *id, bool live, int stdin_fd, const char *stdin_text)
{
        char *cmd[] = { (char[]){ "true" }, NULL };
        struct engine_spec spec = {
                .id = id,
                .owner = "me",
                .digest = DIGEST,
                .cmd = cmd,
                .stdin_fd = stdin_fd,
                .stdin_data = stdin_text,
                .stdin_len = stdin_text ? strlen(stdin_text) : 0,
                .live = live,
                .limits = { .memory = 64 << 20, .shm = 1 << 20, .cpu_milli = 1000, .pids = 10, .output = 1 << 20 },
                .network = ENGINE_NET_NONE,
                .record = "record",
                .record_len = 6,
        };
        struct err err = ERR_INIT;
        int r = w->engine->ops->create(w->engine, &spec, &events, w, &w->c, &err);

        assert_int_equal(r, 0);
        assert_int_equal(w->engine->ops->start(w->c, &err), 0);
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

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_life(void **state)
{
        struct world *w = *state;
        struct engine_output out;
        char have[8] = { 0 };
        struct stat st;

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\2er", 21);
        str_clear(&w->fake.log);
        run(w, "one");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(w->exit.code, 3);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 3);
        assert_int_equal(pread(out.fd, have, 3, 0), 3);
        assert_string_equal(have, "out");
        /* Nothing is deleted before the result is stored. */
        assert_int_equal(asked(w, "DELETE"), 0);
        assert_int_equal(stat(w->records, &st), 0);
        w->engine->ops->remove(w->c);
        wait_for(w, "DELETE /v1.41/containers/test-one?", 1);
        /* create, attach, start, wait, delete: no call that is not needed. */
        assert_int_equal(asked(w, "\n"), 5);
}

static void test_oom(void **state)
{
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        expect(w, "/wait", -1, 200, "{\"StatusCode\":137}");
        expect(w, "GET /v1.41/containers/test-one/json", -1, 200,
               "{\"State\":{\"ExitCode\":137,\"Running\":false,\"OOMKilled\":true}}");
        run(w, "one");
        assert_true(w->exit.oom);
        assert_int_equal(w->exit.signo, SIGKILL);
        w->engine->ops->remove(w->c);
}

static void test_start_refused(void **state)
{
        static const struct {
                const char *request;
                unsigned status;
                const char *body;
                enum engine_end end;
        } cases[] = {
                { "/start", 400, "{\"message\":\"exec: \\\"x\\\": executable file not found in $PATH: unknown\"}",
                  ENGINE_END_NOT_FOUND },
                { "/start", 400, "{\"message\":\"exec: \\\"/x\\\": permission denied: unknown\"}",
                  ENGINE_END_NOT_EXECUTABLE },
                { "/start", 500, "{\"message\":\"no space left on device\"}", ENGINE_END_START_ERROR },
                { "/start", 0, "", ENGINE_END_START_ERROR },
                { "/attach?", 409, "{\"message\":\"preparing: executable file `x` not found in $PATH: exec\"}",
                  ENGINE_END_NOT_FOUND },
                { "/attach?", 0, "", ENGINE_END_START_ERROR },
                { "containers/create", 409, "{\"message\":\"Conflict. The name is in use\"}", ENGINE_END_START_ERROR },
                { "containers/create", 500, "<html>nonsense", ENGINE_END_START_ERROR },
        };
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_free char *id = str_printf("case%zu", i),
                               *line = str_printf("DELETE /v1.41/containers/test-%s?", id);

                /* More than once: libcurl asks again where a kept connection was closed. */
                expect(w, cases[i].request, -1, cases[i].status, cases[i].body);
                run(w, id);
                assert_int_equal(w->exit.end, cases[i].end);
                w->fake.answers[0].times = 0;
                w->engine->ops->remove(w->c);
                wait_for(w, line, 1);
        }
}

static void test_wait_again(void **state)
{
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\2ok", 10);
        expect(w, "/wait", 1, 0, "");
        expect(w, "/logs?", -1, 200, "");
        run(w, "one");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(w->exit.code, 3);
        w->engine->ops->remove(w->c);
        expect(w, "/wait", -1, 404, "{\"message\":\"No such container\"}");
        expect(w, "GET /v1.41/containers/test-two/json", -1, 404, "{\"message\":\"No such container\"}");
        run(w, "two");
        assert_int_equal(w->exit.end, ENGINE_END_LOST);
        w->engine->ops->remove(w->c);
}

static void take_log(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        docker_output_log(data, stream, bytes, len);
}

/* What is known of the log is not taken twice; one that begins later than it did is known by that. */
static void test_log(void **state)
{
        static const struct {
                const char *log;
                size_t len;
                uint64_t kept, total;
        } cases[] = {
                { "\1\0\0\0\0\0\0\4abcd", 12, 4, 4 },
                { "\1\0\0\0\0\0\0\2ab\1\0\0\0\0\0\0\5cdefg", 23, 7, 7 },
                { "\1\0\0\0\0\0\0\4efgh", 12, 4, 9 },
        };
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\4abcd", 12);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_free char *id = str_printf("log%zu", i);
                struct engine_output out;
                struct docker_container *c;

                run(w, id);
                c = CONTAINER_OF(w->c, struct docker_container, base);
                docker_output_log_begin(c);
                assert_int_equal(demux_feed(&c->log, cases[i].log, cases[i].len, take_log, c, NULL), 0);
                docker_output_log_end(c);
                w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
                assert_int_equal(out.kept, cases[i].kept);
                assert_int_equal(out.total, cases[i].total);
                w->engine->ops->remove(w->c);
        }
}

/* A frame that was cut off is read again from the log, until that is there; where it never is, the task did not end well. */
static void test_cut(void **state)
{
        struct world *w = *state;
        struct engine_output out;
        char have[8] = { 0 };

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\4ab", 10);
        w->fake.logged = "\1\0\0\0\0\0\0\4abcd";
        w->fake.logged_len = 12;
        expect(w, "/logs?", -1, 200, NULL);
        expect(w, "/logs?", 1, 500, "{\"message\":\"not now\"}");
        run(w, "one");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 4);
        assert_int_equal(pread(out.fd, have, 4, 0), 4);
        assert_string_equal(have, "abcd");
        w->engine->ops->remove(w->c);
        expect(w, "/logs?", -1, 500, "{\"message\":\"never\"}");
        run(w, "two");
        assert_int_equal(w->exit.end, ENGINE_END_LOST);
        assert_non_null(strstr(w->exit.text, "never"));
        w->engine->ops->remove(w->c);
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

/* The connection that carries stdin may end before the other one does. */
static void test_stdin_outlives(void **state)
{
        struct world *w = *state;
        int ends[2];

        world_open(w, 0);
        get_images(w, 1, NULL);
        for (unsigned i = 0; i < 2; i++) {
                auto_free char *id = str_printf("live%u", i);

                hold_open(w);
                assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
                start_as(w, id, true, ends[0], NULL);
                fd_close(ends[0]);
                wait_for(w, "/start", i + 1);
                turns(w, 5);
                assert_int_equal(w->fake.n_attaches, 2);
                conn_close(w->fake.attaches[0]);
                turns(w, 5);
                if (i == 0)
                        (void)!write(ends[1], "x", 1);
                else
                        fd_replace(&ends[1], -EBADF);
                turns(w, 5);
                conn_close(w->fake.attaches[1]);
                finish(w);
                assert_int_equal(w->exit.code, 3);
                fd_close(ends[1]);
                w->engine->ops->remove(w->c);
        }
}

/* Who does not read keeps nothing alive. */
static void test_killed_while_paused(void **state)
{
        struct world *w = *state;
        struct engine_output out;

        world_open(w, 0);
        get_images(w, 1, NULL);
        hold_open(w);
        start_as(w, "one", true, -EBADF, NULL);
        wait_for(w, "/start", 1);
        turns(w, 5);
        assert_int_equal(w->fake.n_attaches, 2);
        w->engine->ops->pause(w->c, ENGINE_STDOUT, true);
        w->engine->ops->pause(w->c, ENGINE_STDERR, true);
        fake_write(w->fake.attaches[0], "\1\0\0\0\0\0\0\2ok", 10);
        turns(w, 5);
        assert_int_equal(w->exits, 0);
        expect(w, "/kill?signal=9", -1, 204, "");
        expect(w, "/wait", -1, 200, "{\"StatusCode\":137}");
        expect(w, "GET /v1.41/containers/test-one/json", -1, 200, "{\"State\":{\"ExitCode\":137,\"Running\":false}}");
        assert_int_equal(w->engine->ops->signal(w->c, SIGKILL, NULL), 0);
        conn_close(w->fake.attaches[0]);
        conn_close(w->fake.attaches[1]);
        finish(w);
        assert_int_equal(w->exit.end, ENGINE_END_SIGNALED);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 2);
        w->engine->ops->remove(w->c);
}

/* stdin is that of the container which runs in the end. */
static void test_prewarm_stdin(void **state)
{
        static const char *const gone[] = { "/attach?", "/start" };
        struct world *w = *state;

        world_open(w, 1);
        get_images(w, 1, NULL);
        hold_open(w);
        for (unsigned i = 0; i < 6; i++) {
                auto_free char *id = str_printf("in%u", i);

                /* Of the third on there is one that was made ahead. */
                if (i == 2 || i == 4)
                        turns(w, 20);
                if (i == 2 || i == 4)
                        expect(w, gone[i / 2 - 1], 1, 404, "{\"message\":\"No such container: x\"}");
                start_as(w, id, false, -EBADF, "hello");
                for (int n = 0; n < TURNS && w->exits <= i; n++) {
                        turns(w, 1);
                        if (w->fake.attached && w->fake.attached->in.len == strlen("hello"))
                                conn_close(w->fake.attached);
                }
                assert_int_equal(w->exit.end, ENGINE_END_EXITED);
                assert_string_equal(w->fake.stdin.data, "hello");
                if (i == 2 || i == 4)
                        assert_int_equal(w->fake.answers[0].times, 0);
                w->engine->ops->remove(w->c);
        }
}

/* Of one that may be made still it is not believed that it is not there. */
static void test_prewarm_unsure(void **state)
{
        static const char made[] = "create?name=test-";
        struct world *w = *state;
        auto_free char *line = NULL;
        const char *at = NULL;

        world_open(w, 1);
        get_images(w, 1, NULL);
        run(w, "one");
        w->engine->ops->remove(w->c);
        expect(w, "DELETE", -1, 404, "{\"message\":\"No such container: x\"}");
        expect(w, made, -1, 0, "");
        expect(w, "create?name=test-two", -1, 201, "{\"Id\":\"x\"}");
        run(w, "two");
        w->engine->ops->remove(w->c);
        for (int i = 0; i < TURNS && !at; i++) {
                turns(w, 1);
                at = strstr(strstr(w->fake.log.data, "create?name=test-two"), "\n");
                at = strstr(at, made);
        }
        assert_non_null(at);
        at += strlen(made);
        line = str_printf("DELETE /v1.41/containers/test-%.*s?", (int)strcspn(at, "\n"), at);
        for (int i = 0; i < TURNS && asked(w, line) < 2; i++)
                turns(w, 1);
        assert_true(asked(w, line) >= 2);
}

static void test_pull(void **state)
{
        struct world *w = *state;

        world_open(w, 0);
        expect(w, "GET /v1.41/images/", 1, 404, "{\"message\":\"No such image\"}");
        expect(w, "POST /v1.41/images/create", -1, 200,
               "{\"status\":\"Repository is already being pulled by another client. Waiting.\"}\n"
               "{\"status\":\"Downloading\",\"id\":\"a\",\"progressDetail\":{\"current\":1,\"total\":2}}\n"
               "{\"status\":\"Status: Image is up to date\"}\n");
        get_images(w, 50, NULL);
        assert_int_equal(w->r, 0);
        assert_string_equal(w->image.digest, DIGEST);
        assert_string_equal(w->image.ref, "docker.io/library/busybox:1");
        assert_int_equal(asked(w, "POST /v1.41/images/create"), 1);
}

static void test_pull_errors(void **state)
{
        static const struct {
                const char *text;
                bool credentials;
                int r;
        } cases[] = {
                { "manifest for busybox:1 not found: manifest unknown", false, ENOENT },
                { "pull access denied for x, repository does not exist or may require 'docker login'", false, ENOENT },
                { "pull access denied for x, repository does not exist or may require 'docker login'", true, EACCES },
                { "unauthorized: incorrect username or password", true, EACCES },
                { "Get https://r/v2/: no basic auth credentials", false, EACCES },
                { "no matching manifest for linux/amd64 in the manifest list entries", false, ENOENT },
                { "Get \"https://r/v2/\": dial tcp: connection refused", false, EHOSTUNREACH },
                { "toomanyrequests: You have reached your pull rate limit", false, EHOSTUNREACH },
        };
        struct world *w = *state;

        world_open(w, 0);
        expect(w, "GET /v1.41/images/", -1, 404, "{\"message\":\"No such image\"}");
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_str body = STR_INIT;

                assert_int_equal(docker_pull_error(cases[i].text, cases[i].credentials), cases[i].r);
                assert_int_equal(str_adds(&body, "{\"status\":\"Pulling\"}\n{\"errorDetail\":{\"message\":"), 0);
                assert_int_equal(json_add_string(&body, cases[i].text, strlen(cases[i].text)), 0);
                assert_int_equal(str_adds(&body, "},\"error\":\"x\"}"), 0);
                expect(w, "POST /v1.41/images/create", 1, 200, body.data);
                get_images(w, 1, cases[i].credentials ? "ann" : NULL);
                assert_int_equal(w->r, -cases[i].r);
                assert_null(strstr(w->err.text, "secret"));
                w->fake.n--;
                memmove(&w->fake.answers[0], &w->fake.answers[1], w->fake.n * sizeof(w->fake.answers[0]));
        }
}

static void test_breaker(void **state)
{
        struct world *w = *state;
        struct err err = ERR_INIT;
        bool down = false;

        world_open(w, 0);
        assert_int_equal(w->engine->ops->check(w->engine, &err), 0);
        expect(w, "GET /", -1, 0, "");
        for (int i = 0; i < 3; i++)
                get_images(w, 1, NULL);
        for (int i = 0; i < TURNS && !down; i++) {
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
                down = w->engine->ops->check(w->engine, &err) < 0;
        }
        assert_true(down);
        assert_non_null(strstr(err.text, w->socket));
        w->fake.answers[0].times = 0;
        for (int i = 0; i < TURNS && down; i++) {
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
                down = w->engine->ops->check(w->engine, &err) < 0;
        }
        assert_false(down);
}

static void test_adoption(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(fd_write_file(dir, "old", 0600, "test-anything 5 100\nrecord", 26, NULL), 0);
        assert_int_equal(fd_write_file(dir, "gone", 0600, "test-gone 5 100\nrecord", 22, NULL), 0);
        assert_int_equal(fd_write_file(dir, "nonsense", 0600, "nonsense", 8, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-anything\"],\"State\":\"running\"},{\"Names\":[\"/"
               "test-stray\"],\"State\":\"exited\"},"
               "{\"Names\":[\"/testother\"],\"State\":\"running\"},{\"Names\":[\"/test-../x\"],\"State\":\"running\"},"
               "{\"Names\":[]},{}]");
        expect(w, "/containers/test-anything/logs?", -1, 200, "");
        world_open(w, 0);
        assert_non_null(w->found);
        engine_container_watch(w->found, &events, w);
        finish(w);
        assert_int_equal(w->exit.code, 3);
        wait_for(w, "DELETE /v1.41/containers/test-stray?", 1);
        assert_int_equal(asked(w, "DELETE"), 1);
        assert_int_equal(faccessat(dir, "old", F_OK, 0), 0);
        assert_int_equal(faccessat(dir, "gone", F_OK, 0), -1);
        assert_int_equal(faccessat(dir, "nonsense", F_OK, 0), -1);
        w->engine->ops->remove(w->found);
        assert_int_equal(faccessat(dir, "old", F_OK, 0), -1);
}

static void test_prewarm(void **state)
{
        struct world *w = *state;

        world_open(w, 2);
        get_images(w, 1, NULL);
        run(w, "one");
        w->engine->ops->remove(w->c);
        run(w, "two");
        w->engine->ops->remove(w->c);
        wait_for(w, "POST /v1.41/containers/create", 3); /* the second use: one is made ahead */
        for (int i = 0; i < 5; i++)
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
        run(w, "three");
        assert_int_equal(w->exit.code, 3);
        assert_int_equal(asked(w, "create?name=test-three"), 0);
        w->engine->ops->remove(w->c);
        wait_for(w, "POST /v1.41/containers/create", 4);
        for (int i = 0; i < 5; i++)
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
        /* Somebody has deleted it: another one is made. */
        expect(w, "/attach?", 1, 404, "{\"message\":\"No such container: x\"}");
        run(w, "four");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(asked(w, "create?name=test-four"), 1);
        w->engine->ops->remove(w->c);
        /* The end deletes what was made ahead. */
        str_clear(&w->fake.log);
        w->engine->ops->free(w->engine);
        w->engine = NULL;
        assert_true(asked(w, "DELETE") >= 1);
}

static void test_hosts(void **state)
{
        static const struct {
                const char *host, *ca, *cert, *key, *base;
        } cases[] = {
                { NULL, NULL, NULL, NULL, "http://docker" },
                { "/run/x.sock", NULL, NULL, NULL, "http://docker" },
                { "unix:///run/x.sock", NULL, NULL, NULL, "http://docker" },
                { "tcp://10.0.0.1", "ca", "c", "k", "https://10.0.0.1:2376" },
                { "tcp://host.example:99/", NULL, "c", "k", "https://host.example:99" },
                { "tcp://[fe80::1]:99", NULL, "c", "k", "https://[fe80::1]:99" },
                { "tcp://localhost", NULL, NULL, NULL, "http://localhost:2375" },
                { "tcp://127.0.0.1:5", NULL, NULL, NULL, "http://127.0.0.1:5" },
                { "tcp://10.0.0.1", NULL, NULL, NULL, NULL },
                { "tcp://10.0.0.1", "ca", "c", NULL, NULL },
                { "tcp://10.0.0.1", "ca", NULL, NULL, NULL },
                { "unix:///run/x.sock", NULL, "c", "k", NULL },
                { "tcp://", NULL, "c", "k", NULL },
                { "tcp://a:0", NULL, "c", "k", NULL },
                { "tcp://a:65536", NULL, "c", "k", NULL },
                { "tcp://a:1x", NULL, "c", "k", NULL },
                { "tcp://a@b", NULL, "c", "k", NULL },
                { "tcp://a/b", NULL, "c", "k", NULL },
                { "tcp://[::1", NULL, "c", "k", NULL },
                { "tcp://[a]", NULL, "c", "k", NULL },
                { "http://a", NULL, NULL, NULL, NULL },
                { "relative", NULL, NULL, NULL, NULL },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                const struct engine_docker_config config = {
                        .host = cases[i].host, .tls_ca = cases[i].ca, .tls_cert = cases[i].cert, .tls_key = cases[i].key
                };
                struct docker_host h;
                struct err err = ERR_INIT;

                if (!cases[i].base) {
                        assert_int_equal(engine_docker_host_check(&config, &err), -EINVAL);
                        assert_true(err.text[0]);
                        continue;
                }
                assert_int_equal(docker_host_parse(&config, &h, &err), 0);
                assert_string_equal(h.base, cases[i].base);
                docker_host_done(&h);
        }
}

static void test_versions(void **state)
{
        static const struct {
                const char *text, *prefix;
                int r;
        } cases[] = {
                { "{\"ApiVersion\":\"1.41\"}", "/v1.41", 0 },
                { "{\"ApiVersion\":\"1.44\",\"MinAPIVersion\":\"1.24\"}", "/v1.44", 0 },
                { "{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.44\"}", "/v1.51", 0 },
                { "{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.52\"}", NULL, -EPROTO },
                { "{\"ApiVersion\":\"1.40\"}", NULL, -EPROTO },
                { "{\"ApiVersion\":\"2.0\"}", NULL, -EBADMSG },
                { "{\"ApiVersion\":141}", NULL, -EBADMSG },
                { "[]", NULL, -EBADMSG },
                { "", NULL, -EBADMSG },
                { "<html>", NULL, -EBADMSG },
        };
        struct docker d = { .up = false };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct err err = ERR_INIT;

                assert_int_equal(docker_version_read(&d, cases[i].text, strlen(cases[i].text), &err), cases[i].r);
                if (cases[i].prefix)
                        assert_string_equal(d.prefix, cases[i].prefix);
        }
}

static void test_findings(void **state)
{
        static const char text[] =
                "{\"MemoryLimit\":false,\"SwapLimit\":false,\"PidsLimit\":true,\"SecurityOptions\":[],"
                "\"LiveRestoreEnabled\":false,\"OSType\":\"linux\",\"Plugins\":{\"Log\":[\"json-file\"]}}";
        struct docker d = { .up = false };

        (void)state;
        assert_int_equal(docker_info_read(&d, text, strlen(text), NULL), 0);
        assert_int_equal(d.n_findings, 6); /* memory, swap, seccomp, user namespaces, restart, log */
        assert_true(d.hindered);
        assert_int_equal(docker_info_read(&d, "nonsense", 8, NULL), -EBADMSG);
        assert_int_equal(d.n_findings, 6);
        docker_info_done(&d);
}

static void take_line(const json_t *line, void *data)
{
        (void)line;
        ++*(unsigned *)data;
}

static void test_lines(void **state)
{
        static const char text[] = "{}\n{\"a\":1}\r\nnonsense\n[1]\n\n{\"b\":";
        struct docker_lines l = { .line = STR_INIT };
        auto_str large = STR_INIT;
        unsigned n = 0;

        (void)state;
        for (size_t i = 0; i < strlen(text); i++)
                assert_int_equal(docker_lines_feed(&l, text + i, 1, take_line, &n), 0);
        assert_int_equal(n, 2);
        assert_int_equal(docker_lines_feed(&l, "2}", 2, take_line, &n), 0);
        docker_lines_end(&l, take_line, &n);
        assert_int_equal(n, 3);
        for (int i = 0; i <= DOCKER_LINE_MAX; i++)
                assert_int_equal(str_addc(&large, ' '), 0);
        assert_int_equal(docker_lines_feed(&l, large.data, large.len, take_line, &n), -EMSGSIZE);
        docker_lines_done(&l);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_life, setup, teardown),
                cmocka_unit_test_setup_teardown(test_oom, setup, teardown),
                cmocka_unit_test_setup_teardown(test_start_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_wait_again, setup, teardown),
                cmocka_unit_test_setup_teardown(test_log, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stdin_outlives, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_while_paused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prewarm_stdin, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prewarm_unsure, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pull, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pull_errors, setup, teardown),
                cmocka_unit_test_setup_teardown(test_breaker, setup, teardown),
                cmocka_unit_test_setup_teardown(test_adoption, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prewarm, setup, teardown),
                cmocka_unit_test(test_hosts),
                cmocka_unit_test(test_versions),
                cmocka_unit_test(test_findings),
                cmocka_unit_test(test_lines),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
