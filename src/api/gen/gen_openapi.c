/* Writes the API's description (OpenAPI 3.1) out of the routes, by which requests are matched, and the schemas.
 *
 *     gen_openapi SCHEMAS >openapi.json
 *
 * In the schemas {"$const": "WIRE_MEMORY_MIN"} stands for that constant's value, so that no bound is written twice. */
#include "api/routes.h"
#include "base/str.h"
#include "state/keys.h"
#include "state/logins.h"
#include "wire/task.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
        const char *name;
        json_int_t value;
} constants[] = {
        { "WIRE_IMAGE_MAX", WIRE_IMAGE_MAX },
        { "WIRE_ARGV_MAX", WIRE_ARGV_MAX },
        { "WIRE_PATH_MAX", WIRE_PATH_MAX },
        { "WIRE_USER_MAX", WIRE_USER_MAX },
        { "WIRE_FILES_MAX", WIRE_FILES_MAX },
        { "WIRE_OUTPUTS_MAX", WIRE_OUTPUTS_MAX },
        { "WIRE_SECRETS_MAX", WIRE_SECRETS_MAX },
        { "WIRE_LABELS_MAX", WIRE_LABELS_MAX },
        { "WIRE_RETRIES_MAX", WIRE_RETRIES_MAX },
        { "WIRE_MEMORY_MIN", WIRE_MEMORY_MIN },
        { "WIRE_MEMORY_MAX", WIRE_MEMORY_MAX },
        { "WIRE_DISK_MIN", WIRE_DISK_MIN },
        { "WIRE_SHM_MIN", WIRE_SHM_MIN },
        { "WIRE_OUTPUT_MAX", WIRE_OUTPUT_MAX },
        { "WIRE_PIDS_MAX", WIRE_PIDS_MAX },
        { "KEY_NAME_MAX", KEY_NAME_MAX },
        { "LOGIN_USERNAME_MAX", LOGIN_USERNAME_MAX },
        { "LOGIN_PASSWORD_MAX", LOGIN_PASSWORD_MAX },
        { "KEY_LIST_MAX", KEY_LIST_MAX },
        { "KEY_PATTERN_MAX", KEY_PATTERN_MAX },
};

/* Headers that some routes look at, beside X-Request-Id. */
static const struct {
        enum route_id route;
        const char *name, *help;
} headers[] = {
        { ROUTE_TASK_RUN, "Idempotency-Key",
          "the same key and body join the first task instead of running a second one; kept for 24 hours" },
        { ROUTE_TASK_LOGS, "Last-Event-ID", "goes on after this event" },
        { ROUTE_TASK_STDOUT, "Range", "bytes=FIRST-LAST" },
        { ROUTE_TASK_STDERR, "Range", "bytes=FIRST-LAST" },
};

static _Noreturn void die(const char *what, const char *detail)
{
        (void)fprintf(stderr, "gen_openapi: %s: %s\n", what, detail);
        exit(1);
}

static json_t *need(json_t *v)
{
        if (!v)
                die("a value cannot be made", "out of memory, or a text that is not UTF-8");
        return v;
}

static void set(json_t *o, const char *name, json_t *value)
{
        if (json_object_set_new(o, name, need(value)) < 0)
                die("cannot set", name);
}

static void add(json_t *array, json_t *value)
{
        if (json_array_append_new(array, need(value)) < 0)
                die("cannot append", "out of memory");
}

