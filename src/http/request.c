#include "http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static int reply(struct http_request *r, int status, const char *content_type, struct MHD_Response *response)
{
        bool ok = true;

        if (!response)
                return -ENOMEM;
        if (content_type)
                ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type) == MHD_YES;
        for (size_t i = 0; ok && i < r->n_headers; i++)
                ok = MHD_add_response_header(response, r->headers[i].name, r->headers[i].value) == MHD_YES;
        if (ok && r->close_after)
                ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
        if (!ok) {
                MHD_destroy_response(response);
                return -ENOMEM;
        }
        r->response = response;
        r->status = (unsigned)status;
        http_request_resume(r);
        return 0;
}

static int reply_possible(const struct http_request *r)
{
        if (r->gone)
                return -ECONNRESET;
        return r->response || r->state == HTTP_SENDING ? -EALREADY : 0;
}

int http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t len)
{
        int e = reply_possible(r);

        if (e < 0)
                return e;
        return reply(r, status, content_type,
                     MHD_create_response_from_buffer(len, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY));
}

int http_reply_take(struct http_request *r, int status, const char *content_type, char *body, size_t len)
{
        struct MHD_Response *response;
        int e = reply_possible(r);

        if (e < 0) {
                free(body);
                return e;
        }
        response = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE);
        if (!response)
                free(body);
        return reply(r, status, content_type, response);
}

void http_request_free(struct http_request *r)
{
        if (!r)
                return;
        list_remove(&r->hung_node);
        if (r->response)
                MHD_destroy_response(r->response);
        for (size_t i = 0; i < r->n_headers; i++) {
                free(r->headers[i].name);
                free(r->headers[i].value);
        }
        http_target_done(&r->target);
        free(r);
}
