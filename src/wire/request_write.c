/* POST /v1/tasks: writing the body. */

#include "base/time.h"
#include "wire/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static json_t *strv_json(char *const *v)
{
        json_t *array = json_array();

        for (; array && *v; v++)
                if (json_array_append_new(array, json_string(*v)) < 0) {
                        json_decref(array);
                        return NULL;
                }
        return array;
}

static json_t *env_json(char *const *env)
{
        json_t *object = json_object();

        for (; object && *env; env++) {
                const char *value = strchr(*env, '=');
                auto_free char *name = value ? strndup(*env, (size_t)(value - *env)) : NULL;

                if (!name || json_object_set_new(object, name, json_string(value + 1)) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}

/* Bytes as text where they are UTF-8, else as base64 with the member that says so. */
static int set_content(json_t *object, const char *name, const char *encoding_name, const void *data, size_t len)
{
        auto_str text = STR_INIT;

        if (utf8_valid(data, len))
                return json_object_set_new(object, name, json_stringn(data, len));
        if (base64_encode(&text, data, len) < 0)
                return -1;
        if (json_object_set_new(object, name, json_stringn(text.data, text.len)) < 0)
                return -1;
        return json_object_set_new(object, encoding_name, json_string("base64"));
}

static int set_file(json_t *object, const struct wire_file *f)
{
        auto_str text = STR_INIT;

        if (!f->tar)
                return set_content(object, "content", "encoding", f->content, f->len);
        if (base64_encode(&text, f->content, f->len) < 0)
                return -1;
        if (json_object_set_new(object, "content", json_stringn(text.data ? text.data : "", text.len)) < 0)
                return -1;
        return json_object_set_new(object, "encoding", json_string("tar+base64"));
}

static json_t *files_json(const struct wire_file *files, size_t n)
{
        auto_json array = json_array();

        for (size_t i = 0; array && i < n; i++) {
                auto_free char *mode = str_printf("%04o", files[i].mode);
                auto_json file = json_object();

                if (!mode || !file || json_object_set_new(file, "path", json_string(files[i].path)) < 0 ||
                    (!files[i].tar && json_object_set_new(file, "mode", json_string(mode)) < 0) ||
                    set_file(file, &files[i]) < 0 || json_array_append(array, file) < 0)
                        return NULL;
        }
        return TAKE_PTR(array);
}

/* Whole seconds as a number, all else as Go's text: a double would not hold every nanosecond. */
static json_t *duration_json(int64_t ns)
{
        auto_free char *text = NULL;

        if (ns % (int64_t)NS_PER_S == 0)
                return json_integer(ns / (int64_t)NS_PER_S);
        text = str_printf("%" PRId64 "ns", ns);
        return text ? json_string(text) : NULL;
}

static json_t *limits_json(const struct wire_limits *l)
{
        auto_json o = json_object();
        struct wire_limits d;
        bool bad = !o;

        wire_limits_default(&d);
        if (l->timeout_ns != d.timeout_ns)
                bad |= json_object_set_new(o, "timeout", duration_json(l->timeout_ns)) < 0;
        if (l->queue_timeout_ns != d.queue_timeout_ns)
                bad |= json_object_set_new(o, "queue_timeout", duration_json(l->queue_timeout_ns)) < 0;
        if (l->grace_ns != d.grace_ns)
                bad |= json_object_set_new(o, "grace", duration_json(l->grace_ns)) < 0;
        if (l->cpu_time_ns != d.cpu_time_ns)
                bad |= json_object_set_new(o, "cpu_time", duration_json(l->cpu_time_ns)) < 0;
        if (l->memory != d.memory)
                bad |= json_object_set_new(o, "memory", json_integer(l->memory)) < 0;
        if (l->disk != d.disk)
                bad |= json_object_set_new(o, "disk", json_integer(l->disk)) < 0;
        if (l->shm != d.shm)
                bad |= json_object_set_new(o, "shm", json_integer(l->shm)) < 0;
        if (l->output != d.output)
                bad |= json_object_set_new(o, "output", json_integer(l->output)) < 0;
        if (l->pids != d.pids)
                bad |= json_object_set_new(o, "pids", json_integer(l->pids)) < 0;
        if (l->cpu_milli != d.cpu_milli)
                bad |= json_object_set_new(o, "cpus", json_real((double)l->cpu_milli / 1000)) < 0;
        return bad ? NULL : TAKE_PTR(o);
}

static bool set_texts(json_t *o, const struct wire_task_request *r)
{
        bool bad = false;

        if (r->image)
                bad |= json_object_set_new(o, "image", json_string(r->image)) < 0;
        if (r->workdir)
                bad |= json_object_set_new(o, "workdir", json_string(r->workdir)) < 0;
        if (r->user)
                bad |= json_object_set_new(o, "user", json_string(r->user)) < 0;
        if (r->cmd)
                bad |= json_object_set_new(o, "cmd", strv_json(r->cmd)) < 0;
        if (r->entrypoint)
                bad |= json_object_set_new(o, "entrypoint", strv_json(r->entrypoint)) < 0;
        if (r->env)
                bad |= json_object_set_new(o, "env", env_json(r->env)) < 0;
        if (r->outputs)
                bad |= json_object_set_new(o, "outputs", strv_json(r->outputs)) < 0;
        if (r->labels)
                bad |= json_object_set_new(o, "labels", env_json(r->labels)) < 0;
        if (r->engine)
                bad |= json_object_set_new(o, "engine", json_string(r->engine)) < 0;
        return !bad;
}

static bool set_secrets(json_t *o, const struct wire_task_request *r)
{
        auto_json secrets = json_object();
        auto_json auth = json_object();
        bool bad = !secrets || !auth;

        for (size_t i = 0; !bad && i < r->n_secrets; i++)
                bad |= json_object_set_new(secrets, r->secrets[i].name,
                                           json_stringn(r->secrets[i].value, r->secrets[i].len)) < 0;
        if (!bad && r->n_secrets > 0)
                bad |= json_object_set(o, "secrets", secrets) < 0;
        if (!bad && r->registry_username && r->registry_password) {
                bad |= json_object_set_new(auth, "username", json_string(r->registry_username)) < 0;
                bad |= json_object_set_new(auth, "password", json_string(r->registry_password)) < 0;
                bad |= json_object_set(o, "registry_auth", auth) < 0;
        }
        return !bad;
}

static bool set_words(json_t *o, const struct wire_task_request *r)
{
        bool bad = false;

        if (r->kill_on_output_limit)
                bad |= json_object_set_new(o, "on_output_limit", json_string("kill")) < 0;
        if (r->network != WIRE_NET_DEFAULT)
                bad |= json_object_set_new(o, "network", json_string(wire_network_words[r->network - WIRE_NET_NONE])) <
                       0;
        if (r->init)
                bad |= json_object_set_new(o, "init", json_true()) < 0;
        if (r->pull != WIRE_PULL_MISSING)
                bad |= json_object_set_new(o, "pull", json_string(wire_pull_words[r->pull])) < 0;
        if (r->retries > 0)
                bad |= json_object_set_new(o, "retries", json_integer(r->retries)) < 0;
        if (r->no_wait)
                bad |= json_object_set_new(o, "wait", json_false()) < 0;
        else if (r->wait_ns > 0)
                bad |= json_object_set_new(o, "wait", duration_json(r->wait_ns)) < 0;
        if (r->detach)
                bad |= json_object_set_new(o, "on_disconnect", json_string("detach")) < 0;
        if (r->encoding != WIRE_ENC_AUTO)
                bad |= json_object_set_new(o, "encoding", json_string(wire_encoding_words[r->encoding])) < 0;
        return !bad;
}

static bool text_valid(const char *s)
{
        return !s || utf8_valid(s, strlen(s));
}

static bool texts_valid(const struct wire_task_request *r)
{
        char *const *const arrays[] = { r->cmd, r->entrypoint, r->env, r->outputs, r->labels };

        for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
                for (char *const *s = arrays[i]; s && *s; s++)
                        if (!text_valid(*s))
                                return false;
        for (size_t i = 0; i < r->n_files; i++)
                if (!text_valid(r->files[i].path))
                        return false;
        for (size_t i = 0; i < r->n_secrets; i++)
                if (!text_valid(r->secrets[i].name) || !utf8_valid(r->secrets[i].value, r->secrets[i].len))
                        return false;
        return text_valid(r->image) && text_valid(r->workdir) && text_valid(r->user) && text_valid(r->engine) &&
               text_valid(r->registry_username) && text_valid(r->registry_password);
}

int wire_task_request_write(const struct wire_task_request *r, struct str *out)
{
        auto_json o = json_object();
        auto_json limits = limits_json(&r->limits);

        if (!texts_valid(r))
                return -EILSEQ;
        if (!o || !limits || !set_texts(o, r) || !set_secrets(o, r) || !set_words(o, r))
                return -ENOMEM;
        if (r->stdin_data && set_content(o, "stdin", "stdin_encoding", r->stdin_data, r->stdin_len) < 0)
                return -ENOMEM;
        if (r->n_files > 0 && json_object_set_new(o, "files", files_json(r->files, r->n_files)) < 0)
                return -ENOMEM;
        if (json_object_size(limits) > 0 && json_object_set(o, "limits", limits) < 0)
                return -ENOMEM;
        return json_write(o, out);
}
