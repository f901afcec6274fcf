/* mayfly-netd as a whole, in a network of its own: nothing of the machine changes.
 *
 *     tasks ── "host": a namespace in which netd and this test run ── uplink ── "world": a namespace with all servers
 *
 * The world has a public server, a private one, the metadata service and a resolver. Needs root, ip and nft. */
#include "base/err.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "net/ct.h"
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
        unsigned resolvs; /* messages seen */
        bool alone;       /* netd is started as a service manager does: it may be restarted */
} t = { .host = -EBADF, .world = -EBADF, .peer = -EBADF };

/* ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static int sh(const char *text)
{
        static const char *const places[] = { "/bin/sh", NULL };
        static const char *const argv[] = { "sh", "-ec", "PATH=/usr/sbin:/sbin:/usr/bin:/bin; . /dev/stdin", NULL };
        struct err err = ERR_INIT;
        int r = run_program(places, argv, text, &err);

        if (r < 0)
                print_message("%s: %s\n", text, err.text);
        return r;
}

static bool sh_ok(const char *text)
{
        static const char *const places[] = { "/bin/sh", NULL };
        static const char *const argv[] = { "sh", "-ec", "PATH=/usr/sbin:/sbin:/usr/bin:/bin; . /dev/stdin", NULL };

        return run_program(places, argv, text, NULL) == 0;
}

static uint64_t now_ms(void)
{
        return time_mono_ns() / NS_PER_MS;
}

/* Waits until the command succeeds. */
static bool sh_until(const char *text)
{
        uint64_t end = now_ms() + PATIENCE_MS;

        while (!sh_ok(text)) {
                if (now_ms() > end)
                        return false;
                (void)poll(NULL, 0, 20);
        }
        return true;
}

static void enter(int ns)
{
        assert_int_equal(setns(ns, CLONE_NEWNET), 0);
}

static int own_ns(void)
{
        int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        return fd;
}

static int new_ns(void)
{
        int fd;

        assert_int_equal(unshare(CLONE_NEWNET), 0);
        fd = own_ns();
        assert_int_equal(sh("ip link set lo up"), 0);
        return fd;
}

static struct sockaddr_in sockaddr(const char *address, uint16_t port)
{
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };

        assert_int_equal(inet_pton(AF_INET, address, &sa.sin_addr), 1);
        return sa;
}

static uint64_t read_number(const char *path)
{
        uint64_t n = UINT64_MAX;

        assert_int_equal(fd_read_knob_u64(AT_FDCWD, path, &n), 0);
        return n;
}

