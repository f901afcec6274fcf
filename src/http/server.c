#include "http/server.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "http/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define MAX_CONNECTIONS 4096
#define IDLE_TIMEOUT_S 60
/* Together the parser's memory of a connection, all of which it touches: the head, beside it the list of its headers, and
 * the head of the answer. */
#define MAX_HEADER (6 * 1024)
#define POOL_EXTRA (2 * 1024)
#define EARLY_REST (1024 * 1024)
#define HANGUPS_PER_TURN 64
#define RUNS_PER_TURN 4

static void server_deferred(void *data);

static void server_defer(struct http_server *s)
{
        if (!s->deferred && !s->closed && loop_defer(s->loop, server_deferred, s) == 0)
                s->deferred = true;
}

/* ── running the parser ────────────────────────────────────────────────────────────────────────────────────────────── */

static void listener_run(struct http_listener *l);

static void on_listener_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        listener_run(data);
}

/* The timer is only ever set earlier, not later: it then fires once in vain in a while, and a busy connection costs no
 * system call for it. */
static void listener_set_timer(struct http_listener *l, uint64_t wait_ms)
{
        uint64_t at = time_mono_ns() + wait_ms * NS_PER_MS;

        if (l->timer.heap_index != 0 && l->timer.at_ns <= at)
                return;
        (void)loop_timer_set(l->server->loop, &l->timer, at, on_listener_timer, l);
}

/* The parser does not see an end of file that came together with the last bytes: its events are edge-triggered, and it
 * stops reading at a short read. A connection that can bring no whole request any more is ended for it. */
static void listener_close_hung_up(struct http_listener *l)
{
        struct http_conn *c;

        LIST_FOREACH(c, &l->hung_up, hung_node) {
                bool reading = !c->request || c->request->state == HTTP_HEAD || c->request->state == HTTP_BODY;
                int unread = 0;

                if (!reading || (ioctl(c->fd, FIONREAD, &unread) == 0 && unread > 0))
                        continue;
                list_remove(&c->hung_node);
                (void)shutdown(c->fd, SHUT_RDWR);
        }
}

static void listener_run(struct http_listener *l)
{
        MHD_UNSIGNED_LONG_LONG wait = 0;
        bool has_wait = true;

        l->dirty = false;
        /* Only a run after that in which a connection ended listens again, where there were too many of them. */
        for (unsigned i = 0; i < RUNS_PER_TURN && ((has_wait && wait == 0) || l->closed_one); i++) {
                l->closed_one = false;
                (void)MHD_run(l->daemon);
                has_wait = MHD_get_timeout(l->daemon, &wait) == MHD_YES;
        }
        if (l->closed_one) {
                has_wait = true;
                wait = 0;
        }
        if (has_wait)
                listener_set_timer(l, wait);
        if (!has_wait || wait > 0)
                listener_close_hung_up(l);
}

static void on_listener_io(struct loop_io *io, uint32_t events, void *data)
{
        (void)io;
        (void)events;
        listener_run(data);
}

/* ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint64_t conn_deadline(const struct http_conn *c)
{
        return c->idle_since_ns + 2 * (uint64_t)c->listener->server->config.idle_timeout_s * NS_PER_S;
}

/* The parser's own timeout starts again with each byte, so that a head could be sent for ever. */
static void on_idle_timer(struct loop_timer *timer, void *data)
{
        struct http_server *s = data;
        uint64_t now = time_mono_ns();
        struct http_conn *c;

        (void)timer;
        LIST_FOREACH(c, &s->idle, idle_node) {
                if (conn_deadline(c) > now) {
                        (void)loop_timer_set(s->loop, &s->idle_timer, conn_deadline(c), on_idle_timer, s);
                        return;
                }
                (void)shutdown(c->fd, SHUT_RDWR);
                list_remove(&c->idle_node);
        }
}

/* Until its next head is complete. */
static void conn_idle(struct http_conn *c)
{
        struct http_server *s = c->listener->server;

        c->idle_since_ns = time_mono_ns();
        list_remove(&c->idle_node);
        list_append(&s->idle, &c->idle_node);
        if (s->idle_timer.heap_index == 0)
                (void)loop_timer_set(s->loop, &s->idle_timer, conn_deadline(c), on_idle_timer, s);
}

