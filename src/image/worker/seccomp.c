/* What the worker may ask of the kernel. The list is short enough to be searched in order; it is written with the
 * architecture's own numbers, so that it needs no generator where this is cross-compiled. */

#include "image/worker/worker.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define NUMBERS_END 0x40000000u /* from here on x32 */
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define NUMBERS_END UINT32_MAX
#else
#error "name the audit architecture of this processor"
#endif

static const uint32_t allowed[] = {
        /* the archive, files, directories */
        SYS_read,
        SYS_pread64,
        SYS_write,
        SYS_pwrite64,
        SYS_writev,
        SYS_readv,
        SYS_close,
        SYS_lseek,
        SYS_ftruncate,
        SYS_openat,
        SYS_openat2,
        SYS_fstat,
        SYS_newfstatat,
        SYS_statx,
        SYS_getdents64,
        SYS_mkdirat,
        SYS_mknodat,
        SYS_linkat,
        SYS_symlinkat,
        SYS_unlinkat,
        SYS_readlinkat,
        SYS_syncfs,
        SYS_fsync,
        SYS_fcntl,
        SYS_fadvise64,
        /* attributes */
        SYS_fchown,
        SYS_fchownat,
        SYS_fchmod,
        SYS_fchmodat,
        SYS_utimensat,
        SYS_fsetxattr,
        SYS_fgetxattr,
        SYS_flistxattr,
        SYS_fremovexattr,
        /* memory */
        SYS_brk,
        SYS_mmap,
        SYS_munmap,
        SYS_mremap,
        SYS_mprotect,
        SYS_madvise,
        SYS_futex,
        SYS_sysinfo,
        /* the C library and the end */
        SYS_getrandom,
        SYS_clock_gettime,
        SYS_gettimeofday,
        SYS_getpid,
        SYS_gettid,
        SYS_tgkill,
        SYS_rt_sigprocmask,
        SYS_rt_sigaction,
        SYS_rt_sigreturn,
        SYS_exit,
        SYS_exit_group,
};

#define N_ALLOWED (sizeof(allowed) / sizeof(allowed[0]))

int worker_seccomp(struct err *err)
{
        struct sock_filter code[N_ALLOWED + 8];
        struct sock_fprog program = { .filter = code };
        unsigned short n = 0;

        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, NUMBERS_END, N_ALLOWED, 0);
        for (size_t i = 0; i < N_ALLOWED; i++)
                code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i],
                                                         (unsigned char)(N_ALLOWED - i), 0);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        program.len = n;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return err_sys(err, "load the filter of system calls");
        return 0;
}
