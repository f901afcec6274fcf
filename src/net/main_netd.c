/* mayfly-netd: fills pools of network namespaces for mayflyd and owns the instance's nftables table. Started as root it
 * becomes --user; otherwise it needs CAP_NET_ADMIN and CAP_SYS_ADMIN (ambient, by a systemd unit).
 *
 * SIGTERM: links, routes, forwarding and table are put back as they were. Killed in any other way it leaves them, so that
 * running tasks keep their network, and the next netd takes over; likewise while --tasks-in names a cgroup that has
 * processes, since a service manager restarts netd alone. Who ends the tasks after that runs it with --clean: it puts all
 * back, unless another netd is there to do it. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/str.h"
#include "base/time.h"
#include "net/docker.h"
#include "net/firewall.h"
#include "net/forward.h"
#include "net/names.h"
#include "net/pool.h"
#include "net/priv.h"
#include "net/resolv.h"
#include "net/route.h"
#include "net/rules.h"
#include "net/server.h"
#include "net/signals.h"
#include "net/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/netlink.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define STOCK_DEFAULT 16
#define STOCK_MAX 1024
#define QUIET_MS 5        /* without a message before the stock is filled */
#define CHECK_MS 5000     /* between looks at what nobody announces */
#define PROBE_MS 300      /* between sending the first datagram and looking for it */
#define RETRY_MS 1000     /* after something failed */
#define RESTORE_GAP_MS 20 /* between two restorations, if somebody fights for the rules */
#define ACTIVATED_FD 3    /* sd_listen_fds(3) */

struct options {
        const char *socket, *state, *name, *tasks_in;
        uint32_t peer_uid, peer_gid, uid, gid, stock, connections;
        bool has_peer, has_user, die_with_parent, clean;
        char prefix[NAMES_PREFIX_MAX];
        struct pool_conf pool;
};

struct netd {
        struct options opt;
        int state_dir, signals, lock, xtables; /* xtables: docker_legacy_open_lock() */
        struct nl route, nft;
        struct pool *pool;
        struct rules *rules;
        struct resolv *resolv;
        struct server *server;
        struct route_uplinks uplinks;
        uint64_t check_at, probe_at, fill_after, restore_after;
        uint32_t probed;   /* the address from which a datagram was sent; 0: none */
        struct str notice; /* what a firewall does to tasks */
        bool rules_due, stop;
};

/* ── command line ────────────────────────────────────────────────────────────────────────────────────────────── */

static const char usage[] =
        "usage: mayfly-netd --socket PATH --state DIR --peer-uid UID --peer-gid GID --pool CIDR --id-range LO:HI\n"
        "                   [--name INSTANCE] [--user UID:GID] [--stock N] [--connections N] [--die-with-parent]\n"
        "                   [--tasks-in CGROUP] [--clean] [--debug]\n";

static int parse_option(struct options *o, int c, const char *arg)
{
        switch (c) {
        case 's':
                o->socket = arg;
                return 0;
        case 'd':
                o->state = arg;
                return 0;
        case 'u':
                o->has_peer = true;
                return parse_u32(arg, &o->peer_uid);
        case 'g':
                return parse_u32(arg, &o->peer_gid);
        case 'p':
                return pool_parse_cidr(arg, &o->pool.base, &o->pool.bits);
        case 'n':
                o->name = arg;
                return names_instance_valid(arg) ? 0 : -EINVAL;
        case 'r':
                return priv_parse_pair(arg, &o->pool.id_lo, &o->pool.id_hi) < 0 || o->pool.id_lo > o->pool.id_hi
                               ? -EINVAL
                               : 0;
        case 'U':
                o->has_user = true;
                return priv_parse_pair(arg, &o->uid, &o->gid);
        case 'k':
                return parse_u32(arg, &o->stock) < 0 || o->stock > STOCK_MAX ? -EINVAL : 0;
        case 'C':
                return parse_u32(arg, &o->connections);
        case 'x':
                o->die_with_parent = true;
                return 0;
        case 't':
                o->tasks_in = arg;
                return *arg && strlen(arg) <= USAGE_CGROUP_MAX ? 0 : -EINVAL;
        case 'c':
                o->clean = true;
                return 0;
        case 'D':
                log_set_level(LOG_LEVEL_DEBUG);
                return 0;
        default:
                return -ENOENT;
        }
}