static void reap(pid_t pid)
{
        if (pid <= 0)
                return;
        (void)kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void disconnect(void)
{
        fd_replace(&t.peer, -EBADF);
}

/* ── servers ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/* From the address that was asked, which need not be the one that the kernel would choose. */
static void answer_datagram(int fd)
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
static _Noreturn void serve(int ready)
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

static pid_t start_server(int ns)
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

static int send_probe(const struct probe *p)
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
static void await_probes(struct probe *p, size_t n)
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

static void run_probes(int ns, struct probe *p, size_t n)
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
static void check_matrix(const struct netns *ns, const char *const neighbours[2])
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

static bool reaches(int ns, const char *address, uint16_t port, bool expected)
{
        struct probe p = { address, port, SOCK_STREAM, expected, false, 0 };

        run_probes(ns, &p, 1);
        return p.answered;
}

/* ── the protocol ────────────────────────────────────────────────────────────────────────────────────────────── */

static void start_netd(void)
{
        const char *build = getenv("MAYFLY_BUILD");
        auto_free char *path = str_printf("%s/mayfly-netd", build);

        t.netd = fork();
        assert_true(t.netd >= 0);
        if (t.netd == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                execl(path, "mayfly-netd", "--socket", t.socket, "--state", t.state, "--peer-uid", PEER_NAME,
                      "--peer-gid", PEER_NAME, "--pool", POOL, "--name", INSTANCE, "--id-range", "100000:165535",
                      "--user", NETD_USER, "--stock", "3", t.alone ? (char *)NULL : "--die-with-parent", (char *)NULL);
                _exit(127);
        }
}

static int connect_as(uid_t uid)
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

static void send_msg(struct net_msg m, int fd)
{
        assert_int_equal(fd_send(t.peer, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0), 0);
}

/* The next message that is no RESOLV; false when the connection is closed. */
static bool next_msg(struct net_msg *ret, int *ret_fd)
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

static struct net_msg expect(uint32_t op, int *ret_fd)
{
        struct net_msg m = { .op = 0 };

        assert_true(next_msg(&m, ret_fd));
        assert_int_equal(m.op, op);
        return m;
}

static void connect_netd(void)
{
        struct net_msg m;

        t.peer = connect_as(PEER_UID);
        assert_true(t.peer >= 0);
        send_msg((struct net_msg){ .op = NET_OP_HELLO, .seq = 7, .version = NET_VERSION }, -EBADF);
        m = expect(NET_OP_HELLO, NULL);
        assert_int_equal(m.seq, 7);
        assert_int_equal(m.version, NET_VERSION);
}

static struct netns acquire(uint32_t mode)
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

static bool cleaned(uint32_t seq, uint32_t index)
{
        struct net_msg m = expect(NET_OP_CLEANED, NULL);

        assert_int_equal(m.seq, seq);
        assert_int_equal(m.index, index);
        return m.ok == 1;
}

static bool clean(const struct netns *ns)
{
        send_msg((struct net_msg){ .op = NET_OP_CLEAN, .seq = 12, .index = ns->index }, -EBADF);
        return cleaned(12, ns->index);
}

static bool adopt(const struct netns *ns, int fd, uint32_t index)
{
        struct net_msg m = { .op = NET_OP_ADOPT, .seq = 13, .mode = ns->mode, .index = index };

        m.address = ns->mode == NET_NONE ? 0 : sockaddr(ns->address, 0).sin_addr.s_addr;
        send_msg(m, fd);
        return cleaned(13, index);
}

static void drop(struct netns *ns)
{
        send_msg((struct net_msg){ .op = NET_OP_DROP, .index = ns->index }, -EBADF);
        fd_replace(&ns->fd, -EBADF);
}

/* Waits until netd has done all that was sent before. */
static void settle(void)
{
        send_msg((struct net_msg){ .op = NET_OP_CLEAN, .seq = 14, .index = UINT32_C(0x7fffffff) }, -EBADF);
        assert_false(cleaned(14, UINT32_C(0x7fffffff)));
}

static void link_name(const struct netns *ns, char out[IFNAMSIZ])
{
        char prefix[NAMES_PREFIX_MAX];

        names_prefix(INSTANCE, prefix);
        names_link(prefix, ns->mode, ns->index, out);
}

/* ── set-up ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int set_resolvers(const char *text)
{
        return fd_write_file(AT_FDCWD, "/etc/resolv.conf", 0644, text, strlen(text), NULL);
}

/* A private /etc, of which netd reads only resolv.conf. */
static int private_etc(void)
{
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", "/etc", "tmpfs", 0, "mode=0755") < 0)
                return -errno;
        return set_resolvers("nameserver " RESOLVER "\nsearch test.example\n");
}

static int make_world(void)
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

static int set_up(void **state)
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

static int tear_down(void **state)
{
        (void)state;
        disconnect();
        reap(t.netd);
        for (size_t i = 0; i < ARRAY_LEN(t.servers); i++)
                reap(t.servers[i]);
        (void)umount2("/etc", MNT_DETACH);
        (void)unlink(t.socket);
        (void)rmdir(t.state);
        return rmdir(t.dir) < 0 ? -1 : 0;
}

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void gives_what_it_promises(void **state)
{
        static const char inside[] = "test \"$(ip -o addr show | grep -c inet)\" = %d\n"
                                     "test \"$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)\" = 0\n"
                                     "test \"$(cat /proc/sys/net/ipv4/ping_group_range)\" = '100000\t165535'\n"
                                     "test ! -e /proc/sys/net/ipv6 || "
                                     "test \"$(cat /proc/sys/net/ipv6/conf/all/disable_ipv6)\" = 1\n";

        (void)state;
        for (uint32_t mode = NET_NONE; mode <= NET_INTERNET; mode++) {
                struct netns ns = acquire(mode);
                char text[1024];

                enter(ns.fd);
                (void)snprintf(text, sizeof(text), inside, mode == NET_NONE ? 1 : 2);
                assert_int_equal(sh(text), 0);
                assert_int_equal(sh("ip link show lo | grep -q UP"), 0);
                if (mode != NET_NONE)
                        assert_int_equal(sh("ip route | grep -q 'default via 169.254.1.1 dev eth0'"), 0);
                enter(t.host);
                drop(&ns);
        }
        assert_string_equal(t.resolv, "nameserver " RESOLVER "\nsearch test.example\n");
}

static void check_all_modes(void)
{
        struct netns ns[3], other = acquire(NET_NAT), another = acquire(NET_INTERNET);
        const char *const neighbours[] = { other.address, another.address };
        pid_t a = start_server(other.fd), b = start_server(another.fd);

        for (uint32_t i = 0; i < 3; i++) {
                ns[i] = acquire(NET_NONE + i);
                check_matrix(&ns[i], neighbours);
        }
        /* The servers do answer: the host itself may ask them. */
        assert_true(reaches(t.host, other.address, PORT, true));
        assert_true(reaches(t.host, another.address, PORT, true));
        /* The world's way to a task's address ends at the host. */
        enter(t.world);
        assert_int_equal(sh("ip route add 10.213.0.0/24 via " UPLINK), 0);
        assert_false(reaches(t.world, other.address, PORT, false));
        assert_int_equal(sh("ip route del 10.213.0.0/24 via " UPLINK), 0);
        enter(t.host);
        reap(a);
        reap(b);
        for (int i = 0; i < 3; i++)
                drop(&ns[i]);
        drop(&other);
        drop(&another);
}

/* A task of an instance beside this one, with a pool that is not this one's. */
static void isolates_from_other_instances(void **state)
{
        auto_fd elsewhere = -EBADF;
        char text[256];
        pid_t server;

        (void)state;
        elsewhere = new_ns();
        enter(t.host);
        (void)snprintf(text, sizeof(text),
                       "ip link add mfzzzn1 type veth peer name eth0 netns /proc/%d/fd/%d\n"
                       "ip addr add 10.214.0.254/32 dev mfzzzn1\nip link set mfzzzn1 up\n"
                       "ip route add " OTHER_INSTANCE " dev mfzzzn1\n",
                       (int)getpid(), elsewhere);
        assert_int_equal(sh(text), 0);
        enter(elsewhere);
        assert_int_equal(sh("ip addr add " OTHER_INSTANCE "/32 dev eth0\nip link set eth0 up\n"
                            "ip route add default via 10.214.0.254 dev eth0 onlink"),
                         0);
        enter(t.host);
        server = start_server(elsewhere);
        assert_true(reaches(t.host, OTHER_INSTANCE, PORT, true));
        check_all_modes();
        reap(server);
        assert_int_equal(sh("ip link del mfzzzn1"), 0);
}

/* A datagram with a source of its own; what rule or filter eats it does not matter. */
static void send_spoofed(const char *from, const char *to, uint16_t port)
{
        struct {
                struct iphdr ip;
                struct udphdr udp;
                char text[4];
        } __attribute__((packed)) packet = {
                .ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .tot_len = htons(sizeof(packet)) },
                .udp = { .source = htons(5000), .dest = htons(port), .len = htons(sizeof(struct udphdr) + 4) },
                .text = "evil",
        };
        struct sockaddr_in sa = sockaddr(to, 0);
        auto_fd fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

        assert_true(fd >= 0);
        packet.ip.saddr = sockaddr(from, 0).sin_addr.s_addr;
        packet.ip.daddr = sa.sin_addr.s_addr;
        assert_int_equal(sendto(fd, &packet, sizeof(packet), 0, (struct sockaddr *)&sa, sizeof(sa)), sizeof(packet));
}

