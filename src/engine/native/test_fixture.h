/* What the tests of the native engine share: an image store of one image, a launcher and a netd as far as a test plays them,
 * containers and the answers to callbacks. */
#pragma once

#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "engine/native/internal.h"
#include "image/test_no_pulls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

/* ── an image store of one image ─────────────────────────────────────────────────────────────────────────────────── */

#define DIGEST "sha256:1111111111111111111111111111111111111111111111111111111111111111"

static char *image_entrypoint[] = { (char[]){ "/entry" }, NULL };
static char *image_cmd[] = { (char[]){ "a" }, (char[]){ "b" }, NULL };
static char *image_env[] = { (char[]){ "A=image" }, (char[]){ "B=image" }, (char[]){ "no assignment" }, NULL };
static char *image_names[] = { (char[]){ "docker.io/library/x:latest" }, NULL };
static char image_workdir[] = "/srv";
static char image_user[] = "app";
static struct image the_image = {
        .digest = DIGEST,
        .entrypoint = image_entrypoint,
        .cmd = image_cmd,
        .env = image_env,
        .workdir = image_workdir,
        .user = image_user,
        .names = image_names,
};

const struct image *image_store_find(struct image_store *s, const char *ref, struct err *err)
{
        (void)s;
        if (str_eq(ref, "!"))
                (void)err_set(err, EINVAL, "bad reference");
        return str_eq(ref, "x") || str_eq(ref, DIGEST) ? &the_image : NULL;
}

const struct image *image_store_by_digest(struct image_store *s, const char *digest)
{
        (void)s;
        return str_eq(digest, DIGEST) ? &the_image : NULL;
}

void image_store_touch(struct image_store *s, const struct image *image)
{
        (void)s;
        (void)image;
}

int image_user_resolve(struct image_store *s, const struct image *image, const char *user, struct image_user *ret,
                       struct err *err)
{
        (void)s;
        (void)image;
        if (!str_eq(user, "app") && !str_eq(user, "root"))
                return err_set(err, EINVAL, "no user '%s'", user);
        *ret = (struct image_user){ .uid = str_eq(user, "app") ? 7 : 0, .gid = 8, .groups = { 9 }, .n_groups = 1 };
        (void)snprintf(ret->home, sizeof(ret->home), "/home/%s", user);
        return 0;
}

/* ── launcher and netd, as far as the test plays them ────────────────────────────────────────────────────────────── */

struct side {
        char path[96];
        int listener, fd;
        _Alignas(16) char buf[LAUNCH_MSG_MAX];
        size_t len;
        int fds[FD_MSG_MAX];
        size_t n_fds;
};

struct fixture {
        char dir[64];
        struct loop *loop;
        struct side launcher, netd;
        struct engine *engine;
        uint32_t slots, index;
        struct engine_container *found[4];
        size_t n_found;
        char found_record[64];
        bool listed;
        struct engine_exit exit;
        int exits, outputs;
        bool netd_serves; /* what netd is asked for is answered by turn() */
        int cleans;
        struct net_msg clean; /* the last one */
};

static inline void netd_serve(struct fixture *f);

static inline void turn(struct fixture *f)
{
        assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        if (f->netd_serves && f->netd.fd >= 0)
                netd_serve(f);
}

static inline void side_open(struct fixture *f, struct side *s, const char *name)
{
        (void)snprintf(s->path, sizeof(s->path), "%s/%s", f->dir, name);
        s->fd = -EBADF;
        assert_int_equal(fd_listen_unix(s->path, SOCK_SEQPACKET, (uid_t)-1, (gid_t)-1, 0600, &s->listener, NULL), 0);
}

static inline void side_drop_fds(struct side *s)
{
        for (size_t i = 0; i < s->n_fds; i++)
                fd_close(s->fds[i]);
        s->n_fds = 0;
}

static inline void side_hang_up(struct side *s)
{
        side_drop_fds(s);
        fd_replace(&s->fd, -EBADF);
}