static int parse_options(int argc, char **argv, struct options *o, struct err *err)
{
        static const struct option longs[] = {
                { "socket", required_argument, NULL, 's' },
                { "state", required_argument, NULL, 'd' },
                { "peer-uid", required_argument, NULL, 'u' },
                { "peer-gid", required_argument, NULL, 'g' },
                { "pool", required_argument, NULL, 'p' },
                { "name", required_argument, NULL, 'n' },
                { "id-range", required_argument, NULL, 'r' },
                { "user", required_argument, NULL, 'U' },
                { "stock", required_argument, NULL, 'k' },
                { "connections", required_argument, NULL, 'C' },
                { "die-with-parent", no_argument, NULL, 'x' },
                { "tasks-in", required_argument, NULL, 't' },
                { "clean", no_argument, NULL, 'c' },
                { "debug", no_argument, NULL, 'D' },
                { NULL, 0, NULL, 0 },
        };
        int c, at = 0;

        while ((c = getopt_long(argc, argv, "", longs, &at)) != -1) {
                int r = parse_option(o, c, optarg);

                if (r == -ENOENT)
                        return err_set(err, EINVAL, "%s", usage);
                if (r < 0)
                        return err_set(err, EINVAL, "--%s: '%s' is not valid", longs[at].name, optarg);
        }
        if (optind != argc || !o->socket || !o->state || !o->has_peer || o->pool.bits == 0 || o->pool.id_hi == 0)
                return err_set(err, EINVAL, "%s", usage);
        if (geteuid() == 0 && (!o->has_user || o->uid == 0))
                return err_set(err, EINVAL, "as root --user is needed");
        names_prefix(o->name, o->prefix);
        o->pool.prefix = o->prefix;
        o->pool.group = names_group(o->name);
        o->pool.stock = o->stock;
        return 0;
}

/* ── start ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The socket of a systemd unit, else one of our own. */
static int open_listener(const struct options *o, int *ret, struct err *err)
{
        const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
        uint32_t for_pid;

        if (!pid || !str_eq(fds, "1") || parse_u32(pid, &for_pid) < 0 || for_pid != (uint32_t)getpid())
                return fd_listen_unix(o->socket, SOCK_SEQPACKET, o->peer_uid, o->peer_gid, 0600, ret, err);
        if (fcntl(ACTIVATED_FD, F_SETFD, FD_CLOEXEC) < 0 || fd_set_nonblock(ACTIVATED_FD, true) < 0)
                return err_sys(err, "take the socket of the unit");
        *ret = ACTIVATED_FD;
        return 0;
}

/* The directory of state is ours alone; root makes it for us. */
static int open_state(const struct options *o, int *ret, struct err *err)
{
        auto_fd fd = -EBADF;

        if (mkdir(o->state, 0700) < 0 && errno != EEXIST)
                return err_sys(err, "make '%s'", o->state);
        fd = open(o->state, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || (geteuid() == 0 && (fchown(fd, o->uid, o->gid) < 0 || fchmod(fd, 0700) < 0)))
                return err_sys(err, "open '%s'", o->state);
        *ret = TAKE_FD(fd);
        return 0;
}

static struct route_pool own_routes(const struct netd *d)
{
        return (struct route_pool){
                .prefix = d->opt.prefix,
                .metric = d->opt.pool.group,
                .base = d->opt.pool.base,
                .dns = d->opt.pool.base + POOL_DNS_INDEX,
                .bits = d->opt.pool.bits,
        };
}

