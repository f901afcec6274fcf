#include "net/route.h"

#include "base/str.h"
#include "net/link.h"
#include "net/names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>

#define DUMP_TRIES 16
#define LO_INDEX 1
#define PROTOCOL 109 /* of our routes: 'm'; unassigned in /etc/iproute2/rt_protos */

static uint32_t mask_of(unsigned bits)
{
        return bits == 0 ? 0 : UINT32_MAX << (32 - bits);
}

static int dump(struct nl *nl, nl_fn fn, void *data)
{
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct rtmsg rtm = { .rtm_family = AF_INET };

                (void)nl_put(nl, RTM_GETROUTE, 0, &rtm, sizeof(rtm));
                r = nl_dump(nl, fn, data);
        }
        return r;
}

/* ── the pool ────────────────────────────────────────────────────────────────────────────────────────────────── */

struct conflict {
        const struct route_pool *pool;
        bool found, instance;
        uint32_t dst;
        unsigned bits;
        char link[IFNAMSIZ];
};

static int take_conflict(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[RTA_MAX + 1] = { NULL };
        const struct rtmsg *rtm = mnl_nlmsg_get_payload(answer);
        struct conflict *c = data;
        uint32_t dst, mode, index;
        char link[IFNAMSIZ] = "";
        bool instance, overlaps;

        if (answer->nlmsg_type != RTM_NEWROUTE || c->found)
                return 0;
        nl_attrs(answer, sizeof(*rtm), attrs, RTA_MAX);
        dst = ntohl(nl_u32(attrs[RTA_DST], 0));
        instance = rtm->rtm_protocol == PROTOCOL;
        if (instance && nl_u32(attrs[RTA_PRIORITY], 0) == c->pool->metric)
                return 0;
        /* A wider network around the pool is no hindrance, unless it is a pool itself. */
        overlaps = ((dst ^ c->pool->base) & mask_of(MIN(c->pool->bits, rtm->rtm_dst_len))) == 0 &&
                   (instance || rtm->rtm_dst_len >= c->pool->bits);
        (void)if_indextoname(nl_u32(attrs[RTA_OIF], 0), link);
        if (!overlaps || names_link_parse(c->pool->prefix, link, &mode, &index))
                return 0;
        c->found = true;
        c->instance = instance || str_starts(link, "mf");
        c->dst = dst;
        c->bits = rtm->rtm_dst_len;
        memcpy(c->link, link, sizeof(link));
        return 0;
}

int route_check(struct nl *nl, const struct route_pool *pool, struct err *err)
{
        struct conflict c = { .pool = pool };
        int r = dump(nl, take_conflict, &c);
        struct in_addr dst, base;
        char dst_text[INET_ADDRSTRLEN] = "", base_text[INET_ADDRSTRLEN] = "";

        if (r < 0)
                return err_set(err, -r, "look at the routes: %s", strerror(-r));
        if (!c.found)
                return 0;
        dst.s_addr = htonl(c.dst);
        base.s_addr = htonl(pool->base);
        (void)inet_ntop(AF_INET, &dst, dst_text, sizeof(dst_text));
        (void)inet_ntop(AF_INET, &base, base_text, sizeof(base_text));
        return err_set(err, EADDRINUSE, "network.pool %s/%u is in use: %s %s/%u%s%s; give this instance another one",
                       base_text, pool->bits, c.instance ? "another Mayfly has" : "this host has a route to", dst_text,
                       c.bits, *c.link ? " by " : "", c.link);
}

static void put_own(struct nl *nl, uint16_t type, uint16_t flags, const struct route_pool *pool, bool dns)
{
        struct rtmsg rtm = {
                .rtm_family = AF_INET,
                .rtm_dst_len = dns ? 32 : (uint8_t)pool->bits,
                .rtm_table = dns ? RT_TABLE_LOCAL : RT_TABLE_MAIN,
                .rtm_protocol = PROTOCOL,
                .rtm_scope = dns ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE,
                .rtm_type = dns ? RTN_LOCAL : RTN_UNREACHABLE,
        };
        struct nlmsghdr *msg = nl_put(nl, type, flags, &rtm, sizeof(rtm));

        mnl_attr_put_u32(msg, RTA_DST, htonl(dns ? pool->dns : pool->base));
        mnl_attr_put_u32(msg, RTA_PRIORITY, pool->metric);
        if (dns)
                mnl_attr_put_u32(msg, RTA_OIF, LO_INDEX);
}