static void check_spoofed(const struct netns *ns)
{
        struct netns other = acquire(NET_NAT);
        const char *const sources[] = { other.address, "203.0.113.9", UPLINK,        "198.51.100.1", "10.213.0.250",
                                        "192.168.1.1", "127.0.0.1",   "169.254.1.1", HOST_PRIVATE };
        struct sockaddr_in sa = sockaddr(PUBLIC, 9999), from;
        socklen_t len = sizeof(from);
        auto_fd sink = -EBADF;
        char text[8];

        enter(t.world);
        sink = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(sink, (struct sockaddr *)&sa, sizeof(sa)), 0);
        enter(ns->fd);
        for (size_t i = 0; i < ARRAY_LEN(sources); i++)
                send_spoofed(sources[i], PUBLIC, 9999);
        /* The way keeps the order: had one of them passed, it would arrive before this one. */
        send_spoofed(ns->address, PUBLIC, 9999);
        enter(t.host);
        assert_int_equal(recvfrom(sink, text, sizeof(text), 0, (struct sockaddr *)&from, &len), 4);
        assert_int_equal(from.sin_port, htons(5000));
        assert_int_equal(from.sin_addr.s_addr, sockaddr(UPLINK, 0).sin_addr.s_addr);
        assert_int_equal(recv(sink, text, sizeof(text), MSG_DONTWAIT), -1);
        drop(&other);
}

static void stops_spoofed_sources(void **state)
{
        struct netns ns = acquire(NET_NAT);
        char name[IFNAMSIZ], text[128];

        (void)state;
        check_spoofed(&ns);
        /* The rules alone stop them too. */
        link_name(&ns, name);
        (void)snprintf(text, sizeof(text), "cd /proc/sys/net/ipv4/conf; echo 0 >all/rp_filter; echo 0 >%s/rp_filter",
                       name);
        assert_int_equal(sh(text), 0);
        check_spoofed(&ns);
        drop(&ns);
}

static bool rules_are_back(void)
{
        return sh_until("test \"$(nft -a list table inet " INSTANCE " | grep -c handle)\" -gt 30\n"
                        "nft list chain inet " INSTANCE " task_out | grep -q never\n");
}