static int apply_rules(struct netd *d, struct err *err)
{
        const struct resolv_conf *conf = resolv_get(d->resolv);
        struct rules_input input = { .n_resolvers = MIN(conf->n, (size_t)RULES_RESOLVERS_MAX), .uplinks = d->uplinks };

        memcpy(input.resolvers, conf->servers, input.n_resolvers * sizeof(input.resolvers[0]));
        return rules_apply(d->rules, &input, err);
}

/* What it takes to change anything, or to put it back. */
static int open_network(struct netd *d, struct err *err)
{
        const struct route_pool routes = own_routes(d);
        const struct rules_conf rules = { .instance = d->opt.name,
                                          .prefix = d->opt.prefix,
                                          .base = routes.base,
                                          .dns = routes.dns,
                                          .bits = routes.bits,
                                          .connections = d->opt.connections };
        int r;

        r = names_lock(d->opt.name, &d->lock, err);
        if (r == 0)
                r = nl_init(&d->route, NETLINK_ROUTE, err);
        if (r == 0)
                r = nl_init(&d->nft, NETLINK_NETFILTER, err);
        if (r == 0)
                r = pool_new(&d->opt.pool, &d->pool, err);
        return r < 0 ? r : rules_new(&rules, &d->rules, err);
}

static int start_network(struct netd *d, struct err *err)
{
        const struct route_pool routes = own_routes(d);
        int r;

        r = open_network(d, err);
        if (r == 0)
                r = route_check(&d->route, &routes, err);
        if (r == 0)
                r = resolv_new(routes.dns, &d->resolv, err);
        if (r < 0)
                return r;
        (void)route_uplinks(&d->route, &d->uplinks);
        /* Nothing is forwarded before the rules stand. */
        r = apply_rules(d, err);
        if (r == 0)
                r = route_claim(&d->route, &routes, err);
        if (r == 0)
                r = forward_enable(d->state_dir, err);
        return r;
}

static int start(struct netd *d, struct err *err)
{
        auto_fd listener = -EBADF;
        pid_t parent = getppid();
        int r;

        r = signals_open(&d->signals, err);
        if (r == 0)
                r = open_state(&d->opt, &d->state_dir, err);
        if (r == 0)
                r = open_listener(&d->opt, &listener, err);
        if (r < 0)
                return r;
        priv_raise_nofile();
        d->xtables = docker_legacy_open_lock();
        r = priv_drop(d->opt.uid, d->opt.gid, err);
        if (r == 0 && d->opt.die_with_parent)
                r = priv_die_with(parent, err);
        if (r == 0)
                r = start_network(d, err);
        if (r < 0)
                return r;
        return server_new(TAKE_FD(listener), d->opt.peer_uid, d->pool, d->resolv, &d->server, err);
}

/* ── work ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint64_t now_ms(void)
{
        return time_mono_ns() / NS_PER_MS;
}

static int log_failure(int r, struct err *err)
{
        if (r < 0)
                log_error("%s", err->text);
        err->num = 0;
        return r < 0;
}

/* Docker's chain comes with it, and whenever somebody flushes the rules and Docker makes its own again. */
static void keep_docker(struct netd *d)
{
        struct err err = ERR_INIT;
        int r = docker_keep(&d->nft, d->opt.prefix, &err);

        (void)log_failure(r, &err);
        if (r > 0)
                log_info("Docker is here: its chain " DOCKER_CHAIN " accepts the traffic of tasks");
}

static void restore_rules(struct netd *d)
{
        struct err err = ERR_INIT;

        if (now_ms() < d->restore_after)
                return;
        d->rules_due = false;
        rules_drain(d->rules);
        keep_docker(d);
        if (rules_whole(d->rules))
                return;
        log_warn("the rules of table inet %s were changed: they are restored", d->opt.name);
        if (rules_restore(d->rules, &err) < 0) {
                log_error("%s", err.text);
                d->rules_due = true;
                d->restore_after = now_ms() + RETRY_MS;
                return;
        }
        d->restore_after = now_ms() + RESTORE_GAP_MS;
}

