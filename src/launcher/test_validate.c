#include "launcher/validate.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/test_skip.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct ceiling ceiling = {
        .caps = CEILING_CAPS_DEFAULT, .memory_max = 1 << 30, .cpu_max = 4000, .pids_max = 1024
};

static struct launch_start good_start(void)
{
        struct launch_start s = {
                .h = { .op = LAUNCH_START },
                .id = "abc123",
                .limits = { .memory = 1 << 20, .disk = 1 << 20, .shm = 1 << 20, .cpu_milli = 1000, .pids = 10 },
                .argc = 1,
        };

        memset(s.tree, 'a', sizeof(s.tree));
        return s;
}

static int check(const struct launch_start *s)
{
        return validate_start(s, &ceiling, NULL);
}

static void test_id(void **state)
{
        char id[LAUNCH_ID_MAX] = "a";

        (void)state;
        assert_true(validate_id(id));
        id[2] = 'b'; /* something after a NUL */
        assert_false(validate_id(id));
        memset(id, 'z', sizeof(id));
        assert_true(validate_id(id));
        id[0] = 'Z';
        assert_false(validate_id(id));
        memset(id, 0, sizeof(id));
        assert_false(validate_id(id));
}

static void test_start_fields(void **state)
{
        struct launch_start s = good_start();

        (void)state;
        assert_int_equal(check(&s), 0);
#define BAD(change, r)                                                                                                 \
        do {                                                                                                           \
                s = good_start();                                                                                      \
                change;                                                                                                \
                assert_int_equal(check(&s), r);                                                                        \
        } while (0)
        BAD(s.id[0] = '/', -EBADMSG);
        BAD(s.tree[63] = 'G', -EBADMSG);
        BAD(s.tree[0] = '.', -EBADMSG);
        BAD(s.flags = 8, -EBADMSG);
        BAD(s.argc = 0, -EBADMSG);
        BAD(s.argc = LAUNCH_ARGS_MAX + 1, -EBADMSG);
        BAD(s.envc = LAUNCH_ARGS_MAX + 1, -EBADMSG);
        BAD(s.n_files = LAUNCH_FILES_MAX + 1, -EBADMSG);
        BAD(s.n_secrets = LAUNCH_SECRETS_MAX + 1, -EBADMSG);
        BAD(s.n_groups = LAUNCH_GROUPS_MAX + 1, -EBADMSG);
        BAD((s.n_groups = 1, s.groups[0] = 65536), -EBADMSG);
        BAD(s.uid = 65536, -EBADMSG);
        BAD(s.gid = UINT32_MAX, -EBADMSG);
        BAD(s.caps = UINT64_C(1) << 21, -EPERM); /* SYS_ADMIN */
        BAD(s.caps = UINT64_MAX, -EPERM);
        BAD(s.limits.memory = 0, -EPERM);
        BAD(s.limits.memory = 1 << 30, -EPERM); /* with disk and shm it is above */
        BAD(s.limits.disk = UINT64_MAX, -EPERM);
        BAD(s.limits.shm = UINT64_MAX - (2 << 20) + 1, -EPERM); /* the sum overflows */
        BAD(s.limits.cpu_milli = 0, -EPERM);
        BAD(s.limits.cpu_milli = 4001, -EPERM);
        BAD(s.limits.pids = 1025, -EPERM);
#undef BAD
}

static void add(struct str *s, const char *text)
{
        uint32_t n = (uint32_t)strlen(text);

        assert_int_equal(str_add(s, &n, sizeof(n)), 0);
        assert_int_equal(str_add(s, text, n), 0);
}

/* argv sh, env K=V, hostname, workdir, hosts, resolv.conf, one file. */
static void payload(struct str *s, const char *env, const char *hostname, const char *workdir, uint32_t mode)
{
        str_clear(s);
        add(s, "sh");
        add(s, env);
        add(s, hostname);
        add(s, workdir);
        add(s, "127.0.0.1 localhost\n");
        add(s, "");
        assert_int_equal(str_add(s, &mode, sizeof(mode)), 0);
        add(s, "a/b");
        add(s, "content");
}

