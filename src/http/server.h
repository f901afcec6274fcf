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
#include <sys/types.h>

struct http_server;
struct http_request;

/* Told of each request, on the loop, never from within another http function.
 *
 *   begin  headers are in. May reply already (what still comes of the body is dropped up to HTTP_DROP_MAX, then the
 *          connection closed; a client that waits for 100-continue gets the reply instead)
 *   body   a piece of the body; answers 0, or -errno after having replied: no more pieces are wanted. Not called after a
 *          reply
 *   end    the body is complete; reply now or later. Not called after a reply
 *   gone   the client hung up (a half-closed connection counts as such) or the server is closing before the reply was sent
 *          whole, or the reply was sent (sent); the last event; the request is freed when it returns
 *   bad    a request is refused by the server itself; replies (http_reply()), with Connection: close. No other event. NULL:
 *          an empty answer
 */
struct http_handler {
        void (*begin)(struct http_request *r, void *data);
        int (*body)(struct http_request *r, const void *piece, size_t len, void *data);
        void (*end)(struct http_request *r, void *data);
        void (*gone)(struct http_request *r, bool sent, void *data);
        void (*bad)(struct http_request *r, int status, const char *why, void *data);
};

#define HTTP_DROP_MAX (64 * 1024 * 1024)

struct http_config {
        uint64_t max_connections; /* 0: 4096; beyond them clients wait in the listen queue */
        unsigned idle_timeout_s;  /* 0: 60; between two reads or writes. A head must be complete within twice that */
        size_t max_header;        /* 0: 6 KiB for line and headers together (less if they are many): 414, 431 */
};

int http_server_new(struct loop *loop, const struct http_config *config, const struct http_handler *handler, void *data,
                    struct http_server **ret, struct err *err);
/* Takes a listening stream socket (unix or TCP). */
int http_server_listen(struct http_server *s, int fd, struct err *err);
void http_server_drain(struct http_server *s);        /* accepts no more; open requests go on */
size_t http_server_open(const struct http_server *s); /* requests not yet gone */
void http_server_free(struct http_server *s);         /* closes all; accepts NULL; not from within a handler */

/* Peeks, valid until gone(). The path starts with '/', or is "*"; its percent-encoding is decoded, but for %2F. */
const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r);
/* Decoded parameters of the query: the first of that name, the n-th (from 0) of that name, the i-th of all. */
const char *http_query(const struct http_request *r, const char *name);
const char *http_query_nth(const struct http_request *r, const char *name, size_t n);
bool http_query_at(const struct http_request *r, size_t i, const char **ret_name, const char **ret_value);
const char *http_header(const struct http_request *r, const char *name); /* NULL: absent */
bool http_peer_uid(const struct http_request *r, uid_t *ret);            /* unix sockets: SO_PEERCRED at accept */
bool http_has_body(const struct http_request *r);
int64_t http_content_length(const struct http_request *r); /* -1: unknown, or no body */
void http_set_data(struct http_request *r, void *data);
void *http_data(const struct http_request *r);

/* Before the reply: adds a header (copied). */
int http_add_header(struct http_request *r, const char *name, const char *value);
/* The whole answer; copies the body. Once: -EALREADY; -ECONNRESET if the connection is gone. HEAD gets the head of it.
 * Where memory does not suffice, it becomes an empty 503. */
int http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t len);
/* As http_reply(), takes the body's memory (malloc). */
int http_reply_take(struct http_request *r, int status, const char *content_type, char *body, size_t len);
/* Closes the connection after the reply; before the reply. */
void http_close_after(struct http_request *r);
