/* The command's side of a WebSocket: its own connection, over which wslay does the framing. */

#include "base/fd.h"
#include "http/client_internal.h"
#include "http/handshake.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#define MAX_MESSAGE (16 * 1024 * 1024)
#define OUT_MAX (64 * 1024)
#define HEAD_MAX (64 * 1024)
#define REFUSED_MAX (1024 * 1024)
#define READ_PER_PUMP (1024 * 1024)
#define ANSWER_TIMEOUT_MS 60000

struct http_ws_client {
        struct http_own own;    /* unix sockets, ssh… */
        struct http_curl *curl; /* …or TCP */
        int fd;
        wslay_event_context_ptr wslay;
        struct http_ws_client_handler handler;
        void *arg;
        char out[OUT_MAX]; /* framed, and not yet taken by the socket */
        size_t out_at, out_len, pumped;
        int error; /* of the handler */
        unsigned code;
        bool end_of_file;
};

/* ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static ssize_t link_send(struct http_ws_client *w, const void *data, size_t len)
{
        ssize_t n;

        if (w->curl)
                return http_curl_send(w->curl, data, len);
        do {
                n = send(w->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

static ssize_t link_recv(struct http_ws_client *w, void *data, size_t len)
{
        ssize_t n;

        if (w->curl)
                return http_curl_recv(w->curl, data, len);
        do {
                n = recv(w->fd, data, len, MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *data)
{
        struct http_ws_client *w = data;
        struct str *first = &w->own.in;
        ssize_t n;

        (void)flags;
        if (w->error < 0) {
                wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
                return -1;
        }
        if (w->own.at < first->len) {
                n = (ssize_t)MIN(len, first->len - w->own.at);
                memcpy(buf, first->data + w->own.at, (size_t)n);
                w->own.at += (size_t)n;
                return n;
        }
        /* What libcurl has decrypted already would not wake poll(2). */
        n = !w->curl && w->pumped >= READ_PER_PUMP ? -EAGAIN : link_recv(w, buf, len);
        if (n == -EAGAIN) {
                wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
                return -1;
        }
        if (n <= 0) {
                w->end_of_file = true;
                wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
                return -1;
        }
        w->pumped += (size_t)n;
        return n;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *bytes, size_t len, int flags, void *data)
{
        struct http_ws_client *w = data;

        (void)flags;
        len = MIN(len, sizeof(w->out) - w->out_len);
        if (len == 0) {
                wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
                return -1;
        }
        memcpy(w->out + w->out_len, bytes, len);
        w->out_len += len;
        return (ssize_t)len;
}

/* RFC 6455 section 5.3: not to be guessed. */
static int on_mask(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, void *data)
{
        (void)ctx;
        (void)data;
        return getrandom(buf, len, 0) == (ssize_t)len ? 0 : -1;
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m, void *data)
{
        struct http_ws_client *w = data;

        (void)ctx;
        if (m->opcode == WSLAY_CONNECTION_CLOSE)
                w->code = m->status_code ? m->status_code : WSLAY_CODE_NO_STATUS_RCVD;
        if ((m->opcode == WSLAY_TEXT_FRAME || m->opcode == WSLAY_BINARY_FRAME) && w->error == 0)
                w->error = w->handler.message(m->opcode == WSLAY_TEXT_FRAME, m->msg, m->msg_length, w->arg);
}

/* ── the handshake ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int wait_for(struct http_ws_client *w, short events, struct err *err)
{
        struct pollfd fd = { .fd = w->fd, .events = events };
        int n;

        n = poll(&fd, 1, ANSWER_TIMEOUT_MS);
        if (n < 0)
                return errno == EINTR ? err_set(err, ECANCELED, "cancelled") : err_sys(err, "poll");
        return n > 0 ? 0 : err_set(err, ETIMEDOUT, "no answer in time");
}

static int request_send(struct http_ws_client *w, const struct str *head, struct err *err)
{
        for (size_t at = 0; at < head->len;) {
                ssize_t n = link_send(w, head->data + at, head->len - at);
                int r = n == -EAGAIN ? wait_for(w, POLLOUT, err)
                        : n < 0      ? err_set(err, (int)-n, "%s", strerror((int)-n))
                                     : 0;

                if (r < 0)
                        return r;
                at += n > 0 ? (size_t)n : 0;
        }
        return 0;
}

/* Until there is something new: 0 at the end of the connection. */
static ssize_t answer_more(struct http_ws_client *w, struct err *err)
{
        struct str *in = &w->own.in;

        for (;;) {
                ssize_t n;
                int r;

                if (str_reserve(in, 4096) < 0)
                        return err_oom(err);
                n = link_recv(w, in->data + in->len, 4096);
                if (n >= 0) {
                        in->len += (size_t)n;
                        in->data[in->len] = '\0';
                        return n;
                }
                if (n != -EAGAIN)
                        return err_set(err, (int)-n, "%s", strerror((int)-n));
                r = wait_for(w, POLLIN, err);
                if (r < 0)
                        return r;
        }
}