static void restores_rules(void **state)
{
        struct netns ns = acquire(NET_INTERNET);

        (void)state;
        assert_true(rules_are_back());
        assert_int_equal(sh("nft flush ruleset"), 0);
        assert_true(rules_are_back());
        assert_false(reaches(ns.fd, PRIVATE, PORT, false));
        assert_true(reaches(ns.fd, PUBLIC, PORT, true));
        assert_int_equal(sh("nft flush chain inet " INSTANCE " task_out"), 0);
        assert_true(rules_are_back());
        assert_int_equal(sh("nft delete element inet " INSTANCE " private '{ 192.168.0.0/16 }'"), 0);
        assert_true(sh_until("nft list set inet " INSTANCE " private | grep -q 192.168.0.0/16"));
        drop(&ns);
        check_all_modes();
}

/* Somebody else's table may come and go. */
static void leaves_other_tables_alone(void **state)
{
        (void)state;
        assert_int_equal(sh("nft add table inet other\nnft add chain inet other c"), 0);
        settle();
        assert_int_equal(sh("nft list table inet other | grep -q 'chain c'\nnft delete table inet other"), 0);
        assert_true(rules_are_back());
}

static void follows_resolvers(void **state)
{
        struct netns ns = acquire(NET_INTERNET);
        unsigned before;

        (void)state;
        settle();
        before = t.resolvs;
        assert_true(reaches(ns.fd, RESOLVER, 53, true));
        assert_false(reaches(ns.fd, PRIVATE, 53, false));
        assert_int_equal(set_resolvers("nameserver 127.0.0.1\nnameserver " PRIVATE "\n"), 0);
        assert_true(sh_until("nft list set inet " INSTANCE " resolvers | grep -q " PRIVATE));
        assert_false(reaches(ns.fd, RESOLVER, 53, false));
        assert_true(reaches(ns.fd, PRIVATE, 53, true));
        assert_false(reaches(ns.fd, PRIVATE, PORT, false));
        settle();
        assert_true(t.resolvs > before);
        assert_string_equal(t.resolv, "nameserver " PRIVATE "\n");
        /* An address of the host itself: its port 53, and nothing else. */
        assert_int_equal(set_resolvers("nameserver " HOST_PRIVATE "\n"), 0);
        assert_true(sh_until("nft list set inet " INSTANCE " resolvers | grep -q " HOST_PRIVATE));
        assert_true(reaches(ns.fd, HOST_PRIVATE, 53, true));
        assert_false(reaches(ns.fd, HOST_PRIVATE, PORT, false));
        assert_false(reaches(ns.fd, UPLINK, 53, false));
        assert_int_equal(set_resolvers("nameserver " RESOLVER "\nsearch test.example\n"), 0);
        assert_true(sh_until("nft list set inet " INSTANCE " resolvers | grep -q " RESOLVER));
        drop(&ns);
}

/* ── scrubbing ───────────────────────────────────────────────────────────────────────────────────────────────── */

/* Runs fn in a child in the namespace; what it answers is the exit code. */
static int in_child(int ns, int (*fn)(void))
{
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0)
                _exit(setns(ns, CLONE_NEWNET) < 0 ? 99 : fn());
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

static int bind_port(void)
{
        struct sockaddr_in sa = sockaddr("0.0.0.0", 7777);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        return bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(fd, 1) == 0 ? 0 : errno;
}

/* The server closes first, so that TIME_WAIT stays on its port. */
static int leave_time_wait(void)
{
        struct sockaddr_in sa = sockaddr("127.0.0.1", 7777);
        int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), s;
        char x;

        if (bind(l, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(l, 1) < 0 ||
            connect(c, (struct sockaddr *)&sa, sizeof(sa)) < 0)
                return errno;
        s = accept(l, NULL, NULL);
        close(s);
        return read(c, &x, 1) == 0 ? 0 : errno;
}

/* The same by a socket of both families, whose remains are IPv6's. */
static int leave_time_wait_mapped(void)
{
        struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(7777) };
        struct sockaddr_in sa = sockaddr("127.0.0.1", 7777);
        int l = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), s;
        char x;

        if (l < 0 && errno == EAFNOSUPPORT)
                return leave_time_wait(); /* a kernel without IPv6 */
        if (bind(l, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(l, 1) < 0 ||
            connect(c, (struct sockaddr *)&sa, sizeof(sa)) < 0)
                return errno;
        s = accept(l, NULL, NULL);
        close(s);
        return read(c, &x, 1) == 0 ? 0 : errno;
}

