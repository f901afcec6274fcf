/* The server's events, the table of routes, and the checks that come before them. */

#include "api/api.h"

#include "api/internal.h"
#include "api/text.h"
#include "base/id.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALLOW_MAX 64

static const struct route routes[] = {
        { "GET", "/healthz", BODY_NONE, NULL, NULL, healthz_run },
        { "GET", "/v1/version", BODY_NONE, NULL, NULL, version_run },
        { "GET", "/v1/health", BODY_NONE, health_params, NULL, health_run },
        { "POST", "/v1/tasks", BODY_JSON, NULL, NULL, tasks_create_run },
        { "GET", "/v1/tasks", BODY_NONE, tasks_list_params, NULL, tasks_list_run },
        { "GET", "/v1/tasks/*", BODY_NONE, NULL, NULL, tasks_get_run },
        { "GET", "/v1/images", BODY_NONE, NULL, NULL, images_list_run },
        { "POST", "/v1/images/import", BODY_STREAM, images_import_params, images_import_begin, images_body_run },
        { "POST", "/v1/images/load", BODY_STREAM, NULL, images_load_begin, images_body_run },
        { "GET", "/v1/images/*", BODY_NONE, NULL, NULL, images_get_run },
        { "DELETE", "/v1/images/*", BODY_NONE, NULL, NULL, images_delete_run },
};

/* ── routing ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool route_matches(const struct route *route, const char *path, const char **rest)
{
        size_t len = strlen(route->path);

        if (route->path[len - 1] != '*')
                return str_eq(route->path, path);
        if (strncmp(route->path, path, len - 1) != 0 || path[len - 1] == '\0')
                return false;
        *rest = path + len - 1;
        return true;
}

static void allow_add(struct str *allow, const char *method)
{
        (void)str_addf(allow, "%s%s", allow->len > 0 ? ", " : "", method);
        if (str_eq(method, "GET"))
                (void)str_adds(allow, ", HEAD");
}

/* The first path that matches decides, so that /v1/images/load is no image. NULL with the methods that it has. */
static const struct route *route_find(const char *method, const char *path, const char **rest, struct str *allow)
{
        const char *matched = NULL;

        if (str_eq(method, "HEAD"))
                method = "GET";
        for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
                if (matched ? !str_eq(matched, routes[i].path) : !route_matches(&routes[i], path, rest))
                        continue;
                matched = routes[i].path;
                if (str_eq(routes[i].method, method))
                        return &routes[i];
                allow_add(allow, routes[i].method);
        }
        return NULL;
}

