/* Writes the seccomp program of containers as a C header, for each architecture that Mayfly runs on, so that a build for
 * another machine gets its own. libseccomp knows the numbers; the program itself is a binary search over ranges of
 * numbers with the same answer, which loads several times faster than a comparison per call: the kernel runs a new filter
 * once for every number (seccomp_cache_prepare()). Answers stand once, at the end: each instruction is compiled per task.
 *
 * What is allowed is what Docker's default profile allows with its default capabilities, and no more (hardening.md); less where
 * one task could use up what is the host's. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define NUMBERS 512 /* more than the kernel has */
#define NEWEST 466  /* what is newer than this list is unknown to it: ENOSYS, so that programs fall back */
#define PROGRAM_MAX 1024

enum answer { DENY, ALLOW, UNKNOWN, CLONE, SOCKET, SOCKETPAIR, PERSONALITY, SETRLIMIT, PRLIMIT };

static const char *const allowed[] = {
        "accept",
        "accept4",
        "access",
        "adjtimex",
        "alarm",
        "arch_prctl",
        "bind",
        "brk",
        "capget",
        "capset",
        "chdir",
        "chmod",
        "chown",
        "chroot",
        "clock_adjtime",
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "close",
        "close_range",
        "connect",
        "copy_file_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_ctl_old",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "epoll_wait_old",
        "eventfd",
        "eventfd2",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fallocate",
        "fanotify_mark",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchown",
        "fchownat",
        "fcntl",
        "fdatasync",
        "fgetxattr",
        "flistxattr",
        "flock",
        "fork",
        "fremovexattr",
        "fsetxattr",
        "fstat",
        "fstatfs",
        "fsync",
        "ftruncate",
        "futex",
        "futex_waitv",
        "futimesat",
        "getcpu",
        "getcwd",
        "getdents",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getitimer",
        "getpeername",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrandom",
        "getresgid",
        "getresuid",
        "getrlimit",
        "get_robust_list",
        "getrusage",
        "getsid",
        "getsockname",
        "getsockopt",
        "get_thread_area",
        "gettid",
        "gettimeofday",
        "getuid",
        "getxattr",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "io_cancel",
        "ioctl",
        "io_destroy",
        "io_getevents",
        "io_pgetevents",
        "ioprio_get",
        "ioprio_set",
        "io_submit",
        "kill",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "lchown",
        "lgetxattr",
        "link",
        "linkat",
        "listen",
        "listxattr",
        "llistxattr",
        "lremovexattr",
        "lseek",
        "lsetxattr",
        "lstat",
        "madvise",
        "membarrier",
        "memfd_create",
        "memfd_secret",
        "mincore",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "modify_ldt",
        "mprotect",
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedsend",
        "mq_unlink",
        "mremap",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "name_to_handle_at",
        "nanosleep",
        "newfstatat",
        "open",
        "openat",
        "openat2",
        "pause",
        "pidfd_open",
        "pidfd_send_signal",
        "pipe",
        "pipe2",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "poll",
        "ppoll",
        "prctl",
        "pread64",
        "preadv",
        "preadv2",
        "process_mrelease",
        "process_vm_readv",
        "process_vm_writev",
        "pselect6",
        "ptrace",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readlink",
        "readlinkat",
        "readv",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "remap_file_pages",
        "removexattr",
        "rename",
        "renameat",
        "renameat2",
        "restart_syscall",
        "rmdir",
        "rseq",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_tgsigqueueinfo",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getscheduler",
        "sched_rr_get_interval",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
        "seccomp",
        "select",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "sendfile",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setfsgid",
        "setfsuid",
        "setgid",
        "setgroups",
        "setitimer",
        "setpgid",
        "setpriority",
        "setregid",
        "setresgid",
        "setresuid",
        "setreuid",
        "set_robust_list",
        "setsid",
        "setsockopt",
        "set_thread_area",
        "set_tid_address",
        "setuid",
        "setxattr",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
        "shutdown",
        "sigaltstack",
        "signalfd",
        "signalfd4",
        "splice",
        "stat",
        "statfs",
        "statx",
        "symlink",
        "symlinkat",
        "sync",
        "sync_file_range",
        "sync_file_range2",
        "syncfs",
        "sysinfo",
        "tee",
        "tgkill",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_settime",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
        "times",
        "tkill",
        "truncate",
        "umask",
        "uname",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimes",
        "vfork",
        "vmsplice",
        "wait4",
        "waitid",
        "write",
        "writev",
};

/* Newer than the libseccomp of Debian 12; their numbers are the same everywhere. */
static const int allowed_numbers[] = {
        451, /* cachestat */
        452, /* fchmodat2 */
        453, /* map_shadow_stack */
        454, /* futex_wake */
        455, /* futex_wait */
        456, /* futex_requeue */
        457, /* statmount */
        458, /* listmount */
        462, /* mseal */
        463, /* setxattrat */
        464, /* getxattrat */
        465, /* listxattrat */
        466, /* removexattrat */
};

