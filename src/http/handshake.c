#include "http/handshake.h"

#include "base/str.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define KEY_LEN 24 /* 16 bytes in base64 */

/* ── SHA-1 (FIPS 180-4 section 6.1), which the handshake asks for and which protects nothing there: so that the command needs
 * no library for it ───────────────────────────────────────────────────────────────────────────────────────────────── */

#define SHA1_LEN 20

static uint32_t rotate(uint32_t x, unsigned n)
{
        return x << n | x >> (32 - n);
}

static void sha1_block(uint32_t h[5], const uint8_t *p)
{
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];

        for (unsigned i = 0; i < 16; i++)
                w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
                       p[4 * i + 3];
        for (unsigned i = 16; i < 80; i++)
                w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (unsigned i = 0; i < 80; i++) {
                uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
                uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
                uint32_t t = rotate(a, 5) + f + e + k + w[i];

                e = d;
                d = c;
                c = rotate(b, 30);
                b = a;
                a = t;
        }
        h[0] += a;
        h[1] += b;
        h[2] += c;
        h[3] += d;
        h[4] += e;
}

/* Of a text shorter than two blocks less their padding. */
static void sha1_short(const char *text, uint8_t out[SHA1_LEN])
{
        uint32_t h[5] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 };
        uint8_t blocks[128] = { 0 };
        size_t len = MIN(strlen(text), (size_t)119), n = len < 56 ? 1 : 2;

        for (size_t i = 0; i < len; i++)
                blocks[i] = (uint8_t)text[i];
        blocks[len] = 0x80;
        blocks[64 * n - 2] = (uint8_t)(len * 8 >> 8);
        blocks[64 * n - 1] = (uint8_t)(len * 8);
        for (size_t i = 0; i < n; i++)
                sha1_block(h, blocks + 64 * i);
        for (unsigned i = 0; i < SHA1_LEN; i++)
                out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

void http_handshake_accept(const char *key, char out[HTTP_ACCEPT_MAX])
{
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        uint8_t digest[SHA1_LEN + 1] = { 0 };
        char text[100];

        (void)snprintf(text, sizeof(text), "%.60s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
        sha1_short(text, digest);
        for (unsigned i = 0; i < 7; i++) {
                uint32_t v = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];

                for (unsigned j = 0; j < 4; j++)
                        out[4 * i + j] = digits[v >> (18 - 6 * j) & 63];
        }
        out[27] = '=';
        out[28] = '\0';
}

/* ── the request ───────────────────────────────────────────────────────────────────────────────────────────────────── */

bool http_list_has(const char *list, const char *token)
{
        size_t len = strlen(token);

        while (list && *list) {
                size_t n;

                list += strspn(list, " \t,");
                n = strcspn(list, " \t,");
                if (n == len && strncasecmp(list, token, len) == 0)
                        return true;
                list += n;
        }
        return false;
}

static bool key_valid(const char *key)
{
        auto_str bytes = STR_INIT;

        return key && strlen(key) == KEY_LEN && base64_decode(&bytes, key, KEY_LEN) == 0 && bytes.len == 16;
}

/* Without the port that the scheme stands for. */
static size_t authority_len(const char *authority, bool https)
{
        const char *port = https ? ":443" : ":80";
        size_t len = strlen(authority), n = strlen(port);

        return len > n && str_eq(authority + len - n, port) ? len - n : len;
}

bool http_origin_allowed(const char *origin, const char *host)
{
        const char *authority = NULL;
        bool https = false;
        size_t len;

        if (!origin)
                return true;
        if (strncasecmp(origin, "http://", 7) == 0) {
                authority = origin + 7;
        } else if (strncasecmp(origin, "https://", 8) == 0) {
                authority = origin + 8;
                https = true;
        }
        if (!authority || *authority == '\0' || !host)
                return false;
        len = authority_len(authority, https);
        return len == authority_len(host, https) && strncasecmp(authority, host, len) == 0;
}

int http_handshake_check(const struct http_handshake *h, const char **why)
{
        if (h->http_1_0 || !http_list_has(h->upgrade, "websocket") || !http_list_has(h->connection, "upgrade")) {
                *why = "this is a WebSocket: send Upgrade: websocket and Connection: Upgrade";
                return 426;
        }
        if (!h->version || !str_eq(h->version, "13")) {
                *why = "the WebSocket version must be 13";
                return 426;
        }
        if (!str_eq(h->method, "GET")) {
                *why = "a WebSocket begins with GET";
                return 400;
        }
        if (!key_valid(h->key)) {
                *why = "Sec-WebSocket-Key is not 16 bytes in base64";
                return 400;
        }
        if (!http_origin_allowed(h->origin, h->host)) {
                *why = "pages of other sites may not use this";
                return 403;
        }
        return 0;
}
