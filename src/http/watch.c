/* Clients that are slow on purpose: each connection is in one of two lists, without a request or with one. */

#include "base/time.h"
#include "http/internal.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#define LOOK_S 1
#define LOOK_FULL_NS (300 * NS_PER_MS) /* while others wait for a place */
#define SLOW_S 30 /* that long ends it; from the first look on it is the next to go when there is no room */
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

static void conn_look(struct http_conn *c, uint64_t now)
{
        uint64_t progress = 0, since = now - c->look_ns;
        bool known = conn_progress(c, &progress);

        if (!known || c->look_ns == 0 || progress < c->progress ||
            progress - c->progress >= c->server->config.min_rate * since / NS_PER_S)
                c->slow_ns = 0;
        else if (c->slow_ns == 0)
                c->slow_ns = c->look_ns;
        c->look_ns = known ? now : 0;
        c->progress = progress;
        if (c->slow_ns > 0 && now - c->slow_ns >= SLOW_S * NS_PER_S)
                http_conn_kill(c);
}

static void server_look(struct http_server *s)
{
        struct http_conn *c;

        s->looked_ns = time_mono_ns();
        LIST_FOREACH(c, &s->busy, watch_node) {
                conn_look(c, s->looked_ns);
        }
}

static void on_busy_timer(struct loop_timer *timer, void *data)
{
        struct http_server *s = data;

        server_look(s);
        if (!list_empty(&s->busy))
                (void)loop_timer_set(s->loop, timer, s->looked_ns + LOOK_S * NS_PER_S, on_busy_timer, s);
}

void http_conn_busy(struct http_conn *c)
{
        struct http_server *s = c->server;

        c->slow_ns = c->look_ns = 0;
        list_remove(&c->watch_node);
        list_append(&s->busy, &c->watch_node);
        if (s->busy_timer.heap_index == 0)
                (void)loop_timer_set(s->loop, &s->busy_timer, time_mono_ns() + LOOK_S * NS_PER_S, on_busy_timer, s);
}

/* The one that has been too slow for the longest; NULL: none. */
static struct http_conn *slowest(struct http_server *s)
{
        struct http_conn *c, *found = NULL;

        LIST_FOREACH(c, &s->busy, watch_node) {
                if (c->slow_ns > 0 && (!found || c->slow_ns < found->slow_ns))
                        found = c;
        }
        return found;
}

void http_server_evict(struct http_server *s, unsigned n)
{
        uint64_t now = time_mono_ns();

        if (now - s->looked_ns >= LOOK_FULL_NS)
                server_look(s);
        for (; n > 0; n--) {
                struct http_conn *c = LIST_FIRST(&s->idle, struct http_conn, watch_node);

                if (!c || c->idle_since_ns + EVICT_AGE_NS > now)
                        c = slowest(s);
                if (!c)
                        return;
                /* The parser notices, and tells of its end. */
                list_remove(&c->watch_node);
                http_conn_kill(c);
        }
}
