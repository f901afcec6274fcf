/* TLS, between the client's socket and the parser, which sees one half of a pair of sockets. The parser's own TLS is not used:
 * while a handshake waits for the client it keeps the loop busy, as upgraded connections do that close. */

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "http/internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define BUFFER (16 * 1024) /* a record */
#define ROUNDS_PER_TURN 32
#define HANDSHAKE_TIMEOUT_S 10
/* For what the parser has written when it ends a connection. */
#define FLUSH_TIMEOUT_S 30
#define LINGER_TIMEOUT_S 2

/*   HANDSHAKE ──▶ OPEN ──▶ LINGER ──▶ (freed)
 * LINGER: all is sent, and the client's end is awaited, since closing earlier could cost it what it has not read. */
enum link_state { LINK_HANDSHAKE, LINK_OPEN, LINK_LINGER };

struct half {
        char *data;
        size_t at, len;
        bool end; /* no more will come */
};

struct http_link {
        struct http_conn *conn;
        enum link_state state;
        SSL *ssl;
        int net, pair;
        struct loop_io *net_io, *pair_io;
        struct loop_timer timer;
        struct half in, out; /* from the client; to it */
        bool wants_write;    /* TLS does, to go on in either direction */
        bool in_shut, detached;
        bool cut; /* the client has ended its side, and there is more to read before that shows */
};

/* ── its socket: write(2) would raise SIGPIPE ──────────────────────────────────────────────────────────────────────── */

static int bio_write(BIO *b, const char *data, int len)
{
        struct http_link *k = BIO_get_data(b);
        ssize_t n = send(k->net, data, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);

        BIO_clear_retry_flags(b);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                BIO_set_retry_write(b);
        return (int)n;
}

static int bio_read(BIO *b, char *data, int len)
{
        struct http_link *k = BIO_get_data(b);
        ssize_t n = recv(k->net, data, (size_t)len, MSG_DONTWAIT);

        BIO_clear_retry_flags(b);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                BIO_set_retry_read(b);
        return (int)n;
}

static long bio_ctrl(BIO *b, int command, long number, void *data)
{
        (void)b;
        (void)number;
        (void)data;
        return command == BIO_CTRL_FLUSH;
}

static BIO *bio_new(struct http_link *k)
{
        static BIO_METHOD *method;
        BIO *b;

        if (!method) {
                method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mayfly");
                if (!method || BIO_meth_set_write(method, bio_write) != 1 || BIO_meth_set_read(method, bio_read) != 1 ||
                    BIO_meth_set_ctrl(method, bio_ctrl) != 1)
                        return NULL;
        }
        b = BIO_new(method);
        if (!b)
                return NULL;
        BIO_set_data(b, k);
        BIO_set_init(b, 1);
        return b;
}

/* ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void http_link_end(struct http_link *k)
{
        struct http_conn *c = k->conn;

        if (k->state == LINK_HANDSHAKE)
                c->server->fds_owed -= HTTP_LINK_FDS;
        loop_io_remove(k->net_io);
        loop_io_remove(k->pair_io);
        loop_timer_cancel(&k->timer);
        SSL_free(k->ssl);
        fd_close(k->net);
        fd_close(k->pair);
        free(k->in.data);
        free(k->out.data);
        c->link = NULL;
        c->net_fd = c->fd;
        if (k->detached)
                http_conn_release(c);
        free(k);
}

static void on_timer(struct loop_timer *timer, void *data)
{
        struct http_link *k = data;

        (void)timer;
        if (k->state == LINK_HANDSHAKE)
                http_conn_drop(k->conn);
        else
                http_link_end(k);
}

static void link_set_timer(struct http_link *k, uint64_t seconds)
{
        (void)loop_timer_set(k->conn->server->loop, &k->timer, time_mono_ns() + seconds * NS_PER_S, on_timer, k);
}

void http_link_kill(struct http_link *k)
{
        (void)shutdown(k->net, SHUT_RDWR);
}

void http_link_detach(struct http_link *k)
{
        k->detached = true;
        k->conn->fd = -EBADF;
        if (k->state == LINK_OPEN)
                link_set_timer(k, FLUSH_TIMEOUT_S);
}

bool http_link_unsent(const struct http_link *k)
{
        int waits = 0;

        if (k->state != LINK_OPEN || k->out.end)
                return k->out.len > 0;
        return k->out.len > 0 || (ioctl(k->pair, FIONREAD, &waits) == 0 && waits > 0);
}

/* ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool half_room(struct half *h)
{
        if (!h->data)
                h->data = malloc(BUFFER);
        return h->data != NULL;
}

/* What an idle connection does not need is not kept. */
static void half_emptied(struct half *h)
{
        h->at = h->len = 0;
        free(h->data);
        h->data = NULL;
}

