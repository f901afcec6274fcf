/* Questions by TCP (RFC 7766), one after the other on each connection; each is asked on a connection of its own.
 *
 *                    length, message          sent               length, message         sent
 *     (accepted) ──▶ READING ──────▶ ASKING ─────────▶ HEARING ─────────────▶ ANSWERING ─────▶ READING
 *                       │               │  ▲ no such server: the next one │       ▲
 *                       │ end, time     └──┴──────────── all failed ──────┴───────┘
 *                       ▼
 *                    (closed)      a time limit ends it in every state */
#include "base/fd.h"
#include "net/dns_private.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#define PREFIX 2 /* the length before each message */
#define ACCEPT_BURST 16

enum conn_state { CONN_READING, CONN_ASKING, CONN_HEARING, CONN_ANSWERING };

struct conn {
        struct dns_source client, upstream;
        struct list node;
        uint32_t index;
        enum conn_state state;
        uint64_t until, try_until; /* ms; the latter of the server that is being asked */
        unsigned attempt;
        uint16_t id, own;
        size_t question, query_len;
        size_t at, len;                        /* of `data`: done, and to do */
        uint8_t query[PREFIX + DNS_QUERY_MAX]; /* as the server gets it */
        uint8_t *data;                         /* what is being read or written, of DATA_MAX bytes */
};

#define DATA_MAX (PREFIX + DNS_ANSWER_MAX)

static const bool allowed[CONN_ANSWERING + 1][CONN_ANSWERING + 1] = {
        [CONN_READING] = { [CONN_ASKING] = true, [CONN_ANSWERING] = true },
        [CONN_ASKING] = { [CONN_ASKING] = true, [CONN_HEARING] = true, [CONN_ANSWERING] = true },
        [CONN_HEARING] = { [CONN_ASKING] = true, [CONN_ANSWERING] = true },
        [CONN_ANSWERING] = { [CONN_READING] = true },
};

static void conn_free(struct dns *d, struct conn *c)
{
        list_remove(&c->node);
        d->n_conns--;
        d->connected[c->index]--;
        fd_close(c->client.fd);
        fd_close(c->upstream.fd);
        free(c->data);
        free(c);
}

/* With what is to be moved next: `len` bytes from the start of data. */
static void conn_move(struct dns *d, struct conn *c, enum conn_state to, size_t len)
{
        if (!allowed[c->state][to])
                abort();
        if (to == CONN_READING || c->state == CONN_READING)
                c->until = dns_now_ms() + DNS_TCP_MS;
        c->state = to;
        c->at = 0;
        c->len = len;
        /* While it waits for the server only an error of the client is heard. */
        dns_watch_for(d, &c->client, to == CONN_READING ? EPOLLIN : to == CONN_ANSWERING ? EPOLLOUT : 0);
}

static size_t prefix_of(const uint8_t *data)
{
        return (size_t)data[0] << 8 | data[1];
}

static void put_prefix(uint8_t *data, size_t len)
{
        data[0] = (uint8_t)(len >> 8);
        data[1] = (uint8_t)len;
}

/* Reads on until `len` bytes are there. 1: they are; 0: not yet; -EPIPE: there is no more. */
static int read_on(int fd, struct conn *c)
{
        ssize_t n = recv(fd, c->data + c->at, c->len - c->at, MSG_DONTWAIT);

        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0)
                return -EPIPE;
        c->at += (size_t)n;
        return c->at == c->len;
}