static void conn_open(struct http_listener *l, struct MHD_Connection *mhd, void **context)
{
        const union MHD_ConnectionInfo *info;
        struct http_conn *c;
        struct epoll_event event = { .events = EPOLLRDHUP | EPOLLET };

        c = calloc(1, sizeof(*c));
        if (!c)
                return;
        info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        c->listener = l;
        c->mhd = mhd;
        c->fd = info->connect_fd;
        c->has_uid = fd_peer_uid(c->fd, &c->uid) == 0;
        list_init(&c->idle_node);
        list_init(&c->hung_node);
        list_append(&l->conns, &c->node);
        event.data.ptr = c;
        (void)epoll_ctl(l->server->hangup_fd, EPOLL_CTL_ADD, c->fd, &event);
        conn_idle(c);
        *context = c;
}

static void on_connection(void *data, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
        struct http_listener *l = data;
        struct http_conn *c = *context;

        if (code == MHD_CONNECTION_NOTIFY_STARTED) {
                conn_open(l, mhd, context);
                return;
        }
        if (!c)
                return;
        l->closed_one = true;
        (void)epoll_ctl(l->server->hangup_fd, EPOLL_CTL_DEL, c->fd, NULL);
        list_remove(&c->node);
        list_remove(&c->idle_node);
        list_remove(&c->hung_node);
        /* libmicrohttpd 0.9.75 begins a request before it parses the query, and does not complete it where its memory does
         * not suffice for that: with a NUL before the `?` it sees one that on_target() does not. */
        http_request_free(c->request);
        free(c);
        *context = NULL;
}

/* ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void request_tell_gone(struct http_request *r, bool sent)
{
        if (r->gone)
                return;
        r->gone = true;
        r->server->open--;
        if (r->server->handler.gone)
                r->server->handler.gone(r, sent, r->server->data);
}

void http_request_resume(struct http_request *r)
{
        if (!r->suspended)
                return;
        r->suspended = false;
        list_remove(&r->hung_node);
        MHD_resume_connection(r->conn->mhd);
        r->conn->listener->dirty = true;
        server_defer(r->server);
}

/* Its client has gone while it waited: tells the handler, and lets the parser close the connection. */
static void request_hung_up(struct http_request *r)
{
        request_tell_gone(r, false);
        http_request_resume(r);
}

static enum MHD_Result request_send(struct http_request *r)
{
        struct MHD_Response *response = http_request_response(r);
        enum MHD_Result ret;

        if (!response)
                return MHD_NO;
        if (r->state != HTTP_REFUSED)
                r->state = HTTP_SENDING;
        ret = MHD_queue_response(r->conn->mhd, r->status, response);
        MHD_destroy_response(response);
        return ret;
}

static void request_reply_bad(struct http_request *r, int status, const char *why)
{
        log_debug("http: request refused: %d: %s", status, why);
        r->state = HTTP_REFUSED;
        r->close_after = true;
        if (r->server->handler.bad)
                r->server->handler.bad(r, status, why, r->server->data);
        if (!r->replied)
                (void)http_reply(r, status, NULL, "", 0);
}

static enum MHD_Result request_refuse(struct http_request *r, int status, const char *why)
{
        request_reply_bad(r, status, why);
        return r->replied ? request_send(r) : MHD_NO;
}

struct fields {
        struct http_field items[HTTP_FIELDS_MAX];
        size_t n;
        bool too_many;
};

static enum MHD_Result add_field(void *data, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                 const char *value, size_t value_len)
{
        struct fields *f = data;

        (void)kind;
        if (f->n == HTTP_FIELDS_MAX) {
                f->too_many = true;
                return MHD_NO;
        }
        /* The memory is the connection's, and writable. */
        f->items[f->n++] = (struct http_field){
                .name = (char *)(uintptr_t)name,
                .name_len = name_len,
                .value = (char *)(uintptr_t)(value ? value : name + name_len),
                .value_len = value ? value_len : 0,
        };
        return MHD_YES;
}