static int check_payload(struct str *s)
{
        struct launch_start m = good_start();

        m.envc = m.n_files = 1;
        m.payload_len = (uint32_t)s->len;
        return validate_payload(&m, s->data, s->len, NULL);
}

static void test_payload(void **state)
{
        static const struct {
                uint32_t mode;
                int r;
        } types[] = {
                { S_IFREG | 07777, 0 },       { S_IFLNK, 0 },
                { S_IFLNK | 0777, -EBADMSG }, { S_IFDIR | 0755, -EBADMSG /* with content */ },
                { S_IFIFO | 0644, -EBADMSG }, { S_IFCHR | 0644, -EBADMSG },
                { 0644, -EBADMSG },           { S_IFREG | 0200000, -EBADMSG },
        };
        auto_str s = STR_INIT;

        (void)state;
        payload(&s, "K=V", "host", "/", S_IFREG | 0644);
        assert_int_equal(check_payload(&s), 0);
        for (size_t n = s.len; n-- > 0;) { /* every truncation */
                struct str cut = { .data = s.data, .len = n };

                assert_int_equal(check_payload(&cut), -EBADMSG);
        }
        assert_int_equal(str_addc(&s, 'x'), 0); /* one byte too many */
        assert_int_equal(check_payload(&s), -EBADMSG);
        payload(&s, "KV", "host", "/", S_IFREG | 0644);
        assert_int_equal(check_payload(&s), -EBADMSG);
        payload(&s, "=V", "host", "/", S_IFREG | 0644);
        assert_int_equal(check_payload(&s), -EBADMSG);
        payload(&s, "K=V", "", "/", S_IFREG | 0644);
        assert_int_equal(check_payload(&s), -EBADMSG);
        payload(&s, "K=V", "a\nb", "/", S_IFREG | 0644);
        assert_int_equal(check_payload(&s), -EBADMSG);
        payload(&s, "K=V", "host", "relative", S_IFREG | 0644);
        assert_int_equal(check_payload(&s), -EBADMSG);
        for (size_t i = 0; i < ARRAY_LEN(types); i++) {
                payload(&s, "K=V", "host", "/", types[i].mode);
                assert_int_equal(check_payload(&s), types[i].r);
        }
        payload(&s, "K=V", "host", "/", S_IFREG | 0644);
        s.data[5] = '\0'; /* within argv[0] */
        assert_int_equal(check_payload(&s), -EBADMSG);
        memset(s.data, 0xff, 4); /* a length that overflows */
        assert_int_equal(check_payload(&s), -EBADMSG);
}

static int check_secret(const char *name, size_t len)
{
        struct launch_start m = good_start();
        auto_free char *value = calloc(1, len + 1);
        auto_str s = STR_INIT;
        int r;

        memset(value, 'v', len);
        payload(&s, "K=V", "host", "/", S_IFREG | 0644);
        s.len -= 3 * sizeof(uint32_t) + strlen("a/b") + strlen("content");
        add(&s, name);
        add(&s, value);
        m.envc = m.n_secrets = 1;
        m.payload_len = (uint32_t)s.len;
        r = validate_payload(&m, s.data, s.len, NULL);
        for (size_t n = s.len; r == 0 && n-- > 0;) {
                m.payload_len = (uint32_t)n;
                assert_int_equal(validate_payload(&m, s.data, n, NULL), -EBADMSG);
        }
        return r;
}

