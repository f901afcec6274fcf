/* Netlink requests in batches, built with libmnl. A socket belongs to the network namespace in which it was opened
 * (netlink(7)). Every request is answered by the kernel before send() returns, so that nothing here waits. */
#pragma once

#include "base/err.h"

#include <libmnl/libmnl.h>
#include <stddef.h>
#include <stdint.h>

#define NL_BATCH_MAX 16384
#define NL_REQUEST_MAX 1024 /* one request with its attributes */

struct nl {
        int fd;
        uint32_t seq;          /* of the last request */
        uint32_t first;        /* of the batch */
        size_t start;          /* of the last request in the batch */
        struct nlmsghdr *last; /* NULL while the batch is empty */
        char batch[NL_BATCH_MAX] __attribute__((aligned(8)));
};

/* `bus` is NETLINK_ROUTE and its like. The socket is made in the namespace that the thread is in. */
int nl_init(struct nl *nl, int bus, struct err *err);
void nl_done(struct nl *nl);
#define auto_nl __attribute__((cleanup(nl_done))) struct nl

/* Adds a request with its family header of `len` bytes to the batch; attributes follow by mnl_attr_put*(), at most
 * NL_REQUEST_MAX bytes in all. Peek: valid until the next call. */
struct nlmsghdr *nl_put(struct nl *nl, uint16_t type, uint16_t flags, const void *header, size_t len);
int nl_room(const struct nl *nl); /* 0 when the batch takes no further request */

/* Sends the batch and empties it. `fn` (may be NULL) gets every answer that is no acknowledgement; what it answers
 * below 0 ends up as the result. All requests are tried; the first error is answered (-errno, no text in it). */
typedef int (*nl_fn)(const struct nlmsghdr *answer, void *data);
int nl_run(struct nl *nl, nl_fn fn, void *data);

/* As nl_run() for one dump request; -EINTR when the dump was not consistent and has to be asked for again. */
int nl_dump(struct nl *nl, nl_fn fn, void *data);

/* Attributes of a message after its family header, or of a nest, by type; those above `max` are left out. */
void nl_attrs(const struct nlmsghdr *msg, size_t header, const struct nlattr **table, size_t max);
void nl_nested(const struct nlattr *nest, const struct nlattr **table, size_t max);

/* Payload of an attribute that has at least that size, else the fallback. */
uint32_t nl_u32(const struct nlattr *attr, uint32_t fallback);
const char *nl_text(const struct nlattr *attr); /* NULL if absent or not terminated */
