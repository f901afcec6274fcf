#include "launcher/validate.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PATH_RECORD_MAX LAUNCH_TEXT_MAX
#define MODE_MASK 07777u
#define SPEC_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

int payload_u32(struct payload *p, uint32_t *ret)
{
        if ((size_t)(p->end - p->at) < sizeof(*ret))
                return -EBADMSG;
        memcpy(ret, p->at, sizeof(*ret));
        p->at += sizeof(*ret);
        return 0;
}

int payload_next(struct payload *p, const uint8_t **ret, uint32_t *ret_len)
{
        uint32_t len;

        if (payload_u32(p, &len) < 0 || len > (size_t)(p->end - p->at))
                return -EBADMSG;
        *ret = p->at;
        *ret_len = len;
        p->at += len;
        return 0;
}

bool validate_id(const char id[LAUNCH_ID_MAX])
{
        size_t n = 0;

        while (n < LAUNCH_ID_MAX && ((id[n] >= 'a' && id[n] <= 'z') || (id[n] >= '0' && id[n] <= '9')))
                n++;
        for (size_t i = n; i < LAUNCH_ID_MAX; i++)
                if (id[i] != '\0')
                        return false;
        return n > 0;
}

bool validate_hex(const char name[LAUNCH_HEX])
{
        for (size_t i = 0; i < LAUNCH_HEX; i++)
                if (!((name[i] >= '0' && name[i] <= '9') || (name[i] >= 'a' && name[i] <= 'f')))
                        return false;
        return true;
}