/* How the parser before 0.9.77 leaves a head in memory shows what it overlooked; later ones refuse it themselves. */
static bool parser_is_lax(void)
{
        const char *v = MHD_get_version();

        return strlen(v) == 6 && str_starts(v, "0.9.7") && v[5] < '7';
}

/* 0, or the status to refuse with. */
static int request_check(struct http_request *r, const char *version, const char **why)
{
        const union MHD_ConnectionInfo *info;
        struct fields fields = { .n = 0 };
        bool http_1_0 = str_eq(version, "HTTP/1.0");

        *why = "not well-formed";
        if (!http_1_0 && !(str_starts(version, "HTTP/1.") && version[7] >= '1' && version[7] <= '9' && !version[8]))
                return 505;
        info = MHD_get_connection_info(r->conn->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
        if (!info)
                return 400;
        (void)MHD_get_connection_values_n(r->conn->mhd, MHD_HEADER_KIND, add_field, &fields);
        if (fields.too_many || info->header_size > r->server->config.max_header) {
                *why = "too many headers, or too long";
                return 431;
        }
        if (parser_is_lax() && !http_head_contiguous(r->method, r->raw_target, r->raw_target_len, version, fields.items,
                                                     fields.n, r->method + info->header_size)) {
                *why = "NUL, a bare line feed, a folded line or a superfluous blank in the head";
                return 400;
        }
        if (r->target_error == -EINVAL) {
                *why = r->target_why;
                return 400;
        }
        return http_fields_check(http_1_0, fields.items, fields.n, &r->framing, why);
}

static enum MHD_Result request_begin(struct http_request *r, const char *method, const char *version)
{
        struct http_server *s = r->server;
        const char *why;
        int status;

        r->method = method;
        list_remove(&r->conn->idle_node);
        status = request_check(r, version, &why);
        if (status != 0)
                return request_refuse(r, status, why);
        if (!r->target.path)
                return MHD_NO;
        r->state = HTTP_BODY;
        s->open++;
        s->handler.begin(r, s->data);
        /* Who waits for 100-continue has sent no body yet, and a long one is better not sent at all. */
        if (r->replied && (r->framing.expect_continue || r->framing.length > HTTP_DROP_MAX))
                return request_send(r);
        return MHD_YES;
}

/* The client may learn of the reply before it has sent all that. */
static bool rest_is_long(const struct http_request *r)
{
        return r->framing.chunked || (uint64_t)r->framing.length - r->received > EARLY_REST;
}

static enum MHD_Result request_body(struct http_request *r, const char *piece, size_t *len)
{
        struct http_server *s = r->server;
        size_t n = *len;

        *len = 0;
        r->received += n;
        if (!r->replied && s->handler.body)
                (void)s->handler.body(r, piece, n, s->data);
        else
                r->dropped += n;
        if (r->replied && !r->early_sent && rest_is_long(r))
                http_request_send_early(r);
        return r->dropped > HTTP_DROP_MAX ? MHD_NO : MHD_YES;
}

static enum MHD_Result request_end(struct http_request *r)
{
        struct http_server *s = r->server;

        if (r->early_sent)
                return MHD_NO;
        r->state = HTTP_WAIT;
        if (!r->replied)
                s->handler.end(r, s->data);
        if (r->replied)
                return request_send(r);
        MHD_suspend_connection(r->conn->mhd);
        r->suspended = true;
        if (r->conn->is_hung_up) {
                list_append(&s->hung, &r->hung_node);
                server_defer(s);
        }
        return MHD_YES;
}

static enum MHD_Result on_request(void *data, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_len, void **context)
{
        struct http_request *r = *context;

        (void)data;
        (void)mhd;
        (void)url;
        if (!r || r->gone)
                return MHD_NO;
        switch (r->state) {
        case HTTP_HEAD:
                return request_begin(r, method, version);
        case HTTP_BODY:
                return *upload_len > 0 ? request_body(r, upload, upload_len) : request_end(r);
        case HTTP_WAIT:
                return r->replied ? request_send(r) : MHD_NO;
        case HTTP_SENDING:
        case HTTP_REFUSED:
                break;
        }
        *upload_len = 0;
        return MHD_YES;
}

/* The request line is in. What it returns becomes the request's context. */
static void *on_target(void *data, const char *raw, struct MHD_Connection *mhd)
{
        const union MHD_ConnectionInfo *info;
        struct http_request *r;
        const char *query;

        (void)data;
        info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        if (!info || !info->socket_context || !raw)
                return NULL;
        r = calloc(1, sizeof(*r));
        if (!r)
                return NULL;
        r->conn = info->socket_context;
        r->server = r->conn->listener->server;
        r->raw_target = raw;
        r->raw_target_len = strlen(raw);
        r->target_why = "the request target is not well-formed";
        list_init(&r->hung_node);
        r->target_error = http_target_parse(raw, &r->target, &r->target_why);
        /* The parser shall not parse the query again: it goes on where its memory does not suffice for that. */
        query = strchr(raw, '?');
        if (query)
                ((char *)(uintptr_t)query)[1] = '\0';
        r->conn->request = r;
        return r;
}

static void on_completed(void *data, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code)
{
        struct http_request *r = *context;

        (void)data;
        (void)mhd;
        if (!r)
                return;
        *context = NULL;
        r->conn->request = NULL;
        if (r->state != HTTP_HEAD && r->state != HTTP_REFUSED)
                request_tell_gone(r, r->early_sent ||
                                             (r->state == HTTP_SENDING && code == MHD_REQUEST_TERMINATED_COMPLETED_OK));
        conn_idle(r->conn);
        http_request_free(r);
}

/* ── clients that hang up ──────────────────────────────────────────────────────────────────────────────────────────── */

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
        while ((r = LIST_FIRST(&s->hung, struct http_request, hung_node))) {
                list_remove(&r->hung_node);
                request_hung_up(r);
        }
        LIST_FOREACH(l, &s->listeners, node) {
                if (l->dirty)
                        listener_run(l);
        }
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

                c->is_hung_up = true;
                list_append(&c->listener->hung_up, &c->hung_node);
                c->listener->dirty = true;
                server_defer(s);
                if (c->request && c->request->suspended)
                        request_hung_up(c->request);
        }
}

