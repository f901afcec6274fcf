/* Connections for hijacked streams, which are no request and answer: to a unix socket, or over TCP and TLS (OpenSSL). Nothing
 * blocks: names are looked up by a worker. SIGPIPE is the program's to ignore. */

#include "engine/docker/internal.h"

#include "base/fd.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONN_RETRY_NS (10 * NS_PER_MS)
#define CONN_TIMEOUT_NS (10 * NS_PER_S) /* for all addresses, and the handshake */
#define CONN_IDLE_S 30                  /* without a byte, until a peer that may have died is asked */
#define CONN_QUEUE (LOOP_QUEUES - 1)

/*   RESOLVING ─▶ CONNECTING ─▶ (HANDSHAKE) ─▶ OPEN */
enum conn_state { CONN_RESOLVING, CONN_CONNECTING, CONN_HANDSHAKE, CONN_OPEN };

struct resolve;

struct docker_conn {
        struct docker *docker;
        const struct docker_conn_handler *handler;
        void *data;
        enum conn_state state;
        struct resolve *resolve;
        struct addrinfo *addresses, *at;
        int fd;
        struct loop_io *io;
        struct loop_timer retry, timeout;
        SSL *ssl;
        bool in, out, tls_out; /* what is waited for; TLS has to write before it goes on reading */
        bool shutting;         /* the end could not be said yet */
};

/* ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct docker_tls {
        SSL_CTX *ctx;
        struct timespec read[3]; /* when the files that it was made of were changed */
};

void docker_tls_free(struct docker_tls *t)
{
        if (!t)
                return;
        SSL_CTX_free(t->ctx);
        free(t);
}

static const char *tls_reason(void)
{
        const char *why = ERR_reason_error_string(ERR_peek_last_error());

        return why ? why : "unknown";
}