static int leave_sockets(void)
{
        struct sockaddr_in sa = sockaddr("127.0.0.1", 0);
        struct sockaddr_in6 sa6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT };

        for (int i = 0; i < 200; i++) {
                int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
                int tcp6 = socket(AF_INET6, SOCK_STREAM, 0), nl = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
                int ux = socket(AF_UNIX, SOCK_STREAM, 0);

                if (bind(tcp, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(tcp, 1) < 0 ||
                    bind(udp, (struct sockaddr *)&sa, sizeof(sa)) < 0 || nl < 0 || ux < 0)
                        return errno;
                if (tcp6 >= 0 && (bind(tcp6, (struct sockaddr *)&sa6, sizeof(sa6)) < 0 || listen(tcp6, 1) < 0))
                        return errno;
        }
        return 0;
}

/* Connections that nobody ends: the peer never reads, and this side dies with data on the way. */
static int leave_orphans(void)
{
        struct sockaddr_in sa = sockaddr(PUBLIC, 8090);
        char data[65536] = { 0 };

        for (int i = 0; i < 20; i++) {
                int fd = socket(AF_INET, SOCK_STREAM, 0);

                if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
                        return errno;
                while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
                        ;
        }
        return 0;
}

static void check_time_wait(uint32_t mode, int (*leave)(void))
{
        struct netns ns = acquire(mode);

        assert_int_equal(in_child(ns.fd, leave), 0);
        assert_int_equal(in_child(ns.fd, bind_port), EADDRINUSE);
        if (clean(&ns)) {
                assert_int_equal(in_child(ns.fd, bind_port), 0);
                assert_int_equal(in_child(ns.fd, leave), 0);
                assert_true(clean(&ns));
        } else {
                /* This kernel cannot end TIME_WAIT: it was thrown away, and is unknown now. */
                print_message("TIME_WAIT cannot be ended here: the namespace is thrown away\n");
                assert_false(clean(&ns));
        }
        drop(&ns);
}

static void forgets_time_wait(void **state)
{
        (void)state;
        for (uint32_t mode = NET_NONE; mode <= NET_NAT; mode++) {
                check_time_wait(mode, leave_time_wait);
                check_time_wait(mode, leave_time_wait_mapped);
        }
}

static void forgets_sockets(void **state)
{
        struct netns ns = acquire(NET_NONE);

        (void)state;
        for (int i = 0; i < 3; i++) {
                assert_int_equal(in_child(ns.fd, leave_sockets), 0);
                assert_true(clean(&ns));
                assert_int_equal(in_child(ns.fd, bind_port), 0);
        }
        drop(&ns);
}

static void ends_orphans(void **state)
{
        struct netns ns = acquire(NET_NAT);
        struct sockaddr_in sa = sockaddr(PUBLIC, 8090);
        auto_fd silent = -EBADF;

        (void)state;
        enter(t.world);
        silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(silent, (struct sockaddr *)&sa, sizeof(sa)), 0);
        assert_int_equal(listen(silent, 64), 0);
        enter(t.host);
        assert_int_equal(in_child(ns.fd, leave_orphans), 0);
        if (!clean(&ns))
                print_message("orphaned connections cannot be ended here: the namespace is thrown away\n");
        drop(&ns);
}

/* Something is still alive in there: it is never given on. */
static void throws_away_what_is_in_use(void **state)
{
        struct netns ns = acquire(NET_NAT);
        pid_t pid = start_server(ns.fd);

        (void)state;
        assert_false(clean(&ns));
        assert_false(clean(&ns));
        reap(pid);
        drop(&ns);
}

static void throws_away_changed_sysctls(void **state)
{
        struct netns ns = acquire(NET_NONE);

        (void)state;
        assert_true(clean(&ns));
        enter(ns.fd);
        assert_int_equal(sh("echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start"), 0);
        enter(t.host);
        assert_false(clean(&ns));
        drop(&ns);
}

struct tracked {
        uint32_t address;
        unsigned n;
};

static void count_tracked(uint32_t address, void *data)
{
        struct tracked *c = data;

        c->n += address == c->address;
}

static unsigned tracked(const struct netns *ns)
{
        struct tracked c = { .address = ntohl(sockaddr(ns->address, 0).sin_addr.s_addr) };
        auto_nl nl = { .fd = -EBADF };

        assert_int_equal(nl_init(&nl, NETLINK_NETFILTER, NULL), 0);
        assert_int_equal(ct_sources(&nl, count_tracked, &c), 0);
        return c.n;
}

static void forgets_connections(void **state)
{
        struct netns ns = acquire(NET_NAT), other = acquire(NET_NAT);

        (void)state;
        assert_true(reaches(ns.fd, PUBLIC, PORT, true));
        assert_true(reaches(other.fd, PUBLIC, PORT, true));
        assert_true(tracked(&ns) > 0);
        (void)clean(&ns);
        assert_int_equal(tracked(&ns), 0);
        assert_true(tracked(&other) > 0);
        drop(&ns);
        drop(&other);
}

