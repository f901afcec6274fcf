#include "net/rules.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/vec.h"
#include "net/nl.h"
#include "net/run.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#define NFT_TYPE(op) ((NFNL_SUBSYS_NFTABLES << 8) | (op))
#define RULES_PER_CHAIN 12
#define DUMP_TRIES 16
#define EVENT_MAX 32768

/* Stands where a task's connections are counted. What is new and too much is dropped before it takes a place in the host's table
 * of connections, which all share. */
static const char count_connections[] = "ct state new add @connections { ip saddr ct count over N } drop";

/* Links of tasks are "<prefix>n*" for nat and "<prefix>i*" for internet: $nat and $internet below. "mf*" are those of
 * every instance.
 *
 * A bridge over which no route leads out connects containers and virtual machines of this host, which are no concern of
 * tasks, even where Docker's own rules do not keep them apart.
 *
 * What a task may reach is decided on the address that it named, before anybody's DNAT rules (a port that is published
 * on an address of the host belongs to that address), and again on the address that came out of them. Nothing that a
 * task says is accepted for being part of an established connection, unless the other side began it: what slipped
 * through while the table was away does not stay open. */
static const struct chain {
        const char *name;
        const char *hook; /* NULL: only jumped to */
        const char *rules[RULES_PER_CHAIN];
} chains[] = {
        { "task_out",
          NULL,
          {
                  "meta nfproto != ipv4 drop",
                  "ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept",
                  "fib daddr type local ct direction reply ct state established,related accept",
                  "fib daddr type != unicast drop",
                  "ip daddr @never drop",
                  "iifname $internet ip daddr @private drop",
          } },
        { "task_first",
          NULL,
          {
                  "meta nfproto != ipv4 drop",
                  "ip saddr != $pool drop",
                  "fib saddr . iif oif missing drop",
                  count_connections,
                  "jump task_out",
          } },
        { "task_forward",
          NULL,
          {
                  "oifname \"mf*\" drop",
                  "meta oifkind \"bridge\" oifname != @uplinks drop",
                  "jump task_out",
          } },
        { "task_input",
          NULL,
          {
                  "meta nfproto != ipv4 drop",
                  "ct direction reply ct state established,related accept",
                  /* The forwarder reads all questions from one socket, which has room for some 250. */
                  ("ip daddr $dns udp dport 53 "
                   "update @asking { ip saddr limit rate over 1000/second burst 128 packets } drop"),
                  "ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept",
                  "drop",
          } },
        { "task_in",
          NULL,
          {
                  "meta nfproto != ipv4 drop",
                  "ct direction reply ct state established,related accept",
                  "drop",
          } },
        { "prerouting",
          "type filter hook prerouting priority mangle; policy accept;",
          {
                  "iifname $nat jump task_first",
                  "iifname $internet jump task_first",
          } },
        { "input",
          "type filter hook input priority filter - 1; policy accept;",
          {
                  "iifname $nat ip daddr $dns udp sport 9 add @probe_input { ip saddr }",
                  "iifname $nat jump task_input",
                  "iifname $internet jump task_input",
                  "ip daddr $dns drop",
          } },
        { "forward",
          "type filter hook forward priority filter - 1; policy accept;",
          {
                  "iifname $nat ip daddr 192.0.2.1 udp sport 9 add @probe_forward { ip saddr }",
                  "iifname $nat jump task_forward",
                  "iifname $internet jump task_forward",
                  "oifname $nat jump task_in",
                  "oifname $internet jump task_in",
          } },
        /* net/firewall.h: our datagrams that nobody dropped on their way. */
        { "probe_in",
          "type filter hook input priority 300; policy accept;",
          {
                  "iifname $nat ip daddr $dns udp sport 9 add @probe_accepted { ip saddr } drop",
          } },
        { "probe_out",
          "type filter hook postrouting priority srcnat - 1; policy accept;",
          {
                  "ip saddr $pool ip daddr 192.0.2.1 udp sport 9 add @probe_postrouting { ip saddr } drop",
          } },
        { "postrouting",
          "type nat hook postrouting priority srcnat; policy accept;",
          {
                  "ip saddr $pool oifname != \"mf*\" masquerade",
          } },
};

