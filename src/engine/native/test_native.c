#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "engine/native/internal.h"

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

static void netd_serve(struct fixture *f);

static void turn(struct fixture *f)
{
        assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        if (f->netd_serves && f->netd.fd >= 0)
                netd_serve(f);
}

static void side_open(struct fixture *f, struct side *s, const char *name)
{
        (void)snprintf(s->path, sizeof(s->path), "%s/%s", f->dir, name);
        s->fd = -EBADF;
        assert_int_equal(fd_listen_unix(s->path, SOCK_SEQPACKET, (uid_t)-1, (gid_t)-1, 0600, &s->listener, NULL), 0);
}

static void side_drop_fds(struct side *s)
{
        for (size_t i = 0; i < s->n_fds; i++)
                fd_close(s->fds[i]);
        s->n_fds = 0;
}

static void side_hang_up(struct side *s)
{
        side_drop_fds(s);
        fd_replace(&s->fd, -EBADF);
}

static void side_accept(struct fixture *f, struct side *s)
{
        for (int i = 0; i < 2000 && s->fd < 0; i++) {
                turn(f);
                s->fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        }
        assert_true(s->fd >= 0);
}

static bool side_poll(struct side *s)
{
        side_drop_fds(s);
        s->n_fds = FD_MSG_MAX;
        s->len = 0;
        if (fd_recv(s->fd, s->buf, sizeof(s->buf), &s->len, s->fds, &s->n_fds) == 0)
                return true;
        s->n_fds = 0;
        return false;
}

static void side_expect(struct fixture *f, struct side *s, uint32_t op)
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

static void side_send(struct side *s, const void *data, size_t len, const int *fds, size_t n)
{
        assert_int_equal(fd_send(s->fd, data, len, fds, n), 0);
}

static void launcher_send_op(struct fixture *f, uint32_t op, uint32_t seq)
{
        const struct launch_header h = { op, seq };

        side_send(&f->launcher, &h, sizeof(h), NULL, 0);
}

static void launcher_greet(struct fixture *f)
{
        struct launch_hello m = { .h = { .op = LAUNCH_HELLO }, .version = LAUNCH_VERSION, .slots = f->slots };

        side_accept(f, &f->launcher);
        side_expect(f, &f->launcher, LAUNCH_HELLO);
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
}

static void netd_send(struct fixture *f, struct net_msg m, int fd)
{
        side_send(&f->netd, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0);
}

static void netd_greet(struct fixture *f)
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

static void netd_give(struct fixture *f, const struct net_msg *m)
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

static void netd_serve(struct fixture *f)
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

static void wait_cleans(struct fixture *f, int n)
{
        for (int i = 0; i < 2000 && f->cleans < n; i++)
                turn(f);
        assert_int_equal(f->cleans, n);
}

static void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data);

static void on_listed(int r, const struct err *err, void *data)
{
        struct fixture *f = data;

        (void)err;
        assert_int_equal(r, 0);
        f->listed = true;
}

static void new_engine(struct fixture *f)
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

static void start_engine(struct fixture *f)
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
static void remove_dir(const char *dir)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(path_remove_tree(tmp, dir + strlen("/tmp/")), 0);
}

static int setup(void **state)
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

static int setup_started(void **state)
{
        (void)setup(state);
        start_engine(*state);
        return 0;
}

static int teardown(void **state)
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

static void on_output(struct engine_container *c, enum engine_stream stream, void *data)
{
        (void)c;
        (void)stream;
        ((struct fixture *)data)->outputs++;
}

static void on_exited(struct engine_container *c, const struct engine_exit *exit, void *data)
{
        struct fixture *f = data;

        (void)c;
        f->exit = *exit;
        f->exits++;
}

static const struct engine_events events = { .output = on_output, .exited = on_exited };

static void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data)
{
        struct fixture *f = data;

        assert_true(strlen(id) > 0);
        (void)snprintf(f->found_record, sizeof(f->found_record), "%.*s", (int)len, (const char *)record);
        engine_container_watch(c, &events, f);
        f->found[f->n_found++] = c;
}

static struct engine_spec base_spec(const char *id)
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

static struct engine_container *create(struct fixture *f, const struct engine_spec *spec)
{
        struct engine_container *c = NULL;
        struct err err = ERR_INIT;

        if (f->engine->ops->create(f->engine, spec, &events, f, &c, &err) < 0)
                fail_msg("%s", err.text);
        return c;
}

