/* Accepting: who may connect, and how many; and the PROXY headers, which come before all that the parser understands. */

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ACCEPTS_PER_TURN 64
#define REST_MS 50
#define PROXY_TIMEOUT_S 5

/* ── sources ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct http_source *http_source_get(struct http_server *s, const char *key)
{
        struct http_source *source = map_find(s->sources, key);

        if (!source) {
                source = calloc(1, sizeof(*source));
                if (!source)
                        return NULL;
                source->server = s;
                (void)snprintf(source->key, sizeof(source->key), "%s", key);
                if (map_set(s->sources, key, source) < 0) {
                        free(source);
                        return NULL;
                }
        }
        source->refs++;
        return source;
}

void http_source_put(struct http_source *source)
{
        if (!source || --source->refs > 0)
                return;
        (void)map_remove(source->server->sources, source->key);
        free(source);
}

/* ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────── */

struct http_proxy_wait {
        struct loop_io *io;
        struct loop_timer timer;
        size_t len;
        char data[HTTP_PROXY_MAX];
};

static void proxy_wait_end(struct http_conn *c)
{
        if (!c->proxy)
                return;
        loop_io_remove(c->proxy->io);
        loop_timer_cancel(&c->proxy->timer);
        free(c->proxy);
        c->proxy = NULL;
}

void http_conn_release(struct http_conn *c)
{
        struct http_server *s = c->server;

        proxy_wait_end(c);
        list_remove(&c->node);
        list_remove(&c->watch_node);
        list_remove(&c->hung_node);
        if (c->source) {
                c->source->connections--;
                http_source_put(c->source);
        }
        s->connections--;
        s->few_fds = false;
        if (s->accept_rest)
                http_server_defer(s);
        free(c);
}

void http_conn_end(struct http_conn *c)
{
        if (!c->link) {
                http_conn_release(c);
                return;
        }
        list_remove(&c->watch_node);
        list_remove(&c->hung_node);
        list_remove(&c->node);
        list_append(&c->server->links, &c->node);
        http_link_detach(c->link);
}

void http_conn_drop(struct http_conn *c)
{
        fd_replace(&c->fd, -EBADF);
        if (c->link)
                http_link_end(c->link);
        http_conn_release(c);
}

void http_conn_kill(struct http_conn *c)
{
        (void)shutdown(c->fd, SHUT_RDWR);
        if (c->link)
                http_link_kill(c->link);
}

/* False: it shall be closed at once. */
static bool conn_admit(struct http_conn *c)
{
        struct http_server *s = c->server;
        char key[HTTP_ADDRESS_KEY_MAX];

        c->is_trusted = http_network_has(s->trusted, s->n_trusted, &c->address);
        if (s->config.max_per_address == 0 || c->is_trusted || c->address.family == AF_UNIX)
                return true;
        http_address_key(&c->address, key);
        c->source = http_source_get(s, key);
        if (!c->source)
                return false;
        c->source->connections++;
        if (c->source->connections > 2 * s->config.max_per_address)
                return false;
        c->is_refused = c->source->connections > s->config.max_per_address;
        return true;
}

void http_conn_hand_over(struct http_conn *c)
{
        static const struct sockaddr unspecified = { .sa_family = AF_UNSPEC };
        struct http_parser *p = c->listener->parser;

        list_remove(&c->node);
        c->parser = p;
        p->added = c;
        p->dirty = true;
        if (!c->listener->accepting)
                http_server_defer(c->server);
        /* It tells of the connection by way of p->added, and has closed it where it fails. */
        if (MHD_add_connection(p->daemon, c->fd, &unspecified, sizeof(unspecified)) != MHD_YES && p->added)
                http_conn_end(c);
        p->added = NULL;
}

/* Its address is known. */
static void conn_begin(struct http_conn *c)
{
        proxy_wait_end(c);
        if (c->listener->tls)
                http_conn_idle(c);
        if (!conn_admit(c) || (c->listener->tls && http_link_start(c) < 0))
                http_conn_drop(c);
        else if (!c->link)
                http_conn_hand_over(c);
}

/* ── PROXY ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Takes no byte that belongs to what follows the header. 1: complete; 0: more must come; -errno. */
static int proxy_read(struct http_conn *c)
{
        struct http_proxy_wait *w = c->proxy;

        for (;;) {
                ssize_t used, got = recv(c->fd, w->data + w->len, sizeof(w->data) - w->len, MSG_PEEK | MSG_DONTWAIT);
                size_t take;

                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return errno == EAGAIN ? 0 : -errno;
                if (got == 0)
                        return -ECONNRESET;
                used = http_proxy_parse(w->data, w->len + (size_t)got, &c->address);
                if (used < 0)
                        return (int)used;
                take = used > 0 ? (size_t)used - w->len : (size_t)got;
                got = recv(c->fd, w->data + w->len, take, MSG_DONTWAIT);
                if (got != (ssize_t)take)
                        return -EIO;
                w->len += take;
                if (used > 0)
                        return 1;
                if (w->len == sizeof(w->data))
                        return -EINVAL;
        }
}

static void on_proxy_io(struct loop_io *io, uint32_t events, void *data)
{
        struct http_conn *c = data;
        int r = proxy_read(c);

        (void)io;
        (void)events;
        if (r == 0)
                return;
        if (r < 0) {
                log_debug("http: %s: no PROXY header: %s", c->address.text, strerror(-r));
                http_conn_drop(c);
                return;
        }
        conn_begin(c);
}

static void on_proxy_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        http_conn_drop(data);
}

