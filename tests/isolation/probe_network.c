#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TARGETS_MAX 128
#define PATIENCE_MS 1500 /* for an answer that must not come */
#define REACH_MS 20000   /* for one that must, on a busy machine */

struct target {
        char text[80];
        struct sockaddr_storage address;
        socklen_t len;
        int fd;
        bool answered;
};

/* "10.0.0.1|80" or "fd00::1|80". */
static bool parse_target(const char *text, struct target *t)
{
        char host[64];
        int port;
        struct sockaddr_in *v4 = (struct sockaddr_in *)&t->address;
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&t->address;

        memset(t, 0, sizeof(*t));
        snprintf(t->text, sizeof(t->text), "%s", text);
        t->fd = -1;
        if (sscanf(text, "%63[^|]|%d", host, &port) != 2)
                return false;
        if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
                v4->sin_family = AF_INET;
                v4->sin_port = htons((uint16_t)port);
                t->len = sizeof(*v4);
                return true;
        }
        if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
                return false;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        t->len = sizeof(*v6);
        return true;
}

static size_t parse_targets(const char *list, struct target *targets)
{
        char *text = strdup(list), *save = NULL;
        size_t n = 0;

        for (char *p = strtok_r(text, ",", &save); p && n < TARGETS_MAX; p = strtok_r(NULL, ",", &save)) {
                if (parse_target(p, &targets[n]))
                        n++;
                else
                        fail("network: target", "cannot read '%s'", p);
        }
        free(text);
        return n;
}

