#include "http/head.h"

#include "base/str.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

/* RFC 9110 section 5.6.2 */
static bool is_tchar(char c)
{
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

/* Decodes in place. In paths %2F stays; in queries '+' is a blank. NUL is refused in both. */
static int percent_decode(char *s, bool query)
{
        char *out = s;

        for (; *s; s++) {
                int high, low;

                if (*s == '+' && query) {
                        *out++ = ' ';
                        continue;
                }
                if (*s != '%') {
                        *out++ = *s;
                        continue;
                }
                high = hex_digit(s[1]);
                low = high < 0 ? -1 : hex_digit(s[2]);
                if (low < 0 || high * 16 + low == 0)
                        return -EINVAL;
                if (high * 16 + low == '/' && !query) {
                        memmove(out, "%2F", 3);
                        out += 3;
                } else {
                        *out++ = (char)(high * 16 + low);
                }
                s += 2;
        }
        *out = '\0';
        return 0;
}

static int params_parse(char *query, struct http_target *t, const char **why)
{
        char *next;

        for (char *p = query; p; p = next) {
                char *value;

                next = strchr(p, '&');
                if (next)
                        *next++ = '\0';
                if (*p == '\0')
                        continue;
                if (t->n_params == HTTP_PARAMS_MAX) {
                        *why = "the query has too many parameters";
                        return -EINVAL;
                }
                value = strchr(p, '=');
                if (value)
                        *value++ = '\0';
                else
                        value = p + strlen(p);
                if (percent_decode(p, true) < 0 || percent_decode(value, true) < 0) {
                        *why = "the query is not well-formed";
                        return -EINVAL;
                }
                t->params[t->n_params++] = (struct http_param){ .name = p, .value = value };
        }
        return 0;
}

/* Leaves the path and query of an absolute-form target (RFC 9112 section 3.2.2). */
static char *target_origin(char *raw)
{
        char *authority, *path;

        if (*raw == '/' || str_eq(raw, "*"))
                return raw;
        if (strncasecmp(raw, "http://", 7) == 0)
                authority = raw + 7;
        else if (strncasecmp(raw, "https://", 8) == 0)
                authority = raw + 8;
        else
                return NULL;
        path = authority + strcspn(authority, "/?");
        if (path == authority)
                return NULL;
        return path;
}

int http_target_parse(const char *raw, struct http_target *ret, const char **why)
{
        struct http_target t = { .path = NULL };
        auto_free char *block = NULL;
        size_t len = strlen(raw);
        char *start, *query;

        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)raw[i] <= ' ' || (unsigned char)raw[i] >= 0x7f || raw[i] == '#') {
                        *why = "the request target is not well-formed";
                        return -EINVAL;
                }
        }
        block = malloc(len + 2);
        if (!block)
                return -ENOMEM;
        /* One byte is kept before the text: "http://host?x" has the path "/". */
        memcpy(block + 1, raw, len + 1);
        start = target_origin(block + 1);
        if (!start) {
                *why = "the request target is not well-formed";
                return -EINVAL;
        }
        query = strchr(start, '?');
        if (query)
                *query++ = '\0';
        if (*start == '\0') {
                start = block;
                memcpy(start, "/", 2);
        }
        if (percent_decode(start, false) < 0) {
                *why = "the path is not well-formed";
                return -EINVAL;
        }
        if (query && params_parse(query, &t, why) < 0)
                return -EINVAL;
        t.path = start;
        t.block = TAKE_PTR(block);
        *ret = t;
        return 0;
}

void http_target_done(struct http_target *t)
{
        free(t->block);
        t->block = NULL;
        t->path = NULL;
        t->n_params = 0;
}

/* RFC 9110 section 5.5: visible bytes, blanks and obs-text. */
static bool value_valid(const char *v, size_t len)
{
        for (size_t i = 0; i < len; i++) {
                unsigned char c = (unsigned char)v[i];

                if ((c < ' ' && c != '\t') || c == 0x7f)
                        return false;
        }
        return true;
}

static bool name_valid(const char *s, size_t len)
{
        for (size_t i = 0; i < len; i++)
                if (!is_tchar(s[i]))
                        return false;
        return len > 0;
}

/* RFC 3986 section 3.2: a host and an optional port, no userinfo. Empty is allowed (RFC 9110 section 7.2). */
static bool host_valid(const char *v)
{
        for (; *v; v++)
                if (!((*v >= '0' && *v <= '9') || (*v >= 'a' && *v <= 'z') || (*v >= 'A' && *v <= 'Z') ||
                      strchr("-._~%!$&'()*+,;=:[]", *v)))
                        return false;
        return true;
}

