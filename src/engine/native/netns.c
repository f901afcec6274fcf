/* Network namespaces: a stock of fresh ones, and those that their owner's last container left clean. */

#include "engine/native/internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void net_defer(struct native *n);

static struct list *netns_list(struct native_net *net, const struct netns *ns)
{
        switch (ns->state) {
        case NETNS_STOCK:
                return &net->stock[ns->mode];
        case NETNS_USED:
                return &net->used;
        case NETNS_CLEANING:
                return &net->cleaning;
        case NETNS_IDLE:
                return &net->idle;
        }
        return NULL;
}

static void netns_move(struct native_net *net, struct netns *ns, enum netns_state state)
{
        if (ns->state == NETNS_STOCK)
                net->n_stock[ns->mode]--;
        if (ns->state == NETNS_IDLE)
                net->n_idle--;
        list_remove(&ns->node);
        ns->state = state;
        list_append(netns_list(net, ns), &ns->node);
        if (state == NETNS_STOCK)
                net->n_stock[ns->mode]++;
        if (state == NETNS_IDLE)
                net->n_idle++;
}

static struct netns *netns_new(struct native_net *net, int fd, uint32_t mode, uint32_t index, uint32_t address,
                               enum netns_state state)
{
        struct netns *ns = calloc(1, sizeof(*ns));

        if (!ns) {
                fd_close(fd);
                return NULL;
        }
        ns->fd = fd;
        ns->mode = mode;
        ns->index = index;
        ns->address = address;
        ns->state = state;
        list_append(netns_list(net, ns), &ns->node);
        if (state == NETNS_STOCK)
                net->n_stock[mode]++;
        return ns;
}

static void netns_free(struct native_net *net, struct netns *ns)
{
        if (ns->state == NETNS_STOCK)
                net->n_stock[ns->mode]--;
        if (ns->state == NETNS_IDLE)
                net->n_idle--;
        list_remove(&ns->node);
        fd_close(ns->fd);
        free(ns->owner);
        free(ns);
}

static int net_send(struct native *n, struct net_msg *m, const struct netns *ns)
{
        m->seq = ++n->net.seq;
        return peer_send(&n->net.peer, m, sizeof(*m), ns ? &ns->fd : NULL, ns ? 1 : 0, NULL);
}

/* Not wanted any more: netd forgets it, and it dies with our descriptor. */
static void netns_drop(struct native *n, struct netns *ns)
{
        struct net_msg m = { .op = NET_OP_DROP, .index = ns->index };

        if (ns->known)
                (void)net_send(n, &m, NULL);
        netns_free(&n->net, ns);
}

static bool mode_valid(uint32_t mode)
{
        return mode >= NET_NONE && mode <= NET_INTERNET;
}

/* ── from netd ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct netns *find_seq(struct list *list, uint32_t seq)
{
        struct netns *ns;

        LIST_FOREACH(ns, list, node) {
                if (ns->seq == seq)
                        return ns;
        }
        return NULL;
}

static struct netns *find_adopting(struct native_net *net, uint32_t seq)
{
        struct list *lists[] = { &net->used, &net->idle, &net->stock[NET_NONE], &net->stock[NET_NAT],
                                 &net->stock[NET_INTERNET] };

        for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
                struct netns *ns = find_seq(lists[i], seq);

                if (ns && ns->adopting)
                        return ns;
        }
        return NULL;
}

static void net_serve_waiters(struct native *n, uint32_t mode)
{
        struct native_net *net = &n->net;
        struct native_container *c;

        while (net->n_stock[mode] > 0 && (c = LIST_FIRST(&net->waiters[mode], struct native_container, wait_node))) {
                list_remove(&c->wait_node);
                native_container_advance(c);
        }
}

/* How many namespaces may lie about, where the limit on descriptors is low. */
static unsigned spare_max(const struct native *n)
{
        uint64_t all = (uint64_t)n->max_idle + (uint64_t)n->stock * NET_INTERNET;
        struct rlimit files = { .rlim_cur = NATIVE_FDS_PLENTY };

        (void)getrlimit(RLIMIT_NOFILE, &files);
        if (files.rlim_cur >= NATIVE_FDS_PLENTY)
                return (unsigned)MIN(all, (uint64_t)UINT_MAX);
        return (unsigned)MIN(all, MAX(files.rlim_cur / NATIVE_CACHE_SHARE, (rlim_t)1));
}

