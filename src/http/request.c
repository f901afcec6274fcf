#include "base/fd.h"
#include "http/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REPLY_COUNTED (64 * 1024)

const char *http_method(const struct http_request *r)
{
        return r->method;
}

const char *http_path(const struct http_request *r)
{
        return r->target.path;
}

const char *http_query_nth(const struct http_request *r, const char *name, size_t n)
{
        for (size_t i = 0; i < r->target.n_params; i++)
                if (str_eq(r->target.params[i].name, name) && n-- == 0)
                        return r->target.params[i].value;
        return NULL;
}

const char *http_query(const struct http_request *r, const char *name)
{
        return http_query_nth(r, name, 0);
}

bool http_query_at(const struct http_request *r, size_t i, const char **ret_name, const char **ret_value)
{
        if (i >= r->target.n_params)
                return false;
        *ret_name = r->target.params[i].name;
        *ret_value = r->target.params[i].value;
        return true;
}

const char *http_header(const struct http_request *r, const char *name)
{
        return r->gone ? NULL : MHD_lookup_connection_value(r->conn->mhd, MHD_HEADER_KIND, name);
}

bool http_peer_uid(const struct http_request *r, uid_t *ret)
{
        if (!r->conn->has_uid)
                return false;
        *ret = r->conn->uid;
        return true;
}

const struct http_address *http_peer_address(const struct http_request *r)
{
        return &r->address;
}

bool http_is_tls(const struct http_request *r)
{
        return r->conn->is_tls;
}

bool http_has_body(const struct http_request *r)
{
        return r->framing.chunked || r->framing.length > 0;
}

int64_t http_content_length(const struct http_request *r)
{
        return r->framing.length;
}

void http_set_data(struct http_request *r, void *data)
{
        r->data = data;
}

void *http_data(const struct http_request *r)
{
        return r->data;
}

void http_close_after(struct http_request *r)
{
        r->close_after = true;
}

void http_body_pause(struct http_request *r)
{
        r->body_paused = true;
}

void http_body_resume(struct http_request *r)
{
        if (!r->body_paused)
                return;
        r->body_paused = false;
        if (r->state == HTTP_BODY)
                http_request_resume(r);
}

/* ── the budget of bodies ──────────────────────────────────────────────────────────────────────────────────────────── */

struct http_source *http_body_source(struct http_request *r)
{
        char key[HTTP_ADDRESS_KEY_MAX];

        if (r->address.family == AF_UNIX)
                (void)snprintf(key, sizeof(key), "uid:%u", r->conn->has_uid ? (unsigned)r->conn->uid : UINT_MAX);
        else
                http_address_key(&r->address, key);
        return http_source_get(r->server, key);
}

int http_budget_take(struct http_server *s, struct http_source *source, size_t bytes)
{
        if (!source || bytes > s->config.body_budget - s->body_bytes ||
            bytes > s->config.body_budget_per_address - source->body_bytes)
                return -ENOBUFS;
        s->body_bytes += bytes;
        source->body_bytes += bytes;
        return 0;
}

void http_budget_give(struct http_server *s, struct http_source *source, size_t bytes)
{
        s->body_bytes -= bytes;
        if (source)
                source->body_bytes -= bytes;
}

int http_body_charge(struct http_request *r, size_t bytes)
{
        int e;

        if (r->gone)
                return -ECONNRESET;
        if (!r->source)
                r->source = http_body_source(r);
        e = http_budget_take(r->server, r->source, bytes);
        if (e == 0)
                r->charged += bytes;
        return e;
}

void http_body_release(struct http_request *r, size_t bytes)
{
        bytes = MIN(bytes, r->charged);
        r->charged -= bytes;
        http_budget_give(r->server, r->source, bytes);
}

/* ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Nothing of an answer may open a second one. */
static bool printable(const char *s)
{
        for (; *s; s++)
                if ((unsigned char)*s < ' ' || *s == 0x7f)
                        return false;
        return true;
}

int http_add_header(struct http_request *r, const char *name, const char *value)
{
        auto_free char *n = NULL, *v = NULL;

        if (r->n_headers == ARRAY_LEN(r->headers))
                return -ENOSPC;
        if (!printable(name) || !printable(value))
                return -EINVAL;
        n = strdup(name);
        v = strdup(value);
        if (!n || !v)
                return -ENOMEM;
        r->headers[r->n_headers].name = TAKE_PTR(n);
        r->headers[r->n_headers].value = TAKE_PTR(v);
        r->n_headers++;
        return 0;
}

int http_request_answered(struct http_request *r, int status, const char *content_type)
{
        auto_free char *type = NULL;

        if (r->gone)
                return -ECONNRESET;
        if (r->replied)
                return -EALREADY;
        type = content_type ? strdup(content_type) : NULL;
        if (content_type && !type)
                return -ENOMEM;
        r->replied = true;
        r->status = (unsigned)status;
        r->reply_type = TAKE_PTR(type);
        return 0;
}

