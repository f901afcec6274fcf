/* Drives the built launcher as a daemon would, and as one that was taken over: root, a store and a socket of its own.
 *
 *   test_launcher LAUNCHER BUSYBOX CLEAR DIE     (tests/launcher/run.sh builds it and calls it) */
#include "harness.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/time.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned passed, failed;

/* ── cases ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_exit_codes(void)
{
        static const int codes[] = { 0, 1, 42, 126, 127, 128, 137, 255 };
        char script[32];

        for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
                (void)snprintf(script, sizeof(script), "exit %d", codes[i]);
                CHECK(exited(sh(script), codes[i]));
                struct client_spec spec = shell(script);
                spec.init = true;
                CHECK(exited(run(&spec), codes[i]));
        }
}

static void test_signals_with_init(void)
{
        for (int n = 1; n <= 64; n++) {
                char number[8];
                const char *const argv[] = { "die", number, NULL };
                struct client_spec spec;
                const struct launch_exit *e;

                if (n == SIGCHLD || n == SIGCONT || n == SIGSTOP || n == SIGTSTP || n == SIGTTIN || n == SIGTTOU ||
                    n == SIGURG || n == SIGWINCH || (n >= 32 && n < 34))
                        continue;
                (void)snprintf(number, sizeof(number), "%d", n);
                spec = spec_of(argv);
                spec.init = true;
                e = run(&spec);
                CHECK(e->stage == LAUNCH_STAGE_EXECED);
                if (e->si_code != CLD_KILLED && e->si_code != CLD_DUMPED)
                        (void)printf("# signal %d: code %d, status %d\n", n, e->si_code, e->status);
                CHECK(e->si_code == CLD_KILLED || e->si_code == CLD_DUMPED);
                CHECK(e->status == n);
        }
}

static void test_signal_operation(void)
{
        static const char script[] = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        struct client_task t;
        struct client_spec spec;

        for (int init = 0; init < 2; init++) {
                spec = shell(script);
                spec.init = init;
                start(&spec, &t, "ready");
                CHECK(client_signal(sock, spec.id, SIGTERM) == 0);
                wait_exited(spec.id);
                CHECK(exited(&msg.exited.exit, 7));
                client_task_close(&t);
        }
        /* Without a handler pid 1 ignores it, so only SIGKILL ends it; all others end with it. */
        spec = shell("setsid sleep 76543 & echo ready; sleep 1000");
        start(&spec, &t, "ready");
        CHECK(client_signal(sock, spec.id, SIGTERM) == 0);
        CHECK(client_signal(sock, spec.id, SIGKILL) == 0);
        wait_exited(spec.id);
        CHECK(msg.exited.exit.si_code == CLD_KILLED && msg.exited.exit.status == SIGKILL);
        client_task_close(&t);
        CHECK(client_signal(sock, spec.id, SIGKILL) == 0); /* of one that has gone: nothing */
}

/* Tasks that are stopped before they have begun hold up nobody. */
static void test_stopped_at_once(void)
{
        char names[64][LAUNCH_ID_MAX];

        for (int round = 0; round < 4 && !case_failed; round++) {
                for (size_t i = 0; i < ARRAY_LEN(names); i++) {
                        struct client_spec spec = shell("sleep 1000");
                        struct client_task t;

                        spec.spec = true;
                        spec.limits.memory = 16 << 20;
                        (void)snprintf(names[i], sizeof(names[i]), "%s", spec.id);
                        CHECK(client_start(sock, &spec, &t) == 0);
                        CHECK(client_signal(sock, spec.id, SIGSTOP) == 0);
                        client_task_close(&t);
                }
                CHECK(client_send_id(sock, LAUNCH_STATS, names[0]) == 0);
                CHECK(client_receive(sock, &msg, 20000) == 0 && msg.h.op == LAUNCH_COUNTERS);
                for (size_t i = 0; i < ARRAY_LEN(names); i++)
                        CHECK(client_send_id(sock, LAUNCH_REMOVE, names[i]) == 0);
        }
        CHECK(exited(sh("exit 5"), 5));
}

