/* /v1/registries: credentials that are kept for the caller's pulls and tasks. */

#include "api/internal.h"
#include "base/str.h"
#include "base/time.h"
#include "image/registry.h"
#include "image/registry_url.h"
#include "state/logins.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

/* A login that the registry is asked about. */
struct login_call {
        struct call *call;
        struct registry_call *ping;
        char registry[256];
        char *username, *password;
};

static void wipe(char *s)
{
        if (s)
                OPENSSL_cleanse(s, strlen(s));
        free(s);
}

static void login_free(struct login_call *l)
{
        if (l->ping)
                registry_cancel(l->ping);
        wipe(l->username);
        wipe(l->password);
        free(l);
}

void login_call_gone(struct call *c)
{
        struct login_call *l = TAKE_PTR(c->login);

        if (l)
                login_free(l);
}

void logins_revoked(struct api *a, const char *owner)
{
        if (a->config.logins)
                logins_forget(a->config.logins, owner);
}

static bool has_logins(struct call *c)
{
        if (!c->api->config.logins)
                call_problem(c, 503, "unavailable", "this daemon keeps no logins");
        return c->api->config.logins;
}

/* ── GET ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void logins_list_run(struct call *c)
{
        auto_json answer = json_pack("{s:[]}", "registries");
        struct login login;
        size_t pos = 0;

        if (!has_logins(c))
                return;
        while (answer && logins_next(c->api->config.logins, c->who.owner, &pos, &login)) {
                char created[TIME_RFC3339_MAX];

                time_rfc3339(login.created_ms, created);
                if (json_array_append_new(json_object_get(answer, "registries"),
                                          json_pack("{s:s, s:s, s:s}", "registry", login.registry, "username",
                                                    login.username, "created_at", created)) < 0) {
                        call_oom(c);
                        return;
                }
        }
        call_answer_json(c, 200, answer);
}

/* ── login ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_kept(int r, const struct err *err, void *data)
{
        struct call *c = data;
        struct login_call *l = TAKE_PTR(c->login);
        auto_json answer = NULL;

        if (c->http && r < 0) {
                call_problem(c, r == -ENOSPC ? 507 : 500, r == -ENOSPC ? "no_space" : "internal", "%s", err->text);
        } else if (c->http && l) {
                answer = json_pack("{s:s, s:s}", "registry", l->registry, "username", l->username);
                call_answer_json(c, 200, answer);
        }
        if (l)
                login_free(l);
        call_release(c);
}

static void keep(struct call *c)
{
        struct login_call *l = c->login;
        struct err err = ERR_INIT;
        int r;

        call_hold(c);
        r = logins_set(c->api->config.logins, c->who.owner, l->registry, l->username, l->password, on_kept, c, &err);
        if (r == 0)
                return;
        login_call_gone(c);
        if (r == -EINVAL)
                call_problem(c, 400, "bad_request", "%s", err.text);
        else
                call_problem(c, r == -ENOSPC ? 507 : 503, r == -ENOSPC ? "no_space" : "busy", "%s", err.text);
        call_release(c);
}

static void on_ping(struct registry_call *ping, int r, const struct registry_answer *answer, const struct err *err,
                    void *arg)
{
        struct login_call *l = arg;
        struct call *c = l->call;
        const char *reason;
        int status;

        (void)ping;
        l->ping = NULL;
        if (r == 0 && call_is_still_allowed(c)) {
                keep(c);
                return;
        }
        login_call_gone(c);
        if (r == 0)
                return;
        pull_outcome(r == -ENOENT ? -EHOSTUNREACH : r, &status, &reason);
        if (r == -EBUSY)
                call_retry_after(c, answer->retry_after_s ? answer->retry_after_s : API_BUSY_RETRY_S);
        if (r == -ENOMEM)
                call_oom(c);
        else
                call_problem(c, status, r == -EACCES ? "login_refused" : reason, "%s", err->text);
}

/* The texts borrow from the body. */
struct wish {
        const char *registry, *username, *password, *identity_token;
};

