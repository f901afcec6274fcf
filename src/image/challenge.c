#include "image/challenge.h"

#include "base/str.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* RFC 9110, section 5.6.2. */
static size_t token_len(const char *s)
{
        size_t n = 0;

        while (s[n] > ' ' && s[n] < 0x7f && !strchr("()<>@,;:\\\"/[]?={}", s[n]))
                n++;
        return n;
}

static const char *blanks(const char *s)
{
        return s + strspn(s, " \t");
}

/* A quoted-string or token; too long, or with a control in it: refused. */
static const char *read_value(const char *s, char *out, size_t size)
{
        size_t n = 0;

        if (*s != '"') {
                n = token_len(s);
                if (n == 0 || n >= size)
                        return NULL;
                memcpy(out, s, n);
                out[n] = '\0';
                return s + n;
        }
        for (s++; *s != '"'; s++) {
                if (*s == '\\')
                        s++;
                if ((unsigned char)*s < ' ' || *s == 0x7f || n + 1 >= size)
                        return NULL;
                out[n++] = *s;
        }
        out[n] = '\0';
        return s + 1;
}

static void take_param(struct image_challenge *c, const char *name, const char *value)
{
        const struct {
                const char *name;
                char *to;
                size_t size;
        } known[] = {
                { "realm", c->realm, sizeof(c->realm) },
                { "service", c->service, sizeof(c->service) },
                { "scope", c->scope, sizeof(c->scope) },
                { "error", c->error, sizeof(c->error) },
        };

        for (size_t i = 0; i < ARRAY_LEN(known); i++) {
                if (strcasecmp(name, known[i].name) == 0 && !known[i].to[0] && strlen(value) < known[i].size)
                        memcpy(known[i].to, value, strlen(value) + 1);
        }
}

/* "name=value", with blanks around '='. NULL: there is none here. */
static const char *read_param(const char *s, struct image_challenge *c, bool *ret_bad)
{
        char name[64], value[CHALLENGE_VALUE_MAX];
        size_t n = token_len(s);
        const char *at = blanks(s + n);

        *ret_bad = false;
        if (n == 0 || *at != '=')
                return NULL;
        *ret_bad = true;
        if (n >= sizeof(name))
                return NULL;
        memcpy(name, s, n);
        name[n] = '\0';
        at = read_value(blanks(at + 1), value, sizeof(value));
        if (!at)
                return NULL;
        *ret_bad = false;
        if (c)
                take_param(c, name, value);
        return at;
}

/* auth-params up to the next scheme, which a comma and a token without '=' begin. */
static const char *read_params(const char *s, struct image_challenge *c)
{
        for (;;) {
                const char *at, *comma;
                bool bad;

                at = read_param(blanks(s), c, &bad);
                if (bad)
                        return NULL;
                if (!at)
                        return blanks(s);
                at = blanks(at);
                if (*at != ',')
                        return *at ? NULL : at;
                comma = at;
                at = blanks(at + strspn(at, ", \t"));
                if (token_len(at) == 0)
                        return *at ? NULL : at;
                if (*blanks(at + token_len(at)) != '=')
                        return comma;
                s = at;
        }
}

static const char *read_challenge(const char *s, struct image_challenge *c)
{
        struct image_challenge *to = NULL;
        size_t n = token_len(s);
        const char *at = s + n;

        if (n == 0 || (*at && *at != ' ' && *at != '\t' && *at != ','))
                return NULL;
        if (n == 5 && strncasecmp(s, "basic", n) == 0)
                c->basic = true;
        if (n == 6 && strncasecmp(s, "bearer", n) == 0 && !c->bearer) {
                c->bearer = true;
                to = c;
        }
        at = blanks(at);
        if (!*at || *at == ',')
                return at;
        /* token68, as Negotiate has it. */
        n = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/");
        n += strspn(at + n, "=");
        if (n > 0 && (!*blanks(at + n) || *blanks(at + n) == ','))
                return blanks(at + n);
        return read_params(at, to);
}

int image_challenge_parse(const char *header, struct image_challenge *c, struct err *err)
{
        struct image_challenge made = *c;
        const char *s;

        if (strnlen(header, CHALLENGE_HEADER_MAX) == CHALLENGE_HEADER_MAX)
                return err_set(err, EBADMSG, "its WWW-Authenticate is too long");
        for (s = header + strspn(header, ", \t"); s && *s;) {
                s = read_challenge(s, &made);
                if (s)
                        s += strspn(s, ", \t");
        }
        if (!s)
                return err_set(err, EBADMSG, "its WWW-Authenticate is none by RFC 9110");
        *c = made;
        return 0;
}
