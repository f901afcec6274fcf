/* What tasks may reach, and that the rules stay. */
#include "net/test_netd_bed.h"

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

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(gives_what_it_promises), cmocka_unit_test(isolates_from_other_instances),
                cmocka_unit_test(stops_spoofed_sources),  cmocka_unit_test(follows_resolvers),
                cmocka_unit_test(restores_rules),         cmocka_unit_test(leaves_other_tables_alone),
        };

        return netd_can_run() ? cmocka_run_group_tests(tests, set_up, tear_down) : SKIPPED;
}
