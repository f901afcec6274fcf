/* The host's connection tracking entries of tasks, by nfnetlink_conntrack. */
#pragma once

#include "net/nl.h"

#include <stdint.h>

/* Deletes all entries that `address` (host byte order) began. `nl` is a NETLINK_NETFILTER socket. 0 or -errno. */
int ct_flush(struct nl *nl, uint32_t address);

/* Calls fn with the source address of each IPv4 entry (host byte order), of any origin. */
int ct_sources(struct nl *nl, void (*fn)(uint32_t address, void *data), void *data);
