#include "net/priv.h"

#include "base/str.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOFILE_WANTED 262144
#define CAP_BIT(cap) (UINT32_C(1) << (cap))
#define CAPS_KEPT (CAP_BIT(CAP_NET_ADMIN) | CAP_BIT(CAP_SYS_ADMIN)) /* both are in the first word */

static int set_caps(struct err *err)
{
        struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {
                { .effective = CAPS_KEPT, .permitted = CAPS_KEPT, .inheritable = CAP_BIT(CAP_NET_ADMIN) }
        };

        if (syscall(SYS_capset, &head, data) < 0)
                return err_sys(err, "keep CAP_NET_ADMIN and CAP_SYS_ADMIN");
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) < 0)
                return err_sys(err, "raise CAP_NET_ADMIN for nft");
        return 0;
}

static int drop_bounding(struct err *err)
{
        for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
                if (cap != CAP_NET_ADMIN && cap != CAP_SYS_ADMIN && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        return err_sys(err, "drop capability %d", cap);
        }
        return 0;
}

static int change_user(uid_t uid, gid_t gid, struct err *err)
{
        int r = drop_bounding(err);

        if (r < 0)
                return r;
        if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
            setresuid(uid, uid, uid) < 0 || prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
                return err_sys(err, "become user %u:%u", (unsigned)uid, (unsigned)gid);
        return 0;
}

int priv_drop(uid_t uid, gid_t gid, struct err *err)
{
        int r = 0;

        if (geteuid() == 0)
                r = change_user(uid, gid, err);
        if (r == 0)
                r = set_caps(err);
        if (r < 0)
                return r;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return err_sys(err, "give up privileges");
        return 0;
}

int priv_die_with(pid_t parent, struct err *err)
{
        if (prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0) < 0)
                return err_sys(err, "watch the parent");
        if (getppid() != parent)
                return err_set(err, ESRCH, "the parent has gone");
        return 0;
}

void priv_raise_nofile(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        if (limit.rlim_max < NOFILE_WANTED) {
                struct rlimit more = { NOFILE_WANTED, NOFILE_WANTED };

                if (setrlimit(RLIMIT_NOFILE, &more) == 0)
                        return;
        }
        (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int priv_parse_pair(const char *text, uint32_t *ret_a, uint32_t *ret_b)
{
        const char *colon = strchr(text, ':');
        char first[16];

        if (!colon || (size_t)(colon - text) >= sizeof(first))
                return -EINVAL;
        memcpy(first, text, (size_t)(colon - text));
        first[colon - text] = '\0';
        return parse_u32(first, ret_a) < 0 || parse_u32(colon + 1, ret_b) < 0 ? -EINVAL : 0;
}
