#include "net/dns_sandbox.h"

#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#endif

/* The runtime of sanitizers does more than the program. */
#if defined(ARCH) && !defined(__SANITIZE_ADDRESS__)

#define FIELD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define ARGUMENT(n) FIELD(args[n]) /* its low half: these are ints */
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define ALLOW RETURN(SECCOMP_RET_ALLOW)
#define DENY RETURN(SECCOMP_RET_ERRNO | EPERM)
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define PERMIT(call) UNLESS(SYS_##call, 1), ALLOW

static const struct sock_filter filter[] = {
        FIELD(arch),
        UNLESS(ARCH, 1),
        BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS),
        FIELD(nr),
        PERMIT(recvfrom),
        PERMIT(sendto),
        PERMIT(epoll_pwait),
        PERMIT(epoll_ctl),
        PERMIT(close),
        PERMIT(connect),
        PERMIT(accept4),
        PERMIT(clock_gettime),
        PERMIT(getrandom),
        PERMIT(read),
        PERMIT(write),
        PERMIT(writev),
        PERMIT(lseek),
        PERMIT(fstat),
        PERMIT(newfstatat),
        PERMIT(statx),
        PERMIT(readlinkat),
        PERMIT(inotify_add_watch),
        PERMIT(mmap),
        PERMIT(mremap),
        PERMIT(munmap),
        PERMIT(madvise),
        PERMIT(brk),
        PERMIT(futex),
        PERMIT(exit_group),
        PERMIT(rt_sigreturn),
        PERMIT(restart_syscall),
        PERMIT(getpid),
        PERMIT(gettid),
#ifdef SYS_epoll_wait
        PERMIT(epoll_wait),
        PERMIT(readlink),
#endif
        /* Files to read alone. */
        UNLESS(SYS_openat, 4),
        ARGUMENT(2),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC, 1, 0),
        ALLOW,
        DENY,
        UNLESS(SYS_socket, 5),
        ARGUMENT(0),
        UNLESS(AF_INET, 1),
        ALLOW,
        UNLESS(AF_INET6, 1),
        ALLOW,
        /* The index of an interface, for link-local servers. */
        FIELD(nr),
        UNLESS(SYS_ioctl, 3),
        ARGUMENT(1),
        UNLESS(SIOCGIFINDEX, 1),
        ALLOW,
        DENY,
};

static int set_filter(struct err *err)
{
        struct sock_fprog program = { .len = ARRAY_LEN(filter), .filter = (struct sock_filter *)filter };

        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
                return err_sys(err, "seccomp");
        return 0;
}

#else

static int set_filter(struct err *err)
{
        (void)err;
        return 0;
}

#endif

int dns_sandbox(struct err *err)
{
        struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct none[2] = { { 0 }, { 0 } };

        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || syscall(SYS_capset, &head, none) < 0)
                return err_sys(err, "drop capabilities");
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return err_sys(err, "give up privileges");
        return set_filter(err);
}
