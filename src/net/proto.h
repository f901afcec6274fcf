/* The protocol between mayflyd and mayfly-netd: SOCK_SEQPACKET, one message a packet, descriptors by SCM_RIGHTS. One peer
 * at a time, of the uid given at the start (the next one waits in the listener's queue); a malformed message closes the
 * connection.
 *
 *     HELLO ──▶ ◀── HELLO, RESOLV (again whenever it changes)
 *     ADOPT × n ──▶ ◀── CLEANED each (ok 1: it is ours again)   namespaces in use from before a restart of either side
 *               ◀── NOTICE                  again whenever it changes: what stands in the way of tasks
 *     SYNCED ──▶                            links and addresses that nobody adopted are removed
 *     ACQUIRE ──▶ ◀── NETNS × count         fresh ones, from the pool or made now; FAILED stands for the last `count`
 *     CLEAN ──▶ ◀── CLEANED                 after the last process: fit for its owner's next task, or gone
 *     DROP ──▶                              not wanted any more
 *
 * What the daemon holds dies with its descriptors: a namespace of which no descriptor and no process is left takes its
 * link with it. When the connection ends, netd forgets what it handed out, until it is adopted. Requests are answered in
 * their order; CLEAN of an index that netd does not know is answered by ok 0, DROP of one does nothing. */
#pragma once

#include <stdint.h>

#define NET_VERSION 2
#define NET_RESOLV_MAX 2048
#define NET_NOTICE_MAX 1024
#define NET_ACQUIRE_MAX 64

enum net_mode { NET_NONE = 1, NET_NAT, NET_INTERNET };

enum net_op {
        NET_OP_HELLO = 1,
        NET_OP_ADOPT,
        NET_OP_SYNCED,
        NET_OP_ACQUIRE,
        NET_OP_CLEAN,
        NET_OP_DROP,
        NET_OP_RESOLV = 64,
        NET_OP_NETNS,
        NET_OP_CLEANED,
        NET_OP_FAILED,
        NET_OP_NOTICE,
};

/* Every packet is one of these; unused members are 0. RESOLV is followed by `len` bytes: the resolv.conf of a task that
 * has a network; NOTICE likewise by a text for people, one line; without one all is well. NETNS carries one descriptor, ADOPT likewise (CLOEXEC). */
struct net_msg {
        uint32_t op;
        uint32_t seq;     /* the daemon's; repeated in the answer */
        uint32_t version; /* HELLO */
        uint32_t mode;    /* enum net_mode */
        uint32_t index;   /* names the namespace; netd's */
        uint32_t count;   /* ACQUIRE: 1 to NET_ACQUIRE_MAX; FAILED: how many it stands for */
        uint32_t address; /* IPv4 inside, network byte order; 0 for NET_NONE */
        uint32_t ok;      /* CLEANED: 1 if it may be used again, 0 if it is gone (close the descriptor) */
        int32_t error;    /* FAILED: positive errno */
        uint32_t len;     /* RESOLV, NOTICE */
};