static unsigned spare_now(const struct native_net *net)
{
        unsigned sum = net->n_idle;

        for (uint32_t mode = NET_NONE; mode < NATIVE_MODES; mode++)
                sum += net->n_stock[mode] + net->asked[mode];
        return sum;
}

static void drop_first(struct native *n, struct list *list)
{
        struct netns *ns = LIST_FIRST(list, struct netns, node);

        if (ns)
                netns_drop(n, ns);
}

void native_net_shrink(struct native *n)
{
        struct native_net *net = &n->net;

        while (!list_empty(&net->idle))
                drop_first(n, &net->idle);
        for (uint32_t mode = NET_NONE; mode < NATIVE_MODES; mode++)
                while (!list_empty(&net->stock[mode]))
                        drop_first(n, &net->stock[mode]);
}

static void on_cleaned(struct native *n, const struct net_msg *m)
{
        struct native_net *net = &n->net;
        struct netns *ns = find_seq(&net->cleaning, m->seq);

        if (ns) {
                if (!m->ok) {
                        netns_free(net, ns);
                        return;
                }
                netns_move(net, ns, NETNS_IDLE);
                while (net->n_idle > n->max_idle || (net->n_idle > 0 && spare_now(net) > spare_max(n)))
                        drop_first(n, &net->idle);
                return;
        }
        ns = find_adopting(net, m->seq);
        if (!ns)
                return;
        ns->adopting = false;
        ns->known = m->ok;
        if (!m->ok && ns->state != NETNS_USED)
                netns_free(net, ns);
}

static void on_netns(struct native *n, const struct net_msg *m, int *fds, size_t n_fds)
{
        struct native_net *net = &n->net;
        struct netns *ns;

        if (!mode_valid(m->mode) || n_fds != 1) {
                peer_drop(&net->peer);
                return;
        }
        if (net->asked[m->mode] > 0)
                net->asked[m->mode]--;
        ns = netns_new(net, TAKE_FD(fds[0]), m->mode, m->index, m->address, NETNS_STOCK);
        if (!ns)
                return;
        ns->known = true;
        net->came_ns[m->mode] = time_mono_ns();
        net_serve_waiters(n, m->mode);
}

/* No more of this mode can be had: who waits for one learns it. */
static void on_failed(struct native *n, const struct net_msg *m)
{
        struct native_net *net = &n->net;
        struct native_container *c;
        char text[120];

        log_debug("netd: request %u failed: %s", m->seq, strerror(m->error));
        if (!mode_valid(m->mode))
                return;
        net->asked[m->mode] -= MIN(net->asked[m->mode], MAX(m->count, 1U));
        if (net->asked[m->mode] > 0)
                return;
        (void)snprintf(text, sizeof(text), "no network namespace could be made: %s", strerror(m->error));
        while ((c = LIST_FIRST(&net->waiters[m->mode], struct native_container, wait_node))) {
                list_remove(&c->wait_node);
                native_container_failed(c, ENGINE_END_START_ERROR, m->error, text);
        }
}

static void on_packet(struct peer *p, const void *packet, size_t len, int *fds, size_t n_fds, void *data)
{
        struct native *n = data;
        struct native_net *net = &n->net;
        struct net_msg m;

        if (len < sizeof(m)) {
                peer_drop(p);
                return;
        }
        memcpy(&m, packet, sizeof(m));
        switch (m.op) {
        case NET_OP_HELLO:
                if (m.version != NET_VERSION) {
                        log_debug("netd speaks version %u, not %u", m.version, NET_VERSION);
                        peer_drop(p);
                        return;
                }
                net->greeted = true;
                native_net_sync(n);
                break;
        case NET_OP_RESOLV:
                if (m.len > NET_RESOLV_MAX || len != sizeof(m) + m.len) {
                        peer_drop(p);
                        return;
                }
                str_clear(&net->resolv);
                (void)str_add(&net->resolv, (const char *)packet + sizeof(m), m.len);
                break;
        case NET_OP_NOTICE:
                if (m.len > NET_NOTICE_MAX || len != sizeof(m) + m.len) {
                        peer_drop(p);
                        return;
                }
                str_clear(&net->notice);
                (void)str_add(&net->notice, (const char *)packet + sizeof(m), m.len);
                break;
        case NET_OP_NETNS:
                on_netns(n, &m, fds, n_fds);
                break;
        case NET_OP_CLEANED:
                on_cleaned(n, &m);
                break;
        case NET_OP_FAILED:
                on_failed(n, &m);
                break;
        default:
                peer_drop(p);
        }
}

