/* netd's side of net/proto.h: one peer at a time; the next one waits in the listener's queue. */
#pragma once

#include "base/err.h"
#include "net/pool.h"
#include "net/resolv.h"

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

struct server;

/* Takes `listener` (also on failure); borrows the others. Peers of another uid are closed at once. */
int server_new(int listener, uid_t peer_uid, struct pool *pool, const struct resolv *resolv, struct server **ret,
               struct err *err);
void server_free(struct server *s); /* accepts NULL */

struct pollfd server_poll(const struct server *s);  /* what it waits for now */
void server_ready(struct server *s, short revents); /* never blocks */
void server_resolv_changed(struct server *s);
void server_notice(struct server *s, const char *text); /* "": none; the peer, and later ones, are told */