/* ── server ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_server_new(struct loop *loop, const struct http_config *config, const struct http_handler *handler, void *data,
                    struct http_server **ret, struct err *err)
{
        struct http_server *s;

        s = calloc(1, sizeof(*s));
        if (!s)
                return err_oom(err);
        s->loop = loop;
        s->handler = *handler;
        s->data = data;
        s->config = *config;
        if (s->config.max_connections == 0)
                s->config.max_connections = MAX_CONNECTIONS;
        if (s->config.idle_timeout_s == 0)
                s->config.idle_timeout_s = IDLE_TIMEOUT_S;
        if (s->config.max_header == 0)
                s->config.max_header = MAX_HEADER;
        list_init(&s->listeners);
        list_init(&s->idle);
        list_init(&s->hung);
        s->hangup_fd = epoll_create1(EPOLL_CLOEXEC);
        if (s->hangup_fd < 0) {
                free(s);
                return err_sys(err, "epoll_create1");
        }
        if (loop_io_add(loop, s->hangup_fd, EPOLLIN, on_hangup, s, &s->hangup_io, err) < 0) {
                int r = err && err->num ? -err->num : -EIO;

                fd_close(s->hangup_fd);
                free(s);
                return r;
        }
        *ret = s;
        return 0;
}

/* The lax parser answers some faults twice, so that the second head becomes the body of the first: a Content-Length that is
 * no number, cookies for which its memory does not suffice. It logs them before, which is the place to answer in its
 * stead; which connection it speaks of shows in their states. */
static void refuse_for_parser(struct http_listener *l, int status, const char *why)
{
        struct http_conn *c;

        LIST_FOREACH(c, &l->conns, node) {
                struct http_request *r = c->request;

                if (!r || r->state != HTTP_HEAD ||
                    !MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE) ||
                    MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_HTTP_STATUS))
                        continue;
                request_reply_bad(r, status, why);
                if (r->replied)
                        http_request_send_early(r);
                return;
        }
}