/* ── connection ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_connected(struct peer *p, void *data)
{
        struct net_msg m = { .op = NET_OP_HELLO, .version = NET_VERSION };

        (void)p;
        (void)net_send(data, &m, NULL);
}

static void net_forget(struct list *list)
{
        struct netns *ns;

        LIST_FOREACH(ns, list, node) {
                ns->known = ns->adopting = false;
        }
}

/* A namespace whose cleaning was not confirmed is not used again. */
static void on_closed(struct peer *p, void *data)
{
        struct native *n = data;
        struct native_net *net = &n->net;
        struct netns *ns;

        (void)p;
        net->greeted = net->synced = false;
        str_clear(&net->notice); /* the next netd tells its own */
        while ((ns = LIST_FIRST(&net->cleaning, struct netns, node)))
                netns_free(net, ns);
        net_forget(&net->used);
        net_forget(&net->idle);
        for (uint32_t mode = NET_NONE; mode < NATIVE_MODES; mode++) {
                net_forget(&net->stock[mode]);
                net->asked[mode] = 0;
        }
}

static void net_adopt_list(struct native *n, struct list *list)
{
        struct netns *ns;

        LIST_FOREACH(ns, list, node) {
                struct net_msg m = {
                        .op = NET_OP_ADOPT,
                        .mode = ns->mode,
                        .index = ns->index,
                        .address = ns->address,
                };

                if (net_send(n, &m, ns) == 0) {
                        ns->seq = m.seq;
                        ns->adopting = true;
                }
        }
}

void native_net_sync(struct native *n)
{
        struct native_net *net = &n->net;
        struct net_msg m = { .op = NET_OP_SYNCED };

        /* Before the launcher told what runs, netd would take away the links of running containers. */
        if (!net->greeted || net->synced || !n->listed)
                return;
        net_adopt_list(n, &net->used);
        net_adopt_list(n, &net->idle);
        for (uint32_t mode = NET_NONE; mode < NATIVE_MODES; mode++)
                net_adopt_list(n, &net->stock[mode]);
        if (net_send(n, &m, NULL) < 0)
                return;
        net->synced = true;
        peer_settled(&net->peer);
        net_defer(n);
}

int native_net_init(struct native *n, const char *path, struct err *err)
{
        static const struct peer_ops ops = { .connected = on_connected, .packet = on_packet, .closed = on_closed };
        struct native_net *net = &n->net;

        list_init(&net->used);
        list_init(&net->cleaning);
        list_init(&net->idle);
        list_init(&net->leaving);
        for (size_t i = 0; i < NATIVE_MODES; i++) {
                list_init(&net->stock[i]);
                list_init(&net->waiters[i]);
        }
        return peer_init(&net->peer, n->loop, path, &ops, n, err);
}

void native_net_done(struct native *n)
{
        struct native_net *net = &n->net;
        struct list *lists[] = {
                &net->used,           &net->cleaning,           &net->idle, &net->leaving, &net->stock[NET_NONE],
                &net->stock[NET_NAT], &net->stock[NET_INTERNET]
        };
        struct netns *ns;

        peer_done(&net->peer);
        for (size_t i = 0; i < ARRAY_LEN(lists); i++)
                while ((ns = LIST_FIRST(lists[i], struct netns, node)))
                        netns_free(net, ns);
        str_done(&net->resolv);
        str_done(&net->notice);
        /* A deferred call cannot be taken back. */
        net->synced = false;
        while (net->deferred && loop_turn(n->loop, 0, NULL) >= 0)
                continue;
}

/* ── what the turn left to do ────────────────────────────────────────────────────────────────────────────────────── */

