/* mayfly-netd as a whole, in a network of its own: nothing of the machine changes. What its tests share.
 *
 *     tasks ── "host": a namespace in which netd and the test run ── uplink ── "world": a namespace with all servers
 *
 * The world has a public server, a private one, the metadata service and a resolver. Needs root, ip and nft. */
#pragma once

#include "base/err.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "net/ct.h"
#include "net/forward.h"
#include "net/names.h"
#include "net/proto.h"
#include "net/run.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define INSTANCE "netdtest"
#define POOL "10.213.0.0/24"
#define PEER_UID 64124
#define PEER_NAME "64124"
#define NETD_USER "64123:64123"
#define PORT 8080
#define PATIENCE_MS 20000 /* for what must happen */
#define SILENCE_MS 300    /* for what must not */

#define PUBLIC "203.0.113.7"
#define PRIVATE "192.168.7.7"
#define METADATA "169.254.169.254"
#define RESOLVER "192.168.53.53" /* private, so that internet mode needs the exception */
#define UPLINK "198.51.100.2"
#define HOST_PRIVATE "172.31.9.9"
#define OTHER_INSTANCE "10.214.0.1"
#define SKIPPED 77

struct netns {
        int fd;
        uint32_t index, mode;
        char address[INET_ADDRSTRLEN];
};

static struct {
        char dir[64], socket[96], state[96];
        int host, world;
        pid_t netd, servers[3];
        int peer;
        char resolv[NET_RESOLV_MAX + 1];
        unsigned resolvs;  /* messages seen */
        char tasks_in[64]; /* "": netd stops as the supervisor's does; else the cgroup of tasks */
} t = { .host = -EBADF, .world = -EBADF, .peer = -EBADF };

/* ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline int sh(const char *text)
{
        static const char *const places[] = { "/bin/sh", NULL };
        static const char *const argv[] = { "sh", "-ec", "PATH=/usr/sbin:/sbin:/usr/bin:/bin; . /dev/stdin", NULL };
        struct err err = ERR_INIT;
        int r = run_program(places, argv, text, &err);

        if (r < 0)
                print_message("%s: %s\n", text, err.text);
        return r;
}

static inline bool sh_ok(const char *text)
{
        static const char *const places[] = { "/bin/sh", NULL };
        static const char *const argv[] = { "sh", "-ec", "PATH=/usr/sbin:/sbin:/usr/bin:/bin; . /dev/stdin", NULL };

        return run_program(places, argv, text, NULL) == 0;
}

static inline uint64_t now_ms(void)
{
        return time_mono_ns() / NS_PER_MS;
}

/* Waits until the command succeeds. */
static inline bool sh_until(const char *text)
{
        uint64_t end = now_ms() + PATIENCE_MS;

        while (!sh_ok(text)) {
                if (now_ms() > end)
                        return false;
                (void)poll(NULL, 0, 20);
        }
        return true;
}

static inline void enter(int ns)
{
        assert_int_equal(setns(ns, CLONE_NEWNET), 0);
}

static inline int own_ns(void)
{
        int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        return fd;
}

static inline int new_ns(void)
{
        int fd;

        assert_int_equal(unshare(CLONE_NEWNET), 0);
        fd = own_ns();
        assert_int_equal(sh("ip link set lo up"), 0);
        return fd;
}

static inline struct sockaddr_in sockaddr(const char *address, uint16_t port)
{
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };

        assert_int_equal(inet_pton(AF_INET, address, &sa.sin_addr), 1);
        return sa;
}

static inline uint64_t read_number(const char *path)
{
        uint64_t n = UINT64_MAX;

        assert_int_equal(fd_read_knob_u64(AT_FDCWD, path, &n), 0);
        return n;
}

