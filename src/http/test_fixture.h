/* For the tests of clients: a server with a socket of each kind, which does what the path says. */
#pragma once

#include "base/fd.h"
#include "http/server.h"
#include "http/tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct fixture {
        char dir[32], path[64], cert[64], key[64];
        char unix_host[80], tcp_host[64], tls_host[64], pin[HTTP_TLS_PIN_MAX];
        int tcp_port, tls_port, proxy_port;
        struct loop *loop;
        struct http_server *server;
        struct http_tls *tls;
        pthread_t thread;
        bool threaded;
        atomic_bool stop;
        unsigned gone, sent, ws_closed, ws_code, refused;
        size_t charge; /* of each piece of a body, where it is not 0 */
};

/* What a request has, by its path: /stream?n= answers so many bytes in pieces; /fd the file; /ws echoes; /pause reads
 * no more of the body than its first piece. */
struct fixture_call {
        size_t left, body;
        bool full;
};

#define FIXTURE_PIECE 10000
#define FIXTURE_FILE "the bytes of a file"

static inline void fixture_stream(struct http_request *r)
{
        static const char piece[FIXTURE_PIECE];
        struct fixture_call *call = http_data(r);

        while (call->left > 0) {
                size_t n = MIN(call->left, sizeof(piece));
                int e = http_stream_write(r, piece, n);

                if (e == -EAGAIN)
                        return;
                assert_int_equal(e, 0);
                call->left -= n;
        }
        assert_int_equal(http_stream_end(r), 0);
        assert_int_equal(http_stream_write(r, "x", 1), -EALREADY);
}

static inline void fixture_ws_message(struct http_ws *ws, bool text, const void *data, size_t len, void *arg)
{
        (void)arg;
        if (text && len == 5 && memcmp(data, "close", 5) == 0)
                http_ws_close(ws, 4000, "as you wish");
        else
                assert_true((text ? http_ws_send_text(ws, data, len) : http_ws_send_binary(ws, data, len)) >= 0);
}

static inline void fixture_ws_closed(struct http_ws *ws, unsigned code, void *arg)
{
        struct fixture *f = arg;

        (void)ws;
        f->ws_closed++;
        f->ws_code = code;
}

static inline void fixture_ws(struct http_request *r, struct fixture *f)
{
        static const struct http_ws_handler handler = { .message = fixture_ws_message, .closed = fixture_ws_closed };
        struct http_ws *ws = NULL;
        const char *why = "";
        int status = http_websocket_check(r, &why);

        if (status != 0) {
                assert_int_equal(http_websocket_accept(r, &handler, f, &ws), -EPROTO);
                assert_int_equal(http_reply(r, status, "text/plain", why, strlen(why)), 0);
                return;
        }
        assert_int_equal(http_websocket_accept(r, &handler, f, &ws), 0);
}

static inline void fixture_begin(struct http_request *r, void *data)
{
        (void)data;
        http_set_data(r, calloc(1, sizeof(struct fixture_call)));
        assert_int_equal(http_stream_begin(r, 200, NULL), -EINVAL);
}

static inline int fixture_body(struct http_request *r, const void *piece, size_t len, void *data)
{
        struct fixture_call *call = http_data(r);
        struct fixture *f = data;

        (void)piece;
        call->body += len;
        if (str_eq(http_path(r), "/pause"))
                http_body_pause(r);
        if (f->charge > 0 && http_body_charge(r, f->charge) < 0) {
                f->refused++;
                assert_int_equal(http_reply(r, 503, "text/plain", "full", 4), 0);
                return -ENOBUFS;
        }
        return 0;
}

static inline void fixture_end(struct http_request *r, void *data)
{
        struct fixture_call *call = http_data(r);
        const char *path = http_path(r), *n = http_query(r, "n"), *key = http_header(r, "Authorization");
        const char *extra = http_header(r, "X-Extra");
        struct fixture *f = data;
        auto_str text = STR_INIT;

        if (str_eq(path, "/never"))
                return;
        if (str_eq(path, "/ws")) {
                fixture_ws(r, f);
                return;
        }
        if (str_eq(path, "/stream")) {
                call->left = n ? strtoul(n, NULL, 10) : 0;
                assert_int_equal(http_stream_begin(r, 200, "text/x-stream"), 0);
                fixture_stream(r);
                return;
        }
        if (str_eq(path, "/cut")) {
                assert_int_equal(http_stream_begin(r, 200, "text/x-stream"), 0);
                assert_int_equal(http_stream_write(r, "some", 4), 0);
                http_stream_abort(r);
                return;
        }
        if (str_eq(path, "/fd")) {
                auto_fd fd = memfd_create("file", MFD_CLOEXEC);

                assert_int_equal(fd_write_all(fd, "skipped" FIXTURE_FILE "rest", 7 + strlen(FIXTURE_FILE) + 4), 0);
                assert_int_equal(http_reply_fd(r, 200, "text/x-file", TAKE_FD(fd), 7, strlen(FIXTURE_FILE)), 0);
                return;
        }
        (void)http_add_header(r, "X-Twice", "1");
        (void)http_add_header(r, "X-Twice", "2");
        (void)str_addf(&text, "%s %s from=%s tls=%d body=%zu key=%s extra=%s", http_method(r), path,
                       http_peer_address(r)->text, http_is_tls(r), call->body, key ? key : "-", extra ? extra : "-");
        (void)http_reply(r, n ? (int)strtol(n, NULL, 10) : 200, "text/x-echo", text.data, text.len);
}

