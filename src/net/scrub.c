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
#include <sched.h>

#define SOCKSTAT_MAX 1024
#define PROTOCOLS_MAX 16384
#define SCRUB_ROUNDS 3

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

/* Lives as long as one look inside. */
struct diag {
        struct nl nl;
        int protocols; /* /proc/net/protocols */
};

static int open_diag(void *data, struct err *err)
{
        struct diag *d = data;

        d->protocols = open("/proc/thread-self/net/protocols", O_RDONLY | O_CLOEXEC);
        if (d->protocols < 0)
                return err_sys(err, "open /proc/net/protocols");
        return nl_init(&d->nl, NETLINK_SOCK_DIAG, err);
}

static void diag_done(struct diag *d)
{
        fd_replace(&d->protocols, -EBADF);
        nl_done(&d->nl);
}

struct victims {
        uint8_t family, protocol;
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
                .idiag_states = (uint32_t)-1,
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

static int destroy_all(struct nl *nl, uint8_t protocol)
{
        static const uint8_t families[] = { AF_INET, AF_INET6 };

        for (size_t i = 0; i < ARRAY_LEN(families); i++) {
                struct victims v = { .family = families[i], .protocol = protocol, .more = true };

                for (int dumps = 0; dumps < DESTROY_DUMPS && v.more; dumps++) {
                        int r = destroy_some(nl, &v);

                        if (r < 0)
                                return r;
                }
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

#define OWN_SOCKETS 1 /* the one of struct diag */

static int end_sockets(struct diag *d, const struct ns_fds *fds, struct scrub_stat *s)
{
        for (int round = 0; round < SCRUB_ROUNDS; round++) {
                uint64_t left = 0;
                int r = 0;

                if (s->tcp > 0 || s->time_wait > 0)
                        r = destroy_all(&d->nl, IPPROTO_TCP);
                if (r == 0 && s->udp > 0)
                        r = destroy_all(&d->nl, IPPROTO_UDP);
                if (r == 0)
                        r = read_sockstat(fds->sockstat, s);
                if (r == 0)
                        r = count_protocols(d->protocols, &left);
                if (r < 0)
                        return r;
                if (left <= OWN_SOCKETS && s->time_wait == 0 && s->fragments == 0)
                        return 1;
                (void)sched_yield();
        }
        return 0;
}

int scrub_sockets(const struct ns_home *h, const struct ns_fds *fds, struct err *err)
{
        struct diag d = { .protocols = -EBADF, .nl.fd = -EBADF };
        struct scrub_stat s = { 0 };
        int r = read_sockstat(fds->sockstat, &s);

        if (r < 0)
                return err_set(err, -r, "read /proc/net/sockstat: %s", strerror(-r));
        if (s.used == 0 && s.time_wait == 0 && s.fragments == 0)
                return 1;
        r = ns_inside(h, fds->ns, open_diag, &d, err);
        if (r == 0) {
                r = end_sockets(&d, fds, &s);
                if (r < 0)
                        (void)err_set(err, -r, "end sockets: %s", strerror(-r));
        }
        diag_done(&d);
        return r;
}
