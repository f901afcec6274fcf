/* Addresses of clients, the networks of trusted proxies, and what proxies say of whom they speak for: X-Forwarded-For, and
 * the PROXY protocol versions 1 and 2 (HAProxy's proxy-protocol.txt). */
#pragma once

#include "base/err.h"
#include "http/server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Textual IPv4 or IPv6, without port, brackets or zone. -EINVAL. */
int http_address_parse(const char *text, struct http_address *ret);
void http_address_from_sockaddr(const struct sockaddr_storage *from, struct http_address *ret); /* else AF_UNIX */

/* What limits per address count as one: an IPv4 address, or an IPv6 /64. Empty for AF_UNIX. */
#define HTTP_ADDRESS_KEY_MAX 48
void http_address_key(const struct http_address *a, char out[HTTP_ADDRESS_KEY_MAX]);

struct http_network {
        struct http_address address;
        unsigned bits;
};

/* "192.0.2.0/24", "2001:db8::/32", or one address. -EINVAL; bits below the mask must be 0. */
int http_network_parse(const char *text, struct http_network *ret);
bool http_network_has(const struct http_network *networks, size_t n, const struct http_address *a);

/* The client that the lines of X-Forwarded-For (in the order of the request) name to somebody who trusts the given networks:
 * the rightmost address that is not in one of them; or the leftmost that can be read, where all are. Leaves *ret alone where
 * there is none: it is the proxy's address before. */
void http_forwarded_for(const char *const *lines, size_t n_lines, const struct http_network *trusted, size_t n_trusted,
                        struct http_address *ret);

/* A version 1 header has at most 107 bytes; this bounds what a version 2 header may say besides addresses. */
#define HTTP_PROXY_MAX 2048

/* The bytes of the header at the beginning of data; 0: all given bytes belong to it and more are needed; -EINVAL: it is none.
 * *ret is set only where the header names an address (not LOCAL, UNKNOWN, nor another family than TCP over IPv4 and IPv6). */
ssize_t http_proxy_parse(const void *data, size_t len, struct http_address *ret);