static void test_secrets(void **state)
{
        char name[LAUNCH_SECRET_NAME_MAX + 2] = "";

        (void)state;
        assert_int_equal(check_secret("A-z_0.9", 0), 0);
        assert_int_equal(check_secret("..a", 10), 0);
        assert_int_equal(check_secret("", 1), -EBADMSG);
        assert_int_equal(check_secret(".", 1), -EBADMSG);
        assert_int_equal(check_secret("..", 1), -EBADMSG);
        assert_int_equal(check_secret("a/b", 1), -EBADMSG);
        assert_int_equal(check_secret("a b", 1), -EBADMSG);
        assert_int_equal(check_secret("a", LAUNCH_SECRET_MAX + 1), -EBADMSG);
        memset(name, 'a', LAUNCH_SECRET_NAME_MAX);
        assert_int_equal(check_secret(name, 1), 0);
        name[LAUNCH_SECRET_NAME_MAX] = 'a';
        assert_int_equal(check_secret(name, 1), -EBADMSG);
}

static int check_copy(const struct launch_copy *m, const char *path, size_t len, size_t n_fds)
{
        _Alignas(8) char packet[sizeof(*m) + 8192];

        memcpy(packet, m, sizeof(*m));
        memcpy(packet + sizeof(*m), path, len);
        return validate_packet(packet, sizeof(*m) + len, n_fds, NULL);
}

static void test_copy(void **state)
{
        const struct launch_copy good = {
                .h = { .op = LAUNCH_COPY_OUT },
                .id = "c1",
                .max_bytes = 1,
                .timeout_ms = 1,
                .path_len = 3,
        };
        struct launch_copy m = good;
        char path[LAUNCH_TEXT_MAX] = "";

        (void)state;
        memset(path, 'a', sizeof(path));
        assert_int_equal(check_copy(&m, "a/b", 3, 1), 0);
        assert_int_equal(check_copy(&m, "a/b", 3, 0), -EBADMSG);
        assert_int_equal(check_copy(&m, "a/b", 3, 2), -EBADMSG);
        assert_int_equal(check_copy(&m, "a/b", 2, 1), -EBADMSG);
        assert_int_equal(check_copy(&m, "a/bc", 4, 1), -EBADMSG);
        assert_int_equal(check_copy(&m, "a\0b", 3, 1), -EBADMSG);
        m.path_len = 0;
        assert_int_equal(check_copy(&m, "", 0, 1), -EBADMSG);
        m.path_len = LAUNCH_TEXT_MAX;
        assert_int_equal(check_copy(&m, path, LAUNCH_TEXT_MAX, 1), -EBADMSG);
        m.path_len = LAUNCH_TEXT_MAX - 1;
        assert_int_equal(check_copy(&m, path, LAUNCH_TEXT_MAX - 1, 1), 0);
        m = good;
        m.max_bytes = LAUNCH_COPY_BYTES_MAX + 1;
        assert_int_equal(check_copy(&m, "a/b", 3, 1), -EBADMSG);
        m.max_bytes = 0;
        assert_int_equal(check_copy(&m, "a/b", 3, 1), -EBADMSG);
        m = good;
        m.timeout_ms = 0;
        assert_int_equal(check_copy(&m, "a/b", 3, 1), -EBADMSG);
        m.timeout_ms = LAUNCH_COPY_MS_MAX + 1;
        assert_int_equal(check_copy(&m, "a/b", 3, 1), -EBADMSG);
        m = good;
        m.id[0] = '/';
        assert_int_equal(check_copy(&m, "a/b", 3, 1), -EBADMSG);
}

