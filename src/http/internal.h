/* What the files of the server share. */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "http/address.h"
#include "http/head.h"
#include "http/server.h"
#include "http/tls.h"

#include <microhttpd.h>
#include <openssl/types.h>

/* What one address (or one uid of a unix socket) holds. */
struct http_source {
        struct http_server *server;
        unsigned refs;
        uint64_t connections, body_bytes;
        char key[HTTP_ADDRESS_KEY_MAX];
};

/* A running libmicrohttpd, one for each listener. */
struct http_parser {
        struct http_listener *listener;
        struct MHD_Daemon *daemon;
        struct loop_io *io;
        struct loop_timer timer;
        struct list conns, hung_up; /* connections; those whose client has ended its side */
        struct http_conn *added;    /* the connection that it is being given */
        bool dirty;                 /* connections were resumed: run before the loop sleeps */
};

struct http_listener {
        struct http_server *server;
        int fd;
        struct loop_io *io;
        struct http_tls *tls;
        bool proxy_protocol;
        bool accepting;    /* and the parser runs after it */
        struct list node;  /* of server->listeners */
        struct list early; /* connections that the parser does not have yet */
        struct http_parser *parser;
};

struct http_server {
        struct loop *loop;
        struct http_handler handler;
        void *data;
        struct http_config config;
        struct http_network *trusted;
        size_t n_trusted;
        struct list listeners;
        struct list idle;     /* connections without a request, the one that waits longest first */
        struct list busy;     /* the others, those with a WebSocket excepted */
        struct list ws_dirty; /* WebSockets with something to do before the loop sleeps */
        struct list links;    /* connections that the parser has closed, and TLS has not */
        struct list hung;     /* requests that wait although their client has gone */
        struct loop_timer idle_timer, busy_timer, accept_timer;
        int hangup_fd; /* epoll: EPOLLRDHUP of every connection, edge-triggered */
        struct loop_io *hangup_io;
        struct map *sources; /* struct http_source by key */
        uint64_t connections, body_bytes, reply_bytes;
        int fds_owed;       /* that TLS will take when the handshakes under way are done */
        uint64_t looked_ns; /* the last look at the busy ones */
        bool few_fds;       /* the last connection took one of the last descriptors */
        bool accept_rest;   /* nothing is accepted until accept_timer, or the end of a connection */
        size_t open;
        bool deferred, closed;
};

struct http_conn {
        struct http_server *server;
        struct http_listener *listener;
        struct http_parser *parser;
        struct MHD_Connection *mhd; /* NULL: its PROXY header or TLS handshake is on its way */
        struct http_request *request;
        struct http_ws *ws;         /* NULL: none */
        struct http_source *source; /* NULL: not limited */
        struct list node;           /* of parser->conns, or of listener->early */
        struct list watch_node;     /* of server->idle or server->busy */
        struct list hung_node;      /* of parser->hung_up */
        uint64_t idle_since_ns;
        uint64_t progress, look_ns; /* bytes at the last look, and when that was; 0: none */
        uint64_t slow_ns;           /* since when it has been too slow; 0: it is not */
        int fd;                     /* the parser's; under TLS half of a pair */
        int net_fd;                 /* the client's */
        struct http_link *link;     /* NULL: no TLS */
        uid_t uid;
        struct http_address address;
        bool has_uid, is_hung_up, is_tls;
        bool is_trusted; /* it is a proxy that may say whom it speaks for */
        bool is_refused; /* one too many of its address */
        struct http_proxy_wait *proxy;
};

/* ── server.c ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

void http_server_defer(struct http_server *s);
void http_parser_run(struct http_parser *p);

/* ── accept.c ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_accept_start(struct http_listener *l, struct err *err);
void http_accept_stop(struct http_listener *l); /* closes the socket, and what has not been given to a parser */
void http_accept_wake(struct http_server *s);   /* accepts again, if it rested */
void http_conn_hand_over(struct http_conn *c);  /* to the parser, which owns the descriptor from then on */
void http_conn_drop(struct http_conn *c);       /* one that the parser does not have */
void http_conn_end(struct http_conn *c);        /* the parser has closed it */
void http_conn_release(struct http_conn *c);    /* counted no more; frees it */
void http_conn_kill(struct http_conn *c);       /* its end follows */