/* True: it would block. False: try again, or it is at its end (`end` is set). */
static bool tls_blocks(struct http_link *k, struct half *h, int r)
{
        switch (SSL_get_error(k->ssl, r)) {
        case SSL_ERROR_WANT_READ:
                return true;
        case SSL_ERROR_WANT_WRITE:
                k->wants_write = true;
                return true;
        default:
                ERR_clear_error();
                h->end = true;
                return false;
        }
}

/* Each answers true if it moved something. */
static bool in_read(struct http_link *k)
{
        struct half *h = &k->in;
        size_t n = 0;
        int r;

        if (h->len > 0 || h->end || !half_room(h))
                return false;
        ERR_clear_error();
        r = SSL_read_ex(k->ssl, h->data, BUFFER, &n);
        if (r == 1) {
                h->len = n;
                return true;
        }
        half_emptied(h);
        return !tls_blocks(k, h, r);
}

static bool in_write(struct http_link *k)
{
        struct half *h = &k->in;
        ssize_t n;

        if (h->len == 0 && h->end && !k->in_shut) {
                k->in_shut = true;
                (void)shutdown(k->pair, SHUT_WR);
        }
        if (h->len == 0)
                return false;
        n = send(k->pair, h->data + h->at, h->len - h->at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return false;
        /* The parser has closed: nobody wants it. */
        h->at = n < 0 ? h->len : h->at + (size_t)n;
        if (h->at == h->len)
                half_emptied(h);
        return true;
}

static bool out_read(struct http_link *k)
{
        struct half *h = &k->out;
        ssize_t n;

        if (h->len > 0 || h->end || !half_room(h))
                return false;
        n = recv(k->pair, h->data, BUFFER, MSG_DONTWAIT);
        if (n > 0) {
                h->len = (size_t)n;
                return true;
        }
        half_emptied(h);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return false;
        h->end = true;
        return true;
}

/* -ECONNRESET: the client takes no more. */
static int out_write(struct http_link *k, bool *moved)
{
        struct half *h = &k->out, failed = { .end = false };
        size_t n = 0;
        int r;

        if (h->len == 0)
                return 0;
        ERR_clear_error();
        r = SSL_write_ex(k->ssl, h->data + h->at, h->len - h->at, &n);
        if (r != 1)
                return tls_blocks(k, &failed, r) ? 0 : -ECONNRESET;
        *moved = true;
        h->at += n;
        if (h->at == h->len)
                half_emptied(h);
        return 0;
}

static void link_watch(struct http_link *k)
{
        bool reads = k->state == LINK_LINGER || (k->in.len == 0 && !k->in.end);

        /* Nobody may read for long, of a program's stdin for example: that the client has gone is to be seen all the same. */
        uint32_t in = reads ? EPOLLIN : k->in.end || k->cut ? 0 : EPOLLRDHUP;

        if (k->net_io)
                (void)loop_io_set(k->net_io, in | (k->wants_write ? EPOLLOUT : 0));
        if (k->pair_io)
                (void)loop_io_set(k->pair_io,
                                  (k->out.len == 0 && !k->out.end ? EPOLLIN : 0) | (k->in.len > 0 ? EPOLLOUT : 0));
}

static int link_pump(struct http_link *k)
{
        bool moved = true;

        for (unsigned i = 0; moved && i < ROUNDS_PER_TURN; i++) {
                int r;

                moved = false;
                k->wants_write = false;
                r = out_write(k, &moved);
                if (r < 0)
                        return r;
                moved = in_read(k) || moved;
                moved = in_write(k) || moved;
                moved = out_read(k) || moved;
        }
        return 0;
}

/* Once the parser has closed, and all is sent. */
static int link_linger(struct http_link *k)
{
        char scrap[4096];
        ssize_t n;

        if (k->state == LINK_OPEN) {
                k->state = LINK_LINGER;
                ERR_clear_error();
                (void)SSL_shutdown(k->ssl);
                ERR_clear_error();
                (void)shutdown(k->net, SHUT_WR);
                link_set_timer(k, LINGER_TIMEOUT_S);
        }
        for (unsigned i = 0; i < ROUNDS_PER_TURN; i++) {
                n = recv(k->net, scrap, sizeof(scrap), MSG_DONTWAIT);
                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0)
                        return -ECONNRESET;
        }
        return 0;
}