static inline void side_accept(struct fixture *f, struct side *s)
{
        for (int i = 0; i < 2000 && s->fd < 0; i++) {
                turn(f);
                s->fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        }
        assert_true(s->fd >= 0);
}

static inline bool side_poll(struct side *s)
{
        side_drop_fds(s);
        s->n_fds = FD_MSG_MAX;
        s->len = 0;
        if (fd_recv(s->fd, s->buf, sizeof(s->buf), &s->len, s->fds, &s->n_fds) == 0)
                return true;
        s->n_fds = 0;
        return false;
}

static inline void side_expect(struct fixture *f, struct side *s, uint32_t op)
{
        for (int i = 0; i < 2000; i++) {
                if (side_poll(s)) {
                        assert_int_equal(((struct launch_header *)s->buf)->op, op);
                        return;
                }
                turn(f);
        }
        fail_msg("operation %u did not come", op);
}

static inline void side_send(struct side *s, const void *data, size_t len, const int *fds, size_t n)
{
        assert_int_equal(fd_send(s->fd, data, len, fds, n), 0);
}

static inline void launcher_send_op(struct fixture *f, uint32_t op, uint32_t seq)
{
        const struct launch_header h = { op, seq };

        side_send(&f->launcher, &h, sizeof(h), NULL, 0);
}

static inline void launcher_greet(struct fixture *f)
{
        struct launch_hello m = { .h = { .op = LAUNCH_HELLO }, .version = LAUNCH_VERSION, .slots = f->slots };

        side_accept(f, &f->launcher);
        side_expect(f, &f->launcher, LAUNCH_HELLO);
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
}

static inline void netd_send(struct fixture *f, struct net_msg m, int fd)
{
        side_send(&f->netd, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0);
}

static inline void netd_greet(struct fixture *f)
{
        struct {
                struct net_msg m;
                char text[19];
        } resolv = { { .op = NET_OP_RESOLV, .len = 19 }, "nameserver 9.9.9.9\n" };

        side_accept(f, &f->netd);
        side_expect(f, &f->netd, NET_OP_HELLO);
        netd_send(f, (struct net_msg){ .op = NET_OP_HELLO, .version = NET_VERSION }, -1);
        side_send(&f->netd, &resolv, sizeof(resolv.m) + sizeof(resolv.text), NULL, 0);
}

static inline void netd_give(struct fixture *f, const struct net_msg *m)
{
        for (uint32_t i = 0; i < m->count; i++) {
                auto_fd fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

                netd_send(f,
                          (struct net_msg){ .op = NET_OP_NETNS,
                                            .seq = m->seq,
                                            .mode = m->mode,
                                            .index = ++f->index,
                                            .address = m->mode == NET_NONE ? 0 : htonl(0x0ad50000 + f->index) },
                          fd);
        }
}

static inline void netd_serve(struct fixture *f)
{
        while (side_poll(&f->netd)) {
                struct net_msg m;

                assert_int_equal(f->netd.len, sizeof(m));
                memcpy(&m, f->netd.buf, sizeof(m));
                if (m.op == NET_OP_ACQUIRE)
                        netd_give(f, &m);
                if (m.op == NET_OP_CLEAN) {
                        f->clean = m;
                        f->cleans++;
                }
        }
}

static inline void wait_cleans(struct fixture *f, int n)
{
        for (int i = 0; i < 2000 && f->cleans < n; i++)
                turn(f);
        assert_int_equal(f->cleans, n);
}

static inline void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data);

static inline void on_listed(int r, const struct err *err, void *data)
{
        struct fixture *f = data;

        (void)err;
        assert_int_equal(r, 0);
        f->listed = true;
}

static inline void new_engine(struct fixture *f)
{
        const struct engine_native_config config = {
                .launcher_path = f->launcher.path,
                .netd_path = f->netd.path,
                .stock = 2,
                .idle = 1,
        };

        assert_int_equal(engine_native_new(f->loop, &config, &f->engine, NULL), 0);
        engine_native_set_store(f->engine, (struct image_store *)f);
        f->listed = false;
        assert_int_equal(f->engine->ops->list(f->engine, on_found, on_listed, f, NULL), 0);
}

