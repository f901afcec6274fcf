/* Basic and Bearer authentication (RFC 7617; distribution, spec/auth/token.md). */

#include "base/time.h"
#include "image/registry_internal.h"
#include "json/json.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPIRES_DEFAULT_S 60
#define EXPIRES_MAX_S 86400
#define EXPIRES_MARGIN_S 5

static char *grant_key(const struct registry_call *c)
{
        const struct registry_url *u = &c->endpoints[c->endpoint].base;

        return str_printf("%d %s %u\n%s\n%s", u->https, u->host, u->port, c->ref.path,
                          c->endpoints[c->endpoint].mirror ? "" : c->key);
}

static void grant_free(struct registry_grant *g)
{
        if (!g)
                return;
        if (g->header)
                OPENSSL_cleanse(g->header, strlen(g->header));
        free(g->header);
        free(g);
}

void registry_grants_free(struct registries *r)
{
        const char *key;
        size_t pos = 0;
        void *g;

        while (r->grants && map_next(r->grants, &pos, &key, &g))
                grant_free(g);
        map_free(r->grants);
}

void registry_grant_find(struct registry_call *c)
{
        auto_free char *key = grant_key(c);
        struct registry_grant *g = key ? map_find(c->registries->grants, key) : NULL;

        if (!g)
                return;
        if (g->until_ns <= time_mono_ns()) {
                grant_free(map_remove(c->registries->grants, key));
                return;
        }
        free(c->authorization);
        c->authorization = strdup(g->header);
        c->fresh = false;
        c->with_credentials = c->key[0] && !c->endpoints[c->endpoint].mirror;
}

void registry_grant_drop(struct registry_call *c)
{
        auto_free char *key = grant_key(c);

        if (key)
                grant_free(map_remove(c->registries->grants, key));
        free(c->authorization);
        c->authorization = NULL;
}

/* Room by whatever comes first: what is lost is asked for again. */
static void make_room(struct registries *r)
{
        const char *key;
        size_t pos = 0;
        void *g;

        while (map_len(r->grants) >= REGISTRY_GRANTS_MAX && map_next(r->grants, &pos, &key, &g)) {
                auto_free char *copy = strdup(key);

                if (!copy)
                        return;
                grant_free(map_remove(r->grants, copy));
        }
}

static int grant_keep(struct registry_call *c, uint64_t until_ns)
{
        auto_free char *key = grant_key(c);
        struct registry_grant *g = calloc(1, sizeof(*g));

        make_room(c->registries);
        if (g)
                g->header = strdup(c->authorization);
        if (!key || !g || !g->header) {
                grant_free(g);
                return -ENOMEM;
        }
        g->until_ns = until_ns;
        grant_free(map_remove(c->registries->grants, key));
        if (map_set(c->registries->grants, key, g) < 0) {
                grant_free(g);
                return -ENOMEM;
        }
        return 0;
}

static char *basic_header(const struct registry_call *c)
{
        auto_str pair = STR_INIT, out = STR_INIT;
        int r;

        if (str_addf(&pair, "%s:%s", c->username, c->password ? c->password : "") < 0)
                return NULL;
        r = str_adds(&out, "Authorization: Basic ");
        if (r == 0)
                r = base64_encode(&out, pair.data, pair.len);
        OPENSSL_cleanse(pair.data, pair.len);
        return r < 0 ? NULL : str_take(&out);
}

static bool may_use_credentials(const struct registry_call *c)
{
        return c->username && !c->endpoints[c->endpoint].mirror;
}

static bool has_identity_token(const struct registry_call *c)
{
        return c->username && str_eq(c->username, REGISTRY_TOKEN_USER);
}

static void unauthorized(struct registry_call *c)
{
        registry_fail(c, EACCES, "%s",
                      c->key[0] ? "it does not accept the credentials, or they do not open this repository"
                                : "it wants credentials, or there is no such repository");
}

static void use_basic(struct registry_call *c)
{
        if (!may_use_credentials(c) || has_identity_token(c)) {
                unauthorized(c);
                return;
        }
        free(c->authorization);
        c->authorization = basic_header(c);
        c->fresh = c->with_credentials = true;
        if (!c->authorization || grant_keep(c, TIME_NEVER) < 0)
                registry_fail(c, ENOMEM, "out of memory");
        else
                registry_request_again(c);
}

/* ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool token_valid(const char *s)
{
        if (!s || !*s)
                return false;
        for (; *s; s++)
                if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f)
                        return false;
        return true;
}

int registry_token_read(const char *text, size_t len, char **ret, uint64_t *ret_seconds, struct err *err)
{
        json_int_t seconds = EXPIRES_DEFAULT_S;
        const json_t *expires;
        const char *token;
        auto_json o = NULL;
        char *header;

        if (json_read(text, len, &o, NULL) < 0)
                return err_set(err, EBADMSG, "its token server answers no JSON");
        token = json_string_value(json_object_get(o, "token"));
        if (!token)
                token = json_string_value(json_object_get(o, "access_token"));
        if (!token_valid(token))
                return err_set(err, EBADMSG, "its token server answers no token");
        header = str_printf("Authorization: Bearer %s", token);
        if (!header)
                return err_oom(err);
        expires = json_object_get(o, "expires_in");
        if (json_is_integer(expires) && json_integer_value(expires) > 0)
                seconds = MIN(json_integer_value(expires), (json_int_t)EXPIRES_MAX_S);
        if (seconds > 2 * EXPIRES_MARGIN_S)
                seconds -= EXPIRES_MARGIN_S;
        *ret = header;
        *ret_seconds = (uint64_t)seconds;
        return 0;
}

static void take_token(struct registry_call *c)
{
        struct err err = ERR_INIT;
        char *header = NULL;
        uint64_t seconds = 0;
        int r = registry_token_read(c->body.data ? c->body.data : "", c->body.len, &header, &seconds, &err);

        if (r < 0) {
                registry_fail(c, r == -ENOMEM ? ENOMEM : EHOSTUNREACH, "%s", err.text);
                return;
        }
        free(c->authorization);
        c->authorization = header;
        c->fresh = true;
        if (grant_keep(c, time_mono_ns() + seconds * NS_PER_S) < 0)
                registry_fail(c, ENOMEM, "out of memory");
        else
                registry_request_again(c);
}

static void on_token_head(struct fetch *f, unsigned status, void *arg)
{
        struct registry_call *c = arg;

        c->status = status;
        registry_take_retry_after(c, f);
}

static int on_token_data(struct fetch *f, const void *data, size_t len, void *arg)
{
        struct registry_call *c = arg;

        (void)f;
        registry_collect(c, data, len, REGISTRY_TOKEN_MAX + 4096);
        return c->broken;
}

static void on_token_done(struct fetch *f, int result, const struct err *err, void *arg)
{
        struct registry_call *c = arg;

        (void)f;
        c->fetch = NULL;
        if (c->broken < 0)
                registry_fail(c, EHOSTUNREACH, "its token server answers too much");
        else if (result == -EPERM || result == -EKEYREJECTED)
                registry_fail(c, EHOSTUNREACH, "its token server %s: %s", c->url.host, err->text);
        else if (result < 0)
                registry_transient(c, EHOSTUNREACH, err->text);
        else if (c->status == 200)
                take_token(c);
        else if (c->status == 429 || c->status >= 500)
                registry_transient(c, c->status == 429 ? EBUSY : EHOSTUNREACH, "its token server cannot answer now");
        else if (c->status == 401 || c->status == 403 || c->status == 400 || c->status == 404)
                unauthorized(c);
        else
                registry_fail(c, EHOSTUNREACH, "its token server answers with status %u", c->status);
}

static int add_query(struct str *out, char first, const char *name, const char *value)
{
        int r = str_addf(out, "%c%s=", first, name);

        for (; r == 0 && *value; value++) {
                if (isalnum((unsigned char)*value) || strchr("-._~:/", *value))
                        r = str_addc(out, *value);
                else
                        r = str_addf(out, "%%%02X", (unsigned char)*value);
        }
        return r;
}

/* The last two labels of both are the same, or both are one host. */
static bool same_domain(const char *a, const char *b)
{
        const char *x = strrchr(a, '.'), *y = strrchr(b, '.');

        if (str_eq(a, b))
                return true;
        if (!x || !y || registry_host_is_address(a) || registry_host_is_address(b) || !str_eq(x, y))
                return false;
        do
                x--;
        while (x > a && x[-1] != '.');
        do
                y--;
        while (y > b && y[-1] != '.');
        return str_eq(x, y);
}

/* True if this token server may be told the credentials. */
static bool realm_trusted(const struct registry_call *c, const struct registry_url *realm)
{
        const struct registry_url *base = &c->endpoints[c->endpoint].base;

        if (!realm->https && !registry_plain_allowed(c->registries, realm))
                return false;
        if (!realm->https && base->https && !registry_listed(c->registries->config.realms, realm))
                return false;
        return same_domain(realm->host, base->host) || registry_listed(c->registries->config.realms, realm);
}