static void on_parser_message(void *data, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void on_parser_message(void *data, const char *fmt, va_list ap)
{
        char text[256];
        size_t len;

        (void)vsnprintf(text, sizeof(text), fmt, ap);
        len = strlen(text);
        if (len > 0 && text[len - 1] == '\n')
                text[len - 1] = '\0';
        log_debug("http: %s", text);
        if (parser_is_lax() && strstr(fmt, "memory"))
                refuse_for_parser(data, 431, "too many headers, or too long");
        else if (parser_is_lax())
                refuse_for_parser(data, 400, "Content-Length is not a number");
}

/* Targets are decoded by http_target_parse(), from the raw text. */
static size_t keep_escaped(void *data, struct MHD_Connection *mhd, char *text)
{
        (void)data;
        (void)mhd;
        return strlen(text);
}

static struct MHD_Daemon *parser_start(struct http_listener *l, int fd)
{
        const struct http_config *c = &l->server->config;
        /* What strictness adds to the lax parser is checked here, too, and answered once: it would answer twice. */
        int strict = parser_is_lax() ? 0 : 1;
        const struct MHD_OptionItem options[] = {
                { MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_parser_message, l },
                { MHD_OPTION_LISTEN_SOCKET, fd, NULL },
                { MHD_OPTION_STRICT_FOR_CLIENT, strict, NULL },
                { MHD_OPTION_CONNECTION_LIMIT, (intptr_t)c->max_connections, NULL },
                { MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)c->idle_timeout_s, NULL },
                { MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)(c->max_header + POOL_EXTRA), NULL },
                { MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, l },
                { MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, l },
                { MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_target, l },
                { MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)keep_escaped, l },
                { MHD_OPTION_END, 0, NULL },
        };

        return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
                                l, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
}

static void listener_free(struct http_listener *l)
{
        struct http_conn *c;

        loop_io_remove(l->io);
        loop_timer_cancel(&l->timer);
        if (l->daemon) {
                LIST_FOREACH(c, &l->conns, node) {
                        if (c->request && c->request->suspended)
                                request_hung_up(c->request);
                }
                MHD_stop_daemon(l->daemon);
        }
        list_remove(&l->node);
        free(l);
}

int http_server_listen(struct http_server *s, int fd, struct err *err)
{
        const union MHD_DaemonInfo *info;
        struct http_listener *l;

        l = calloc(1, sizeof(*l));
        if (!l) {
                fd_close(fd);
                return err_oom(err);
        }
        l->server = s;
        list_init(&l->conns);
        list_init(&l->hung_up);
        list_append(&s->listeners, &l->node);
        (void)fd_set_nonblock(fd, true);
        l->daemon = parser_start(l, fd);
        if (!l->daemon) {
                fd_close(fd);
                listener_free(l);
                return err_set(err, EIO, "the HTTP parser does not start");
        }
        info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        if (!info || loop_io_add(s->loop, info->epoll_fd, EPOLLIN, on_listener_io, l, &l->io, err) < 0) {
                listener_free(l);
                return err_wrap(err, "watch the HTTP socket");
        }
        listener_run(l);
        return 0;
}

void http_server_drain(struct http_server *s)
{
        struct http_listener *l;

        LIST_FOREACH(l, &s->listeners, node) {
                MHD_socket fd = MHD_quiesce_daemon(l->daemon);

                if (fd != MHD_INVALID_SOCKET)
                        fd_close(fd);
        }
}

size_t http_server_open(const struct http_server *s)
{
        return s->open;
}

void http_server_free(struct http_server *s)
{
        struct http_listener *l;

        if (!s)
                return;
        s->closed = true;
        LIST_FOREACH(l, &s->listeners, node) {
                listener_free(l);
        }
        loop_timer_cancel(&s->idle_timer);
        loop_io_remove(s->hangup_io);
        fd_close(s->hangup_fd);
        /* A call that is owed frees it. */
        if (!s->deferred)
                free(s);
}