static void conn_await_proxy(struct http_conn *c)
{
        struct loop *loop = c->server->loop;
        int r;

        http_conn_idle(c);
        c->proxy = calloc(1, sizeof(*c->proxy));
        if (!c->proxy) {
                http_conn_drop(c);
                return;
        }
        r = proxy_read(c);
        if (r > 0) {
                conn_begin(c);
                return;
        }
        if (r < 0 || loop_io_add(loop, c->fd, EPOLLIN, on_proxy_io, c, &c->proxy->io, NULL) < 0 ||
            loop_timer_set(loop, &c->proxy->timer, time_mono_ns() + PROXY_TIMEOUT_S * NS_PER_S, on_proxy_timer, c) < 0)
                http_conn_drop(c);
}

/* ── accepting ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void accept_watch(struct http_server *s, bool on)
{
        struct http_listener *l;

        LIST_FOREACH(l, &s->listeners, node) {
                if (l->io)
                        (void)loop_io_set(l->io, on ? EPOLLIN : 0);
        }
}

static void on_accept_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        http_accept_wake(data);
}

void http_accept_wake(struct http_server *s)
{
        if (!s->accept_rest)
                return;
        s->accept_rest = false;
        loop_timer_cancel(&s->accept_timer);
        accept_watch(s, true);
}

/* Level-triggered events of a socket from which nothing can be taken would keep the loop busy. */
static void accept_rest(struct http_server *s)
{
        if (s->accept_rest)
                return;
        s->accept_rest = true;
        accept_watch(s, false);
        (void)loop_timer_set(s->loop, &s->accept_timer, time_mono_ns() + REST_MS * NS_PER_MS, on_accept_timer, s);
}

static bool is_full(const struct http_server *s)
{
        return s->few_fds || s->connections >= s->config.max_connections;
}

/* Descriptors are given from the lowest free one on, so a new one that is high says that there are few; one that is low says
 * nothing where connections that ended have left gaps. Then they are counted, unless there cannot be so many. The limit may
 * have changed. */
static bool few_descriptors(const struct http_server *s, int fd, int needed)
{
        uint64_t ours = (s->connections * (1 + HTTP_LINK_FDS) + (uint64_t)needed) * 2;

        return fd_left(MAX(ours, (uint64_t)fd + (uint64_t)needed) + 1) <= (uint64_t)needed;
}

static void conn_new(struct http_listener *l, int fd, const struct sockaddr_storage *from)
{
        struct http_server *s = l->server;
        struct http_conn *c = calloc(1, sizeof(*c));

        if (!c) {
                fd_close(fd);
                return;
        }
        c->server = s;
        c->listener = l;
        c->fd = c->net_fd = fd;
        c->is_tls = l->tls != NULL;
        list_init(&c->node);
        list_append(&l->early, &c->node);
        list_init(&c->watch_node);
        list_init(&c->hung_node);
        s->connections++;
        s->few_fds = few_descriptors(s, fd, s->fds_owed + (c->is_tls ? HTTP_LINK_FDS : 0) + HTTP_FD_RESERVE);
        http_address_from_sockaddr(from, &c->address);
        if (c->address.family == AF_UNIX)
                c->has_uid = fd_peer_uid(fd, &c->uid) == 0;
        if (l->proxy_protocol && http_network_has(s->trusted, s->n_trusted, &c->address))
                conn_await_proxy(c);
        else
                conn_begin(c);
}

/* How many wait; of a unix socket, whether one does. (tcpi_unacked of a listening socket is the length of its queue.) */
static unsigned accept_backlog(const struct http_listener *l)
{
        struct pollfd waits = { .fd = l->fd, .events = POLLIN };
        struct tcp_info info = { .tcpi_state = 0 };
        socklen_t len = sizeof(info);

        if (poll(&waits, 1, 0) <= 0)
                return 0;
        return getsockopt(l->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? MAX(info.tcpi_unacked, 1U) : 1;
}

/* False: nobody waits, or nobody can be taken. */
static bool accept_one(struct http_listener *l)
{
        struct http_server *s = l->server;
        struct sockaddr_storage from = { .ss_family = AF_UNSPEC };
        socklen_t len = sizeof(from);
        int fd;

        /* Whoever is ended leaves in a moment; for nobody, nobody goes. */
        if (is_full(s)) {
                unsigned n = accept_backlog(l);

                if (n == 0)
                        return false;
                http_server_evict(s, MIN(n, (unsigned)ACCEPTS_PER_TURN));
                accept_rest(s);
                return false;
        }
        fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
                conn_new(l, fd, &from);
                return true;
        }
        if (errno == EAGAIN)
                return false;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                http_server_evict(s, 1);
                accept_rest(s);
                return false;
        }
        /* The connection's own fault (accept(2), Error handling). */
        return errno != EBADF && errno != EINVAL;
}

static void on_accept(struct loop_io *io, uint32_t events, void *data)
{
        struct http_listener *l = data;

        (void)io;
        (void)events;
        l->accepting = true;
        for (unsigned i = 0; i < ACCEPTS_PER_TURN && accept_one(l); i++)
                ;
        l->accepting = false;
        if (l->parser->dirty)
                http_parser_run(l->parser);
}

int http_accept_start(struct http_listener *l, struct err *err)
{
        return loop_io_add(l->server->loop, l->fd, l->server->accept_rest ? 0 : EPOLLIN, on_accept, l, &l->io, err);
}

void http_accept_stop(struct http_listener *l)
{
        struct http_conn *c;

        loop_io_remove(l->io);
        l->io = NULL;
        fd_replace(&l->fd, -EBADF);
        LIST_FOREACH(c, &l->early, node) {
                http_conn_drop(c);
        }
}
