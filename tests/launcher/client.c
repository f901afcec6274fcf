#include "client.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct client_spec client_spec(const char *id, const char *tree, const char *const *argv, int netns)
{
        static const char *const env[] = { "PATH=/usr/local/bin:/usr/bin:/bin:/sbin", NULL };

        return (struct client_spec){
                .id = id,
                .tree = tree,
                .argv = argv,
                .env = env,
                .workdir = "/",
                .caps = CLIENT_CAPS,
                .limits = { .memory = 512 << 20, .disk = 256 << 20, .shm = 64 << 20, .cpu_milli = 1000, .pids = 512 },
                .netns = netns,
        };
}

int client_connect(const char *path)
{
        struct err err = ERR_INIT;
        int fd = -EBADF;
        int r = fd_connect_unix(path, SOCK_SEQPACKET, &fd, &err);

        return r < 0 ? r : fd;
}

int client_receive(int sock, struct client_msg *m, int timeout_ms)
{
        struct pollfd p = { .fd = sock, .events = POLLIN };
        int r = poll(&p, 1, timeout_ms);

        if (r <= 0)
                return r < 0 ? -errno : -ETIMEDOUT;
        m->n_fds = ARRAY_LEN(m->fds);
        r = fd_recv(sock, m->raw, sizeof(m->raw), &m->len, m->fds, &m->n_fds);
        if (r < 0) {
                m->n_fds = 0;
                return r;
        }
        return m->len == 0 ? -EPIPE : 0;
}

int client_hello(int sock, struct client_msg *ret)
{
        struct launch_hello hello = { .h = { .op = LAUNCH_HELLO, .seq = 1 }, .version = LAUNCH_VERSION };
        int r = fd_send(sock, &hello, sizeof(hello), NULL, 0);

        return r < 0 ? r : client_receive(sock, ret, 10000);
}

