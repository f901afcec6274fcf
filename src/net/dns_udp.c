/* Questions by UDP. Each has a socket of its own while it is in flight, so that its source port is as random as its id,
 * and only the server that was asked is heard.
 *
 *     (client) ──▶ asked ──▶ answered, relayed
 *                   │  ▲ no answer in time, refused, or a failure that another server may not have
 *                   └──┘ the next server; after the last: SERVFAIL */
#include "base/fd.h"
#include "base/log.h"
#include "net/dns_private.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#define BURST 32 /* datagrams of clients in one turn */

struct query {
        struct dns_source upstream;
        struct list node;
        struct sockaddr_in client;
        uint32_t index;   /* of the client's address in the pool */
        uint16_t id, own; /* the client's, and the one that the server sees */
        unsigned attempt;
        uint64_t until; /* ms: end of this attempt */
        union resolv_address server;
        size_t question, len;
        uint8_t msg[]; /* with `own` */
};

static void query_free(struct dns *d, struct query *q)
{
        list_remove(&q->node);
        d->n_queries--;
        d->asking[q->index]--;
        fd_close(q->upstream.fd);
        free(q);
}

static void answer_client(struct dns *d, const struct sockaddr_in *to, const uint8_t *msg, size_t len)
{
        /* What cannot be sent now is lost, as datagrams are. */
        (void)sendto(d->conf.udp, msg, len, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)to, sizeof(*to));
}

static void query_fail(struct dns *d, struct query *q)
{
        dns_set_id(q->msg, q->id);
        answer_client(d, &q->client, q->msg, dns_fail(q->msg, q->question, DNS_SERVFAIL));
        query_free(d, q);
}

/* ── to the server ───────────────────────────────────────────────────────────────────────────────────────────── */

static int open_upstream(struct dns *d, struct query *q, const union resolv_address *server)
{
        int r;

        if (q->upstream.fd >= 0 && resolv_address_eq(server, &q->server))
                return 0; /* an answer to the first attempt is welcome, too */
        fd_replace(&q->upstream.fd, dns_connect(server, SOCK_DGRAM));
        if (q->upstream.fd < 0)
                return q->upstream.fd;
        q->server = *server;
        r = getrandom(&q->own, sizeof(q->own), 0) == sizeof(q->own) ? 0 : -EIO;
        dns_set_id(q->msg, q->own);
        return r < 0 ? r : dns_watch(d, &q->upstream, EPOLLIN);
}

/* Asks the server of this attempt, or of the next one that can be asked. */
static void query_ask(struct dns *d, struct query *q)
{
        const union resolv_address *server;

        for (; (server = dns_server(d, q->attempt)); q->attempt++) {
                if (open_upstream(d, q, server) < 0 || send(q->upstream.fd, q->msg, q->len, MSG_NOSIGNAL) < 0)
                        continue;
                q->until = dns_now_ms() + (dns_is_last(d, q->attempt) ? DNS_LAST_TRY_MS : DNS_TRY_MS);
                list_remove(&q->node);
                list_append(&d->queries, &q->node);
                return;
        }
        query_fail(d, q);
}

static void query_next(struct dns *d, struct query *q)
{
        q->attempt++;
        query_ask(d, q);
}

static bool is_server(const struct dns *d, const union resolv_address *address)
{
        const struct resolv_conf *conf = resolv_get(d->resolv);

        for (size_t i = 0; i < conf->n_asked; i++) {
                if (resolv_address_eq(&conf->asked[i], address))
                        return true;
        }
        return false;
}

/* Else a task's share would be full of questions to who is gone, and its new ones dropped, until those time out. */
void dns_udp_on_servers(struct dns *d)
{
        struct query *q;

        LIST_FOREACH(q, &d->queries, node) {
                if (is_server(d, &q->server))
                        continue; /* also those that were asked anew, at the list's end */
                q->attempt = 0;
                query_ask(d, q);
        }
}

/* Another server might know more. */
static bool try_another(const struct dns *d, const struct query *q, unsigned rcode)
{
        const union resolv_address *next = dns_server(d, q->attempt + 1);

        return (rcode == DNS_SERVFAIL || rcode == DNS_NOTIMP || rcode == DNS_REFUSED) && next &&
               q->attempt + 1 < resolv_get(d->resolv)->n_asked && !resolv_address_eq(next, &q->server);
}