/* ── packets ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int check_start_size(const struct launch_start *s, size_t len, size_t n_fds)
{
        bool spec;

        if (len < sizeof(*s))
                return -EBADMSG;
        spec = s->flags & LAUNCH_F_SPEC;
        if (n_fds != (spec ? LAUNCH_FD_COUNT : LAUNCH_FD_COUNT - 1))
                return -EBADMSG;
        if (spec)
                return len == sizeof(*s) && s->payload_len <= LAUNCH_PAYLOAD_MAX ? 0 : -EBADMSG;
        return s->payload_len <= LAUNCH_INLINE_MAX && len == sizeof(*s) + s->payload_len ? 0 : -EBADMSG;
}

static int validate_copy(const struct launch_copy *m, size_t len, size_t n_fds, struct err *err)
{
        const char *path = (const char *)(m + 1);

        if (len < sizeof(*m) || n_fds != 1 || m->path_len == 0 || m->path_len >= LAUNCH_TEXT_MAX ||
            len != sizeof(*m) + m->path_len)
                return err_set(err, EBADMSG, "COPY_OUT of a wrong size");
        if (!validate_id(m->id) || memchr(path, '\0', m->path_len))
                return err_set(err, EBADMSG, "a malformed id or path");
        if (m->max_bytes == 0 || m->max_bytes > LAUNCH_COPY_BYTES_MAX || m->timeout_ms == 0 ||
            m->timeout_ms > LAUNCH_COPY_MS_MAX)
                return err_set(err, EBADMSG, "bounds of a copy out of range");
        return 0;
}

int validate_packet(const void *packet, size_t len, size_t n_fds, struct err *err)
{
        const struct launch_header *h = packet;
        const struct launch_id *id = packet;
        size_t want = 0;

        if (len < sizeof(*h) || len > LAUNCH_MSG_MAX)
                return err_set(err, EBADMSG, "a packet of %zu bytes", len);
        switch (h->op) {
        case LAUNCH_HELLO:
                want = sizeof(struct launch_hello);
                break;
        case LAUNCH_SIGNAL:
                want = sizeof(struct launch_signal);
                break;
        case LAUNCH_REMOVE:
        case LAUNCH_STATS:
                want = sizeof(struct launch_id);
                break;
        case LAUNCH_COPY_OUT:
                return validate_copy(packet, len, n_fds, err);
        case LAUNCH_START:
                return check_start_size(packet, len, n_fds) < 0 ? err_set(err, EBADMSG, "START of a wrong size") : 0;
        case LAUNCH_WORK:
        case LAUNCH_COMMIT:
        case LAUNCH_DISCARD:
        case LAUNCH_DELETE:
        case LAUNCH_LIST:
        case LAUNCH_REPLACE:
                return 0;
        default:
                return err_set(err, EBADMSG, "unknown operation %u", h->op);
        }
        if (len != want || n_fds != 0)
                return err_set(err, EBADMSG, "operation %u of a wrong size", h->op);
        if (h->op != LAUNCH_HELLO && !validate_id(id->id))
                return err_set(err, EBADMSG, "a malformed id");
        return 0;
}

int validate_start(const struct launch_start *s, const struct ceiling *c, struct err *err)
{
        const struct launch_limits *l = &s->limits;

        if (!validate_id(s->id) || !validate_hex(s->tree))
                return err_set(err, EBADMSG, "a malformed id or tree");
        if ((s->flags & ~(LAUNCH_F_INIT | LAUNCH_F_SPEC | LAUNCH_F_KEEP_ROOT)) || s->n_groups > LAUNCH_GROUPS_MAX ||
            s->argc == 0 || s->argc > LAUNCH_ARGS_MAX || s->envc > LAUNCH_ARGS_MAX ||
            s->n_secrets > LAUNCH_SECRETS_MAX || s->n_files > LAUNCH_FILES_MAX)
                return err_set(err, EBADMSG, "flags or counts out of range");
        if (s->uid >= CEILING_IDS || s->gid >= CEILING_IDS)
                return err_set(err, EBADMSG, "an id above %u", CEILING_IDS - 1);
        for (uint32_t i = 0; i < s->n_groups; i++)
                if (s->groups[i] >= CEILING_IDS)
                        return err_set(err, EBADMSG, "a group above %u", CEILING_IDS - 1);
        if (s->caps & ~c->caps)
                return err_set(err, EPERM, "capabilities above the ceiling");
        if (l->memory == 0 || l->memory > c->memory_max || l->disk > c->memory_max || l->shm > c->memory_max ||
            l->memory + l->disk + l->shm > c->memory_max)
                return err_set(err, EPERM, "memory of none, or above the ceiling");
        if (l->cpu_milli == 0 || l->cpu_milli > c->cpu_max || l->pids == 0 || l->pids > c->pids_max)
                return err_set(err, EPERM, "processors or processes of none, or above the ceiling");
        return 0;
}

static int next_text(struct payload *p, uint32_t min, uint32_t max, const uint8_t **ret, uint32_t *ret_len)
{
        if (payload_next(p, ret, ret_len) < 0 || *ret_len < min || *ret_len > max)
                return -EBADMSG;
        return *ret_len > 0 && memchr(*ret, '\0', *ret_len) ? -EBADMSG : 0;
}

static int check_strings(const struct launch_start *s, struct payload *p)
{
        const uint8_t *text;
        uint32_t len;

        for (uint32_t i = 0; i < s->argc; i++)
                if (next_text(p, 0, UINT32_MAX, &text, &len) < 0)
                        return -EBADMSG;
        for (uint32_t i = 0; i < s->envc; i++)
                if (next_text(p, 1, UINT32_MAX, &text, &len) < 0 || !memchr(text, '=', len) || text[0] == '=')
                        return -EBADMSG;
        if (next_text(p, 1, LAUNCH_HOSTNAME_MAX, &text, &len) < 0 || memchr(text, '\n', len))
                return -EBADMSG;
        if (next_text(p, 1, LAUNCH_TEXT_MAX - 1, &text, &len) < 0 || text[0] != '/')
                return -EBADMSG;
        if (next_text(p, 0, LAUNCH_TEXT_MAX, &text, &len) < 0)
                return -EBADMSG;
        return next_text(p, 0, LAUNCH_TEXT_MAX, &text, &len);
}

static bool is_secret_name(const uint8_t *name, uint32_t len)
{
        for (uint32_t i = 0; i < len; i++) {
                uint8_t c = name[i];

                if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                      c == '-' || c == '.'))
                        return false;
        }
        return len > 0 && len <= LAUNCH_SECRET_NAME_MAX &&
               !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static int check_secrets(const struct launch_start *s, struct payload *p)
{
        const uint8_t *data;
        uint32_t len;

        for (uint32_t i = 0; i < s->n_secrets; i++)
                if (payload_next(p, &data, &len) < 0 || !is_secret_name(data, len) ||
                    payload_next(p, &data, &len) < 0 || len > LAUNCH_SECRET_MAX)
                        return -EBADMSG;
        return 0;
}

static int check_file(struct payload *p)
{
        const uint8_t *data;
        uint32_t mode, len;

        if (payload_u32(p, &mode) < 0 || next_text(p, 1, PATH_RECORD_MAX - 1, &data, &len) < 0)
                return -EBADMSG;
        switch (mode & ~MODE_MASK) {
        case S_IFREG:
                return payload_next(p, &data, &len);
        case S_IFDIR:
                return next_text(p, 0, 0, &data, &len);
        case S_IFLNK:
                return mode & MODE_MASK ? -EBADMSG : next_text(p, 1, PATH_RECORD_MAX - 1, &data, &len);
        default:
                return -EBADMSG;
        }
}

static int check_files(const struct launch_start *s, struct payload *p)
{
        for (uint32_t i = 0; i < s->n_files; i++)
                if (check_file(p) < 0)
                        return -EBADMSG;
        return p->at == p->end ? 0 : -EBADMSG;
}

int validate_payload(const struct launch_start *s, const void *payload, size_t len, struct err *err)
{
        struct payload p = { .at = payload, .end = (const uint8_t *)payload + len };

        if (len != s->payload_len)
                return err_set(err, EBADMSG, "a payload of %zu bytes, not %u", len, s->payload_len);
        if (check_strings(s, &p) < 0)
                return err_set(err, EBADMSG, "malformed arguments, environment or texts");
        if (check_secrets(s, &p) < 0)
                return err_set(err, EBADMSG, "malformed secrets");
        if (check_files(s, &p) < 0)
                return err_set(err, EBADMSG, "malformed files");
        return 0;
}

/* ── descriptors ──────────────────────────────────────────────────────────────────────────────────────────────────── */

