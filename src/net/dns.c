#include "net/dns.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "net/dns_private.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define IDLE_MS 60000

uint64_t dns_now_ms(void)
{
        return time_mono_ns() / NS_PER_MS;
}

int dns_watch(struct dns *d, struct dns_source *s, uint32_t events)
{
        struct epoll_event e = { .events = events, .data.ptr = s };

        return epoll_ctl(d->epoll, EPOLL_CTL_ADD, s->fd, &e) < 0 ? -errno : 0;
}

void dns_watch_for(struct dns *d, struct dns_source *s, uint32_t events)
{
        struct epoll_event e = { .events = events, .data.ptr = s };

        (void)epoll_ctl(d->epoll, EPOLL_CTL_MOD, s->fd, &e);
}

bool dns_is_task(const struct dns *d, const struct sockaddr_in *from, uint32_t *ret_index)
{
        uint32_t address = ntohl(from->sin_addr.s_addr);

        if (from->sin_family != AF_INET || from->sin_port == 0 || address - d->conf.base >= d->conf.size ||
            address == d->conf.address)
                return false;
        *ret_index = address - d->conf.base;
        return true;
}

const union resolv_address *dns_server(const struct dns *d, unsigned attempt)
{
        const struct resolv_conf *conf = resolv_get(d->resolv);

        if (conf->n_asked == 0 || attempt >= conf->n_asked * DNS_ROUNDS)
                return NULL;
        return &conf->asked[attempt % conf->n_asked];
}

bool dns_is_last(const struct dns *d, unsigned attempt)
{
        return !dns_server(d, attempt + 1);
}

int dns_connect(const union resolv_address *server, int type)
{
        socklen_t len = server->sa.sa_family == AF_INET6 ? sizeof(server->in6) : sizeof(server->in);
        auto_fd fd = socket(server->sa.sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0 || (connect(fd, &server->sa, len) < 0 && errno != EINPROGRESS))
                return -errno;
        return TAKE_FD(fd);
}

/* ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void dispatch(struct dns *d, struct dns_source *s, uint32_t events)
{
        switch (s->kind) {
        case DNS_STOP:
                break;
        case DNS_RESOLV:
                if (!resolv_update(d->resolv))
                        break;
                log_info("resolvers changed: %zu", resolv_get(d->resolv)->n_asked);
                dns_udp_on_servers(d);
                break;
        case DNS_UDP:
                dns_udp_on_client(d);
                break;
        case DNS_LISTENER:
                dns_tcp_on_listener(d);
                break;
        case DNS_UPSTREAM:
                dns_udp_on_upstream(d, s);
                break;
        case DNS_CLIENT:
                dns_tcp_on_client(d, s, events);
                break;
        case DNS_TCP_UPSTREAM:
                dns_tcp_on_upstream(d, s);
                break;
        }
}

int dns_turn(struct dns *d, struct err *err)
{
        uint64_t now = dns_now_ms(), next = now + IDLE_MS, due;
        struct epoll_event event;
        int n;

        due = dns_udp_expire(d, now);
        next = MIN(next, due);
        due = dns_tcp_expire(d, now);
        next = MIN(next, due);
        /* One event a turn: handling it may free what another one points to. */
        n = epoll_wait(d->epoll, &event, 1, next > now ? (int)(next - now) : 0);
        if (n < 0 && errno != EINTR)
                return err_sys(err, "wait for events");
        if (n <= 0)
                return 0;
        dispatch(d, event.data.ptr, event.events);
        return event.data.ptr == &d->stop;
}

int dns_watch_stop(struct dns *d, int stop_fd, struct err *err)
{
        d->stop = (struct dns_source){ DNS_STOP, stop_fd };
        return dns_watch(d, &d->stop, EPOLLIN) < 0 ? err_sys(err, "watch signals") : 0;
}

static int dns_init(struct dns *d, struct err *err)
{
        d->asking = calloc(d->conf.size, sizeof(*d->asking));
        d->connected = calloc(d->conf.size, sizeof(*d->connected));
        if (!d->asking || !d->connected)
                return err_oom(err);
        d->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (d->epoll < 0)
                return err_sys(err, "epoll");
        d->watch = (struct dns_source){ DNS_RESOLV, resolv_fd(d->resolv) };
        d->udp = (struct dns_source){ DNS_UDP, d->conf.udp };
        d->listener = (struct dns_source){ DNS_LISTENER, d->conf.tcp };
        if (dns_watch(d, &d->watch, EPOLLIN) < 0 || dns_watch(d, &d->udp, EPOLLIN) < 0 ||
            dns_watch(d, &d->listener, EPOLLIN) < 0)
                return err_sys(err, "watch sockets");
        return 0;
}

int dns_new(const struct dns_conf *conf, struct resolv *resolv, struct dns **ret, struct err *err)
{
        struct dns *d = calloc(1, sizeof(*d));
        int r;

        if (!d) {
                fd_close(conf->udp);
                fd_close(conf->tcp);
                return err_oom(err);
        }
        d->conf = *conf;
        d->resolv = resolv;
        d->epoll = -EBADF;
        list_init(&d->queries);
        list_init(&d->conns);
        r = dns_init(d, err);
        if (r < 0) {
                dns_free(d);
                return r;
        }
        *ret = d;
        return 0;
}

void dns_free(struct dns *d)
{
        if (!d)
                return;
        dns_udp_free_all(d);
        dns_tcp_free_all(d);
        fd_close(d->conf.udp);
        fd_close(d->conf.tcp);
        fd_close(d->epoll);
        free(d->asking);
        free(d->connected);
        free(d);
}
