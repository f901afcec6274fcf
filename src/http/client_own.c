/* HTTP/1.1 over a unix socket, or over ssh's stdin and stdout: our own server is at the other end. libcurl and its thirty
 * libraries would cost a command more than all that it does. */

#include "base/fd.h"
#include "http/client_internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEAD_MAX (64 * 1024)
#define PIECE (64 * 1024)
/* How long a signal that comes just before poll(2) goes unseen. */
#define LOOK_MS 200

/* ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_own_connect(const struct http_client *c, struct http_own *own, struct err *err)
{
        int r;

        if (c->socket)
                r = fd_connect_unix(c->socket, SOCK_STREAM, &own->fd, err);
        else
                r = http_ssh_start(c, &own->fd, &own->ssh, err);
        if (r < 0)
                return r;
        own->used = false;
        (void)fd_set_nonblock(own->fd, true);
        return 0;
}

void http_own_close(struct http_own *own)
{
        fd_replace(&own->fd, -EBADF);
        if (own->ssh > 0) {
                /* It ends with its input, but not while the network is away. */
                (void)kill(own->ssh, SIGTERM);
                while (waitpid(own->ssh, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        own->ssh = 0;
        str_done(&own->in);
        own->at = 0;
}

/* A server that closed an idle connection has done so before the next request. */
static bool own_is_alive(const struct http_own *own)
{
        char c;

        return own->fd >= 0 && recv(own->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* ── heads ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_own_authorization(const struct http_client *c, struct str *head)
{
        int e;

        if (!c->key)
                return 0;
        e = str_adds(head, "Authorization: Basic ");
        if (e == 0)
                e = base64_encode(head, c->key, strlen(c->key));
        return e < 0 ? e : str_adds(head, "\r\n");
}

static int head_make(const struct http_client *c, const struct http_client_request *q, uint64_t size, struct str *out)
{
        bool has_body = q->body || q->body_fd >= 0, accepts = false;
        int e;

        for (size_t i = 0; q->headers && q->headers[i]; i++)
                accepts |= str_starts(q->headers[i], "Accept:");
        e = str_addf(out, "%s %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mayfly/" MAYFLY_VERSION "\r\n%s", q->method,
                     q->path, accepts ? "" : "Accept: */*\r\n");
        if (e == 0)
                e = http_own_authorization(c, out);
        if (e == 0 && q->content_type)
                e = str_addf(out, "Content-Type: %s\r\n", q->content_type);
        if (e == 0 && has_body && size != UINT64_MAX)
                e = str_addf(out, "Content-Length: %llu\r\n", (unsigned long long)size);
        else if (e == 0 && has_body)
                e = str_adds(out, "Transfer-Encoding: chunked\r\n");
        for (size_t i = 0; e == 0 && q->headers && q->headers[i]; i++)
                e = str_addf(out, "%s\r\n", q->headers[i]);
        return e < 0 ? e : str_adds(out, "\r\n");
}

static bool field_is(const char *line, size_t len, const char *name, const char **ret_value, size_t *ret_len)
{
        size_t n = strlen(name);

        if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
                return false;
        line += n + 1;
        len -= n + 1;
        while (len > 0 && (*line == ' ' || *line == '\t')) {
                line++;
                len--;
        }
        while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t'))
                len--;
        *ret_value = line;
        *ret_len = len;
        return true;
}

static int field_parse(const char *line, size_t len, struct http_answer_head *head)
{
        const char *v;
        char number[24];
        uint64_t length;
        size_t n;

        if (field_is(line, len, "Content-Length", &v, &n)) {
                if (n >= sizeof(number))
                        return -EPROTO;
                memcpy(number, v, n);
                number[n] = '\0';
                if (parse_u64(number, &length) < 0 || length > INT64_MAX || head->length >= 0)
                        return -EPROTO;
                head->length = (int64_t)length;
        } else if (field_is(line, len, "Transfer-Encoding", &v, &n)) {
                if (n != 7 || strncasecmp(v, "chunked", 7) != 0)
                        return -EPROTO;
                head->chunked = true;
        } else if (field_is(line, len, "Connection", &v, &n)) {
                head->close = n == 5 && strncasecmp(v, "close", 5) == 0;
        }
        return 0;
}

static int status_parse(const char *line, size_t len, struct http_answer_head *head)
{
        if (len < 12 || strncmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ' || (len > 12 && line[12] != ' '))
                return -EPROTO;
        head->close = line[7] == '0';
        head->status = 0;
        for (size_t i = 9; i < 12; i++) {
                if (line[i] < '0' || line[i] > '9')
                        return -EPROTO;
                head->status = head->status * 10 + (line[i] - '0');
        }
        return head->status >= 100 ? 0 : -EPROTO;
}

ssize_t http_answer_head_parse(const char *data, size_t len, struct http_answer_head *ret, struct http_sink *sink)
{
        const char *end = memmem(data, len, "\r\n\r\n", 4), *line = data;
        struct http_answer_head head = { .length = -1 };
        size_t total;

        if (!end)
                return len > HEAD_MAX ? -EPROTO : 0;
        total = (size_t)(end - data) + 4;
        while (line < end + 2) {
                const char *next = memmem(line, total - (size_t)(line - data), "\r\n", 2);
                size_t n = (size_t)(next - line);

                if ((line == data ? status_parse(line, n, &head) : field_parse(line, n, &head)) < 0)
                        return -EPROTO;
                if (line != data && sink)
                        http_sink_header(sink, line, n);
                line = next + 2;
        }
        if (head.chunked && head.length >= 0)
                return -EPROTO;
        *ret = head;
        return (ssize_t)total;
}

/* ── bodies of answers ─────────────────────────────────────────────────────────────────────────────────────────────── */

struct exchange {
        struct http_client *c;
        struct http_own *own;
        const struct http_client_request *q;
        struct http_sink *sink;
        struct http_answer_head head;
        bool has_head, complete;
        /* Of the answer's body. */
        uint64_t left; /* bytes of it, or of the chunk */
        enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_END, CHUNK_TRAILER } chunk;
        /* Of the request's. */
        struct str out;
        size_t out_at;
        uint64_t size, sent;
        bool sent_all, answered; /* a byte of the answer came */
        int read_error;
};

static const char *unread(const struct exchange *x, size_t *ret)
{
        *ret = x->own->in.len - x->own->at;
        return x->own->in.data ? x->own->in.data + x->own->at : "";
}

/* Hands on up to `left` bytes. -ECANCELED: the sink wants no more. */
static int body_take(struct exchange *x)
{
        size_t len;
        const char *data = unread(x, &len);

        if (len > x->left)
                len = (size_t)x->left;
        if (len == 0)
                return 0;
        if (!http_sink_take(x->sink, data, len))
                return -ECANCELED;
        x->own->at += len;
        x->left -= len;
        return 0;
}

/* A line without its CRLF; NULL: it is not complete. */
static const char *line_take(struct exchange *x, size_t *ret)
{
        size_t len;
        const char *data = unread(x, &len), *end = memmem(data, len, "\r\n", 2);

        if (!end)
                return NULL;
        *ret = (size_t)(end - data);
        x->own->at += *ret + 2;
        return data;
}

static int chunk_size_parse(const char *line, size_t len, uint64_t *ret)
{
        uint64_t n = 0;
        size_t i;

        for (i = 0; i < len && line[i] != ';' && line[i] != ' '; i++) {
                const char *digits = "0123456789abcdef", *d = strchr(digits, line[i] | ((line[i] >= 'A') ? 0x20 : 0));

                if (!d || line[i] == '\0' || n >> 59)
                        return -EPROTO;
                n = n * 16 + (uint64_t)(d - digits);
        }
        *ret = n;
        return i > 0 ? 0 : -EPROTO;
}

/* RFC 9112 section 7.1. 1: went on; 0: more must come; -errno. */
static int chunk_step(struct exchange *x)
{
        const char *line;
        size_t len;
        int r;

        if (x->chunk == CHUNK_DATA) {
                r = body_take(x);
                if (r < 0 || x->left > 0)
                        return r;
                x->chunk = CHUNK_END;
                return 1;
        }
        (void)unread(x, &len);
        line = line_take(x, &len);
        if (!line)
                return len > HEAD_MAX ? -EPROTO : 0;
        switch (x->chunk) {
        case CHUNK_SIZE:
                if (chunk_size_parse(line, len, &x->left) < 0)
                        return -EPROTO;
                x->chunk = x->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
                return 1;
        case CHUNK_END:
                x->chunk = CHUNK_SIZE;
                return len == 0 ? 1 : -EPROTO;
        default:
                x->complete = len == 0;
                return 1;
        }
}

static int head_step(struct exchange *x)
{
        bool none;
        size_t len;
        const char *data = unread(x, &len);
        ssize_t n = http_answer_head_parse(data, len, &x->head, x->sink);

        if (n <= 0)
                return (int)n;
        x->own->at += (size_t)n;
        if (x->head.status < 200)
                return 1;
        x->has_head = true;
        x->sink->answer->status = x->head.status;
        none = str_eq(x->q->method, "HEAD") || x->head.status == 204 || x->head.status == 304;
        x->left = none ? 0 : x->head.length >= 0 ? (uint64_t)x->head.length : UINT64_MAX;
        x->complete = none || (x->head.length == 0 && !x->head.chunked);
        /* Without a length it ends with the connection. */
        if (!none && x->head.length < 0 && !x->head.chunked)
                x->head.close = true;
        return 1;
}

static int answer_parse(struct exchange *x)
{
        int r = 1;

        while (r > 0 && !x->complete) {
                if (!x->has_head) {
                        r = head_step(x);
                } else if (x->head.chunked) {
                        r = chunk_step(x);
                } else {
                        r = body_take(x);
                        x->complete = r == 0 && x->left == 0;
                }
        }
        if (x->own->at == x->own->in.len) {
                str_clear(&x->own->in);
                x->own->at = 0;
        }
        return r < 0 ? r : 0;
}

/* 0; -ECONNRESET: its end came too early; -errno. */
static int answer_read(struct exchange *x)
{
        struct str *in = &x->own->in;
        ssize_t n;

        if (x->own->at > 0) {
                memmove(in->data, in->data + x->own->at, in->len - x->own->at);
                in->len -= x->own->at;
                x->own->at = 0;
        }
        if (str_reserve(in, PIECE) < 0)
                return -ENOMEM;
        n = recv(x->own->fd, in->data + in->len, PIECE, MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0) {
                x->complete = x->has_head && !x->head.chunked && x->head.length < 0;
                return x->complete ? 0 : -ECONNRESET;
        }
        x->answered = true;
        in->len += (size_t)n;
        in->data[in->len] = '\0';
        return answer_parse(x);
}

/* ── bodies of requests ────────────────────────────────────────────────────────────────────────────────────────────── */

static int piece_add(struct exchange *x, const void *data, size_t len)
{
        int e = 0;

        if (x->size == UINT64_MAX)
                e = str_addf(&x->out, "%zx\r\n", len);
        if (e == 0 && len > 0)
                e = str_add(&x->out, data, len);
        if (e == 0 && x->size == UINT64_MAX)
                e = str_adds(&x->out, "\r\n");
        x->sent += len;
        return e;
}

/* Puts the next piece of the body into `out`, which is empty. */
static int body_next(struct exchange *x)
{
        const struct http_client_request *q = x->q;
        char piece[PIECE];
        ssize_t n;

        str_clear(&x->out);
        x->out_at = 0;
        if (x->size != UINT64_MAX && x->sent == x->size) {
                x->sent_all = true;
                return 0;
        }
        if (q->body) {
                n = (ssize_t)MIN((uint64_t)PIECE, x->size - x->sent);
                return piece_add(x, (const char *)q->body + x->sent, (size_t)n);
        }
        n = read(q->body_fd, piece, (size_t)MIN((uint64_t)sizeof(piece), x->size - x->sent));
        if (n < 0) {
                if (errno == EINTR || errno == EAGAIN)
                        return 0;
                x->read_error = errno;
                return -errno;
        }
        /* A file that became shorter cannot keep what its length promised. */
        if (n == 0 && x->size != UINT64_MAX) {
                x->read_error = EIO;
                return -EIO;
        }
        x->sent_all = n == 0;
        return piece_add(x, piece, (size_t)n);
}

static int request_write(struct exchange *x)
{
        ssize_t n = send(x->own->fd, x->out.data + x->out_at, x->out.len - x->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        /* The server may have answered before it stopped to read. */
        if (n < 0) {
                x->sent_all = true;
                x->head.close = true;
                x->out_at = x->out.len;
                return 0;
        }
        x->out_at += (size_t)n;
        if (x->q->progress && x->out_at == x->out.len)
                x->q->progress(x->sent, x->q->progress_data);
        return 0;
}

/* ── one request ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static int exchange_step(struct exchange *x)
{
        bool has_out = x->out_at < x->out.len, waits_for_body = !has_out && !x->sent_all && !x->q->body;
        struct pollfd fds[2] = {
                { .fd = x->own->fd, .events = (short)(POLLIN | (has_out ? POLLOUT : 0)) },
                { .fd = waits_for_body ? x->q->body_fd : -1, .events = POLLIN },
        };
        int r = 0;

        if (http_aborted(x->q))
                return -ECANCELED;
        if (!has_out && !x->sent_all && x->q->body)
                return body_next(x);
        if (poll(fds, ARRAY_LEN(fds), x->q->abort ? LOOK_MS : -1) < 0 && errno != EINTR)
                return -errno;
        if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
                r = answer_read(x);
        if (r == 0 && !x->complete && (fds[0].revents & POLLOUT))
                r = request_write(x);
        if (r == 0 && !x->complete && fds[1].revents)
                r = body_next(x);
        return r;
}

static int exchange_run(struct exchange *x)
{
        int r = head_make(x->c, x->q, x->size, &x->out);

        x->sent_all = x->size == 0;
        while (r == 0 && !x->complete) {
                /* Most requests are done by one write. */
                if (x->out_at == 0 && x->out.len > 0 && !x->answered)
                        r = request_write(x);
                if (r == 0)
                        r = exchange_step(x);
        }
        return r;
}

static int exchange_failure(const struct exchange *x, int r, struct err *err)
{
        const char *where = x->c->socket ? x->c->socket : x->c->host;
        int e = http_sink_failure(x->sink, where, err);

        if (e < 0)
                return e;
        if (x->read_error)
                return err_set(err, x->read_error, "read the body: %s", strerror(x->read_error));
        switch (r) {
        case -ECANCELED:
                return err_set(err, ECANCELED, "cancelled");
        case -ENOMEM:
                return err_oom(err);
        case -EPROTO:
                return err_set(err, EPROTO, "%s: the answer is no HTTP", where);
        default:
                if (x->own->ssh > 0 && !x->answered)
                        return err_set(err, ECONNREFUSED, "%s: ssh ended before the answer", where);
                return err_set(err, ECONNRESET, "%s: the connection was closed before the answer was complete", where);
        }
}

int http_own_do(struct http_client *c, const struct http_client_request *q, struct http_sink *sink, struct err *err)
{
        struct exchange x = { .c = c, .own = &c->own, .q = q, .sink = sink };
        int r = 0;

        if (!own_is_alive(&c->own)) {
                http_own_close(&c->own);
                r = http_own_connect(c, &c->own, err);
        }
        if (r < 0)
                return r;
        x.size = http_body_size(q);
        r = exchange_run(&x);
        str_done(&x.out);
        if (r < 0)
                r = exchange_failure(&x, r, err);
        if (r < 0 || x.head.close || !x.sent_all)
                http_own_close(&c->own);
        return r;
}