/* IANA's IPv4 special-purpose registry (RFC 6890). What nobody may reach: this network, loopback, link-local with the
 * metadata services, multicast, reserved, broadcast; the pool itself is added. */
static const char never[] = "0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3";
/* Private, shared (RFC 6598), protocol assignments, benchmarks. */
static const char private[] = "10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15";

static const char *const sets[] = { "resolvers", "uplinks", "never", "private" };

/* Filled by the rules themselves, so that they are not compared. */
static const char *const probe_sets[] = { "probe_forward", "probe_postrouting", "probe_input", "probe_accepted" };

struct rules {
        struct rules_conf conf;
        struct rules_input input;
        struct nl nl;
        int events;
        uint64_t print; /* of the table as it was applied; 0: it is not */
};

/* ── text ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int add_address(struct str *s, uint32_t address)
{
        return str_addf(s, "%u.%u.%u.%u", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255);
}

static int add_resolvers(struct str *s, const struct rules_input *in)
{
        int r = str_adds(s, "\tset resolvers {\n\t\ttype ipv4_addr\n");

        for (size_t i = 0; i < in->n_resolvers && r == 0; i++) {
                r = str_adds(s, i == 0 ? "\t\telements = { " : ", ");
                if (r == 0)
                        r = add_address(s, in->resolvers[i]);
        }
        return r < 0 ? r : str_adds(s, in->n_resolvers > 0 ? " }\n\t}\n" : "\t}\n");
}

static int add_uplinks(struct str *s, const struct route_uplinks *up)
{
        int r = str_adds(s, "\tset uplinks {\n\t\ttype ifname\n");

        for (size_t i = 0; i < up->n && r == 0; i++)
                r = str_addf(s, "%s\"%s\"", i == 0 ? "\t\telements = { " : ", ", up->names[i]);
        return r < 0 ? r : str_adds(s, up->n > 0 ? " }\n\t}\n" : "\t}\n");
}

static int add_sets(struct str *s, const struct rules_input *in)
{
        int r = add_resolvers(s, in);

        if (r == 0)
                r = add_uplinks(s, &in->uplinks);
        if (r == 0)
                r = str_addf(s,
                             "\tset never {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\tauto-merge\n"
                             "\t\telements = { %s, $pool }\n\t}\n",
                             never);
        if (r == 0)
                r = str_addf(s,
                             "\tset private {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\tauto-merge\n"
                             "\t\telements = { %s }\n\t}\n",
                             private);
        for (size_t i = 0; i < ARRAY_LEN(probe_sets) && r == 0; i++)
                r = str_addf(s,
                             "\tset %s {\n\t\ttype ipv4_addr\n\t\tflags dynamic,timeout\n\t\ttimeout 4s\n\t\tsize "
                             "65536\n\t}\n",
                             probe_sets[i]);
        if (r == 0)
                r = str_adds(s, "\tset connections {\n\t\ttype ipv4_addr\n\t\tflags dynamic\n\t\tsize 65536\n\t}\n"
                                "\tset asking {\n\t\ttype ipv4_addr\n\t\tflags dynamic,timeout\n\t\ttimeout 1m\n"
                                "\t\tsize 65536\n\t}\n");
        return r;
}

static int add_rule(struct str *s, const char *rule, uint32_t connections)
{
        if (rule == count_connections)
                return str_addf(s, "\t\tct state new add @connections { ip saddr ct count over %u } drop\n",
                                connections);
        return str_addf(s, "\t\t%s\n", rule);
}

static int add_chain(struct str *s, const struct chain *c, uint32_t connections, size_t *rules)
{
        int r = str_addf(s, "\tchain %s {\n", c->name);

        if (r == 0 && c->hook)
                r = str_addf(s, "\t\t%s\n", c->hook);
        for (size_t i = 0; i < RULES_PER_CHAIN && c->rules[i] && r == 0; i++) {
                if (c->rules[i] == count_connections && connections == 0)
                        continue;
                r = add_rule(s, c->rules[i], connections);
                ++*rules;
        }
        return r < 0 ? r : str_adds(s, "\t}\n");
}

int rules_text(const struct rules_conf *conf, const struct rules_input *input, struct str *ret, size_t *ret_rules)
{
        auto_str s = STR_INIT;
        size_t rules = 0;
        int r;

        r = str_addf(&s, "define nat = \"%sn*\"\ndefine internet = \"%si*\"\ndefine dns = ", conf->prefix,
                     conf->prefix);
        if (r == 0)
                r = add_address(&s, conf->dns);
        if (r == 0)
                r = str_adds(&s, "\ndefine pool = ");
        if (r == 0)
                r = add_address(&s, conf->base);
        /* Declared first, so that there is one to delete; all of it is one transaction. */
        if (r == 0)
                r = str_addf(&s, "/%u\ntable inet %s\ndelete table inet %s\ntable inet %s {\n", conf->bits,
                             conf->instance, conf->instance, conf->instance);
        if (r == 0)
                r = add_sets(&s, input);
        for (size_t i = 0; i < ARRAY_LEN(chains) && r == 0; i++)
                r = add_chain(&s, &chains[i], conf->connections, &rules);
        if (r == 0)
                r = str_adds(&s, "}\n");
        if (r < 0)
                return r;
        if (ret_rules)
                *ret_rules = rules;
        str_done(ret);
        *ret = s;
        s = (struct str)STR_INIT;
        return 0;
}