static struct engine_container *start(struct fixture *f, const char *id)
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

static void take(const char **at, char *ret, size_t size)
{
        uint32_t len;

        memcpy(&len, *at, sizeof(len));
        (void)snprintf(ret, size, "%.*s", (int)len, *at + sizeof(len));
        *at += sizeof(len) + len;
}

static struct started expect_start(struct fixture *f)
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

static void send_exited(struct fixture *f, const char *id, struct launch_exit e)
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

static void wait_exits(struct fixture *f, int n)
{
        for (int i = 0; i < 2000 && f->exits < n; i++)
                turn(f);
        assert_int_equal(f->exits, n);
}

static void check_output(struct engine_container *c, enum engine_stream stream, const char *text, uint64_t total)
{
        struct engine_output o;
        char buf[64] = "";

        c->engine->ops->attach(c, stream, &o);
        assert_int_equal(o.kept, strlen(text));
        assert_int_equal(o.total, total);
        assert_true(pread(o.fd, buf, sizeof(buf) - 1, 0) >= 0);
        assert_string_equal(buf, text);
}

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_one_container(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "abcdefghijklmnop");
        struct started s = expect_start(f);
        struct stat st;
        char buf[8];

        assert_memory_equal(s.m.id, "abcdefghijklmnop", 17);
        assert_memory_equal(s.m.tree, the_image.tree, LAUNCH_HEX);
        assert_int_equal(s.m.limits.memory, 100);
        assert_int_equal(s.m.limits.pids, 500);
        assert_int_equal(s.m.uid, 7);
        assert_int_equal(s.m.gid, 8);
        assert_int_equal(s.m.n_groups, 1);
        assert_int_equal(s.m.flags, 0);
        assert_int_equal(s.m.argc, 3);
        assert_string_equal(s.args[0], "/entry");
        assert_string_equal(s.args[2], "b");
        assert_int_equal(s.m.envc, 5);
        assert_string_equal(s.env[0], "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        assert_string_equal(s.env[1], "HOSTNAME=abcdefghijkl");
        assert_string_equal(s.env[4], "HOME=/home/app");
        assert_string_equal(s.hostname, "abcdefghijkl");
        assert_string_equal(s.workdir, "/srv");
        assert_string_equal(s.hosts, "127.0.0.1\tlocalhost\n10.213.0.1\tabcdefghijkl\n");
        assert_string_equal(s.resolv, "nameserver 9.9.9.9\n");
        /* No input: end of file, and nothing that could be written. */
        assert_int_equal(read(f->launcher.fds[LAUNCH_FD_STDIN], buf, 1), 0);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDIN], "x", 1), -1);
        assert_int_equal(fstat(f->launcher.fds[LAUNCH_FD_STDOUT_W], &st), 0);
        assert_int_equal(st.st_mode & 07777, 0666);

        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "0123456789", 10), 10);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDERR_W], "err", 3), 3);
        send_exited(f, "abcdefghijklmnop", exit_3);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_EXITED);
        assert_int_equal(f->exit.code, 3);
        assert_int_equal(f->exit.memory_peak, 5);
        assert_int_equal(f->exit.start_mono_ns, 20);
        check_output(c, ENGINE_STDOUT, "01234567", 10);
        check_output(c, ENGINE_STDERR, "err", 3);
        wait_cleans(f, 1);
        assert_int_equal(f->clean.index, 1);
        netd_send(f, (struct net_msg){ .op = NET_OP_CLEANED, .seq = f->clean.seq, .index = 1, .ok = 1 }, -1);
        f->engine->ops->remove(c);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);

        /* The next one of the same owner gets the namespace again, one of another owner does not. */
        for (int i = 0; i < 5; i++)
                turn(f);
        (void)start(f, "second");
        s = expect_start(f);
        assert_string_equal(s.hosts, "127.0.0.1\tlocalhost\n10.213.0.1\tsecond\n");
        (void)start(f, "third");
        s = expect_start(f);
        assert_string_equal(s.hosts, "127.0.0.1\tlocalhost\n10.213.0.2\tthird\n");
}

struct command {
        char *cmd[3], *entrypoint[3];
        const char *args[4];
};