/* What stands in the head of the answer for the name; NULL: nothing. */
static char *head_value(const char *head, size_t len, const char *name)
{
        size_t n = strlen(name);

        for (const char *line = head; line;) {
                const char *end = memmem(line, len - (size_t)(line - head), "\r\n", 2);

                if (!end)
                        return NULL;
                if ((size_t)(end - line) > n && line[n] == ':' && strncasecmp(line, name, n) == 0) {
                        line += n + 1;
                        while (*line == ' ' || *line == '\t')
                                line++;
                        return strndup(line, (size_t)(end - line));
                }
                line = end + 2;
        }
        return NULL;
}

/* RFC 6455 section 4.1: what the client must check. */
static bool answer_upgrades(const char *head, size_t len, const char *key)
{
        auto_free char *accept = head_value(head, len, "Sec-WebSocket-Accept");
        auto_free char *upgrade = head_value(head, len, "Upgrade");
        auto_free char *extensions = head_value(head, len, "Sec-WebSocket-Extensions");
        char expected[HTTP_ACCEPT_MAX];

        http_handshake_accept(key, expected);
        return accept && str_eq(accept, expected) && upgrade && strcasecmp(upgrade, "websocket") == 0 && !extensions;
}

/* The body behind the head, as far as it has a length. */
static int answer_refused(struct http_ws_client *w, const struct http_answer_head *head, struct http_answer *refused,
                          struct err *err)
{
        struct str *in = &w->own.in;
        size_t want = head->length > 0 ? MIN((size_t)head->length, (size_t)REFUSED_MAX) : 0;

        while (in->len - w->own.at < want && answer_more(w, err) > 0)
                ;
        refused->status = head->status;
        if (in->len > w->own.at && str_add(&refused->body, in->data + w->own.at, in->len - w->own.at) < 0)
                return err_oom(err);
        return err_set(err, EPROTO, "the server answered %ld", head->status);
}

static int answer_read(struct http_ws_client *w, const char *key, struct http_answer *refused, struct err *err)
{
        const struct http_client_request none = { .method = "GET", .body_fd = -EBADF };
        struct http_sink sink = { .request = &none, .answer = refused };
        struct http_answer_head head = { .status = 0 };
        struct str *in = &w->own.in;
        ssize_t n;

        for (;;) {
                n = in->len == 0 ? 0 : http_answer_head_parse(in->data, in->len, &head, &sink);
                if (n < 0)
                        return err_set(err, EPROTO, "the answer is no HTTP");
                if (n > 0)
                        break;
                n = answer_more(w, err);
                if (n < 0)
                        return (int)n;
                if (n == 0)
                        return err_set(err, ECONNRESET, "the connection was closed before the answer was complete");
        }
        w->own.at = (size_t)n;
        if (head.status != 101)
                return answer_refused(w, &head, refused, err);
        if (!answer_upgrades(in->data, (size_t)n, key))
                return err_set(err, EPROTO, "the answer is no WebSocket handshake");
        return 0;
}

static int handshake(struct http_client *c, struct http_ws_client *w, const char *path, const char *const *headers,
                     struct http_answer *refused, struct err *err)
{
        auto_str head = STR_INIT, key = STR_INIT;
        const char *authority = c->base ? strstr(c->base, "://") + 3 : "localhost";
        uint8_t bytes[16];
        int e, r;

        if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
                return err_sys(err, "getrandom");
        e = base64_encode(&key, bytes, sizeof(bytes));
        if (e == 0)
                e = str_addf(&head,
                             "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: mayfly/" MAYFLY_VERSION
                             "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                             "Sec-WebSocket-Key: %s\r\n",
                             path, authority, key.data);
        if (e == 0)
                e = http_own_authorization(c, &head);
        for (size_t i = 0; e == 0 && headers && headers[i]; i++)
                e = str_addf(&head, "%s\r\n", headers[i]);
        if (e == 0)
                e = str_adds(&head, "\r\n");
        if (e < 0)
                return err_oom(err);
        r = request_send(w, &head, err);
        return r < 0 ? r : answer_read(w, key.data, refused, err);
}

