#include "net/link.h"

#include "base/fd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <netinet/if_ether.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#define LO_INDEX 1
#define INSIDE_INDEX 2
#define DUMP_TRIES 8

/* Locally administered addresses: the host's side is the same everywhere, the other one holds the IPv4 address. */
static const uint8_t mac_host[ETH_ALEN] = { 0x02, 0x6d, 0x66, 0x00, 0x00, 0x01 };

static void mac_inside(uint32_t address, uint8_t out[ETH_ALEN])
{
        uint32_t be = htonl(address);

        out[0] = 0x02;
        out[1] = 0x6e;
        memcpy(out + 2, &be, sizeof(be));
}

static void put_up(struct nl *nl, int ifindex)
{
        struct ifinfomsg ifi = { .ifi_index = ifindex, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };

        (void)nl_put(nl, RTM_NEWLINK, 0, &ifi, sizeof(ifi));
}

int link_lo_up(struct nl *inside)
{
        put_up(inside, LO_INDEX);
        return nl_run(inside, NULL, NULL);
}

static void put_side(struct nlmsghdr *msg, const char *name, uint32_t mtu, const uint8_t mac[ETH_ALEN])
{
        mnl_attr_put_strz(msg, IFLA_IFNAME, name);
        mnl_attr_put_u32(msg, IFLA_MTU, mtu);
        mnl_attr_put(msg, IFLA_ADDRESS, ETH_ALEN, mac);
        /* By default there is a pair of queues for each processor, which only makes it dearer. */
        mnl_attr_put_u32(msg, IFLA_NUM_TX_QUEUES, 1);
        mnl_attr_put_u32(msg, IFLA_NUM_RX_QUEUES, 1);
}

static int make_pair(struct nl *host, const struct link_pair *pair)
{
        struct ifinfomsg ifi = { 0 }, peer = { .ifi_index = INSIDE_INDEX };
        struct nlattr *info, *data, *side;
        struct nlmsghdr *msg;
        uint8_t mac[ETH_ALEN];

        mac_inside(pair->address, mac);
        msg = nl_put(host, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifi, sizeof(ifi));
        put_side(msg, pair->name, pair->mtu, mac_host);
        mnl_attr_put_u32(msg, IFLA_GROUP, pair->group);
        info = mnl_attr_nest_start(msg, IFLA_LINKINFO);
        mnl_attr_put_strz(msg, IFLA_INFO_KIND, "veth");
        data = mnl_attr_nest_start(msg, IFLA_INFO_DATA);
        side = mnl_attr_nest_start(msg, VETH_INFO_PEER);
        memcpy(mnl_nlmsg_put_extra_header(msg, sizeof(peer)), &peer, sizeof(peer));
        put_side(msg, LINK_INSIDE, pair->mtu, mac);
        mnl_attr_put_u32(msg, IFLA_NET_NS_FD, (uint32_t)pair->ns_fd);
        mnl_attr_nest_end(msg, side);
        mnl_attr_nest_end(msg, data);
        mnl_attr_nest_end(msg, info);
        return nl_run(host, NULL, NULL);
}

/* While it is still down: what the host believes from this link. */
static void put_host_conf(struct nl *host, int ifindex)
{
        static const struct {
                uint16_t conf;
                uint32_t value;
        } v4[] = {
                { IPV4_DEVCONF_FORWARDING, 1 },       { IPV4_DEVCONF_RP_FILTER, 1 },
                { IPV4_DEVCONF_SEND_REDIRECTS, 0 },   { IPV4_DEVCONF_ACCEPT_REDIRECTS, 0 },
                { IPV4_DEVCONF_SECURE_REDIRECTS, 0 }, { IPV4_DEVCONF_ACCEPT_SOURCE_ROUTE, 0 },
                { IPV4_DEVCONF_ACCEPT_LOCAL, 0 },     { IPV4_DEVCONF_ROUTE_LOCALNET, 0 },
                { IPV4_DEVCONF_PROXY_ARP, 0 },        { IPV4_DEVCONF_ARP_IGNORE, 8 }, /* answers for no address */
        };
        struct ifinfomsg ifi = { .ifi_index = ifindex };
        struct nlmsghdr *msg = nl_put(host, RTM_SETLINK, 0, &ifi, sizeof(ifi));
        struct nlattr *spec = mnl_attr_nest_start(msg, IFLA_AF_SPEC);
        struct nlattr *inet = mnl_attr_nest_start(msg, AF_INET);
        struct nlattr *conf = mnl_attr_nest_start(msg, IFLA_INET_CONF);

        for (size_t i = 0; i < ARRAY_LEN(v4); i++)
                mnl_attr_put_u32(msg, v4[i].conf, v4[i].value);
        mnl_attr_nest_end(msg, conf);
        mnl_attr_nest_end(msg, inet);
        mnl_attr_nest_end(msg, spec);
}