static void test_commands(void **state)
{
        static char x[] = "x", y[] = "y";
        static struct command table[] = {
                { { NULL }, { NULL }, { "/entry", "a", "b" } },
                { { x, y }, { NULL }, { "/entry", "x", "y" } },
                { { NULL }, { x }, { "x" } },
                { { y }, { x }, { "x", "y" } },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct engine_spec spec = base_spec((const char *[]){ "c0", "c1", "c2", "c3" }[i]);
                struct started s;

                spec.cmd = table[i].cmd[0] ? table[i].cmd : NULL;
                spec.entrypoint = table[i].entrypoint[0] ? table[i].entrypoint : NULL;
                spec.network = ENGINE_NET_NONE;
                assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
                s = expect_start(f);
                for (size_t k = 0; k < 4 && table[i].args[k]; k++)
                        assert_string_equal(s.args[k], table[i].args[k]);
                assert_string_equal(s.resolv, "");
                send_exited(f, spec.id, exit_3);
                wait_exits(f, (int)i + 1);
                wait_cleans(f, (int)i + 1);
        }
}

static void test_request_over_image(void **state)
{
        char *env[] = { (char[]){ "B=mine" }, (char[]){ "C=" }, (char[]){ "HOME=/h" }, (char[]){ "PATH=/p" }, NULL };
        struct engine_file file = { (char[]){ "d/f" }, (char[]){ "hello" }, 5, 0640, ENGINE_FILE_REGULAR };
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct started s;

        spec.env = env;
        spec.user = "root";
        spec.workdir = "/w";
        spec.files = &file;
        spec.n_files = 1;
        spec.init = true;
        spec.stdin_data = "input";
        spec.stdin_len = 5;
        assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
        s = expect_start(f);
        assert_int_equal(s.m.flags, LAUNCH_F_INIT);
        assert_int_equal(s.m.uid, 0);
        assert_int_equal(s.m.envc, 6);
        assert_string_equal(s.env[0], "PATH=/p");
        assert_string_equal(s.env[2], "A=image");
        assert_string_equal(s.env[3], "B=mine");
        assert_string_equal(s.env[4], "C=");
        assert_string_equal(s.env[5], "HOME=/h");
        assert_string_equal(s.workdir, "/w");
        assert_string_equal(s.path, "/w/d/f");
        assert_string_equal(s.content, "hello");
        assert_int_equal(s.mode, S_IFREG | 0640);
}

static void test_refused_specs(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = NULL;
        struct engine_spec spec = base_spec("UPPER");

        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.digest = "sha256:none";
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -ENOENT);
        spec = base_spec("ok");
        spec.user = "nobody-here";
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.workdir = "relative";
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.entrypoint = (char *[]){ NULL };
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        spec.network = 0;
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        spec = base_spec("ok");
        c = create(f, &spec);
        assert_int_equal(f->engine->ops->create(f->engine, &spec, &events, f, &c, NULL), -EINVAL);
        f->engine->ops->remove(c);
}

static void test_large_payload(void **state)
{
        static char content[300000];
        struct engine_file file = { (char[]){ "/f" }, content, sizeof(content), 0644, ENGINE_FILE_REGULAR };
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct started s;
        struct stat st;

        spec.files = &file;
        spec.n_files = 1;
        assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
        s = expect_start(f);
        assert_int_equal(s.m.flags, LAUNCH_F_SPEC);
        assert_int_equal(f->launcher.len, sizeof(s.m));
        assert_int_equal(fstat(f->launcher.fds[LAUNCH_FD_SPEC], &st), 0);
        assert_int_equal(st.st_size, s.m.payload_len);
        assert_true(s.m.payload_len > sizeof(content));
        assert_int_equal(fcntl(f->launcher.fds[LAUNCH_FD_SPEC], F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
}

static void test_output_while_it_runs(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");

        (void)expect_start(f);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "early", 5), 5);
        for (int i = 0; i < 2000 && f->outputs == 0; i++)
                turn(f);
        assert_true(f->outputs > 0);
        check_output(c, ENGINE_STDOUT, "early", 5);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "0123456789", 10), 10);
        for (int i = 0; i < 2000 && f->outputs == 1; i++)
                turn(f);
        check_output(c, ENGINE_STDOUT, "early012", 15);
        /* A stream that its writers closed is no busy loop. */
        side_drop_fds(&f->launcher);
        for (int i = 0; i < 5; i++)
                turn(f);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        check_output(c, ENGINE_STDOUT, "early012", 15);
}

struct ending {
        struct launch_exit e;
        enum engine_end end;
        int value;
};

