#include "net/names.h"

#include "base/fd.h"
#include "base/str.h"
#include "net/nl.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

/* FNV-1a, 64 bits: it only has to spread. */
static uint64_t hash_name(const char *name)
{
        uint64_t h = UINT64_C(0xcbf29ce484222325);

        for (; *name; name++)
                h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
        return h ^ h >> 32;
}

bool names_instance_valid(const char *name)
{
        size_t len = strlen(name);

        if (len == 0 || len > NAMES_INSTANCE_MAX || name[0] < 'a' || name[0] > 'z')
                return false;
        return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == len;
}

void names_prefix(const char *instance, char out[NAMES_PREFIX_MAX])
{
        static const char digits[] = "0123456789abcdefghjklmopqrstuvwxyzin";
        uint64_t h = hash_name(instance);

        memcpy(out, "mf", 3);
        if (str_eq(instance, NAMES_DEFAULT))
                return;
        out[2] = digits[h % 34];
        out[3] = digits[h / 34 % 36];
        out[4] = digits[h / (34 * 36) % 36];
        out[5] = '\0';
}

uint32_t names_group(const char *instance)
{
        return ((uint32_t)(hash_name(instance) >> 8) & UINT32_C(0x3fffffff)) | 1;
}

void names_link(const char *prefix, uint32_t mode, uint32_t index, char out[IFNAMSIZ])
{
        (void)snprintf(out, IFNAMSIZ, "%s%c%u", prefix, mode == NET_INTERNET ? 'i' : 'n', (unsigned)index);
}

bool names_link_parse(const char *prefix, const char *link, uint32_t *ret_mode, uint32_t *ret_index)
{
        size_t n = strlen(prefix);

        if (!str_starts(link, prefix) || (link[n] != 'n' && link[n] != 'i'))
                return false;
        if (parse_u32(link + n + 1, ret_index) < 0)
                return false;
        *ret_mode = link[n] == 'i' ? NET_INTERNET : NET_NAT;
        return true;
}

/* ── the lock ────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Sockets of the abstract namespace (unix(7)) go with their process and belong to a network namespace, as an instance
 * does. Anybody may bind any name there, so it ends in random digits, and what counts is whose socket it is. */
#define LOCK_NAME "mayfly-netd/%s/"
#define DUMP_TRIES 16

struct search {
        struct sockaddr_un name; /* ours */
        size_t len, prefix;      /* of its path: all, and without the digits */
        uid_t uid;
        bool found; /* another one of the same user */
};

static int take_socket(const struct nlmsghdr *answer, void *data)
{
        const struct nlattr *attrs[UNIX_DIAG_MAX + 1] = { NULL }, *name;
        struct search *s = data;
        const char *path;
        size_t len;

        nl_attrs(answer, sizeof(struct unix_diag_msg), attrs, UNIX_DIAG_MAX);
        name = attrs[UNIX_DIAG_NAME];
        if (!name || nl_u32(attrs[UNIX_DIAG_UID], (uint32_t)-1) != s->uid)
                return 0;
        path = mnl_attr_get_payload(name);
        len = mnl_attr_get_payload_len(name);
        if (len < s->prefix || memcmp(path, s->name.sun_path, s->prefix) != 0)
                return 0;
        s->found |= len != s->len || memcmp(path, s->name.sun_path, len) != 0;
        return 0;
}

static int look_for_others(struct search *s, struct err *err)
{
        const struct unix_diag_req req = {
                .sdiag_family = AF_UNIX,
                .udiag_states = UINT32_MAX,
                .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_UID,
        };
        auto_nl nl = { .fd = -EBADF };
        int r = nl_init(&nl, NETLINK_SOCK_DIAG, err);

        if (r < 0)
                return r;
        r = -EINTR;
        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                (void)nl_put(&nl, SOCK_DIAG_BY_FAMILY, 0, &req, sizeof(req));
                r = nl_dump(&nl, take_socket, s);
        }
        if (r == -ENOENT)
                return 0; /* a kernel without unix_diag */
        return r < 0 ? err_set(err, -r, "look for others of our name: %s", strerror(-r)) : 0;
}

int names_lock(const char *instance, int *ret, struct err *err)
{
        auto_fd fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct search s = { .name.sun_family = AF_UNIX, .uid = geteuid() };
        char *path = s.name.sun_path + 1;
        uint64_t digits;
        int r;

        if (fd < 0 || getrandom(&digits, sizeof(digits), 0) != sizeof(digits))
                return err_sys(err, "make a lock");
        s.prefix = 1 + (size_t)snprintf(path, sizeof(s.name.sun_path) - 1, LOCK_NAME, instance);
        s.len = s.prefix + (size_t)snprintf(path + s.prefix - 1, sizeof(s.name.sun_path) - s.prefix, "%016llx",
                                            (unsigned long long)digits);
        /* It never listens: nobody can connect to it. */
        if (bind(fd, (struct sockaddr *)&s.name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + s.len)) < 0)
                return err_sys(err, "lock the name '%s'", instance);
        r = look_for_others(&s, err);
        if (r < 0)
                return r;
        if (s.found)
                return err_set(err, EBUSY, "another Mayfly named '%s' runs here: give this one a --name of its own",
                               instance);
        *ret = TAKE_FD(fd);
        return 0;
}