/* While many directories are made for one task, another comes and goes. */
static void test_long_way(void)
{
        static char workdir[4000];
        char slow_id[LAUNCH_ID_MAX];
        struct client_spec spec = shell("exit 6"), other;
        struct client_task slow, quick;

        for (size_t i = 0; i + 1 < sizeof(workdir); i++)
                workdir[i] = i % 2 ? 'd' : '/';
        workdir[sizeof(workdir) - 2] = '\0';
        spec.workdir = workdir;
        spec.limits.cpu_milli = 100;
        (void)snprintf(slow_id, sizeof(slow_id), "%s", spec.id);
        CHECK(client_start(sock, &spec, &slow) == 0);
        other = shell("exit 7");
        CHECK(client_start(sock, &other, &quick) == 0);
        CHECK(client_receive(sock, &msg, 60000) == 0 && msg.h.op == LAUNCH_EXITED && str_eq(msg.exited.id, other.id));
        CHECK(client_send_id(sock, LAUNCH_REMOVE, other.id) == 0);
        CHECK(client_send_id(sock, LAUNCH_REMOVE, slow_id) == 0);
        client_task_close(&slow);
        client_task_close(&quick);
}

static void test_not_found(void)
{
        static const char *const none[] = { "nosuchprogram", NULL };
        static const char *const absolute[] = { "/bin/nosuchprogram", NULL };
        static const char *const plain[] = { "/etc/hosts", NULL };
        static const char *const folder[] = { "/bin", NULL };
        static const char *const empty[] = { "", NULL };
        static const char *const script[] = { "/app/script", NULL };
        static const char *const lost[] = { "/app/lost", NULL };
        const struct client_file files[] = { { "script", "true\n", 5, 0755 }, { "lost", "#!/nowhere\n", 11, 0755 } };
        const struct {
                const char *const *argv;
                int error;
        } cases[] = { { none, ENOENT },  { absolute, ENOENT }, { plain, EACCES }, { folder, EACCES },
                      { empty, ENOENT }, { script, ENOEXEC },  { lost, ENOENT } };

        for (size_t i = 0; i < ARRAY_LEN(cases) * 2; i++) {
                struct client_spec spec = spec_of(cases[i / 2].argv);
                const struct launch_exit *e;

                spec.init = i % 2;
                spec.workdir = "/app";
                spec.files = files;
                spec.n_files = ARRAY_LEN(files);
                e = run(&spec);
                CHECK(e->stage == LAUNCH_STAGE_EXEC);
                CHECK(e->error == cases[i / 2].error);
        }
}

static void test_io(void)
{
        struct client_spec spec = shell(
                "cat; echo err >&2; echo named > /dev/stdout; cat /dev/stdin; id -u; id -g; id -G");

        spec.input = "from stdin\n";
        spec.input_len = 11;
        spec.uid = 1000;
        spec.gid = 1001;
        CHECK(exited(run(&spec), 0));
        CHECK(strncmp(out, "from stdin\nnamed\n", 17) == 0);
        CHECK(strstr(out, "1000\n1001\n") != NULL);
}

static void test_files(void)
{
        char *large = malloc(20 << 20);
        const struct client_file files[] = { { "a/b.txt", "one", 3, 0640 },
                                             { "/etc/x", "two", 3, 0600 },
                                             { "large", large, 20 << 20, 0644 } };
        struct client_spec spec = shell(
                "pwd; cat a/b.txt /etc/x; echo; stat -c '%u:%g %a' a a/b.txt . /etc/x; stat -c %s large");

        memset(large, 'x', 20 << 20);
        spec.workdir = "/new/app/dir";
        spec.files = files;
        spec.n_files = 3;
        spec.spec = true;
        spec.uid = spec.gid = 1000;
        CHECK(exited(run(&spec), 0));
        CHECK(str_eq(out,
                     "/new/app/dir\nonetwo\n1000:1000 755\n1000:1000 640\n1000:1000 755\n1000:1000 600\n20971520\n"));
        free(large);
}

