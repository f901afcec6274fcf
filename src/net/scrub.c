#include "net/scrub.h"

#include "base/fd.h"
#include "base/str.h"
#include "net/nl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>

#define SOCKSTAT_MAX 1024
#define PROTOCOLS_MAX 16384
#define TCP_LISTEN_STATE 10
#define TCPF_CONNECTIONS (UINT32_C(0x1ffe) & ~(UINT32_C(1) << TCP_LISTEN_STATE)) /* TCP_ESTABLISHED to NEW_SYN_RECV */

/* ── counting ────────────────────────────────────────────────────────────────────────────────────────────────── */

static int field(const char *text, const char *line, const char *name, uint64_t *ret)
{
        const char *at = strstr(text, line), *end = at ? strchr(at, '\n') : NULL, *value;
        char *rest;

        if (!at || !end)
                return -EINVAL;
        value = strstr(at + strlen(line), name);
        if (!value || value > end)
                return -EINVAL;
        errno = 0;
        *ret = strtoull(value + strlen(name), &rest, 10);
        return errno != 0 || rest == value + strlen(name) || rest > end ? -EINVAL : 0;
}

int scrub_parse_sockstat(const char *text, struct scrub_stat *ret)
{
        struct scrub_stat s = { 0 };

        if (field(text, "sockets:", " used ", &s.used) < 0 || field(text, "TCP:", " inuse ", &s.tcp) < 0 ||
            field(text, "TCP:", " tw ", &s.time_wait) < 0 || field(text, "UDP:", " inuse ", &s.udp) < 0 ||
            field(text, "UDPLITE:", " inuse ", &s.udplite) < 0 || field(text, "RAW:", " inuse ", &s.raw) < 0 ||
            field(text, "FRAG:", " inuse ", &s.fragments) < 0)
                return -EINVAL;
        *ret = s;
        return 0;
}

int scrub_parse_protocols(const char *text, uint64_t *ret)
{
        const char *line = strchr(text, '\n');
        uint64_t sum = 0;

        if (!line || !str_starts(text, "protocol "))
                return -EINVAL;
        for (line++; *line; line++) {
                long long sockets;

                if (sscanf(line, "%*s %*s %lld", &sockets) != 1 || sockets < 0)
                        return -EINVAL;
                sum += (uint64_t)sockets;
                line = strchr(line, '\n');
                if (!line)
                        return -EINVAL;
        }
        *ret = sum;
        return 0;
}

static int read_sockstat(int fd, struct scrub_stat *ret)
{
        char text[SOCKSTAT_MAX];
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

        if (n < 0)
                return -errno;
        text[n] = '\0';
        return scrub_parse_sockstat(text, ret);
}

/* ── destroying ──────────────────────────────────────────────────────────────────────────────────────────────── */

