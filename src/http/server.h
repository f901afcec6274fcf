/* HTTP/1.1 server (RFC 9110, RFC 9112): libmicrohttpd driven by our loop. Its parser lets pass what could smuggle a second
 * request; the first callback refuses that: Content-Length together with Transfer-Encoding, two Content-Length, blanks
 * before a colon, NUL, bare LF or folded lines in the head, a Transfer-Encoding other than chunked (400 and close). Faults
 * that its own parser finds are answered by it, in HTML, or by closing. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

struct http_server;
struct http_request;
struct http_tls;
struct http_ws;

/* Told of each request, on the loop, never from within another http function.
 *
 *   begin  headers are in. May reply already (what still comes of the body is dropped up to HTTP_DROP_MAX, then the
 *          connection closed; a client that waits for 100-continue gets the reply instead)
 *   body   a piece of the body; answers 0, or -errno after having replied: no more pieces are wanted. Not called after a
 *          reply
 *   end    the body is complete; reply now or later. Not called after a reply
 *   gone   the client hung up (a half-closed connection counts as such) or the server is closing before the reply was sent
 *          whole, or the reply was sent (sent); the last event; the request is freed when it returns
 *   drained  of an answer that is streamed less than HTTP_STREAM_LOW bytes wait to be sent, after it was more. NULL: none
 *   bad    a request is refused by the server itself; replies (http_reply()), with Connection: close. No other event. NULL:
 *          an empty answer
 */
struct http_handler {
        void (*begin)(struct http_request *r, void *data);
        int (*body)(struct http_request *r, const void *piece, size_t len, void *data);
        void (*end)(struct http_request *r, void *data);
        void (*gone)(struct http_request *r, bool sent, void *data);
        void (*bad)(struct http_request *r, int status, const char *why, void *data);
        void (*drained)(struct http_request *r, void *data);
};

#define HTTP_DROP_MAX (64 * 1024 * 1024)

struct http_config {
        /* 0: 4096, and never so many that fewer than HTTP_FD_RESERVE descriptors would be left. When all are taken, the one
         * that has waited longest for its request is ended for the next, else one that sends or reads too slowly; else
         * clients wait in the listen queue. */
        uint64_t max_connections;
        /* 0: no limit. An IPv6 /64 counts as one; unix sockets and trusted proxies do not. The next one gets a 503 by bad()
         * and is closed; beyond twice the limit it is closed at once. */
        uint64_t max_per_address;
        /* 0: 60; between two reads or writes, but of a body by a unix socket. A head must be complete within twice that. */
        unsigned idle_timeout_s;
        size_t max_header; /* 0: 6 KiB for line and headers together (less if they are many): 414, 431 */
        size_t min_rate;   /* 0: 512 bytes/s, at which a body must come and an answer be read; slower for 30 s: ended */
        const char *const *trusted_proxies; /* CIDRs or addresses, NULL-terminated (copied); NULL: none */
        uint64_t body_budget;               /* 0: 512 MiB; see http_body_charge() */
        uint64_t body_budget_per_address;   /* 0: half of it */
        /* 0: 1 GiB; of long answers in memory that wait for their clients. One more than that becomes an empty 503, unless it is
         * the only one. */
        uint64_t reply_budget;
};

/* For the start of one task, beside what it is made of. */
#define HTTP_FD_RESERVE 24

/* -EINVAL: a proxy is no address. */
int http_server_new(struct loop *loop, const struct http_config *config, const struct http_handler *handler, void *data,
                    struct http_server **ret, struct err *err);

struct http_listen {
        int fd;               /* a listening stream socket (unix, TCP over IPv4, IPv6 or both), taken */
        struct http_tls *tls; /* borrowed until the server is freed; NULL: plain */
        bool proxy_protocol;  /* connections of trusted proxies begin with a PROXY header, version 1 or 2 (HAProxy,
                               * proxy-protocol.txt), and are closed where they do not; those of others have none */
};
int http_server_listen_with(struct http_server *s, const struct http_listen *listen, struct err *err);
/* Takes a listening stream socket; plain. */
int http_server_listen(struct http_server *s, int fd, struct err *err);
void http_server_drain(struct http_server *s); /* accepts no more; open requests go on */
/* Requests not yet gone, and under TLS answers that the kernel does not have whole yet. */
size_t http_server_open(const struct http_server *s);
void http_server_free(struct http_server *s); /* closes all; accepts NULL; not from within a handler */

/* Peeks, valid until gone(). The path starts with '/', or is "*"; its percent-encoding is decoded, but for %2F. */
const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r);
/* Decoded parameters of the query: the first of that name, the n-th (from 0) of that name, the i-th of all. */
const char *http_query(const struct http_request *r, const char *name);
const char *http_query_nth(const struct http_request *r, const char *name, size_t n);
bool http_query_at(const struct http_request *r, size_t i, const char **ret_name, const char **ret_value);
const char *http_header(const struct http_request *r, const char *name); /* NULL: absent */
bool http_peer_uid(const struct http_request *r, uid_t *ret);            /* unix sockets: SO_PEERCRED at accept */

struct http_address {
        sa_family_t family; /* AF_UNIX, AF_INET, AF_INET6; IPv4 in IPv6 is AF_INET */
        uint8_t bytes[16];  /* of the address; 4 of them for AF_INET; none for AF_UNIX */
        char text[48];      /* "192.0.2.1", "2001:db8::1", "unix" */
};
/* The client, not our proxy: where the connection comes from a trusted proxy, what its PROXY header says, and from there
 * on the rightmost address in X-Forwarded-For that is no trusted proxy. Valid until gone(). */