static void test_endings(void **state)
{
        static const struct ending table[] = {
                { { .stage = LAUNCH_STAGE_EXECED, .si_code = CLD_KILLED, .status = SIGSEGV },
                  ENGINE_END_SIGNALED,
                  SIGSEGV },
                { { .stage = LAUNCH_STAGE_EXECED, .si_code = CLD_DUMPED, .status = SIGABRT },
                  ENGINE_END_SIGNALED,
                  SIGABRT },
                { { .stage = LAUNCH_STAGE_EXEC, .error = ENOENT }, ENGINE_END_NOT_FOUND, 0 },
                { { .stage = LAUNCH_STAGE_EXEC, .error = EACCES }, ENGINE_END_NOT_EXECUTABLE, 0 },
                { { .stage = LAUNCH_STAGE_EXEC, .error = ENOMEM }, ENGINE_END_START_ERROR, ENOMEM },
                { { .stage = LAUNCH_STAGE_MOUNT, .error = EPERM }, ENGINE_END_START_ERROR, EPERM },
                { { .stage = LAUNCH_STAGE_WORKDIR, .error = ENOTDIR }, ENGINE_END_START_ERROR, ENOTDIR },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                char id[8];
                struct engine_container *c;

                (void)snprintf(id, sizeof(id), "c%zu", i);
                c = start(f, id);
                (void)expect_start(f);
                send_exited(f, id, table[i].e);
                wait_exits(f, (int)i + 1);
                assert_int_equal(f->exit.end, table[i].end);
                if (f->exit.end == ENGINE_END_SIGNALED)
                        assert_int_equal(f->exit.signo, table[i].value);
                if (f->exit.end == ENGINE_END_START_ERROR) {
                        assert_int_equal(f->exit.error, table[i].value);
                        assert_true(strlen(f->exit.text) > 0);
                }
                f->engine->ops->remove(c);
                side_expect(f, &f->launcher, LAUNCH_REMOVE);
                wait_cleans(f, (int)i + 1);
        }
}

static void test_refused_start(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        struct launch_refused m = { .h = { .op = LAUNCH_REFUSED }, .id = "c1", .error = EPERM, .text = "too much" };

        (void)expect_start(f);
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_START_ERROR);
        assert_string_equal(f->exit.text, "too much");
        f->engine->ops->remove(c);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_false(side_poll(&f->launcher)); /* nothing to remove there */
}

static void test_signals_and_removal(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");

        (void)expect_start(f);
        assert_int_equal(f->engine->ops->signal(c, 0, NULL), -EINVAL);
        assert_int_equal(f->engine->ops->signal(c, SIGUSR1, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_SIGNAL);
        assert_int_equal(((struct launch_signal *)f->launcher.buf)->signo, SIGUSR1);
        f->engine->ops->remove(c);
        side_expect(f, &f->launcher, LAUNCH_SIGNAL);
        assert_int_equal(((struct launch_signal *)f->launcher.buf)->signo, SIGKILL);
        send_exited(f, "c1", exit_3);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        assert_int_equal(f->exits, 0);
}

static void test_slots(void **state)
{
        struct fixture *f = *state;
        const struct image_workers *w;
        struct engine_container *c[3];

        f->slots = 1;
        start_engine(f);
        w = engine_native_workers(f->engine);
        c[0] = start(f, "c0");
        (void)expect_start(f);
        c[1] = start(f, "c1");
        c[2] = start(f, "c2");
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_false(side_poll(&f->launcher));
        /* Nor is the image of those who wait taken away, of which the launcher does not know yet. */
        assert_int_equal(w->remove(w->context, IMAGE_TREE, the_image.tree, NULL, NULL, NULL), -EBUSY);
        /* Whoever is killed while it waits never starts. */
        assert_int_equal(f->engine->ops->signal(c[1], SIGKILL, NULL), 0);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_SIGNALED);
        assert_int_equal(f->exit.signo, SIGKILL);
        f->engine->ops->remove(c[1]);
        send_exited(f, "c0", exit_3);
        wait_exits(f, 2);
        f->engine->ops->remove(c[0]);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        assert_memory_equal(expect_start(f).m.id, "c2", 3);
}