static int tls_fill(SSL_CTX *ctx, const struct docker_host *h, struct err *err)
{
        int ok = h->ca ? SSL_CTX_load_verify_locations(ctx, h->ca, NULL) : SSL_CTX_set_default_verify_paths(ctx);

        if (ok != 1)
                return err_set(err, EINVAL, "%s: no certificates in PEM: %s", h->ca ? h->ca : "the system",
                               tls_reason());
        if (SSL_CTX_use_certificate_chain_file(ctx, h->cert) != 1)
                return err_set(err, EINVAL, "%s: no certificate in PEM: %s", h->cert, tls_reason());
        if (SSL_CTX_use_PrivateKey_file(ctx, h->key, SSL_FILETYPE_PEM) != 1)
                return err_set(err, EINVAL, "%s: no key in PEM that belongs to %s", h->key, h->cert);
        if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
                return err_set(err, EIO, "TLS 1.2 is not supported");
        (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
        (void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                            SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        return 0;
}

static void tls_changed(const struct docker_host *h, struct timespec out[3])
{
        const char *const files[] = { h->ca, h->cert, h->key };

        for (size_t i = 0; i < ARRAY_LEN(files); i++) {
                struct stat st;

                out[i] = files[i] && stat(files[i], &st) == 0 ? st.st_mtim : (struct timespec){ .tv_sec = 0 };
        }
}

/* Made again when a file has changed. */
static int tls_get(struct docker *d, SSL_CTX **ret, struct err *err)
{
        struct timespec now[3];
        SSL_CTX *ctx;
        int r;

        tls_changed(&d->host, now);
        if (!d->tls)
                d->tls = calloc(1, sizeof(*d->tls));
        if (!d->tls)
                return err_oom(err);
        if (!d->tls->ctx || memcmp(now, d->tls->read, sizeof(now)) != 0) {
                ctx = SSL_CTX_new(TLS_client_method());
                r = ctx ? tls_fill(ctx, &d->host, err) : err_oom(err);
                ERR_clear_error();
                if (r < 0) {
                        SSL_CTX_free(ctx);
                        return r;
                }
                SSL_CTX_free(d->tls->ctx);
                d->tls->ctx = ctx;
                memcpy(d->tls->read, now, sizeof(now));
        }
        *ret = d->tls->ctx;
        return 0;
}

/* The certificate has to be of the name or address that the configuration says (RFC 6125). */
static int tls_begin(struct docker_conn *c, struct err *err)
{
        const char *name = c->docker->host.name;
        SSL_CTX *ctx = NULL;
        X509_VERIFY_PARAM *param;
        int r = tls_get(c->docker, &ctx, err);

        if (r < 0)
                return r;
        c->ssl = SSL_new(ctx);
        if (!c->ssl || SSL_set_fd(c->ssl, c->fd) != 1)
                return err_oom(err);
        param = SSL_get0_param(c->ssl);
        if (X509_VERIFY_PARAM_set1_ip_asc(param, name) != 1 &&
            (SSL_set1_host(c->ssl, name) != 1 || SSL_set_tlsext_host_name(c->ssl, name) != 1))
                return err_oom(err);
        ERR_clear_error();
        SSL_set_connect_state(c->ssl);
        return 0;
}

static int tls_fault(struct docker_conn *c, int code, struct err *err)
{
        long verify = SSL_get_verify_result(c->ssl);
        int number = errno;

        if (verify != X509_V_OK)
                return err_set(err, EKEYREJECTED, "TLS: %s", X509_verify_cert_error_string(verify));
        if (code == SSL_ERROR_SYSCALL && number != 0)
                return err_set(err, number, "TLS: %s", strerror(number));
        return err_set(err, ECONNRESET, "TLS: %s", tls_reason());
}

/* ── readiness ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void conn_io(struct docker_conn *c)
{
        uint32_t events = (c->in ? EPOLLIN : 0) | (c->out || c->tls_out || c->shutting ? EPOLLOUT : 0);

        if (c->io)
                (void)loop_io_set(c->io, events);
}

void docker_conn_wait(struct docker_conn *c, bool in, bool out)
{
        if (c->in == in && c->out == out)
                return;
        c->in = in;
        c->out = out;
        conn_io(c);
}

static void conn_failed(struct docker_conn *c, int r, const struct err *err)
{
        c->handler->failed(r, err, c->data);
}

static void conn_open(struct docker_conn *c)
{
        c->state = CONN_OPEN;
        loop_timer_cancel(&c->timeout);
        docker_conn_wait(c, true, true);
        c->handler->open(c->data);
}

static void handshake(struct docker_conn *c)
{
        struct err err = ERR_INIT;
        int r, code;

        ERR_clear_error();
        errno = 0;
        r = SSL_connect(c->ssl);
        if (r == 1) {
                conn_open(c);
                return;
        }
        code = SSL_get_error(c->ssl, r);
        if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
                docker_conn_wait(c, true, code == SSL_ERROR_WANT_WRITE);
                return;
        }
        r = tls_fault(c, code, &err);
        ERR_clear_error();
        conn_failed(c, r, &err);
}

static void connected(struct docker_conn *c)
{
        struct err err = ERR_INIT;
        int r;

        if (!c->docker->host.tls) {
                conn_open(c);
                return;
        }
        c->state = CONN_HANDSHAKE;
        r = tls_begin(c, &err);
        if (r < 0)
                conn_failed(c, r, &err);
        else
                handshake(c);
}

static void try_next(struct docker_conn *c, int why);

static void on_io(struct loop_io *io, uint32_t events, void *data)
{
        struct docker_conn *c = data;
        int error = 0;
        socklen_t len = sizeof(error);

        (void)io;
        switch (c->state) {
        case CONN_RESOLVING:
                return;
        case CONN_CONNECTING:
                if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
                        error = errno;
                if (error)
                        try_next(c, error);
                else
                        connected(c);
                return;
        case CONN_HANDSHAKE:
                handshake(c);
                return;
        case CONN_OPEN:
                if (c->shutting && events & EPOLLOUT)
                        docker_conn_shutdown(c);
                /* A hang-up is told whatever is waited for, again and again until it is read. */
                c->handler->io((c->in && events & EPOLLIN) || events & (EPOLLHUP | EPOLLERR), c->data);
        }
}

