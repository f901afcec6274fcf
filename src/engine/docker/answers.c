/* What Docker's answers in JSON say. Whatever comes there, nothing but what is read here is gone by, and in bounds. */

#include "engine/docker/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_IMAGE_TEXT_MAX 4096 /* of a user, and of a directory: PATH_MAX */

static int object_read(const char *text, size_t len, json_t **ret)
{
        auto_json o = NULL;

        if (json_read(text ? text : "", len, &o, NULL) < 0 || !json_is_object(o))
                return -EBADMSG;
        *ret = TAKE_PTR(o);
        return 0;
}

const char *docker_text(const json_t *o, const char *name)
{
        const char *s = json_string_value(json_object_get(o, name));

        return s ? s : "";
}

/* ── containers ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct docker_run_state state_of(const json_t *o)
{
        return (struct docker_run_state){ .running = json_is_true(json_object_get(o, "Running")),
                                          .oom = json_is_true(json_object_get(o, "OOMKilled")),
                                          .code = (int)(json_integer_value(json_object_get(o, "ExitCode")) & 0xff) };
}

int docker_inspect_read(const char *text, size_t len, struct docker_run_state *ret)
{
        const json_t *state;
        auto_json o = NULL;

        if (object_read(text, len, &o) < 0)
                return -EBADMSG;
        state = json_object_get(o, "State");
        if (!json_is_integer(json_object_get(state, "ExitCode")))
                return -EBADMSG;
        *ret = state_of(state);
        return 0;
}

/* Its exit code is null as long as there is none. */
int docker_exec_read(const char *text, size_t len, struct docker_run_state *ret)
{
        auto_json o = NULL;

        if (object_read(text, len, &o) < 0)
                return -EBADMSG;
        *ret = state_of(o);
        ret->running |= !json_is_integer(json_object_get(o, "ExitCode"));
        return 0;
}

int docker_wait_read(const char *text, size_t len, int *ret)
{
        const json_t *code;
        auto_json o = NULL;

        if (object_read(text, len, &o) < 0)
                return -EBADMSG;
        code = json_object_get(o, "StatusCode");
        if (!json_is_integer(code) || json_integer_value(code) < 0)
                return -EBADMSG;
        *ret = (int)(json_integer_value(code) & 0xff);
        return 0;
}

int docker_exec_id_read(const char *text, size_t len, char ret[DOCKER_EXEC_ID_MAX + 1])
{
        auto_json o = NULL;
        const char *id;

        if (object_read(text, len, &o) < 0)
                return -EBADMSG;
        id = docker_text(o, "Id");
        if (!id[0] || strlen(id) > DOCKER_EXEC_ID_MAX || !hex_is_lower(id, strlen(id)))
                return -EBADMSG;
        (void)snprintf(ret, DOCKER_EXEC_ID_MAX + 1, "%s", id);
        return 0;
}

static uint64_t count(const json_t *o, const char *name)
{
        int64_t n = json_integer_value(json_object_get(o, name));

        return n < 0 ? 0 : (uint64_t)n;
}

int docker_stats_read(const char *text, size_t len, struct engine_stats *ret)
{
        auto_json o = NULL;

        if (object_read(text, len, &o) < 0)
                return -EBADMSG;
        ret->memory_now = count(json_object_get(o, "memory_stats"), "usage");
        ret->cpu_ns = count(json_object_get(json_object_get(o, "cpu_stats"), "cpu_usage"), "total_usage");
        return 0;
}

/* ── all containers ──────────────────────────────────────────────────────────────────────────────────────────────── */

static const char *name_of(const json_t *item)
{
        const char *name = json_string_value(json_array_get(json_object_get(item, "Names"), 0));

        return name && name[0] == '/' ? name + 1 : name;
}

static bool name_is_ours(const struct docker *d, const char *name)
{
        size_t len = strlen(d->name);

        return name && strncmp(name, d->name, len) == 0 && name[len] == '-' && strlen(name) < DOCKER_NAME_MAX &&
               !name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-")];
}

/* An older daemon made it ahead, and it never ran: it is no task's. */
static bool was_ahead(const json_t *item)
{
        return !json_object_get(json_object_get(item, "Labels"), DOCKER_LABEL_TASK) &&
               str_eq(docker_text(item, "State"), "created");
}

static int listed_add(const struct docker *d, json_t *item, struct docker_listed *l)
{
        const char *node = json_string_value(json_object_get(json_object_get(item, "Labels"), DOCKER_LABEL_NODE));
        const char *name = name_of(item);

        if (node && !str_eq(node, d->node)) {
                l->others++;
                if (docker_node_valid(node))
                        l->node = node;
                return 0;
        }
        if (!name_is_ours(d, name)) {
                l->others += !node;
                return 0;
        }
        return map_set(node || was_ahead(item) ? l->ours : l->unsaid, name, item);
}

int docker_listed_read(const struct docker *d, const char *text, size_t len, struct docker_listed *ret)
{
        struct docker_listed l = { .others = 0 };
        int r = json_read(text ? text : "", len, &l.all, NULL) < 0 || !json_is_array(l.all) ? -EBADMSG : 0;

        if (r == 0) {
                l.ours = map_new();
                l.unsaid = map_new();
                r = l.ours && l.unsaid ? 0 : -ENOMEM;
        }
        for (size_t i = 0; r == 0 && i < json_array_size(l.all); i++)
                r = listed_add(d, json_array_get(l.all, i), &l);
        if (r < 0) {
                docker_listed_done(&l);
                return r;
        }
        *ret = l;
        return 0;
}

void docker_listed_done(struct docker_listed *l)
{
        map_free(l->ours);
        map_free(l->unsaid);
        json_cleanup(&l->all);
        *l = (struct docker_listed){ .others = 0 };
}

bool docker_listed_ran(const struct map *containers, const char *name)
{
        const json_t *item = map_find(containers, name);

        return item && !str_eq(docker_text(item, "State"), "created");
}

/* ── events, images ──────────────────────────────────────────────────────────────────────────────────────────────── */

const char *docker_event_oom(const struct docker *d, const json_t *event)
{
        const json_t *attributes = json_object_get(json_object_get(event, "Actor"), "Attributes");

        if (!str_eq(docker_text(event, "Action"), "oom") ||
            !str_eq(docker_text(attributes, DOCKER_LABEL_INSTANCE), d->name))
                return NULL;
        return json_string_value(json_object_get(attributes, "name"));
}

int docker_image_read(const char *text, size_t len, struct docker_image **ret)
{
        struct docker_image *image;
        const json_t *config;
        auto_json o = NULL;
        const char *id;

        if (object_read(text, len, &o) < 0)
                return -EBADMSG;
        id = docker_text(o, "Id");
        config = json_object_get(o, "Config");
        if (!image_digest_valid(id) || strlen(id) >= sizeof(image->digest) ||
            strlen(docker_text(config, "User")) > ANSWER_IMAGE_TEXT_MAX ||
            strlen(docker_text(config, "WorkingDir")) > ANSWER_IMAGE_TEXT_MAX)
                return -EBADMSG;
        image = calloc(1, sizeof(*image));
        if (!image)
                return -ENOMEM;
        list_init(&image->node);
        (void)snprintf(image->digest, sizeof(image->digest), "%s", id);
        image->user = strdup(docker_text(config, "User"));
        image->workdir = strdup(docker_text(config, "WorkingDir"));
        if (!image->user || !image->workdir) {
                docker_image_free(image);
                return -ENOMEM;
        }
        *ret = image;
        return 0;
}