static void test_packet(void **state)
{
        struct launch_hello hello = { .h = { .op = LAUNCH_HELLO } };
        struct launch_id id = { .h = { .op = LAUNCH_REMOVE }, .id = "x" };
        struct launch_start start = good_start();

        (void)state;
        assert_int_equal(validate_packet(&hello, sizeof(hello), 0, NULL), 0);
        assert_int_equal(validate_packet(&hello, sizeof(hello), 1, NULL), -EBADMSG);
        assert_int_equal(validate_packet(&hello, sizeof(hello) - 1, 0, NULL), -EBADMSG);
        assert_int_equal(validate_packet(&hello, 3, 0, NULL), -EBADMSG);
        hello.h.op = LAUNCH_EXITED;
        assert_int_equal(validate_packet(&hello, sizeof(hello), 0, NULL), -EBADMSG);
        hello.h.op = 0;
        assert_int_equal(validate_packet(&hello, sizeof(hello), 0, NULL), -EBADMSG);
        assert_int_equal(validate_packet(&id, sizeof(id), 0, NULL), 0);
        id.id[0] = '.';
        assert_int_equal(validate_packet(&id, sizeof(id), 0, NULL), -EBADMSG);
        assert_int_equal(validate_packet(&start, sizeof(start), LAUNCH_FD_COUNT - 1, NULL), 0);
        assert_int_equal(validate_packet(&start, sizeof(start), LAUNCH_FD_COUNT, NULL), -EBADMSG);
        assert_int_equal(validate_packet(&start, sizeof(start), 0, NULL), -EBADMSG);
        start.payload_len = 1;
        assert_int_equal(validate_packet(&start, sizeof(start), LAUNCH_FD_COUNT - 1, NULL), -EBADMSG);
        start.flags = LAUNCH_F_SPEC;
        assert_int_equal(validate_packet(&start, sizeof(start), LAUNCH_FD_COUNT, NULL), 0);
        start.payload_len = LAUNCH_PAYLOAD_MAX + 1;
        assert_int_equal(validate_packet(&start, sizeof(start), LAUNCH_FD_COUNT, NULL), -EBADMSG);
}

/* ── descriptors ──────────────────────────────────────────────────────────────────────────────────────────────────── */

struct bundle {
        int fds[LAUNCH_FD_COUNT];
};

static int foreign_netns(void)
{
        int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd;

        assert_int_equal(unshare(CLONE_NEWNET), 0);
        fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        assert_int_equal(setns(own, CLONE_NEWNET), 0);
        fd_close(own);
        return fd;
}

static void open_bundle(struct bundle *b)
{
        int out[2], err[2];

        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        assert_int_equal(pipe2(err, O_CLOEXEC), 0);
        b->fds[LAUNCH_FD_NETNS] = foreign_netns();
        b->fds[LAUNCH_FD_STDIN] = memfd_create("in", MFD_CLOEXEC);
        b->fds[LAUNCH_FD_STDOUT_W] = out[1];
        b->fds[LAUNCH_FD_STDERR_W] = err[1];
        b->fds[LAUNCH_FD_STDOUT_R] = out[0];
        b->fds[LAUNCH_FD_STDERR_R] = err[0];
        b->fds[LAUNCH_FD_STDOUT_MEM] = memfd_create("out", MFD_CLOEXEC);
        b->fds[LAUNCH_FD_STDERR_MEM] = memfd_create("err", MFD_CLOEXEC);
        b->fds[LAUNCH_FD_RECORD] = memfd_create("record", MFD_CLOEXEC);
        assert_int_equal(fd_memfd_sealed("spec", "12345", 5, &b->fds[LAUNCH_FD_SPEC], NULL), 0);
}

static void close_bundle(struct bundle *b)
{
        for (size_t i = 0; i < LAUNCH_FD_COUNT; i++)
                fd_replace(&b->fds[i], -EBADF);
}

/* The bundle with one descriptor replaced, which is closed. */
static int with(const struct validate_host *host, enum launch_start_fd at, int fd)
{
        struct bundle b;
        int r;

        assert_true(fd >= 0);
        open_bundle(&b);
        fd_replace(&b.fds[at], fd);
        r = validate_start_fds(host, b.fds, LAUNCH_FD_COUNT, 5, NULL);
        close_bundle(&b);
        return r;
}

