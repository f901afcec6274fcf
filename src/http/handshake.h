/* The opening handshake of WebSocket (RFC 6455 section 4), as far as it is text. */
#pragma once

#include <stdbool.h>

struct http_handshake {
        const char *method;
        bool http_1_0;
        /* Of the request; NULL where a field is absent. */
        const char *upgrade, *connection, *key, *version, *origin, *host;
};

/* 0, or the status to refuse with: 426, 400, 403; the reason in *why. */
int http_handshake_check(const struct http_handshake *h, const char **why);

/* Whether Origin (RFC 6454), by which browsers tell which page speaks, names the host that Host does; also where it is NULL, as
 * of all others. */
bool http_origin_allowed(const char *origin, const char *host);

/* Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2). */
#define HTTP_ACCEPT_MAX 29
void http_handshake_accept(const char *key, char out[HTTP_ACCEPT_MAX]);

/* True if the comma-separated list (RFC 9110 section 5.6.1) has the token, without regard to case. */
bool http_list_has(const char *list, const char *token);