/* Connects to all at once and waits a while: which connections came about? */
static void connect_all(struct target *targets, size_t n, int patience_ms)
{
        struct pollfd polls[TARGETS_MAX];
        size_t open_ones = 0;

        for (size_t i = 0; i < n; i++) {
                struct target *t = &targets[i];

                t->fd = socket(t->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                if (t->fd < 0)
                        continue;
                if (connect(t->fd, (struct sockaddr *)&t->address, t->len) == 0) {
                        t->answered = true;
                } else if (errno != EINPROGRESS) {
                        close(t->fd);
                        t->fd = -1;
                }
        }
        for (int left = patience_ms; left > 0; left -= 100) {
                open_ones = 0;
                for (size_t i = 0; i < n; i++)
                        polls[i] = (struct pollfd){ .fd = targets[i].fd, .events = POLLOUT };
                poll(polls, (nfds_t)n, 100);
                for (size_t i = 0; i < n; i++) {
                        int error = 0;
                        socklen_t len = sizeof(error);

                        if (targets[i].fd < 0)
                                continue;
                        open_ones++;
                        if (!(polls[i].revents & (POLLOUT | POLLERR | POLLHUP)))
                                continue;
                        getsockopt(targets[i].fd, SOL_SOCKET, SO_ERROR, &error, &len);
                        targets[i].answered = error == 0;
                        close(targets[i].fd);
                        targets[i].fd = -1;
                }
                if (open_ones == 0)
                        break;
        }
        for (size_t i = 0; i < n; i++) {
                if (targets[i].fd >= 0)
                        close(targets[i].fd);
        }
}

static void must_not_answer(void)
{
        static struct target targets[TARGETS_MAX];
        const char *list = option("refuse");
        size_t n = list ? parse_targets(list, targets) : 0;

        connect_all(targets, n, PATIENCE_MS);
        for (size_t i = 0; i < n; i++) {
                char name[128];

                snprintf(name, sizeof(name), "network: %.79s does not answer", targets[i].text);
                check(!targets[i].answered, name, "it does");
        }
}

static void must_answer(void)
{
        static struct target targets[TARGETS_MAX];
        const char *list = option("reach");
        size_t n = list ? parse_targets(list, targets) : 0;

        connect_all(targets, n, REACH_MS);
        for (size_t i = 0; i < n; i++) {
                char name[128];

                snprintf(name, sizeof(name), "network: %.79s answers", targets[i].text);
                check(targets[i].answered, name, "it does not");
        }
}

/* The token must not arrive at the host's listeners; whether it did, the test outside knows. */
static void send_datagrams(void)
{
        static struct target targets[TARGETS_MAX];
        const char *list = option("udp"), *token = option("token");
        size_t n = list ? parse_targets(list, targets) : 0;

        for (size_t i = 0; i < n && token; i++) {
                int fd = socket(targets[i].address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

                if (fd < 0)
                        continue;
                sendto(fd, token, strlen(token), 0, (struct sockaddr *)&targets[i].address, targets[i].len);
                close(fd);
        }
}

/* The gateway is an address of the host that no list from outside need name. */
static void gateway(void)
{
        unsigned long destination, via;
        char interface[32], list[256] = "", address[INET_ADDRSTRLEN];
        const char *port = option("port");
        static struct target targets[TARGETS_MAX];

        for (const char *p = strchr(slurp("/proc/net/route"), '\n'); p && p[1]; p = strchr(p + 1, '\n')) {
                struct in_addr a;

                if (sscanf(p + 1, "%31s %lx %lx", interface, &destination, &via) != 3 || via == 0)
                        continue;
                a.s_addr = (in_addr_t)via;
                inet_ntop(AF_INET, &a, address, sizeof(address));
                if (port)
                        snprintf(list, sizeof(list), "%s|%s", address, port);
        }
        if (!list[0]) {
                skip("network: the gateway does not answer", "there is no route by one");
                return;
        }
        connect_all(targets, parse_targets(list, targets), PATIENCE_MS);
        check(!targets[0].answered, "network: the gateway does not answer", "%s does", list);
}

static void interfaces(void)
{
        struct ifaddrs *all = NULL, *i;
        const char *mode = option("network");
        int others = 0, v6 = 0;
        bool up = false;

        if (getifaddrs(&all) < 0) {
                fail("network: interfaces", "%s", strerror(errno));
                return;
        }
        for (i = all; i; i = i->ifa_next) {
                if (strcmp(i->ifa_name, "lo") == 0)
                        up |= (i->ifa_flags & IFF_UP) != 0;
                else if (!i->ifa_addr || i->ifa_addr->sa_family == AF_PACKET)
                        others++;
                else if (i->ifa_addr->sa_family == AF_INET6)
                        v6++;
        }
        freeifaddrs(all);
        check(up, "network: lo is up", "it is not");
        if (mode && strcmp(mode, "none") == 0)
                check(others == 0, "network: only lo", "%d others", others);
        else
                check(others == 1, "network: lo and one more", "%d others", others);
        check(v6 == 0, "network: no IPv6 address", "%d", v6);
}

static void loopback_works(void)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof(a);
        int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        check(bind(l, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(l, 1) == 0 &&
                      getsockname(l, (struct sockaddr *)&a, &len) == 0 &&
                      connect(c, (struct sockaddr *)&a, sizeof(a)) == 0,
              "network: loopback works", "%s", strerror(errno));
        close(c);
        close(l);
        l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        a.sin_port = htons(80);
        check(bind(l, (struct sockaddr *)&a, sizeof(a)) == 0, "network: port 80 can be had", "%s", strerror(errno));
        close(l);
}

static void abstract_sockets(void)
{
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        const char *name = option("abstract");
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        socklen_t len;

        if (!name) {
                skip("network: abstract sockets of the host", "none was named");
                close(fd);
                return;
        }
        len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
        memcpy(a.sun_path + 1, name, strlen(name));
        check(connect(fd, (struct sockaddr *)&a, len) < 0, "network: abstract sockets of the host", "connected");
        check(!strchr(slurp("/proc/net/unix"), '@') || !strstr(slurp("/proc/net/unix"), name),
              "network: /proc/net/unix is our own", "the host's is listed");
        close(fd);
}

static void no_administration(void)
{
        struct ifreq r = { .ifr_name = "lo" };
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;
        struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;

        a->sin_family = AF_INET;
        a->sin_addr.s_addr = htonl(0x0a090807);
        check(ioctl(fd, SIOCSIFADDR, &r) < 0, "network: no address can be added", "it could");
        r = (struct ifreq){ .ifr_name = "lo", .ifr_flags = 0 };
        check(ioctl(fd, SIOCSIFFLAGS, &r) < 0, "network: no link can be changed", "it could");
        check(setsockopt(fd, SOL_IP, 19 /* IP_TRANSPARENT */, &one, sizeof(one)) < 0,
              "network: no foreign source address", "IP_TRANSPARENT was allowed");
        check(setsockopt(fd, SOL_SOCKET, SO_MARK, &one, sizeof(one)) < 0, "network: no packet mark",
              "SO_MARK was allowed");
        close(fd);
        check(TRY(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)) != 0, "network: no raw socket", "it could be made");
        check(TRY(socket(AF_PACKET, SOCK_RAW, 0)) != 0, "network: no packet socket", "it could be made");
}

void probe_network(void)
{
        interfaces();
        loopback_works();
        abstract_sockets();
        no_administration();
        must_not_answer();
        must_answer();
        gateway();
        send_datagrams();
}