static int open_protocols(void *data, struct err *err)
{
        int fd = open("/proc/thread-self/net/protocols", O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return err_sys(err, "open /proc/net/protocols");
        *(int *)data = fd;
        return 0;
}

static int open_diag(void *data, struct err *err)
{
        return nl_init(data, NETLINK_SOCK_DIAG, err);
}

struct victims {
        uint8_t family, protocol;
        uint32_t states;
        size_t n;
        struct inet_diag_sockid ids[64];
        bool more;
};

static int take_socket(const struct nlmsghdr *answer, void *data)
{
        const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(answer);
        struct victims *v = data;

        if (mnl_nlmsg_get_payload_len(answer) < sizeof(*msg))
                return -EPROTO;
        if (v->n == ARRAY_LEN(v->ids)) {
                v->more = true;
                return 0;
        }
        v->ids[v->n++] = msg->id;
        return 0;
}

/* Ends the sockets that one dump shows. A socket that ends by itself meanwhile is -ENOENT, a kind that this kernel
 * cannot end -EOPNOTSUPP: what is left in the end is counted afterwards. */
static int destroy_some(struct nl *nl, struct victims *v)
{
        struct inet_diag_req_v2 req = {
                .sdiag_family = v->family,
                .sdiag_protocol = v->protocol,
                .idiag_states = v->states,
        };
        int r;

        v->n = 0;
        v->more = false;
        (void)nl_put(nl, SOCK_DIAG_BY_FAMILY, 0, &req, sizeof(req));
        r = nl_dump(nl, take_socket, v);
        if (r < 0 && r != -EINTR)
                return r == -ENOENT ? 0 : r; /* no diag module for this protocol */
        for (size_t i = 0; i < v->n; i++) {
                req.id = v->ids[i];
                (void)nl_put(nl, SOCK_DESTROY, 0, &req, sizeof(req));
                if (!nl_room(nl) || i + 1 == v->n)
                        (void)nl_run(nl, NULL, NULL);
        }
        return 0;
}

/* A namespace that holds more than this is thrown away: nobody waits for a hundred thousand connections. */
#define DESTROY_DUMPS 64

static int destroy_all(struct nl *nl, uint8_t family, uint8_t protocol)
{
        struct victims v = { .family = family, .protocol = protocol, .states = (uint32_t)-1, .more = true };

        /* Listeners and what is only bound have ended with their processes, and looking for them goes through tables
         * that the whole host shares. */
        if (protocol == IPPROTO_TCP)
                v.states = TCPF_CONNECTIONS;
        for (int dumps = 0; dumps < DESTROY_DUMPS && v.more; dumps++) {
                int r = destroy_some(nl, &v);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* The total in sockstat counts netlink sockets until the kernel's readers have passed them; this file does not. */
static int count_protocols(int fd, uint64_t *ret)
{
        char text[PROTOCOLS_MAX];
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

        if (n < 0)
                return -errno;
        text[n] = '\0';
        return scrub_parse_protocols(text, ret);
}

/* 1: nothing is left but `own` sockets of ours. */
static int nothing_left(int protocols, const struct ns_fds *fds, uint64_t own)
{
        struct scrub_stat s = { 0 };
        uint64_t left = 0;
        int r = read_sockstat(fds->sockstat, &s);

        if (r == 0)
                r = count_protocols(protocols, &left);
        if (r < 0)
                return r;
        return left <= own && s.time_wait == 0 && s.fragments == 0;
}

/* What is likely comes first. */
static const struct {
        uint8_t family, protocol;
        bool last; /* of its round */
} kinds[] = {
        { AF_INET, IPPROTO_TCP, true },  { AF_INET6, IPPROTO_TCP, false }, { AF_INET, IPPROTO_UDP, false },
        { AF_INET6, IPPROTO_UDP, true }, { AF_INET, IPPROTO_TCP, false },  { AF_INET6, IPPROTO_TCP, true },
};

static int end_sockets(struct nl *diag, int protocols, const struct ns_fds *fds)
{
        int r = 0;

        for (size_t i = 0; i < ARRAY_LEN(kinds) && r == 0; i++) {
                r = destroy_all(diag, kinds[i].family, kinds[i].protocol);
                if (r == 0 && kinds[i].last)
                        r = nothing_left(protocols, fds, 1);
        }
        return r;
}

int scrub_sockets(const struct ns_home *h, const struct ns_fds *fds, struct err *err)
{
        struct scrub_stat s = { 0 };
        auto_fd protocols = -EBADF;
        auto_nl diag = { .fd = -EBADF };
        int r = read_sockstat(fds->sockstat, &s);

        if (r < 0)
                return err_set(err, -r, "read /proc/net/sockstat: %s", strerror(-r));
        if (s.used == 0 && s.time_wait == 0 && s.fragments == 0)
                return 1;
        r = ns_inside(h, fds->ns, open_protocols, &protocols, err);
        if (r < 0)
                return r;
        r = nothing_left(protocols, fds, 0);
        if (r == 0) {
                r = ns_inside(h, fds->ns, open_diag, &diag, err);
                if (r < 0)
                        return r;
                r = end_sockets(&diag, protocols, fds);
        }
        return r < 0 ? err_set(err, -r, "end sockets: %s", strerror(-r)) : r;
}
