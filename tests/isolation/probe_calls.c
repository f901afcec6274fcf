/* Which system calls the task's filter refuses, found without making any of them: a filter of our own passes each call that
 * carries a marker in its sixth argument to a listener, which answers a number that no kernel does. A filter that refuses
 * comes before a listener (seccomp(2), "the action with the highest precedence"), so what is refused says so itself. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MARKER 0x6d617966u
#define ALLOWED 999   /* what the listener answers */
#define LAST_CALL 462 /* mseal, Linux 6.10 */
#define DOCKER_BLOCKS 67

#define C(name)                                                                                                        \
        {                                                                                                              \
#name, SYS_##name                                                                                      \
        }

/* What Docker's default profile refuses with the default capabilities. */
static const struct {
        const char *name;
        int nr;
} blocked[] = {
        C(syslog),
        C(vhangup),
        C(pivot_root),
        C(acct),
        C(settimeofday),
        C(mount),
        C(umount2),
        C(swapon),
        C(swapoff),
        C(reboot),
        C(sethostname),
        C(setdomainname),
        C(init_module),
        C(delete_module),
        C(quotactl),
        C(lookup_dcookie),
        C(clock_settime),
        C(mbind),
        C(set_mempolicy),
        C(get_mempolicy),
        C(kexec_load),
        C(add_key),
        C(request_key),
        C(keyctl),
        C(migrate_pages),
        C(unshare),
        C(move_pages),
        C(perf_event_open),
        C(fanotify_init),
        C(open_by_handle_at),
        C(setns),
        C(kcmp),
        C(finit_module),
        C(kexec_file_load),
        C(bpf),
        C(userfaultfd),
        C(io_uring_setup),
        C(io_uring_enter),
        C(io_uring_register),
        C(open_tree),
        C(move_mount),
        C(fsopen),
        C(fsconfig),
        C(fsmount),
        C(fspick),
        C(clone3),
        C(pidfd_getfd),
        C(process_madvise),
        C(mount_setattr),
        C(quotactl_fd),
        C(set_mempolicy_home_node),
        C(nfsservctl),
#ifdef __x86_64__
        C(uselib),
        C(ustat),
        C(sysfs),
        C(_sysctl),
        C(iopl),
        C(ioperm),
        C(create_module),
        C(get_kernel_syms),
        C(query_module),
        C(getpmsg),
        C(putpmsg),
        C(afs_syscall),
        C(tuxcall),
        C(security),
        C(vserver),
#endif
};

/* One call with the marker. The register is cleared behind it, so that no call of the C library carries it too. */
static long marked(long nr, long a, long b, long c)
{
#if defined(__x86_64__)
        register long r10 __asm__("r10") = 0, r8 __asm__("r8") = 0, r9 __asm__("r9") = MARKER;
        long ret;

        __asm__ volatile("syscall\n\txorl %%r9d, %%r9d"
                         : "=a"(ret), "+r"(r9)
                         : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                         : "rcx", "r11", "memory");
        return ret;
#elif defined(__aarch64__)
        register long x8 __asm__("x8") = nr, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                         x3 __asm__("x3") = 0, x4 __asm__("x4") = 0, x5 __asm__("x5") = MARKER;

        __asm__ volatile("svc #0\n\tmov x5, #0"
                         : "+r"(x0), "+r"(x5)
                         : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                         : "memory");
        return x0;
#endif
}

static int install_listener(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARKER, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

        return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void answer(int listener)
{
        for (;;) {
                struct seccomp_notif request = { 0 };
                struct seccomp_notif_resp response = { 0 };

                if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) {
                        if (errno == EINTR || errno == ENOENT)
                                continue;
                        _exit(0);
                }
                response.id = request.id;
                response.error = -ALLOWED;
                ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
        }
}

static bool refused(long nr, long a, long b, long c)
{
        return marked(nr, a, b, c) != -ALLOWED;
}

static void refused_call(const char *what, long nr, long a, long b, long c)
{
        char name[96];

        snprintf(name, sizeof(name), "seccomp: %s", what);
        check(refused(nr, a, b, c), name, "the filter lets it pass");
}

static void every_call(void)
{
        int n = 0, docker = 0;

        for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++) {
                refused_call(blocked[i].name, blocked[i].nr, 0, 0, 0);
                docker += refused(blocked[i].nr, 0, 0, 0);
        }
        for (int nr = 0; nr <= LAST_CALL; nr++) {
                /* Between these lie numbers without a call, of which Linux 6.11 uses two for probes of its own: it passes
                 * them by every filter and kills who makes them. */
                if (nr > SYS_rseq && nr < SYS_pidfd_send_signal)
                        continue;
                n += refused(nr, 0, 0, 0);
        }
        check(n >= docker && n >= (int)(sizeof(blocked) / sizeof(blocked[0])), "seccomp: as many as Docker's",
              "%d of %d", n, DOCKER_BLOCKS);
        check(refused(LAST_CALL + 300, 0, 0, 0), "seccomp: calls that nobody knows yet", "the filter lets them pass");
}

