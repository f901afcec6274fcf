/* System calls that the C library of Debian 12 does not wrap, or wraps with more than is wanted between clone and exec.
 * Each answers what the kernel does, with -errno for a failure. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static inline int sys_result(long r)
{
        return r < 0 ? -errno : (int)r;
}

/* fork(2) semantics: no handlers of the C library run in the child. */
static inline pid_t sys_clone3(struct clone_args *args)
{
        return sys_result(syscall(SYS_clone3, args, sizeof(*args)));
}

/* The child calls fn, which does not return: on the stack of args, or on its copy of ours if there is none there. -errno. */
static inline pid_t sys_clone3_call(struct clone_args *args, void (*fn)(const void *), const void *arg)
{
#if defined(__x86_64__)
        register void (*f)(const void *) __asm__("r12") = fn;
        register const void *a __asm__("r13") = arg;
        long r;

        __asm__ volatile("syscall\n\t"
                         "test %%rax, %%rax\n\t"
                         "jnz 1f\n\t"
                         "xor %%ebp, %%ebp\n\t"
                         "and $-16, %%rsp\n\t"
                         "mov %%r13, %%rdi\n\t"
                         "call *%%r12\n\t"
                         "hlt\n"
                         "1:"
                         : "=a"(r)
                         : "a"(SYS_clone3), "D"(args), "S"(sizeof(*args)), "r"(f), "r"(a)
                         : "rcx", "r11", "memory");
        return (pid_t)r;
#elif defined(__aarch64__)
        register long number __asm__("x8") = SYS_clone3;
        register long r __asm__("x0") = (long)args;
        register long size __asm__("x1") = sizeof(*args);
        register void (*f)(const void *) __asm__("x19") = fn;
        register const void *a __asm__("x20") = arg;

        __asm__ volatile("svc #0\n\t"
                         "cbnz x0, 1f\n\t"
                         "mov x29, xzr\n\t"
                         "mov x30, xzr\n\t"
                         "mov x0, x20\n\t"
                         "blr x19\n\t"
                         "brk #1\n"
                         "1:"
                         : "+r"(r)
                         : "r"(number), "r"(size), "r"(f), "r"(a)
                         : "memory", "cc");
        return (pid_t)r;
#else
#error "no clone3 for this architecture"
#endif
}

static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
        return sys_result(syscall(SYS_pivot_root, new_root, put_old));
}

static inline int sys_fsopen(const char *type)
{
        return sys_result(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
}

static inline int sys_fsconfig(int fd, unsigned command, const char *key, const char *value)
{
        return sys_result(syscall(SYS_fsconfig, fd, command, key, value, 0));
}

static inline int sys_fsmount(int fd, unsigned attributes)
{
        return sys_result(syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes));
}

static inline int sys_open_tree(int dir, const char *path, unsigned flags)
{
        return sys_result(syscall(SYS_open_tree, dir, path, flags | OPEN_TREE_CLOEXEC));
}

/* Attaches the detached mount `fd`. */
static inline int sys_attach(int fd, int dir, const char *path)
{
        return sys_result(syscall(SYS_move_mount, fd, "", dir, path, MOVE_MOUNT_F_EMPTY_PATH));
}

static inline int sys_mount_setattr(int dir, const char *path, unsigned flags, struct mount_attr *attr)
{
        return sys_result(syscall(SYS_mount_setattr, dir, path, flags, attr, sizeof(*attr)));
}

static inline int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
        return sys_result(syscall(SYS_close_range, first, last, flags));
}

static inline int sys_execveat(int fd, const char *path, char *const *argv, char *const *envp, int flags)
{
        return sys_result(syscall(SYS_execveat, fd, path, argv, envp, flags));
}

/* No core files: where core_pattern is a pipe, the kernel runs that program of the host, as root, at each crash, whatever
 * the limit is, but where it is 1 (coredump_pipe() of the kernel). Where it is a file, 1 byte is too little for any. Who
 * started us may have left us nothing but 0. */
static inline int sys_limit_core(void)
{
        const struct rlimit one = { 1, 1 }, none = { 0, 0 };

        if (setrlimit(RLIMIT_CORE, &one) == 0)
                return 0;
        return sys_result(errno == EPERM ? setrlimit(RLIMIT_CORE, &none) : -1);
}

/* waitid(2) as the kernel has it: with the resources of what ended. */
static inline int sys_waitid(int which, pid_t pid, siginfo_t *info, int options, struct rusage *usage)
{
        return sys_result(syscall(SYS_waitid, which, pid, info, options, usage));
}
