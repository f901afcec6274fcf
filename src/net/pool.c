#include "net/pool.h"

#include "base/fd.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "net/ct.h"
#include "net/link.h"
#include "net/names.h"
#include "net/ns.h"
#include "net/scrub.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/random.h>

#define BUCKETS 1024
#define MODES 3
#define INDEX_NONE UINT32_C(0x80000000) /* indexes of NET_NONE have this bit: they stand for no address */
#define LOW_STOCK(p) (((p)->conf.stock + 3) / 4)

enum member_state { MEMBER_STOCK, MEMBER_OUT };

struct member {
        struct netns ns;
        enum member_state state;
        struct ns_fds fds;
        int ifindex;      /* of the link on the host, 0 without */
        uint64_t packets; /* that the link had carried at the last look */
        struct list bucket, stock;
};

struct pool {
        struct pool_conf conf;
        struct ns_home home;
        struct nl route, ct;
        int ipv6_conf; /* kept: the way there goes by the same name in every namespace that lives */
        struct list buckets[BUCKETS];
        struct list stock[MODES];
        unsigned in_stock[MODES];
        uint32_t size, next, next_none; /* addresses; where to look for a free index */
        uint8_t *tracked;               /* per index: conntrack may know its address */
};

/* ── members ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct list *stock_of(struct pool *p, uint32_t mode)
{
        return &p->stock[mode - NET_NONE];
}

static struct member *find_member(const struct pool *p, uint32_t index)
{
        struct list *head = (struct list *)&p->buckets[index % BUCKETS];
        struct member *m;

        LIST_FOREACH(m, head, bucket) {
                if (m->ns.index == index)
                        return m;
        }
        return NULL;
}

static void leave_stock(struct pool *p, struct member *m)
{
        if (m->state != MEMBER_STOCK)
                return;
        list_remove(&m->stock);
        p->in_stock[m->ns.mode - NET_NONE]--;
        m->state = MEMBER_OUT;
}

/* One that was handed out may have talked, or still do. */
static void free_member(struct pool *p, struct member *m)
{
        if (m->ifindex > 0 && m->state == MEMBER_OUT)
                p->tracked[m->ns.index] = 1;
        leave_stock(p, m);
        list_remove(&m->bucket);
        ns_fds_done(&m->fds);
        free(m);
}

static struct member *add_member(struct pool *p, const struct netns *ns, struct ns_fds *fds, int ifindex)
{
        struct member *m = calloc(1, sizeof(*m));

        if (!m)
                return NULL;
        m->ns = *ns;
        m->ns.fd = fds->ns;
        m->state = MEMBER_OUT;
        m->fds = *fds;
        *fds = (struct ns_fds)NS_FDS_INIT;
        m->ifindex = ifindex;
        list_init(&m->stock);
        list_append(&p->buckets[ns->index % BUCKETS], &m->bucket);
        return m;
}

/* ── indexes and addresses ───────────────────────────────────────────────────────────────────────────────────── */

int pool_parse_cidr(const char *text, uint32_t *ret_base, unsigned *ret_bits)
{
        const char *slash = strchr(text, '/');
        char address[INET_ADDRSTRLEN];
        struct in_addr in;
        uint32_t bits, base;

        if (!slash || (size_t)(slash - text) >= sizeof(address))
                return -EINVAL;
        memcpy(address, text, (size_t)(slash - text));
        address[slash - text] = '\0';
        if (inet_pton(AF_INET, address, &in) != 1 || parse_u32(slash + 1, &bits) < 0)
                return -EINVAL;
        base = ntohl(in.s_addr);
        if (bits < POOL_BITS_MIN || bits > POOL_BITS_MAX || (base & (UINT32_MAX >> bits)) != 0)
                return -EINVAL;
        *ret_base = base;
        *ret_bits = bits;
        return 0;
}

static bool link_exists(const struct pool *p, uint32_t index)
{
        char name[IFNAMSIZ];

        names_link(p->conf.prefix, NET_NAT, index, name);
        if (link_index(name) > 0)
                return true;
        names_link(p->conf.prefix, NET_INTERNET, index, name);
        return link_index(name) > 0;
}

/* The next index whose address is free. Going round keeps an address at rest for as long as possible. */
static int next_index(struct pool *p, uint32_t *ret, struct err *err)
{
        for (uint32_t tried = 0; tried < p->size; tried++) {
                uint32_t index = p->next;

                p->next = index + 1 < p->size - 1 ? index + 1 : POOL_FIRST_INDEX; /* nor the last address */
                if (find_member(p, index) || link_exists(p, index))
                        continue;
                *ret = index;
                return 0;
        }
        return err_set(err, EADDRNOTAVAIL, "all addresses of the pool are in use");
}