static void test_no_namespace(void **state)
{
        struct fixture *f = *state;
        struct engine_spec spec = base_spec("c1");
        struct net_msg m;

        while (f->index < 2)
                turn(f); /* until the stock of the default mode is there */
        f->netd_serves = false;
        spec.network = ENGINE_NET_INTERNET;
        assert_int_equal(f->engine->ops->start(create(f, &spec), NULL), 0);
        side_expect(f, &f->netd, NET_OP_ACQUIRE);
        memcpy(&m, f->netd.buf, sizeof(m));
        assert_int_equal(m.mode, NET_INTERNET);
        m.op = NET_OP_FAILED;
        m.error = ENOSPC;
        netd_send(f, m, -1);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_START_ERROR);
        assert_int_equal(f->exit.error, ENOSPC);
}

static void test_netd_comes_back(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        int adopted = 0;
        struct net_msg m = { .op = NET_OP_ADOPT };

        (void)expect_start(f);
        side_hang_up(&f->netd);
        f->netd_serves = false;
        while (f->engine->ops->check(f->engine, NULL) == 0)
                turn(f);
        assert_int_equal(f->engine->ops->check(f->engine, NULL), -ENETDOWN);
        netd_greet(f);
        while (m.op == NET_OP_ADOPT) {
                while (!side_poll(&f->netd))
                        turn(f);
                memcpy(&m, f->netd.buf, sizeof(m));
                if (m.op != NET_OP_ADOPT)
                        break;
                assert_int_equal(f->netd.n_fds, 1);
                /* The one in use is ours again; those in stock are not. */
                netd_send(f, (struct net_msg){ .op = NET_OP_CLEANED, .seq = m.seq, .ok = m.index == 1 }, -1);
                adopted++;
        }
        assert_int_equal(m.op, NET_OP_SYNCED);
        assert_true(adopted >= 2);
        f->netd_serves = true;
        for (int i = 0; i < 5; i++)
                turn(f);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        wait_cleans(f, 1);
        assert_int_equal(f->clean.index, 1);
        f->engine->ops->remove(c);
}

static void test_launcher_dies(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1"), *later;

        (void)expect_start(f);
        assert_int_equal(write(f->launcher.fds[LAUNCH_FD_STDOUT_W], "said", 4), 4);
        side_hang_up(&f->launcher);
        while (f->engine->ops->check(f->engine, NULL) != -ENOTCONN)
                turn(f);
        later = start(f, "c2"); /* waits for the next launcher */
        assert_int_equal(f->exits, 0);
        launcher_greet(f);
        launcher_send_op(f, LAUNCH_READY, 0);
        wait_exits(f, 1);
        assert_int_equal(f->exit.end, ENGINE_END_LOST);
        check_output(c, ENGINE_STDOUT, "said", 4);
        assert_memory_equal(expect_start(f).m.id, "c2", 3);
        f->engine->ops->remove(c);
        send_exited(f, "c2", exit_3);
        wait_exits(f, 2);
        f->engine->ops->remove(later);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
}

static void send_adopt(struct fixture *f, const char *id, const int *fds, const struct launch_exit *exit)
{
        struct launch_adopt m = { .h = { .op = LAUNCH_ADOPT } };

        memcpy(m.id, id, strlen(id));
        if (exit) {
                m.ended = 1;
                m.exit = *exit;
        }
        side_send(&f->launcher, &m, sizeof(m), fds, LAUNCH_ADOPT_COUNT);
}

static void test_connection_is_lost(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        int fds[LAUNCH_ADOPT_COUNT];

        (void)expect_start(f);
        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        side_hang_up(&f->launcher);
        launcher_greet(f);
        send_adopt(f, "c1", fds, NULL);
        send_adopt(f, "stranger", fds, NULL);
        launcher_send_op(f, LAUNCH_READY, 0);
        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fd_close(fds[i]);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        assert_memory_equal(((struct launch_id *)f->launcher.buf)->id, "stranger", 9);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_int_equal(f->exits, 0);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        assert_int_equal(f->exit.code, 3);
        f->engine->ops->remove(c);
}