static void test_texts(void)
{
        struct client_spec spec = shell(
                "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; stat -c %a /tmp /dev/shm");

        CHECK(exited(run(&spec), 0));
        CHECK(strstr(out, "127.0.0.1 localhost\nnameserver 127.0.0.1\n1777\n1777\n") != NULL);
        CHECK(strncmp(out, spec.id, strlen(spec.id)) == 0);
}

static void test_memory(void)
{
        struct client_spec spec = shell("dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived");
        uint64_t large, small;

        spec.limits = (struct launch_limits){
                .memory = 32 << 20, .disk = 1 << 20, .shm = 1 << 20, .cpu_milli = 1000, .pids = 10
        };
        (void)run(&spec);
        CHECK(msg.exited.exit.counters.oom_kills > 0);
        CHECK(msg.exited.exit.si_code == CLD_KILLED && msg.exited.exit.status == SIGKILL);
        spec = shell("dd if=/dev/zero of=/tmp/x bs=1M count=100 2>/dev/null; true");
        CHECK(exited(run(&spec), 0));
        large = msg.exited.exit.counters.memory_peak;
        CHECK(large > 100 << 20);
        CHECK(msg.exited.exit.counters.disk_used > 100 << 20 && msg.exited.exit.counters.disk_full == 0);
        for (int i = 0; i < 20; i++) { /* whichever leaf they get */
                CHECK(exited(sh("true"), 0));
                small = msg.exited.exit.counters.memory_peak;
                CHECK(small > 0 && small < 24 << 20);
                CHECK(msg.exited.exit.counters.oom_kills == 0);
                CHECK(msg.exited.exit.counters.cpu_ns > 0 && msg.exited.exit.counters.cpu_ns < 5 * NS_PER_S);
        }
}

static void test_limits(void)
{
        struct client_spec spec = shell("for i in $(seq 50); do sleep 1 & done; wait");

        spec.limits.pids = 10;
        (void)run(&spec);
        CHECK(msg.exited.exit.counters.pids_refused > 0);
        spec = shell("dd if=/dev/zero of=/x bs=1M count=100");
        spec.limits.disk = 8 << 20;
        CHECK(run(&spec)->status != 0);
        CHECK(msg.exited.exit.counters.disk_full == 1);
        spec = shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>/dev/null; stat -c %s /dev/shm/x");
        spec.limits.shm = 8 << 20;
        CHECK(exited(run(&spec), 0));
        CHECK(str_eq(out, "8388608\n"));
}

/* A script whose interpreter is what executes it: before exec that is the launcher's program. */
static void test_self_exe(void)
{
        const struct client_file files[] = { { "/bin/self", "#!/proc/self/exe\n", 17, 0755 } };
        static const char *const argv[] = { "/bin/self", NULL };

        for (int i = 0; i < 50; i++) {
                struct client_spec spec = spec_of(argv);

                spec.files = files;
                spec.n_files = 1;
                spec.init = i & 1;
                (void)run(&spec);
                CHECK(msg.exited.exit.status != 0);
        }
}

static int refused(struct client_spec *spec)
{
        CHECK(client_run(sock, spec, &msg, NULL, 0) == 0);
        CHECK(msg.h.op == LAUNCH_REFUSED);
        return msg.h.op == LAUNCH_REFUSED ? msg.refused.error : 0;
}

static void test_refused(void)
{
        struct client_spec spec = shell("true");
        struct client_task t;

        spec.caps = UINT64_C(1) << CAP_SYS_ADMIN;
        CHECK(refused(&spec) == EPERM);
        spec = shell("true");
        spec.limits.memory = UINT64_MAX;
        CHECK(refused(&spec) == EPERM);
        spec = shell("echo ready; sleep 1000");
        start(&spec, &t, "ready");
        CHECK(refused(&spec) == EEXIST);
        CHECK(client_send_id(sock, LAUNCH_REMOVE, spec.id) == 0); /* kills it, and says nothing */
        client_task_close(&t);
        spec = shell("true");
        spec.tree = "00000000000000000000000000000000000000000000000000000000000000ff";
        (void)run(&spec);
        CHECK(msg.exited.exit.stage == LAUNCH_STAGE_IMAGE && msg.exited.exit.error == ENOENT);
}