/* Short ones are as many as there are connections. */
static bool reply_charge(struct http_request *r, size_t len)
{
        struct http_server *s = r->server;

        if (len < REPLY_COUNTED)
                return true;
        if (s->reply_bytes > 0 &&
            (s->reply_bytes >= s->config.reply_budget || len > s->config.reply_budget - s->reply_bytes))
                return false;
        s->reply_bytes += len;
        r->reply_charged += len;
        return true;
}

int http_reply_take(struct http_request *r, int status, const char *content_type, char *body, size_t len)
{
        auto_free char *own = body;
        bool held = (len == 0 || own) && (r->gone || r->replied || reply_charge(r, len));
        int e = held ? http_request_answered(r, status, content_type) : -ENOMEM;

        /* A client that gets less than it should is better than one that waits for ever. */
        if (e == -ENOMEM) {
                len = 0;
                free(TAKE_PTR(own));
                (void)http_add_header(r, "Retry-After", "1");
                e = http_request_answered(r, MHD_HTTP_SERVICE_UNAVAILABLE, NULL);
        }
        if (e < 0)
                return e;
        r->reply = TAKE_PTR(own);
        r->reply_len = len;
        http_request_resume(r);
        return 0;
}

int http_reply_fd(struct http_request *r, int status, const char *content_type, int fd, uint64_t offset, uint64_t len)
{
        auto_fd own = fd;
        int e = http_request_answered(r, status, content_type);

        if (e == -ENOMEM)
                return http_reply(r, MHD_HTTP_SERVICE_UNAVAILABLE, NULL, "", 0);
        if (e < 0)
                return e;
        r->reply_fd = TAKE_FD(own);
        r->fd_offset = offset;
        r->fd_len = len;
        http_request_resume(r);
        return 0;
}

int http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t len)
{
        char *copy = malloc(len ? len : 1);

        if (copy && len > 0)
                memcpy(copy, body, len);
        return http_reply_take(r, status, content_type, copy, len);
}

static struct MHD_Response *response_new(struct http_request *r)
{
        struct MHD_Response *response;

        if (r->ws)
                return http_ws_response(r);
        if (r->stream)
                return http_stream_response(r);
        if (r->reply_fd >= 0) {
                response = MHD_create_response_from_fd_at_offset64(r->fd_len, r->reply_fd, r->fd_offset);
                if (response)
                        r->reply_fd = -EBADF;
                return response;
        }
        response = MHD_create_response_from_buffer(r->reply_len, r->reply, MHD_RESPMEM_MUST_FREE);
        if (response)
                r->reply = NULL;
        return response;
}

struct MHD_Response *http_request_response(struct http_request *r)
{
        struct MHD_Response *response = response_new(r);
        bool ok = true;

        if (!response)
                return NULL;
        if (r->reply_type)
                ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, r->reply_type) == MHD_YES;
        for (size_t i = 0; ok && i < r->n_headers; i++)
                ok = MHD_add_response_header(response, r->headers[i].name, r->headers[i].value) == MHD_YES;
        if (ok && r->close_after && !r->ws)
                ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
        if (ok)
                return response;
        MHD_destroy_response(response);
        return NULL;
}

void http_request_send_early(struct http_request *r)
{
        auto_str out = STR_INIT;
        int e;

        r->early_sent = true;
        e = str_addf(&out, "HTTP/1.1 %u %s\r\nConnection: close\r\nContent-Length: %zu\r\n", r->status,
                     MHD_get_reason_phrase_for(r->status), r->reply_len);
        if (e == 0 && r->reply_type)
                e = str_addf(&out, "Content-Type: %s\r\n", r->reply_type);
        for (size_t i = 0; e == 0 && i < r->n_headers; i++)
                e = str_addf(&out, "%s: %s\r\n", r->headers[i].name, r->headers[i].value);
        if (e == 0)
                e = str_adds(&out, "\r\n");
        if (e == 0 && !str_eq(r->method, "HEAD"))
                e = str_add(&out, r->reply, r->reply_len);
        /* Nothing was sent on this connection since its last answer: there is room. */
        if (e == 0)
                (void)send(r->conn->fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)shutdown(r->conn->fd, SHUT_WR);
}

void http_request_free(struct http_request *r)
{
        if (!r)
                return;
        list_remove(&r->hung_node);
        if (r->ws)
                http_ws_orphan(r->ws);
        http_body_release(r, r->charged);
        r->server->reply_bytes -= r->reply_charged;
        http_source_put(r->source);
        http_stream_free(r->stream);
        fd_close(r->reply_fd);
        free(r->reply);
        free(r->reply_type);
        for (size_t i = 0; i < r->n_headers; i++) {
                free(r->headers[i].name);
                free(r->headers[i].value);
        }
        http_target_done(&r->target);
        free(r);
}