static bool params_check(struct call *c)
{
        const char *const *known = c->route->params;
        const char *name, *value;

        for (size_t i = 0; http_query_at(c->http, i, &name, &value); i++) {
                const char *const *k = known;

                while (k && *k && !str_eq(*k, name))
                        k++;
                if (!k || !*k) {
                        call_problem(c, 400, "bad_request", "query parameter '%s' is not known", name);
                        return false;
                }
        }
        return true;
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
        if (c->route->body == BODY_JSON && (!type || !media_type_is(type, "application/json"))) {
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
        int64_t length = http_content_length(c->http);

        if (c->route->body == BODY_NONE)
                return true;
        if (!media_check(c))
                return false;
        if (c->route->body == BODY_JSON && length > WIRE_BODY_MAX) {
                call_problem(c, 413, "payload_too_large", "the body is longer than %d bytes", WIRE_BODY_MAX);
                return false;
        }
        if (c->route->body == BODY_JSON && length > 0 && str_reserve(&c->body, (size_t)length) < 0) {
                call_oom(c);
                return false;
        }
        return true;
}

/* ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void call_free(struct call *c)
{
        list_remove(&c->node);
        list_remove(&c->health_node);
        image_sink_discard(c->sink);
        wire_task_request_done(&c->request);
        str_done(&c->body);
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
        uid_t uid;

        c = calloc(1, sizeof(*c));
        if (!c)
                return NULL;
        c->api = a;
        c->http = r;
        list_init(&c->health_node);
        list_append(&a->calls, &c->node);
        if (given && request_id_valid(given))
                memcpy(c->request_id, given, strlen(given) + 1);
        else
                id_make(c->request_id);
        if (http_peer_uid(r, &uid))
                (void)snprintf(c->owner, sizeof(c->owner), "uid:%u", (unsigned)uid);
        http_set_data(r, c);
        return c;
}

/* ── the server's events ───────────────────────────────────────────────────────────────────────────────────────────── */

static void on_begin(struct http_request *r, void *data)
{
        struct call *c = call_new(data, r);
        auto_str allow = STR_INIT;

        if (!c) {
                (void)http_reply(r, 503, NULL, "", 0);
                return;
        }
        /* Who has no credentials may know that the daemon lives, and nothing else. */
        if (!*c->owner && !str_eq(http_path(r), "/healthz")) {
                call_problem(c, 401, "unauthorized", "credentials are needed");
                return;
        }
        c->route = route_find(http_method(r), http_path(r), &c->rest, &allow);
        if (!c->route && allow.len > 0) {
                (void)http_add_header(r, "Allow", allow.data);
                call_problem(c, 405, "method_not_allowed", "%s is not possible here", http_method(r));
        } else if (!c->route) {
                call_problem(c, 404, "not_found", "there is no %s", http_path(r));
        } else if (params_check(c) && body_check(c) && c->route->begin) {
                c->route->begin(c);
        }
}

static int on_body(struct http_request *r, const void *piece, size_t len, void *data)
{
        struct call *c = http_data(r);

        (void)data;
        if (c->route->body == BODY_NONE) {
                c->dropped += len;
                if (c->dropped <= API_UNWANTED_MAX)
                        return 0;
                call_problem(c, 413, "payload_too_large", "no body is expected here");
                return -EFBIG;
        }
        if (c->route->body == BODY_STREAM)
                return images_body(c, piece, len);
        if (len > WIRE_BODY_MAX - c->body.len) {
                str_done(&c->body);
                call_problem(c, 413, "payload_too_large", "the body is longer than %d bytes", WIRE_BODY_MAX);
                return -EFBIG;
        }
        if (str_add(&c->body, piece, len) < 0) {
                str_done(&c->body);
                call_oom(c);
                return -ENOMEM;
        }
        return 0;
}

static void on_end(struct http_request *r, void *data)
{
        struct call *c = http_data(r);

        (void)data;
        c->route->run(c);
}

static void on_gone(struct http_request *r, bool sent, void *data)
{
        struct call *c = http_data(r);

        (void)data;
        if (!c)
                return;
        if (!sent)
                log_debug("api: %s: the client has gone", c->request_id);
        c->http = NULL;
        call_hold(c);
        tasks_call_gone(c);
        health_call_gone(c);
        call_release(c);
}

static void on_bad(struct http_request *r, int status, const char *why, void *data)
{
        const char *reason = status == 431 ? "header_too_large" : status == 505 ? "http_version" : "bad_request";
        auto_str text = STR_INIT;
        char id[ID_LEN + 1];

        (void)data;
        id_make(id);
        (void)http_add_header(r, "X-Request-Id", id);
        if (wire_problem_write(&text, status, reason, "Bad request", why, id, NULL, NULL) == 0)
                (void)http_reply(r, status, "application/problem+json", text.data, text.len);
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
        };
        struct http_config http = {
                .max_connections = config->max_connections,
                .idle_timeout_s = config->idle_timeout_s,
        };
        struct api *a;
        int r;

        a = calloc(1, sizeof(*a));
        if (!a)
                return err_oom(err);
        a->loop = loop;
        a->config = *config;
        list_init(&a->calls);
        health_init(&a->health);
        r = http_server_new(loop, &http, &handler, a, &a->server, err);
        if (r < 0) {
                free(a);
                return r;
        }
        *ret = a;
        return 0;
}

int api_listen(struct api *a, int fd, struct err *err)
{
        return http_server_listen(a->server, fd, err);
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
        http_server_free(a->server);
        /* What is held now belongs to the callback that holds it. */
        LIST_FOREACH(c, &a->calls, node) {
                list_remove(&c->node);
                list_remove(&c->health_node);
        }
        health_done(a);
        free(a);
}