static void link_run(struct http_link *k)
{
        int r = k->state == LINK_OPEN ? link_pump(k) : 0;

        if (r == 0 && k->out.end && k->out.len == 0)
                r = link_linger(k);
        if (r < 0)
                http_link_end(k);
        else
                link_watch(k);
}

/* What it has sent before may still be read. */
static void link_cut(struct http_link *k)
{
        struct http_conn *c = k->conn;

        k->cut = true;
        c->is_hung_up = true;
        if (c->request && c->request->suspended)
                http_request_hung_up(c->request);
        else if (c->ws)
                http_ws_hung_up(c->ws);
}

static void on_io(struct loop_io *io, uint32_t events, void *data)
{
        struct http_link *k = data;

        if (io == k->net_io && k->in.len > 0 && !k->cut && !k->detached &&
            (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
                link_cut(k);
        link_run(k);
}

/* ── the handshake ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The connection's descriptor is the parser's half from here on. */
static int link_open(struct http_link *k)
{
        struct http_conn *c = k->conn;
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return -errno;
        k->pair = pair[0];
        c->fd = pair[1];
        if (loop_io_add(c->server->loop, k->pair, EPOLLIN, on_io, k, &k->pair_io, NULL) < 0)
                return -ENOMEM;
        loop_timer_cancel(&k->timer);
        k->state = LINK_OPEN;
        c->server->fds_owed -= HTTP_LINK_FDS;
        return 0;
}

/* 1: done; 0: more must come; -errno. */
static int link_handshake(struct http_link *k)
{
        int r;

        /* What others have left there would be taken for a fault of this connection (SSL_get_error(3)). */
        ERR_clear_error();
        r = SSL_accept(k->ssl);
        if (r == 1) {
                r = link_open(k);
                return r < 0 ? r : 1;
        }
        switch (SSL_get_error(k->ssl, r)) {
        case SSL_ERROR_WANT_READ:
                k->wants_write = false;
                return 0;
        case SSL_ERROR_WANT_WRITE:
                k->wants_write = true;
                return 0;
        default:
                log_debug("http: %s: TLS: %s", k->conn->address.text,
                          ERR_reason_error_string(ERR_peek_error()) ?: "closed");
                ERR_clear_error();
                return -EPROTO;
        }
}

static void on_handshake_io(struct loop_io *io, uint32_t events, void *data)
{
        struct http_link *k = data;
        struct http_conn *c = k->conn;
        int r = link_handshake(k);

        (void)io;
        (void)events;
        if (r == 0) {
                link_watch(k);
                return;
        }
        if (r > 0) {
                loop_io_remove(k->net_io);
                k->net_io = NULL;
                r = loop_io_add(c->server->loop, k->net, EPOLLIN, on_io, k, &k->net_io, NULL);
        }
        if (r < 0) {
                http_conn_drop(c);
                return;
        }
        http_conn_hand_over(c);
        if (c->link == k)
                link_run(k);
}

int http_link_start(struct http_conn *c)
{
        struct http_link *k = calloc(1, sizeof(*k));
        BIO *b;

        if (!k)
                return -ENOMEM;
        k->conn = c;
        k->net = c->fd;
        k->pair = -EBADF;
        c->link = k;
        c->fd = -EBADF;
        c->server->fds_owed += HTTP_LINK_FDS;
        k->ssl = SSL_new(c->listener->tls->ctx);
        b = k->ssl ? bio_new(k) : NULL;
        if (!b)
                return -ENOMEM;
        SSL_set_bio(k->ssl, b, b);
        link_set_timer(k, HANDSHAKE_TIMEOUT_S);
        return loop_io_add(c->server->loop, k->net, EPOLLIN, on_handshake_io, k, &k->net_io, NULL);
}
