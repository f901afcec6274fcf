/* Where Docker is, as the configuration says it. */

#include "engine/docker/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define HOST_SOCKET "/var/run/docker.sock"
#define HOST_NAME_MAX 253

void docker_host_done(struct docker_host *h)
{
        free(h->socket);
        free(h->name);
        free(h->port);
        free(h->base);
        free(h->shown);
        free(h->ca);
        free(h->cert);
        free(h->key);
        *h = (struct docker_host){ .socket = NULL };
}

static int copy(char **to, const char *text, struct err *err)
{
        *to = text ? strdup(text) : NULL;
        return text && !*to ? err_oom(err) : 0;
}

static bool name_valid(const char *name, bool bracketed)
{
        struct in6_addr six;
        size_t len = strlen(name);

        if (bracketed)
                return inet_pton(AF_INET6, name, &six) == 1;
        return len > 0 && len <= HOST_NAME_MAX &&
               strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == len;
}

static bool is_loopback(const char *name)
{
        struct in_addr four;

        return str_eq(name, "localhost") || str_eq(name, "::1") ||
               (inet_pton(AF_INET, name, &four) == 1 && (ntohl(four.s_addr) >> 24) == 127);
}

/* HOST, HOST:PORT, [IPv6], [IPv6]:PORT; and a slash at the end, as Docker's own tools take it. */
static int split(const char *text, struct docker_host *h, struct err *err)
{
        bool bracketed = text[0] == '[';
        const char *at = text + bracketed, *end = at + strcspn(at, bracketed ? "]" : ":/");
        const char *rest = end;
        uint32_t port;

        h->name = strndup(at, (size_t)(end - at));
        if (!h->name)
                return err_oom(err);
        if (bracketed && *rest++ != ']')
                return -EINVAL;
        if (*rest == ':') {
                size_t len = strcspn(rest + 1, "/");

                h->port = strndup(rest + 1, len);
                if (!h->port)
                        return err_oom(err);
                rest += 1 + len;
                if (parse_u32(h->port, &port) < 0 || port == 0 || port > 65535)
                        return -EINVAL;
        }
        if ((rest[0] && !str_eq(rest, "/")) || !name_valid(h->name, bracketed))
                return -EINVAL;
        return 0;
}

static int parse_tcp(const char *text, struct docker_host *h, struct err *err)
{
        int r = split(text, h, err);

        if (r == -EINVAL)
                return err_set(err, EINVAL, "'tcp://%s' is not tcp://HOST:PORT", text);
        if (r < 0)
                return r;
        if (!h->tls && !is_loopback(h->name))
                return err_set(
                        err, EINVAL,
                        "tcp://%s without certificates: whoever reaches it is root there; give tls.cert and tls.key",
                        text);
        if (!h->port)
                r = copy(&h->port, h->tls ? "2376" : "2375", err);
        h->base = str_printf(strchr(h->name, ':') ? "%s://[%s]:%s" : "%s://%s:%s", h->tls ? "https" : "http", h->name,
                             h->port ? h->port : "");
        h->shown = str_printf("tcp://%s", text);
        return r < 0 ? r : h->base && h->shown ? 0 : err_oom(err);
}

static int parse_unix(const char *path, struct docker_host *h, struct err *err)
{
        if (path[0] != '/' || strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
                return err_set(err, EINVAL, "'%s' is not unix:///PATH of at most 107 bytes, nor tcp://HOST:PORT", path);
        if (h->tls || h->ca)
                return err_set(err, EINVAL, "certificates are for tcp://, and '%s' is a unix socket", path);
        h->socket = strdup(path);
        h->base = strdup("http://docker");
        h->shown = strdup(path);
        return h->socket && h->base && h->shown ? 0 : err_oom(err);
}

int docker_host_parse(const struct engine_docker_config *config, struct docker_host *ret, struct err *err)
{
        const char *host = config->host ? config->host : HOST_SOCKET;
        struct docker_host h = { .tls = config->tls_cert && config->tls_key };
        int r;

        if (!config->tls_cert != !config->tls_key)
                return err_set(err, EINVAL, "a certificate and its key belong together: one is missing");
        if (config->tls_ca && !config->tls_cert)
                return err_set(err, EINVAL,
                               "without a certificate of ours Docker cannot know us: tls.cert and tls.key");
        r = copy(&h.ca, config->tls_ca, err);
        if (r == 0)
                r = copy(&h.cert, config->tls_cert, err);
        if (r == 0)
                r = copy(&h.key, config->tls_key, err);
        if (r == 0 && str_starts(host, "tcp://"))
                r = parse_tcp(host + strlen("tcp://"), &h, err);
        else if (r == 0)
                r = parse_unix(str_starts(host, "unix://") ? host + strlen("unix://") : host, &h, err);
        if (r < 0) {
                docker_host_done(&h);
                return r;
        }
        *ret = h;
        return 0;
}

int engine_docker_host_check(const struct engine_docker_config *config, struct err *err)
{
        struct docker_host h;
        int r = docker_host_parse(config, &h, err);

        if (r == 0)
                docker_host_done(&h);
        return r;
}
