#include "daemon/listen.h"

#include "base/fd.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#define BACKLOG 4096
#define HOST_MAX 64

static bool is_loopback(const struct sockaddr_storage *addr)
{
        if (addr->ss_family == AF_INET)
                return ntohl(((const struct sockaddr_in *)addr)->sin_addr.s_addr) >> 24 == 127;
        return addr->ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)addr)->sin6_addr);
}

static int set_address(struct listen_address *a, const char *host, uint16_t port)
{
        struct sockaddr_in *v4 = (struct sockaddr_in *)&a->addr;
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->addr;

        a->both = str_eq(host, "*");
        if (a->both || str_eq(host, "localhost"))
                host = a->both ? "::" : "127.0.0.1";
        if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
                v4->sin_family = AF_INET;
                v4->sin_port = htons(port);
                a->len = sizeof(*v4);
                return 0;
        }
        if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
                return -EINVAL;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        a->len = sizeof(*v6);
        return 0;
}

/* "host:port", "[v6]:port", without a port the usual one. */
static int split(const char *at, char host[HOST_MAX], uint32_t *port)
{
        const char *end = *at == '[' ? strchr(at, ']') : at + strcspn(at, ":");
        const char *from = *at == '[' ? at + 1 : at, *rest;

        *port = LISTEN_PORT;
        if (!end || end == from || (size_t)(end - from) >= HOST_MAX)
                return -EINVAL;
        memcpy(host, from, (size_t)(end - from));
        host[end - from] = '\0';
        if (*at == '[' && !strchr(host, ':'))
                return -EINVAL;
        rest = *at == '[' ? end + 1 : end;
        if (!*rest)
                return 0;
        if (*rest != ':' || parse_u32(rest + 1, port) < 0 || *port < 1 || *port > 65535)
                return -EINVAL;
        return 0;
}

int listen_parse(const char *text, struct listen_address *ret, struct err *err)
{
        struct listen_address a = { .tls = str_starts(text, "https://") };
        char host[HOST_MAX];
        const char *at;
        uint32_t port;

        at = strstr(text, "://");
        if (!at || (!a.tls && !str_starts(text, "tcp://") && !str_starts(text, "http://")))
                return err_set(err, EINVAL, "'%s' is not tcp://ADDRESS:PORT or https://ADDRESS:PORT", text);
        if (split(at + 3, host, &port) < 0 || set_address(&a, host, (uint16_t)port) < 0)
                return err_set(err, EINVAL, "'%s': not an IPv4 address, an IPv6 address in [], or *, with a port",
                               text);
        if (!a.tls && !is_loopback(&a.addr))
                return err_set(err, EINVAL,
                               "'%s' would show keys and tasks to the network: use https://, or tcp:// with 127.0.0.1",
                               text);
        (void)snprintf(a.text, sizeof(a.text), strchr(host, ':') ? "%s://[%s]:%u" : "%s://%s:%u",
                       a.tls ? "https" : "tcp", host, port);
        *ret = a;
        return 0;
}

int listen_parse_list(const char *list, struct listen_address ret[LISTEN_MAX], size_t *ret_n, struct err *err)
{
        size_t n = 0;

        while (*list && !str_eq(list, "none")) {
                size_t len = strcspn(list, ",");
                char text[128];
                int r;

                if (n == LISTEN_MAX)
                        return err_set(err, EINVAL, "more than %d addresses", LISTEN_MAX);
                if (len >= sizeof(text))
                        return err_set(err, EINVAL, "'%.40s…' is no address", list);
                memcpy(text, list, len);
                text[len] = '\0';
                r = listen_parse(text, &ret[n], err);
                if (r < 0)
                        return r;
                for (size_t i = 0; i < n; i++)
                        if (ret[i].len == ret[n].len && memcmp(&ret[i].addr, &ret[n].addr, ret[n].len) == 0)
                                return err_set(err, EINVAL, "'%s' stands there twice", text);
                n++;
                list += len + (list[len] == ',');
        }
        *ret_n = n;
        return 0;
}

int listen_bind(const struct listen_address *a, int *ret, struct err *err)
{
        auto_fd fd = -EBADF;
        int on = 1, only = !a->both;

        fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return err_sys(err, "listen on %s", a->text);
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (a->addr.ss_family == AF_INET6)
                (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only));
        if (bind(fd, (const struct sockaddr *)&a->addr, a->len) < 0 || listen(fd, BACKLOG) < 0)
                return err_sys(err, "listen on %s", a->text);
        *ret = TAKE_FD(fd);
        return 0;
}

static int name_of(int fd, struct sockaddr_storage *ret)
{
        socklen_t len = sizeof(*ret);

        return getsockname(fd, (struct sockaddr *)ret, &len) < 0 ? -errno : 0;
}

bool listen_matches(const struct listen_address *a, int fd)
{
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a->addr;
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a->addr;
        struct sockaddr_storage name;
        const struct sockaddr_in *n4 = (const struct sockaddr_in *)&name;
        const struct sockaddr_in6 *n6 = (const struct sockaddr_in6 *)&name;

        memset(&name, 0, sizeof(name));
        if (name_of(fd, &name) < 0 || name.ss_family != a->addr.ss_family)
                return false;
        if (name.ss_family == AF_INET)
                return n4->sin_port == v4->sin_port && n4->sin_addr.s_addr == v4->sin_addr.s_addr;
        return n6->sin6_port == v6->sin6_port && IN6_ARE_ADDR_EQUAL(&n6->sin6_addr, &v6->sin6_addr);
}

bool listen_is_local(int fd)
{
        struct sockaddr_storage name = { .ss_family = AF_UNSPEC };

        return name_of(fd, &name) == 0 && (name.ss_family == AF_UNIX || is_loopback(&name));
}
