/* Fuzzes the PROXY header and X-Forwarded-For: a header that is whole stays so whatever follows it, each prefix of it asks for
 * more, and an address is one that can be written and read again. */

#include "base/str.h"
#include "http/address.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_address(const struct http_address *a)
{
        struct http_address again;

        if (a->family == AF_UNIX)
                return;
        if (http_address_parse(a->text, &again) < 0 || again.family != a->family ||
            memcmp(again.bytes, a->bytes, sizeof(again.bytes)) != 0)
                abort();
}

static void fuzz_proxy(const uint8_t *data, size_t size)
{
        struct http_address a = { .family = AF_UNIX }, b = a;
        ssize_t n = http_proxy_parse(data, size, &a);

        if (n > (ssize_t)size || n > HTTP_PROXY_MAX)
                abort();
        if (n == 0 && size > HTTP_PROXY_MAX)
                abort();
        check_address(&a);
        if (n <= 0)
                return;
        for (size_t i = 0; i < (size_t)n; i++)
                if (http_proxy_parse(data, i, &b) != 0 || b.family != AF_UNIX)
                        abort();
        if (http_proxy_parse(data, (size_t)n, &b) != n || !str_eq(a.text, b.text))
                abort();
}

static void fuzz_forwarded(const uint8_t *data, size_t size)
{
        struct http_address a = { .family = AF_UNIX };
        struct http_network trusted;
        const char *lines[4];
        auto_str text = STR_INIT;
        size_t n = 0;

        if (str_add(&text, data, size) < 0 || http_network_parse("10.0.0.0/8", &trusted) < 0)
                abort();
        for (char *p = text.data; p && n < ARRAY_LEN(lines); n++) {
                lines[n] = p;
                p = strchr(p, '\n');
                if (p)
                        *p++ = '\0';
        }
        http_forwarded_for(lines, n, &trusted, 1, &a);
        check_address(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        fuzz_proxy(data, size);
        fuzz_forwarded(data, size);
        return 0;
}
