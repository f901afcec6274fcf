/* Relays DNS between tasks and the resolvers that only the host can ask: RFC 1035 over UDP and TCP, message by message.
 * Nothing is kept or made up but the answer that a question failed.
 *
 * What tasks send is hostile: each of them has a share of the questions and connections, everything has a time limit, and
 * one thread with fixed tables does it all. */
#pragma once

#include "base/err.h"
#include "net/resolv.h"

#include <stdint.h>

#define DNS_UDP_MAX 512 /* questions by UDP in flight; the task with the most loses one to a newcomer */
#define DNS_UDP_PER_TASK 64
#define DNS_TCP_MAX 128 /* connections, likewise */
#define DNS_TCP_PER_TASK 16

#define DNS_TRY_MS 2500      /* for a server's answer, before the next one is asked */
#define DNS_LAST_TRY_MS 5000 /* for the last one */
#define DNS_ROUNDS 2         /* how often each server is asked */
#define DNS_TCP_MS 10000     /* for an idle connection, and for one answer */

struct dns_conf {
        uint32_t base, size; /* addresses of tasks, host byte order: none else is answered */
        uint32_t address;    /* our own one among them */
        int udp, tcp;        /* bound to it; taken */
};

struct dns;

/* Borrows `resolv`, whose servers are asked. Takes the sockets, also on failure. */
int dns_new(const struct dns_conf *conf, struct resolv *resolv, struct dns **ret, struct err *err);
void dns_free(struct dns *d); /* accepts NULL */

/* Waits for one thing to happen, on ours or on `stop_fd`, and deals with it. 1: stop_fd is readable. */
int dns_turn(struct dns *d, struct err *err);
int dns_watch_stop(struct dns *d, int stop_fd, struct err *err);
