#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STR_FIRST 64
#define STR_WIPED (64 * 1024)

/* Whoever wipes a string with a secret in it knows of its last place only. Large ones are not copied at all as a rule
 * (mremap(2)). */
static char *grow(struct str *s, size_t cap)
{
        char *p;

        if (s->cap > STR_WIPED)
                return realloc(s->data, cap);
        p = malloc(cap);
        if (!p || !s->data)
                return p;
        memcpy(p, s->data, s->cap);
        explicit_bzero(s->data, s->cap);
        free(s->data);
        return p;
}

int str_reserve(struct str *s, size_t more)
{
        size_t need, cap;
        char *p;

        if (__builtin_add_overflow(s->len, more, &need) || need >= PTRDIFF_MAX)
                return -ENOMEM;
        need++; /* the NUL */
        if (need <= s->cap)
                return 0;
        cap = MAX(MAX(s->cap + s->cap / 2, need), (size_t)STR_FIRST);
        p = grow(s, cap);
        if (!p)
                return -ENOMEM;
        p[s->len] = '\0';
        s->data = p;
        s->cap = cap;
        return 0;
}

int str_add(struct str *s, const void *data, size_t len)
{
        int r;

        r = str_reserve(s, len);
        if (r < 0)
                return r;
        if (len > 0)
                memcpy(s->data + s->len, data, len);
        s->len += len;
        s->data[s->len] = '\0';
        return 0;
}

int str_adds(struct str *s, const char *text)
{
        return str_add(s, text, strlen(text));
}

int str_addc(struct str *s, char c)
{
        return str_add(s, &c, 1);
}

int str_addv(struct str *s, const char *fmt, va_list ap)
{
        va_list copy;
        size_t room;
        int n, r;

        r = str_reserve(s, 0);
        if (r < 0)
                return r;
        room = s->cap - s->len;
        va_copy(copy, ap);
        n = vsnprintf(s->data + s->len, room, fmt, copy);
        va_end(copy);
        if (n >= 0 && (size_t)n >= room) {
                r = str_reserve(s, (size_t)n);
                if (r == 0)
                        n = vsnprintf(s->data + s->len, (size_t)n + 1, fmt, ap);
        }
        if (n < 0 || r < 0) {
                s->data[s->len] = '\0';
                return -ENOMEM;
        }
        s->len += (size_t)n;
        return 0;
}

int str_addf(struct str *s, const char *fmt, ...)
{
        va_list ap;
        int r;

        va_start(ap, fmt);
        r = str_addv(s, fmt, ap);
        va_end(ap);
        return r;
}

void str_clear(struct str *s)
{
        s->len = 0;
        if (s->data)
                s->data[0] = '\0';
}

char *str_take(struct str *s)
{
        char *p;

        if (str_reserve(s, 0) < 0)
                return NULL;
        p = s->data;
        *s = (struct str)STR_INIT;
        return p;
}

void str_done(struct str *s)
{
        free(s->data);
        *s = (struct str)STR_INIT;
}

void free_cleanup(void *p)
{
        free(*(void **)p);
}

bool str_eq(const char *a, const char *b)
{
        if (!a || !b)
                return a == b;
        return strcmp(a, b) == 0;
}

bool str_starts(const char *s, const char *prefix)
{
        return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
        size_t n = strlen(s), m = strlen(suffix);

        return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

char *str_printf(const char *fmt, ...)
{
        auto_str s = STR_INIT;
        va_list ap;
        int r;

        va_start(ap, fmt);
        r = str_addv(&s, fmt, ap);
        va_end(ap);
        return r < 0 ? NULL : str_take(&s);
}

size_t strv_len(char *const *v)
{
        size_t n = 0;

        while (v && v[n])
                n++;
        return n;
}

char **strv_dup(char *const *v)
{
        size_t n = strv_len(v);
        char **copy;

        if (!v)
                return NULL;
        copy = calloc(n + 1, sizeof(*copy));
        if (!copy)
                return NULL;
        for (size_t i = 0; i < n; i++) {
                copy[i] = strdup(v[i]);
                if (!copy[i]) {
                        strv_free(copy);
                        return NULL;
                }
        }
        return copy;
}

void strv_free(char **v)
{
        for (size_t i = 0; v && v[i]; i++)
                free(v[i]);
        free(v);
}

void strv_cleanup(char ***v)
{
        strv_free(*v);
}

int strv_add(char ***v, const char *s)
{
        size_t n = strv_len(*v);
        char *copy;
        char **p;

        copy = strdup(s);
        if (!copy)
                return -ENOMEM;
        p = realloc(*v, (n + 2) * sizeof(*p));
        if (!p) {
                free(copy);
                return -ENOMEM;
        }
        p[n] = copy;
        p[n + 1] = NULL;
        *v = p;
        return 0;
}

int parse_u64(const char *s, uint64_t *ret)
{
        uint64_t v = 0;

        if (!*s || (s[0] == '0' && s[1]))
                return -EINVAL;
        for (const char *p = s; *p; p++)
                if (*p < '0' || *p > '9')
                        return -EINVAL;
        for (; *s; s++)
                if (__builtin_mul_overflow(v, UINT64_C(10), &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
                        return -ERANGE;
        *ret = v;
        return 0;
}

int parse_u32(const char *s, uint32_t *ret)
{
        uint64_t v;
        int r;

        r = parse_u64(s, &v);
        if (r < 0)
                return r;
        if (v > UINT32_MAX)
                return -ERANGE;
        *ret = (uint32_t)v;
        return 0;
}

const char *str_show(const char *name, char out[STR_SHOWN_MAX])
{
        size_t n = 0;

        for (; *name; name++) {
                unsigned char c = (unsigned char)*name;

                if (n > STR_SHOWN_MAX - 8) {
                        memcpy(out + n, "...", 3);
                        n += 3;
                        break;
                }
                if (c >= 0x20 && c < 0x7f && c != '\\')
                        out[n++] = (char)c;
                else
                        n += (size_t)snprintf(out + n, 5, "\\x%02x", c);
        }
        out[n] = '\0';
        return out;
}
