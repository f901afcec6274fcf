/* mayfly-dns: relays the DNS questions of tasks to the resolvers of the host, where those listen on loopback or IPv6 only.
 * It binds port 53 of the instance's own address in the pool, which mayfly-netd makes local, and then gives up all that
 * it may: started as root it becomes --user; otherwise it needs CAP_NET_BIND_SERVICE for that moment. */
#include "base/fd.h"
#include "base/log.h"
#include "base/startup.h"
#include "base/str.h"
#include "net/dns.h"
#include "net/dns_sandbox.h"
#include "net/pool.h"
#include "net/priv.h"
#include "net/signals.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 53
#define BACKLOG 64
#define NOFILE 2048 /* for all questions and both ends of all connections */

struct options {
        uint32_t base, uid, gid;
        unsigned bits;
        bool has_user, die_with_parent;
};

static const char usage[] = "usage: mayfly-dns --pool CIDR [--user UID:GID] [--die-with-parent] [--debug]\n";

static int parse_option(struct options *o, int c, const char *arg)
{
        switch (c) {
        case 'p':
                return pool_parse_cidr(arg, &o->base, &o->bits);
        case 'U':
                o->has_user = true;
                return priv_parse_pair(arg, &o->uid, &o->gid);
        case 'x':
                o->die_with_parent = true;
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
                { "pool", required_argument, NULL, 'p' },
                { "user", required_argument, NULL, 'U' },
                { "die-with-parent", no_argument, NULL, 'x' },
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
        if (optind != argc || o->bits == 0)
                return err_set(err, EINVAL, "%s", usage);
        if (geteuid() == 0 && (!o->has_user || o->uid == 0))
                return err_set(err, EINVAL, "as root --user is needed");
        return 0;
}

/* The address may not be local yet: mayfly-netd starts beside us. */
static int open_socket(uint32_t address, int type, int *ret, struct err *err)
{
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(address) };
        auto_fd fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int one = 1;

        if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof(one)) < 0 ||
            (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0) ||
            bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || (type == SOCK_STREAM && listen(fd, BACKLOG) < 0)) {
                char text[INET_ADDRSTRLEN] = "";

                (void)inet_ntop(AF_INET, &sa.sin_addr, text, sizeof(text));
                return err_sys(err, "listen on %s, port %d", text, PORT);
        }
        *ret = TAKE_FD(fd);
        return 0;
}

static int become_user(const struct options *o, struct err *err)
{
        if (geteuid() != 0)
                return 0;
        for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        return err_sys(err, "drop capability %lu", cap);
        }
        if (setgroups(0, NULL) < 0 || setresgid(o->gid, o->gid, o->gid) < 0 || setresuid(o->uid, o->uid, o->uid) < 0)
                return err_sys(err, "become user %u:%u", (unsigned)o->uid, (unsigned)o->gid);
        return 0;
}

static int start(const struct options *o, struct resolv **resolv, struct dns **ret, struct err *err)
{
        struct dns_conf conf = { .base = o->base,
                                 .size = UINT32_C(1) << (32 - o->bits),
                                 .address = o->base + POOL_DNS_INDEX,
                                 .udp = -EBADF,
                                 .tcp = -EBADF };
        struct rlimit files = { NOFILE, NOFILE };
        pid_t parent = getppid();
        int r;

        (void)setrlimit(RLIMIT_NOFILE, &files);
        r = open_socket(conf.address, SOCK_DGRAM, &conf.udp, err);
        if (r == 0)
                r = open_socket(conf.address, SOCK_STREAM, &conf.tcp, err);
        if (r == 0)
                r = become_user(o, err);
        if (r == 0 && o->die_with_parent)
                r = priv_die_with(parent, err);
        if (r == 0)
                r = resolv_new(0, resolv, err);
        if (r == 0)
                return dns_new(&conf, *resolv, ret, err);
        fd_close(conf.udp);
        fd_close(conf.tcp);
        return r;
}

int main(int argc, char **argv)
{
        struct options o = { .bits = 0 };
        struct resolv *resolv = NULL;
        struct err err = ERR_INIT;
        struct dns *dns = NULL;
        auto_fd signals = -EBADF;
        int r;

        log_set_name("mayfly-dns");
        if (parse_options(argc, argv, &o, &err) < 0) {
                log_error("%s", err.text);
                return 2;
        }
        r = signals_open(&signals, &err);
        if (r == 0)
                r = start(&o, &resolv, &dns, &err);
        if (r == 0)
                r = dns_watch_stop(dns, signals, &err);
        if (r == 0)
                r = dns_sandbox(&err);
        if (r == 0)
                startup_forget();
        while (r == 0)
                r = dns_turn(dns, &err);
        if (r < 0)
                log_error("%s", err.text);
        dns_free(dns);
        resolv_free(resolv);
        return r < 0;
}