static inline void start_engine(struct fixture *f)
{
        new_engine(f);
        assert_int_equal(f->engine->ops->check(f->engine, NULL), -ENOTCONN);
        launcher_greet(f);
        launcher_send_op(f, LAUNCH_READY, 0);
        while (!f->listed)
                turn(f);
        assert_int_equal(f->n_found, 0);
        assert_int_equal(f->engine->ops->check(f->engine, NULL), -ENETDOWN);
        netd_greet(f);
        side_expect(f, &f->netd, NET_OP_SYNCED);
        assert_int_equal(f->engine->ops->check(f->engine, NULL), 0);
        f->netd_serves = true;
}

/* path_remove_tree() takes one name below a directory. */
static inline void remove_dir(const char *dir)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(path_remove_tree(tmp, dir + strlen("/tmp/")), 0);
}

static inline int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-native-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        memset(the_image.tree, 'a', LAUNCH_HEX);
        f->slots = 8;
        side_open(f, &f->launcher, "launcher");
        side_open(f, &f->netd, "netd");
        assert_int_equal(loop_new(&f->loop, NULL), 0);
        *state = f;
        return 0;
}

static inline int setup_started(void **state)
{
        (void)setup(state);
        start_engine(*state);
        return 0;
}

static inline int teardown(void **state)
{
        struct fixture *f = *state;

        if (f->engine)
                f->engine->ops->free(f->engine);
        f->netd_serves = false;
        turn(f);
        loop_free(f->loop);
        side_hang_up(&f->launcher);
        side_hang_up(&f->netd);
        fd_close(f->launcher.listener);
        fd_close(f->netd.listener);
        remove_dir(f->dir);
        free(f);
        return 0;
}

/* ── containers ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline void on_output(struct engine_container *c, enum engine_stream stream, void *data)
{
        (void)c;
        (void)stream;
        ((struct fixture *)data)->outputs++;
}

static inline void on_exited(struct engine_container *c, const struct engine_exit *exit, void *data)
{
        struct fixture *f = data;

        (void)c;
        f->exit = *exit;
        f->exits++;
}

static const struct engine_events events = { .output = on_output, .exited = on_exited };

static inline void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data)
{
        struct fixture *f = data;

        assert_true(strlen(id) > 0);
        (void)snprintf(f->found_record, sizeof(f->found_record), "%.*s", (int)len, (const char *)record);
        engine_container_watch(c, &events, f);
        f->found[f->n_found++] = c;
}

static inline struct engine_spec base_spec(const char *id)
{
        return (struct engine_spec){
                .id = id,
                .owner = "alice",
                .digest = DIGEST,
                .stdin_fd = -EBADF,
                .limits = { .memory = 100, .disk = 200, .shm = 300, .cpu_milli = 400, .pids = 500, .output = 8 },
                .network = ENGINE_NET_NAT,
                .record = "the record",
                .record_len = 10,
        };
}

static inline struct engine_container *create(struct fixture *f, const struct engine_spec *spec)
{
        struct engine_container *c = NULL;
        struct err err = ERR_INIT;

        if (f->engine->ops->create(f->engine, spec, &events, f, &c, &err) < 0)
                fail_msg("%s", err.text);
        return c;
}

static inline struct engine_container *start(struct fixture *f, const char *id)
{
        const struct engine_spec spec = base_spec(id);
        struct engine_container *c = create(f, &spec);

        assert_int_equal(f->engine->ops->start(c, NULL), 0);
        return c;
}

/* The START that came, opened. */
struct started {
        struct launch_start m;
        char args[8][64], env[8][96], hostname[64], workdir[64], hosts[128], resolv[64];
        char path[64], content[64];
        uint32_t mode;
};

static inline void take(const char **at, char *ret, size_t size)
{
        uint32_t len;

        memcpy(&len, *at, sizeof(len));
        (void)snprintf(ret, size, "%.*s", (int)len, *at + sizeof(len));
        *at += sizeof(len) + len;
}

