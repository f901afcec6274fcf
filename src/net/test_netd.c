/* How netd begins and ends: peers, kills, stops, what is taken. */
#include "net/link.h"
#include "net/test_netd_bed.h"
#include "net/usage.h"

#include "base/test_skip.h"

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

/* The index of its link on the host; 0: there is none. */
static int link_of(const struct netns *ns)
{
        char name[IFNAMSIZ];

        link_name(ns, name);
        return link_index(name);
}

static void survives_a_kill(void **state)
{
        struct netns ns = acquire(NET_NAT), none = acquire(NET_NONE), lost = acquire(NET_INTERNET);
        uint32_t address = ntohl(sockaddr(ns.address, 0).sin_addr.s_addr);
        pid_t server = start_server(ns.fd);
        int link = link_of(&ns), lost_link = link_of(&lost);

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
                /* Another one may have its name as soon as it has gone. */
                assert_int_equal(link_of(&lost) == lost_link, i == 0);
                send_msg((struct net_msg){ .op = NET_OP_SYNCED }, -EBADF);
                settle();
                assert_int_not_equal(link_of(&lost), lost_link);
                assert_int_equal(link_of(&ns), link);
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

static void check_nothing_left(void)
{
        assert_int_equal(sh("test -z \"$(ip -o link | grep ': mf')\"\n"
                            "test -z \"$(ip route show table all | grep 10.213)\"\n"
                            "test -z \"$(nft list tables | grep " INSTANCE ")\"\n"),
                         0);
        assert_int_equal(rmdir(t.state), 0);
}

static void terminate_netd(void)
{
        int status;

        assert_int_equal(kill(t.netd, SIGTERM), 0);
        assert_int_equal(waitpid(t.netd, &status, 0), t.netd);
        t.netd = 0;
        assert_int_equal(status, 0);
        disconnect();
}

static void stop_netd(void)
{
        terminate_netd();
        check_nothing_left();
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

/* A process in a cgroup of its own. */
static pid_t start_in_cgroup(const char *cgroup)
{
        auto_free char *path = str_printf("%s%s/cgroup.procs", usage_root(), cgroup);
        struct err err = ERR_INIT;
        char pid_text[16];
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                disconnect();
                (void)pause();
                _exit(0);
        }
        (void)snprintf(pid_text, sizeof(pid_text), "%d", (int)pid);
        assert_int_equal(fd_write_knob(AT_FDCWD, path, pid_text, &err), 0);
        return pid;
}

/* As mayfly-launcher's unit does when it has ended all tasks. */
static void run_clean(void)
{
        auto_free char *text = str_printf("%s/mayfly-netd --clean --socket %s --state %s --peer-uid " PEER_NAME
                                          " --peer-gid " PEER_NAME " --pool " POOL " --name " INSTANCE
                                          " --id-range 100000:165535 --user " NETD_USER "\n",
                                          getenv("MAYFLY_BUILD"), t.socket, t.state);

        assert_int_equal(sh(text), 0);
}

static void check_in_use(const struct netns *ns)
{
        assert_true(reaches(ns->fd, PUBLIC, PORT, true));
        assert_false(reaches(ns->fd, METADATA, PORT, false));
        assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 1);
}

/* A service manager restarts it: tasks do not notice. After the last one all goes, by whom of the two ends last: a
 * namespace that is still held, as by a socket that has not said all, changes nothing about that. */
static void leaves_what_tasks_use(void **state)
{
        auto_free char *dir = NULL;
        struct netns ns;
        pid_t task;

        (void)state;
        (void)snprintf(t.tasks_in, sizeof(t.tasks_in), "/mayfly-netdtest-%d", (int)getpid());
        dir = str_printf("%s%s", usage_root(), t.tasks_in);
        if (mkdir(dir, 0755) < 0) {
                t.tasks_in[0] = '\0';
                skip_because("no cgroup can be made: %s", strerror(errno));
        }
        for (int last = 0; last < 2; last++) {
                start_netd();
                connect_netd();
                task = start_in_cgroup(t.tasks_in);
                ns = acquire(NET_NAT);
                check_in_use(&ns);
                terminate_netd();
                check_in_use(&ns);
                start_netd();
                connect_netd();
                assert_true(adopt(&ns, ns.fd, ns.index));
                run_clean(); /* not while there is a netd */
                check_in_use(&ns);
                if (last == 0) {
                        reap(task);
                        terminate_netd();
                } else {
                        terminate_netd();
                        check_in_use(&ns);
                        reap(task);
                        run_clean();
                }
                check_nothing_left();
                assert_int_equal(read_number("/proc/sys/net/ipv4/ip_forward"), 0);
                fd_replace(&ns.fd, -EBADF);
        }
        assert_int_equal(rmdir(dir), 0);
        t.tasks_in[0] = '\0';
}

/* What a netd says that must not start: its exit code, and that it changed nothing. */
static void check_refused(const char *name, const char *pool, const char *why)
{
        auto_free char *text = str_printf(
                "out=$(%s/mayfly-netd --socket %s/2.sock --state %s/2 --peer-uid " PEER_NAME " --peer-gid " PEER_NAME
                " --pool %s --name %s --id-range 100000:165535 --user " NETD_USER " 2>&1) && exit 1\n"
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
                cmocka_unit_test(refuses_other_users),   cmocka_unit_test(hangs_up_on_nonsense),
                cmocka_unit_test(adopts_only_its_own),   cmocka_unit_test(survives_a_kill),
                cmocka_unit_test(leaves_nothing),        cmocka_unit_test(leaves_forwarding_as_it_should_be),
                cmocka_unit_test(leaves_what_tasks_use), cmocka_unit_test(refuses_what_is_taken),
        };

        return netd_can_run() ? cmocka_run_group_tests(tests, set_up, tear_down) : SKIPPED;
}
