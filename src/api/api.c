/* The server's events, the table of routes, and the checks that come before them. */

#include "api/api.h"

#include "api/ecs/ecs.h"
#include "api/internal.h"
#include "api/text.h"
#include "base/id.h"
#include "base/log.h"
#include "base/time.h"
#include "state/seal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct route_handler handlers[ROUTES] = {
        [ROUTE_HEALTHZ] = { .run = healthz_run },
        [ROUTE_VERSION] = { .run = version_run },
        [ROUTE_ENGINES] = { .run = engines_run },
        [ROUTE_HEALTH] = { .run = health_run },
        [ROUTE_TASK_RUN] = { .run = tasks_create_run },
        [ROUTE_TASK_LIST] = { .run = tasks_list_run },
        [ROUTE_TASK_STREAM] = { .begin = tasks_stream_begin, .run = tasks_stream_run },
        [ROUTE_TASK_GET] = { .run = tasks_get_run },
        [ROUTE_TASK_DELETE] = { .run = tasks_delete_run },
        [ROUTE_TASK_WAIT] = { .run = tasks_wait_run },
        [ROUTE_TASK_STDOUT] = { .run = tasks_stdout_run },
        [ROUTE_TASK_STDERR] = { .run = tasks_stderr_run },
        [ROUTE_TASK_LOGS] = { .run = tasks_logs_run },
        [ROUTE_TASK_CANCEL] = { .run = tasks_cancel_run },
        [ROUTE_TASK_SIGNAL] = { .run = tasks_signal_run },
        [ROUTE_IMAGE_LIST] = { .run = images_list_run },
        [ROUTE_IMAGE_IMPORT] = { images_import_begin, images_body, images_body_run },
        [ROUTE_IMAGE_PULL] = { .run = images_pull_run },
        [ROUTE_IMAGE_PULLS] = { .run = images_pulls_run },
        [ROUTE_IMAGE_TAG] = { .run = images_tag_run },
        [ROUTE_IMAGE_PIN] = { .run = images_pin_run },
        [ROUTE_IMAGE_PRUNE] = { .run = images_prune_run },
        [ROUTE_IMAGE_VERIFY] = { .run = images_verify_run },
        [ROUTE_IMAGE_SAVE] = { .run = images_save_run },
        [ROUTE_IMAGE_LOAD] = { images_load_begin, images_body, images_body_run },
        [ROUTE_IMAGE_GET] = { .run = images_get_run },
        [ROUTE_IMAGE_DELETE] = { .run = images_delete_run },
        [ROUTE_LOGIN_LIST] = { .run = logins_list_run },
        [ROUTE_LOGIN] = { .run = login_run },
        [ROUTE_LOGOUT] = { .run = logout_run },
        [ROUTE_KEY_CREATE] = { .run = keys_create_run },
        [ROUTE_KEY_LIST] = { .run = keys_list_run },
        [ROUTE_KEY_GET] = { .run = keys_get_run },
        [ROUTE_KEY_REVOKE] = { .run = keys_revoke_run },
        [ROUTE_OPENAPI] = { .run = openapi_run },
        [ROUTE_DOCS] = { .run = docs_run },
        [ROUTE_DOCS_PAGE] = { .run = docs_run },
};

static const struct api_root native_root = {
        .prefix = "",
        .routes = routes,
        .handlers = handlers,
        .n = ROUTES,
};

/* The first whose prefix fits. */
static const struct api_root *const roots[] = { &ecs_roots[0], &ecs_roots[1], &native_root };

/* ── routing ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const struct api_root *root_find(const char *path)
{
        for (size_t i = 0; i + 1 < ARRAY_LEN(roots); i++)
                if (str_starts(path, roots[i]->prefix))
                        return roots[i];
        return roots[ARRAY_LEN(roots) - 1];
}

/* Without the slash at its end, where the root does not mind it; none of its paths is longer than the buffer. */
static const char *path_plain(const struct api_root *root, const char *path, char buffer[64])
{
        size_t len = strlen(path);

        if (!root->lenient || len < 2 || len > 63 || path[len - 1] != '/')
                return path;
        memcpy(buffer, path, len - 1);
        buffer[len - 1] = '\0';
        return buffer;
}