static void test_stats(void)
{
        struct client_spec spec = shell("echo ready; sleep 1000");
        struct client_task t;

        start(&spec, &t, "ready");
        CHECK(client_send_id(sock, LAUNCH_STATS, spec.id) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0);
        CHECK(msg.h.op == LAUNCH_COUNTERS && msg.h.seq == 9 && msg.stats.counters.memory_now > 0);
        CHECK(client_send_id(sock, LAUNCH_STATS, "nobody") == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0);
        CHECK(msg.h.op == LAUNCH_REFUSED && msg.refused.error == ENOENT);
        CHECK(client_send_id(sock, LAUNCH_REMOVE, spec.id) == 0);
        client_task_close(&t);
}

/* The connection is closed, and the next one is served. */
static void closed(const void *data, size_t len, const int *fds, size_t n)
{
        int r = fd_send(sock, data, len, fds, n);

        CHECK(r == 0 || r == -EPIPE);
        do
                r = client_receive(sock, &msg, 10000);
        while (r == 0);
        CHECK(r == -EPIPE || r == -ECONNRESET);
        reconnect();
}

static void test_malformed(void)
{
        struct launch_hello hello = { .h = { .op = LAUNCH_HELLO }, .version = LAUNCH_VERSION };
        struct launch_start bad = { .h = { .op = LAUNCH_START }, .id = "x", .argc = 1 };
        uint8_t noise[600];
        uint32_t seed = 4242;
        int fds[9];

        closed("", 1, NULL, 0);
        closed("abcdefg", 7, NULL, 0);
        closed(&hello, sizeof(hello), NULL, 0); /* a second one */
        closed(&bad, sizeof(bad), NULL, 0);
        for (int i = 0; i < 9; i++)
                fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
        closed(&bad, sizeof(bad), fds, 9);
        for (int i = 0; i < 200; i++) {
                for (size_t k = 0; k < sizeof(noise); k++)
                        noise[k] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
                memset(noise, 0, 4);
                noise[0] = (uint8_t)(i % 9); /* small operations, below those of image work */
                if (noise[0] > LAUNCH_STATS)
                        noise[0] = 63;
                closed(noise, (size_t)(i * 3 + 1) % sizeof(noise), fds, (size_t)i % 9);
        }
        for (int i = 0; i < 9; i++)
                fd_close(fds[i]);
        fd_replace(&sock, -EBADF);
        sock = client_connect(path); /* no HELLO first */
        closed(&(struct launch_id){ .h = { .op = LAUNCH_STATS }, .id = "x" }, sizeof(struct launch_id), NULL, 0);
        CHECK(exited(sh("exit 3"), 3));
}