/* Fields that mean something once only; two of them could be read differently by whoever forwards the request. */
static const char *const singletons[] = {
        "Content-Length", "Transfer-Encoding", "Host",          "Content-Type",    "Expect",
        "Authorization",  "Content-Encoding",  "Content-Range", "Idempotency-Key", "X-Request-Id",
        "Origin",
};

static int length_parse(const char *v, int64_t *ret)
{
        uint64_t n = 0;

        for (const char *p = v; *p; p++) {
                uint64_t digit = (uint64_t)(*p - '0');

                if (*p < '0' || *p > '9' || n > (INT64_MAX - digit) / 10)
                        return -EINVAL;
                n = n * 10 + digit;
        }
        if (*v == '\0')
                return -EINVAL;
        *ret = (int64_t)n;
        return 0;
}

static int field_read(struct http_field *f, struct http_framing *framing, bool *host, const char **why)
{
        if (strcasecmp(f->name, "Content-Length") == 0) {
                if (length_parse(f->value, &framing->length) < 0) {
                        *why = "Content-Length is not a number";
                        return 400;
                }
        } else if (strcasecmp(f->name, "Transfer-Encoding") == 0) {
                if (strcasecmp(f->value, "chunked") != 0) {
                        *why = "Transfer-Encoding other than chunked";
                        return 400;
                }
                framing->chunked = true;
        } else if (strcasecmp(f->name, "Host") == 0) {
                if (!host_valid(f->value)) {
                        *why = "Host is not well-formed";
                        return 400;
                }
                *host = true;
        } else if (strcasecmp(f->name, "Expect") == 0) {
                if (strcasecmp(f->value, "100-continue") != 0) {
                        *why = "Expect other than 100-continue";
                        return 417;
                }
                framing->expect_continue = true;
        }
        return 0;
}

static int field_check(struct http_field *f, uint32_t *seen, const char **why)
{
        if (!name_valid(f->name, f->name_len)) {
                *why = "a header's name is not well-formed";
                return 400;
        }
        /* Before the blanks are cut: the parser itself looked at "chunked " and saw no chunked body. */
        if (strcasecmp(f->name, "Transfer-Encoding") == 0 && strcasecmp(f->value, "chunked") != 0) {
                *why = "Transfer-Encoding other than chunked";
                return 400;
        }
        while (f->value_len > 0 && (f->value[f->value_len - 1] == ' ' || f->value[f->value_len - 1] == '\t'))
                f->value[--f->value_len] = '\0';
        if (strlen(f->value) != f->value_len || !value_valid(f->value, f->value_len)) {
                *why = "a header's value is not well-formed";
                return 400;
        }
        for (size_t i = 0; i < ARRAY_LEN(singletons); i++) {
                if (strcasecmp(f->name, singletons[i]) != 0)
                        continue;
                if (*seen & (1u << i)) {
                        *why = "a header that may stand once only stands twice";
                        return 400;
                }
                *seen |= 1u << i;
        }
        return 0;
}

int http_fields_check(bool http_1_0, struct http_field *fields, size_t n, struct http_framing *ret, const char **why)
{
        struct http_framing framing = { .length = -1 };
        bool host = false;
        uint32_t seen = 0;

        for (size_t i = 0; i < n; i++) {
                int status;

                status = field_check(&fields[i], &seen, why);
                if (status == 0)
                        status = field_read(&fields[i], &framing, &host, why);
                if (status != 0)
                        return status;
        }
        if (framing.chunked && framing.length >= 0) {
                *why = "Content-Length together with Transfer-Encoding";
                return 400;
        }
        /* RFC 9112 section 6.1: HTTP/1.0 has no transfer codings. */
        if (framing.chunked && http_1_0) {
                *why = "Transfer-Encoding in HTTP/1.0";
                return 400;
        }
        if (!host && !http_1_0) {
                *why = "no Host";
                return 400;
        }
        *ret = framing;
        return 0;
}

bool http_head_contiguous(const char *method, const char *target, size_t target_len, const char *version,
                          const struct http_field *fields, size_t n, const char *end)
{
        const char *at = method + strlen(method) + 1;

        if (target != at)
                return false;
        at += target_len + 1;
        if (version != at)
                return false;
        at += strlen(version) + 2;
        for (size_t i = 0; i < n; i++) {
                if (fields[i].name != at)
                        return false;
                at += fields[i].name_len + 1;
                if (fields[i].value < at)
                        return false;
                for (; at < fields[i].value; at++)
                        if (*at != ' ' && *at != '\t')
                                return false;
                at += fields[i].value_len + 2;
        }
        return end == at + 2;
}