static void allow_add(struct str *allow, const char *method)
{
        (void)str_addf(allow, "%s%s", allow->len > 0 ? ", " : "", method);
        if (str_eq(method, "GET"))
                (void)str_adds(allow, ", HEAD");
}

static int subject_set(struct call *c, const char *rest, size_t len)
{
        c->subject = rest ? strndup(rest, len) : NULL;
        if (rest && !c->subject)
                return -ENOMEM;
        if (rest)
                slashes_decode(c->subject);
        return 0;
}

/* The first path that matches decides, so that /v1/images/load is no image. Sets the call's route and handler, or collects
 * the methods that the path has. */
static int route_find(struct call *c, const char *method, const char *path, struct str *allow)
{
        const char *matched = NULL, *rest = NULL;
        size_t len = 0;

        if (str_eq(method, "HEAD"))
                method = "GET";
        for (size_t i = 0; i < c->root->n; i++) {
                const struct route *route = &c->root->routes[i];

                if (matched ? !str_eq(matched, route->path) : !route_matches(route, path, &rest, &len))
                        continue;
                matched = route->path;
                if (!c->root->handlers[i].run)
                        continue;
                if (str_eq(route->method, method)) {
                        c->route = route;
                        c->handler = &c->root->handlers[i];
                        return subject_set(c, rest, len);
                }
                allow_add(allow, route->method);
        }
        return 0;
}

static bool params_check(struct call *c)
{
        const char *name, *value;

        for (size_t i = 0; http_query_at(c->http, i, &name, &value); i++) {
                const struct param *k = c->route->params;

                while (k && k->name && !str_eq(k->name, name))
                        k++;
                if (!k || !k->name) {
                        call_problem(c, 400, "bad_request", "query parameter '%s' is not known", name);
                        return false;
                }
        }
        return true;
}

static bool takes_json(const struct call *c)
{
        return c->route->body == BODY_JSON || c->route->body == BODY_JSON_OPTIONAL;
}

static size_t body_max(const struct call *c)
{
        return c->route->body_max > 0 ? c->route->body_max : WIRE_BODY_MAX;
}

/* Only what a page of another origin cannot send without asking is taken. */
static bool media_check(struct call *c)
{
        const char *type = http_header(c->http, "Content-Type");
        const char *coding = http_header(c->http, "Content-Encoding");

        if (coding && !str_eq(coding, "identity")) {
                call_problem(c, 415, "unsupported_media_type", "the body must not be encoded");
                return false;
        }
        if (takes_json(c) && (!type || !media_type_is(type, "application/json"))) {
                call_problem(c, 415, "unsupported_media_type", "the body must be application/json");
                return false;
        }
        if (c->route->body == BODY_STREAM && type && media_type_is_form(type)) {
                call_problem(c, 415, "unsupported_media_type",
                             "the body must be the archive itself, such as application/x-tar");
                return false;
        }
        return true;
}

static bool body_check(struct call *c)
{
        if (c->route->body == BODY_NONE)
                return true;
        if (!http_has_body(c->http) && c->route->body == BODY_JSON_OPTIONAL)
                return true;
        if (!http_has_body(c->http) && !http_header(c->http, "Content-Length")) {
                call_problem(c, 411, "length_required", "a body is needed, with its length or chunked");
                return false;
        }
        if (!media_check(c))
                return false;
        if (takes_json(c) && http_content_length(c->http) > (int64_t)body_max(c)) {
                call_problem(c, 413, "payload_too_large", "the body is longer than %zu bytes", body_max(c));
                return false;
        }
        return true;
}

static int body_add(struct call *c, const void *piece, size_t len)
{
        if (len > body_max(c) - c->body.len) {
                call_problem(c, 413, "payload_too_large", "the body is longer than %zu bytes", body_max(c));
                return -EFBIG;
        }
        if (!call_charge(c, len))
                return -ENOBUFS;
        if (str_add(&c->body, piece, len) < 0) {
                call_oom(c);
                return -ENOMEM;
        }
        return 0;
}

/* ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void call_free(struct call *c)
{
        list_remove(&c->node);
        list_remove(&c->health_node);
        loop_timer_cancel(&c->timer);
        wire_task_request_done(&c->request);
        json_faults_done(&c->faults);
        seal_wipe(&c->body); /* it may hold secrets */
        free(c->key);
        free(c->subject);
        free(c);
}

void call_hold(struct call *c)
{
        c->held++;
}

void call_release(struct call *c)
{
        if (--c->held == 0 && !c->http)
                call_free(c);
}

static struct call *call_new(struct api *a, struct http_request *r)
{
        const char *given = http_header(r, "X-Request-Id");
        struct call *c;

        c = calloc(1, sizeof(*c));
        if (!c)
                return NULL;
        c->api = a;
        c->http = r;
        c->begun_ns = time_mono_ns();
        call_address(c);
        list_init(&c->health_node);
        list_append(&a->calls, &c->node);
        if (given && request_id_valid(given))
                memcpy(c->request_id, given, strlen(given) + 1);
        else
                id_make(c->request_id);
        http_set_data(r, c);
        return c;
}

/* ── the server's events ───────────────────────────────────────────────────────────────────────────────────────────── */

static void on_begin(struct http_request *r, void *data)
{
        struct call *c = call_new(data, r);
        auto_str allow = STR_INIT;
        char plain[64];

        if (!c) {
                (void)http_reply(r, 503, NULL, "", 0);
                return;
        }
        c->root = root_find(http_path(r));
        if (route_find(c, http_method(r), path_plain(c->root, http_path(r), plain), &allow) < 0) {
                call_oom(c);
                return;
        }
        if (!call_identify(c) || (c->root->admit && !c->root->admit(c)))
                return;
        if (!c->route && allow.len > 0) {
                (void)http_add_header(r, "Allow", allow.data);
                call_problem(c, 405, "method_not_allowed", "%s is not possible here", http_method(r));
        } else if (!c->route) {
                call_problem(c, 404, "not_found", "there is no %s", http_path(r));
        } else if (role_scope(c->who.role, c->route->op) == SCOPE_NONE) {
                call_problem(c, 403, "forbidden", "role %s may not do this", key_role_names[c->who.role]);
        } else if (!str_eq(c->route->method, "GET") && !http_origin_is_ours(r)) {
                call_problem(c, 403, "forbidden", "pages of other sites may not use this");
        } else if ((c->root->lenient || params_check(c)) && body_check(c) && c->handler->begin) {
                c->handler->begin(c);
        }
}

static int on_body(struct http_request *r, const void *piece, size_t len, void *data)
{
        struct call *c = http_data(r);
        int error;

        (void)data;
        if (c->refused || c->route->body == BODY_NONE) {
                c->dropped += len;
                if (c->dropped <= API_UNWANTED_MAX)
                        return 0;
                call_unrefuse(c);
                call_problem(c, 413, "payload_too_large", "no body is expected here");
                return -EFBIG;
        }
        if (c->route->body == BODY_STREAM)
                return c->handler->body(c, piece, len);
        error = body_add(c, piece, len);
        if (error < 0)
                seal_wipe(&c->body);
        return error;
}

static void on_end(struct http_request *r, void *data)
{
        struct call *c = http_data(r);

        (void)data;
        if (!c->refused && call_is_still_allowed(c))
                c->handler->run(c);
}

static void on_gone(struct http_request *r, bool sent, void *data)
{
        struct call *c = http_data(r);

        (void)data;
        if (!c)
                return;
        if (!sent)
                log_debug("api: %s: the client has gone", c->request_id);
        call_unrefuse(c);
        if (c->metered)
                meters_leave_key(c->api->meters, c->who.key_id);
        if (c->ecs_metered)
                meters_leave_key(c->api->ecs_meters, c->who.key_id);
        c->http = NULL;
        call_hold(c);
        tasks_call_gone(c);
        logs_call_gone(c);
        long_call_gone(c);
        upload_call_gone(c);
        pull_call_gone(c);
        verify_call_gone(c);
        login_call_gone(c);
        save_call_gone(c);
        health_call_gone(c);
        call_release(c);
}