static inline struct started expect_start(struct fixture *f)
{
        struct started s = { .mode = 0 };
        const char *at = f->launcher.buf + sizeof(s.m), *begin = at;

        side_expect(f, &f->launcher, LAUNCH_START);
        memcpy(&s.m, f->launcher.buf, sizeof(s.m));
        assert_int_equal(f->launcher.n_fds, LAUNCH_FD_COUNT - !(s.m.flags & LAUNCH_F_SPEC));
        if (s.m.flags & LAUNCH_F_SPEC)
                return s;
        assert_int_equal(f->launcher.len, sizeof(s.m) + s.m.payload_len);
        for (uint32_t i = 0; i < s.m.argc; i++)
                take(&at, s.args[i], sizeof(s.args[i]));
        for (uint32_t i = 0; i < s.m.envc; i++)
                take(&at, s.env[i], sizeof(s.env[i]));
        take(&at, s.hostname, sizeof(s.hostname));
        take(&at, s.workdir, sizeof(s.workdir));
        take(&at, s.hosts, sizeof(s.hosts));
        take(&at, s.resolv, sizeof(s.resolv));
        if (s.m.n_files) {
                memcpy(&s.mode, at, sizeof(s.mode));
                at += sizeof(s.mode);
                take(&at, s.path, sizeof(s.path));
                take(&at, s.content, sizeof(s.content));
        }
        assert_int_equal(at - begin, s.m.payload_len);
        return s;
}

static inline void send_exited(struct fixture *f, const char *id, struct launch_exit e)
{
        struct launch_exited m = { .h = { .op = LAUNCH_EXITED }, .exit = e };

        memcpy(m.id, id, strlen(id));
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
}

static const struct launch_exit exit_3 = {
        .stage = LAUNCH_STAGE_EXECED,
        .si_code = CLD_EXITED,
        .status = 3,
        .clone_ns = 10,
        .exec_ns = 20,
        .exit_ns = 30,
        .counters = { .memory_peak = 5, .cpu_ns = 6 },
};

static inline void wait_exits(struct fixture *f, int n)
{
        for (int i = 0; i < 2000 && f->exits < n; i++)
                turn(f);
        assert_int_equal(f->exits, n);
}

static inline void check_output(struct engine_container *c, enum engine_stream stream, const char *text, uint64_t total)
{
        struct engine_output o;
        char buf[64] = "";

        c->engine->ops->attach(c, stream, &o);
        assert_int_equal(o.kept, strlen(text));
        assert_int_equal(o.total, total);
        assert_true(pread(o.fd, buf, sizeof(buf) - 1, 0) >= 0);
        assert_string_equal(buf, text);
}

/* ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct answer {
        int calls, r;
        uint32_t token;
        size_t n;
        char last[65];
        struct engine_image image;
};

static inline void on_work(int r, uint32_t token, const struct err *err, void *data)
{
        struct answer *a = data;

        (void)err;
        a->calls++;
        a->r = r;
        a->token = token;
}

static inline void on_done(int r, const struct err *err, void *data)
{
        on_work(r, 0, err, data);
}

static inline void on_names(int r, const char (*names)[65], size_t n, const struct err *err, void *data)
{
        struct answer *a = data;

        on_work(r, 0, err, data);
        a->n = n;
        if (n > 0)
                memcpy(a->last, names[n - 1], sizeof(a->last));
}

static inline void on_image(int r, const struct engine_image *image, const struct err *err, void *data)
{
        struct answer *a = data;

        on_work(r, 0, err, data);
        if (image)
                a->image = *image;
}

static inline void on_stats(int r, const struct engine_stats *stats, const struct err *err, void *data)
{
        struct answer *a = data;

        on_work(r, 0, err, data);
        if (stats)
                a->n = (size_t)stats->memory_now;
}

static inline void wait_answer(struct fixture *f, const struct answer *a, int calls)
{
        for (int i = 0; i < 2000 && a->calls < calls; i++)
                turn(f);
        assert_int_equal(a->calls, calls);
}

static inline uint32_t last_seq(const struct fixture *f)
{
        return ((const struct launch_header *)f->launcher.buf)->seq;
}