int validate_host_init(struct validate_host *ret, struct err *err)
{
        struct validate_host h;
        auto_fd memfd = memfd_create("x", MFD_CLOEXEC);
        auto_fd net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        struct stat st;
        int fds[2], r;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return err_sys(err, "make a pipe");
        r = fstat(fds[0], &st);
        fd_close(fds[0]);
        fd_close(fds[1]);
        if (r < 0)
                return err_sys(err, "stat a pipe");
        h.pipefs = st.st_dev;
        if (memfd < 0 || fstat(memfd, &st) < 0)
                return err_sys(err, "make a memfd");
        h.memfd = st.st_dev;
        if (net < 0 || fstat(net, &st) < 0)
                return err_sys(err, "find the network namespace");
        if (fd_mount(net, &h.ns_mount) < 0)
                return err_set(err, ENOSYS, "the kernel does not tell the mount of a file (Linux 5.8)");
        h.nsfs = st.st_dev;
        h.netns[0] = st.st_ino;
        h.netns[1] = stat("/proc/1/ns/net", &st) == 0 ? st.st_ino : h.netns[0];
        *ret = h;
        return 0;
}

static bool is_pipe(const struct validate_host *h, int fd, int access, ino_t *ret_ino)
{
        struct stat st;
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != access)
                return false;
        if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode) || st.st_dev != h->pipefs)
                return false;
        *ret_ino = st.st_ino;
        return true;
}

static bool is_memfd(const struct validate_host *h, int fd)
{
        struct stat st;
        int flags = fcntl(fd, F_GETFL);

        return flags >= 0 && !(flags & O_PATH) && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_dev == h->memfd;
}

/* One that is bound to a name (ip-netns(8)) is somebody else's, and everybody may open it. */
static bool is_foreign_netns(const struct validate_host *h, int fd)
{
        uint64_t mount;
        struct stat st;

        return fd_mount(fd, &mount) == 0 && mount == h->ns_mount && fstat(fd, &st) == 0 && st.st_dev == h->nsfs &&
               ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET && st.st_ino != h->netns[0] && st.st_ino != h->netns[1];
}

static bool is_spec(const struct validate_host *h, int fd, uint32_t payload_len)
{
        struct stat st;
        int seals = fcntl(fd, F_GET_SEALS);

        return is_memfd(h, fd) && seals >= 0 && (seals & SPEC_SEALS) == SPEC_SEALS && fstat(fd, &st) == 0 &&
               st.st_size == (off_t)payload_len;
}

int validate_start_fds(const struct validate_host *h, const int *fds, size_t n, uint32_t payload_len, struct err *err)
{
        ino_t in, out_w, out_r, err_w, err_r;

        if (!is_foreign_netns(h, fds[LAUNCH_FD_NETNS]))
                return err_set(err, EBADMSG, "no network namespace for a container");
        if (!is_pipe(h, fds[LAUNCH_FD_STDIN], O_RDONLY, &in) && !is_memfd(h, fds[LAUNCH_FD_STDIN]))
                return err_set(err, EBADMSG, "standard input is neither a pipe nor a memfd");
        if (!is_pipe(h, fds[LAUNCH_FD_STDOUT_W], O_WRONLY, &out_w) ||
            !is_pipe(h, fds[LAUNCH_FD_STDERR_W], O_WRONLY, &err_w) ||
            !is_pipe(h, fds[LAUNCH_FD_STDOUT_R], O_RDONLY, &out_r) ||
            !is_pipe(h, fds[LAUNCH_FD_STDERR_R], O_RDONLY, &err_r) || out_w != out_r || err_w != err_r)
                return err_set(err, EBADMSG, "standard output or error is no pair of a pipe's ends");
        if (!is_memfd(h, fds[LAUNCH_FD_STDOUT_MEM]) || !is_memfd(h, fds[LAUNCH_FD_STDERR_MEM]) ||
            !is_memfd(h, fds[LAUNCH_FD_RECORD]))
                return err_set(err, EBADMSG, "output or record is no memfd");
        if (n > LAUNCH_FD_SPEC && !is_spec(h, fds[LAUNCH_FD_SPEC], payload_len))
                return err_set(err, EBADMSG, "the payload is no sealed memfd of its size");
        return 0;
}

int validate_copy_fd(const struct validate_host *h, int fd, struct err *err)
{
        ino_t ino;

        return is_pipe(h, fd, O_WRONLY, &ino) || is_memfd(h, fd)
                       ? 0
                       : err_set(err, EBADMSG, "what a copy is written to is neither a pipe nor a memfd");
}
