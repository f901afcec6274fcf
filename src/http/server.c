#include "http/server.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define MAX_CONNECTIONS 4096
#define IDLE_TIMEOUT_S 60
#define MAX_HEADER (6 * 1024)
#define MIN_RATE 512
#define BODY_BUDGET (512 * (uint64_t)1024 * 1024)
#define REPLY_BUDGET (1024 * (uint64_t)1024 * 1024)
#define HANGUPS_PER_TURN 64
#define RUNS_PER_TURN 4

/* ── running the parser ────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_parser_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        http_parser_run(data);
}

/* The timer is only ever set earlier, not later: it then fires once in vain in a while, and a busy connection costs no
 * system call for it. */
static void parser_set_timer(struct http_parser *p, uint64_t wait_ms)
{
        uint64_t at = time_mono_ns() + wait_ms * NS_PER_MS;

        if (p->timer.heap_index != 0 && p->timer.at_ns <= at)
                return;
        (void)loop_timer_set(p->listener->server->loop, &p->timer, at, on_parser_timer, p);
}

/* The parser does not see an end of file that came together with the last bytes: its events are edge-triggered, and it
 * stops reading at a short read. A connection that can bring no whole request any more is ended for it. */
static void parser_close_hung_up(struct http_parser *p)
{
        struct http_conn *c;

        LIST_FOREACH(c, &p->hung_up, hung_node) {
                bool reading = !c->request || c->request->state == HTTP_HEAD || c->request->state == HTTP_BODY;
                int unread = 0;

                if (!reading || (ioctl(c->fd, FIONREAD, &unread) == 0 && unread > 0))
                        continue;
                list_remove(&c->hung_node);
                (void)shutdown(c->fd, SHUT_RDWR);
        }
}

void http_parser_run(struct http_parser *p)
{
        MHD_UNSIGNED_LONG_LONG wait = 0;
        bool has_wait = true;

        p->dirty = false;
        for (unsigned i = 0; i < RUNS_PER_TURN && has_wait && wait == 0; i++) {
                (void)MHD_run(p->daemon);
                has_wait = MHD_get_timeout(p->daemon, &wait) == MHD_YES;
        }
        if (has_wait)
                parser_set_timer(p, wait);
        if (!has_wait || wait > 0)
                parser_close_hung_up(p);
}

static void on_parser_io(struct loop_io *io, uint32_t events, void *data)
{
        (void)io;
        (void)events;
        http_parser_run(data);
}

static void parser_free(struct http_parser *p)
{
        struct http_conn *c;

        loop_io_remove(p->io);
        loop_timer_cancel(&p->timer);
        if (p->daemon) {
                LIST_FOREACH(c, &p->conns, node) {
                        if (c->request && c->request->suspended)
                                http_request_hung_up(c->request);
                        else if (c->ws)
                                http_ws_end(c->ws);
                }
                MHD_stop_daemon(p->daemon);
        }
        free(p);
}

static int parser_new(struct http_listener *l, struct http_parser **ret, struct err *err)
{
        const union MHD_DaemonInfo *info;
        struct http_parser *p;

        p = calloc(1, sizeof(*p));
        if (!p)
                return err_oom(err);
        p->listener = l;
        list_init(&p->conns);
        list_init(&p->hung_up);
        p->daemon = http_parser_start(p);
        if (!p->daemon) {
                parser_free(p);
                return err_set(err, EIO, "the HTTP parser does not start");
        }
        info = MHD_get_daemon_info(p->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        if (!info || loop_io_add(l->server->loop, info->epoll_fd, EPOLLIN, on_parser_io, p, &p->io, err) < 0) {
                parser_free(p);
                return err_wrap(err, "watch the HTTP parser");
        }
        *ret = p;
        return 0;
}

/* ── what is owed ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void server_deferred(void *data)
{
        struct http_server *s = data;
        struct http_listener *l;
        struct http_request *r;

        s->deferred = false;
        if (s->closed) {
                free(s);
                return;
        }
        http_accept_wake(s);
        http_ws_run_dirty(s);
        while ((r = LIST_FIRST(&s->hung, struct http_request, hung_node))) {
                list_remove(&r->hung_node);
                http_request_hung_up(r);
        }
        LIST_FOREACH(l, &s->listeners, node) {
                if (l->parser && l->parser->dirty)
                        http_parser_run(l->parser);
        }
}

void http_server_defer(struct http_server *s)
{
        if (!s->deferred && !s->closed && loop_defer(s->loop, server_deferred, s) == 0)
                s->deferred = true;
}

static void on_hangup(struct loop_io *io, uint32_t events, void *data)
{
        struct http_server *s = data;
        struct epoll_event found[HANGUPS_PER_TURN];
        int n;

        (void)io;
        (void)events;
        n = epoll_wait(s->hangup_fd, found, HANGUPS_PER_TURN, 0);
        for (int i = 0; i < n; i++) {
                struct http_conn *c = found[i].data.ptr;

                /* It comes twice where the client ends its side first, and the connection later. */
                c->is_hung_up = true;
                list_remove(&c->hung_node);
                list_append(&c->parser->hung_up, &c->hung_node);
                c->parser->dirty = true;
                http_server_defer(s);
                if (c->request && c->request->suspended)
                        http_request_hung_up(c->request);
                else if (c->ws)
                        http_ws_hung_up(c->ws);
        }
}

