/* The host's resolvers, as tasks with a network get them: resolv.conf(5), of systemd-resolved its upstream file. */
#pragma once

#include "base/err.h"
#include "net/proto.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define RESOLV_SERVERS_MAX 8 /* more are left out; libc asks three */
#define RESOLV_ASKED_MAX 3

union resolv_address {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
};

/* The same server, and the same way to it. */
bool resolv_address_eq(const union resolv_address *a, const union resolv_address *b);

struct resolv_conf {
        uint32_t servers[RESOLV_SERVERS_MAX]; /* host byte order */
        size_t n;
        bool loopback;  /* it also names resolvers that only the host itself reaches */
        bool forwarded; /* servers[] is the forwarder alone: the file names none that a task could ask */
        union resolv_address asked[RESOLV_ASKED_MAX]; /* what the host's libc asks: port 53 of those, in order */
        size_t n_asked;
        size_t len;
        char text[NET_RESOLV_MAX]; /* resolv.conf of a task, not terminated */
};

/* Any input is understood; what is not, or has no use in a task (IPv6 servers, loopback ones, sortlist), is left out.
 * Where no server is left, tasks get `forwarder` (host byte order; 0: none). */
void resolv_parse(const char *data, size_t len, uint32_t forwarder, struct resolv_conf *ret);

struct resolv; /* the host's files, watched */

int resolv_new(uint32_t forwarder, struct resolv **ret, struct err *err);
void resolv_free(struct resolv *r);    /* accepts NULL */
int resolv_fd(const struct resolv *r); /* readable when they may have changed */

/* Reads them again; whether anything is different now. Cheap when they are untouched. */
bool resolv_update(struct resolv *r);
const struct resolv_conf *resolv_get(const struct resolv *r); /* peek */
