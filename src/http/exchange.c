/* The parser's callbacks: what libmicrohttpd makes of a connection becomes requests, checked where it checks too little. */

#include "base/log.h"
#include "http/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Of the parser's memory of a connection, beside the head: the list of its headers, and the head of the answer. */
#define POOL_EXTRA (2 * 1024)
#define EARLY_REST (1024 * 1024)

/* ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void conn_open(struct http_parser *p, struct MHD_Connection *mhd, void **context)
{
        struct epoll_event event = { .events = EPOLLRDHUP | EPOLLET };
        struct http_conn *c = p->added;

        p->added = NULL;
        c->mhd = mhd;
        list_append(&p->conns, &c->node);
        event.data.ptr = c;
        (void)epoll_ctl(c->server->hangup_fd, EPOLL_CTL_ADD, c->fd, &event);
        http_conn_idle(c);
        *context = c;
}

static void on_connection(void *data, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
        struct http_conn *c = *context;

        if (code == MHD_CONNECTION_NOTIFY_STARTED) {
                conn_open(data, mhd, context);
                return;
        }
        if (!c)
                return;
        (void)epoll_ctl(c->server->hangup_fd, EPOLL_CTL_DEL, c->fd, NULL);
        /* libmicrohttpd 0.9.75 begins a request before it parses the query, and does not complete it where its memory does
         * not suffice for that: with a NUL before the `?` it sees one that on_target() does not. */
        http_request_free(c->request);
        *context = NULL;
        http_conn_end(c);
}

/* ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

void http_request_tell_gone(struct http_request *r, bool sent)
{
        if (r->gone)
                return;
        r->gone = true;
        r->server->open--;
        if (r->server->handler.gone)
                r->server->handler.gone(r, sent, r->server->data);
}

void http_request_suspend(struct http_request *r)
{
        MHD_suspend_connection(r->conn->mhd);
        r->suspended = true;
        if (r->conn->is_hung_up) {
                list_append(&r->server->hung, &r->hung_node);
                http_server_defer(r->server);
        }
}

void http_request_resume(struct http_request *r)
{
        if (!r->suspended)
                return;
        r->suspended = false;
        list_remove(&r->hung_node);
        MHD_resume_connection(r->conn->mhd);
        r->conn->parser->dirty = true;
        http_server_defer(r->server);
}

/* Its client has gone while it waited: tells the handler, and lets the parser close the connection. */
void http_request_hung_up(struct http_request *r)
{
        http_request_tell_gone(r, false);
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
        http_conn_busy(r->conn);
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

        r->http_1_0 = http_1_0;
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

struct lines {
        const char *items[HTTP_FIELDS_MAX];
        size_t n;
};

static enum MHD_Result add_line(void *data, enum MHD_ValueKind kind, const char *name, const char *value)
{
        struct lines *lines = data;

        (void)kind;
        if (value && strcasecmp(name, "X-Forwarded-For") == 0 && lines->n < ARRAY_LEN(lines->items))
                lines->items[lines->n++] = value;
        return MHD_YES;
}

static void request_forwarded(struct http_request *r)
{
        struct lines lines = { .n = 0 };

        (void)MHD_get_connection_values(r->conn->mhd, MHD_HEADER_KIND, add_line, &lines);
        http_forwarded_for(lines.items, lines.n, r->server->trusted, r->server->n_trusted, &r->address);
}

/* Whoever can open a unix socket is trusted with a connection, and what is piped into a command may pause for minutes:
 * `docker save | mayfly load`. */
static void body_may_pause(struct http_request *r, bool may)
{
        if (r->conn->has_uid)
                (void)MHD_set_connection_option(r->conn->mhd, MHD_CONNECTION_OPTION_TIMEOUT,
                                                may ? 0 : r->server->config.idle_timeout_s);
}

static enum MHD_Result request_begin(struct http_request *r, const char *method, const char *version)
{
        struct http_server *s = r->server;
        const char *why;
        int status;

        r->method = method;
        http_conn_busy(r->conn);
        status = request_check(r, version, &why);
        if (status == 0 && r->conn->is_refused) {
                status = 503;
                why = "too many connections from this address";
        }
        if (status != 0)
                return request_refuse(r, status, why);
        if (!r->target.path)
                return MHD_NO;
        if (r->conn->is_trusted)
                request_forwarded(r);
        r->state = HTTP_BODY;
        s->open++;
        s->handler.begin(r, s->data);
        /* Who waits for 100-continue has sent no body yet, and a long one is better not sent at all. */
        if (r->replied && (r->framing.expect_continue || r->framing.length > HTTP_DROP_MAX))
                return request_send(r);
        body_may_pause(r, true);
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

        /* Of a chunked body the parser goes on with what it has read. */
        if (r->body_paused && !r->replied) {
                if (!r->suspended)
                        http_request_suspend(r);
                return MHD_YES;
        }
        *len = 0;
        r->received += n;
        if (!r->replied && s->handler.body)
                (void)s->handler.body(r, piece, n, s->data);
        else
                r->dropped += n;
        if (r->replied && !r->early_sent && rest_is_long(r))
                http_request_send_early(r);
        if (r->body_paused && !r->replied && !r->suspended)
                http_request_suspend(r);
        return r->dropped > HTTP_DROP_MAX ? MHD_NO : MHD_YES;
}

static enum MHD_Result request_end(struct http_request *r)
{
        struct http_server *s = r->server;

        if (r->early_sent)
                return MHD_NO;
        body_may_pause(r, false);
        r->state = HTTP_WAIT;
        if (!r->replied)
                s->handler.end(r, s->data);
        if (r->replied)
                return request_send(r);
        http_request_suspend(r);
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
        case HTTP_UPGRADED:
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
        r->server = r->conn->server;
        r->raw_target = raw;
        r->raw_target_len = strlen(raw);
        r->target_why = "the request target is not well-formed";
        r->reply_fd = -EBADF;
        r->address = r->conn->address;
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
                http_request_tell_gone(
                        r, r->early_sent || (r->state == HTTP_SENDING && code == MHD_REQUEST_TERMINATED_COMPLETED_OK));
        if (r->state != HTTP_UPGRADED)
                http_conn_idle(r->conn);
        http_request_free(r);
}

/* ── the parser ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The lax parser answers some faults twice, so that the second head becomes the body of the first: a Content-Length that is
 * no number, cookies for which its memory does not suffice. It logs them before, which is the place to answer in its
 * stead; which connection it speaks of shows in their states. */
static void refuse_for_parser(struct http_parser *p, int status, const char *why)
{
        struct http_conn *c;

        LIST_FOREACH(c, &p->conns, node) {
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

        /* It has something to say for each answer on a unix socket, where it cannot set TCP's options. */
        if (log_shows(LOG_LEVEL_DEBUG)) {
                (void)vsnprintf(text, sizeof(text), fmt, ap);
                len = strlen(text);
                if (len > 0 && text[len - 1] == '\n')
                        text[len - 1] = '\0';
                log_debug("http: %s", text);
        }
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

struct MHD_Daemon *http_parser_start(struct http_parser *p)
{
        const struct http_config *c = &p->listener->server->config;
        /* What strictness adds to the lax parser is checked here, too, and answered once: it would answer twice. */
        int strict = parser_is_lax() ? 0 : 1;
        unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE |
                         MHD_USE_ERROR_LOG;
        const struct MHD_OptionItem options[] = {
                { MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_parser_message, p },
                { MHD_OPTION_STRICT_FOR_CLIENT, strict, NULL },
                { MHD_OPTION_CONNECTION_LIMIT, INT_MAX, NULL },
                { MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)c->idle_timeout_s, NULL },
                { MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)(c->max_header + POOL_EXTRA), NULL },
                { MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, p },
                { MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, p },
                { MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_target, p },
                { MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)keep_escaped, p },
                { MHD_OPTION_END, 0, NULL },
        };
        return MHD_start_daemon(flags, 0, NULL, NULL, on_request, p, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
}