static void put_route(struct nl *nl, struct rtmsg rtm, uint32_t dst, uint32_t via, int ifindex)
{
        struct nlmsghdr *msg;

        rtm.rtm_family = AF_INET;
        rtm.rtm_table = RT_TABLE_MAIN;
        rtm.rtm_protocol = RTPROT_STATIC;
        rtm.rtm_type = RTN_UNICAST;
        msg = nl_put(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &rtm, sizeof(rtm));
        if (rtm.rtm_dst_len > 0)
                mnl_attr_put_u32(msg, RTA_DST, htonl(dst));
        if (via)
                mnl_attr_put_u32(msg, RTA_GATEWAY, htonl(via));
        mnl_attr_put_u32(msg, RTA_OIF, (uint32_t)ifindex);
}

static void put_neighbour(struct nl *nl, int ifindex, uint32_t address, const uint8_t mac[ETH_ALEN])
{
        struct ndmsg ndm = { .ndm_family = AF_INET, .ndm_ifindex = ifindex, .ndm_state = NUD_PERMANENT };
        struct nlmsghdr *msg = nl_put(nl, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &ndm, sizeof(ndm));

        mnl_attr_put_u32(msg, NDA_DST, htonl(address));
        mnl_attr_put(msg, NDA_LLADDR, ETH_ALEN, mac);
}

static void put_address(struct nl *nl, int ifindex, uint32_t address)
{
        struct ifaddrmsg ifa = { .ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = (uint32_t)ifindex };
        struct nlmsghdr *msg = nl_put(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &ifa, sizeof(ifa));

        mnl_attr_put_u32(msg, IFA_LOCAL, htonl(address));
        mnl_attr_put_u32(msg, IFA_ADDRESS, htonl(address));
}

