/* Network namespaces: making one, entering one, looking at one. Only the calling thread moves. */
#pragma once

#include "base/err.h"

#include <stdint.h>

/* Sysctls that are compared before a namespace is used again. A task cannot write any: its /proc/sys is read-only and
 * the namespace belongs to the host's user namespace; these are what Mayfly itself sets. */
#define NS_KNOBS 2

struct ns_fds {
        int ns;
        int sockstat; /* /proc/net/sockstat of the namespace */
        int knobs[NS_KNOBS];
};
#define NS_FDS_INIT                                                                                                    \
        {                                                                                                              \
                .ns = -EBADF, .sockstat = -EBADF, .knobs = { -EBADF, -EBADF }                                          \
        }

void ns_fds_done(struct ns_fds *fds);
#define auto_ns_fds __attribute__((cleanup(ns_fds_done))) struct ns_fds

/* Where namespaces are made from. `nursery` is an otherwise empty namespace whose children get a small TCP hash table
 * of their own (tcp_child_ehash_entries, Linux 6.1): to look for what is left in one then costs a hundredth. */
struct ns_home {
        int home, nursery;
        uint32_t id_lo, id_hi; /* the host's group ids that may send pings from inside */
};
int ns_home_init(struct ns_home *h, uint32_t id_lo, uint32_t id_hi, struct err *err);
void ns_home_done(struct ns_home *h);

/* Runs fn inside and comes back; what fn answers, or -errno if it could not enter. Ends the program if it cannot come
 * back, as whatever followed would go to the wrong namespace. */
int ns_inside(const struct ns_home *h, int ns_fd, int (*fn)(void *data, struct err *err), void *data, struct err *err);

/* A new namespace with our sysctls set; fn runs inside it at the end (to open sockets). Links are still down. */
int ns_make(const struct ns_home *h, int (*fn)(void *data, struct err *err), void *data, struct ns_fds *ret,
            struct err *err);

/* Opens the files of `ns_fd`, which is taken (also on failure). Refused (-EPERM) is what is no network namespace, is
 * ours, or belongs to another user namespace: none of those was ever made here. */
int ns_open(const struct ns_home *h, int ns_fd, struct ns_fds *ret, struct err *err);

/* 1 if all sysctls still are what they were set to, 0 if not, -errno. */
int ns_knobs_intact(const struct ns_home *h, const struct ns_fds *fds);

/* Forgets learned path MTUs and redirects. Called inside. */
int ns_flush_routes(void *unused, struct err *err);
