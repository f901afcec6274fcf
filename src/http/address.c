#include "http/address.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define FORWARDED_MAX 64 /* hops that are looked at */

static unsigned address_len(const struct http_address *a)
{
        return a->family == AF_INET ? 4 : a->family == AF_INET6 ? 16 : 0;
}

static void address_set(struct http_address *a, sa_family_t family, const void *bytes)
{
        *a = (struct http_address){ .family = family };
        if (family == AF_INET6 && IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)bytes)) {
                a->family = AF_INET;
                bytes = (const uint8_t *)bytes + 12;
        }
        memcpy(a->bytes, bytes, address_len(a));
        (void)inet_ntop(a->family, a->bytes, a->text, sizeof(a->text));
}

int http_address_parse(const char *text, struct http_address *ret)
{
        uint8_t bytes[16];

        if (inet_pton(AF_INET, text, bytes) == 1)
                address_set(ret, AF_INET, bytes);
        else if (inet_pton(AF_INET6, text, bytes) == 1)
                address_set(ret, AF_INET6, bytes);
        else
                return -EINVAL;
        return 0;
}

void http_address_from_sockaddr(const struct sockaddr_storage *from, struct http_address *ret)
{
        if (from->ss_family == AF_INET)
                address_set(ret, AF_INET, &((const struct sockaddr_in *)from)->sin_addr);
        else if (from->ss_family == AF_INET6)
                address_set(ret, AF_INET6, &((const struct sockaddr_in6 *)from)->sin6_addr);
        else
                *ret = (struct http_address){ .family = AF_UNIX, .text = "unix" };
}

void http_address_key(const struct http_address *a, char out[HTTP_ADDRESS_KEY_MAX])
{
        struct http_address network = *a;

        *out = '\0';
        if (a->family == AF_INET) {
                (void)snprintf(out, HTTP_ADDRESS_KEY_MAX, "%s", a->text);
        } else if (a->family == AF_INET6) {
                memset(network.bytes + 8, 0, 8);
                (void)inet_ntop(AF_INET6, network.bytes, out, HTTP_ADDRESS_KEY_MAX);
        }
}

/* ── networks ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool bits_equal(const uint8_t *a, const uint8_t *b, unsigned bits)
{
        unsigned whole = bits / 8, rest = bits % 8;

        if (memcmp(a, b, whole) != 0)
                return false;
        return rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0;
}

int http_network_parse(const char *text, struct http_network *ret)
{
        struct http_network network;
        char address[64];
        const char *slash = strchr(text, '/');
        size_t len = slash ? (size_t)(slash - text) : strlen(text);
        uint32_t bits;

        if (len >= sizeof(address))
                return -EINVAL;
        memcpy(address, text, len);
        address[len] = '\0';
        if (http_address_parse(address, &network.address) < 0)
                return -EINVAL;
        network.bits = 8 * address_len(&network.address);
        if (slash) {
                if (parse_u32(slash + 1, &bits) < 0 || bits > network.bits)
                        return -EINVAL;
                network.bits = bits;
        }
        for (unsigned i = network.bits; i < 8 * address_len(&network.address); i++)
                if (network.address.bytes[i / 8] & (0x80 >> i % 8))
                        return -EINVAL;
        *ret = network;
        return 0;
}

bool http_network_has(const struct http_network *networks, size_t n, const struct http_address *a)
{
        for (size_t i = 0; i < n; i++)
                if (networks[i].address.family == a->family &&
                    bits_equal(networks[i].address.bytes, a->bytes, networks[i].bits))
                        return true;
        return false;
}

/* ── X-Forwarded-For ───────────────────────────────────────────────────────────────────────────────────────────────── */

/* An address, perhaps in brackets, perhaps with a port: proxies write all of these. */
static int hop_parse(const char *text, size_t len, struct http_address *ret)
{
        char hop[64], *end;

        while (len > 0 && (*text == ' ' || *text == '\t' || *text == '"')) {
                text++;
                len--;
        }
        while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t' || text[len - 1] == '"'))
                len--;
        if (len == 0 || len >= sizeof(hop) || memchr(text, '\0', len))
                return -EINVAL;
        memcpy(hop, text, len);
        hop[len] = '\0';
        if (*hop == '[') {
                end = strchr(hop, ']');
                if (!end || (end[1] != '\0' && end[1] != ':'))
                        return -EINVAL;
                *end = '\0';
                return http_address_parse(hop + 1, ret);
        }
        end = strchr(hop, ':');
        if (end && !strchr(end + 1, ':'))
                *end = '\0';
        return http_address_parse(hop, ret);
}