static int ws_connect(struct http_client *c, struct http_ws_client *w, struct err *err)
{
        static const struct wslay_event_callbacks callbacks = {
                .recv_callback = on_recv,
                .send_callback = on_send,
                .genmask_callback = on_mask,
                .on_msg_recv_callback = on_message,
        };
        int r;

        if (wslay_event_context_client_init(&w->wslay, &callbacks, w) != 0) {
                w->wslay = NULL;
                return err_oom(err);
        }
        wslay_event_config_set_max_recv_msg_length(w->wslay,
                                                   w->handler.max_message ? w->handler.max_message : MAX_MESSAGE);
        if (c->base)
                return http_curl_connect(c, &w->curl, &w->fd, err);
        r = http_own_connect(c, &w->own, err);
        w->fd = w->own.fd;
        return r;
}

int http_ws_client_open(struct http_client *c, const char *path, const char *const *headers,
                        const struct http_ws_client_handler *handler, void *arg, struct http_ws_client **ret,
                        struct http_answer *refused, struct err *err)
{
        struct http_ws_client *w;
        int r = http_headers_check(headers, err);

        if (r < 0)
                return r;
        w = calloc(1, sizeof(*w));
        if (!w)
                return err_oom(err);
        w->own.fd = w->fd = -EBADF;
        w->handler = *handler;
        w->arg = arg;
        w->code = WSLAY_CODE_ABNORMAL_CLOSURE;
        r = ws_connect(c, w, err);
        if (r == 0) {
                r = handshake(c, w, path, headers, refused, err);
                if (r < 0)
                        (void)err_wrap(err, "%s", c->host);
        }
        if (r < 0) {
                http_ws_client_free(w);
                return r;
        }
        *ret = w;
        return 0;
}

void http_ws_client_free(struct http_ws_client *w)
{
        if (!w)
                return;
        http_curl_free(w->curl);
        http_own_close(&w->own);
        if (w->wslay)
                wslay_event_context_free(w->wslay);
        free(w);
}

/* ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_ws_client_fd(const struct http_ws_client *w)
{
        return w->fd;
}

short http_ws_client_events(const struct http_ws_client *w)
{
        bool writes = w->out_at < w->out_len || wslay_event_want_write(w->wslay);

        return (short)((wslay_event_want_read(w->wslay) ? POLLIN : 0) | (writes ? POLLOUT : 0));
}

static int flush(struct http_ws_client *w)
{
        for (;;) {
                ssize_t n;

                if (w->out_at == w->out_len) {
                        w->out_at = w->out_len = 0;
                        if (wslay_event_want_write(w->wslay) && wslay_event_send(w->wslay) != 0)
                                return -EIO;
                        if (w->out_len == 0)
                                return 0;
                }
                n = link_send(w, w->out + w->out_at, w->out_len - w->out_at);
                if (n < 0)
                        return n == -EAGAIN ? 0 : (int)n;
                w->out_at += (size_t)n;
        }
}

int http_ws_client_pump(struct http_ws_client *w, struct err *err)
{
        int r;

        w->pumped = 0;
        if (wslay_event_want_read(w->wslay))
                (void)wslay_event_recv(w->wslay);
        if (w->error < 0)
                return err_set(err, -w->error, "take a message: %s", strerror(-w->error));
        r = flush(w);
        if (wslay_event_get_close_received(w->wslay) && (r < 0 || wslay_event_get_close_sent(w->wslay)))
                return 0;
        if (r < 0 || w->end_of_file)
                return err_set(err, ECONNRESET, "the connection was closed");
        /* wslay closes for a fault of the peer; once that is said, nothing follows. */
        if (!wslay_event_want_read(w->wslay) && !wslay_event_want_write(w->wslay) && w->out_at == w->out_len)
                return err_set(err, EPROTO, "the server breaks the protocol");
        return 1;
}

int http_ws_client_send(struct http_ws_client *w, bool text, const void *data, size_t len)
{
        const struct wslay_event_msg m = {
                .opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME,
                .msg = data,
                .msg_length = len,
        };
        int r = wslay_event_queue_msg(w->wslay, &m);

        return r == 0 ? 0 : r == WSLAY_ERR_NO_MORE_MSG ? -ESHUTDOWN : -ENOMEM;
}

size_t http_ws_client_pending(const struct http_ws_client *w)
{
        return wslay_event_get_queued_msg_length(w->wslay) + w->out_len - w->out_at;
}

int http_ws_client_close(struct http_ws_client *w, unsigned code)
{
        return wslay_event_queue_close(w->wslay, (uint16_t)code, NULL, 0) == 0 ? 0 : -ESHUTDOWN;
}

unsigned http_ws_client_code(const struct http_ws_client *w)
{
        return w->code;
}