struct http_source *http_source_get(struct http_server *s, const char *key); /* counted; NULL: out of memory */
void http_source_put(struct http_source *source);                            /* accepts NULL */
/* Whose bodies this request's body belongs to: counted; NULL: out of memory. */
struct http_source *http_body_source(struct http_request *r);
int http_budget_take(struct http_server *s, struct http_source *source, size_t bytes); /* -ENOBUFS */
void http_budget_give(struct http_server *s, struct http_source *source, size_t bytes);

/* ── watch.c ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

void http_conn_idle(struct http_conn *c); /* until its next head is complete */
void http_conn_busy(struct http_conn *c);
/* Ends up to n connections, those that deserve their place least. */
void http_server_evict(struct http_server *s, unsigned n);

/* ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

/*   HEAD ──▶ BODY ──▶ WAIT ──▶ SENDING ──▶ (gone)
 *     │        └──────────────────▲  └─────▶ UPGRADED: a WebSocket has its connection
 *     └──▶ REFUSED                          the handler knows of no request that is refused */
enum http_state { HTTP_HEAD, HTTP_BODY, HTTP_WAIT, HTTP_SENDING, HTTP_UPGRADED, HTTP_REFUSED };

/* An answer in pieces: the bytes from `at` to `len` wait. */
struct http_stream {
        char *data;
        size_t at, len, cap;
        bool ended, aborted, was_high;
};

struct http_request {
        struct http_conn *conn;
        struct http_server *server;
        enum http_state state;
        bool suspended;
        bool gone; /* told */
        bool close_after;
        bool body_paused;
        bool http_1_0;
        const char *method;
        const char *raw_target; /* in the parser's memory */
        size_t raw_target_len;
        struct http_target target;
        int target_error;
        const char *target_why;
        struct http_framing framing;
        struct http_address address;
        uint64_t received, dropped;
        struct http_source *source; /* whose body_bytes it has a part in */
        size_t charged;
        bool replied, early_sent;
        unsigned status;
        char *reply_type; /* NULL: none */
        char *reply;
        size_t reply_len;
        size_t reply_charged; /* of server->reply_bytes */
        int reply_fd;         /* -EBADF: none */
        uint64_t fd_offset, fd_len;
        struct http_stream *stream; /* NULL: none */
        struct http_ws *ws;         /* NULL: none; a handshake that is under way */
        struct {
                char *name, *value;
        } headers[12];
        size_t n_headers;
        struct list hung_node;
        void *data;
};

struct MHD_Daemon *http_parser_start(struct http_parser *p); /* exchange.c */

void http_request_free(struct http_request *r);
void http_request_tell_gone(struct http_request *r, bool sent);
void http_request_suspend(struct http_request *r);
void http_request_resume(struct http_request *r); /* the reply, or more of it, is there */
void http_request_hung_up(struct http_request *r);
int http_request_answered(struct http_request *r, int status, const char *content_type);

/* The parser's form of the reply, which takes the body; NULL: out of memory. */
struct MHD_Response *http_request_response(struct http_request *r);
struct MHD_Response *http_stream_response(struct http_request *r);
void http_stream_free(struct http_stream *s); /* accepts NULL */
struct MHD_Response *http_ws_response(struct http_request *r);

/* Writes the reply past the parser, which takes none while a body arrives, and announces that the connection closes. */
void http_request_send_early(struct http_request *r);

/* ── websocket.c ───────────────────────────────────────────────────────────────────────────────────────────────────── */

void http_ws_run_dirty(struct http_server *s);
void http_ws_end(struct http_ws *ws);     /* at once: tells closed(), and frees it */
void http_ws_orphan(struct http_ws *ws);  /* its request ended before its handshake; closed() follows */
void http_ws_hung_up(struct http_ws *ws); /* the peer has ended its side */

/* ── tls.c, link.c ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct http_tls {
        char *cert_path, *key_path;
        SSL_CTX *ctx;
        char pin[HTTP_TLS_PIN_MAX];
};

#define HTTP_LINK_FDS 2 /* beside the client's */

int http_link_start(struct http_conn *c);   /* calls http_conn_hand_over() later; -errno: drop it */
void http_link_detach(struct http_link *k); /* the parser has closed; it goes on with what is left, then releases */
void http_link_kill(struct http_link *k);
void http_link_end(struct http_link *k); /* at once */
bool http_link_unsent(const struct http_link *k);