int link_index(const char *name)
{
        struct ifreq req = { .ifr_ifindex = 0 };
        auto_fd fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return 0;
        memcpy(req.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
        return ioctl(fd, SIOCGIFINDEX, &req) < 0 ? 0 : req.ifr_ifindex;
}

/* There is no netlink attribute for it. */
static int disable_ipv6(const struct link_pair *pair, struct err *err)
{
        char path[IFNAMSIZ + 16];

        if (pair->ipv6_conf < 0)
                return 0;
        (void)snprintf(path, sizeof(path), "%s/disable_ipv6", pair->name);
        return fd_write_knob(pair->ipv6_conf, path, "1", err);
}

static int set_up_host(struct nl *host, const struct link_pair *pair, int ifindex)
{
        struct rtmsg to_task = { .rtm_dst_len = 32, .rtm_scope = RT_SCOPE_LINK };
        uint8_t mac[ETH_ALEN];

        mac_inside(pair->address, mac);
        put_host_conf(host, ifindex);
        put_up(host, ifindex);
        put_route(host, to_task, pair->address, 0, ifindex);
        put_neighbour(host, ifindex, pair->address, mac);
        return nl_run(host, NULL, NULL);
}

static int set_up_inside(struct nl *inside, const struct link_pair *pair)
{
        struct rtmsg out = { .rtm_flags = RTNH_F_ONLINK, .rtm_scope = RT_SCOPE_UNIVERSE };

        put_up(inside, LO_INDEX);
        put_up(inside, INSIDE_INDEX);
        put_address(inside, INSIDE_INDEX, pair->address);
        put_route(inside, out, 0, LINK_GATEWAY, INSIDE_INDEX);
        put_neighbour(inside, INSIDE_INDEX, LINK_GATEWAY, mac_host);
        return nl_run(inside, NULL, NULL);
}

int link_make(struct nl *host, struct nl *inside, const struct link_pair *pair, int *ret, struct err *err)
{
        int ifindex, r;

        r = make_pair(host, pair);
        if (r < 0)
                return err_set(err, -r, "make link %s: %s", pair->name, strerror(-r));
        ifindex = link_index(pair->name);
        if (ifindex == 0)
                return err_set(err, ENODEV, "link %s vanished", pair->name);
        r = disable_ipv6(pair, err);
        if (r < 0)
                return r;
        r = set_up_host(host, pair, ifindex);
        if (r < 0)
                return err_set(err, -r, "set up link %s: %s", pair->name, strerror(-r));
        r = set_up_inside(inside, pair);
        if (r < 0)
                return err_set(err, -r, "set up the inside of link %s: %s", pair->name, strerror(-r));
        *ret = ifindex;
        return 0;
}

static int take_packets(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[IFLA_STATS_MAX + 1] = { NULL };
        struct rtnl_link_stats64 stats;

        nl_attrs(answer, sizeof(struct if_stats_msg), attrs, IFLA_STATS_MAX);
        if (!attrs[IFLA_STATS_LINK_64] || mnl_attr_get_payload_len(attrs[IFLA_STATS_LINK_64]) < 2 * sizeof(uint64_t))
                return -ENODATA;
        memcpy(&stats, mnl_attr_get_payload(attrs[IFLA_STATS_LINK_64]), 2 * sizeof(uint64_t));
        *(uint64_t *)data = stats.rx_packets + stats.tx_packets;
        return 0;
}

int link_packets(struct nl *host, int ifindex, uint64_t *ret)
{
        struct if_stats_msg ask = {
                .ifindex = (uint32_t)ifindex,
                .filter_mask = IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64),
        };

        (void)nl_put(host, RTM_GETSTATS, 0, &ask, sizeof(ask));
        return nl_run(host, take_packets, ret);
}

static int take_route(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[RTA_MAX + 1] = { NULL };

        nl_attrs(answer, sizeof(struct rtmsg), attrs, RTA_MAX);
        *(int *)data = (int)nl_u32(attrs[RTA_OIF], 0);
        return 0;
}

static int take_mtu(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[IFLA_MAX + 1] = { NULL };

        nl_attrs(answer, sizeof(struct ifinfomsg), attrs, IFLA_MAX);
        *(uint32_t *)data = nl_u32(attrs[IFLA_MTU], 0);
        return 0;
}

uint32_t link_uplink_mtu(struct nl *host)
{
        /* The route to an address that nobody routes specially; only looked up, nothing is sent. */
        struct rtmsg rtm = { .rtm_family = AF_INET, .rtm_dst_len = 32 };
        struct ifinfomsg ifi = { 0 };
        uint32_t mtu = 0;

        mnl_attr_put_u32(nl_put(host, RTM_GETROUTE, 0, &rtm, sizeof(rtm)), RTA_DST, htonl(UINT32_C(0x01010101)));
        if (nl_run(host, take_route, &ifi.ifi_index) < 0 || ifi.ifi_index <= LO_INDEX)
                return LINK_MTU_DEFAULT;
        (void)nl_put(host, RTM_GETLINK, 0, &ifi, sizeof(ifi));
        if (nl_run(host, take_mtu, &mtu) < 0 || mtu < ETH_MIN_MTU || mtu > ETH_MAX_MTU)
                return LINK_MTU_DEFAULT;
        return mtu;
}

