/* HTTP client of the daemon, on the loop: requests side by side, with connections kept for the next (libcurl). Only http and
 * https; redirects are answers like others, so that the caller decides what a new address may be told. */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

struct fetcher;
struct fetch;

struct fetcher_config {
        unsigned max_connections;          /* 0: 64; further requests wait */
        unsigned max_connections_per_host; /* 0: 16 */
};

int fetcher_new(struct loop *loop, const struct fetcher_config *config, struct fetcher **ret, struct err *err);
void fetcher_free(struct fetcher *f); /* cancels all; accepts NULL; not from within a callback */

/* On the loop, never from within another fetch function.
 *
 *   head  status and headers of the answer are in (1xx are not told). NULL: none
 *   data  a piece of its body. 0; FETCH_PAUSE: not taken, told again after fetch_resume(); -errno ends the request with that
 *   send  fills up to max bytes of the request's body: the number, 0 at its end, FETCH_PAUSE (until fetch_resume_send()),
 *         -errno
 *   done  the last event: 0 with any status, or -errno with the text in err: -ETIMEDOUT (connect, stall, total),
 *         -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH (name), -EKEYREJECTED (the server's certificate is not trusted),
 *         -EPROTO (no TLS, no HTTP), -EPERM (address() refused), -EMSGSIZE (headers beyond max_header), -errno. The fetch
 *         is freed when it returns
 *   address  whether this address may be connected to; asked of each before, not of connections that are kept. NULL: any
 */
#define FETCH_PAUSE (-EAGAIN)
struct fetch_handler {
        void (*head)(struct fetch *f, unsigned status, void *arg);
        int (*data)(struct fetch *f, const void *data, size_t len, void *arg);
        ssize_t (*send)(struct fetch *f, void *buf, size_t max, void *arg);
        void (*done)(struct fetch *f, int result, const struct err *err, void *arg);
        bool (*address)(const struct sockaddr *address, void *arg);
};

/* All is copied; zero and NULL are the defaults. */
struct fetch_request {
        const char *method, *url;   /* NULL: GET; http:// or https://, without userinfo */
        const char *unix_socket;    /* path to connect to instead of the URL's authority */
        const char *const *headers; /* "Name: value", NULL-terminated */
        const void *body;
        size_t body_len;
        bool has_send;                        /* the body comes from handler.send… */
        int64_t send_length;                  /* …with this length; -1: chunked */
        const char *cacert, *capath;          /* PEM file, directory of hashed ones; NULL: the system's */
        const char *client_cert, *client_key; /* PEM files */
        const char *pin;                      /* "sha256//…": the only public key to trust, whoever signed it */
        const char *proxy;                    /* http://host:port; NULL: none, whatever the environment says */
        unsigned connect_timeout_ms;          /* 10 s */
        unsigned stall_bytes, stall_s;        /* slower than that many bytes/s for that long: 1 byte/s for 60 s */
        unsigned total_timeout_s;             /* none */
        bool keepalive;                       /* TCP asks after 30 s without a byte whether the server still lives */
        size_t max_header;                    /* 64 KiB for all of them */
};

int fetch_start(struct fetcher *fetcher, const struct fetch_request *request, const struct fetch_handler *handler,
                void *arg, struct fetch **ret, struct err *err);
void fetch_cancel(struct fetch *f); /* no further event, `done` neither; allowed within head, data and send */
void fetch_pause(struct fetch *f);  /* no more data; a piece may still come from within data */
void fetch_resume(struct fetch *f);
void fetch_resume_send(struct fetch *f);

/* Peeks, from head() until done() returns. Names without regard to case; the first, the n-th (from 0). */
unsigned fetch_status(const struct fetch *f);
const char *fetch_header(const struct fetch *f, const char *name);
const char *fetch_header_nth(const struct fetch *f, const char *name, size_t n);