/* A daemon dies with two containers, one of which has ended; the next one gets both with all they wrote. */
static void test_adoption(void **state)
{
        static const int from[LAUNCH_ADOPT_COUNT] = {
                LAUNCH_FD_STDOUT_R,   LAUNCH_FD_STDERR_R, LAUNCH_FD_STDOUT_MEM,
                LAUNCH_FD_STDERR_MEM, LAUNCH_FD_RECORD,   LAUNCH_FD_NETNS,
        };
        struct fixture *f = *state;
        int kept[2][LAUNCH_ADOPT_COUNT], writers[2];
        struct engine_container *c;

        for (int k = 0; k < 2; k++) {
                c = start(f, k ? "c1" : "c0");
                (void)expect_start(f);
                writers[k] = fcntl(f->launcher.fds[LAUNCH_FD_STDOUT_W], F_DUPFD_CLOEXEC, 0);
                for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                        kept[k][i] = fcntl(f->launcher.fds[from[i]], F_DUPFD_CLOEXEC, 0);
                assert_int_equal(f->engine->ops->update_record(c, "first", 5, NULL), 0);
                assert_int_equal(f->engine->ops->update_record(c, "second", 6, NULL), 0);
                assert_int_equal(write(writers[k], "0123456789", 10), 10);
        }
        for (int i = 0; i < 2000 && f->outputs < 2; i++)
                turn(f);
        f->engine->ops->free(f->engine);
        side_hang_up(&f->launcher);
        side_hang_up(&f->netd);
        f->netd_serves = false;
        turn(f);
        assert_int_equal(write(writers[0], "more", 4), 4);
        f->exits = f->outputs = 0;

        new_engine(f);
        launcher_greet(f);
        send_adopt(f, "c0", kept[0], NULL);
        send_adopt(f, "c1", kept[1], &exit_3);
        launcher_send_op(f, LAUNCH_READY, 0);
        wait_exits(f, 1);
        assert_int_equal(f->n_found, 2);
        assert_string_equal(f->found_record, "second");
        assert_int_equal(f->exit.code, 3);
        check_output(f->found[1], ENGINE_STDOUT, "01234567", 10);
        send_exited(f, "c0", exit_3);
        wait_exits(f, 2);
        check_output(f->found[0], ENGINE_STDOUT, "01234567", 14);
        netd_greet(f);
        side_expect(f, &f->netd, NET_OP_SYNCED); /* both have ended: nothing is in use */
        for (int k = 0; k < 2; k++) {
                f->engine->ops->remove(f->found[k]);
                side_expect(f, &f->launcher, LAUNCH_REMOVE);
                fd_close(writers[k]);
                for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                        fd_close(kept[k][i]);
        }
}

static void test_adoption_without_record(void **state)
{
        struct fixture *f = *state;
        int fds[LAUNCH_ADOPT_COUNT];

        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fds[i] = memfd_create("empty", MFD_CLOEXEC);
        new_engine(f);
        launcher_greet(f);
        send_adopt(f, "c1", fds, NULL);
        launcher_send_op(f, LAUNCH_READY, 0);
        side_expect(f, &f->launcher, LAUNCH_REMOVE);
        while (!f->listed)
                turn(f);
        assert_int_equal(f->n_found, 0);
        for (size_t i = 0; i < LAUNCH_ADOPT_COUNT; i++)
                fd_close(fds[i]);
}

static void test_malformed(void **state)
{
        static const uint32_t ops[] = { 0, LAUNCH_START, 1000, LAUNCH_HELLO, LAUNCH_EXITED, LAUNCH_READY };
        struct fixture *f = *state;

        f->netd_serves = false;
        for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
                launcher_send_op(f, ops[i], 1);
                side_send(&f->netd, &(uint32_t){ 77 }, sizeof(uint32_t), NULL, 0);
                while (f->engine->ops->check(f->engine, NULL) != -ENOTCONN)
                        turn(f);
                side_hang_up(&f->launcher);
                side_hang_up(&f->netd);
                launcher_greet(f);
                launcher_send_op(f, LAUNCH_READY, 0);
                netd_greet(f);
                for (int k = 0; k < 2000 && f->engine->ops->check(f->engine, NULL) < 0; k++)
                        turn(f);
                assert_int_equal(f->engine->ops->check(f->engine, NULL), 0);
                turn(f);
        }
}

/* ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct answer {
        int calls, r;
        uint32_t token;
        size_t n;
        char last[65];
        struct engine_image image;
};

static void on_work(int r, uint32_t token, const struct err *err, void *data)
{
        struct answer *a = data;

        (void)err;
        a->calls++;
        a->r = r;
        a->token = token;
}

static void on_done(int r, const struct err *err, void *data)
{
        on_work(r, 0, err, data);
}

static void on_names(int r, const char (*names)[65], size_t n, const struct err *err, void *data)
{
        struct answer *a = data;

        on_work(r, 0, err, data);
        a->n = n;
        if (n > 0)
                memcpy(a->last, names[n - 1], sizeof(a->last));
}

static void on_image(int r, const struct engine_image *image, const struct err *err, void *data)
{
        struct answer *a = data;

        on_work(r, 0, err, data);
        if (image)
                a->image = *image;
}

static void on_stats(int r, const struct engine_stats *stats, const struct err *err, void *data)
{
        struct answer *a = data;

        on_work(r, 0, err, data);
        if (stats)
                a->n = (size_t)stats->memory_now;
}

static void wait_answer(struct fixture *f, const struct answer *a, int calls)
{
        for (int i = 0; i < 2000 && a->calls < calls; i++)
                turn(f);
        assert_int_equal(a->calls, calls);
}

static uint32_t last_seq(const struct fixture *f)
{
        return ((const struct launch_header *)f->launcher.buf)->seq;
}

static void test_workers(void **state)
{
        static const struct {
                int si_code, status;
                uint32_t oom;
                int r;
        } table[] = {
                { CLD_EXITED, 0, 0, 0 },
                { CLD_EXITED, 1, 0, -EBADMSG },
                { CLD_KILLED, SIGKILL, 1, -ENOMEM },
                { CLD_KILLED, SIGXCPU, 0, -ETIMEDOUT },
                { CLD_KILLED, SIGSYS, 0, -EIO },
        };
        struct fixture *f = *state;
        const struct image_workers *w = engine_native_workers(f->engine);
        auto_fd fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        char layers[2][65] = { { 0 } };
        struct answer a = { .calls = 0 };

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct launch_work_done done = {
                        .h = { .op = LAUNCH_WORK_DONE },
                        .token = 7,
                        .si_code = table[i].si_code,
                        .status = table[i].status,
                        .oom = table[i].oom,
                };

                assert_int_equal(w->unpack(w->context, fd, fd, 10, 20, on_work, &a, NULL), 0);
                side_expect(f, &f->launcher, LAUNCH_WORK);
                assert_int_equal(f->launcher.n_fds, 2);
                done.h.seq = last_seq(f);
                side_send(&f->launcher, &done, sizeof(done), NULL, 0);
                wait_answer(f, &a, (int)i + 1);
                assert_int_equal(a.r, table[i].r);
                assert_int_equal(a.token, table[i].r == 0 ? 7 : 0);
        }
        memset(layers[0], 'a', 64);
        memset(layers[1], 'b', 64);
        a.calls = 0;
        assert_int_equal(w->merge(w->context, (const char(*)[65])layers, 2, fd, on_work, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_WORK);
        assert_int_equal(f->launcher.len, sizeof(struct launch_work_start) + 2 * LAUNCH_HEX);
        assert_int_equal(w->index(w->context, fd, fd, fd, 1, 1, on_work, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_WORK);
        assert_int_equal(f->launcher.n_fds, 3);
        /* Both are still at work when the launcher dies. */
        side_hang_up(&f->launcher);
        wait_answer(f, &a, 2);
        assert_int_equal(a.r, -ENOTCONN);
        assert_int_equal(w->index(w->context, fd, fd, fd, 1, 1, on_work, &a, NULL), -ENOTCONN);
}

