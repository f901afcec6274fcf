/* Clients that are slow on purpose: each connection is in one of two lists, without a request or with one. */

#include "base/time.h"
#include "http/internal.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#define LOOK_S 1
#define SLOW_LOOKS 30 /* that many in a row end it; one makes it the next to go when there is no room */
/* Whoever has just come, or been answered, is not evicted for the next. */
#define EVICT_AGE_NS (250 * NS_PER_MS)

static uint64_t idle_deadline(const struct http_conn *c)
{
        return c->idle_since_ns + 2 * (uint64_t)c->server->config.idle_timeout_s * NS_PER_S;
}

/* The parser's own timeout starts again with each byte, so that a head could be sent for ever. */
static void on_idle_timer(struct loop_timer *timer, void *data)
{
        struct http_server *s = data;
        uint64_t now = time_mono_ns();
        struct http_conn *c;

        (void)timer;
        LIST_FOREACH(c, &s->idle, watch_node) {
                if (idle_deadline(c) > now) {
                        (void)loop_timer_set(s->loop, &s->idle_timer, idle_deadline(c), on_idle_timer, s);
                        return;
                }
                http_conn_kill(c);
                list_remove(&c->watch_node);
        }
}

void http_conn_idle(struct http_conn *c)
{
        struct http_server *s = c->server;

        c->idle_since_ns = time_mono_ns();
        list_remove(&c->watch_node);
        list_append(&s->idle, &c->watch_node);
        if (s->idle_timer.heap_index == 0)
                (void)loop_timer_set(s->loop, &s->idle_timer, idle_deadline(c), on_idle_timer, s);
}

/* Bytes that have come of a body, or that the client has taken of the answer. Of unix sockets the latter is not known: there
 * the parser's timeout must do. Their bodies may take their time. False: nothing is expected of the client. */
static bool conn_progress(const struct http_conn *c, uint64_t *ret)
{
        const struct http_request *r = c->request;
        struct tcp_info info = { .tcpi_state = 0 };
        socklen_t len = sizeof(info);

        if (!r || r->suspended)
                return false;
        if (r->state == HTTP_BODY) {
                *ret = r->received;
                return !c->has_uid;
        }
        if (c->address.family == AF_UNIX || getsockopt(c->net_fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
                return false;
        *ret = info.tcpi_bytes_acked;
        return len >= offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked);
}

static void conn_look(struct http_conn *c)
{
        uint64_t progress = 0, least = (uint64_t)c->server->config.min_rate * LOOK_S;
        bool known = conn_progress(c, &progress);

        if (known && c->was_watched && progress >= c->progress && progress - c->progress < least)
                c->slow++;
        else
                c->slow = 0;
        c->was_watched = known;
        c->progress = progress;
        if (c->slow >= SLOW_LOOKS)
                http_conn_kill(c);
}

static void on_busy_timer(struct loop_timer *timer, void *data)
{
        struct http_server *s = data;
        struct http_conn *c;

        LIST_FOREACH(c, &s->busy, watch_node) {
                conn_look(c);
        }
        if (!list_empty(&s->busy))
                (void)loop_timer_set(s->loop, timer, time_mono_ns() + LOOK_S * NS_PER_S, on_busy_timer, s);
}

void http_conn_busy(struct http_conn *c)
{
        struct http_server *s = c->server;

        c->slow = 0;
        c->was_watched = false;
        list_remove(&c->watch_node);
        list_append(&s->busy, &c->watch_node);
        if (s->busy_timer.heap_index == 0)
                (void)loop_timer_set(s->loop, &s->busy_timer, time_mono_ns() + LOOK_S * NS_PER_S, on_busy_timer, s);
}

bool http_server_evict(struct http_server *s)
{
        struct http_conn *c = LIST_FIRST(&s->idle, struct http_conn, watch_node), *slowest = NULL;

        if (c && c->idle_since_ns + EVICT_AGE_NS <= time_mono_ns())
                slowest = c;
        if (!slowest) {
                LIST_FOREACH(c, &s->busy, watch_node) {
                        if (c->slow > (slowest ? slowest->slow : 0))
                                slowest = c;
                }
        }
        if (!slowest)
                return false;
        /* The parser notices, and tells of its end. */
        list_remove(&slowest->watch_node);
        http_conn_kill(slowest);
        return true;
}
