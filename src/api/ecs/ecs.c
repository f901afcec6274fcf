#include "api/ecs/ecs.h"

#include "api/text.h"
#include "base/str.h"
#include "base/time.h"
#include "http/client.h"
#include "json/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ECS_BODY_MAX (5 * 1024)
#define ECS_TIMEOUT_NS (10 * 60 * (int64_t)NS_PER_S)

/* ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Version 1.0: no tag in the name, which may begin with a registry's host and port. */
static bool has_tag(const char *image)
{
        const char *slash = strrchr(image, '/');

        return strchr(slash ? slash : image, ':') != NULL;
}

/* Version 1.1: (.+/)?.+:.+, all of it, on one line. */
static bool is_tagged(const char *image)
{
        const char *colon = *image ? strchr(image + 1, ':') : NULL;

        return colon && colon[1] && !strchr(image, '\n');
}

static bool read_text(struct json_obj *o, const char *name, bool required, const char **ret)
{
        auto_str pointer = STR_INIT;
        bool there = json_object_get(o->value, name) != NULL;

        *ret = NULL;
        if (json_get_str(o, name, ret, NULL) && **ret)
                return true;
        json_obj_pointer(o, name, &pointer);
        if (!there && required)
                json_faults_add(o->faults, pointer.data ? pointer.data : "", "is required");
        else if (there && (!*ret || !**ret))
                json_faults_add(o->faults, pointer.data ? pointer.data : "", "must be text, and not empty");
        return false;
}

static void read_image_v10(struct json_obj *o, struct wire_task_request *ret)
{
        const char *image, *tag;
        bool both = read_text(o, "docker_image", true, &image);

        if (image && has_tag(image))
                json_faults_add(o->faults, "/docker_image", "holds a tag, which belongs into 'tag'");
        both &= read_text(o, "tag", true, &tag);
        if (both)
                ret->image = str_printf("%s:%s", image, tag);
}

static void read_image_v11(struct json_obj *o, struct wire_task_request *ret)
{
        const char *image;

        if (!read_text(o, "docker_image", true, &image))
                return;
        if (is_tagged(image))
                ret->image = strdup(image);
        else
                json_faults_add(o->faults, "/docker_image", "must be NAME:TAG");
}

static void read_creds(struct json_obj *o, struct wire_task_request *ret)
{
        const char *email, *username, *password;
        struct json_obj creds;
        json_t *value;
        bool whole;

        if (!json_get_any(o, "creds", &value) || json_obj_init(&creds, value, "/creds", o->faults) < 0)
                return;
        whole = read_text(&creds, "email", true, &email);
        whole &= read_text(&creds, "username", true, &username);
        whole &= read_text(&creds, "password", true, &password);
        json_obj_done(&creds);
        if (!whole)
                return;
        ret->registry_username = strdup(username);
        ret->registry_password = strdup(password);
}

static void read_cmd(struct json_obj *o, struct wire_task_request *ret)
{
        bool there = json_object_get(o->value, "cmd") != NULL;

        if (json_get_strv(o, "cmd", WIRE_ARGV_MAX, &ret->cmd) && ret->cmd[0])
                return;
        if (!there || (ret->cmd && !ret->cmd[0]))
                json_faults_add(o->faults, "/cmd", "must hold at least one item");
}

static bool is_v10(const struct call *c)
{
        return c->root == &ecs_roots[0];
}

static void read_task(struct call *c, json_t *body)
{
        struct wire_task_request *q = &c->request;
        struct json_obj o;
        json_t *ignored;
        const char *name;

        *q = (struct wire_task_request){ 0 };
        wire_limits_default(&q->limits);
        q->limits.timeout_ns = ECS_TIMEOUT_NS;
        q->limits.output = WIRE_OUTPUT_MAX;
        if (json_obj_init(&o, body, "", &c->faults) < 0)
                return;
        if (is_v10(c))
                read_image_v10(&o, q);
        else
                read_image_v11(&o, q);
        read_cmd(&o, q);
        read_creds(&o, q);
        if (is_v10(c)) {
                json_object_foreach(body, name, ignored)
                        (void)json_get_any(&o, name, &ignored);
        }
        json_obj_done(&o);
        if (c->faults.len == 0)
                request_check(c->api, q, &c->faults);
}

/* ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int put_stream(struct str *out, const char *name, const struct wire_task *t, int stream)
{
        int r = str_addf(out, ",\"%s\":\"", name);

        if (r == 0)
                r = base64_encode(out, t->out[stream], t->out_len[stream]);
        return r == 0 ? str_addc(out, '"') : r;
}

static void answer_long(struct call *c, const struct wire_task *t)
{
        struct wire_text text = {
                .data = { t->out[0], t->out[1] },
                .len = { t->out_len[0], t->out_len[1] },
        };

        if (str_addf(&text.parts[0], "{\"exitCode\":%d,\"stdout\":\"", t->exit_code) < 0 ||
            str_adds(&text.parts[1], "\",\"stderr\":\"") < 0 || str_adds(&text.parts[2], "\"}") < 0) {
                wire_text_done(&text);
                call_oom(c);
        } else {
                answer_long_text(c, 201, &text, c->ended_task);
        }
}

static void on_ended(struct call *c, const struct wire_task *t)
{
        auto_str text = STR_INIT;

        if (t->reason == WIRE_REASON_IMAGE_NOT_FOUND || t->reason == WIRE_REASON_IMAGE_UNAUTHORIZED) {
                call_problem(c, 404, "image_not_found",
                             "the image does not exist, or the credentials are not for it: %s",
                             t->detail ? t->detail : "");
        } else if (t->exit_code < 0) {
                int status = outcome_status(t->status, t->reason);
                unsigned retry_s = outcome_retry_after(t->reason, t->retry_after_s);

                if (retry_s > 0)
                        call_retry_after(c, retry_s);

                call_problem(c, status >= 500 ? status : 500, wire_reason_names[t->reason], "%s",
                             t->detail ? t->detail : "the task has no result");
        } else if (c->ended_task && output_is_long(t->out_len[0], t->out_len[1])) {
                answer_long(c, t);
        } else if (str_addf(&text, "{\"exitCode\":%d", t->exit_code) < 0 || put_stream(&text, "stdout", t, 0) < 0 ||
                   put_stream(&text, "stderr", t, 1) < 0 || str_addc(&text, '}') < 0) {
                call_oom(c);
        } else {
                call_answer(c, 201, &text);
        }
}

static void ecs_task_run(struct call *c)
{
        struct err err = ERR_INIT;
        auto_json body = NULL;
        int r;

        r = json_read(c->body.data ? c->body.data : "", c->body.len, &body, &err);
        if (r == -ENOMEM) {
                call_oom(c);
                return;
        }
        if (r < 0)
                json_faults_add(&c->faults, "", "%s", err.text);
        else
                read_task(c, body);
        if (c->faults.len > 0)
                call_problem_of(c, 400, "bad_request", "the body is not a task", NULL, &c->faults);
        else if (!c->request.image)
                call_oom(c);
        else
                call_run_task(c, on_ended);
}

/* ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* {"links":{"self":{"href":…}}}, the URL as it was asked for. */
static json_t *with_links(const struct call *c)
{
        const char *name, *value, *host = http_header(c->http, "Host");
        auto_str href = STR_INIT;
        int r;

        r = str_addf(&href, "%s://%s%s", http_is_tls(c->http) ? "https" : "http", host ? host : "localhost",
                     http_path(c->http));
        for (size_t i = 0; r == 0 && http_query_at(c->http, i, &name, &value); i++) {
                r = str_addc(&href, i == 0 ? '?' : '&');
                if (r == 0)
                        r = http_encode(&href, name);
                if (r == 0)
                        r = str_addc(&href, '=');
                if (r == 0)
                        r = http_encode(&href, value);
        }
        return r == 0 ? json_pack("{s:{s:{s:s}}}", "links", "self", "href", href.data) : NULL;
}

static void answer_json(struct call *c, int status, const json_t *value)
{
        auto_str text = STR_INIT;

        if (!value || json_write(value, &text) < 0)
                call_oom(c);
        else
                call_answer(c, status, &text);
}

static void ecs_noop_run(struct call *c)
{
        auto_json o = json_object();

        answer_json(c, 200, o);
}