/* An address of the pool comes back only without what its last user left: all are used up here. */
static void reuses_addresses(void **state)
{
        enum { ALL = 300 };
        unsigned made = 0;

        (void)state;
        for (int i = 0; i < ALL; i++) {
                struct netns ns = acquire(NET_NAT);

                assert_int_equal(tracked(&ns), 0);
                assert_true(reaches(ns.fd, PUBLIC, PORT, true) || i % 10);
                made++;
                drop(&ns);
                i += 9; /* a tenth of them talks, the rest is only made */
                for (int j = 0; j < 9; j++) {
                        struct netns quiet = acquire(NET_INTERNET);

                        drop(&quiet);
                        made++;
                }
        }
        assert_int_equal(made, ALL);
}

static void says_when_the_pool_is_empty(void **state)
{
        struct netns held[260];
        size_t n = 0;
        struct net_msg m;
        int fd;

        (void)state;
        for (;;) {
                send_msg((struct net_msg){ .op = NET_OP_ACQUIRE, .seq = 15, .mode = NET_NAT, .count = 1 }, -EBADF);
                assert_true(next_msg(&m, &fd));
                if (m.op == NET_OP_FAILED)
                        break;
                assert_true(n < ARRAY_LEN(held));
                held[n++] = (struct netns){ .fd = fd, .index = m.index, .mode = NET_NAT };
        }
        assert_int_equal(m.seq, 15);
        assert_int_equal(m.error, EADDRNOTAVAIL);
        assert_true(n > 200);
        while (n > 0)
                drop(&held[--n]);
        /* Their addresses are free again when the kernel has taken them down. */
        for (uint64_t end = now_ms() + PATIENCE_MS; m.op == NET_OP_FAILED && now_ms() < end; (void)poll(NULL, 0, 50)) {
                send_msg((struct net_msg){ .op = NET_OP_ACQUIRE, .mode = NET_NAT, .count = 1 }, -EBADF);
                assert_true(next_msg(&m, NULL));
        }
        assert_int_equal(m.op, NET_OP_NETNS);
}

/* ── ends and beginnings ─────────────────────────────────────────────────────────────────────────────────────── */

static void refuses_other_users(void **state)
{
        char c;
        int fd;

        (void)state;
        disconnect();
        fd = connect_as(0); /* root may open the socket, but is not the peer */
        assert_true(fd >= 0);
        assert_true(recv(fd, &c, 1, 0) <= 0);
        close(fd);
        connect_netd();
}

static void hangs_up_on_nonsense(void **state)
{
        static const struct net_msg bad[] = {
                { .op = 99 },
                { .op = NET_OP_HELLO, .version = NET_VERSION },
                { .op = NET_OP_ACQUIRE, .mode = 9, .count = 1 },
                { .op = NET_OP_ADOPT, .mode = NET_NONE, .index = 1 },
                { .op = NET_OP_SYNCED, .len = 1 },
        };
        struct net_msg m;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                send_msg(bad[i], -EBADF);
                assert_false(next_msg(&m, NULL));
                disconnect();
                connect_netd();
        }
        assert_int_equal(fd_send(t.peer, "x", 1, NULL, 0), 0);
        assert_false(next_msg(&m, NULL));
        disconnect();
        /* Nothing but a greeting of this version opens. */
        t.peer = connect_as(PEER_UID);
        send_msg((struct net_msg){ .op = NET_OP_SYNCED }, -EBADF);
        assert_false(next_msg(&m, NULL));
        disconnect();
        t.peer = connect_as(PEER_UID);
        send_msg((struct net_msg){ .op = NET_OP_HELLO, .version = NET_VERSION + 1 }, -EBADF);
        assert_false(next_msg(&m, NULL));
        disconnect();
        connect_netd();
}