int client_netns(void)
{
        auto_fd own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
        auto_fd sock = -EBADF;
        auto_fd fd = -EBADF;

        if (own < 0 || unshare(CLONE_NEWNET) < 0)
                return -errno;
        fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        (void)ioctl(sock, SIOCSIFFLAGS, &ifr);
        if (setns(own, CLONE_NEWNET) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int add_record(struct str *s, const void *data, size_t len)
{
        uint32_t n = (uint32_t)len;

        return str_add(s, &n, sizeof(n)) < 0 || str_add(s, data, len) < 0 ? -ENOMEM : 0;
}

static uint32_t add_strings(struct str *s, const char *const *v)
{
        uint32_t n = 0;

        for (; v && v[n]; n++)
                (void)add_record(s, v[n], strlen(v[n]));
        return n;
}

static void add_secrets(struct str *s, const struct client_spec *spec)
{
        for (size_t i = 0; i < spec->n_secrets; i++) {
                (void)add_record(s, spec->secrets[i].name, strlen(spec->secrets[i].name));
                (void)add_record(s, spec->secrets[i].value, strlen(spec->secrets[i].value));
        }
}

static void add_files(struct str *s, const struct client_spec *spec)
{
        for (size_t i = 0; i < spec->n_files; i++) {
                uint32_t mode = spec->files[i].mode;

                mode |= mode & S_IFMT ? 0 : S_IFREG;
                (void)str_add(s, &mode, sizeof(mode));
                (void)add_record(s, spec->files[i].path, strlen(spec->files[i].path));
                (void)add_record(s, spec->files[i].content, spec->files[i].len);
        }
}

static const char hosts[] = "127.0.0.1 localhost\n";
static const char resolv[] = "nameserver 127.0.0.1\n";

/* Descriptors of START; all are ours, also those that the task keeps. */
static int open_fds(const struct client_spec *spec, int *fds, struct client_task *t)
{
        int out[2], err[2];

        for (size_t i = 0; i < LAUNCH_FD_COUNT; i++)
                fds[i] = -EBADF;
        if (pipe2(out, O_CLOEXEC) < 0)
                return -errno;
        if (pipe2(err, O_CLOEXEC) < 0)
                return -errno;
        fds[LAUNCH_FD_NETNS] = spec->netns;
        fds[LAUNCH_FD_STDIN] = memfd_create("stdin", MFD_CLOEXEC);
        fds[LAUNCH_FD_STDOUT_W] = out[1];
        fds[LAUNCH_FD_STDERR_W] = err[1];
        fds[LAUNCH_FD_STDOUT_R] = t->out = out[0];
        fds[LAUNCH_FD_STDERR_R] = t->err = err[0];
        fds[LAUNCH_FD_STDOUT_MEM] = memfd_create("stdout", MFD_CLOEXEC);
        fds[LAUNCH_FD_STDERR_MEM] = memfd_create("stderr", MFD_CLOEXEC);
        fds[LAUNCH_FD_RECORD] = t->record = memfd_create("record", MFD_CLOEXEC);
        if (spec->input_len > 0 && (fd_write_all(fds[LAUNCH_FD_STDIN], spec->input, spec->input_len) < 0 ||
                                    lseek(fds[LAUNCH_FD_STDIN], 0, SEEK_SET) < 0))
                return -EIO;
        return 0;
}

int client_start(int sock, const struct client_spec *spec, struct client_task *t)
{
        struct launch_start start = {
                .h = { .op = LAUNCH_START, .seq = 7 },
                .limits = spec->limits,
                .caps = spec->caps,
                .flags = (spec->init ? LAUNCH_F_INIT : 0) | (spec->spec ? LAUNCH_F_SPEC : 0) |
                         (spec->keep_root ? LAUNCH_F_KEEP_ROOT : 0),
                .uid = spec->uid,
                .gid = spec->gid,
                .n_secrets = (uint32_t)spec->n_secrets,
                .n_files = (uint32_t)spec->n_files,
        };
        auto_str payload = STR_INIT;
        auto_str packet = STR_INIT;
        int fds[LAUNCH_FD_COUNT], r;
        size_t n_fds = LAUNCH_FD_COUNT - 1;

        memcpy(start.id, spec->id, strnlen(spec->id, LAUNCH_ID_MAX));
        memcpy(start.tree, spec->tree, LAUNCH_HEX);
        start.argc = add_strings(&payload, spec->argv);
        start.envc = add_strings(&payload, spec->env);
        (void)add_record(&payload, spec->id, strlen(spec->id));
        (void)add_record(&payload, spec->workdir, strlen(spec->workdir));
        (void)add_record(&payload, hosts, sizeof(hosts) - 1);
        (void)add_record(&payload, resolv, sizeof(resolv) - 1);
        add_secrets(&payload, spec);
        add_files(&payload, spec);
        start.payload_len = (uint32_t)payload.len;
        r = open_fds(spec, fds, t);
        if (r < 0)
                return r;
        (void)str_add(&packet, &start, sizeof(start));
        if (spec->spec) {
                r = fd_memfd_sealed("spec", payload.data, payload.len, &fds[LAUNCH_FD_SPEC], NULL);
                n_fds = LAUNCH_FD_COUNT;
        } else {
                (void)str_add(&packet, payload.data, payload.len);
        }
        if (r == 0)
                r = fd_send(sock, packet.data, packet.len, fds, n_fds);
        for (size_t i = 0; i < n_fds; i++)
                if (i != LAUNCH_FD_NETNS && i != LAUNCH_FD_STDOUT_R && i != LAUNCH_FD_STDERR_R && i != LAUNCH_FD_RECORD)
                        fd_close(fds[i]);
        return r;
}

void client_task_close(struct client_task *t)
{
        fd_replace(&t->out, -EBADF);
        fd_replace(&t->err, -EBADF);
        fd_replace(&t->record, -EBADF);
}

void client_msg_close(struct client_msg *m)
{
        for (size_t i = 0; i < m->n_fds; i++)
                fd_close(m->fds[i]);
        m->n_fds = 0;
}

int client_send_id(int sock, uint32_t op, const char *id)
{
        struct launch_id m = { .h = { .op = op, .seq = 9 } };

        memcpy(m.id, id, strnlen(id, LAUNCH_ID_MAX));
        return fd_send(sock, &m, sizeof(m), NULL, 0);
}

int client_signal(int sock, const char *id, int signo)
{
        struct launch_signal m = { .h = { .op = LAUNCH_SIGNAL }, .signo = (uint32_t)signo };

        memcpy(m.id, id, strnlen(id, LAUNCH_ID_MAX));
        return fd_send(sock, &m, sizeof(m), NULL, 0);
}

int client_run(int sock, const struct client_spec *spec, struct client_msg *ret, char *out, size_t max)
{
        struct client_task t = { -EBADF, -EBADF, -EBADF };
        int r = client_start(sock, spec, &t);

        if (r == 0)
                r = client_receive(sock, ret, 30000);
        if (r == 0 && out) {
                ssize_t n;

                (void)fd_set_nonblock(t.out, true);
                n = read(t.out, out, max - 1);
                out[n < 0 ? 0 : n] = '\0';
        }
        if (r == 0 && ret->h.op == LAUNCH_EXITED)
                r = client_send_id(sock, LAUNCH_REMOVE, spec->id);
        client_task_close(&t);
        return r;
}

int client_copy(int sock, const char *id, const char *file, uint64_t max_bytes, uint32_t max_entries,
                uint32_t timeout_ms, int fd)
{
        struct launch_copy m = {
                .h = { .op = LAUNCH_COPY_OUT, .seq = 11 },
                .max_bytes = max_bytes,
                .max_entries = max_entries,
                .timeout_ms = timeout_ms,
                .path_len = (uint32_t)strlen(file),
        };
        auto_str packet = STR_INIT;

        memcpy(m.id, id, strnlen(id, LAUNCH_ID_MAX));
        (void)str_add(&packet, &m, sizeof(m));
        (void)str_adds(&packet, file);
        return fd_send(sock, packet.data, packet.len, &fd, 1);
}