static void arguments(void)
{
        static const struct {
                const char *name;
                int family, type, protocol;
        } sockets[] = {
                { "AF_ALG", 38, SOCK_SEQPACKET, 0 },
                { "AF_VSOCK", 40, SOCK_STREAM, 0 },
                { "AF_PACKET", AF_PACKET, SOCK_RAW, 0 },
                { "AF_BLUETOOTH", 31, SOCK_RAW, 1 },
                { "AF_CAN", 29, SOCK_RAW, 1 },
                { "AF_TIPC", 30, SOCK_SEQPACKET, 0 },
                { "AF_RDS", 21, SOCK_SEQPACKET, 0 },
                { "AF_KEY", 15, SOCK_RAW, 2 },
                { "AF_XDP", 44, SOCK_RAW, 0 },
                { "AF_APPLETALK", 5, SOCK_DGRAM, 0 },
                { "AF_X25", 9, SOCK_SEQPACKET, 0 },
                { "AF_LLC", 26, SOCK_STREAM, 0 },
                { "AF_IEEE802154", 36, SOCK_RAW, 0 },
                { "AF_NFC", 39, SOCK_SEQPACKET, 0 },
                { "AF_KCM", 41, SOCK_DGRAM, 0 },
                { "AF_QIPCRTR", 42, SOCK_DGRAM, 0 },
                { "AF_SMC", 43, SOCK_STREAM, 0 },
                { "netlink AUDIT", AF_NETLINK, SOCK_RAW, 9 },
                { "netlink CONNECTOR", AF_NETLINK, SOCK_RAW, 11 },
                { "netlink NETFILTER", AF_NETLINK, SOCK_RAW, 12 },
                { "netlink KOBJECT_UEVENT", AF_NETLINK, SOCK_RAW, 15 },
                { "netlink GENERIC", AF_NETLINK, SOCK_RAW, 16 },
                { "netlink XFRM", AF_NETLINK, SOCK_RAW, 6 },
                { "netlink CRYPTO", AF_NETLINK, SOCK_RAW, 21 },
        };
        char name[64];

        for (size_t i = 0; i < sizeof(sockets) / sizeof(sockets[0]); i++) {
                snprintf(name, sizeof(name), "socket %s", sockets[i].name);
                refused_call(name, SYS_socket, sockets[i].family, sockets[i].type, sockets[i].protocol);
        }
        refused_call("clone NEWUSER", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0);
        refused_call("clone NEWNS", SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0);
        refused_call("clone NEWNET", SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0);
        refused_call("clone NEWPID", SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0);
        refused_call("clone NEWCGROUP", SYS_clone, CLONE_NEWCGROUP | SIGCHLD, 0, 0);
        refused_call("personality ADDR_NO_RANDOMIZE", SYS_personality, 0x0040000, 0, 0);
        refused_call("personality READ_IMPLIES_EXEC", SYS_personality, 0x0400000, 0, 0);
        check(!refused(SYS_personality, 0, 0, 0), "seccomp: personality 0 is allowed", "the filter refuses it");
        check(!refused(SYS_clone, SIGCHLD, 0, 0), "seccomp: fork is allowed", "the filter refuses it");
        check(!refused(SYS_socket, AF_INET, SOCK_STREAM, 0), "seccomp: internet sockets are allowed",
              "the filter refuses them");
        check(!refused(SYS_socket, AF_UNIX, SOCK_STREAM, 0), "seccomp: unix sockets are allowed",
              "the filter refuses them");
}

static int filtered_probes(void)
{
        int before = failures();

        every_call();
        arguments();
        fflush(stdout);
        return failures() - before;
}

/* Runs fn in a child that answers 0 if what it tried was possible. False also where the child was killed for it. */
static bool possible(int (*fn)(void))
{
        pid_t pid = fork();
        int status = 0;

        if (pid == 0)
                _exit(fn() == 0 ? 0 : 1);
        return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#ifdef __x86_64__
/* getpid by the gates of the 32-bit and the x32 tables. */
static int try_i386(void)
{
        long ret = 20;

        __asm__ volatile("int $0x80" : "+a"(ret) : : "r8", "r9", "r10", "r11", "memory");
        return ret == getpid() ? 0 : 1;
}

/* AF_VSOCK through socketcall(2) of the 32-bit table: what a filter that looks at one table only would let pass. */
static int try_i386_socketcall(void)
{
        unsigned *args = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        long ret = 102;

        if (args == MAP_FAILED)
                return 1;
        args[0] = AF_UNIX;
        args[1] = SOCK_STREAM;
        args[2] = 0;
        __asm__ volatile("int $0x80" : "+a"(ret) : "b"(1L), "c"(args) : "r8", "r9", "r10", "r11", "memory");
        return ret >= 0 && ret < 1024 ? 0 : 1;
}

static int try_x32(void)
{
        return syscall(0x40000000 | SYS_getpid) == getpid() ? 0 : 1;
}
#endif

static int try_unshare_user(void)
{
        return unshare(CLONE_NEWUSER);
}

static int try_unshare_mount(void)
{
        return unshare(CLONE_NEWNS);
}

static int try_clone_user(void)
{
        pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);

        if (pid == 0)
                _exit(0);
        return pid > 0 ? 0 : 1;
}