/* A namespace that belongs to another user namespace. */
static int foreign_ns(void)
{
        int go[2], fd;
        char path[64], c;
        pid_t pid;

        assert_int_equal(pipe2(go, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                c = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 ? 'y' : 'n';
                (void)!write(go[1], &c, 1);
                (void)pause();
                _exit(0);
        }
        assert_int_equal(read(go[0], &c, 1), 1);
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
        fd = c == 'y' ? open(path, O_RDONLY | O_CLOEXEC) : -EBADF;
        reap(pid);
        close(go[0]);
        close(go[1]);
        return fd;
}

/* The namespace, opened as a file that it is bound to. */
static int by_name(int ns)
{
        static const char path[] = "/tmp/test-netd-netns";
        auto_fd own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        char from[64];
        int fd;

        assert_int_equal(unshare(CLONE_NEWNS), 0);
        assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        fd_close(open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
        (void)snprintf(from, sizeof(from), "/proc/self/fd/%d", ns);
        assert_int_equal(mount(from, path, NULL, MS_BIND, NULL), 0);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(umount2(path, MNT_DETACH), 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(setns(own, CLONE_NEWNS), 0);
        return fd;
}

static void adopts_only_its_own(void **state)
{
        struct netns ns = acquire(NET_NAT), none = acquire(NET_NONE), lie;
        auto_fd file = open("/dev/null", O_RDONLY | O_CLOEXEC), foreign = foreign_ns(), stranger = -EBADF;
        auto_fd named = by_name(none.fd);

        (void)state;
        stranger = new_ns();
        enter(t.host);
        disconnect();
        connect_netd();
        assert_false(adopt(&none, t.host, none.index));
        assert_false(adopt(&none, t.world, none.index));
        assert_false(adopt(&ns, t.world, ns.index));
        assert_false(adopt(&ns, stranger, ns.index));
        assert_false(adopt(&none, file, none.index));
        assert_false(adopt(&none, named, none.index));
        if (foreign >= 0)
                assert_false(adopt(&none, foreign, none.index));
        assert_false(adopt(&none, ns.fd, none.index));
        assert_false(adopt(&none, none.fd, 5)); /* no index of that kind */
        assert_false(adopt(&ns, none.fd, ns.index));
        assert_false(adopt(&ns, ns.fd, ns.index + 1));
        lie = ns;
        lie.mode = NET_INTERNET;
        assert_false(adopt(&lie, ns.fd, ns.index));
        (void)snprintf(lie.address, sizeof(lie.address), "10.213.0.77");
        lie.mode = NET_NAT;
        assert_false(adopt(&lie, ns.fd, ns.index));
        assert_true(adopt(&ns, ns.fd, ns.index));
        assert_false(adopt(&ns, ns.fd, ns.index));
        assert_true(adopt(&none, none.fd, none.index));
        assert_true(clean(&ns));
        assert_true(clean(&none));
        drop(&ns);
        drop(&none);
}

static bool link_exists(const struct netns *ns)
{
        char name[IFNAMSIZ], text[64];

        link_name(ns, name);
        (void)snprintf(text, sizeof(text), "ip link show %s", name);
        return sh_ok(text);
}

static void survives_a_kill(void **state)
{
        struct netns ns = acquire(NET_NAT), none = acquire(NET_NONE), lost = acquire(NET_INTERNET);
        uint32_t address = ntohl(sockaddr(ns.address, 0).sin_addr.s_addr);
        pid_t server = start_server(ns.fd);

        (void)state;
        for (int i = 0; i < 3; i++) {
                struct netns next;

                reap(t.netd);
                disconnect();
                /* The task goes on, and is no freer. */
                assert_true(reaches(ns.fd, PUBLIC, PORT, true));
                assert_false(reaches(ns.fd, METADATA, PORT, false));
                assert_false(reaches(ns.fd, UPLINK, PORT, false));
                start_netd();
                connect_netd();
                assert_true(reaches(ns.fd, PUBLIC, PORT, true));
                assert_true(adopt(&ns, ns.fd, ns.index));
                assert_true(adopt(&none, none.fd, none.index));
                if (i == 0)
                        assert_true(link_exists(&lost));
                send_msg((struct net_msg){ .op = NET_OP_SYNCED }, -EBADF);
                settle();
                assert_false(link_exists(&lost));
                assert_true(link_exists(&ns));
                next = acquire(NET_NAT);
                assert_true(ntohl(sockaddr(next.address, 0).sin_addr.s_addr) != address);
                assert_true(reaches(next.fd, PUBLIC, PORT, true));
                assert_false(reaches(next.fd, ns.address, PORT, false));
                drop(&next);
        }
        reap(server);
        assert_true(clean(&none));
        (void)clean(&ns);
        drop(&ns);
        drop(&none);
        drop(&lost);
}

static void stop_netd(void)
{
        int status;

        assert_int_equal(kill(t.netd, SIGTERM), 0);
        assert_int_equal(waitpid(t.netd, &status, 0), t.netd);
        t.netd = 0;
        assert_int_equal(status, 0);
        disconnect();
        assert_int_equal(sh("test -z \"$(ip -o link | grep ': mf')\"\n"
                            "test -z \"$(ip route show table all | grep 10.213)\"\n"
                            "test -z \"$(nft list tables | grep " INSTANCE ")\"\n"),
                         0);
        assert_int_equal(rmdir(t.state), 0);
}

static void leaves_nothing(void **state)
{
        struct netns ns = acquire(NET_NAT);

        (void)state;
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 1);
        assert_int_equal(read_number("/proc/sys/net/ipv4/conf/lo/forwarding"), 1);
        stop_netd();
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 0);
        assert_int_equal(read_number("/proc/sys/net/ipv4/conf/lo/forwarding"), 0);
        assert_int_equal(read_number("/proc/sys/net/ipv4/conf/up0/forwarding"), 1); /* as it was */
        close(ns.fd);
}

/* On a router it stays on, unless somebody switches it off meanwhile: that is then what is put back. */
static void leaves_forwarding_as_it_should_be(void **state)
{
        (void)state;
        assert_int_equal(sh("echo 1 >/proc/sys/net/ipv4/ip_forward"), 0);
        start_netd();
        connect_netd();
        stop_netd();
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 1);
        start_netd();
        connect_netd();
        assert_int_equal(sh("echo 0 >/proc/sys/net/ipv4/ip_forward"), 0);
        assert_true(sh_until("test \"$(cat /proc/sys/net/ipv4/ip_forward)\" = 1"));
        stop_netd();
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 0);
}