static int realm_query(struct registry_call *c, struct registry_url *realm, const char *scope, struct err *err)
{
        auto_str query = STR_INIT;
        int r;

        r = str_adds(&query, realm->path);
        if (r == 0 && c->challenge.service[0])
                r = add_query(&query, strchr(realm->path, '?') ? '&' : '?', "service", c->challenge.service);
        if (r == 0 && *scope)
                r = add_query(&query, strchr(query.data, '?') ? '&' : '?', "scope", scope);
        if (r < 0)
                return err_oom(err);
        if (query.len >= sizeof(realm->path))
                return err_set(err, EINVAL, "its address is too long");
        memcpy(realm->path, query.data, query.len + 1);
        return 0;
}

/* What a refresh token is exchanged for an access token by (RFC 6749, section 6): in the body of a POST. */
static int token_form(const struct registry_call *c, const char *scope, struct str *out)
{
        int r = str_adds(out, "grant_type=refresh_token&client_id=mayfly");

        if (r == 0 && c->challenge.service[0])
                r = add_query(out, '&', "service", c->challenge.service);
        if (r == 0 && *scope)
                r = add_query(out, '&', "scope", scope);
        return r == 0 ? add_query(out, '&', "refresh_token", c->password ? c->password : "") : r;
}

static void wipe_text(struct str *s)
{
        if (s->data)
                OPENSSL_cleanse(s->data, s->len);
        str_done(s);
}

static int fetch_token(struct registry_call *c, const char *scope, struct err *err)
{
        static const struct fetch_handler handler = { .head = on_token_head,
                                                      .data = on_token_data,
                                                      .done = on_token_done };
        const char *headers[] = { "Accept: application/json", "User-Agent: mayfly", NULL, NULL };
        struct str form = STR_INIT;
        char *basic = NULL;
        int r = 0;

        if (c->with_credentials && has_identity_token(c)) {
                headers[2] = "Content-Type: application/x-www-form-urlencoded";
                r = token_form(c, scope, &form);
        } else {
                if (c->with_credentials)
                        headers[2] = basic = basic_header(c);
                if (c->with_credentials && !basic)
                        r = -ENOMEM;
                if (r == 0)
                        r = realm_query(c, &c->url, scope, err);
        }
        c->phase = CALL_TOKEN;
        c->broken = 0;
        str_clear(&c->body);
        if (r == 0)
                r = registry_fetch_with(c, &c->url, headers, form.len > 0 ? "POST" : "GET", &form, &handler, err);
        else if (!err->num)
                r = err_oom(err);
        if (basic)
                OPENSSL_cleanse(basic, strlen(basic));
        free(basic);
        wipe_text(&form);
        return r;
}

static void ask_for_token(struct registry_call *c)
{
        auto_free char *own = c->what == REGISTRY_PING ? strdup("") : str_printf("repository:%s:pull", c->ref.path);
        const char *scope = own;
        struct err err = ERR_INIT;
        int r;

        if (!own) {
                registry_fail(c, ENOMEM, "out of memory");
                return;
        }
        if (c->challenge.scope[0] && !str_starts(c->challenge.scope, "repository:"))
                scope = c->challenge.scope;
        r = registry_url_parse(c->challenge.realm, &c->url, &err);
        if (r == 0)
                r = registry_target_check(c, &c->url, &err);
        if (r < 0) {
                registry_fail(c, EHOSTUNREACH, "its token server cannot be used: %s", err.text);
                return;
        }
        c->with_credentials = may_use_credentials(c);
        if (c->with_credentials && !realm_trusted(c, &c->url)) {
                registry_fail(c, EACCES,
                              "it names a token server elsewhere, %s, which the credentials are not sent to "
                              "(registries.realms)",
                              c->url.host);
                return;
        }
        if (fetch_token(c, scope, &err) < 0)
                registry_fail(c, err.num == ENOMEM ? ENOMEM : EHOSTUNREACH, "its token server: %s", err.text);
}

void registry_challenged(struct registry_call *c)
{
        bool fresh = c->fresh && c->authorization;

        registry_grant_drop(c);
        if (!fresh && c->challenge.bearer && c->challenge.realm[0])
                ask_for_token(c);
        else if (!fresh && c->challenge.basic)
                use_basic(c);
        else
                unauthorized(c);
}