static void ecs_version_run(struct call *c)
{
        auto_json o = with_links(c);

        if (o && json_object_set_new(o, "version", json_string(MAYFLY_VERSION)) < 0)
                call_oom(c);
        else
                answer_json(c, 200, o);
}

static void on_health(struct call *c, const struct health_report *report)
{
        bool green = report->ok && !c->api->draining;
        auto_json o = with_links(c);

        if (!o || json_object_set_new(o, "status", json_string(green ? "green" : "red")) < 0 ||
            json_object_set_new(o, "details", health_json(c, report)) < 0)
                call_oom(c);
        else
                answer_json(c, green ? 200 : 503, o);
}

static void ecs_health_run(struct call *c)
{
        const char *quick = call_query(c, "quick");

        if (quick && !str_eq(quick, "true") && !str_eq(quick, "false"))
                call_problem(c, 400, "bad_request", "quick: not true or false");
        else
                health_check(c, NULL, quick && str_eq(quick, "false"), on_health);
}

/* ── errors, limits ──────────────────────────────────────────────────────────────────────────────────────────────── */

static void problem(struct call *c, int status, const char *reason, const char *detail, const char *task_id,
                    const struct json_faults *faults)
{
        auto_json o = json_pack("{s:s, s:s, s:s, s:s*}", "message", detail ? detail : status_title(status), "reason",
                                reason, "request_id", c->request_id, "task_id", task_id);
        auto_json list = json_array();

        for (size_t i = 0; faults && i < faults->len; i++)
                (void)json_array_append_new(list, json_pack("{s:s, s:s}", "pointer", faults->items[i].pointer, "detail",
                                                            faults->items[i].detail));
        if (o && faults)
                (void)json_object_set(o, "errors", list);
        answer_json(c, status, o);
}

const struct meters_config ecs_limits = {
        .key_rate = 5,
        .key_burst = 5,
        .key_connections = 25,
        .address_rate = 10,
        .address_burst = 10,
};

static unsigned open_of_address(const struct call *c)
{
        const struct call *other;
        unsigned n = 0;

        LIST_FOREACH(other, &c->api->calls, node)
                n += other->http && other->root == c->root && str_eq(other->address, c->address);
        return n;
}

static bool admit(struct call *c)
{
        const struct key *key = call_key(c);

        if (!c->api->ecs_meters || !key)
                return true;
        if (open_of_address(c) <= ECS_ADDRESS_CONNECTIONS &&
            meters_take_address(c->api->ecs_meters, c->address, c->begun_ns) == 0 &&
            meters_enter_key(c->api->ecs_meters, key, c->begun_ns) == 0) {
                c->ecs_metered = true;
                return true;
        }
        call_retry_after(c, 1);
        call_problem(c, 503, "too_many_requests", "more than the service's limits allow");
        return false;
}

/* ── routes ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define ROUTES_OF(version)                                                                                             \
        {                                                                                                              \
                { "POST", version "/tasks", OP_TASK_RUN, .body = BODY_JSON, .body_max = ECS_BODY_MAX },                \
                        { "GET", version "/_noop", OP_INFO, .body = BODY_NONE },                                       \
                        { "GET", version "/_health", OP_HEALTH, .body = BODY_NONE },                                   \
                        { "GET", version "/_version", OP_INFO, .body = BODY_NONE },                                    \
        }

static const struct route v10[] = ROUTES_OF("/v1.0");
static const struct route v11[] = ROUTES_OF("/v1.1");
static const struct route_handler handlers[] = {
        { .run = ecs_task_run },
        { .run = ecs_noop_run },
        { .run = ecs_health_run },
        { .run = ecs_version_run },
};

const struct api_root ecs_roots[2] = {
        {
                .prefix = "/v1.0/",
                .routes = v10,
                .handlers = handlers,
                .n = ARRAY_LEN(v10),
                .lenient = true,
                .problem = problem,
                .admit = admit,
        },
        {
                .prefix = "/v1.1/",
                .routes = v11,
                .handlers = handlers,
                .n = ARRAY_LEN(v11),
                .lenient = true,
                .problem = problem,
                .admit = admit,
        },
};