/* A service manager restarts it: tasks do not notice. After the last one it cleans up all the same. */
static void leaves_what_is_in_use(void **state)
{
        struct netns ns;
        int status;

        (void)state;
        t.alone = true;
        start_netd();
        connect_netd();
        ns = acquire(NET_NAT);
        assert_true(reaches(ns.fd, PUBLIC, PORT, true));
        assert_int_equal(kill(t.netd, SIGTERM), 0);
        assert_int_equal(waitpid(t.netd, &status, 0), t.netd);
        assert_int_equal(status, 0);
        disconnect();
        assert_true(reaches(ns.fd, PUBLIC, PORT, true));
        assert_false(reaches(ns.fd, METADATA, PORT, false));
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 1);
        start_netd();
        connect_netd();
        assert_true(adopt(&ns, ns.fd, ns.index));
        drop(&ns);
        stop_netd();
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 0);
        t.alone = false;
}

/* What a netd says that must not start: its exit code, and that it changed nothing. */
static void check_refused(const char *name, const char *pool, const char *why)
{
        auto_free char *text = str_printf("out=$(%s/mayfly-netd --socket %s/2.sock --state %s/2 --peer-uid " PEER_NAME
                                          " --peer-gid " PEER_NAME " --pool %s --name %s --id-range 100000:165535 --user "
                                          NETD_USER " 2>&1) && exit 1\n"
                                          "echo \"$out\" | grep -q '%s' || { echo \"$out\"; exit 2; }\n"
                                          "rm -r %s/2.sock %s/2",
                                          getenv("MAYFLY_BUILD"), t.dir, t.dir, pool, name, why, t.dir, t.dir);

        assert_int_equal(sh(text), 0);
}

static void refuses_what_is_taken(void **state)
{
        (void)state;
        start_netd();
        connect_netd();
        check_refused(INSTANCE, "10.220.0.0/24", "another Mayfly named");
        check_refused("netdother", POOL, "another Mayfly has 10.213.0.0/24");
        check_refused("netdother", "10.213.0.0/16", "another Mayfly has");
        check_refused("netdother", "10.213.0.64/26", "another Mayfly has");
        check_refused("netdother", "198.51.100.0/24", "this host has a route to 198.51.100");
        assert_int_equal(sh("test -z \"$(nft list tables | grep netdother)\"\n"
                            "nft list table inet " INSTANCE " >/dev/null\n"),
                         0);
        stop_netd();
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(gives_what_it_promises),
                cmocka_unit_test(isolates_from_other_instances),
                cmocka_unit_test(stops_spoofed_sources),
                cmocka_unit_test(forgets_time_wait),
                cmocka_unit_test(forgets_sockets),
                cmocka_unit_test(ends_orphans),
                cmocka_unit_test(throws_away_what_is_in_use),
                cmocka_unit_test(throws_away_changed_sysctls),
                cmocka_unit_test(forgets_connections),
                cmocka_unit_test(follows_resolvers),
                cmocka_unit_test(restores_rules),
                cmocka_unit_test(leaves_other_tables_alone),
                cmocka_unit_test(refuses_other_users),
                cmocka_unit_test(hangs_up_on_nonsense),
                cmocka_unit_test(adopts_only_its_own),
                cmocka_unit_test(survives_a_kill),
                cmocka_unit_test(reuses_addresses),
                cmocka_unit_test(says_when_the_pool_is_empty),
                cmocka_unit_test(leaves_nothing),
                cmocka_unit_test(leaves_forwarding_as_it_should_be),
                cmocka_unit_test(leaves_what_is_in_use),
                cmocka_unit_test(refuses_what_is_taken),
        };

        if (geteuid() != 0 || !getenv("MAYFLY_BUILD")) {
                print_message("skipped: needs root and MAYFLY_BUILD\n");
                return SKIPPED;
        }
        return cmocka_run_group_tests(tests, set_up, tear_down);
}
