/* A connection of packets with descriptors to one of our own programs (launcher, netd), which comes back after a loss:
 * connects again with a growing delay, queues what the socket does not take at once. */
#pragma once

#include "base/err.h"
#include "base/list.h"
#include "loop/loop.h"

#include <stddef.h>

#define PEER_DELAY_MIN_MS 10
#define PEER_DELAY_MAX_MS 1000
#define PEER_OUT_MAX (64 * 1024 * 1024) /* bytes that wait to be sent */
#define PEER_PACKET_MAX (96 * 1024)

struct peer;

struct peer_ops {
        void (*connected)(struct peer *p, void *data);
        /* Descriptors that are taken are replaced by -EBADF; the others are closed. peer_drop() is allowed. */
        void (*packet)(struct peer *p, const void *packet, size_t len, int *fds, size_t n_fds, void *data);
        void (*closed)(struct peer *p, void *data); /* it was connected; it will try again */
};

struct peer {
        struct loop *loop;
        char *path;
        const struct peer_ops *ops;
        void *data;
        int fd;
        struct loop_io *io;
        struct loop_timer retry, rest;
        unsigned delay_ms;
        struct list out; /* struct packet */
        size_t out_bytes;
        char *buffer; /* PEER_PACKET_MAX bytes */
};

/* The first attempt to connect is made on the next turn. */
int peer_init(struct peer *p, struct loop *loop, const char *path, const struct peer_ops *ops, void *data,
              struct err *err);
void peer_done(struct peer *p); /* accepts a zeroed one; no callback */

/* Descriptors are borrowed. -ENOTCONN; -EAGAIN when too much waits. A connection that breaks reports itself by closed(),
 * on a later turn. */
int peer_send(struct peer *p, const void *packet, size_t len, const int *fds, size_t n_fds, struct err *err);

/* The other side is healthy: the next loss starts with the shortest delay. */
void peer_settled(struct peer *p);

/* Gives the connection up (a message that makes no sense); closed() is called from within. */
void peer_drop(struct peer *p);
