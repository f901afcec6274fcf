/* Runs the generated program as the kernel would (Documentation/userspace-api/seccomp_filter.rst). */
#include "launcher/privilege.h"

#include "base/str.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#define FOREIGN AUDIT_ARCH_I386
#else
#define NATIVE AUDIT_ARCH_AARCH64
#define FOREIGN AUDIT_ARCH_ARM
#endif

static uint32_t run(const struct seccomp_data *data)
{
        size_t n = 0;
        const struct sock_filter *program = privilege_seccomp_program(&n);
        uint32_t a = 0;

        for (size_t pc = 0; pc < n; pc++) {
                const struct sock_filter *f = &program[pc];
                bool taken;

                switch (f->code) {
                case BPF_LD | BPF_W | BPF_ABS:
                        assert_true(f->k % 4 == 0 && f->k + 4 <= sizeof(*data));
                        memcpy(&a, (const char *)data + f->k, 4);
                        continue;
                case BPF_RET | BPF_K:
                        return f->k;
                case BPF_JMP | BPF_JEQ | BPF_K:
                        taken = a == f->k;
                        break;
                case BPF_JMP | BPF_JGE | BPF_K:
                        taken = a >= f->k;
                        break;
                case BPF_JMP | BPF_JSET | BPF_K:
                        taken = a & f->k;
                        break;
                default:
                        fail_msg("instruction 0x%x", f->code);
                        return 0;
                }
                pc += taken ? f->jt : f->jf;
        }
        fail_msg("the program runs off its end");
        return 0;
}

static uint32_t call(long number, uint64_t a, uint64_t b, uint64_t c)
{
        struct seccomp_data data = { .nr = (int)number, .arch = NATIVE, .args = { a, b, c } };

        return run(&data);
}

#define REFUSED(number) (SECCOMP_RET_ERRNO | (number))

