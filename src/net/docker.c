#include "net/docker.h"

#include "base/str.h"
#include "base/vec.h"
#include "net/rules.h"

#include <endian.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>

#define NFT_TYPE(op) ((NFNL_SUBSYS_NFTABLES << 8) | (op))
#define TABLE "filter"
#define DUMP_TRIES 16
#define ALL_RULES ((1U << DOCKER_RULES) - 1)

struct own_rules {
        const char *prefix;
        unsigned found; /* a bit for each kind */
        VEC(uint64_t) handles;
};

/* ── what stands there ───────────────────────────────────────────────────────────────────────────────────────── */

static uint32_t be32_of(const struct nlattr *attr)
{
        return be32toh(nl_u32(attr, 0));
}

/* 1 'n', 2 'i': the expression compares with "<prefix>n*" or "<prefix>i*". */
static unsigned compared_kind(const struct nlattr *data, const char *prefix)
{
        const struct nlattr *cmp[NFTA_CMP_MAX + 1] = { NULL }, *value[NFTA_DATA_MAX + 1] = { NULL };
        size_t n = strlen(prefix);
        const char *text;

        nl_nested(data, cmp, NFTA_CMP_MAX);
        nl_nested(cmp[NFTA_CMP_DATA], value, NFTA_DATA_MAX);
        if (!value[NFTA_DATA_VALUE] || mnl_attr_get_payload_len(value[NFTA_DATA_VALUE]) != n + 1)
                return 0;
        text = mnl_attr_get_payload(value[NFTA_DATA_VALUE]);
        if (memcmp(text, prefix, n) != 0)
                return 0;
        return text[n] == 'n' ? 1 : text[n] == 'i' ? 2 : 0;
}

/* Which of our rules it is, as a bit; 0: none. */
static unsigned own_rule(const struct nlattr *expressions, const char *prefix)
{
        const struct nlattr *elem;
        unsigned kind = 0, n = 0;
        uint32_t key = 0;

        if (!expressions)
                return 0;
        mnl_attr_for_each_nested(elem, expressions)
        {
                const struct nlattr *expr[NFTA_EXPR_MAX + 1] = { NULL }, *meta[NFTA_META_MAX + 1] = { NULL };
                const char *name;

                nl_nested(elem, expr, NFTA_EXPR_MAX);
                name = nl_text(expr[NFTA_EXPR_NAME]);
                n += !str_eq(name, "counter");
                if (str_eq(name, "cmp"))
                        kind = compared_kind(expr[NFTA_EXPR_DATA], prefix);
                if (!str_eq(name, "meta"))
                        continue;
                nl_nested(expr[NFTA_EXPR_DATA], meta, NFTA_META_MAX);
                key = be32_of(meta[NFTA_META_KEY]);
        }
        /* Load, compare, verdict: with more to it, it is somebody else's. */
        if (n != 3 || kind == 0 || (key != NFT_META_IIFNAME && key != NFT_META_OIFNAME))
                return 0;
        return kind << (key == NFT_META_OIFNAME ? 2 : 0);
}

static int take_rule(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[NFTA_RULE_MAX + 1] = { NULL };
        struct own_rules *own = data;
        uint64_t handle;
        unsigned bit;

        nl_attrs(answer, sizeof(struct nfgenmsg), attrs, NFTA_RULE_MAX);
        bit = own_rule(attrs[NFTA_RULE_EXPRESSIONS], own->prefix);
        if (bit == 0 || !attrs[NFTA_RULE_HANDLE] || mnl_attr_get_payload_len(attrs[NFTA_RULE_HANDLE]) < 8 ||
            !str_eq(nl_text(attrs[NFTA_RULE_CHAIN]), DOCKER_CHAIN))
                return 0;
        own->found |= bit;
        handle = be64toh(mnl_attr_get_u64(attrs[NFTA_RULE_HANDLE]));
        return VEC_ADD(&own->handles, handle);
}

static int look_once(struct nl *nl, struct own_rules *own)
{
        struct nfgenmsg gen = { .nfgen_family = NFPROTO_IPV4, .version = NFNETLINK_V0 };
        struct nlmsghdr *msg = nl_put(nl, NFT_TYPE(NFT_MSG_GETCHAIN), 0, &gen, sizeof(gen));
        int r;

        mnl_attr_put_strz(msg, NFTA_CHAIN_TABLE, TABLE);
        mnl_attr_put_strz(msg, NFTA_CHAIN_NAME, DOCKER_CHAIN);
        r = nl_run(nl, NULL, NULL);
        if (r < 0)
                return r;
        own->found = 0;
        own->handles.len = 0;
        msg = nl_put(nl, NFT_TYPE(NFT_MSG_GETRULE), 0, &gen, sizeof(gen));
        mnl_attr_put_strz(msg, NFTA_RULE_TABLE, TABLE);
        mnl_attr_put_strz(msg, NFTA_RULE_CHAIN, DOCKER_CHAIN);
        return nl_dump(nl, take_rule, own);
}

/* 1, or 0 where the chain is not. */
static int look(struct nl *nl, struct own_rules *own, struct err *err)
{
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++)
                r = look_once(nl, own);
        if (r == -ENOENT)
                return 0;
        return r < 0 ? err_set(err, -r, "look at " DOCKER_CHAIN ": %s", strerror(-r)) : 1;
}

/* ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int change(const struct own_rules *own, bool insert, struct err *err)
{
        auto_str text = STR_INIT;
        int r = 0;

        for (size_t i = 0; i < own->handles.len && r == 0; i++)
                r = str_addf(&text, "delete rule ip " TABLE " " DOCKER_CHAIN " handle %llu\n",
                             (unsigned long long)own->handles.items[i]);
        for (int i = 0; i < DOCKER_RULES && r == 0 && insert; i++)
                r = str_addf(&text, "insert rule ip " TABLE " " DOCKER_CHAIN " %s \"%s%c*\" accept\n",
                             i & 2 ? "oifname" : "iifname", own->prefix, i & 1 ? 'i' : 'n');
        return r < 0 ? err_oom(err) : rules_run(text.data, err);
}

int docker_keep(struct nl *nl, const char *prefix, struct err *err)
{
        struct own_rules own = { .prefix = prefix };
        int r = look(nl, &own, err);

        if (r > 0 && own.found == ALL_RULES && own.handles.len == DOCKER_RULES)
                r = 0;
        if (r > 0)
                r = change(&own, true, err) < 0 ? -err->num : 1;
        VEC_DONE(&own.handles);
        return r;
}

int docker_remove(struct nl *nl, const char *prefix, struct err *err)
{
        struct own_rules own = { .prefix = prefix };
        int r = look(nl, &own, err);

        if (r > 0 && own.handles.len == 0)
                r = 0;
        if (r > 0)
                r = change(&own, false, err) < 0 ? -err->num : 1;
        VEC_DONE(&own.handles);
        return r;
}
