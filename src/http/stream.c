/* Answers in pieces: a bounded buffer between who writes and the parser, which asks for more when the client has taken what
 * there was. While nothing waits, the connection is suspended. */

#include "http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What one chunk may hold where the parser's memory allows. */
#define BLOCK (32 * 1024)
#define FIRST_CAP 1024

void http_stream_free(struct http_stream *s)
{
        if (!s)
                return;
        free(s->data);
        free(s);
}

int http_stream_begin(struct http_request *r, int status, const char *content_type)
{
        struct http_stream *s;
        int e;

        if (r->state != HTTP_WAIT && !r->gone)
                return -EINVAL;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        e = http_request_answered(r, status, content_type);
        if (e < 0) {
                free(s);
                return e;
        }
        r->stream = s;
        http_request_resume(r);
        return 0;
}

size_t http_stream_pending(const struct http_request *r)
{
        return r->stream ? r->stream->len - r->stream->at : 0;
}

static int stream_room(struct http_stream *s, size_t more)
{
        size_t waits = s->len - s->at, cap = MAX(s->cap, (size_t)FIRST_CAP);
        char *data;

        if (s->at > 0 && s->len + more > s->cap) {
                memmove(s->data, s->data + s->at, waits);
                s->at = 0;
                s->len = waits;
        }
        if (s->len + more <= s->cap)
                return 0;
        while (cap < s->len + more)
                cap *= 2;
        data = realloc(s->data, cap);
        if (!data)
                return -ENOMEM;
        s->data = data;
        s->cap = cap;
        return 0;
}

int http_stream_write(struct http_request *r, const void *data, size_t len)
{
        struct http_stream *s = r->stream;
        size_t waits;

        if (r->gone || !s)
                return -ECONNRESET;
        if (s->ended)
                return -EALREADY;
        waits = s->len - s->at;
        if (len == 0)
                return 0;
        if (waits > 0 && len > HTTP_STREAM_MAX - MIN(waits, (size_t)HTTP_STREAM_MAX)) {
                s->was_high = true;
                return -EAGAIN;
        }
        if (stream_room(s, len) < 0)
                return -ENOMEM;
        memcpy(s->data + s->len, data, len);
        s->len += len;
        if (s->len - s->at >= HTTP_STREAM_LOW)
                s->was_high = true;
        http_request_resume(r);
        return 0;
}

int http_stream_end(struct http_request *r)
{
        if (r->gone || !r->stream)
                return -ECONNRESET;
        if (r->stream->ended)
                return -EALREADY;
        r->stream->ended = true;
        http_request_resume(r);
        return 0;
}

void http_stream_abort(struct http_request *r)
{
        if (r->gone || !r->stream)
                return;
        r->stream->ended = r->stream->aborted = true;
        http_request_resume(r);
}

static size_t stream_take(struct http_stream *s, char *out, size_t max)
{
        size_t n = MIN(max, s->len - s->at);

        if (n == 0)
                return 0;
        memcpy(out, s->data + s->at, n);
        s->at += n;
        if (s->at == s->len) {
                s->at = s->len = 0;
                /* What a burst needed is not kept for the silence after it. */
                if (s->cap > HTTP_STREAM_LOW) {
                        free(s->data);
                        s->data = NULL;
                        s->cap = 0;
                }
        }
        return n;
}

static ssize_t on_more(void *data, uint64_t pos, char *out, size_t max)
{
        struct http_request *r = data;
        struct http_stream *s = r->stream;
        size_t n;

        (void)pos;
        if (r->gone || s->aborted)
                return MHD_CONTENT_READER_END_WITH_ERROR;
        n = stream_take(s, out, max);
        if (s->was_high && s->len - s->at < HTTP_STREAM_LOW) {
                s->was_high = false;
                if (!s->ended && r->server->handler.drained)
                        r->server->handler.drained(r, r->server->data);
                if (s->aborted)
                        return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        if (n == 0)
                n = stream_take(s, out, max);
        if (n > 0)
                return (ssize_t)n;
        if (s->ended)
                return MHD_CONTENT_READER_END_OF_STREAM;
        http_request_suspend(r);
        return 0;
}

struct MHD_Response *http_stream_response(struct http_request *r)
{
        struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, on_more, r, NULL);

        /* libmicrohttpd 0.9.75 sends the last chunk of a body to HEAD, too, where it would begin the next answer. */
        if (response && str_eq(r->method, "HEAD"))
                (void)MHD_set_response_options(response, MHD_RF_HTTP_VERSION_1_0_ONLY, MHD_RO_END);
        return response;
}
