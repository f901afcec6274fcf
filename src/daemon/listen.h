/* Addresses on the network where the API listens, as the configuration names them: `tcp://127.0.0.1:6293` is plain HTTP, and
 * allowed on loopback only; `https://0.0.0.0:6293` is TLS; `*` stands for all addresses, IPv4 and IPv6. Needs base only, so that
 * the supervisor binds them: ports below 1024 work, and a restart of the daemon loses no connection attempt. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <sys/socket.h>

#define LISTEN_PORT 6293 /* where none is named */
#define LISTEN_MAX 8     /* addresses in a configuration */

struct listen_address {
        bool tls;
        bool both; /* IPv4 and IPv6 by one socket */
        struct sockaddr_storage addr;
        socklen_t len;
        char text[80]; /* "https://0.0.0.0:6293" */
};

/* -EINVAL with a text for the user. */
int listen_parse(const char *text, struct listen_address *ret, struct err *err);
/* A configuration's list, "none" or separated by commas. *ret_n at most LISTEN_MAX; -EINVAL as above, or twice the same. */
int listen_parse_list(const char *list, struct listen_address ret[LISTEN_MAX], size_t *ret_n, struct err *err);

/* A listening socket, which the caller owns. */
int listen_bind(const struct listen_address *a, int *ret, struct err *err);

/* True if that socket is bound to the address. */
bool listen_matches(const struct listen_address *a, int fd);
/* True if only this machine reaches the socket: a unix socket, or bound to loopback. */
bool listen_is_local(int fd);
