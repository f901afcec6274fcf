/* The encodings of str.h: UTF-8, hexadecimal, base 64. */

#include "base/str.h"

#include <errno.h>
#include <string.h>

/* Length of the well-formed sequence at p, 0 if there is none. RFC 3629 section 4. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
        uint8_t low = 0x80, high = 0xbf;
        size_t n;

        if (p[0] < 0x80)
                return 1;
        if (p[0] >= 0xc2 && p[0] <= 0xdf)
                n = 2;
        else if (p[0] >= 0xe0 && p[0] <= 0xef)
                n = 3;
        else if (p[0] >= 0xf0 && p[0] <= 0xf4)
                n = 4;
        else
                return 0;
        if (n > left)
                return 0;
        switch (p[0]) {
        case 0xe0:
                low = 0xa0;
                break;
        case 0xed:
                high = 0x9f;
                break;
        case 0xf0:
                low = 0x90;
                break;
        case 0xf4:
                high = 0x8f;
                break;
        default:
                break;
        }
        if (p[1] < low || p[1] > high)
                return 0;
        for (size_t i = 2; i < n; i++)
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
        return n;
}

bool utf8_valid(const void *data, size_t len)
{
        const uint8_t *p = data;

        while (len > 0) {
                uint64_t word;
                size_t n;

                if (len >= sizeof(word)) {
                        memcpy(&word, p, sizeof(word));
                        if (!(word & UINT64_C(0x8080808080808080))) {
                                p += sizeof(word);
                                len -= sizeof(word);
                                continue;
                        }
                }
                n = utf8_sequence(p, len);
                if (n == 0)
                        return false;
                p += n;
                len -= n;
        }
        return true;
}

size_t utf8_len(const char *text)
{
        return *text ? utf8_sequence((const uint8_t *)text, strnlen(text, 4)) : 0;
}

void hex_encode(const void *data, size_t len, char *out)
{
        static const char digits[] = "0123456789abcdef";
        const uint8_t *p = data;

        for (size_t i = 0; i < len; i++) {
                out[2 * i] = digits[p[i] >> 4];
                out[2 * i + 1] = digits[p[i] & 15];
        }
        out[2 * len] = '\0';
}

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return -1;
}

int hex_decode(const char *hex, size_t hexlen, void *out)
{
        uint8_t *p = out;

        if (hexlen % 2)
                return -EINVAL;
        for (size_t i = 0; i < hexlen; i++)
                if (hex_digit(hex[i]) < 0)
                        return -EINVAL;
        for (size_t i = 0; i < hexlen; i += 2)
                p[i / 2] = (uint8_t)(hex_digit(hex[i]) << 4 | hex_digit(hex[i + 1]));
        return 0;
}

bool hex_is_lower(const char *s, size_t len)
{
        for (size_t i = 0; i < len; i++)
                if (hex_digit(s[i]) < 0)
                        return false;
        return s[len] == '\0';
}

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_encode(struct str *out, const void *data, size_t len)
{
        const char *a = base64_alphabet;
        const uint8_t *p = data;
        size_t i = 0;
        char *o;
        int r;

        if (len > PTRDIFF_MAX / 2)
                return -ENOMEM;
        r = str_reserve(out, (len + 2) / 3 * 4);
        if (r < 0)
                return r;
        o = out->data + out->len;
        for (; i + 3 <= len; i += 3) {
                uint32_t v = (uint32_t)p[i] << 16 | (uint32_t)p[i + 1] << 8 | p[i + 2];

                *o++ = a[v >> 18];
                *o++ = a[v >> 12 & 63];
                *o++ = a[v >> 6 & 63];
                *o++ = a[v & 63];
        }
        if (i < len) {
                uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0);

                *o++ = a[v >> 18];
                *o++ = a[v >> 12 & 63];
                *o++ = '=';
                if (i + 1 < len)
                        o[-1] = a[v >> 6 & 63];
                *o++ = '=';
        }
        *o = '\0';
        out->len = (size_t)(o - out->data);
        return 0;
}

static int base64_digit(char c)
{
        if (c >= 'A' && c <= 'Z')
                return c - 'A';
        if (c >= 'a' && c <= 'z')
                return c - 'a' + 26;
        if (c >= '0' && c <= '9')
                return c - '0' + 52;
        if (c == '+')
                return 62;
        return c == '/' ? 63 : -1;
}

/* The last, possibly padded group: answers how many bytes it holds, or -EINVAL. */
static int base64_last(const char *t, uint8_t out[3])
{
        int a = base64_digit(t[0]), b = base64_digit(t[1]), c = base64_digit(t[2]), d = base64_digit(t[3]);
        int n = 3;

        if (t[3] == '=') {
                n = t[2] == '=' ? 1 : 2;
                d = 0;
                c = n == 1 ? 0 : c;
        }
        if (a < 0 || b < 0 || c < 0 || d < 0)
                return -EINVAL;
        /* Bits that nothing stands for must be zero, so that each content has one text. */
        if ((n == 1 && (b & 15)) || (n == 2 && (c & 3)))
                return -EINVAL;
        out[0] = (uint8_t)(a << 2 | b >> 4);
        out[1] = (uint8_t)(b << 4 | c >> 2);
        out[2] = (uint8_t)(c << 6 | d);
        return n;
}

int base64_decode(struct str *out, const char *text, size_t len)
{
        uint8_t last[3];
        uint8_t *o;
        int n, r;

        if (len % 4)
                return -EINVAL;
        r = str_reserve(out, len / 4 * 3);
        if (r < 0 || len == 0)
                return r;
        n = base64_last(text + len - 4, last);
        if (n < 0)
                return n;
        o = (uint8_t *)out->data + out->len;
        for (size_t i = 0; i + 4 < len; i += 4) {
                int a = base64_digit(text[i]), b = base64_digit(text[i + 1]);
                int c = base64_digit(text[i + 2]), d = base64_digit(text[i + 3]);

                if ((a | b | c | d) < 0) {
                        out->data[out->len] = '\0';
                        return -EINVAL;
                }
                *o++ = (uint8_t)(a << 2 | b >> 4);
                *o++ = (uint8_t)(b << 4 | c >> 2);
                *o++ = (uint8_t)(c << 6 | d);
        }
        memcpy(o, last, (size_t)n);
        o += n;
        *o = '\0';
        out->len = (size_t)((char *)o - out->data);
        return 0;
}