/* ── what the kernel holds ───────────────────────────────────────────────────────────────────────────────────── */

struct view {
        uint64_t hash; /* FNV-1a over all attributes; no rule of ours counts anything */
        size_t rules;
};

static int take_object(const struct nlmsghdr *answer, void *data)
{
        const unsigned char *p = mnl_nlmsg_get_payload_offset(answer, sizeof(struct nfgenmsg));
        size_t n = mnl_nlmsg_get_payload_len(answer);
        struct view *v = data;

        for (size_t i = sizeof(struct nfgenmsg); i < n; i++, p++)
                v->hash = (v->hash ^ *p) * UINT64_C(0x100000001b3);
        if (answer->nlmsg_type == NFT_TYPE(NFT_MSG_NEWRULE))
                v->rules++;
        return 0;
}

static struct nlmsghdr *put_get(struct rules *r, uint16_t op, uint16_t table_attr)
{
        struct nfgenmsg gen = { .nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0 };
        struct nlmsghdr *msg = nl_put(&r->nl, NFT_TYPE(op), 0, &gen, sizeof(gen));

        mnl_attr_put_strz(msg, table_attr, r->conf.instance);
        return msg;
}

static int view_once(struct rules *r, struct view *v)
{
        int e;

        *v = (struct view){ .hash = UINT64_C(0xcbf29ce484222325) };
        (void)put_get(r, NFT_MSG_GETTABLE, NFTA_TABLE_NAME);
        for (size_t i = 0; i < ARRAY_LEN(chains); i++)
                mnl_attr_put_strz(put_get(r, NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE), NFTA_CHAIN_NAME, chains[i].name);
        e = nl_run(&r->nl, take_object, v);
        if (e < 0)
                return e;
        (void)put_get(r, NFT_MSG_GETRULE, NFTA_RULE_TABLE);
        e = nl_dump(&r->nl, take_object, v);
        for (size_t i = 0; i < ARRAY_LEN(sets) && e == 0; i++) {
                mnl_attr_put_strz(put_get(r, NFT_MSG_GETSETELEM, NFTA_SET_ELEM_LIST_TABLE), NFTA_SET_ELEM_LIST_SET,
                                  sets[i]);
                e = nl_dump(&r->nl, take_object, v);
        }
        return e;
}