int route_claim(struct nl *nl, const struct route_pool *pool, struct err *err)
{
        for (int dns = 0; dns < 2; dns++) {
                int r;

                put_own(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, pool, dns);
                r = nl_run(nl, NULL, NULL);
                if (r < 0)
                        return err_set(err, -r, "add a route for the pool: %s", strerror(-r));
        }
        return 0;
}

int route_release(struct nl *nl, const struct route_pool *pool, struct err *err)
{
        int failed = 0;

        for (int dns = 0; dns < 2; dns++) {
                int r;

                put_own(nl, RTM_DELROUTE, 0, pool, dns);
                r = nl_run(nl, NULL, NULL);
                if (r < 0 && r != -ESRCH)
                        failed = r;
        }
        return failed < 0 ? err_set(err, -failed, "remove the routes of the pool: %s", strerror(-failed)) : 0;
}

/* ── ways out ────────────────────────────────────────────────────────────────────────────────────────────────── */

struct ways {
        VEC(uint32_t) links; /* with a route over a gateway */
};

static int add_hops(struct ways *w, const struct nlattr *multipath)
{
        const struct rtnexthop *hop = mnl_attr_get_payload(multipath);
        size_t rest = mnl_attr_get_payload_len(multipath);
        int r = 0;

        while (r == 0 && rest >= sizeof(*hop) && hop->rtnh_len >= sizeof(*hop) && hop->rtnh_len <= rest) {
                size_t step = MIN(RTNH_ALIGN((size_t)hop->rtnh_len), rest);

                r = VEC_ADD(&w->links, (uint32_t)hop->rtnh_ifindex);
                rest -= step;
                hop = (const struct rtnexthop *)((const char *)hop + step);
        }
        return r;
}

static int take_way(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[RTA_MAX + 1] = { NULL };
        struct ways *w = data;

        if (answer->nlmsg_type != RTM_NEWROUTE)
                return 0;
        nl_attrs(answer, sizeof(struct rtmsg), attrs, RTA_MAX);
        if (attrs[RTA_MULTIPATH])
                return add_hops(w, attrs[RTA_MULTIPATH]);
        if (!attrs[RTA_GATEWAY] && !attrs[RTA_VIA])
                return 0;
        return VEC_ADD(&w->links, nl_u32(attrs[RTA_OIF], 0));
}

static bool leads_out(const struct ways *w, int ifindex)
{
        for (size_t i = 0; i < w->links.len; i++) {
                if (w->links.items[i] == (uint32_t)ifindex)
                        return true;
        }
        return false;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(a, b);
}

int route_uplinks(struct nl *nl, struct route_uplinks *ret)
{
        auto_link_list list = { .found.items = NULL };
        struct ways w = { .links.items = NULL };
        struct route_uplinks up = { .n = 0 };
        int r = dump(nl, take_way, &w);

        if (r == 0)
                r = link_list(nl, &list);
        for (size_t i = 0; r == 0 && i < list.found.len && up.n < ROUTE_UPLINKS_MAX; i++) {
                const struct link_info *l = &list.found.items[i];

                /* The name becomes part of a rule set. */
                if (!l->bridge || !leads_out(&w, l->ifindex) || strpbrk(l->name, "\"*\\"))
                        continue;
                memcpy(up.names[up.n++], l->name, IFNAMSIZ);
        }
        VEC_DONE(&w.links);
        if (r < 0)
                return r;
        qsort(up.names, up.n, sizeof(up.names[0]), by_name);
        *ret = up;
        return 0;
}