static inline void reap(pid_t pid)
{
        if (pid <= 0)
                return;
        (void)kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static inline void disconnect(void)
{
        fd_replace(&t.peer, -EBADF);
}

/* ── servers ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/* From the address that was asked, which need not be the one that the kernel would choose. */
static inline void answer_datagram(int fd)
{
        union {
                char buf[CMSG_SPACE(sizeof(struct in_pktinfo))];
                struct cmsghdr align;
        } control;
        struct sockaddr_in from;
        char data[4];
        struct iovec iov = { data, 1 };
        struct msghdr msg = { .msg_name = &from,
                              .msg_namelen = sizeof(from),
                              .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control) };
        struct in_pktinfo *info;

        if (recvmsg(fd, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
                return;
        info = (struct in_pktinfo *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
        info->ipi_ifindex = 0;
        info->ipi_spec_dst = info->ipi_addr;
        memcpy(data, &from.sin_addr, 4);
        iov.iov_len = 4;
        (void)sendmsg(fd, &msg, 0);
}

/* Every port here answers everybody with the address that it saw: TCP and UDP, PORT and 53. */
static inline _Noreturn void serve(int ready)
{
        static const uint16_t ports[] = { PORT, 53 };
        struct pollfd p[4];

        for (int i = 0; i < 4; i++) {
                struct sockaddr_in sa = sockaddr("0.0.0.0", ports[i / 2]);
                int one = 1;

                p[i].fd = socket(AF_INET, i % 2 ? SOCK_DGRAM : SOCK_STREAM, 0);
                p[i].events = POLLIN;
                (void)setsockopt(p[i].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
                (void)setsockopt(p[i].fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one));
                if (bind(p[i].fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || (i % 2 == 0 && listen(p[i].fd, 64) < 0))
                        _exit(1);
        }
        (void)!write(ready, "x", 1);
        close(ready);
        for (;;) {
                (void)poll(p, 4, -1);
                for (int i = 0; i < 4; i++) {
                        struct sockaddr_in from;
                        socklen_t len = sizeof(from);

                        if (!p[i].revents)
                                continue;
                        if (i % 2) {
                                answer_datagram(p[i].fd);
                        } else {
                                int fd = accept(p[i].fd, (struct sockaddr *)&from, &len);

                                (void)!write(fd, &from.sin_addr, 4);
                                close(fd);
                        }
                }
        }
}

static inline pid_t start_server(int ns)
{
        int ready[2];
        char c;
        pid_t pid;

        assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (setns(ns, CLONE_NEWNET) < 0)
                        _exit(1);
                close(ready[0]);
                disconnect(); /* or netd would never see the end of it */
                serve(ready[1]);
        }
        close(ready[1]);
        assert_int_equal(read(ready[0], &c, 1), 1);
        close(ready[0]);
        return pid;
}

/* ── probes ──────────────────────────────────────────────────────────────────────────────────────────────────── */

struct probe {
        const char *address;
        uint16_t port;
        int type;
        bool expected, answered;
        uint32_t seen_as; /* network byte order */
};

static inline int send_probe(const struct probe *p)
{
        struct sockaddr_in sa = sockaddr(p->address, p->port);
        int fd = socket(AF_INET, p->type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno != EINPROGRESS) {
                close(fd);
                return -1;
        }
        if (p->type == SOCK_DGRAM)
                (void)!write(fd, "x", 1);
        return fd;
}

#define PROBES_MAX 40

/* Waits for the expected answers, then for a while for the others. */
static inline void await_probes(struct probe *p, size_t n)
{
        uint64_t end = now_ms() + PATIENCE_MS;
        struct pollfd fds[PROBES_MAX];
        size_t missing = 0;

        for (size_t i = 0; i < n; i++) {
                fds[i] = (struct pollfd){ .fd = send_probe(&p[i]), .events = POLLIN };
                missing += p[i].expected;
        }
        while (now_ms() < end) {
                if (missing == 0) {
                        end = MIN(end, now_ms() + SILENCE_MS);
                        missing = SIZE_MAX; /* the end is fixed now */
                }
                (void)poll(fds, n, 20);
                for (size_t i = 0; i < n; i++) {
                        if (!(fds[i].revents & (POLLIN | POLLERR | POLLHUP)))
                                continue;
                        p[i].answered = read(fds[i].fd, &p[i].seen_as, 4) == 4;
                        if (p[i].answered && p[i].expected && missing != SIZE_MAX)
                                missing--;
                        fds[i].fd = -1;
                }
        }
}

static inline void run_probes(int ns, struct probe *p, size_t n)
{
        size_t size = n * sizeof(*p);
        int back[2], status;
        pid_t pid;

        assert_true(n <= PROBES_MAX);
        assert_int_equal(pipe2(back, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                if (setns(ns, CLONE_NEWNET) < 0)
                        _exit(1);
                await_probes(p, n);
                _exit(write(back[1], p, size) == (ssize_t)size ? 0 : 1);
        }
        close(back[1]);
        assert_int_equal(fd_read_full(back[0], p, size), 0);
        close(back[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

/* All that tasks may or may not reach. `neighbours` are two addresses of other tasks that serve. */
static inline void check_matrix(const struct netns *ns, const char *const neighbours[2])
{
        bool nat = ns->mode == NET_NAT, out = nat || ns->mode == NET_INTERNET;
        struct probe p[] = {
                { PUBLIC, PORT, SOCK_STREAM, out, false, 0 },
                { PUBLIC, PORT, SOCK_DGRAM, out, false, 0 },
                { PUBLIC, 53, SOCK_DGRAM, out, false, 0 },
                { PRIVATE, PORT, SOCK_STREAM, nat, false, 0 },
                { PRIVATE, 53, SOCK_DGRAM, nat, false, 0 },
                { RESOLVER, 53, SOCK_STREAM, out, false, 0 },
                { RESOLVER, 53, SOCK_DGRAM, out, false, 0 },
                { RESOLVER, PORT, SOCK_STREAM, nat, false, 0 },
                { METADATA, PORT, SOCK_STREAM, false, false, 0 },
                { METADATA, 53, SOCK_DGRAM, false, false, 0 },
                { UPLINK, PORT, SOCK_STREAM, false, false, 0 },
                { UPLINK, PORT, SOCK_DGRAM, false, false, 0 },
                { UPLINK, 53, SOCK_DGRAM, false, false, 0 },
                { UPLINK, 53, SOCK_STREAM, false, false, 0 },
                { UPLINK, 8081, SOCK_STREAM, false, false, 0 }, /* published: DNAT to PRIVATE */
                { HOST_PRIVATE, PORT, SOCK_STREAM, false, false, 0 },
                { HOST_PRIVATE, 53, SOCK_DGRAM, false, false, 0 },
                { "127.0.0.1", PORT, SOCK_STREAM, false, false, 0 },
                { "127.0.0.53", 53, SOCK_DGRAM, false, false, 0 },
                { "169.254.1.1", PORT, SOCK_STREAM, false, false, 0 }, /* the gateway */
                { "169.254.1.1", 53, SOCK_DGRAM, false, false, 0 },
                { "198.51.100.255", PORT, SOCK_DGRAM, false, false, 0 },
                { "10.213.0.0", PORT, SOCK_STREAM, false, false, 0 },
                { "10.213.0.255", PORT, SOCK_DGRAM, false, false, 0 },
                { OTHER_INSTANCE, PORT, SOCK_STREAM, false, false, 0 },
                { neighbours[0], PORT, SOCK_STREAM, false, false, 0 },
                { neighbours[0], PORT, SOCK_DGRAM, false, false, 0 },
                { neighbours[0], 53, SOCK_DGRAM, false, false, 0 },
                { neighbours[1], PORT, SOCK_STREAM, false, false, 0 },
                { neighbours[1], 53, SOCK_DGRAM, false, false, 0 },
        };
        int wrong = 0;

        run_probes(ns->fd, p, ARRAY_LEN(p));
        for (size_t i = 0; i < ARRAY_LEN(p); i++) {
                if (p[i].answered != p[i].expected) {
                        print_message("mode %u: %s port %u type %d: %s\n", ns->mode, p[i].address, p[i].port, p[i].type,
                                      p[i].answered ? "answers" : "does not answer");
                        wrong++;
                }
                if (p[i].answered) /* outside only the host is seen */
                        assert_int_equal(p[i].seen_as, sockaddr(UPLINK, 0).sin_addr.s_addr);
        }
        assert_int_equal(wrong, 0);
}

static inline bool reaches(int ns, const char *address, uint16_t port, bool expected)
{
        struct probe p = { address, port, SOCK_STREAM, expected, false, 0 };

        run_probes(ns, &p, 1);
        return p.answered;
}

/* ── the protocol ────────────────────────────────────────────────────────────────────────────────────────────── */

static inline void start_netd(void)
{
        const char *build = getenv("MAYFLY_BUILD");
        auto_free char *path = str_printf("%s/mayfly-netd", build);

        t.netd = fork();
        assert_true(t.netd >= 0);
        if (t.netd == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                execl(path, "mayfly-netd", "--socket", t.socket, "--state", t.state, "--peer-uid", PEER_NAME,
                      "--peer-gid", PEER_NAME, "--pool", POOL, "--name", INSTANCE, "--id-range", "100000:165535",
                      "--user", NETD_USER, "--stock", "3", t.tasks_in[0] ? "--tasks-in" : "--die-with-parent",
                      t.tasks_in[0] ? t.tasks_in : (char *)NULL, (char *)NULL);
                _exit(127);
        }
}

static inline int connect_as(uid_t uid)
{
        uint64_t end = now_ms() + PATIENCE_MS;
        int fd = -EBADF, r;

        do {
                assert_int_equal(seteuid(uid), 0);
                r = fd_connect_unix(t.socket, SOCK_SEQPACKET, &fd, NULL);
                assert_int_equal(seteuid(0), 0);
                if (r < 0)
                        (void)poll(NULL, 0, 10);
        } while (r < 0 && now_ms() < end);
        return r < 0 ? r : fd;
}

static inline void send_msg(struct net_msg m, int fd)
{
        assert_int_equal(fd_send(t.peer, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0), 0);
}

/* The next message that is no RESOLV; false when the connection is closed. */
static inline bool next_msg(struct net_msg *ret, int *ret_fd)
{
        char data[sizeof(*ret) + NET_RESOLV_MAX];

        for (;;) {
                struct pollfd p = { .fd = t.peer, .events = POLLIN };
                size_t len = 0, n = 1;
                int fd = -EBADF, r;

                assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
                r = fd_recv(t.peer, data, sizeof(data), &len, &fd, &n);
                if (r == -ECONNRESET || (r == 0 && len == 0))
                        return false;
                assert_int_equal(r, 0);
                assert_true(len >= sizeof(*ret));
                memcpy(ret, data, sizeof(*ret));
                if (ret_fd)
                        *ret_fd = n > 0 ? fd : -EBADF;
                else if (n > 0)
                        close(fd);
                if (ret->op != NET_OP_RESOLV)
                        return true;
                assert_int_equal(len, sizeof(*ret) + ret->len);
                memcpy(t.resolv, data + sizeof(*ret), ret->len);
                t.resolv[ret->len] = '\0';
                t.resolvs++;
        }
}

static inline struct net_msg expect(uint32_t op, int *ret_fd)
{
        struct net_msg m = { .op = 0 };

        assert_true(next_msg(&m, ret_fd));
        assert_int_equal(m.op, op);
        return m;
}

static inline void connect_netd(void)
{
        struct net_msg m;

        t.peer = connect_as(PEER_UID);
        assert_true(t.peer >= 0);
        send_msg((struct net_msg){ .op = NET_OP_HELLO, .seq = 7, .version = NET_VERSION }, -EBADF);
        m = expect(NET_OP_HELLO, NULL);
        assert_int_equal(m.seq, 7);
        assert_int_equal(m.version, NET_VERSION);
}

static inline struct netns acquire(uint32_t mode)
{
        struct netns ns = { .fd = -EBADF };
        struct net_msg m;
        struct in_addr in;

        send_msg((struct net_msg){ .op = NET_OP_ACQUIRE, .seq = 11, .mode = mode, .count = 1 }, -EBADF);
        m = expect(NET_OP_NETNS, &ns.fd);
        assert_int_equal(m.seq, 11);
        assert_int_equal(m.mode, mode);
        assert_true(ns.fd >= 0);
        ns.index = m.index;
        ns.mode = mode;
        in.s_addr = m.address;
        assert_int_equal(m.address == 0, mode == NET_NONE);
        assert_non_null(inet_ntop(AF_INET, &in, ns.address, sizeof(ns.address)));
        return ns;
}

static inline bool cleaned(uint32_t seq, uint32_t index)
{
        struct net_msg m = expect(NET_OP_CLEANED, NULL);

        assert_int_equal(m.seq, seq);
        assert_int_equal(m.index, index);
        return m.ok == 1;
}

static inline bool clean(const struct netns *ns)
{
        send_msg((struct net_msg){ .op = NET_OP_CLEAN, .seq = 12, .index = ns->index }, -EBADF);
        return cleaned(12, ns->index);
}

static inline bool adopt(const struct netns *ns, int fd, uint32_t index)
{
        struct net_msg m = { .op = NET_OP_ADOPT, .seq = 13, .mode = ns->mode, .index = index };

        m.address = ns->mode == NET_NONE ? 0 : sockaddr(ns->address, 0).sin_addr.s_addr;
        send_msg(m, fd);
        return cleaned(13, index);
}

static inline void drop(struct netns *ns)
{
        send_msg((struct net_msg){ .op = NET_OP_DROP, .index = ns->index }, -EBADF);
        fd_replace(&ns->fd, -EBADF);
}

/* Waits until netd has done all that was sent before. */
static inline void settle(void)
{
        send_msg((struct net_msg){ .op = NET_OP_CLEAN, .seq = 14, .index = UINT32_C(0x7fffffff) }, -EBADF);
        assert_false(cleaned(14, UINT32_C(0x7fffffff)));
}

static inline void link_name(const struct netns *ns, char out[IFNAMSIZ])
{
        char prefix[NAMES_PREFIX_MAX];

        names_prefix(INSTANCE, prefix);
        names_link(prefix, ns->mode, ns->index, out);
}

/* ── set-up ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline int set_resolvers(const char *text)
{
        return fd_write_file(AT_FDCWD, "/etc/resolv.conf", 0644, text, strlen(text), NULL);
}

/* A private /etc, of which netd reads only resolv.conf. */
static inline int private_etc(void)
{
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", "/etc", "tmpfs", 0, "mode=0755") < 0)
                return -errno;
        return set_resolvers("nameserver " RESOLVER "\nsearch test.example\n");
}

static inline int make_world(void)
{
        t.world = new_ns();
        if (sh("ip addr add " PUBLIC "/32 dev lo\n"
               "ip addr add " PRIVATE "/32 dev lo\n"
               "ip addr add " METADATA "/32 dev lo\n"
               "ip addr add " RESOLVER "/32 dev lo\n") < 0)
                return -EIO;
        t.servers[0] = start_server(t.world);
        t.host = new_ns();
        return 0;
}

static inline int set_up(void **state)
{
        char text[1024];

        (void)state;
        (void)snprintf(t.dir, sizeof(t.dir), "/tmp/mayfly-netdtest-%d", (int)getpid());
        (void)snprintf(t.socket, sizeof(t.socket), "%s/netd.sock", t.dir);
        (void)snprintf(t.state, sizeof(t.state), "%s/state", t.dir);
        if (mkdir(t.dir, 0755) < 0 || private_etc() < 0 || make_world() < 0)
                return -1;
        (void)snprintf(text, sizeof(text),
                       "ip link add up0 type veth peer name w0 netns /proc/%d/fd/%d\n"
                       "ip addr add " UPLINK "/24 dev up0\n"
                       "ip addr add " HOST_PRIVATE "/32 dev lo\n"
                       "ip link set up0 up\n"
                       "ip route add default via 198.51.100.1\n"
                       "echo 0 >/proc/sys/net/ipv4/ip_forward\n" /* a new namespace has the machine's */
                       "echo 1 >/proc/sys/net/ipv4/conf/up0/forwarding\n"
                       "nft -f - <<E\n"
                       "table ip published { chain pre { type nat hook prerouting priority dstnat; "
                       "tcp dport 8081 ip daddr " UPLINK " dnat to " PRIVATE ":8080; }; }\nE\n",
                       (int)getpid(), t.world);
        if (sh(text) < 0)
                return -1;
        enter(t.world);
        if (sh("ip addr add 198.51.100.1/24 dev w0\nip link set w0 up\n") < 0)
                return -1;
        enter(t.host);
        t.servers[1] = start_server(t.host);
        start_netd();
        connect_netd();
        send_msg((struct net_msg){ .op = NET_OP_SYNCED }, -EBADF);
        return 0;
}

static inline int tear_down(void **state)
{
        char record[sizeof(t.state) + 16];

        (void)state;
        disconnect();
        reap(t.netd);
        for (size_t i = 0; i < ARRAY_LEN(t.servers); i++)
                reap(t.servers[i]);
        (void)umount2("/etc", MNT_DETACH);
        (void)unlink(t.socket);
        (void)snprintf(record, sizeof(record), "%s/" FORWARD_FILE, t.state);
        (void)unlink(record); /* of one that was killed */
        (void)rmdir(t.state);
        return rmdir(t.dir) < 0 ? -1 : 0;
}

static inline bool netd_can_run(void)
{
        if (geteuid() == 0 && getenv("MAYFLY_BUILD"))
                return true;
        print_message("skipped: needs root and MAYFLY_BUILD\n");
        return false;
}
