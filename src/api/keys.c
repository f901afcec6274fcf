/* /v1/keys */

#include "api/internal.h"
#include "api/text.h"
#include "base/time.h"
#include "state/bounds.h"
#include "state/seal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXPIRES_MAX_NS (INT64_C(100) * 366 * 86400 * (int64_t)NS_PER_S)

/* ── a key as JSON ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *time_json(uint64_t ms)
{
        char text[TIME_RFC3339_MAX];

        if (ms == 0)
                return json_null();
        time_rfc3339(ms, text);
        return json_string(text);
}

/* NULL: out of memory. */
static json_t *key_json(const struct key *k)
{
        auto_json o = NULL;

        o = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "id", k->id, "name", k->name, "role",
                      key_role_names[k->role], "created_at", time_json(k->created_ms), "expires_at",
                      time_json(k->expires_ms), "revoked_at", time_json(k->revoked_ms), "last_used_at",
                      time_json(k->used_ms));
        return o && key_bounds_write(k, o) == 0 ? TAKE_PTR(o) : NULL;
}

static void no_such_key(struct call *c)
{
        call_problem(c, 404, "not_found", "there is no key %s", c->subject);
}

static bool has_keys(struct call *c)
{
        if (!c->api->config.keys)
                call_problem(c, 503, "no_keys", "this node keeps no keys");
        return c->api->config.keys;
}

/* ── GET ───────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void keys_list_run(struct call *c)
{
        auto_json answer = json_object();
        json_t *array = json_array();
        const struct key *k;

        if (!answer || json_object_set_new(answer, "keys", array) < 0) {
                call_oom(c);
                return;
        }
        for (size_t i = 0; c->api->config.keys && (k = keys_at(c->api->config.keys, i)); i++) {
                if (json_array_append_new(array, key_json(k)) < 0) {
                        call_oom(c);
                        return;
                }
        }
        call_answer_json(c, 200, answer);
}

void keys_get_run(struct call *c)
{
        const struct key *k = has_keys(c) ? keys_find(c->api->config.keys, c->subject) : NULL;
        auto_json value = k ? key_json(k) : NULL;

        if (k)
                call_answer_json(c, 200, value);
        else
                no_such_key(c);
}

/* ── POST ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The secret goes out in the answer, and is wiped here. */
static void on_made(int r, const struct key *k, const char *secret, const struct err *err, void *data)
{
        struct call *c = data;
        auto_secret whole = STR_INIT;
        auto_json value = NULL;

        if (!c->http) {
                /* nobody to tell: the key is there, and can be revoked */
        } else if (r == -ENOSPC) {
                call_problem(c, 507, "no_space", "%s", err->text);
        } else if (r < 0) {
                call_problem(c, 500, "internal", "%s", err->text);
        } else {
                value = key_json(k);
                if (str_addf(&whole, "%s:%s", k->id, secret) < 0 || !value ||
                    json_object_set_new(value, "secret", json_string(secret)) < 0 ||
                    json_object_set_new(value, "key", json_string(whole.data)) < 0) {
                        call_oom(c);
                } else {
                        (void)http_add_header(c->http, "Cache-Control", "no-store");
                        call_answer_json(c, 201, value);
                }
        }
        call_release(c);
}

static void read_role(struct json_obj *o, struct key *k)
{
        int role = -1;

        if (json_get_enum(o, "role", key_role_names, &role))
                k->role = (enum key_role)role;
        else if (!json_object_get(o->value, "role"))
                json_faults_add(o->faults, "/role", "is required: admin, deploy, task or read");
}

static void read_name(struct json_obj *o, struct key *k)
{
        const char *name = NULL;

        if (!json_get_str(o, "name", &name, NULL))
                return;
        if (strlen(name) > KEY_NAME_MAX)
                json_faults_add(o->faults, "/name", "must be at most %d bytes", KEY_NAME_MAX);
        k->name = (char *)(uintptr_t)name;
}

static void read_expiry(struct json_obj *o, struct key *k)
{
        const char *at = NULL;
        int64_t in_ns = 0;
        bool has_in = json_get_duration(o, "expires_in", &in_ns), has_at = json_get_str(o, "expires_at", &at, NULL);

        if (has_in && has_at)
                json_faults_add(o->faults, "/expires_in", "and expires_at: one of them");
        else if (has_in && (in_ns < (int64_t)NS_PER_MS || in_ns > EXPIRES_MAX_NS))
                json_faults_add(o->faults, "/expires_in", "must be above 0, and at most 100 years");
        else if (has_in)
                k->expires_ms = time_real_ms() + (uint64_t)in_ns / NS_PER_MS;
        else if (has_at && (rfc3339_parse(at, &k->expires_ms) < 0 || k->expires_ms <= time_real_ms()))
                json_faults_add(o->faults, "/expires_at", "must be a time to come, as of RFC 3339");
}

/* Borrows from the body, but for the lists. */
static void read_wanted(json_t *body, struct key *k, struct json_faults *faults)
{
        struct json_obj o;

        if (json_obj_init(&o, body, "", faults) < 0)
                return;
        read_role(&o, k);
        read_name(&o, k);
        read_expiry(&o, k);
        key_bounds_read(&o, k);
        json_obj_done(&o);
}

static void create(struct call *c, const struct key *wanted)
{
        struct err err = ERR_INIT;
        int r;

        call_hold(c);
        r = keys_create(c->api->config.keys, wanted, on_made, c, &err);
        if (r == 0)
                return;
        if (r == -EINVAL)
                call_problem(c, 400, "bad_request", "%s", err.text);
        else
                call_problem(c, r == -ENOSPC ? 507 : 503, r == -ENOSPC ? "no_space" : "busy", "%s", err.text);
        call_release(c);
}

void keys_create_run(struct call *c)
{
        struct json_faults faults = { .items = NULL };
        struct key wanted = { .role = KEY_READ };
        struct err err = ERR_INIT;
        auto_json body = NULL;

        if (!has_keys(c))
                return;
        if (json_read(c->body.data ? c->body.data : "", c->body.len, &body, &err) < 0)
                json_faults_add(&faults, "", "%s", err.text);
        else
                read_wanted(body, &wanted, &faults);
        if (faults.len > 0)
                call_problem_of(c, 400, "bad_request", "the body is not a valid key", NULL, &faults);
        else
                create(c, &wanted);
        strv_free(wanted.images);
        strv_free(wanted.networks);
        strv_free(wanted.engines);
        json_faults_done(&faults);
}

/* ── DELETE ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_revoked(int r, const struct err *err, void *data)
{
        struct call *c = data;
        auto_str none = STR_INIT;

        if (c->http && r < 0)
                call_problem(c, 500, "internal", "the key is revoked until the daemon ends, but not on disk: %s",
                             err->text);
        else
                call_send(c, 204, NULL, &none);
        call_release(c);
}

void keys_revoke_run(struct call *c)
{
        struct err err = ERR_INIT;
        int r;

        if (!has_keys(c))
                return;
        call_hold(c);
        r = keys_revoke(c->api->config.keys, c->subject, on_revoked, c, &err);
        if (r == 0)
                return;
        if (r == -ENOENT)
                no_such_key(c);
        else
                call_problem(c, 503, "busy", "%s", err.text);
        call_release(c);
}