const struct http_address *http_peer_address(const struct http_request *r);
bool http_is_tls(const struct http_request *r); /* the connection to us; an X-Forwarded-Proto is not looked at */
/* False where a browser sends it for a page of another host (RFC 6454): such a request carries the credentials that the
 * browser has for us, and what the page asks for is not its user's wish. */
bool http_origin_is_ours(const struct http_request *r);
bool http_has_body(const struct http_request *r);
int64_t http_content_length(const struct http_request *r); /* -1: unknown, or no body */
void http_set_data(struct http_request *r, void *data);
void *http_data(const struct http_request *r);

/* Pauses the body from within body(), so that no more pieces come until it is resumed. A client that hangs up meanwhile is
 * told by gone(). */
void http_body_pause(struct http_request *r);
void http_body_resume(struct http_request *r);

/* Accounts for memory that is held for this request's body, of all requests together and of its address (a unix socket's
 * uid). 0, or -ENOBUFS where one of the budgets does not suffice: answer 503 with Retry-After. Given back by
 * http_body_release(), the rest after gone(). */
int http_body_charge(struct http_request *r, size_t bytes);
void http_body_release(struct http_request *r, size_t bytes);

/* Before the reply: adds a header (copied). */
int http_add_header(struct http_request *r, const char *name, const char *value);
/* The whole answer; copies the body. Once: -EALREADY; -ECONNRESET if the connection is gone. HEAD gets the head of it.
 * Where memory or reply_budget does not suffice, it becomes an empty 503 with Retry-After. */
int http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t len);
/* As http_reply(), takes the body's memory (malloc). */
int http_reply_take(struct http_request *r, int status, const char *content_type, char *body, size_t len);
/* Closes the connection after the reply; before the reply. */
void http_close_after(struct http_request *r);

/* The answer is the file's bytes from offset on (sendfile(2) on plain connections). Takes the descriptor, which must be of a
 * regular file or a memfd that keeps those bytes. As http_reply() otherwise. */
int http_reply_fd(struct http_request *r, int status, const char *content_type, int fd, uint64_t offset, uint64_t len);

/* ── answers in pieces ─────────────────────────────────────────────────────────────────────────────────────────────── */

#define HTTP_STREAM_MAX (256 * 1024) /* bytes that may wait to be sent */
#define HTTP_STREAM_LOW (64 * 1024)

/* In the place of http_reply(): the head of an answer of unknown length (chunked; HTTP/1.0: until the connection closes). Not
 * before end(): -EINVAL. A HEAD gets the head only. */
int http_stream_begin(struct http_request *r, int status, const char *content_type);
/* Copies. Takes all, or nothing: -EAGAIN where more than HTTP_STREAM_MAX would wait (a piece that is longer than that is
 * taken where nothing waits). -ECONNRESET after gone(), -EALREADY after the end. */
int http_stream_write(struct http_request *r, const void *data, size_t len);
size_t http_stream_pending(const struct http_request *r);
int http_stream_end(struct http_request *r);    /* gone() follows when all is sent */
void http_stream_abort(struct http_request *r); /* the client sees that the answer is cut short */

/* ── WebSocket (RFC 6455) ──────────────────────────────────────────────────────────────────────────────────────────── */

#define HTTP_WS_MAX (1024 * 1024) /* bytes that may wait to be sent */
#define HTTP_WS_LOW (256 * 1024)

/* On the loop, never from within another http function but for http_server_free(), which tells `closed`.
 *
 *   message  a whole message; text is checked UTF-8
 *   drained  less than HTTP_WS_LOW bytes wait to be sent, after it was more. NULL: none
 *   closed   the last event; code is the peer's, 1005 without one, 1006 where the connection ended without a close (a peer
 *            that answers no ping for 60 s among others); ws is freed when it returns
 */
struct http_ws_handler {
        void (*message)(struct http_ws *ws, bool text, const void *data, size_t len, void *arg);
        void (*drained)(struct http_ws *ws, void *arg);
        void (*closed)(struct http_ws *ws, unsigned code, void *arg);
        size_t max_message; /* 0: 1 MiB; a longer one is answered by close 1009 */
};

/* 0, or the status to refuse with, the reason in *why: 426 (the headers that belong to it are added), 400; 403 where Origin
 * names another host than Host does, so that no page of another site speaks for a browser's user. */
int http_websocket_check(struct http_request *r, const char **why);
/* In the place of http_reply(), from end() on. gone(sent) follows at once where the connection lives, and *ret goes on without
 * the request. -EPROTO where http_websocket_check() refuses. http_server_open() counts it. The handler is copied. */
int http_websocket_accept(struct http_request *r, const struct http_ws_handler *handler, void *arg,
                          struct http_ws **ret);
/* Copies. The bytes that now wait to be sent; -EAGAIN where more than HTTP_WS_MAX would wait (a message that is longer than
 * that is taken where nothing waits), -ESHUTDOWN after a close. */
ssize_t http_ws_send_text(struct http_ws *ws, const void *text, size_t len);
ssize_t http_ws_send_binary(struct http_ws *ws, const void *data, size_t len);
size_t http_ws_pending(const struct http_ws *ws);
/* Closes after what waits; closed() follows when the peer has answered, or after 10 s. reason: NULL or up to 123 bytes. */
void http_ws_close(struct http_ws *ws, unsigned code, const char *reason);
/* As http_body_charge(), for what is held of messages; given back by http_ws_release(), the rest after closed(). A message that
 * is coming is accounted for by itself, from 64 KiB on; where there is no room for it, the connection is closed, 1009. */
int http_ws_charge(struct http_ws *ws, size_t bytes);
void http_ws_release(struct http_ws *ws, size_t bytes);
void http_ws_pause(struct http_ws *ws); /* reads no more; a message that has begun may still come */
void http_ws_resume(struct http_ws *ws);