static inline void fixture_gone(struct http_request *r, bool sent, void *data)
{
        struct fixture *f = data;

        f->gone++;
        f->sent += sent;
        free(http_data(r));
        http_set_data(r, NULL);
}

static inline void fixture_bad(struct http_request *r, int status, const char *why, void *data)
{
        (void)data;
        (void)http_reply(r, status, "text/plain", why, strlen(why));
}

static inline void fixture_drained(struct http_request *r, void *data)
{
        (void)data;
        fixture_stream(r);
}

/* IPv4 and IPv6 on a port of the kernel's choice. */
static inline int fixture_tcp(int *ret_port)
{
        struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
        socklen_t len = sizeof(address);
        int off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)), 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
        assert_int_equal(listen(fd, 64), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
        *ret_port = ntohs(address.sin6_port);
        return fd;
}

static inline void *fixture_serve(void *data)
{
        struct fixture *f = data;

        while (!atomic_load(&f->stop))
                (void)loop_turn(f->loop, 5, NULL);
        return NULL;
}

static inline void fixture_listen(struct fixture *f, struct http_tls *tls, bool proxy, int *ret_port)
{
        struct http_listen listen = { .fd = fixture_tcp(ret_port), .tls = tls, .proxy_protocol = proxy };
        struct err err = ERR_INIT;

        assert_int_equal(http_server_listen_with(f->server, &listen, &err), 0);
}

/* Threaded: for clients that block. */
static inline struct fixture *fixture_new(const struct http_config *config, bool threaded)
{
        static const struct http_handler handler = { fixture_begin, fixture_body, fixture_end,
                                                     fixture_gone,  fixture_bad,  fixture_drained };
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;
        int fd = -EBADF;

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-http-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
        (void)snprintf(f->cert, sizeof(f->cert), "%s/cert.pem", f->dir);
        (void)snprintf(f->key, sizeof(f->key), "%s/key.pem", f->dir);
        assert_int_equal(http_tls_make_self_signed("mayfly.example", f->cert, f->key, &err), 0);
        assert_int_equal(http_tls_new_from_files(f->cert, f->key, &f->tls, &err), 0);
        http_tls_pin(f->tls, f->pin);
        assert_int_equal(loop_new(&f->loop, &err), 0);
        assert_int_equal(http_server_new(f->loop, config, &handler, f, &f->server, &err), 0);
        assert_int_equal(fd_listen_unix(f->path, SOCK_STREAM, (uid_t)-1, (gid_t)-1, 0600, &fd, &err), 0);
        assert_int_equal(http_server_listen(f->server, fd, &err), 0);
        fixture_listen(f, NULL, false, &f->tcp_port);
        fixture_listen(f, f->tls, false, &f->tls_port);
        fixture_listen(f, NULL, true, &f->proxy_port);
        (void)snprintf(f->unix_host, sizeof(f->unix_host), "unix://%s", f->path);
        (void)snprintf(f->tcp_host, sizeof(f->tcp_host), "http://127.0.0.1:%d", f->tcp_port);
        (void)snprintf(f->tls_host, sizeof(f->tls_host), "https://localhost:%d", f->tls_port);
        f->threaded = threaded;
        if (threaded)
                assert_int_equal(pthread_create(&f->thread, NULL, fixture_serve, f), 0);
        return f;
}

static inline void fixture_free(struct fixture *f)
{
        atomic_store(&f->stop, true);
        if (f->threaded)
                assert_int_equal(pthread_join(f->thread, NULL), 0);
        http_server_free(f->server);
        http_tls_free(f->tls);
        /* What the server owed to the loop. */
        (void)loop_turn(f->loop, 0, NULL);
        loop_free(f->loop);
        (void)unlink(f->path);
        (void)unlink(f->cert);
        (void)unlink(f->key);
        assert_int_equal(rmdir(f->dir), 0);
        free(f);
}