static int try_setns(void)
{
        int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);

        return fd >= 0 ? setns(fd, 0) : 1;
}

static int try_io_uring(void)
{
        char params[256] = { 0 };

        return syscall(SYS_io_uring_setup, 1, params) >= 0 ? 0 : 1;
}

static int try_aio(void)
{
        unsigned long context = 0;

        return syscall(SYS_io_setup, 1, &context) == 0 ? 0 : 1;
}

static int try_keyring(void)
{
        return syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* session */, 0) > 0 ? 0 : 1;
}

static int try_raw(void)
{
        return socket(AF_INET, SOCK_RAW, 1) >= 0 ? 0 : 1;
}

static int try_settime(void)
{
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        return clock_settime(CLOCK_REALTIME, &t);
}

static int try_sethostname(void)
{
        return sethostname("x", 1);
}

static int try_syslog(void)
{
        char text[64];

        return syscall(SYS_syslog, 3, text, sizeof(text)) >= 0 ? 0 : 1;
}

static int try_chown_outside(void)
{
        return chown("/tmp", 70000, 70000);
}

static int try_setuid_outside(void)
{
        return setuid(70000);
}

static int try_oom_score(void)
{
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        return fd >= 0 && write(fd, "-1000", 5) == 5 ? 0 : 1;
}

static int try_realtime(void)
{
        struct sched_param p = { .sched_priority = 1 };

        return sched_setscheduler(0, SCHED_FIFO, &p);
}

static int try_mlock_all(void)
{
        return prctl(PR_CAPBSET_READ, 14 /* IPC_LOCK */, 0, 0, 0) == 1 ? 0 : 1;
}

static int try_securebits(void)
{
        return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21 /* SYS_ADMIN */, 0, 0);
}

static void attempts(void)
{
        static const struct {
                const char *name;
                int (*fn)(void);
        } all[] = {
#ifdef __x86_64__
                { "32-bit system calls", try_i386 },
                { "32-bit socketcall", try_i386_socketcall },
                { "x32 system calls", try_x32 },
#endif
                { "unshare a user namespace", try_unshare_user },
                { "unshare a mount namespace", try_unshare_mount },
                { "clone a user namespace", try_clone_user },
                { "setns to pid 1", try_setns },
                { "io_uring", try_io_uring },
                { "what fs.aio-max-nr counts for the whole host", try_aio },
                { "the session keyring", try_keyring },
                { "a raw socket", try_raw },
                { "set the clock", try_settime },
                { "set the host name", try_sethostname },
                { "the kernel's log", try_syslog },
                { "chown to an id outside of the range", try_chown_outside },
                { "setuid to an id outside of the range", try_setuid_outside },
                { "escape the OOM killer", try_oom_score },
                { "a realtime scheduler", try_realtime },
                { "IPC_LOCK in the bounding set", try_mlock_all },
                { "raise an ambient capability", try_securebits },
        };
        char name[96];

        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
                snprintf(name, sizeof(name), "impossible: %s", all[i].name);
                check(!possible(all[i].fn), name, "it was possible");
        }
}

void probe_calls(void)
{
        pid_t pid;
        int listener, status = 0;

        attempts();
        fflush(stdout);
        /* The listener lives in a child of its own: its filter must not be on the rest of the probe. */
        pid = fork();
        if (pid == 0) {
                pid_t probe, answerer;

                listener = install_listener();
                if (listener < 0) {
                        fail("seccomp: a listener", "%s", strerror(errno));
                        fflush(stdout);
                        _exit(1);
                }
                probe = fork();
                if (probe == 0)
                        _exit(filtered_probes() > 0);
                answerer = fork();
                if (answerer == 0)
                        answer(listener);
                waitpid(probe, &status, 0);
                /* It has the filter too, so its listener never ends by itself. */
                kill(answerer, SIGKILL);
                if (WIFSIGNALED(status))
                        fail("seccomp: probing the calls", "signal %d", WTERMSIG(status));
                fflush(stdout);
                _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 3);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
                fail("seccomp: probing the calls", "the child ended with %#x", (unsigned)status);
        else
                check(WEXITSTATUS(status) == 0, "seccomp", "see above");
}
