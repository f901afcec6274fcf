#include "net/ct.h"

#include "base/vec.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <stdbool.h>
#include <string.h>

#define CT_TYPE(op) ((NFNL_SUBSYS_CTNETLINK << 8) | (op))
#define CT_FILTER_IP_SRC 1 /* CTA_FILTER's bit 0, which no header of user space names */
#define CT_TUPLE_MAX 128
#define CT_DUMP_TRIES 4

static struct nlmsghdr *put_request(struct nl *nl, uint16_t op)
{
        struct nfgenmsg gen = { .nfgen_family = AF_INET, .version = NFNETLINK_V0 };

        return nl_put(nl, CT_TYPE(op), 0, &gen, sizeof(gen));
}

static void put_filter(struct nlmsghdr *msg, uint32_t address)
{
        struct nlattr *tuple = mnl_attr_nest_start(msg, CTA_TUPLE_ORIG);
        struct nlattr *ip = mnl_attr_nest_start(msg, CTA_TUPLE_IP);
        struct nlattr *filter;

        mnl_attr_put_u32(msg, CTA_IP_V4_SRC, htonl(address));
        mnl_attr_nest_end(msg, ip);
        mnl_attr_nest_end(msg, tuple);
        filter = mnl_attr_nest_start(msg, CTA_FILTER);
        mnl_attr_put_u32(msg, CTA_FILTER_ORIG_FLAGS, CT_FILTER_IP_SRC);
        mnl_attr_nest_end(msg, filter);
}

static uint32_t source_of(const struct nlattr *orig)
{
        const struct nlattr *tuple[CTA_TUPLE_MAX + 1] = { NULL }, *ip[CTA_IP_MAX + 1] = { NULL };

        nl_nested(orig, tuple, CTA_TUPLE_MAX);
        nl_nested(tuple[CTA_TUPLE_IP], ip, CTA_IP_MAX);
        return ntohl(nl_u32(ip[CTA_IP_V4_SRC], 0));
}

struct entry {
        uint32_t id;
        bool has_id, has_zone;
        uint16_t zone;
        size_t len;
        char tuple[CT_TUPLE_MAX]; /* the attribute CTA_TUPLE_ORIG as it came */
};

struct entries {
        uint32_t address;
        VEC(struct entry) found;
};

static int take_entry(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[CTA_MAX + 1] = { NULL };
        struct entries *list = data;
        struct entry e = { .len = 0 };

        nl_attrs(answer, sizeof(struct nfgenmsg), attrs, CTA_MAX);
        if (!attrs[CTA_TUPLE_ORIG] || source_of(attrs[CTA_TUPLE_ORIG]) != list->address)
                return 0;
        e.len = mnl_attr_get_payload_len(attrs[CTA_TUPLE_ORIG]);
        if (e.len > sizeof(e.tuple))
                return -EMSGSIZE;
        memcpy(e.tuple, mnl_attr_get_payload(attrs[CTA_TUPLE_ORIG]), e.len);
        e.has_id = attrs[CTA_ID] != NULL;
        e.id = nl_u32(attrs[CTA_ID], 0);
        e.has_zone = attrs[CTA_ZONE] && mnl_attr_get_payload_len(attrs[CTA_ZONE]) >= sizeof(uint16_t);
        e.zone = e.has_zone ? mnl_attr_get_u16(attrs[CTA_ZONE]) : 0;
        return VEC_ADD(&list->found, e);
}

static int delete_entries(struct nl *nl, const struct entries *list)
{
        for (size_t i = 0; i < list->found.len; i++) {
                const struct entry *e = &list->found.items[i];
                struct nlmsghdr *msg = put_request(nl, IPCTNL_MSG_CT_DELETE);
                int r;

                mnl_attr_put(msg, CTA_TUPLE_ORIG | NLA_F_NESTED, e->len, e->tuple);
                if (e->has_id)
                        mnl_attr_put_u32(msg, CTA_ID, e->id);
                if (e->has_zone)
                        mnl_attr_put_u16(msg, CTA_ZONE, e->zone);
                if (nl_room(nl) && i + 1 < list->found.len)
                        continue;
                r = nl_run(nl, NULL, NULL);
                if (r < 0 && r != -ENOENT) /* it may have timed out meanwhile */
                        return r;
        }
        return 0;
}

static int dump_and_delete(struct nl *nl, uint32_t address)
{
        struct entries list = { .address = address };
        int r = -EINTR;

        for (int i = 0; i < CT_DUMP_TRIES && r == -EINTR; i++) {
                list.found.len = 0;
                put_filter(put_request(nl, IPCTNL_MSG_CT_GET), address);
                r = nl_dump(nl, take_entry, &list);
        }
        if (r == 0)
                r = delete_entries(nl, &list);
        VEC_DONE(&list.found);
        return r;
}

int ct_flush(struct nl *nl, uint32_t address)
{
        static bool by_filter = true;
        int r = -EINVAL;

        /* One request with a filter, which newer kernels take, also locks only the buckets that hold something. Older
         * ones look for a whole tuple in it and refuse what they find: the filter is never ignored. */
        if (by_filter) {
                put_filter(put_request(nl, IPCTNL_MSG_CT_DELETE), address);
                r = nl_run(nl, NULL, NULL);
        }
        if (r != -EINVAL && r != -EOPNOTSUPP)
                return r == -ENOENT ? 0 : r;
        by_filter = false;
        return dump_and_delete(nl, address);
}

struct sources {
        void (*fn)(uint32_t address, void *data);
        void *data;
};

static int take_source(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[CTA_MAX + 1] = { NULL };
        const struct sources *s = data;

        nl_attrs(answer, sizeof(struct nfgenmsg), attrs, CTA_MAX);
        s->fn(source_of(attrs[CTA_TUPLE_ORIG]), s->data);
        return 0;
}

int ct_sources(struct nl *nl, void (*fn)(uint32_t address, void *data), void *data)
{
        struct sources s = { .fn = fn, .data = data };

        (void)put_request(nl, IPCTNL_MSG_CT_GET);
        return nl_dump(nl, take_source, &s);
}
