/* Connections of the driver: a unix socket, as one of several owners; TCP, with one of several keys; TLS over that. */
#include "mfload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int connect_unix(const char *path)
{
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || strlen(path) >= sizeof(a.sun_path))
                load_die("socket");
        memcpy(a.sun_path, path, strlen(path));
        if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
                load_die(path);
        return fd;
}

/* Who connects is who asks, for as long as the connection lives, so one process can be many owners. */
static int connect_as(const struct load *load, unsigned slot)
{
        uid_t owner;
        int fd;

        if (load->n_owners == 0)
                return connect_unix(load->socket);
        owner = load->owners[slot % load->n_owners];
        if (setegid(load->group) < 0 || seteuid(owner) < 0)
                load_die("become an owner");
        fd = connect_unix(load->socket);
        if (seteuid(0) < 0 || setegid(0) < 0)
                load_die("become root again");
        return fd;
}

static int connect_tcp(const struct load *load)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(load->port) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
                load_die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        return fd;
}

/* The server's certificate is its own, made at its first start: what is measured is the cost, not whom one talks to. Each
 * handshake is a full one: no session is used again. */
static SSL *handshake(int fd)
{
        static SSL_CTX *ctx;
        SSL *ssl;

        if (!ctx) {
                ctx = SSL_CTX_new(TLS_client_method());
                if (!ctx)
                        load_die("TLS");
                SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
                /* A read ends after a session ticket, too, and does not wait for what may come behind it. */
                SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
        }
        ssl = SSL_new(ctx);
        if (!ssl || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1)
                load_die("TLS handshake");
        return ssl;
}

struct link link_open(const struct load *load, unsigned slot)
{
        struct link l = { .fd = load->port ? connect_tcp(load) : connect_as(load, slot) };

        if (load->tls)
                l.tls = handshake(l.fd);
        return l;
}

void link_close(struct link *l)
{
        SSL_free(l->tls);
        if (l->fd >= 0)
                close(l->fd);
        *l = (struct link){ .fd = -1 };
}

void link_send(struct link *l, const char *text, size_t len)
{
        for (size_t sent = 0; sent < len;) {
                ssize_t w = l->tls ? SSL_write(l->tls, text + sent, (int)(len - sent))
                                   : send(l->fd, text + sent, len - sent, MSG_NOSIGNAL);

                if (w <= 0)
                        load_die("send");
                sent += (size_t)w;
        }
}

static ssize_t receive_tls(SSL *ssl, char *buffer, size_t size)
{
        size_t got = 0;

        do {
                int n = SSL_read(ssl, buffer + got, (int)(size - got));

                if (n <= 0 && SSL_get_error(ssl, n) == SSL_ERROR_WANT_READ)
                        break;
                if (n <= 0)
                        return got > 0 ? (ssize_t)got : 0;
                got += (size_t)n;
        } while (got < size && SSL_pending(ssl) > 0);
        if (got == 0)
                errno = EAGAIN;
        return got > 0 ? (ssize_t)got : -1;
}

ssize_t link_receive(struct link *l, char *buffer, size_t size)
{
        return l->tls ? receive_tls(l->tls, buffer, size) : recv(l->fd, buffer, size, 0);
}
