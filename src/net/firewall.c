#include "net/firewall.h"

#include "base/fd.h"
#include "base/vec.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define NFT_TYPE(op) ((NFNL_SUBSYS_NFTABLES << 8) | (op))
#define DUMP_TRIES 16
#define NAME_SHOWN 64
#define DNS_PORT 53

static const struct {
        const char *first, *last; /* sets of our table */
        unsigned hook;
        const char *hook_name, *legacy;
} ways[] = {
        [FIREWALL_FORWARD] = { "probe_forward", "probe_postrouting", NF_INET_FORWARD, "forward", "FORWARD" },
        [FIREWALL_DNS] = { "probe_input", "probe_accepted", NF_INET_LOCAL_IN, "input", "INPUT" },
};

/* ── the datagram ────────────────────────────────────────────────────────────────────────────────────────────── */

static void send_to(uint32_t address, uint16_t port)
{
        struct sockaddr_in from = { .sin_family = AF_INET, .sin_port = htons(FIREWALL_PORT) };
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address) };
        auto_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd >= 0 && bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0)
                (void)sendto(fd, "?", 1, 0, (struct sockaddr *)&to, sizeof(to));
}

void firewall_send(uint32_t dns)
{
        send_to(FIREWALL_TARGET, FIREWALL_PORT);
        send_to(dns, DNS_PORT);
}

/* ── what came by ────────────────────────────────────────────────────────────────────────────────────────────── */

struct seen {
        uint32_t address; /* network byte order */
        bool found;
};

static int take_elements(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[NFTA_SET_ELEM_LIST_MAX + 1] = { NULL };
        const struct nlattr *item;
        struct seen *seen = data;

        nl_attrs(answer, sizeof(struct nfgenmsg), attrs, NFTA_SET_ELEM_LIST_MAX);
        if (!attrs[NFTA_SET_ELEM_LIST_ELEMENTS])
                return 0;
        mnl_attr_for_each_nested(item, attrs[NFTA_SET_ELEM_LIST_ELEMENTS])
        {
                const struct nlattr *elem[NFTA_SET_ELEM_MAX + 1] = { NULL }, *key[NFTA_DATA_MAX + 1] = { NULL };

                nl_nested(item, elem, NFTA_SET_ELEM_MAX);
                nl_nested(elem[NFTA_SET_ELEM_KEY], key, NFTA_DATA_MAX);
                seen->found |= nl_u32(key[NFTA_DATA_VALUE], 0) == seen->address;
        }
        return 0;
}

static bool is_in(struct nl *nl, const char *instance, const char *set, uint32_t address)
{
        struct nfgenmsg gen = { .nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0 };
        struct seen seen = { .address = htonl(address) };
        struct nlmsghdr *msg = nl_put(nl, NFT_TYPE(NFT_MSG_GETSETELEM), 0, &gen, sizeof(gen));

        mnl_attr_put_strz(msg, NFTA_SET_ELEM_LIST_TABLE, instance);
        mnl_attr_put_strz(msg, NFTA_SET_ELEM_LIST_SET, set);
        return nl_dump(nl, take_elements, &seen) == 0 && seen.found;
}

enum firewall_state firewall_result(struct nl *nl, const char *instance, uint32_t address, enum firewall_way way)
{
        if (!is_in(nl, instance, ways[way].first, address))
                return FIREWALL_UNKNOWN; /* without a route it gets nowhere */
        return is_in(nl, instance, ways[way].last, address) ? FIREWALL_OPEN : FIREWALL_CLOSED;
}

/* ── who it was ──────────────────────────────────────────────────────────────────────────────────────────────── */

struct suspect {
        const char *instance;
        unsigned hook;
        bool found, policy_drop;
        uint8_t family;
        char table[NAME_SHOWN], chain[NAME_SHOWN];
};

static bool plain(const char *name)
{
        for (const char *p = name; *p; p++) {
                if (*p <= ' ' || *p > '~' || *p == '"' || *p == '\\')
                        return false;
        }
        return *name && strlen(name) < NAME_SHOWN;
}