static void on_drained(struct http_request *r, void *data)
{
        struct call *c = http_data(r);

        (void)data;
        if (!c)
                return;
        logs_call_drained(c);
        long_call_drained(c);
        save_call_drained(c);
}

static void on_bad(struct http_request *r, int status, const char *why, void *data)
{
        const char *reason = status == 431   ? "header_too_large"
                             : status == 505 ? "http_version"
                             : status == 503 ? "busy"
                                             : "bad_request";
        auto_str text = STR_INIT;
        char id[ID_LEN + 1];

        (void)data;
        id_make(id);
        (void)http_add_header(r, "X-Request-Id", id);
        if (wire_problem_write(&text, status, reason, status_title(status), why, id, NULL, NULL) == 0)
                (void)http_reply(r, status, "application/problem+json", text.data, text.len);
}

/* A stream that has begun is cut; who waits for one answer gets another. */
static void stop_image_work(struct call *c)
{
        http_stream_abort(c->http);
        pull_call_gone(c);
        verify_call_gone(c);
        (void)call_is_still_allowed(c);
}

/* New requests of it are refused anyway; what it follows, waits for or runs live ends, too. A task that it runs and waits for
 * goes on: that was allowed. */
static void on_revoked(const struct key *key, void *data)
{
        struct api *a = data;
        struct call *c;

        streams_revoked(a, key->id);
        logins_revoked(a, key->owner);
        LIST_FOREACH(c, &a->calls, node) {
                if (!c->http || !str_eq(c->who.key_id, key->id))
                        continue;
                if (c->logs || c->saving)
                        http_stream_abort(c->http);
                else if (c->pulling || c->verifying)
                        stop_image_work(c);
                else if (c->task && c->route->op == OP_TASK_READ)
                        (void)call_is_still_allowed(c);
        }
}

/* ── api ───────────────────────────────────────────────────────────────────────────────────────────────────────────── */

int api_new(struct loop *loop, const struct api_config *config, struct api **ret, struct err *err)
{
        static const struct http_handler handler = {
                .begin = on_begin,
                .body = on_body,
                .end = on_end,
                .gone = on_gone,
                .bad = on_bad,
                .drained = on_drained,
        };
        struct http_config http = {
                .max_connections = config->max_connections,
                .max_per_address = config->max_per_address,
                .idle_timeout_s = config->idle_timeout_s,
                .trusted_proxies = config->trusted_proxies,
                .body_budget = config->body_budget,
        };
        struct api *a;
        int r;

        a = calloc(1, sizeof(*a));
        if (!a)
                return err_oom(err);
        a->loop = loop;
        a->config = *config;
        list_init(&a->calls);
        list_init(&a->streams);
        health_init(a);
        r = meters_new(&config->meters, &a->meters);
        if (r == 0 && config->ecs_original_limits)
                r = meters_new(&ecs_limits, &a->ecs_meters);
        r = r < 0 ? err_oom(err) : http_server_new(loop, &http, &handler, a, &a->server, err);
        if (r < 0) {
                meters_free(a->meters);
                meters_free(a->ecs_meters);
                free(a);
                return r;
        }
        if (config->keys)
                keys_on_revoke(config->keys, on_revoked, a);
        *ret = a;
        return 0;
}

int api_listen(struct api *a, const struct http_listen *listen, struct err *err)
{
        return http_server_listen_with(a->server, listen, err);
}

void api_configure(struct api *a, const struct meters_config *meters)
{
        meters_configure(a->meters, meters);
}

void api_drain(struct api *a)
{
        a->draining = true;
}

size_t api_open(const struct api *a)
{
        return http_server_open(a->server);
}

void api_free(struct api *a)
{
        struct call *c;

        if (!a)
                return;
        a->closing = true;
        if (a->config.keys)
                keys_on_revoke(a->config.keys, NULL, NULL);
        http_server_free(a->server);
        streams_done(a);
        /* What is held now belongs to the callback that holds it, which finds no client and no API any more. */
        LIST_FOREACH(c, &a->calls, node) {
                list_remove(&c->node);
                list_remove(&c->health_node);
                c->api = NULL;
        }
        health_done(a);
        meters_free(a->meters);
        meters_free(a->ecs_meters);
        free(a);
}
