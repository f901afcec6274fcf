/* Fuzzes the two sides of what comes before a WebSocket: the fields of the request, one per line, and the head of an answer. */

#include "base/str.h"
#include "http/client_internal.h"
#include "http/handshake.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_request(const uint8_t *data, size_t size)
{
        const char *fields[6] = { NULL }, *why = NULL;
        char accept[HTTP_ACCEPT_MAX];
        auto_str text = STR_INIT;
        size_t n = 0;
        int status;

        if (str_add(&text, data, size) < 0)
                abort();
        for (char *p = text.data; p && n < ARRAY_LEN(fields); n++) {
                /* A line with nothing but '-' is a field that is absent. */
                char *next = strchr(p, '\n');

                if (next)
                        *next++ = '\0';
                fields[n] = str_eq(p, "-") ? NULL : p;
                p = next;
        }
        status = http_handshake_check(&(struct http_handshake){ .method = "GET",
                                                                .upgrade = fields[0],
                                                                .connection = fields[1],
                                                                .version = fields[2],
                                                                .key = fields[3],
                                                                .origin = fields[4],
                                                                .host = fields[5] },
                                      &why);
        if (status != 0 && status != 400 && status != 403 && status != 426)
                abort();
        if ((status == 0) != !why)
                abort();
        /* Whom Origin names must be whom Host names. */
        if (status == 0 && fields[4] && (!fields[5] || strlen(fields[4]) > strlen(fields[5]) + 12))
                abort();
        http_handshake_accept(fields[3] ? fields[3] : "", accept);
        if (strlen(accept) != HTTP_ACCEPT_MAX - 1)
                abort();
}

static void fuzz_answer(const uint8_t *data, size_t size)
{
        const struct http_client_request q = { .method = "GET", .body_fd = -1 };
        auto_answer answer = { .status = 0 };
        struct http_sink sink = { .request = &q, .answer = &answer };
        struct http_answer_head head = { .status = 0 }, again = head;
        ssize_t n = http_answer_head_parse((const char *)data, size, &head, &sink);

        if (n > (ssize_t)size)
                abort();
        if (n <= 0)
                return;
        if (head.status < 100 || head.status > 999 || (head.chunked && head.length >= 0))
                abort();
        if (http_answer_head_parse((const char *)data, (size_t)n, &again, NULL) != n || again.status != head.status)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        fuzz_request(data, size);
        fuzz_answer(data, size);
        return 0;
}
