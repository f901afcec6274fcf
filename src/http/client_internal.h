/* What the files of the command's client share. */
#pragma once

#include "http/client.h"

#include <sys/types.h>

#define HTTP_ANSWER_MAX ((size_t)1 << 30)
#define HTTP_CONNECT_TIMEOUT_MS 10000

/* A connection over which we speak HTTP ourselves. */
struct http_own {
        int fd;    /* -EBADF: none */
        pid_t ssh; /* 0: none */
        struct str in;
        size_t at; /* what is read of it */
        bool used; /* an answer came over it before */
};

struct http_curl;

struct http_client {
        char *host;                                  /* as it was given, for messages */
        char *socket;                                /* path; NULL: not a unix socket */
        char *ssh_destination, *ssh_port, *ssh_line; /* NULL: not by ssh; no port */
        char *base;                                  /* of libcurl's: scheme and authority, no slash at the end */
        char *key, *cacert, *pin;
        struct http_own own;
        struct http_curl *curl; /* NULL: not loaded */
};

/* Where one answer goes. */
struct http_sink {
        const struct http_client_request *request;
        struct http_answer *answer;
        size_t max;
        int on_data_error; /* of on_data() */
        bool too_large, out_of_memory;
};
bool http_sink_take(struct http_sink *sink, const void *data, size_t len); /* false: end the transfer */
void http_sink_header(struct http_sink *sink, const char *line, size_t len);
int http_sink_failure(const struct http_sink *sink, const char *where, struct err *err); /* 0: it did not fail */

/* Nothing of a header may be another one, or the request's end. -EINVAL; accepts NULL. */
int http_headers_check(const char *const *headers, struct err *err);
/* Bytes of a request's body; UINT64_MAX: unknown. */
uint64_t http_body_size(const struct http_client_request *q);
bool http_aborted(const struct http_client_request *q);

/* ── client_own.c: unix sockets and ssh ────────────────────────────────────────────────────────────────────────────── */

int http_own_connect(const struct http_client *c, struct http_own *own, struct err *err);
void http_own_close(struct http_own *own);
int http_own_do(struct http_client *c, const struct http_client_request *q, struct http_sink *sink, struct err *err);
int http_own_authorization(const struct http_client *c, struct str *head);

/* The head of an answer at the beginning of data. The bytes of it, 0 (more is needed), -EPROTO. */
struct http_answer_head {
        long status;
        int64_t length; /* -1: none */
        bool chunked, close;
};
ssize_t http_answer_head_parse(const char *data, size_t len, struct http_answer_head *ret, struct http_sink *sink);

/* ── client_ssh.c ──────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_ssh_parse(const char *host, const char *const *command, struct http_client *c, struct err *err);
int http_ssh_start(const struct http_client *c, int *ret_fd, pid_t *ret_pid, struct err *err);

/* ── client_curl.c: TCP, with or without TLS ───────────────────────────────────────────────────────────────────────── */

int http_curl_do(struct http_client *c, const struct http_client_request *q, struct http_sink *sink, struct err *err);
void http_curl_free(struct http_curl *curl); /* accepts NULL */

/* A connection of its own, after TLS, for whatever shall be spoken over it. */
int http_curl_connect(struct http_client *c, struct http_curl **ret, int *ret_fd, struct err *err);
/* Bytes; 0 at the end; -EAGAIN; -errno. */
ssize_t http_curl_send(struct http_curl *curl, const void *data, size_t len);
ssize_t http_curl_recv(struct http_curl *curl, void *data, size_t len);
