/* What server.c and request.c share. */
#pragma once

#include "base/list.h"
#include "http/head.h"
#include "http/server.h"

#include <microhttpd.h>

struct http_listener {
        struct http_server *server;
        struct MHD_Daemon *daemon;
        struct loop_io *io;
        struct loop_timer timer;
        struct list node;           /* of server->listeners */
        struct list conns, hung_up; /* connections; those whose client has ended its side */
        bool dirty;                 /* connections were resumed: run before the loop sleeps */
        bool closed_one;            /* a connection ended in this run */
};

struct http_server {
        struct loop *loop;
        struct http_handler handler;
        void *data;
        struct http_config config;
        struct list listeners;
        struct list idle; /* connections without a request, the one that waits longest first */
        struct list hung; /* requests that wait although their client has gone */
        struct loop_timer idle_timer;
        int hangup_fd; /* epoll: EPOLLRDHUP of every connection, edge-triggered */
        struct loop_io *hangup_io;
        size_t open;
        bool deferred, closed;
};

struct http_conn {
        struct http_listener *listener;
        struct MHD_Connection *mhd;
        struct http_request *request;
        struct list node;      /* of listener->conns */
        struct list idle_node; /* of server->idle */
        struct list hung_node; /* of listener->hung_up */
        uint64_t idle_since_ns;
        int fd;
        uid_t uid;
        bool has_uid, is_hung_up;
};

/*   HEAD ──▶ BODY ──▶ WAIT ──▶ SENDING ──▶ (gone)
 *     │        └──────────────────▲
 *     └──▶ REFUSED                          the handler knows of no request that is refused */
enum http_state { HTTP_HEAD, HTTP_BODY, HTTP_WAIT, HTTP_SENDING, HTTP_REFUSED };

struct http_request {
        struct http_conn *conn;
        struct http_server *server;
        enum http_state state;
        bool suspended;
        bool gone; /* told */
        bool close_after;
        const char *method;
        const char *raw_target; /* in the parser's memory */
        size_t raw_target_len;
        struct http_target target;
        int target_error;
        const char *target_why;
        struct http_framing framing;
        uint64_t received, dropped;
        bool replied, early_sent;
        unsigned status;
        char *reply_type; /* NULL: none */
        char *reply;
        size_t reply_len;
        struct {
                char *name, *value;
        } headers[8];
        size_t n_headers;
        struct list hung_node;
        void *data;
};

void http_request_free(struct http_request *r);
void http_request_resume(struct http_request *r); /* server.c: the reply is there */

/* The parser's form of the reply, which takes the body; NULL: out of memory. */
struct MHD_Response *http_request_response(struct http_request *r);

/* Writes the reply past the parser, which takes none while a body arrives, and announces that the connection closes. */
void http_request_send_early(struct http_request *r);
