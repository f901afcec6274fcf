/* Links, addresses and routes by rtnetlink(7). */
#pragma once

#include "base/err.h"
#include "base/vec.h"
#include "net/nl.h"

#include <net/if.h>
#include <stdint.h>

/* The next hop inside. Nobody owns it: the static neighbour entry alone makes it reachable, so that the host answers
 * on no further address. */
#define LINK_GATEWAY UINT32_C(0xa9fe0101) /* 169.254.1.1 */
#define LINK_MTU_DEFAULT 1500
#define LINK_INSIDE "eth0"

struct link_pair {
        const char *name; /* on the host; inside it is LINK_INSIDE */
        int ns_fd;
        uint32_t address; /* inside, host byte order */
        uint32_t mtu, group;
        int ipv6_conf; /* the host's /proc/sys/net/ipv6/conf; -EBADF on a kernel without IPv6 */
};

int link_lo_up(struct nl *inside);

/* A veth pair between the namespace of `host` and that of `ns_fd` (`inside` is a socket in it), routed both ways, up.
 * -EEXIST when the name is taken. *ret is the index on the host. What was made is gone with the namespace. */
int link_make(struct nl *host, struct nl *inside, const struct link_pair *pair, int *ret, struct err *err);

int link_index(const char *name); /* in the caller's namespace; 0 if there is none */

/* Packets in both directions since the link was made. */
int link_packets(struct nl *host, int ifindex, uint64_t *ret);

/* MTU of the interface of the default route; LINK_MTU_DEFAULT without one. */
uint32_t link_uplink_mtu(struct nl *host);

struct link_info {
        int ifindex, peer; /* peer: index on the other side of a veth, else 0 */
        int32_t peer_nsid; /* id of the peer's namespace in this one, -1: none */
        uint32_t group;
        bool veth, bridge;
        char name[IFNAMSIZ];
};
struct link_list {
        VEC(struct link_info) found;
};
int link_list(struct nl *nl, struct link_list *ret);
void link_list_done(struct link_list *list);
#define auto_link_list __attribute__((cleanup(link_list_done))) struct link_list

int link_nsid(struct nl *nl, int ns_fd, int32_t *ret);       /* -1: it has none here */
int link_address(struct nl *nl, int ifindex, uint32_t *ret); /* its only IPv4 address; -ENOENT, -E2BIG */
int link_set_group(struct nl *nl, int ifindex, uint32_t group);

/* Removes all links of a group at once: one by one each would wait for the kernel's readers. */
int link_delete_group(struct nl *nl, uint32_t group);