/* A chain whose policy is drop is more likely than one with a rule that does it. */
static int take_chain(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[NFTA_CHAIN_MAX + 1] = { NULL }, *hook[NFTA_HOOK_MAX + 1] = { NULL };
        const struct nfgenmsg *gen = mnl_nlmsg_get_payload(answer);
        const char *table, *chain;
        struct suspect *s = data;
        bool drops;

        nl_attrs(answer, sizeof(*gen), attrs, NFTA_CHAIN_MAX);
        nl_nested(attrs[NFTA_CHAIN_HOOK], hook, NFTA_HOOK_MAX);
        table = nl_text(attrs[NFTA_CHAIN_TABLE]);
        chain = nl_text(attrs[NFTA_CHAIN_NAME]);
        drops = attrs[NFTA_CHAIN_POLICY] && be32toh(nl_u32(attrs[NFTA_CHAIN_POLICY], 0)) == NF_DROP;
        if (!hook[NFTA_HOOK_HOOKNUM] || be32toh(nl_u32(hook[NFTA_HOOK_HOOKNUM], 0)) != s->hook || !table || !chain ||
            (gen->nfgen_family != NFPROTO_IPV4 && gen->nfgen_family != NFPROTO_INET) ||
            (gen->nfgen_family == NFPROTO_INET && str_eq(table, s->instance)) ||
            !str_eq(nl_text(attrs[NFTA_CHAIN_TYPE]), "filter") || !plain(table) || !plain(chain))
                return 0;
        if (s->found && (s->policy_drop || !drops))
                return 0;
        s->found = true;
        s->policy_drop = drops;
        s->family = gen->nfgen_family;
        (void)snprintf(s->table, sizeof(s->table), "%s", table);
        (void)snprintf(s->chain, sizeof(s->chain), "%s", chain);
        return 0;
}

static void find_suspect(struct nl *nl, struct suspect *s)
{
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct nfgenmsg gen = { .nfgen_family = NFPROTO_UNSPEC, .version = NFNETLINK_V0 };

                s->found = false;
                (void)nl_put(nl, NFT_TYPE(NFT_MSG_GETCHAIN), 0, &gen, sizeof(gen));
                r = nl_dump(nl, take_chain, s);
        }
}

static int add_advice(struct str *out, const char *command, enum firewall_way way, const char *dns)
{
        bool nft = str_starts(command, "nft");

        if (way == FIREWALL_DNS)
                return str_addf(out,
                                nft ? "%s iifname \"mf*\" ip daddr %s meta l4proto { tcp, udp } th dport 53 accept"
                                    : "%s -i mf+ -d %s -j ACCEPT",
                                command, dns);
        if (nft)
                return str_addf(out, "%s iifname \"mf*\" accept; %s oifname \"mf*\" accept", command, command);
        return str_addf(out, "%s -i mf+ -j ACCEPT; %s -o mf+ -j ACCEPT", command, command);
}

int firewall_describe(struct nl *nl, const char *instance, uint32_t dns, enum firewall_way way, struct str *ret)
{
        struct suspect s = { .instance = instance, .hook = ways[way].hook };
        const char *what = way == FIREWALL_DNS ? "tasks cannot ask mayfly-dns for names" : "tasks have no network";
        struct in_addr in = { .s_addr = htonl(dns) };
        char address[INET_ADDRSTRLEN] = "", command[3 * NAME_SHOWN];
        const char *family;
        int r;

        find_suspect(nl, &s);
        (void)inet_ntop(AF_INET, &in, address, sizeof(address));
        family = s.family == NFPROTO_INET ? "inet" : "ip";
        if (s.found)
                r = str_addf(ret, "%s: a firewall drops what they send, %s chain %s of table %s %s%s; to let it pass: ",
                             what, s.policy_drop ? "by" : "most likely", s.chain, family, s.table,
                             s.policy_drop ? " (policy drop)" : "");
        else
                r = str_addf(ret,
                             "%s: a firewall drops what they send, most likely chain %s of iptables-legacy; to let it "
                             "pass: ",
                             what, ways[way].legacy);
        if (s.found)
                (void)snprintf(command, sizeof(command), "nft insert rule %s %s %s", family, s.table, s.chain);
        else
                (void)snprintf(command, sizeof(command), "iptables-legacy -I %s", ways[way].legacy);
        return r < 0 ? r : add_advice(ret, command, way, address);
}