static int watch(struct docker_conn *c, uint32_t events, struct err *err)
{
        c->in = events & EPOLLIN;
        c->out = events & EPOLLOUT;
        return loop_io_add(c->docker->loop, c->fd, events, on_io, c, &c->io, err);
}

/* ── unix sockets ────────────────────────────────────────────────────────────────────────────────────────────────── */

static int connect_unix(struct docker_conn *c, struct err *err);

static void on_retry(struct loop_timer *timer, void *data)
{
        struct docker_conn *c = data;
        struct err err = ERR_INIT;
        int r = connect_unix(c, &err);

        (void)timer;
        if (r < 0)
                conn_failed(c, r, &err);
}

/* One whose backlog is full answers EAGAIN, and says nothing when there is room (unix(7)). */
static int connect_unix(struct docker_conn *c, struct err *err)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        if (c->fd < 0)
                c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                return err_sys(err, "socket");
        (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", c->docker->host.socket);
        if (connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
                return watch(c, EPOLLIN | EPOLLOUT, err); /* it is writable at once, and so open on the next turn */
        if (errno != EAGAIN && errno != EINTR)
                return err_sys(err, "connect to '%s'", c->docker->host.socket);
        return loop_timer_set(c->docker->loop, &c->retry, time_mono_ns() + CONN_RETRY_NS, on_retry, c) < 0
                       ? err_oom(err)
                       : 0;
}

/* ── TCP ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct resolve {
        struct docker_conn *conn; /* NULL: nobody waits any more */
        char *name, *port;
        struct addrinfo *found;
        int result;
};

static void resolve_run(void *data)
{
        const struct addrinfo hints = { .ai_family = AF_UNSPEC,
                                        .ai_socktype = SOCK_STREAM,
                                        .ai_flags = AI_NUMERICSERV };
        struct resolve *q = data;

        q->result = getaddrinfo(q->name, q->port, &hints, &q->found);
}

static void resolve_free(struct resolve *q)
{
        if (q->found)
                freeaddrinfo(q->found);
        free(q->name);
        free(q->port);
        free(q);
}

static void resolve_done(void *data)
{
        struct resolve *q = data;
        struct docker_conn *c = q->conn;
        struct err err = ERR_INIT;

        if (c) {
                c->resolve = NULL;
                c->addresses = c->at = q->found;
                q->found = NULL;
                if (q->result == 0) {
                        try_next(c, EHOSTUNREACH);
                } else {
                        int r = err_set(&err, EHOSTUNREACH, "look up '%s': %s", q->name, gai_strerror(q->result));

                        conn_failed(c, r, &err);
                }
        }
        resolve_free(q);
}

static int resolve_begin(struct docker_conn *c, struct err *err)
{
        struct resolve *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return err_oom(err);
        q->conn = c;
        q->name = strdup(c->docker->host.name);
        q->port = strdup(c->docker->host.port);
        r = q->name && q->port ? loop_work(c->docker->loop, CONN_QUEUE, resolve_run, resolve_done, q) : -ENOMEM;
        if (r < 0) {
                resolve_free(q);
                return err_set(err, -r, "look up '%s': %s", c->docker->host.name, strerror(-r));
        }
        c->resolve = q;
        return 0;
}

static void connect_close(struct docker_conn *c)
{
        SSL_free(c->ssl);
        c->ssl = NULL;
        loop_io_remove(c->io);
        c->io = NULL;
        fd_replace(&c->fd, -EBADF);
}