void http_forwarded_for(const char *const *lines, size_t n_lines, const struct http_network *trusted, size_t n_trusted,
                        struct http_address *ret)
{
        unsigned hops = 0;

        while (n_lines-- > 0) {
                const char *line = lines[n_lines], *end = line + strlen(line);

                for (;;) {
                        const char *start = end;
                        struct http_address hop;

                        while (start > line && start[-1] != ',')
                                start--;
                        /* What the nearest proxy that is trusted wrote, and cannot be read, ends what can be believed. */
                        if (++hops > FORWARDED_MAX || hop_parse(start, (size_t)(end - start), &hop) < 0)
                                return;
                        *ret = hop;
                        if (!http_network_has(trusted, n_trusted, &hop))
                                return;
                        if (start == line)
                                break;
                        end = start - 1;
                }
        }
}

/* ── PROXY protocol ────────────────────────────────────────────────────────────────────────────────────────────────── */

#define V1_MAX 107
#define V2_HEAD 16
static const uint8_t v2_signature[12] = "\r\n\r\n\0\r\nQUIT\n";

/* "PROXY TCP4 SOURCE DESTINATION SPORT DPORT", section 2.1; text is the line without CRLF. */
static int v1_read(char *text, struct http_address *ret)
{
        struct http_address source, destination;
        char *words[6];
        size_t n = 0;
        uint32_t port;

        for (char *w = text, *next; w; w = next) {
                next = strchr(w, ' ');
                if (next)
                        *next++ = '\0';
                if (n == ARRAY_LEN(words))
                        return -EINVAL;
                words[n++] = w;
                /* Whatever follows. */
                if (n == 2 && str_eq(w, "UNKNOWN"))
                        return 0;
        }
        if (n != 6 || http_address_parse(words[2], &source) < 0 || http_address_parse(words[3], &destination) < 0)
                return -EINVAL;
        if (!str_eq(words[1], "TCP4") && !str_eq(words[1], "TCP6"))
                return -EINVAL;
        if ((strchr(words[2], ':') != NULL) != str_eq(words[1], "TCP6"))
                return -EINVAL;
        for (size_t i = 4; i < 6; i++)
                if (parse_u32(words[i], &port) < 0 || port > UINT16_MAX)
                        return -EINVAL;
        *ret = source;
        return 0;
}

static ssize_t v1_parse(const char *data, size_t len, struct http_address *ret)
{
        const char *end = memchr(data, '\n', MIN(len, (size_t)V1_MAX));
        char text[V1_MAX + 1];
        size_t n;

        if (!end)
                return len < V1_MAX ? 0 : -EINVAL;
        n = (size_t)(end - data);
        if (n < 1 || end[-1] != '\r' || memchr(data, '\0', n))
                return -EINVAL;
        memcpy(text, data, n - 1);
        text[n - 1] = '\0';
        return v1_read(text, ret) < 0 ? -EINVAL : (ssize_t)n + 1;
}

/* Section 2.2. */
static ssize_t v2_parse(const uint8_t *data, size_t len, struct http_address *ret)
{
        static const struct {
                uint8_t family;
                sa_family_t af;
                size_t size;
        } families[] = { { 0x11, AF_INET, 12 }, { 0x21, AF_INET6, 36 } };
        size_t rest;

        if (len < V2_HEAD)
                return 0;
        if (data[12] >> 4 != 2 || (data[12] & 0x0f) > 1)
                return -EINVAL;
        rest = (size_t)data[14] << 8 | data[15];
        if (rest > HTTP_PROXY_MAX - V2_HEAD)
                return -EINVAL;
        if (len < V2_HEAD + rest)
                return 0;
        for (size_t i = 0; (data[12] & 0x0f) == 1 && i < ARRAY_LEN(families); i++) {
                if (data[13] != families[i].family)
                        continue;
                if (rest < families[i].size)
                        return -EINVAL;
                address_set(ret, families[i].af, data + V2_HEAD);
        }
        return (ssize_t)(V2_HEAD + rest);
}

ssize_t http_proxy_parse(const void *data, size_t len, struct http_address *ret)
{
        if (len == 0)
                return 0;
        if (memcmp(data, v2_signature, MIN(len, sizeof(v2_signature))) == 0)
                return v2_parse(data, len, ret);
        if (memcmp(data, "PROXY ", MIN(len, (size_t)6)) == 0)
                return v1_parse(data, len, ret);
        return -EINVAL;
}
