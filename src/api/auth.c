/* Who calls, and what of. RFC 9110 section 11, RFC 7617 (Basic), RFC 6750 section 2.1 (Bearer). */

#include "api/internal.h"
#include "api/text.h"
#include "base/time.h"
#include "state/seal.h"

#include <string.h>
#include <sys/socket.h>

static const struct key *key_of(struct call *c)
{
        const char *header = http_header(c->http, "Authorization");
        auto_secret text = STR_INIT;
        const struct key *key = NULL;
        char *colon;

        if (!header || !c->api->config.keys || !credentials_parse(header, &text))
                return NULL;
        colon = strchr(text.data, ':');
        if (colon) {
                *colon = '\0';
                key = keys_verify(c->api->config.keys, text.data, colon + 1);
        }
        return key;
}

static void unauthorized(struct call *c)
{
        if (!c->http)
                return;
        (void)http_add_header(c->http, "WWW-Authenticate", "Basic realm=\"mayfly\", charset=\"UTF-8\"");
        (void)http_add_header(c->http, "WWW-Authenticate", "Bearer realm=\"mayfly\"");
        if (http_header(c->http, "Authorization"))
                call_problem(c, 401, "unauthorized", "the key is not valid");
        else
                call_problem(c, 401, "unauthorized", "a key is needed: Basic or Bearer, `id:secret`");
}

static void too_many(struct call *c, unsigned seconds, const char *what)
{
        call_retry_after(c, seconds);
        call_problem(c, 429, "rate_limited", "%s", what);
}

void call_unrefuse(struct call *c)
{
        loop_timer_cancel(&c->timer);
        if (c->refused)
                meters_answered(c->api->meters, c->address);
        c->refused = false;
}

static void on_refused(struct loop_timer *timer, void *data)
{
        struct call *c = data;

        (void)timer;
        call_unrefuse(c);
        unauthorized(c);
}

/* Who tries secrets gets slower answers; who has a key is not held up by that, not even from the same address. */
static void refuse(struct call *c)
{
        uint64_t now = time_mono_ns();
        int ms = 0;

        if (http_header(c->http, "Authorization"))
                ms = meters_failed(c->api->meters, c->address, now);
        if (ms < 0) {
                too_many(c, 5, "too many failed authentications from this address");
                return;
        }
        c->refused = ms > 0;
        if (ms == 0 || loop_timer_set(c->api->loop, &c->timer, now + (uint64_t)ms * NS_PER_MS, on_refused, c) < 0) {
                call_unrefuse(c);
                unauthorized(c);
        }
}

/* By the unix socket: who could open it administers, and a key has no say there. */
static bool identify_local(struct call *c)
{
        uid_t uid;

        if (!http_peer_uid(c->http, &uid))
                return false;
        c->who = (struct identity){ .known = true, .role = KEY_ADMIN };
        (void)snprintf(c->who.owner, sizeof(c->who.owner), "uid:%u", (unsigned)uid);
        return true;
}

static bool identify_key(struct call *c)
{
        const struct key *key = key_of(c);
        unsigned wait;

        if (!key) {
                refuse(c);
                return false;
        }
        c->who = (struct identity){ .known = true, .role = key->role };
        (void)snprintf(c->who.owner, sizeof(c->who.owner), "%s", key->owner);
        (void)snprintf(c->who.key_id, sizeof(c->who.key_id), "%s", key->id);
        wait = meters_enter_key(c->api->meters, key, time_mono_ns());
        if (wait > 0) {
                too_many(c, wait, "this key has asked for too much");
                return false;
        }
        c->metered = true;
        return true;
}

bool call_identify(struct call *c)
{
        unsigned wait;

        if (identify_local(c))
                return true;
        wait = meters_take_address(c->api->meters, c->address, time_mono_ns());
        if (wait > 0) {
                too_many(c, wait, "this address has asked for too much");
                return false;
        }
        if (c->route && c->route->op == OP_PING) {
                c->who = (struct identity){ .role = KEY_READ };
                return true;
        }
        return identify_key(c);
}

void call_address(struct call *c)
{
        const struct http_address *a = http_peer_address(c->http);

        /* Who has one IPv6 address has 2^64 of them. */
        if (a->family == AF_INET6)
                hex_encode(a->bytes, 8, c->address);
        else
                (void)snprintf(c->address, sizeof(c->address), "%s", a->text);
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

bool call_is_still_allowed(struct call *c)
{
        if (!*c->who.key_id || call_key(c))
                return true;
        unauthorized(c);
        return false;
}

const char *call_scope_owner(const struct call *c)
{
        return role_scope(c->who.role, c->route->op) == SCOPE_ALL ? NULL : c->who.owner;
}
