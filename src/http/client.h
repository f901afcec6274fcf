/* HTTP client of the command: one blocking request at a time, over a unix socket, http or https (libcurl; only those
 * protocols, no redirects, no proxy for unix sockets). */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stddef.h>
#include <stdint.h>

struct http_client;

/* host: unix:///path, http://…, https://…; key: "id:secret" or NULL (sent as Basic). */
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
        const char *const *headers; /* "Name: value", NULL-terminated, or NULL */
        size_t max_answer;          /* bytes; 0: 1 GiB */
        void (*progress)(uint64_t sent, void *data); /* NULL: none */
        void *progress_data;
        const volatile int *abort; /* non-zero ends the request: -ECANCELED */
};

/* Blocks. 0 with any status that the server gave; -ECONNREFUSED, -ENOENT (no socket), -EACCES, -errno otherwise. */
int http_client_do(struct http_client *c, const struct http_client_request *request, struct http_answer *ret,
                   struct err *err);

/* Percent-encodes one path segment or query value (RFC 3986 unreserved kept). */
int http_encode(struct str *out, const char *text);
