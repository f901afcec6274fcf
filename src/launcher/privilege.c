#include "launcher/privilege.h"

#include "base/str.h"
#include "launcher/sys.h"
#include "seccomp_program.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOFILE_SOFT 1024
#define NOFILE_HARD 65536

int privilege_keyring(void)
{
        return syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS ? -errno : 0;
}

/* The system calls themselves: those of the C library have threads to care for. */
static int set_ids(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n)
{
        if (syscall(SYS_setgroups, n, groups) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 ||
            syscall(SYS_setresuid, uid, uid, uid) < 0)
                return -errno;
        return 0;
}

int privilege_join(int userns)
{
        if (setns(userns, CLONE_NEWUSER) < 0)
                return -errno;
        return set_ids(0, 0, NULL, 0);
}

int privilege_rlimits(void)
{
        struct rlimit nofile;

        if (getrlimit(RLIMIT_NOFILE, &nofile) < 0)
                return -errno;
        nofile.rlim_max = MIN(nofile.rlim_max, (rlim_t)NOFILE_HARD);
        nofile.rlim_cur = MIN(nofile.rlim_max, (rlim_t)NOFILE_SOFT);
        if (setrlimit(RLIMIT_NOFILE, &nofile) < 0)
                return -errno;
        /* The seccomp program keeps it. */
        return sys_limit_core();
}

static int drop_bounding(uint64_t keep)
{
        for (int cap = 0; cap < 64; cap++) {
                if (keep & (UINT64_C(1) << cap))
                        continue;
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        return errno == EINVAL ? 0 : -errno; /* above the kernel's last one */
        }
        return 0;
}

static int set_caps(uint64_t caps)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {
                { .effective = (uint32_t)caps, .permitted = (uint32_t)caps },
                { .effective = (uint32_t)(caps >> 32), .permitted = (uint32_t)(caps >> 32) },
        };

        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int privilege_drop(const struct launch_start *s)
{
        int r = drop_bounding(s->caps);

        if (r == 0)
                r = set_ids(s->uid, s->gid, s->groups, s->n_groups);
        /* Another user than root has lost all of them with the ids. The inheritable set becomes empty, and with it the
         * ambient one (capabilities(7)). */
        if (r == 0)
                r = set_caps(s->uid == 0 ? s->caps : 0);
        if (r < 0)
                return r;
        /* The change of ids has cleared the signal, so it is asked for here. */
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
                return -errno;
        return 0;
}

int privilege_only(uint64_t caps)
{
        int r = drop_bounding(caps);

        if (r == 0)
                r = set_caps(caps);
        return r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : r;
}

int privilege_seccomp(void)
{
        struct sock_fprog program = { .len = ARRAY_LEN(seccomp_program),
                                      .filter = (struct sock_filter *)seccomp_program };

        return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0 ? -errno : 0;
}

const struct sock_filter *privilege_seccomp_program(size_t *ret_n)
{
        *ret_n = ARRAY_LEN(seccomp_program);
        return seccomp_program;
}
