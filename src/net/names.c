#include "net/names.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
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

int names_lock(const char *instance, int *ret, struct err *err)
{
        auto_fd fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        socklen_t len;
        uid_t uid;

        /* The name begins with a NUL (unix(7)). */
        len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                          (size_t)snprintf(sa.sun_path + 1, sizeof(sa.sun_path) - 1, "mayfly-netd/%s", instance));
        if (fd < 0)
                return err_sys(err, "socket");
        if (bind(fd, (struct sockaddr *)&sa, len) == 0) {
                if (listen(fd, 1) < 0)
                        return err_sys(err, "listen");
                *ret = TAKE_FD(fd);
                return 0;
        }
        if (errno != EADDRINUSE)
                return err_sys(err, "lock the name '%s'", instance);
        if ((connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EAGAIN) || fd_peer_uid(fd, &uid) < 0 ||
            uid != geteuid()) {
                *ret = -EBADF;
                return 0;
        }
        return err_set(err, EBUSY, "another Mayfly named '%s' runs here: give this one a --name of its own", instance);
}