static int fifo_on_disk(int flags)
{
        int fd;

        (void)unlink("/tmp/test-validate-fifo");
        assert_int_equal(mkfifo("/tmp/test-validate-fifo", 0600), 0);
        fd = open("/tmp/test-validate-fifo", O_RDWR | O_CLOEXEC);
        if (flags != O_RDWR) {
                int other = open("/tmp/test-validate-fifo", flags | O_CLOEXEC);

                fd_close(fd);
                fd = other;
        }
        (void)unlink("/tmp/test-validate-fifo");
        return fd;
}

static void test_descriptors(void **state)
{
        struct validate_host host;
        struct bundle b;
        int fds[2];

        (void)state;
        skip_unless_root();
        assert_int_equal(validate_host_init(&host, NULL), 0);
        open_bundle(&b);
        assert_int_equal(validate_start_fds(&host, b.fds, LAUNCH_FD_COUNT, 5, NULL), 0);
        assert_int_equal(validate_start_fds(&host, b.fds, LAUNCH_FD_COUNT - 1, 0, NULL), 0);
        assert_int_equal(validate_start_fds(&host, b.fds, LAUNCH_FD_COUNT, 4, NULL), -EBADMSG);
        close_bundle(&b);

        assert_int_equal(with(&host, LAUNCH_FD_NETNS, open("/proc/self/ns/net", O_RDONLY)), -EBADMSG);
        if (access("/proc/1/ns/net", R_OK) == 0)
                assert_int_equal(with(&host, LAUNCH_FD_NETNS, open("/proc/1/ns/net", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_NETNS, open("/proc/self/ns/mnt", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_NETNS, open("/proc/self/ns/user", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_NETNS, open("/dev/null", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_NETNS, open("/", O_PATH)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDIN, open("/dev/null", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDIN, open("/etc/passwd", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDIN, open("/", O_RDONLY | O_DIRECTORY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDOUT_W, open("/dev/null", O_WRONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDOUT_W, fifo_on_disk(O_WRONLY | O_NONBLOCK)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDOUT_R, fifo_on_disk(O_RDONLY | O_NONBLOCK)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDOUT_MEM, open("/etc/passwd", O_RDONLY)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_RECORD, open("/", O_PATH)), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_SPEC, open("/etc/passwd", O_RDONLY)), -EBADMSG);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0); /* another pipe's end */
        assert_int_equal(with(&host, LAUNCH_FD_STDOUT_R, fds[0]), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_STDERR_W, fds[1]), -EBADMSG);
}

/* As `ip netns add` leaves one, for everybody to open. */
static void test_named_netns(void **state)
{
        static const char path[] = "/tmp/test-validate-netns";
        struct validate_host host;
        char from[64];
        int fd, ns;

        (void)state;
        skip_unless_root();
        assert_int_equal(validate_host_init(&host, NULL), 0);
        ns = foreign_netns();
        assert_int_equal(unshare(CLONE_NEWNS), 0);
        assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        fd_close(open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
        (void)snprintf(from, sizeof(from), "/proc/self/fd/%d", ns);
        assert_int_equal(mount(from, path, NULL, MS_BIND, NULL), 0);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(umount2(path, MNT_DETACH), 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(with(&host, LAUNCH_FD_NETNS, fd), -EBADMSG);
        assert_int_equal(with(&host, LAUNCH_FD_NETNS, ns), 0);
}

static void test_unsealed_spec(void **state)
{
        struct validate_host host;
        int fd = memfd_create("spec", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        (void)state;
        skip_unless_root();
        assert_int_equal(validate_host_init(&host, NULL), 0);
        assert_int_equal(ftruncate(fd, 5), 0);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        assert_int_equal(with(&host, LAUNCH_FD_SPEC, fd), -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_id),          cmocka_unit_test(test_start_fields),
                cmocka_unit_test(test_payload),     cmocka_unit_test(test_packet),
                cmocka_unit_test(test_secrets),     cmocka_unit_test(test_copy),
                cmocka_unit_test(test_descriptors), cmocka_unit_test(test_unsealed_spec),
                cmocka_unit_test(test_named_netns),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