static void apply_changes(struct netd *d)
{
        struct err err = ERR_INIT;

        if (apply_rules(d, &err) < 0) {
                log_error("%s", err.text);
                d->rules_due = true;
        }
}

static void update_resolv(struct netd *d)
{
        const struct resolv_conf *conf = resolv_get(d->resolv);

        if (!resolv_update(d->resolv))
                return;
        log_info("resolvers: %zu%s", conf->n_asked, conf->forwarded ? ", for tasks by mayfly-dns" : "");
        apply_changes(d);
        server_resolv_changed(d->server);
}

static void update_uplinks(struct netd *d)
{
        struct route_uplinks now;

        memset(&now, 0, sizeof(now));
        if (route_uplinks(&d->route, &now) < 0 || memcmp(&now, &d->uplinks, sizeof(now)) == 0)
                return;
        d->uplinks = now;
        apply_changes(d);
}

static int send_probe(void *data, struct err *err)
{
        (void)err;
        firewall_send(*(const uint32_t *)data);
        return 0;
}

/* Sends datagrams, and the next time looks what became of them. */
static void probe_firewalls(struct netd *d)
{
        uint32_t dns = own_routes(d).dns, from = d->probed;
        auto_str notice = STR_INIT;
        bool known = false;

        for (int way = FIREWALL_FORWARD; way <= FIREWALL_DNS && from > 0; way++) {
                enum firewall_state state = FIREWALL_UNKNOWN;

                if (way == FIREWALL_FORWARD || resolv_get(d->resolv)->forwarded)
                        state = firewall_result(&d->nft, d->opt.name, from, (enum firewall_way)way);
                known |= state != FIREWALL_UNKNOWN;
                if (state != FIREWALL_CLOSED)
                        continue;
                if (notice.len > 0)
                        (void)str_adds(&notice, ". And ");
                (void)firewall_describe(&d->nft, d->opt.name, dns, (enum firewall_way)way, &notice);
        }
        if (known && !str_eq(notice.data ? notice.data : "", d->notice.data ? d->notice.data : "")) {
                if (notice.len > 0)
                        log_warn("%s", notice.data);
                else
                        log_info("no firewall stands in the way of tasks any more");
                str_clear(&d->notice);
                (void)str_add(&d->notice, notice.data ? notice.data : "", notice.len);
                server_notice(d->server, d->notice.data ? d->notice.data : "");
        }
        d->probed = from > 0 ? 0 : pool_from_stock(d->pool, send_probe, &dns);
        d->probe_at = now_ms() + (from > 0 ? CHECK_MS : PROBE_MS); /* at the start there is no stock yet */
}

static void check(struct netd *d)
{
        struct err err = ERR_INIT;
        int r = forward_keep(d->state_dir, &err);

        (void)log_failure(r, &err);
        if (r > 0)
                log_warn("ip_forward was switched off: it is on again");
        d->rules_due = true;
        r = docker_legacy_keep(d->opt.prefix, d->xtables, &err); /* which nobody announces */
        (void)log_failure(r, &err);
        if (r > 0)
                log_info("Docker is here: iptables-legacy's " DOCKER_CHAIN " accepts the traffic of tasks");
        update_resolv(d);
        update_uplinks(d);
        d->check_at = now_ms() + CHECK_MS;
}

static void fill(struct netd *d)
{
        struct err err = ERR_INIT;

        if (pool_fill(d->pool, &err) == 0)
                return;
        log_error("%s", err.text);
        d->fill_after = now_ms() + RETRY_MS;
}

static int time_to_wait(const struct netd *d, int lacks)
{
        uint64_t now = now_ms(), until = d->check_at;

        until = MIN(until, d->probe_at);
        if (d->rules_due && d->restore_after < until)
                until = d->restore_after;
        if (lacks > 0 && now < d->fill_after)
                until = MIN(until, d->fill_after);
        else if (lacks > 0)
                until = MIN(until, lacks > 1 ? now : now + QUIET_MS);
        return until > now ? (int)(until - now) : 0;
}