struct special {
        const char *name;
        enum answer answer;
};

/* io_setup(2) takes of fs.aio-max-nr, which is the whole host's: one task could use it up. */
static const struct special specials[] = {
        { "clone", CLONE },       { "clone3", UNKNOWN },      { "io_setup", UNKNOWN }, { "personality", PERSONALITY },
        { "prlimit64", PRLIMIT }, { "setrlimit", SETRLIMIT }, { "socket", SOCKET },    { "socketpair", SOCKETPAIR },
};

struct arch {
        const char *macro;
        uint32_t scmp, audit;
};

static const struct arch arches[] = {
        { "__x86_64__", SCMP_ARCH_X86_64, AUDIT_ARCH_X86_64 },
        { "__aarch64__", SCMP_ARCH_AARCH64, AUDIT_ARCH_AARCH64 },
};

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

/* A branch that ends in one of the answers at the end of the program. */
struct exit {
        size_t at;
        bool taken;
        enum answer answer;
};

struct program {
        struct sock_filter code[PROGRAM_MAX];
        size_t n;
        struct exit exits[PROGRAM_MAX];
        size_t n_exits;
};

struct range {
        uint32_t first;
        enum answer answer;
};

static _Noreturn void fail(const char *what, const char *name)
{
        (void)fprintf(stderr, "gen_seccomp: %s: %s\n", name, what);
        exit(1);
}

static void add(struct program *p, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
        if (p->n == PROGRAM_MAX)
                fail("too many instructions", "program");
        p->code[p->n++] = (struct sock_filter){ code, jt, jf, k };
}

static void load(struct program *p, size_t offset)
{
        add(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

static void answer_errno(struct program *p, int number)
{
        add(p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | (uint32_t)number);
}

static void answer_allow(struct program *p)
{
        add(p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
}

/* Arguments are little-endian 64-bit words; those compared here are ints, of which the kernel reads the low half, but for
 * pointers. */
static void load_arg(struct program *p, unsigned n)
{
        load(p, offsetof(struct seccomp_data, args) + 8 * n);
}

static void load_arg_high(struct program *p, unsigned n)
{
        load(p, offsetof(struct seccomp_data, args) + 8 * n + 4);
}

/* Allowed if the accumulator is one of the values, else the error. */
static void one_of(struct program *p, const uint32_t *values, size_t n, int number)
{
        for (size_t i = 0; i < n; i++)
                add(p, BPF_JMP | BPF_JEQ | BPF_K, (uint8_t)(n - i), 0, values[i]);
        answer_errno(p, number);
        answer_allow(p);
}

static void answer_clone(struct program *p)
{
        load_arg(p, 0);
        add(p, BPF_JMP | BPF_JSET | BPF_K, 0, 1,
            CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET);
        answer_errno(p, EPERM);
        answer_allow(p);
}

static void answer_socket(struct program *p)
{
        static const uint32_t families[] = { AF_UNIX, AF_INET, AF_INET6 };
        static const uint32_t netlink[] = { 0 /* NETLINK_ROUTE */ };

        load_arg(p, 0);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 4, AF_NETLINK);
        load_arg(p, 2);
        one_of(p, netlink, LEN(netlink), EPROTONOSUPPORT);
        one_of(p, families, LEN(families), EAFNOSUPPORT);
}

/* The limit of core files stays as the launcher has set it (privilege_rlimits()); who wants another one is told that he has it,
 * since programs that switch core files off end where they cannot. */
static void answer_setrlimit(struct program *p)
{
        load_arg(p, 0);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, RLIMIT_CORE);
        answer_errno(p, 0);
        answer_allow(p);
}

/* Likewise, but to read it is allowed; both at once would leave what is read unset. */
static void answer_prlimit(struct program *p)
{
        load_arg(p, 1);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 10, RLIMIT_CORE);
        load_arg(p, 2);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0);
        load_arg_high(p, 2);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 0);
        load_arg(p, 3);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 0);
        load_arg_high(p, 3);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
        answer_errno(p, 0);
        answer_errno(p, EPERM);
        answer_allow(p);
}