static int write_on(int fd, struct conn *c, const uint8_t *data)
{
        ssize_t n = send(fd, data + c->at, c->len - c->at, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        c->at += (size_t)n;
        return c->at == c->len;
}

/* A length and the message behind it. 1: complete. -EMSGSIZE above max. */
static int read_message(int fd, struct conn *c, size_t max)
{
        int r = read_on(fd, c);

        if (r <= 0 || c->len > PREFIX)
                return r;
        if (prefix_of(c->data) > max || prefix_of(c->data) < DNS_HEADER)
                return -EMSGSIZE;
        c->len = PREFIX + prefix_of(c->data);
        r = read_on(fd, c);
        return r;
}

/* ── the server's side ───────────────────────────────────────────────────────────────────────────────────────── */

static void conn_fail(struct dns *d, struct conn *c, enum dns_rcode rcode)
{
        size_t len;

        fd_replace(&c->upstream.fd, -EBADF);
        memcpy(c->data, c->query, c->query_len);
        dns_set_id(c->data + PREFIX, c->id);
        len = dns_fail(c->data + PREFIX, c->question, rcode);
        put_prefix(c->data, len);
        conn_move(d, c, CONN_ANSWERING, PREFIX + len);
}

static void conn_ask(struct dns *d, struct conn *c)
{
        const union resolv_address *server;

        for (; (server = dns_server(d, c->attempt)); c->attempt++) {
                fd_replace(&c->upstream.fd, dns_connect(server, SOCK_STREAM));
                if (c->upstream.fd < 0 || getrandom(&c->own, sizeof(c->own), 0) != sizeof(c->own) ||
                    dns_watch(d, &c->upstream, EPOLLOUT) < 0)
                        continue;
                dns_set_id(c->query + PREFIX, c->own);
                c->try_until = dns_is_last(d, c->attempt) ? UINT64_MAX : dns_now_ms() + DNS_TRY_MS;
                conn_move(d, c, CONN_ASKING, c->query_len);
                return;
        }
        conn_fail(d, c, DNS_SERVFAIL);
}

static void conn_next(struct dns *d, struct conn *c)
{
        c->attempt++;
        conn_ask(d, c);
}

static void conn_relay(struct dns *d, struct conn *c)
{
        fd_replace(&c->upstream.fd, -EBADF);
        dns_set_id(c->data + PREFIX, c->id);
        conn_move(d, c, CONN_ANSWERING, c->len);
}

void dns_tcp_on_upstream(struct dns *d, struct dns_source *s)
{
        struct conn *c = CONTAINER_OF(s, struct conn, upstream);
        int r;

        if (c->state == CONN_ASKING) {
                r = write_on(s->fd, c, c->query);
                if (r > 0) {
                        conn_move(d, c, CONN_HEARING, PREFIX);
                        dns_watch_for(d, s, EPOLLIN);
                        return;
                }
        } else {
                r = read_message(s->fd, c, DNS_ANSWER_MAX);
                if (r > 0 && dns_answers(c->data + PREFIX, c->len - PREFIX, c->query + PREFIX, c->question, c->own)) {
                        conn_relay(d, c);
                        return;
                }
                if (r > 0)
                        r = -EBADMSG;
        }
        if (r < 0)
                conn_next(d, c);
}

/* ── the client's side ───────────────────────────────────────────────────────────────────────────────────────── */

/* A message is there. */
static void conn_query(struct dns *d, struct conn *c)
{
        int r = dns_check_query(c->data + PREFIX, c->len - PREFIX, &c->question);

        if (r < 0) {
                conn_free(d, c);
                return;
        }
        memcpy(c->query, c->data, c->len);
        c->query_len = c->len;
        c->id = dns_id(c->data + PREFIX);
        c->attempt = 0;
        if (r > 0) {
                c->question = 0;
                conn_fail(d, c, (enum dns_rcode)r);
        } else {
                conn_ask(d, c);
        }
}

void dns_tcp_on_client(struct dns *d, struct dns_source *s, uint32_t events)
{
        struct conn *c = CONTAINER_OF(s, struct conn, client);
        int r = 0;

        if (c->state == CONN_READING) {
                r = read_message(s->fd, c, DNS_QUERY_MAX);
                if (r > 0)
                        conn_query(d, c);
        } else if (c->state == CONN_ANSWERING) {
                r = write_on(s->fd, c, c->data);
                if (r > 0)
                        conn_move(d, c, CONN_READING, PREFIX);
        } else if (events & (EPOLLERR | EPOLLHUP)) {
                r = -EPIPE;
        }
        if (r < 0)
                conn_free(d, c);
}

/* As with datagrams: the oldest one of who has the most. */
static void make_room(struct dns *d)
{
        struct conn *c, *victim = NULL;

        LIST_FOREACH(c, &d->conns, node) {
                if (!victim || d->connected[c->index] > d->connected[victim->index])
                        victim = c;
        }
        if (victim)
                conn_free(d, victim);
}

static void take_client(struct dns *d, int fd, uint32_t index)
{
        struct conn *c = calloc(1, sizeof(*c));

        if (c)
                c->data = malloc(DATA_MAX);
        if (!c || !c->data) {
                free(c);
                fd_close(fd);
                return;
        }
        c->client = (struct dns_source){ DNS_CLIENT, fd };
        c->upstream = (struct dns_source){ DNS_TCP_UPSTREAM, -EBADF };
        c->index = index;
        c->state = CONN_READING;
        c->len = PREFIX;
        c->until = dns_now_ms() + DNS_TCP_MS;
        list_append(&d->conns, &c->node);
        d->n_conns++;
        d->connected[index]++;
        if (dns_watch(d, &c->client, EPOLLIN) < 0)
                conn_free(d, c);
}

void dns_tcp_on_listener(struct dns *d)
{
        for (int i = 0; i < ACCEPT_BURST; i++) {
                struct sockaddr_in from = { .sin_family = AF_UNSPEC };
                socklen_t len = sizeof(from);
                auto_fd fd = accept4(d->listener.fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
                uint32_t index;

                if (fd < 0)
                        return;
                if (!dns_is_task(d, &from, &index) || d->connected[index] >= DNS_TCP_PER_TASK)
                        continue;
                if (d->n_conns >= DNS_TCP_MAX)
                        make_room(d);
                take_client(d, TAKE_FD(fd), index);
        }
}

/* ── time ────────────────────────────────────────────────────────────────────────────────────────────────────── */

uint64_t dns_tcp_expire(struct dns *d, uint64_t now)
{
        uint64_t next = UINT64_MAX;
        struct conn *c;

        LIST_FOREACH(c, &d->conns, node) {
                bool asks = c->state == CONN_ASKING || c->state == CONN_HEARING;

                if (c->until <= now) {
                        conn_free(d, c);
                        continue;
                }
                if (asks && c->try_until <= now) {
                        conn_next(d, c);
                        next = now;
                }
                next = MIN(next, asks ? MIN(c->until, c->try_until) : c->until);
        }
        return next;
}

void dns_tcp_free_all(struct dns *d)
{
        struct conn *c;

        LIST_FOREACH(c, &d->conns, node)
                conn_free(d, c);
}