void dns_udp_on_upstream(struct dns *d, struct dns_source *s)
{
        struct query *q = CONTAINER_OF(s, struct query, upstream);
        ssize_t n = recv(s->fd, d->buffer, sizeof(d->buffer), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n < 0) {
                fd_replace(&q->upstream.fd, -EBADF); /* nobody listens there */
                query_next(d, q);
                return;
        }
        if (!dns_answers(d->buffer, (size_t)n, q->msg, q->question, q->own))
                return;
        if (try_another(d, q, dns_rcode(d->buffer))) {
                query_next(d, q);
                return;
        }
        dns_set_id(d->buffer, q->id);
        answer_client(d, &q->client, d->buffer, (size_t)n);
        query_free(d, q);
}

/* ── from the client ─────────────────────────────────────────────────────────────────────────────────────────── */

static bool in_flight(const struct dns *d, const struct sockaddr_in *from, uint16_t id)
{
        struct list *head = (struct list *)&d->queries;
        const struct query *q;

        LIST_FOREACH(q, head, node) {
                if (q->id == id && q->client.sin_port == from->sin_port &&
                    q->client.sin_addr.s_addr == from->sin_addr.s_addr)
                        return true;
        }
        return false;
}

/* The oldest one of who has the most: nobody can keep the others out. */
static void make_room(struct dns *d)
{
        struct query *q, *victim = NULL;

        LIST_FOREACH(q, &d->queries, node) {
                if (!victim || d->asking[q->index] > d->asking[victim->index])
                        victim = q;
        }
        if (victim)
                query_free(d, victim);
}

static void take_query(struct dns *d, const struct sockaddr_in *from, uint32_t index, size_t len, size_t question)
{
        struct query *q;

        if (d->asking[index] >= DNS_UDP_PER_TASK || in_flight(d, from, dns_id(d->buffer)))
                return; /* dropped: it asks again */
        if (d->n_queries >= DNS_UDP_MAX)
                make_room(d);
        q = calloc(1, sizeof(*q) + len);
        if (!q)
                return;
        q->upstream = (struct dns_source){ DNS_UPSTREAM, -EBADF };
        q->client = *from;
        q->index = index;
        q->id = dns_id(d->buffer);
        q->question = question;
        q->len = len;
        memcpy(q->msg, d->buffer, len);
        list_append(&d->queries, &q->node);
        d->n_queries++;
        d->asking[index]++;
        query_ask(d, q);
}

void dns_udp_on_client(struct dns *d)
{
        for (int i = 0; i < BURST; i++) {
                struct sockaddr_in from = { .sin_family = AF_UNSPEC };
                socklen_t from_len = sizeof(from);
                size_t question;
                uint32_t index;
                ssize_t n = recvfrom(d->conf.udp, d->buffer, sizeof(d->buffer), MSG_DONTWAIT, (struct sockaddr *)&from,
                                     &from_len);
                int r;

                if (n < 0)
                        return;
                if (!dns_is_task(d, &from, &index))
                        continue;
                r = dns_check_query(d->buffer, (size_t)n, &question);
                if (r == 0)
                        take_query(d, &from, index, (size_t)n, question);
                else if (r > 0)
                        answer_client(d, &from, d->buffer, dns_fail(d->buffer, 0, (enum dns_rcode)r));
        }
}

/* ── time ────────────────────────────────────────────────────────────────────────────────────────────────────── */

uint64_t dns_udp_expire(struct dns *d, uint64_t now)
{
        uint64_t next = UINT64_MAX;
        struct query *q;

        LIST_FOREACH(q, &d->queries, node) {
                if (q->until > now) {
                        next = MIN(next, q->until);
                } else {
                        query_next(d, q);
                        next = now; /* look at its new time */
                }
        }
        return next;
}

void dns_udp_free_all(struct dns *d)
{
        struct query *q;

        LIST_FOREACH(q, &d->queries, node)
                query_free(d, q);
}