static void answer_range(struct program *p, enum answer answer)
{
        static const uint32_t personalities[] = { 0, 0x8, 0x20000, 0x20008, 0xffffffff };
        static const uint32_t local[] = { AF_UNIX };

        switch (answer) {
        case DENY:
                answer_errno(p, EPERM);
                break;
        case ALLOW:
                answer_allow(p);
                break;
        case UNKNOWN:
                answer_errno(p, ENOSYS);
                break;
        case CLONE:
                answer_clone(p);
                break;
        case SOCKET:
                answer_socket(p);
                break;
        case SOCKETPAIR:
                load_arg(p, 0);
                one_of(p, local, LEN(local), EAFNOSUPPORT);
                break;
        case PERSONALITY:
                load_arg(p, 0);
                one_of(p, personalities, LEN(personalities), EPERM);
                break;
        case SETRLIMIT:
                answer_setrlimit(p);
                break;
        case PRLIMIT:
                answer_prlimit(p);
                break;
        }
}

/* The branch of the instruction `at` goes to what is added next. */
static void land(struct program *p, size_t at, bool taken)
{
        size_t distance = p->n - at - 1;

        if (distance > UINT8_MAX)
                fail("a jump is too far", "program");
        if (taken)
                p->code[at].jt = (uint8_t)distance;
        else
                p->code[at].jf = (uint8_t)distance;
}

static bool stands_once(enum answer answer)
{
        return answer == DENY || answer == ALLOW || answer == UNKNOWN;
}

static void search(struct program *p, const struct range *ranges, size_t n);

static void branch(struct program *p, size_t at, bool taken, const struct range *ranges, size_t n)
{
        if (n == 1 && stands_once(ranges[0].answer)) {
                p->exits[p->n_exits++] = (struct exit){ at, taken, ranges[0].answer };
                return;
        }
        land(p, at, taken);
        search(p, ranges, n);
}

static void search(struct program *p, const struct range *ranges, size_t n)
{
        size_t at = p->n, half = n / 2;

        if (n == 1) {
                answer_range(p, ranges[0].answer);
                return;
        }
        add(p, BPF_JMP | BPF_JGE | BPF_K, 0, 0, ranges[half].first);
        branch(p, at, false, ranges, half);
        branch(p, at, true, ranges + half, n - half);
}

static void add_exits(struct program *p)
{
        for (enum answer answer = DENY; stands_once(answer); answer++) {
                for (size_t i = 0; i < p->n_exits; i++)
                        if (p->exits[i].answer == answer)
                                land(p, p->exits[i].at, p->exits[i].taken);
                answer_range(p, answer);
        }
}

static void set_named(enum answer *table, const struct arch *arch, const char *name, enum answer answer)
{
        int number = seccomp_syscall_resolve_name_arch(arch->scmp, name);

        if (number == __NR_SCMP_ERROR)
                fail("unknown to libseccomp", name);
        if (number >= NUMBERS)
                fail("number out of range", name);
        if (number >= 0) /* negative: this architecture has no such call */
                table[number] = answer;
}

static size_t make_ranges(const struct arch *arch, struct range *ranges)
{
        enum answer table[NUMBERS];
        size_t n = 0;

        for (size_t i = 0; i < NUMBERS; i++)
                table[i] = i > NEWEST ? UNKNOWN : DENY;
        for (size_t i = 0; i < LEN(allowed); i++)
                set_named(table, arch, allowed[i], ALLOW);
        for (size_t i = 0; i < LEN(allowed_numbers); i++)
                table[allowed_numbers[i]] = ALLOW;
        for (size_t i = 0; i < LEN(specials); i++)
                set_named(table, arch, specials[i].name, specials[i].answer);
        for (uint32_t i = 0; i < NUMBERS; i++)
                if (n == 0 || ranges[n - 1].answer != table[i])
                        ranges[n++] = (struct range){ i, table[i] };
        return n;
}

static void write_arch(const struct arch *arch)
{
        struct range ranges[NUMBERS];
        static struct program p;

        p.n = p.n_exits = 0;
        load(&p, offsetof(struct seccomp_data, arch));
        add(&p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, arch->audit);
        add(&p, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS);
        load(&p, offsetof(struct seccomp_data, nr));
        search(&p, ranges, make_ranges(arch, ranges));
        add_exits(&p);
        (void)printf("#%s defined(%s)\nstatic const struct sock_filter seccomp_program[] = {\n",
                     arch == arches ? "if" : "elif", arch->macro);
        for (size_t i = 0; i < p.n; i++)
                (void)printf("        { 0x%02x, %u, %u, 0x%08x },\n", p.code[i].code, p.code[i].jt, p.code[i].jf,
                             p.code[i].k);
        (void)printf("};\n");
}

int main(void)
{
        (void)printf(
                "/* Generated by src/launcher/gen/gen_seccomp.c. */\n#pragma once\n\n#include <linux/filter.h>\n\n");
        for (size_t i = 0; i < LEN(arches); i++)
                write_arch(&arches[i]);
        (void)printf("#else\n#error \"no seccomp program for this architecture\"\n#endif\n");
        return 0;
}
