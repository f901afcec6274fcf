/* The host's resolvers, as tasks with a network get them: resolv.conf(5), of systemd-resolved its upstream file. */
#pragma once

#include "base/err.h"
#include "net/proto.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESOLV_SERVERS_MAX 8 /* more are left out; libc asks three */

struct resolv_conf {
        uint32_t servers[RESOLV_SERVERS_MAX]; /* host byte order */
        size_t n;
        bool loopback; /* it also names resolvers that only the host itself reaches */
        size_t len;
        char text[NET_RESOLV_MAX]; /* resolv.conf of a task, not terminated */
};

/* Any input is understood; what is not, or has no use in a task (IPv6 servers, loopback ones, sortlist), is left out. */
void resolv_parse(const char *data, size_t len, struct resolv_conf *ret);

struct resolv; /* the host's files, watched */

int resolv_new(struct resolv **ret, struct err *err);
void resolv_free(struct resolv *r);    /* accepts NULL */
int resolv_fd(const struct resolv *r); /* readable when they may have changed */

/* Reads them again; whether anything is different now. Cheap when they are untouched. */
bool resolv_update(struct resolv *r);
const struct resolv_conf *resolv_get(const struct resolv *r); /* peek */