static void try_next(struct docker_conn *c, int why)
{
        struct err err = ERR_INIT;
        const int one = 1, idle = CONN_IDLE_S, tries = 4;

        c->state = CONN_CONNECTING;
        connect_close(c);
        while (c->at) {
                const struct addrinfo *a = c->at;

                c->at = a->ai_next;
                c->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                if (c->fd >= 0) {
                        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                        (void)setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
                        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
                        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
                        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
                        if ((connect(c->fd, a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS) &&
                            watch(c, EPOLLOUT, NULL) == 0)
                                return;
                }
                why = errno;
                connect_close(c);
        }
        conn_failed(c, err_set(&err, why, "connect to '%s': %s", c->docker->host.shown, strerror(why)), &err);
}

/* ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_timeout(struct loop_timer *timer, void *data)
{
        struct docker_conn *c = data;
        struct err err = ERR_INIT;

        (void)timer;
        conn_failed(c, err_set(&err, ETIMEDOUT, "connect to '%s': it takes too long", c->docker->host.shown), &err);
}

int docker_conn_open(struct docker *d, const struct docker_conn_handler *handler, void *data, struct docker_conn **ret,
                     struct err *err)
{
        struct docker_conn *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return err_oom(err);
        c->docker = d;
        c->handler = handler;
        c->data = data;
        c->fd = -EBADF;
        c->state = d->host.socket ? CONN_CONNECTING : CONN_RESOLVING;
        r = loop_timer_set(d->loop, &c->timeout, time_mono_ns() + CONN_TIMEOUT_NS, on_timeout, c) < 0 ? err_oom(err)
                                                                                                      : 0;
        if (r == 0)
                r = d->host.socket ? connect_unix(c, err) : resolve_begin(c, err);
        if (r < 0) {
                docker_conn_close(c);
                return r;
        }
        *ret = c;
        return 0;
}

void docker_conn_close(struct docker_conn *c)
{
        if (!c)
                return;
        if (c->resolve)
                c->resolve->conn = NULL;
        if (c->addresses)
                freeaddrinfo(c->addresses);
        loop_timer_cancel(&c->timeout);
        loop_timer_cancel(&c->retry);
        connect_close(c);
        free(c);
}

static ssize_t tls_result(struct docker_conn *c, int r)
{
        struct err err = ERR_INIT;
        int code = SSL_get_error(c->ssl, r);

        switch (code) {
        case SSL_ERROR_WANT_WRITE:
                c->tls_out = true;
                conn_io(c);
                return -EAGAIN;
        case SSL_ERROR_WANT_READ:
                return -EAGAIN;
        case SSL_ERROR_ZERO_RETURN:
                return 0;
        default:
                r = tls_fault(c, code, &err);
                ERR_clear_error();
                return r;
        }
}

ssize_t docker_conn_recv(struct docker_conn *c, void *buf, size_t len)
{
        ssize_t n;

        if (c->tls_out) {
                c->tls_out = false;
                conn_io(c);
        }
        if (c->ssl) {
                int r;

                ERR_clear_error();
                errno = 0;
                r = SSL_read(c->ssl, buf, (int)MIN(len, (size_t)INT_MAX));
                return r > 0 ? r : tls_result(c, r);
        }
        do
                n = recv(c->fd, buf, len, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

ssize_t docker_conn_send(struct docker_conn *c, const void *buf, size_t len)
{
        ssize_t n;

        if (c->ssl && len > 0) {
                int r;

                ERR_clear_error();
                errno = 0;
                r = SSL_write(c->ssl, buf, (int)MIN(len, (size_t)INT_MAX));
                if (r > 0)
                        return r;
                n = tls_result(c, r);
                return n == 0 ? -EPIPE : n;
        }
        do
                n = send(c->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

/* Over TLS its own end is said (close_notify), which Docker takes for the end of stdin; the socket stays as it is. */
void docker_conn_shutdown(struct docker_conn *c)
{
        if (c->ssl) {
                int r;

                ERR_clear_error();
                r = SSL_shutdown(c->ssl);
                c->shutting = r < 0 && SSL_get_error(c->ssl, r) == SSL_ERROR_WANT_WRITE;
                ERR_clear_error();
                conn_io(c);
        } else {
                (void)shutdown(c->fd, SHUT_WR);
        }
}