/* The socket's mode keeps others out, and where it does not, the peer's credentials do. */
static void test_other_user(void)
{
        int status = 0;
        pid_t child;

        fd_replace(&sock, -EBADF);
        CHECK(chmod(path, 0666) == 0 && chmod(dir, 0755) == 0);
        child = fork();
        if (child == 0) {
                struct client_msg m = { .n_fds = 0 };
                int s;

                if (setgid(65534) < 0 || setuid(65534) < 0)
                        _exit(3);
                s = client_connect(path);
                _exit(s >= 0 && client_hello(s, &m) < 0 ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(chmod(path, 0600) == 0 && chmod(dir, 0700) == 0);
        reconnect();
}

static void test_adopt(void)
{
        struct client_spec spec = shell("echo ready; cat /dev/zero | dd bs=1k count=20 2>/dev/null; sleep 1000");
        struct client_msg adopt = { .n_fds = 0 };
        char id[LAUNCH_ID_MAX] = "", text[8] = "";
        struct client_task t;
        struct stat a, b;

        start(&spec, &t, "ready");
        (void)snprintf(id, sizeof(id), "%s", spec.id);
        CHECK(fd_write_all(t.record, "record", 6) == 0);
        fd_replace(&sock, -EBADF); /* the daemon dies, and its descriptors with it */
        fd_replace(&t.out, -EBADF);
        sock = client_connect(path);
        CHECK(greet(&adopt) == 1);
        CHECK(str_eq(adopt.adopt.id, id) && adopt.adopt.ended == 0);
        CHECK(pread(adopt.fds[LAUNCH_ADOPT_RECORD], text, 6, 0) == 6 && str_eq(text, "record"));
        CHECK(fstat(adopt.fds[LAUNCH_ADOPT_NETNS], &a) == 0 && fstat(netns, &b) == 0 && a.st_ino == b.st_ino);
        for (size_t got = 0; got < 10240;) {
                ssize_t n = read(adopt.fds[LAUNCH_ADOPT_STDOUT_R], out, sizeof(out));

                CHECK(n > 0);
                if (n <= 0)
                        break;
                got += (size_t)n;
        }
        CHECK(client_signal(sock, id, SIGKILL) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0 && msg.h.op == LAUNCH_EXITED);
        fd_replace(&sock, -EBADF); /* before it said REMOVE */
        sock = client_connect(path);
        CHECK(greet(&adopt) == 1);
        CHECK(adopt.adopt.ended == 1 && adopt.adopt.exit.status == SIGKILL);
        CHECK(client_send_id(sock, LAUNCH_REMOVE, id) == 0);
        reconnect();
        fd_replace(&sock, -EBADF);
        sock = client_connect(path);
        CHECK(greet(NULL) == 0);
        client_msg_close(&adopt);
        client_task_close(&t);
}

/* A peer that asks and never reads is disconnected. */
static void test_slow_peer(void)
{
        int r = 0, full = 0;

        for (int i = 0; i < 400000 && r == 0; i++) {
                r = client_send_id(sock, LAUNCH_STATS, "nobody");
                if (r == -EAGAIN && full++ < 20000) {
                        (void)usleep(50);
                        r = 0;
                }
        }
        CHECK(r == -EPIPE || r == -ECONNRESET);
        reconnect();
        CHECK(exited(sh("exit 4"), 4));
}

static bool process_with(const char *what)
{
        DIR *d = opendir("/proc");
        struct dirent *e;
        bool found = false;

        while (!found && (e = readdir(d))) {
                auto_str s = STR_INIT;
                char file[300];

                (void)snprintf(file, sizeof(file), "/proc/%s/cmdline", e->d_name);
                if (e->d_name[0] < '1' || e->d_name[0] > '9' || fd_read_file(AT_FDCWD, file, 65536, &s, NULL) < 0)
                        continue;
                for (size_t i = 0; i < s.len; i++)
                        if (s.data[i] == '\0')
                                s.data[i] = ' ';
                found = s.data && strncmp(s.data, what, strlen(what)) == 0;
        }
        (void)closedir(d);
        return found;
}

static void test_many(void)
{
        struct client_task tasks[100];
        char names[100][LAUNCH_ID_MAX];

        for (int i = 0; i < 100; i++) {
                struct client_spec spec = shell("echo ready; sleep 1000");

                spec.limits = (struct launch_limits){
                        .memory = 16 << 20, .disk = 1 << 20, .shm = 1 << 20, .cpu_milli = 100, .pids = 10
                };
                (void)snprintf(names[i], sizeof(names[i]), "%s", spec.id);
                CHECK(client_start(sock, &spec, &tasks[i]) == 0);
        }
        for (int i = 0; i < 100; i++) {
                char text[16];

                CHECK(read(tasks[i].out, text, sizeof(text)) == 6);
        }
        for (int i = 0; i < 100; i++)
                CHECK(client_signal(sock, names[i], SIGKILL) == 0);
        for (int i = 0; i < 100; i++) {
                CHECK(client_receive(sock, &msg, 10000) == 0 && msg.h.op == LAUNCH_EXITED);
                CHECK(client_send_id(sock, LAUNCH_REMOVE, msg.exited.id) == 0);
        }
        for (int i = 0; i < 100; i++)
                client_task_close(&tasks[i]);
}

/* Nothing outlives its launcher, whatever it did to its own settings. */
static void test_launcher_dies(void)
{
        static const char *const argv[] = { "clear", "mfl-clear", NULL };
        struct client_spec spec = spec_of(argv);
        struct client_task t;

        start(&spec, &t, "cleared");
        CHECK(process_with("clear mfl-clear"));
        (void)stop_launcher(SIGKILL);
        start_launcher();
        CHECK(greet(NULL) == 0);
        CHECK(!process_with("clear mfl-clear"));
        CHECK(exited(sh("exit 5"), 5));
        client_task_close(&t);
}

static bool cgroup_left(void)
{
        static const char *const roots[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids",
                                             "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpuacct" };
        char file[160];

        for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
                (void)snprintf(file, sizeof(file), "%s/%s", roots[i], name);
                if (access(file, F_OK) == 0)
                        return true;
        }
        return false;
}

static void test_stop(void)
{
        struct client_spec spec = shell("trap '' TERM; echo ready; sleep 54321; sleep 54321");
        struct client_task t;

        start(&spec, &t, "ready");
        CHECK(cgroup_left());
        CHECK(stop_launcher(SIGTERM) == 0);
        CHECK(!process_with("sleep 54321"));
        CHECK(!cgroup_left());
        CHECK(access(path, F_OK) < 0);
        client_task_close(&t);
}

static const struct test tests[] = {
        { "exit codes", test_exit_codes },
        { "death by each signal, with init", test_signals_with_init },
        { "signals", test_signal_operation },
        { "stopped at once", test_stopped_at_once },
        { "a long way to its start", test_long_way },
        { "not found, not executable", test_not_found },
        { "standard streams and user", test_io },
        { "files and working directory", test_files },
        { "hostname, hosts, resolv.conf", test_texts },
        { "memory", test_memory },
        { "processes, disk and shared memory", test_limits },
        { "#!/proc/self/exe", test_self_exe },
        { "refused", test_refused },
        { "counters", test_stats },
        { "malformed packets", test_malformed },
        { "another user", test_other_user },
        { "adoption", test_adopt },
        { "a peer that does not read", test_slow_peer },
        { "100 at once", test_many },
        { "the launcher dies", test_launcher_dies },
        { "the launcher is stopped", test_stop },
};

static void run_test(const struct test *t, const char *only)
{
        if (only && !strstr(t->name, only))
                return;
        case_name = t->name;
        case_failed = false;
        t->run();
        if (!case_failed)
                (void)printf("ok - launcher: %s\n", case_name);
        *(case_failed ? &failed : &passed) += 1;
}

int main(int argc, char **argv)
{
        char text[512];

        if (argc < 5 || geteuid() != 0) {
                (void)printf("usage: test_launcher LAUNCHER BUSYBOX CLEAR DIE [CASE], as root\n");
                return 2;
        }
        launcher = argv[1];
        busybox = argv[2];
        clear = argv[3];
        die = argv[4];
        (void)setvbuf(stdout, NULL, _IOLBF, 0);
        (void)snprintf(dir, sizeof(dir), "/tmp/mfl-XXXXXX");
        if (!mkdtemp(dir))
                abort();
        (void)snprintf(name, sizeof(name), "mfl-%d", getpid());
        (void)snprintf(conf, sizeof(conf), "%s/conf", dir);
        (void)snprintf(path, sizeof(path), "%s/sock", dir);
        (void)snprintf(text, sizeof(text), "store %s/store\nsocket %s\nuid 0\ngid 0\nname %s\nmemory-max 8589934592\n",
                       dir, path, name);
        make_store();
        write_text(conf, text, 0600);
        netns = client_netns();
        case_name = "start";
        start_launcher();
        CHECK(greet(NULL) == 0);
        for (const struct test *t = root_tests; t->name; t++)
                run_test(t, argv[5]);
        for (size_t i = 0; i < ARRAY_LEN(tests); i++)
                run_test(&tests[i], i + 1 < ARRAY_LEN(tests) ? argv[5] : NULL); /* the last one stops the launcher */
        (void)path_remove_tree(open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC), strrchr(dir, '/') + 1);
        (void)printf("1..%u\n", passed + failed);
        return failed ? 1 : 0;
}