static int take_link(const struct nlmsghdr *answer, void *data)
{
        const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(answer);
        const struct nlattr *attrs[IFLA_MAX + 1] = { NULL }, *info[IFLA_INFO_MAX + 1] = { NULL };
        struct link_list *list = data;
        struct link_info link = { .peer_nsid = -1 };
        const char *name, *kind;

        if (answer->nlmsg_type != RTM_NEWLINK)
                return 0;
        nl_attrs(answer, sizeof(*ifi), attrs, IFLA_MAX);
        nl_nested(attrs[IFLA_LINKINFO], info, IFLA_INFO_MAX);
        name = nl_text(attrs[IFLA_IFNAME]);
        kind = nl_text(info[IFLA_INFO_KIND]);
        link.ifindex = ifi->ifi_index;
        link.peer = (int)nl_u32(attrs[IFLA_LINK], 0);
        link.peer_nsid = (int32_t)nl_u32(attrs[IFLA_LINK_NETNSID], (uint32_t)-1);
        link.group = nl_u32(attrs[IFLA_GROUP], 0);
        link.veth = str_eq(kind, "veth");
        link.bridge = str_eq(kind, "bridge");
        if (name)
                memcpy(link.name, name, strnlen(name, IFNAMSIZ - 1));
        return VEC_ADD(&list->found, link);
}

int link_list(struct nl *nl, struct link_list *ret)
{
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct ifinfomsg ifi = { 0 };

                ret->found.len = 0;
                (void)nl_put(nl, RTM_GETLINK, 0, &ifi, sizeof(ifi));
                r = nl_dump(nl, take_link, ret);
        }
        return r;
}

void link_list_done(struct link_list *list)
{
        VEC_DONE(&list->found);
}

static int take_nsid(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[NETNSA_MAX + 1] = { NULL };

        nl_attrs(answer, sizeof(struct rtgenmsg), attrs, NETNSA_MAX);
        *(int32_t *)data = (int32_t)nl_u32(attrs[NETNSA_NSID], (uint32_t)NETNSA_NSID_NOT_ASSIGNED);
        return 0;
}

int link_nsid(struct nl *nl, int ns_fd, int32_t *ret)
{
        struct rtgenmsg gen = { .rtgen_family = AF_UNSPEC };

        mnl_attr_put_u32(nl_put(nl, RTM_GETNSID, 0, &gen, sizeof(gen)), NETNSA_FD, (uint32_t)ns_fd);
        return nl_run(nl, take_nsid, ret);
}

struct address_dump {
        int ifindex, count;
        uint32_t address;
};

static int take_address(const struct nlmsghdr *answer, void *data)
{
        const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(answer);
        const struct nlattr *attrs[IFA_MAX + 1] = { NULL };
        struct address_dump *dump = data;

        if (answer->nlmsg_type != RTM_NEWADDR || (int)ifa->ifa_index != dump->ifindex || ifa->ifa_family != AF_INET)
                return 0;
        nl_attrs(answer, sizeof(*ifa), attrs, IFA_MAX);
        dump->count++;
        dump->address = ntohl(nl_u32(attrs[IFA_LOCAL], 0));
        return 0;
}

int link_address(struct nl *nl, int ifindex, uint32_t *ret)
{
        struct address_dump dump = { .ifindex = ifindex };
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct ifaddrmsg ifa = { .ifa_family = AF_INET };

                dump.count = 0;
                (void)nl_put(nl, RTM_GETADDR, 0, &ifa, sizeof(ifa));
                r = nl_dump(nl, take_address, &dump);
        }
        if (r < 0)
                return r;
        if (dump.count != 1)
                return dump.count == 0 ? -ENOENT : -E2BIG;
        *ret = dump.address;
        return 0;
}

int link_set_group(struct nl *nl, int ifindex, uint32_t group)
{
        struct ifinfomsg ifi = { .ifi_index = ifindex };

        mnl_attr_put_u32(nl_put(nl, RTM_SETLINK, 0, &ifi, sizeof(ifi)), IFLA_GROUP, group);
        return nl_run(nl, NULL, NULL);
}

int link_delete_group(struct nl *nl, uint32_t group)
{
        struct ifinfomsg ifi = { 0 };
        int r;

        mnl_attr_put_u32(nl_put(nl, RTM_DELLINK, 0, &ifi, sizeof(ifi)), IFLA_GROUP, group);
        r = nl_run(nl, NULL, NULL);
        return r == -ENODEV ? 0 : r;
}
