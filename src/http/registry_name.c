#include "http/registry_name.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

bool registry_host_is_address(const char *host)
{
        unsigned char bytes[16];

        return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

/* "2130706433" and "0x7f.1" are addresses to resolvers: a name's last label begins with a letter. */
static bool host_valid(const char *host)
{
        const char *last;

        if (registry_host_is_address(host))
                return true;
        if (!*host || host[strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789-._")] || *host == '.' ||
            host[strlen(host) - 1] == '.' || strstr(host, ".."))
                return false;
        last = strrchr(host, '.');
        return isalpha((unsigned char)(last ? last[1] : host[0])) != 0;
}

int registry_host_parse(const char *text, char host[256], uint16_t *ret_port, struct err *err)
{
        const char *end = *text == '[' ? strchr(text, ']') : text + strcspn(text, ":");
        const char *begin = text + (*text == '[');
        uint32_t port = 0;
        size_t len;

        if (!end || (size_t)(end - begin) >= 256)
                return err_set(err, EINVAL, "not a host");
        len = (size_t)(end - begin);
        for (size_t i = 0; i < len; i++)
                host[i] = (char)tolower((unsigned char)begin[i]);
        host[len] = '\0';
        end += *end == ']';
        if (*end == ':' && (parse_u32(end + 1, &port) < 0 || port == 0 || port > 65535))
                return err_set(err, EINVAL, "not a port");
        if ((*end && *end != ':') || !host_valid(host) || (strchr(host, ':') != NULL) != (*text == '['))
                return err_set(err, EINVAL, "not a host");
        *ret_port = (uint16_t)port;
        return 0;
}

int registry_name(const char *text, char ret[256], struct err *err)
{
        static const char *const hub[] = { "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com" };
        const char *scheme = strstr(text, "://"), *host = scheme ? scheme + 3 : text;
        size_t len = strcspn(host, "/");
        char written[256], name[256], whole[300], number[8] = "", shown[STR_SHOWN_MAX];
        uint16_t port;
        bool v6;

        if (len == 0 || len >= sizeof(written))
                return err_set(err, EINVAL, "'%s' is no registry", str_show(text, shown));
        memcpy(written, host, len);
        written[len] = '\0';
        if (registry_host_parse(written, name, &port, NULL) < 0)
                return err_set(err, EINVAL, "'%s' is no registry", str_show(text, shown));
        /* Without a scheme it is https; a name that says http keeps the number by which it is told from that. */
        if (port != 0 && (port != 443 || (scheme && strncasecmp(text, "http:", 5) == 0)))
                (void)snprintf(number, sizeof(number), ":%u", port);
        for (size_t i = 0; i < ARRAY_LEN(hub); i++)
                if (!number[0] && str_eq(name, hub[i]))
                        (void)snprintf(name, sizeof(name), "docker.io");
        v6 = strchr(name, ':') != NULL;
        (void)snprintf(whole, sizeof(whole), "%s%s%s%s", v6 ? "[" : "", name, v6 ? "]" : "", number);
        if (strlen(whole) >= 256)
                return err_set(err, EINVAL, "'%s' is no registry", str_show(text, shown));
        memcpy(ret, whole, 256);
        return 0;
}