static uint32_t next_index_none(struct pool *p)
{
        uint32_t index;

        do
                index = INDEX_NONE | p->next_none++;
        while (find_member(p, index));
        return index;
}

static int forget_tracked(struct pool *p, uint32_t index, struct err *err)
{
        int r;

        if (!p->tracked[index])
                return 0;
        r = ct_flush(&p->ct, p->conf.base + index);
        if (r < 0)
                return err_set(err, -r, "delete conntrack entries: %s", strerror(-r));
        p->tracked[index] = 0;
        return 0;
}

/* ── making ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int open_route(void *data, struct err *err)
{
        return nl_init(data, NETLINK_ROUTE, err);
}

static int make_none(struct pool *p, struct netns *ns, struct ns_fds *fds, struct err *err)
{
        auto_nl inside = { .fd = -EBADF };
        int r;

        ns->index = next_index_none(p);
        r = ns_make(&p->home, open_route, &inside, fds, err);
        if (r < 0)
                return r;
        r = link_lo_up(&inside);
        return r < 0 ? err_set(err, -r, "bring lo up: %s", strerror(-r)) : 0;
}

static int make_wired(struct pool *p, struct netns *ns, struct ns_fds *fds, int *ret_ifindex, struct err *err)
{
        auto_nl inside = { .fd = -EBADF };
        struct link_pair pair = {
                .group = p->conf.group,
                .mtu = link_uplink_mtu(&p->route),
                .ipv6_conf = p->ipv6_conf,
        };
        char name[IFNAMSIZ];
        int r;

        r = next_index(p, &ns->index, err);
        if (r == 0)
                r = forget_tracked(p, ns->index, err);
        if (r == 0)
                r = ns_make(&p->home, open_route, &inside, fds, err);
        if (r < 0)
                return r;
        ns->address = p->conf.base + ns->index;
        names_link(p->conf.prefix, ns->mode, ns->index, name);
        pair.name = name;
        pair.ns_fd = fds->ns;
        pair.address = ns->address;
        return link_make(&p->route, &inside, &pair, ret_ifindex, err);
}

static int make_member(struct pool *p, uint32_t mode, struct member **ret, struct err *err)
{
        auto_ns_fds fds = NS_FDS_INIT;
        struct netns ns = { .mode = mode, .fd = -EBADF };
        struct member *m;
        int ifindex = 0, r;

        r = mode == NET_NONE ? make_none(p, &ns, &fds, err) : make_wired(p, &ns, &fds, &ifindex, err);
        if (r < 0)
                return r;
        m = add_member(p, &ns, &fds, ifindex);
        if (!m)
                return err_oom(err);
        *ret = m;
        return 0;
}

int pool_take(struct pool *p, uint32_t mode, const struct netns **ret, struct err *err)
{
        struct member *m = LIST_FIRST(stock_of(p, mode), struct member, stock);
        int r;

        if (m) {
                leave_stock(p, m);
        } else {
                r = make_member(p, mode, &m, err);
                if (r < 0)
                        return r;
        }
        *ret = &m->ns;
        return 0;
}

int pool_lacks(const struct pool *p)
{
        int lacks = 0;

        for (int i = 0; i < MODES; i++) {
                if (p->in_stock[i] < LOW_STOCK(p))
                        return 2;
                if (p->in_stock[i] < p->conf.stock)
                        lacks = 1;
        }
        return lacks;
}

int pool_fill(struct pool *p, struct err *err)
{
        struct member *m = NULL;
        int scarcest = 0, r;

        for (int i = 1; i < MODES; i++) {
                if (p->in_stock[i] < p->in_stock[scarcest])
                        scarcest = i;
        }
        if (p->in_stock[scarcest] >= p->conf.stock)
                return 0;
        r = make_member(p, NET_NONE + (uint32_t)scarcest, &m, err);
        if (r < 0)
                return r;
        m->state = MEMBER_STOCK;
        list_append(&p->stock[scarcest], &m->stock);
        p->in_stock[scarcest]++;
        return 0;
}

/* ── handed out ──────────────────────────────────────────────────────────────────────────────────────────────── */

static struct member *find_out(const struct pool *p, uint32_t index)
{
        struct member *m = find_member(p, index);

        return m && m->state == MEMBER_OUT ? m : NULL;
}

const struct netns *pool_find(const struct pool *p, uint32_t index)
{
        struct member *m = find_out(p, index);

        return m ? &m->ns : NULL;
}