static void test_store_operations(void **state)
{
        struct fixture *f = *state;
        const struct image_workers *w = engine_native_workers(f->engine);
        struct launch_refused refused = { .h = { .op = LAUNCH_REFUSED }, .error = EEXIST, .text = "there already" };
        struct answer a = { .calls = 0 };
        char name[65] = "";
        struct {
                struct launch_names m;
                char names[2][LAUNCH_HEX];
        } names = { .m = { .h = { .op = LAUNCH_NAMES }, .n = 2, .more = 1 } };

        memset(name, 'c', 64);
        memset(names.names, 'd', sizeof(names.names));
        assert_int_equal(w->commit(w->context, 7, IMAGE_TREE, "short", on_done, &a, NULL), -EINVAL);
        assert_int_equal(w->commit(w->context, 7, IMAGE_TREE, name, on_done, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_COMMIT);
        launcher_send_op(f, LAUNCH_DONE, last_seq(f));
        wait_answer(f, &a, 1);
        assert_int_equal(a.r, 0);
        assert_int_equal(w->remove(w->context, IMAGE_LAYER, name, on_done, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_DELETE);
        refused.h.seq = last_seq(f);
        side_send(&f->launcher, &refused, sizeof(refused), NULL, 0);
        wait_answer(f, &a, 2);
        assert_int_equal(a.r, -EEXIST);
        assert_int_equal(w->discard(w->context, 7, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_DISCARD);
        launcher_send_op(f, LAUNCH_DONE, last_seq(f));
        assert_int_equal(w->list(w->context, IMAGE_LAYER, on_names, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_LIST);
        names.m.h.seq = last_seq(f);
        side_send(&f->launcher, &names, sizeof(names), NULL, 0);
        names.m.n = 1;
        names.m.more = 0;
        side_send(&f->launcher, &names, sizeof(names.m) + LAUNCH_HEX, NULL, 0);
        wait_answer(f, &a, 3);
        assert_int_equal(a.n, 3);
        assert_int_equal(strlen(a.last), 64);
}

static void test_stats(void **state)
{
        struct fixture *f = *state;
        struct engine_container *c = start(f, "c1");
        struct launch_stats m = { .h = { .op = LAUNCH_COUNTERS }, .id = "c1", .counters = { .memory_now = 99 } };
        struct answer a = { .calls = 0 };

        (void)expect_start(f);
        assert_int_equal(f->engine->ops->stats(c, on_stats, &a, NULL), 0);
        side_expect(f, &f->launcher, LAUNCH_STATS);
        m.h.seq = last_seq(f);
        side_send(&f->launcher, &m, sizeof(m), NULL, 0);
        wait_answer(f, &a, 1);
        assert_int_equal(a.n, 99);
        send_exited(f, "c1", exit_3);
        wait_exits(f, 1);
        assert_int_equal(f->engine->ops->stats(c, on_stats, &a, NULL), -ESRCH);
}

static void test_ensure_image(void **state)
{
        static const struct {
                const char *ref;
                int r;
        } table[] = { { "x", 0 }, { DIGEST, 0 }, { "unknown", -ENOENT }, { "!", -EINVAL } };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct answer a = { .calls = 0 };

                assert_int_equal(f->engine->ops->ensure_image(
                                         f->engine, &(struct engine_image_request){ .ref = table[i].ref, .owner = "o" },
                                         on_image, &a, NULL),
                                 0);
                assert_int_equal(a.calls, 0);
                wait_answer(f, &a, 1);
                assert_int_equal(a.r, table[i].r);
                if (a.r < 0)
                        continue;
                assert_string_equal(a.image.ref, "docker.io/library/x:latest");
                assert_string_equal(a.image.digest, DIGEST);
        }
}

static void test_record(void **state)
{
        auto_fd fd = memfd_create("record", MFD_CLOEXEC);
        const struct native_record rec = { .mode = NET_NAT, .output_limit = 5 };
        struct native_record back;
        uint32_t slot = 0, read_slot = 9;

        (void)state;
        assert_int_equal(native_record_read(fd, &back, &read_slot, NULL), -EBADMSG);
        assert_int_equal(native_record_write(fd, &rec, "owner", "data", 4, NULL), 0);
        assert_int_equal(native_record_started(fd, 1, 2, 3, NULL), 0);
        assert_int_equal(native_record_dropped(fd, (uint64_t[]){ 4, 5 }), 0);
        assert_int_equal(native_record_update(fd, &slot, "other data", 10, NULL), 0);
        assert_int_equal(native_record_read(fd, &back, &read_slot, NULL), 0);
        assert_int_equal(read_slot, slot);
        assert_string_equal(back.owner.data, "owner");
        assert_string_equal(back.data.data, "other data");
        assert_int_equal(back.net_index, 1);
        assert_int_equal(back.net_address, 2);
        assert_int_equal(back.start_ns, 3);
        assert_int_equal(back.dropped[1], 5);
        assert_int_equal(back.output_limit, 5);
        native_record_done(&back);
        assert_int_equal(ftruncate(fd, 80), 0);
        assert_int_equal(native_record_read(fd, &back, &read_slot, NULL), -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_one_container, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_commands, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_request_over_image, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_refused_specs, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_large_payload, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_output_while_it_runs, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_endings, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_refused_start, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_signals_and_removal, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_slots, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_namespace, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_netd_comes_back, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_launcher_dies, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_connection_is_lost, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_adoption, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_adoption_without_record, setup, teardown),
                cmocka_unit_test_setup_teardown(test_malformed, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_workers, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_store_operations, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_stats, setup_started, teardown),
                cmocka_unit_test_setup_teardown(test_ensure_image, setup_started, teardown),
                cmocka_unit_test(test_record),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