static int view(struct rules *r, struct view *v)
{
        int e = -EINTR;

        for (int i = 0; i < DUMP_TRIES && e == -EINTR; i++)
                e = view_once(r, v);
        return e;
}

bool rules_whole(struct rules *r)
{
        struct view v;

        return view(r, &v) == 0 && v.hash == r->print;
}

/* ── applying ────────────────────────────────────────────────────────────────────────────────────────────────── */

int rules_run(const char *text, struct err *err)
{
        static const char *const places[] = { "/usr/sbin/nft", "/sbin/nft", NULL };
        static const char *const argv[] = { "nft", "-f", "-", NULL };

        return run_program(places, argv, text, err);
}

/* Whether the kernel has what counts connections; the table of that name lives for this transaction only. */
static const char probe_counting[] = "table inet mayfly-counting { chain x { ct count over 1 drop; }; }\n"
                                     "delete table inet mayfly-counting\n";

int rules_restore(struct rules *r, struct err *err)
{
        auto_str text = STR_INIT;
        size_t rules;
        struct view v;
        int e;

        e = rules_text(&r->conf, &r->input, &text, &rules);
        if (e < 0)
                return err_oom(err);
        e = rules_run(text.data, err);
        if (e < 0 && r->conf.connections > 0 && rules_run(probe_counting, NULL) < 0) {
                log_warn("this kernel does not count connections (nft_connlimit): network.connections is not in force");
                r->conf.connections = 0;
                return rules_restore(r, err);
        }
        if (e < 0)
                return e;
        e = view(r, &v);
        if (e == 0 && v.rules != rules)
                e = -ESTALE; /* somebody was faster with the next change */
        if (e < 0) {
                r->print = 0;
                return err_set(err, -e, "look at the rules that were applied: %s", strerror(-e));
        }
        r->print = v.hash;
        return 0;
}

int rules_apply(struct rules *r, const struct rules_input *input, struct err *err)
{
        r->print = 0; /* the table that stands is not the one that is wanted, whether nft works or not */
        r->input = *input;
        return rules_restore(r, err);
}

int rules_remove(struct rules *r, struct err *err)
{
        auto_free char *text = str_printf("table inet %s\ndelete table inet %s\n", r->conf.instance, r->conf.instance);

        r->print = 0;
        return text ? rules_run(text, err) : err_oom(err);
}

/* ── events ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int open_events(int *ret, struct err *err)
{
        auto_fd fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
        struct sockaddr_nl sa = { .nl_family = AF_NETLINK };
        int group = NFNLGRP_NFTABLES;

        if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
            setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
                return err_sys(err, "watch the rule set");
        *ret = TAKE_FD(fd);
        return 0;
}

int rules_fd(const struct rules *r)
{
        return r->events;
}

/* What was changed does not matter, nor that some of it was lost (ENOBUFS): the table is compared afterwards. */
void rules_drain(struct rules *r)
{
        char buf[EVENT_MAX];

        while (recv(r->events, buf, sizeof(buf), MSG_DONTWAIT) >= 0 || errno == EINTR || errno == ENOBUFS)
                ;
}

int rules_new(const struct rules_conf *conf, struct rules **ret, struct err *err)
{
        struct rules *r = calloc(1, sizeof(*r));
        int e;

        if (!r)
                return err_oom(err);
        r->conf = *conf;
        r->nl.fd = r->events = -EBADF;
        e = nl_init(&r->nl, NETLINK_NETFILTER, err);
        if (e == 0)
                e = open_events(&r->events, err);
        if (e < 0) {
                rules_free(r);
                return e;
        }
        *ret = r;
        return 0;
}

void rules_free(struct rules *r)
{
        if (!r)
                return;
        nl_done(&r->nl);
        fd_close(r->events);
        free(r);
}