/* What the network outside and the kernel learned of the last task's connections. */
static int clean_traffic(struct pool *p, struct member *m, struct err *err)
{
        uint64_t packets;
        int r;

        if (m->ifindex == 0)
                return 0;
        r = link_packets(&p->route, m->ifindex, &packets);
        if (r < 0)
                return err_set(err, -r, "statistics of its link: %s", strerror(-r));
        if (packets == m->packets)
                return 0;
        r = ct_flush(&p->ct, m->ns.address);
        if (r < 0)
                return err_set(err, -r, "delete conntrack entries: %s", strerror(-r));
        m->packets = packets;
        return ns_inside(&p->home, m->fds.ns, ns_flush_routes, NULL, err);
}

static int clean_member(struct pool *p, struct member *m, struct err *err)
{
        int r = scrub_sockets(&p->home, &m->fds, err);

        if (r == 0)
                return err_set(err, EBUSY, "sockets are left that cannot be ended");
        if (r < 0)
                return r;
        r = ns_knobs_intact(&p->home, &m->fds);
        if (r <= 0)
                return err_set(err, r < 0 ? -r : EPERM, "sysctls are not as they were made");
        return clean_traffic(p, m, err);
}

bool pool_clean(struct pool *p, uint32_t index, struct err *err)
{
        struct member *m = find_out(p, index);

        if (!m) {
                (void)err_set(err, ENOENT, "no such namespace is handed out");
                return false;
        }
        if (clean_member(p, m, err) == 0)
                return true;
        free_member(p, m);
        return false;
}

void pool_drop(struct pool *p, uint32_t index)
{
        struct member *m = find_out(p, index);

        if (m)
                free_member(p, m);
}

void pool_forget(struct pool *p)
{
        for (size_t i = 0; i < BUCKETS; i++) {
                struct member *m;

                LIST_FOREACH(m, &p->buckets[i], bucket) {
                        if (m->state == MEMBER_OUT)
                                free_member(p, m);
                }
        }
}

/* ── adopting ────────────────────────────────────────────────────────────────────────────────────────────────── */

struct inside_view {
        struct nl nl;
        struct link_list links;
        uint32_t address; /* of the link that is not lo */
        const struct link_info *link;
};

static int look_inside(void *data, struct err *err)
{
        struct inside_view *v = data;
        int r = nl_init(&v->nl, NETLINK_ROUTE, err);

        if (r < 0)
                return r;
        r = link_list(&v->nl, &v->links);
        if (r == 0 && v->links.found.len == 2) {
                v->link = &v->links.found.items[v->links.found.items[0].ifindex == 1 ? 1 : 0];
                r = link_address(&v->nl, v->link->ifindex, &v->address);
        }
        return r < 0 ? err_set(err, -r, "look into a namespace: %s", strerror(-r)) : 0;
}

static void inside_view_done(struct inside_view *v)
{
        nl_done(&v->nl);
        link_list_done(&v->links);
}

/* The link on the host that is the other end of the namespace's, if that is one of ours. */
static int match_link(struct pool *p, const struct ns_fds *fds, const struct inside_view *v, struct netns *ns,
                      int *ret_ifindex)
{
        auto_link_list host = { .found.items = NULL };
        int32_t nsid;

        if (!v->link || !v->link->veth || link_list(&p->route, &host) < 0)
                return -EPERM;
        if (link_nsid(&p->route, fds->ns, &nsid) < 0 || nsid < 0)
                return -EPERM;
        for (size_t i = 0; i < host.found.len; i++) {
                const struct link_info *l = &host.found.items[i];
                uint32_t mode, index;

                if (l->ifindex != v->link->peer || l->peer != v->link->ifindex || l->peer_nsid != nsid || !l->veth)
                        continue;
                if (!names_link_parse(p->conf.prefix, l->name, &mode, &index) || mode != ns->mode ||
                    index != ns->index || index >= p->size || v->address != p->conf.base + index ||
                    v->address != ns->address)
                        return -EPERM;
                *ret_ifindex = l->ifindex;
                return 0;
        }
        return -EPERM;
}

static int inspect(struct pool *p, const struct ns_fds *fds, struct netns *ns, int *ret_ifindex, struct err *err)
{
        struct inside_view v = { .nl.fd = -EBADF };
        int r = ns_inside(&p->home, fds->ns, look_inside, &v, err);

        if (r == 0 && ns->mode == NET_NONE && (v.links.found.len != 1 || !(ns->index & INDEX_NONE)))
                r = err_set(err, EPERM, "not a namespace without network");
        if (r == 0 && ns->mode != NET_NONE && match_link(p, fds, &v, ns, ret_ifindex) < 0)
                r = err_set(err, EPERM, "its link is none of ours");
        inside_view_done(&v);
        return r;
}