/* ── server ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int trusted_parse(struct http_server *s, const char *const *names, struct err *err)
{
        size_t n = 0;

        while (names && names[n])
                n++;
        s->trusted = calloc(n + 1, sizeof(*s->trusted));
        if (!s->trusted)
                return err_oom(err);
        for (; s->n_trusted < n; s->n_trusted++)
                if (http_network_parse(names[s->n_trusted], &s->trusted[s->n_trusted]) < 0)
                        return err_set(err, EINVAL,
                                       "trusted proxy '%s': not an address or a network such as 10.0.0.0/8",
                                       names[s->n_trusted]);
        return 0;
}

static void config_default(struct http_server *s)
{
        struct http_config *c = &s->config;

        c->trusted_proxies = NULL;
        if (c->max_connections == 0)
                c->max_connections = MAX_CONNECTIONS;
        if (c->idle_timeout_s == 0)
                c->idle_timeout_s = IDLE_TIMEOUT_S;
        if (c->max_header == 0)
                c->max_header = MAX_HEADER;
        if (c->min_rate == 0)
                c->min_rate = MIN_RATE;
        if (c->body_budget == 0)
                c->body_budget = BODY_BUDGET;
        if (c->reply_budget == 0)
                c->reply_budget = REPLY_BUDGET;
        if (c->body_budget_per_address == 0)
                c->body_budget_per_address = c->body_budget / 2;
}

static int server_start(struct http_server *s, const struct http_config *config, struct err *err)
{
        int r = trusted_parse(s, config->trusted_proxies, err);

        if (r < 0)
                return r;
        s->sources = map_new();
        if (!s->sources)
                return err_oom(err);
        s->hangup_fd = epoll_create1(EPOLL_CLOEXEC);
        if (s->hangup_fd < 0)
                return err_sys(err, "epoll_create1");
        return loop_io_add(s->loop, s->hangup_fd, EPOLLIN, on_hangup, s, &s->hangup_io, err);
}

int http_server_new(struct loop *loop, const struct http_config *config, const struct http_handler *handler, void *data,
                    struct http_server **ret, struct err *err)
{
        struct http_server *s;
        int r;

        s = calloc(1, sizeof(*s));
        if (!s)
                return err_oom(err);
        s->loop = loop;
        s->handler = *handler;
        s->data = data;
        s->config = *config;
        s->hangup_fd = -EBADF;
        config_default(s);
        list_init(&s->listeners);
        list_init(&s->idle);
        list_init(&s->busy);
        list_init(&s->hung);
        list_init(&s->ws_dirty);
        list_init(&s->links);
        r = server_start(s, config, err);
        if (r < 0) {
                http_server_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

static void listener_free(struct http_listener *l)
{
        http_accept_stop(l);
        if (l->parser)
                parser_free(l->parser);
        list_remove(&l->node);
        free(l);
}

int http_server_listen_with(struct http_server *s, const struct http_listen *listen, struct err *err)
{
        struct http_listener *l;
        int r;

        l = calloc(1, sizeof(*l));
        if (!l) {
                fd_close(listen->fd);
                return err_oom(err);
        }
        l->server = s;
        l->fd = listen->fd;
        l->tls = listen->tls;
        l->proxy_protocol = listen->proxy_protocol;
        list_init(&l->early);
        list_append(&s->listeners, &l->node);
        (void)fd_set_nonblock(l->fd, true);
        r = parser_new(l, &l->parser, err);
        if (r == 0)
                r = http_accept_start(l, err);
        if (r < 0) {
                listener_free(l);
                return err_wrap(err, "listen for HTTP");
        }
        return 0;
}

int http_server_listen(struct http_server *s, int fd, struct err *err)
{
        const struct http_listen listen = { .fd = fd };

        return http_server_listen_with(s, &listen, err);
}

void http_server_drain(struct http_server *s)
{
        struct http_listener *l;

        LIST_FOREACH(l, &s->listeners, node) {
                http_accept_stop(l);
        }
}

size_t http_server_open(const struct http_server *s)
{
        const struct http_listener *l;
        const struct http_conn *c;
        size_t n = s->open;

        LIST_FOREACH(l, &s->listeners, node) {
                LIST_FOREACH(c, &l->parser->conns, node)
                        n += c->link && http_link_unsent(c->link);
        }
        LIST_FOREACH(c, &s->links, node)
                n += http_link_unsent(c->link);
        return n;
}

void http_server_free(struct http_server *s)
{
        struct http_listener *l;
        struct http_conn *c;

        if (!s)
                return;
        s->closed = true;
        LIST_FOREACH(l, &s->listeners, node) {
                listener_free(l);
        }
        LIST_FOREACH(c, &s->links, node) {
                http_link_end(c->link);
        }
        loop_timer_cancel(&s->idle_timer);
        loop_timer_cancel(&s->busy_timer);
        loop_timer_cancel(&s->accept_timer);
        loop_io_remove(s->hangup_io);
        fd_close(s->hangup_fd);
        map_free(s->sources);
        free(s->trusted);
        /* A call that is owed frees it. */
        if (!s->deferred)
                free(s);
}
