/* Who calls, and what of. RFC 9110 section 11, RFC 7617 (Basic), RFC 6750 section 2.1 (Bearer). */

#include "api/internal.h"

#include <openssl/crypto.h>
#include <string.h>
#include <strings.h>

#define CREDENTIALS_MAX 512

/* `id:secret` of the header, in place of which the caller's buffer is wiped by seal_wipe(). False: it has none. */
static bool credentials_read(const char *header, struct str *out)
{
        const char *at = header + strcspn(header, " ");
        size_t scheme = (size_t)(at - header);

        while (*at == ' ')
                at++;
        if (!*at || strlen(at) > CREDENTIALS_MAX)
                return false;
        if (scheme == 6 && strncasecmp(header, "Bearer", 6) == 0)
                return str_adds(out, at) == 0;
        if (scheme == 5 && strncasecmp(header, "Basic", 5) == 0)
                return base64_decode(out, at, strlen(at)) == 0 && memchr(out->data, '\0', out->len) == NULL;
        return false;
}

static const struct key *key_of(struct call *c)
{
        const char *header = http_header(c->http, "Authorization");
        auto_str text = STR_INIT;
        const struct key *key = NULL;
        char *colon;

        if (!header || !c->api->config.keys || !credentials_read(header, &text) || !text.data)
                return NULL;
        colon = strchr(text.data, ':');
        if (colon) {
                *colon = '\0';
                key = keys_verify(c->api->config.keys, text.data, colon + 1);
        }
        OPENSSL_cleanse(text.data, text.cap);
        return key;
}

static void unauthorized(struct call *c)
{
        (void)http_add_header(c->http, "WWW-Authenticate", "Basic realm=\"mayfly\", charset=\"UTF-8\"");
        (void)http_add_header(c->http, "WWW-Authenticate", "Bearer realm=\"mayfly\"");
        if (http_header(c->http, "Authorization"))
                call_problem(c, 401, "unauthorized", "the key is not valid");
        else
                call_problem(c, 401, "unauthorized", "a key is needed: Basic or Bearer, `id:secret`");
}

bool call_identify(struct call *c)
{
        const struct key *key;
        uid_t uid;

        /* Who could open the socket administers; a key has no say there. */
        if (http_peer_uid(c->http, &uid)) {
                c->who = (struct identity){ .known = true, .role = KEY_ADMIN };
                (void)snprintf(c->who.owner, sizeof(c->who.owner), "uid:%u", (unsigned)uid);
                return true;
        }
        if (c->route && c->route->op == OP_PING) {
                c->who = (struct identity){ .role = KEY_READ };
                return true;
        }
        key = key_of(c);
        if (!key) {
                unauthorized(c);
                return false;
        }
        c->who = (struct identity){ .known = true, .role = key->role };
        (void)snprintf(c->who.owner, sizeof(c->who.owner), "%s", key->owner);
        (void)snprintf(c->who.key_id, sizeof(c->who.key_id), "%s", key->id);
        return true;
}

const struct key *call_key(const struct call *c)
{
        const struct key *key = NULL;

        if (*c->who.key_id && c->api->config.keys)
                key = keys_find(c->api->config.keys, c->who.key_id);
        return key && key_is_live(key) ? key : NULL;
}

bool call_owns(const struct call *c, const char *owner)
{
        enum scope scope = role_scope(c->who.role, c->route->op);

        return scope == SCOPE_ALL || (scope == SCOPE_OWN && str_eq(c->who.owner, owner));
}

const char *call_scope_owner(const struct call *c)
{
        return role_scope(c->who.role, c->route->op) == SCOPE_ALL ? NULL : c->who.owner;
}