static void turn(struct netd *d)
{
        struct pollfd p[] = {
                { .fd = d->signals, .events = POLLIN },
                server_poll(d->server),
                { .fd = rules_fd(d->rules), .events = POLLIN },
                { .fd = resolv_fd(d->resolv), .events = POLLIN },
        };
        int lacks = pool_lacks(d->pool), n;

        n = poll(p, ARRAY_LEN(p), time_to_wait(d, lacks));
        if (n < 0)
                return; /* EINTR */
        if (p[0].revents) {
                d->stop = true;
                return;
        }
        if (p[2].revents)
                d->rules_due = true;
        if (d->rules_due)
                restore_rules(d);
        if (p[1].revents)
                server_ready(d->server, p[1].revents);
        if (p[3].revents)
                update_resolv(d);
        if (now_ms() >= d->check_at)
                check(d);
        if (now_ms() >= d->probe_at)
                probe_firewalls(d);
        if ((lacks > 1 || (lacks > 0 && n == 0)) && now_ms() >= d->fill_after)
                fill(d);
}

/* Everything as it was. The links go first: without rules they would be open. */
static int put_back(struct netd *d)
{
        const struct route_pool routes = own_routes(d);
        struct err err = ERR_INIT;
        int failed = 0;

        failed |= log_failure(pool_remove_links(d->pool, &err), &err);
        failed |= log_failure(docker_remove(&d->nft, d->opt.prefix, &err), &err);
        failed |= log_failure(docker_legacy_remove(d->opt.prefix, d->xtables, &err), &err);
        failed |= log_failure(forward_restore(d->state_dir, &err), &err);
        failed |= log_failure(rules_remove(d->rules, &err), &err);
        failed |= log_failure(route_release(&d->route, &routes, &err), &err);
        return failed;
}

static int stop(struct netd *d)
{
        server_free(d->server);
        d->server = NULL;
        if (d->opt.tasks_in && usage_is_any(d->opt.tasks_in)) {
                log_info("there may be tasks: links and rules stay, for the next mayfly-netd");
                return 0;
        }
        return put_back(d);
}

/* For who ended the tasks. 0 also when there is another netd, which puts everything back itself when it stops. */
static int clean(struct netd *d, struct err *err)
{
        int r = open_state(&d->opt, &d->state_dir, err);

        d->xtables = docker_legacy_open_lock();
        if (r == 0)
                r = priv_drop(d->opt.uid, d->opt.gid, err);
        if (r == 0)
                r = open_network(d, err);
        if (r == -EBUSY)
                return 0;
        if (r == 0)
                return put_back(d);
        log_error("%s", err->text);
        return 1;
}

static void netd_done(struct netd *d)
{
        server_free(d->server);
        str_done(&d->notice);
        rules_free(d->rules);
        resolv_free(d->resolv);
        pool_free(d->pool);
        nl_done(&d->route);
        nl_done(&d->nft);
        fd_close(d->lock);
        fd_close(d->signals);
        fd_close(d->xtables);
        fd_close(d->state_dir);
}

int main(int argc, char **argv)
{
        struct netd d = { .state_dir = -EBADF,
                          .signals = -EBADF,
                          .lock = -EBADF,
                          .xtables = -EBADF,
                          .route.fd = -EBADF,
                          .nft.fd = -EBADF };
        struct err err = ERR_INIT;
        int code = 1;

        log_set_name("mayfly-netd");
        d.opt.name = NAMES_DEFAULT;
        d.opt.stock = STOCK_DEFAULT;
        if (parse_options(argc, argv, &d.opt, &err) < 0) {
                log_error("%s", err.text);
                return 2;
        }
        (void)umask(077);
        if (d.opt.clean) {
                code = clean(&d, &err);
        } else if (start(&d, &err) == 0) {
                while (!d.stop)
                        turn(&d);
                code = stop(&d);
        } else {
                log_error("%s", err.text);
        }
        netd_done(&d);
        return code;
}
