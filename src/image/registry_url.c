#include "image/registry_url.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int set_path(struct registry_url *u, const char *path, struct err *err)
{
        size_t len = strcspn(path, "#");

        if (len + 1 >= sizeof(u->path))
                return err_set(err, EINVAL, "an address that is too long");
        for (size_t i = 0; i < len; i++)
                if ((unsigned char)path[i] <= ' ' || (unsigned char)path[i] >= 0x7f)
                        return err_set(err, EINVAL, "an address with bytes that may not be there");
        (void)snprintf(u->path, sizeof(u->path), "%s%.*s", *path == '/' ? "" : "/", (int)len, path);
        return 0;
}

static int parse_authority(struct registry_url *u, const char *text, struct err *err)
{
        size_t len = strcspn(text, "/?#");
        char authority[280];
        int r;

        if (len >= sizeof(authority))
                return err_set(err, EINVAL, "an address whose host is too long");
        memcpy(authority, text, len);
        authority[len] = '\0';
        r = registry_host_parse(authority, u->host, &u->port, NULL);
        if (r < 0)
                return err_set(err, EINVAL, "an address whose host is none");
        if (u->port == 0)
                u->port = u->https ? 443 : 80;
        return set_path(u, text + len, err);
}

int registry_url_parse(const char *text, struct registry_url *ret, struct err *err)
{
        struct registry_url u = { .https = strncasecmp(text, "https://", 8) == 0 };
        int r;

        if (!u.https && strncasecmp(text, "http://", 7) != 0)
                return err_set(err, EINVAL, "an address that is neither http nor https");
        r = parse_authority(&u, text + (u.https ? 8 : 7), err);
        if (r == 0)
                *ret = u;
        return r;
}

int registry_url_join(const struct registry_url *base, const char *location, struct registry_url *ret, struct err *err)
{
        struct registry_url u = *base;
        char path[2 * REGISTRY_URL_MAX];
        size_t scheme = strcspn(location, ":/?#"), dir;
        int r;

        if (strnlen(location, REGISTRY_URL_MAX) == REGISTRY_URL_MAX)
                return err_set(err, EINVAL, "an address that is too long");
        if (location[scheme] == ':')
                return registry_url_parse(location, ret, err);
        if (str_starts(location, "//")) {
                r = parse_authority(&u, location + 2, err);
        } else if (*location == '/') {
                r = set_path(&u, location, err);
        } else {
                dir = strcspn(base->path, "?");
                while (*location != '?' && dir > 0 && base->path[dir - 1] != '/')
                        dir--;
                (void)snprintf(path, sizeof(path), "%.*s%s", (int)dir, base->path, location);
                r = set_path(&u, path, err);
        }
        if (r == 0)
                *ret = u;
        return r;
}

void registry_url_format(const struct registry_url *u, char *out, size_t size)
{
        bool v6 = strchr(u->host, ':') != NULL;
        char port[8] = "";

        if (u->port != (u->https ? 443 : 80))
                (void)snprintf(port, sizeof(port), ":%u", u->port);
        (void)snprintf(out, size, "%s://%s%s%s%s%s", u->https ? "https" : "http", v6 ? "[" : "", u->host, v6 ? "]" : "",
                       port, u->path);
}

bool registry_url_same_origin(const struct registry_url *a, const struct registry_url *b)
{
        return a->https == b->https && a->port == b->port && str_eq(a->host, b->host);
}

/* ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────── */

bool registry_host_is_loopback(const char *host)
{
        struct in_addr v4;
        struct in6_addr v6;

        if (str_eq(host, "localhost") || str_ends(host, ".localhost"))
                return true;
        if (inet_pton(AF_INET, host, &v4) == 1)
                return ntohl(v4.s_addr) >> 24 == 127;
        return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool own_address(sa_family_t family, const void *bytes, size_t len)
{
        struct ifaddrs *all = NULL;
        bool found = false;

        if (getifaddrs(&all) < 0)
                return true;
        for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
                const void *have;

                if (!i->ifa_addr || i->ifa_addr->sa_family != family)
                        continue;
                have = family == AF_INET
                               ? (const void *)&((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr
                               : &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr;
                found = memcmp(have, bytes, len) == 0;
        }
        freeifaddrs(all);
        return found;
}

static enum registry_address kind_v4(uint32_t a)
{
        /* Metadata of clouds outside of 169.254.0.0/16: Azure, Alibaba, Oracle. */
        static const uint32_t metadata[] = { 0xa83f8110, 0x646464c8, 0xc00000c0 };
        uint32_t network = htonl(a);

        if (a >> 24 == 127)
                return REGISTRY_ADDRESS_LOOPBACK;
        if (a >> 24 == 0 || a >> 16 == 0xa9fe || a >> 28 >= 0xe)
                return REGISTRY_ADDRESS_REFUSED;
        for (size_t i = 0; i < ARRAY_LEN(metadata); i++)
                if (a == metadata[i])
                        return REGISTRY_ADDRESS_REFUSED;
        return own_address(AF_INET, &network, sizeof(network)) ? REGISTRY_ADDRESS_REFUSED : REGISTRY_ADDRESS_PUBLIC;
}

static enum registry_address kind_v6(const struct in6_addr *a)
{
        static const unsigned char ec2[16] = { 0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54 };
        static const unsigned char nat64[12] = { 0x00, 0x64, 0xff, 0x9b };
        uint32_t v4;

        memcpy(&v4, a->s6_addr + 12, sizeof(v4));
        if (IN6_IS_ADDR_LOOPBACK(a))
                return REGISTRY_ADDRESS_LOOPBACK;
        if (IN6_IS_ADDR_V4MAPPED(a) || IN6_IS_ADDR_V4COMPAT(a) || memcmp(a->s6_addr, nat64, sizeof(nat64)) == 0)
                return kind_v4(ntohl(v4));
        if (IN6_IS_ADDR_UNSPECIFIED(a) || IN6_IS_ADDR_LINKLOCAL(a) || IN6_IS_ADDR_MULTICAST(a) ||
            memcmp(a->s6_addr, ec2, sizeof(ec2)) == 0)
                return REGISTRY_ADDRESS_REFUSED;
        return own_address(AF_INET6, a, sizeof(*a)) ? REGISTRY_ADDRESS_REFUSED : REGISTRY_ADDRESS_PUBLIC;
}

enum registry_address registry_address_kind(const struct sockaddr *address)
{
        if (address->sa_family == AF_INET)
                return kind_v4(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
        if (address->sa_family == AF_INET6)
                return kind_v6(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
        return REGISTRY_ADDRESS_REFUSED;
}

enum registry_address registry_host_kind(const char *host)
{
        struct sockaddr_in four = { .sin_family = AF_INET };
        struct sockaddr_in6 six = { .sin6_family = AF_INET6 };

        if (inet_pton(AF_INET, host, &four.sin_addr) == 1)
                return registry_address_kind((const struct sockaddr *)&four);
        if (inet_pton(AF_INET6, host, &six.sin6_addr) == 1)
                return registry_address_kind((const struct sockaddr *)&six);
        return REGISTRY_ADDRESS_PUBLIC;
}