static void net_clean(struct native *n, struct netns *ns)
{
        struct net_msg m = { .op = NET_OP_CLEAN, .index = ns->index };

        netns_move(&n->net, ns, NETNS_CLEANING);
        if (net_send(n, &m, NULL) < 0)
                netns_free(&n->net, ns);
        else
                ns->seq = m.seq;
}

static unsigned count_waiters(const struct list *list)
{
        unsigned count = 0;

        for (const struct list *l = list->next; l != list; l = l->next)
                count++;
        return count;
}

static void net_refill(struct native *n, uint32_t mode)
{
        struct native_net *net = &n->net;
        unsigned waiters = count_waiters(&net->waiters[mode]);
        unsigned have = net->n_stock[mode] + net->asked[mode];
        unsigned spare = spare_now(net), most = spare_max(n);
        unsigned want = waiters + MIN(net->want[mode], have + (most > spare ? most - spare : 0));

        /* In portions: half the stock is enough to wait for the rest. */
        if (have >= want || (waiters == 0 && have > want / 2))
                return;
        while (have < want) {
                struct net_msg m = {
                        .op = NET_OP_ACQUIRE,
                        .mode = mode,
                        .count = MIN(want - have, (unsigned)NET_ACQUIRE_MAX),
                };

                if (net_send(n, &m, NULL) < 0)
                        return;
                net->asked[mode] += m.count;
                have += m.count;
        }
}

unsigned native_net_owed(const struct native *n)
{
        unsigned owed = 0;

        for (uint32_t mode = NET_NONE; mode < NATIVE_MODES; mode++)
                owed += n->net.asked[mode];
        return owed;
}

/* Behind the answers of this turn: cleaning would compete with them for the processors. */
static void on_deferred(void *data)
{
        struct native *n = data;
        struct native_net *net = &n->net;
        struct netns *ns;

        net->deferred = false;
        while ((ns = LIST_FIRST(&net->leaving, struct netns, node)))
                net_clean(n, ns);
        for (uint32_t mode = NET_NONE; mode < NATIVE_MODES && net->synced; mode++)
                net_refill(n, mode);
}

static void net_defer(struct native *n)
{
        if (!n->net.deferred)
                n->net.deferred = loop_defer(n->loop, on_deferred, n) == 0;
}

/* ── for containers ──────────────────────────────────────────────────────────────────────────────────────────────── */

static struct netns *find_idle(struct native_net *net, uint32_t mode, const char *owner)
{
        /* The newest first: the oldest ones are then those that nobody misses. */
        for (struct list *l = net->idle.prev; l != &net->idle; l = l->prev) {
                struct netns *ns = CONTAINER_OF(l, struct netns, node);

                if (ns->mode == mode && !ns->adopting && str_eq(ns->owner, owner))
                        return ns;
        }
        return NULL;
}

void native_net_acquire(struct native *n, struct native_container *c)
{
        struct native_net *net = &n->net;
        struct netns *ns = find_idle(net, c->mode, c->owner);

        if (!ns) {
                ns = LIST_FIRST(&net->stock[c->mode], struct netns, node);
                net->want[c->mode] = n->stock;
                net_defer(n);
        }
        if (ns && !ns->owner) {
                ns->owner = strdup(c->owner);
                if (!ns->owner)
                        ns = NULL;
        }
        if (!ns) {
                list_append(&net->waiters[c->mode], &c->wait_node);
                return;
        }
        netns_move(net, ns, NETNS_USED);
        c->netns = ns;
}

void native_net_release(struct native *n, struct netns *ns)
{
        if (!ns)
                return;
        if (!ns->known || ns->adopting || !ns->owner) {
                netns_drop(n, ns);
                return;
        }
        list_remove(&ns->node);
        list_append(&n->net.leaving, &ns->node);
        net_defer(n);
}

void native_net_taint(struct netns *ns)
{
        free(ns->owner);
        ns->owner = NULL;
}

struct netns *native_net_adopt(struct native *n, int fd, uint32_t mode, uint32_t index, uint32_t address,
                               const char *owner)
{
        struct netns *ns;

        if (!mode_valid(mode)) {
                fd_close(fd);
                return NULL;
        }
        ns = netns_new(&n->net, fd, mode, index, address, NETNS_USED);
        if (ns)
                ns->owner = strdup(owner);
        return ns;
}
