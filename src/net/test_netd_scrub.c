/* What is left of one task must not meet the next one. */
#include "net/test_netd_bed.h"

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
        struct net_msg m = { .seq = 0 };
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

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(forgets_time_wait),
                cmocka_unit_test(forgets_sockets),
                cmocka_unit_test(ends_orphans),
                cmocka_unit_test(throws_away_what_is_in_use),
                cmocka_unit_test(throws_away_changed_sysctls),
                cmocka_unit_test(forgets_connections),
                cmocka_unit_test(reuses_addresses),
                cmocka_unit_test(says_when_the_pool_is_empty),
        };

        return netd_can_run() ? cmocka_run_group_tests(tests, set_up, tear_down) : SKIPPED;
}
