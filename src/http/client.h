/* HTTP client of the command: one blocking request at a time, over a unix socket or ssh (own code, so that a command starts
 * in a millisecond), http or https (libcurl, loaded at the first request; no redirects). */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_client;

struct http_client_options {
        const char *host;   /* unix:///path, http://…, https://…, ssh://[user@]host[:port] */
        const char *key;    /* "id:secret" or NULL (sent as Basic) */
        const char *cacert; /* https: PEM file to trust instead of the system's; NULL: the system's */
        /* https: "sha256//…" of the only public key to trust, whoever signed it (http/tls.h); NULL: none. */
        const char *pin;
        /* ssh: what runs there, and speaks HTTP on stdin and stdout, NULL-terminated; NULL: `mayfly dial-stdio`. Words are
         * quoted for the shell at the other end. */
        const char *const *ssh_command;
};

/* All is copied. -EINVAL: not such a host. */
int http_client_open(const struct http_client_options *options, struct http_client **ret, struct err *err);
int http_client_new(const char *host, const char *key, struct http_client **ret, struct err *err);
void http_client_free(struct http_client *c);

struct http_answer {
        long status;
        char content_type[128];
        char location[512];
        struct str body;
};
void http_answer_done(struct http_answer *a);
#define auto_answer __attribute__((cleanup(http_answer_done))) struct http_answer

struct http_client_request {
        const char *method, *path; /* path with query, encoded */
        const char *content_type;  /* NULL: none */
        const void *body;          /* in memory… */
        size_t body_len;
        int body_fd;                /* …or streamed from a descriptor if >= 0 (chunked unless a regular file) */
        const char *const *headers; /* "Name: value", NULL-terminated, or NULL; -EINVAL with a line break in one */
        size_t max_answer;          /* bytes; 0: 1 GiB */
        void (*progress)(uint64_t sent, void *data); /* NULL: none */
        void *progress_data;
        const volatile int *abort; /* non-zero ends the request: -ECANCELED */
        /* Takes the body of an answer below 300 piece by piece, as it comes; other bodies are collected. -errno ends the
         * request with that. NULL: all is collected. */
        int (*on_data)(const void *data, size_t len, void *arg);
        void *on_data_arg;
};

/* Blocks. 0 with any status that the server gave; -ECONNREFUSED, -ENOENT (no socket), -EACCES, -errno otherwise. */
int http_client_do(struct http_client *c, const struct http_client_request *request, struct http_answer *ret,
                   struct err *err);

/* Percent-encodes one path segment or query value (RFC 3986 unreserved kept). */
int http_encode(struct str *out, const char *text);

/* ── WebSocket (RFC 6455) ──────────────────────────────────────────────────────────────────────────────────────────── */

struct http_ws_client;

struct http_ws_client_handler {
        /* From within http_ws_client_pump(). -errno ends the connection, and is what pump answers. */
        int (*message)(bool text, const void *data, size_t len, void *arg);
        size_t max_message; /* 0: 16 MiB */
};

/* Blocks until the server has answered. Where it does not upgrade: -EPROTO, and its answer in *refused. headers as in a
 * request, or NULL. Connections of their own: c may be freed, and used otherwise. */
int http_ws_client_open(struct http_client *c, const char *path, const char *const *headers,
                        const struct http_ws_client_handler *handler, void *arg, struct http_ws_client **ret,
                        struct http_answer *refused, struct err *err);
void http_ws_client_free(struct http_ws_client *w); /* accepts NULL */

/* For poll(2): pump once at first, then wait for these events on it, then pump again. It does not block. */
int http_ws_client_fd(const struct http_ws_client *w);
short http_ws_client_events(const struct http_ws_client *w);
/* 1 while it is open; 0 after an orderly close; -ECONNRESET without one; -errno. */
int http_ws_client_pump(struct http_ws_client *w, struct err *err);

/* Copies into the queue, which pump empties; watch http_ws_client_pending(), and read no more input while it is high. */
int http_ws_client_send(struct http_ws_client *w, bool text, const void *data, size_t len);
size_t http_ws_client_pending(const struct http_ws_client *w);
int http_ws_client_close(struct http_ws_client *w, unsigned code); /* pump until it answers 0 */
unsigned http_ws_client_code(const struct http_ws_client *w);      /* the peer's; 1005: none; 1006: not closed */