/* ── schemas ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *constant(const char *name)
{
        for (size_t i = 0; i < sizeof(constants) / sizeof(*constants); i++) {
                if (strcmp(constants[i].name, name) == 0)
                        return need(json_integer(constants[i].value));
        }
        die("no such constant", name);
}

static void fill_constants(json_t *v)
{
        const char *name;
        json_t *member;
        size_t i;
        void *next;

        json_array_foreach(v, i, member)
                fill_constants(member);
        json_object_foreach_safe(v, next, name, member)
        {
                const char *wanted = json_string_value(json_object_get(member, "$const"));

                if (wanted)
                        set(v, name, constant(wanted));
                else
                        fill_constants(member);
        }
}

static json_t *reference(const char *schema)
{
        char text[128];

        (void)snprintf(text, sizeof(text), "#/components/schemas/%s", schema);
        return need(json_pack("{s:s}", "$ref", text));
}

/* ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *enumeration(const char *const *words)
{
        json_t *list = need(json_array());

        for (; *words; words++)
                add(list, json_string(*words));
        return need(json_pack("{s:s, s:o}", "type", "string", "enum", list));
}

static json_t *param_schema(const struct param *p)
{
        switch (p->type) {
        case PARAM_BOOL:
                return need(json_pack("{s:s}", "type", "boolean"));
        case PARAM_INTEGER:
                return need(json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", (json_int_t)p->min, "maximum",
                                      (json_int_t)p->max));
        case PARAM_ENUM:
                return enumeration(p->words);
        case PARAM_DURATION:
                return reference("Duration");
        case PARAM_TIME:
                return reference("Time");
        case PARAM_TEXT:
                break;
        }
        return need(json_pack("{s:s}", "type", "string"));
}

static json_t *parameter(const char *in, const char *name, const char *help, bool required, json_t *schema)
{
        return need(json_pack("{s:s, s:s, s:s, s:b, s:o}", "name", name, "in", in, "description", help, "required",
                              required, "schema", schema));
}

static json_t *parameters(enum route_id id)
{
        const struct route *r = &routes[id];
        json_t *list = need(json_array());
        const char *brace = strchr(r->path, '{');

        if (brace) {
                char name[32];

                brace += brace[1] == '+' ? 2 : 1;
                (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(brace, "}"), brace);
                add(list, parameter("path", name, r->path_help, true, need(json_pack("{s:s}", "type", "string"))));
        }
        for (const struct param *p = r->params; p && p->name; p++) {
                json_t *schema = param_schema(p);

                if (p->repeated)
                        schema = need(json_pack("{s:s, s:o}", "type", "array", "items", schema));
                add(list, parameter("query", p->name, p->help, p->required, schema));
        }
        for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
                if (headers[i].route == id)
                        add(list, parameter("header", headers[i].name, headers[i].help, false,
                                            need(json_pack("{s:s}", "type", "string"))));
        }
        return list;
}

/* ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *content(const char *media, json_t *schema)
{
        return need(json_pack("{s:{s:o}}", media, "schema", schema));
}

static void add_problem(json_t *responses, int status)
{
        char code[8];

        (void)snprintf(code, sizeof(code), "%d", status);
        set(responses, code, need(json_pack("{s:s}", "$ref", "#/components/responses/Problem")));
}

static json_t *responses(const struct route *r)
{
        json_t *all = need(json_object());

        for (const struct answer *a = r->answers; a->status; a++) {
                json_t *one = need(json_pack("{s:s}", "description", a->help));
                char code[8];

                if (a->schema)
                        set(one, "content", content(a->media, reference(a->schema)));
                else if (a->media)
                        set(one, "content", content(a->media, need(json_object())));
                (void)snprintf(code, sizeof(code), "%d", a->status);
                if (json_object_get(all, code)) {
                        (void)json_object_update_recursive(json_object_get(all, code), one);
                        json_decref(one);
                } else {
                        set(all, code, one);
                }
        }
        for (const int *p = r->problems; p && *p; p++)
                add_problem(all, *p);
        if (r->op == OP_PING) {
                set(all, "503", need(json_pack("{s:s}", "description", "the daemon is being stopped")));
                add_problem(all, 400);
        }
        for (const int *p = route_common_problems; r->op != OP_PING && *p; p++)
                add_problem(all, *p);
        return all;
}

static json_t *body(const struct route *r)
{
        json_t *archive = need(json_object());

        if (r->body == BODY_STREAM)
                return need(json_pack("{s:b, s:{s:O, s:o}}", "required", 1, "content", "application/x-tar", archive,
                                      "application/octet-stream", archive));
        json_decref(archive);
        return need(json_pack("{s:b, s:o}", "required", r->body == BODY_JSON, "content",
                              content("application/json", reference(r->request))));
}

static const char *tag_of(const struct route *r)
{
        static const char *const tags[] = { "tasks", "images", "keys" };

        for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++) {
                if (strncmp(r->path, "/v1/", 4) == 0 && strncmp(r->path + 4, tags[i], strlen(tags[i])) == 0)
                        return tags[i];
        }
        return "daemon";
}

static json_t *operation(enum route_id id)
{
        const struct route *r = &routes[id];
        json_t *o = need(json_pack("{s:s, s:s, s:[s], s:o, s:o}", "operationId", r->name, "summary", r->summary, "tags",
                                   tag_of(r), "parameters", parameters(id), "responses", responses(r)));

        if (r->body != BODY_NONE)
                set(o, "requestBody", body(r));
        if (r->op == OP_PING)
                set(o, "security", need(json_array()));
        return o;
}

static json_t *paths(void)
{
        json_t *all = need(json_object());

        for (int i = 0; i < ROUTES; i++) {
                char path[128], method[16];
                size_t n = 0;
                json_t *item;

                for (const char *p = routes[i].path; *p && n < sizeof(path) - 1; p++) {
                        if (*p != '+')
                                path[n++] = *p;
                }
                path[n] = '\0';
                for (n = 0; n < sizeof(method) - 1 && routes[i].method[n]; n++)
                        method[n] = (char)tolower((unsigned char)routes[i].method[n]);
                method[n] = '\0';
                item = json_object_get(all, path);
                if (!item) {
                        item = need(json_object());
                        set(all, path, item);
                }
                set(item, method, operation((enum route_id)i));
        }
        return all;
}

int main(int argc, char **argv)
{
        json_error_t error;
        json_t *document, *components;

        if (argc != 2)
                die("usage", "gen_openapi SCHEMAS");
        document = json_load_file(argv[1], JSON_REJECT_DUPLICATES, &error);
        if (!document)
                die(argv[1], error.text);
        components = json_object_get(document, "components");
        fill_constants(components);
        set(json_object_get(document, "info"), "version", need(json_string(MAYFLY_VERSION)));
        set(document, "paths", paths());
        if (json_dumpf(document, stdout, JSON_INDENT(1) | JSON_ENSURE_ASCII) < 0)
                die("cannot write", argv[1]);
        json_decref(document);
        return 0;
}