static void test_allowed(void **state)
{
        static const long numbers[] = {
                SYS_read,    SYS_write,   SYS_execve,        SYS_execveat,        SYS_exit_group, SYS_futex,  SYS_mmap,
                SYS_openat,  SYS_openat2, SYS_statx,         SYS_chroot,          SYS_setresuid,  SYS_capset, SYS_prctl,
                SYS_seccomp, SYS_rseq,    SYS_clock_gettime, SYS_ptrace,          SYS_kill,       SYS_wait4,  SYS_bind,
                SYS_connect, SYS_mknodat, SYS_faccessat2,    452 /* fchmodat2 */,
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
                assert_int_equal(call(numbers[i], 0, 0, 0), SECCOMP_RET_ALLOW);
}

static void test_refused(void **state)
{
        static const long numbers[] = {
                SYS_mount,
                SYS_umount2,
                SYS_pivot_root,
                SYS_setns,
                SYS_unshare,
                SYS_add_key,
                SYS_keyctl,
                SYS_request_key,
                SYS_bpf,
                SYS_perf_event_open,
                SYS_kexec_load,
                SYS_init_module,
                SYS_finit_module,
                SYS_delete_module,
                SYS_reboot,
                SYS_swapon,
                SYS_swapoff,
                SYS_acct,
                SYS_settimeofday,
                SYS_clock_settime,
                SYS_quotactl,
                SYS_open_by_handle_at,
                SYS_userfaultfd,
                SYS_io_uring_setup,
                SYS_io_uring_enter,
                SYS_io_uring_register,
                SYS_fsopen,
                SYS_fsmount,
                SYS_fsconfig,
                SYS_fspick,
                SYS_move_mount,
                SYS_open_tree,
                SYS_mount_setattr,
                SYS_kcmp,
                SYS_lookup_dcookie,
                SYS_mbind,
                SYS_set_mempolicy,
                SYS_get_mempolicy,
                SYS_migrate_pages,
                SYS_move_pages,
                SYS_nfsservctl,
                SYS_vhangup,
                SYS_syslog,
                SYS_sethostname,
                SYS_setdomainname,
                SYS_pidfd_getfd,
                SYS_process_madvise,
                SYS_fanotify_init,
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
                assert_int_equal(call(numbers[i], 0, 0, 0), REFUSED(EPERM));
        assert_int_equal(call(SYS_clone3, 0, 0, 0), REFUSED(ENOSYS));
        assert_int_equal(call(1000, 0, 0, 0), REFUSED(ENOSYS));
        assert_int_equal(call(0x40000000 | SYS_read, 0, 0, 0), REFUSED(ENOSYS)); /* x32 */
        assert_int_equal(call(-1, 0, 0, 0), REFUSED(ENOSYS));
}

/* hardening.md: at least the 67 that Docker blocks. */
static void test_count(void **state)
{
        unsigned refused = 0;

        (void)state;
        for (long i = 0; i <= SYS_set_mempolicy_home_node; i++) {
#if defined(__x86_64__)
                if (i > SYS_rseq && i < SYS_pidfd_send_signal)
                        continue; /* no such numbers */
#endif
                refused += call(i, 0, 0, 0) != SECCOMP_RET_ALLOW;
        }
        assert_true(refused >= 67);
}

static void test_clone(void **state)
{
        static const uint64_t namespaces[] = {
                CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP,
        };

        (void)state;
        assert_int_equal(call(SYS_clone, 17, 0, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_clone, CLONE_VM | CLONE_VFORK | 17, 0, 0), SECCOMP_RET_ALLOW);
        for (size_t i = 0; i < ARRAY_LEN(namespaces); i++)
                assert_int_equal(call(SYS_clone, namespaces[i] | 17, 0, 0), REFUSED(EPERM));
        assert_int_equal(call(SYS_clone, ~UINT64_C(0), 0, 0), REFUSED(EPERM));
}

static void test_sockets(void **state)
{
        (void)state;
        assert_int_equal(call(SYS_socket, AF_UNIX, SOCK_STREAM, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_socket, AF_INET, SOCK_DGRAM, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_socket, AF_INET6, SOCK_STREAM, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_socket, AF_NETLINK, SOCK_RAW, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_socket, AF_NETLINK, SOCK_RAW, 12), REFUSED(EPROTONOSUPPORT));
        for (unsigned family = 0; family < 64; family++)
                if (family != AF_UNIX && family != AF_INET && family != AF_INET6 && family != AF_NETLINK)
                        assert_int_equal(call(SYS_socket, family, SOCK_STREAM, 0), REFUSED(EAFNOSUPPORT));
        /* The kernel reads an int: what stands above it does not matter, to the program neither. */
        assert_int_equal(call(SYS_socket, UINT64_C(1) << 32 | AF_ALG, 5, 0), REFUSED(EAFNOSUPPORT));
        assert_int_equal(call(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_socketpair, AF_TIPC, SOCK_STREAM, 0), REFUSED(EAFNOSUPPORT));
}

static void test_personality(void **state)
{
        (void)state;
        assert_int_equal(call(SYS_personality, 0, 0, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_personality, 0xffffffff, 0, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_personality, 0x20008, 0, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_personality, 0x40000 /* ADDR_NO_RANDOMIZE */, 0, 0), REFUSED(EPERM));
}

/* Nobody switches the limit of core files; who does is told that he did. */
static void test_core_limit(void **state)
{
        const uint64_t high = UINT64_C(1) << 32;
        struct seccomp_data data = { .nr = SYS_prlimit64, .arch = NATIVE, .args = { 0, RLIMIT_CORE, 0, 1 } };

        (void)state;
        assert_int_equal(run(&data), SECCOMP_RET_ALLOW); /* to read it */
        data.args[3] = 0;
        for (unsigned i = 0; i < 3; i++) {
                const uint64_t pointers[] = { 1, high, high | 1 };

                data.args[2] = pointers[i];
                data.args[3] = 0;
                assert_int_equal(run(&data), REFUSED(0));
                for (unsigned k = 0; k < 3; k++) {
                        data.args[3] = pointers[k];
                        assert_int_equal(run(&data), REFUSED(EPERM));
                }
        }
        data.args[1] = high | RLIMIT_CORE; /* the kernel reads an int */
        assert_int_equal(run(&data), REFUSED(EPERM));
        data.args[1] = RLIMIT_NOFILE;
        assert_int_equal(run(&data), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_setrlimit, RLIMIT_CORE, 1, 0), REFUSED(0));
        assert_int_equal(call(SYS_setrlimit, RLIMIT_NOFILE, 1, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(call(SYS_io_setup, 1, 1, 0), REFUSED(ENOSYS));
}

static void test_foreign(void **state)
{
        struct seccomp_data data = { .nr = SYS_read, .arch = FOREIGN };

        (void)state;
        assert_int_equal(run(&data), SECCOMP_RET_KILL_PROCESS);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_allowed), cmocka_unit_test(test_refused),    cmocka_unit_test(test_count),
                cmocka_unit_test(test_clone),   cmocka_unit_test(test_sockets),    cmocka_unit_test(test_personality),
                cmocka_unit_test(test_foreign), cmocka_unit_test(test_core_limit),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