static void read_credentials(struct json_obj *o, struct wish *w)
{
        (void)json_get_str(o, "username", &w->username, NULL);
        (void)json_get_str(o, "password", &w->password, NULL);
        (void)json_get_str(o, "identity_token", &w->identity_token, NULL);
        if (w->identity_token && (w->username || w->password))
                json_faults_add(o->faults, "/identity_token", "stands in place of username and password");
        if (w->identity_token) {
                w->username = REGISTRY_TOKEN_USER;
                w->password = w->identity_token;
        }
        if (!w->username || !*w->username || strlen(w->username) > LOGIN_USERNAME_MAX || strpbrk(w->username, ":\r\n"))
                json_faults_add(o->faults, "/username", "must have 1 to %d bytes, and neither a colon nor a line break",
                                LOGIN_USERNAME_MAX);
        if (!w->password || !*w->password || strlen(w->password) > LOGIN_PASSWORD_MAX)
                json_faults_add(o->faults, w->identity_token ? "/identity_token" : "/password",
                                "must have 1 to %d bytes", LOGIN_PASSWORD_MAX);
}

static bool read_wish(struct call *c, json_t *value, bool login, struct wish *w, char registry[256])
{
        struct json_faults faults = { .items = NULL };
        struct err err = ERR_INIT;
        struct json_obj o;
        bool good;

        w->registry = "docker.io";
        if (json_obj_init(&o, value, "", &faults) == 0) {
                (void)json_get_str(&o, "registry", &w->registry, NULL);
                if (registry_name(w->registry, registry, &err) < 0 || strlen(registry) > LOGIN_REGISTRY_MAX)
                        json_faults_add(&faults, "/registry", "is no registry, as registry.example:5000");
                if (login)
                        read_credentials(&o, w);
                json_obj_done(&o);
        }
        good = faults.len == 0 && (!login || (w->username && w->password));
        if (!good)
                call_problem_of(c, 400, "bad_request", "the body is not valid", NULL, &faults);
        json_faults_done(&faults);
        return good;
}

static void ping(struct call *c, const struct wish *w, const char *registry)
{
        static const struct registry_handler handler = { .done = on_ping };
        struct image_ref ref = { .domain = "" };
        const struct registry_request q = {
                .what = REGISTRY_PING, .ref = &ref, .reference = "", .username = w->username, .password = w->password
        };
        struct login_call *l = calloc(1, sizeof(*l));
        struct err err = ERR_INIT;

        if (!l) {
                call_oom(c);
                return;
        }
        l->call = c;
        (void)snprintf(ref.domain, sizeof(ref.domain), "%s", registry);
        (void)snprintf(l->registry, sizeof(l->registry), "%s", registry);
        l->username = strdup(w->username);
        l->password = strdup(w->password);
        c->login = l;
        if (l->username && l->password &&
            registry_start(c->api->config.registries, &q, &handler, l, &l->ping, &err) == 0)
                return;
        login_call_gone(c);
        if (err.num == EINVAL)
                call_problem(c, 400, "bad_request", "%s", err.text);
        else
                call_oom(c);
}

static bool read_body(struct call *c, json_t **ret)
{
        struct err err = ERR_INIT;

        if (json_read(c->body.data ? c->body.data : "", c->body.len, ret, &err) == 0)
                return true;
        call_problem(c, 400, "bad_request", "%s", err.text);
        return false;
}

void login_run(struct call *c)
{
        struct wish w = { .registry = NULL };
        auto_json value = NULL;
        char registry[256];

        if (!has_logins(c))
                return;
        if (!registries_enabled(c->api->config.registries)) {
                call_problem(c, 403, "not_allowed", "no registry may be asked here (registries.enabled)");
                return;
        }
        if (read_body(c, &value) && read_wish(c, value, true, &w, registry))
                ping(c, &w, registry);
        if (c->body.data)
                OPENSSL_cleanse(c->body.data, c->body.len);
}

/* ── logout ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_removed(int r, const struct err *err, void *data)
{
        struct call *c = data;
        auto_str none = STR_INIT;

        if (c->http && r < 0)
                call_problem(c, 500, "internal", "the login is forgotten until the daemon ends, but not on disk: %s",
                             err->text);
        else
                call_send(c, 204, NULL, &none);
        call_release(c);
}

void logout_run(struct call *c)
{
        struct wish w = { .registry = NULL };
        struct err err = ERR_INIT;
        auto_json value = NULL;
        char registry[256];
        int r;

        if (!has_logins(c) || !read_body(c, &value) || !read_wish(c, value, false, &w, registry))
                return;
        call_hold(c);
        r = logins_remove(c->api->config.logins, c->who.owner, registry, on_removed, c, &err);
        if (r == 0)
                return;
        if (r == -ENOENT)
                call_problem(c, 404, "not_found", "%s", err.text);
        else
                call_problem(c, 503, "busy", "%s", err.text);
        call_release(c);
}