int pool_adopt(struct pool *p, int fd, uint32_t mode, uint32_t index, uint32_t address, struct err *err)
{
        auto_ns_fds fds = NS_FDS_INIT;
        struct netns ns = { .index = index, .mode = mode, .address = address };
        int ifindex = 0, r;

        r = ns_open(&p->home, fd, &fds, err);
        if (r < 0)
                return r;
        if (find_member(p, index))
                return err_set(err, EEXIST, "namespace %#x is known already", index);
        r = inspect(p, &fds, &ns, &ifindex, err);
        if (r < 0)
                return r;
        return add_member(p, &ns, &fds, ifindex) ? 0 : err_oom(err);
}

/* ── links at large ──────────────────────────────────────────────────────────────────────────────────────────── */

/* Of our prefix, and with `all` false, of no namespace known here. */
static int remove_links(struct pool *p, bool all, struct err *err)
{
        auto_link_list host = { .found.items = NULL };
        uint32_t old = p->conf.group ^ NAMES_GROUP_OLD;
        unsigned n = 0;
        int r = link_list(&p->route, &host);

        for (size_t i = 0; r == 0 && i < host.found.len; i++) {
                const struct link_info *l = &host.found.items[i];
                uint32_t mode, index;

                if (!l->veth || !names_link_parse(p->conf.prefix, l->name, &mode, &index))
                        continue;
                if (!all && index < p->size && find_member(p, index))
                        continue;
                if (index < p->size)
                        p->tracked[index] = 1;
                if (link_set_group(&p->route, l->ifindex, old) == 0) /* else it has gone meanwhile */
                        n++;
        }
        if (r == 0 && n > 0)
                r = link_delete_group(&p->route, old);
        return r < 0 ? err_set(err, -r, "remove links: %s", strerror(-r)) : 0;
}

uint32_t pool_from_stock(struct pool *p, int (*fn)(void *data, struct err *err), void *data)
{
        struct member *m = LIST_FIRST(stock_of(p, NET_NAT), struct member, stock);

        return m && ns_inside(&p->home, m->fds.ns, fn, data, NULL) == 0 ? m->ns.address : 0;
}

int pool_sweep(struct pool *p, struct err *err)
{
        return remove_links(p, false, err);
}

int pool_remove_links(struct pool *p, struct err *err)
{
        return remove_links(p, true, err);
}

static void note_tracked(uint32_t address, void *data)
{
        struct pool *p = data;

        if (address >= p->conf.base && address - p->conf.base < p->size)
                p->tracked[address - p->conf.base] = 1;
}

static int pool_init(struct pool *p, struct err *err)
{
        int r;

        p->tracked = calloc(p->size, 1);
        if (!p->tracked)
                return err_oom(err);
        r = ns_home_init(&p->home, p->conf.id_lo, p->conf.id_hi, err);
        if (r == 0)
                r = nl_init(&p->route, NETLINK_ROUTE, err);
        if (r == 0)
                r = nl_init(&p->ct, NETLINK_NETFILTER, err);
        if (r < 0)
                return r;
        p->ipv6_conf = open("/proc/sys/net/ipv6/conf", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (p->ipv6_conf < 0 && errno != ENOENT)
                return err_sys(err, "open /proc/sys/net/ipv6/conf");
        /* Nobody knows what an earlier netd's tasks left; an incomplete answer only means more work later. */
        if (ct_sources(&p->ct, note_tracked, p) < 0)
                memset(p->tracked, 1, p->size);
        /* After a restart the indexes of namespaces that will be adopted must be unlikely to be given again. */
        if (getrandom(&p->next_none, sizeof(p->next_none), 0) < 0)
                p->next_none = 0;
        p->next_none &= ~INDEX_NONE;
        return 0;
}

int pool_new(const struct pool_conf *conf, struct pool **ret, struct err *err)
{
        struct pool *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return err_oom(err);
        p->conf = *conf;
        p->size = UINT32_C(1) << (32 - conf->bits);
        p->next = POOL_FIRST_INDEX;
        p->home.home = p->home.nursery = p->route.fd = p->ct.fd = p->ipv6_conf = -EBADF;
        for (size_t i = 0; i < BUCKETS; i++)
                list_init(&p->buckets[i]);
        for (size_t i = 0; i < MODES; i++)
                list_init(&p->stock[i]);
        r = pool_init(p, err);
        if (r < 0) {
                pool_free(p);
                return r;
        }
        *ret = p;
        return 0;
}

void pool_free(struct pool *p)
{
        if (!p)
                return;
        for (size_t i = 0; i < BUCKETS; i++) {
                struct member *m;

                LIST_FOREACH(m, &p->buckets[i], bucket)
                        free_member(p, m);
        }
        ns_home_done(&p->home);
        nl_done(&p->route);
        nl_done(&p->ct);
        fd_close(p->ipv6_conf);
        free(p->tracked);
        free(p);
}
