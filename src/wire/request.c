/* POST /v1/tasks: reading and writing of the body. */

#include "wire/task.h"

#include "base/time.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const network_words[] = { "none", "nat", "internet", NULL };
static const char *const encoding_words[] = { "auto", "base64", NULL };
static const char *const content_words[] = { "utf-8", "base64", NULL };
static const char *const output_words[] = { "truncate", "kill", NULL };

/* Members that the API has and this version does not. */
static const char *const later_members[] = {
        "pull",    "outputs", "secrets",  "labels", "retries",       "callback_url", "registry_auth",
        "profile", "tty",     "priority", "engine", "on_disconnect", NULL,
};

void wire_limits_default(struct wire_limits *l)
{
        *l = (struct wire_limits){
                .timeout_ns = 60 * (int64_t)NS_PER_S,
                .queue_timeout_ns = 60 * (int64_t)NS_PER_S,
                .memory = 512 << 20,
                .disk = 256 << 20,
                .shm = 64 << 20,
                .output = 1 << 20,
                .cpu_milli = 1000,
                .pids = 512,
        };
}

void wire_task_request_done(struct wire_task_request *r)
{
        free(r->image);
        strv_free(r->cmd);
        strv_free(r->entrypoint);
        strv_free(r->env);
        free(r->workdir);
        free(r->user);
        free(r->stdin_data);
        for (size_t i = 0; i < r->n_files; i++) {
                free(r->files[i].path);
                free(r->files[i].content);
        }
        free(r->files);
        *r = (struct wire_task_request){ .image = NULL };
}

static void fault(struct json_obj *o, const char *name, const char *detail)
{
        auto_str pointer = STR_INIT;

        json_obj_pointer(o, name, &pointer);
        json_faults_add(o->faults, pointer.data ? pointer.data : "", "%s", detail);
}

/* ── strings and arrays ────────────────────────────────────────────────────────────────────────────────────────────── */

static bool get_text(struct json_obj *o, const char *name, size_t max, char **ret)
{
        const char *s;

        if (!json_get_str(o, name, &s, NULL))
                return false;
        if (*s == '\0') {
                fault(o, name, "must not be empty");
                return false;
        }
        if (strlen(s) > max) {
                fault(o, name, "is too long");
                return false;
        }
        *ret = strdup(s);
        if (!*ret)
                fault(o, name, "out of memory");
        return *ret != NULL;
}

static void check_args(struct json_obj *o, const char *name, char *const *v, size_t *total)
{
        for (size_t i = 0; v && v[i]; i++) {
                size_t len = strlen(v[i]);

                *total += len + 1;
                if (len > WIRE_ARG_MAX) {
                        auto_str pointer = STR_INIT;

                        json_obj_pointer(o, name, &pointer);
                        (void)str_addf(&pointer, "/%zu", i);
                        json_faults_add(o->faults, pointer.data ? pointer.data : "", "must not be longer than %d bytes",
                                        WIRE_ARG_MAX);
                }
        }
}

static bool env_entry(struct json_obj *o, const char *name, char **ret)
{
        const char *value;

        if (!json_get_str(o, name, &value, NULL))
                return false;
        if (*name == '\0' || strchr(name, '=')) {
                fault(o, name, "is no name of a variable");
                return false;
        }
        if (strlen(name) + 1 + strlen(value) > WIRE_ARG_MAX) {
                fault(o, name, "is too long");
                return false;
        }
        *ret = str_printf("%s=%s", name, value);
        if (!*ret)
                fault(o, name, "out of memory");
        return *ret != NULL;
}

static void read_env(struct json_obj *body, struct wire_task_request *r, size_t *total)
{
        json_t *value, *member;
        struct json_obj o;
        const char *name;
        size_t n = 0;

        if (!json_get_any(body, "env", &value) || json_is_null(value))
                return;
        if (json_is_object(value) && json_object_size(value) > WIRE_ARGV_MAX) {
                fault(body, "env", "holds too many variables");
                return;
        }
        if (json_obj_init(&o, value, "/env", body->faults) < 0)
                return;
        r->env = calloc(json_object_size(value) + 1, sizeof(*r->env));
        if (!r->env)
                fault(body, "env", "out of memory");
        json_object_foreach(value, name, member)
                if (r->env && env_entry(&o, name, &r->env[n]))
                        *total += strlen(r->env[n++]) + 1;
        json_obj_done(&o);
}

static void read_command(struct json_obj *o, struct wire_task_request *r)
{
        size_t total = 0;

        (void)json_get_strv(o, "cmd", WIRE_ARGV_MAX, &r->cmd);
        (void)json_get_strv(o, "entrypoint", WIRE_ARGV_MAX, &r->entrypoint);
        check_args(o, "cmd", r->cmd, &total);
        check_args(o, "entrypoint", r->entrypoint, &total);
        read_env(o, r, &total);
        if (total > WIRE_ARGS_MAX)
                json_faults_add(o->faults, o->pointer, "cmd, entrypoint and env together exceed %d bytes",
                                WIRE_ARGS_MAX);
}

/* ── content: stdin and files ──────────────────────────────────────────────────────────────────────────────────────── */

/* Bytes of a member, decoded as another member says. */
static bool get_content(struct json_obj *o, const char *name, const char *encoding_name, void **ret, size_t *ret_len)
{
        auto_str data = STR_INIT;
        int encoding = 0, e;
        const char *s;
        size_t len;
        bool known;
        json_t *any;

        known = !json_object_get(o->value, encoding_name) || json_get_enum(o, encoding_name, content_words, &encoding);
        if (!json_object_get(o->value, name))
                return false;
        if (!known) {
                (void)json_get_any(o, name, &any);
                return false;
        }
        if (!json_get_str(o, name, &s, &len))
                return false;
        e = encoding == 0 ? str_add(&data, s, len) : base64_decode(&data, s, len);
        if (e == -EINVAL) {
                fault(o, name, "is not base64");
                return false;
        }
        *ret_len = data.len;
        *ret = e < 0 ? NULL : str_take(&data);
        if (!*ret)
                fault(o, name, "out of memory");
        return *ret != NULL;
}

static const char *path_fault(const char *path)
{
        const char *end;

        if (strlen(path) > WIRE_PATH_MAX)
                return "is too long";
        for (const char *p = path; *p; p = *end ? end + 1 : end) {
                end = strchrnul(p, '/');
                if (end - p > WIRE_NAME_MAX)
                        return "has a component that is too long";
                if (*end == '\0' && (str_eq(p, ".") || str_eq(p, "..")))
                        return "is no file";
        }
        return path[0] == '\0' || path[strlen(path) - 1] == '/' ? "is no file" : NULL;
}

static bool mode_parse(const char *s, uint32_t *ret)
{
        uint32_t mode = 0;
        size_t len = strlen(s);

        if (len == 0 || len > 5)
                return false;
        for (; *s; s++) {
                if (*s < '0' || *s > '7')
                        return false;
                mode = mode * 8 + (uint32_t)(*s - '0');
        }
        *ret = mode;
        return mode <= 07777;
}

static void read_mode(struct json_obj *o, uint32_t *ret)
{
        json_t *value;

        if (!json_get_any(o, "mode", &value))
                return;
        if (json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) <= 07777)
                *ret = (uint32_t)json_integer_value(value);
        else if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value) ||
                 !mode_parse(json_string_value(value), ret))
                fault(o, "mode", "must be octal digits, such as \"0755\", or their number");
}

static void read_file(struct json_obj *o, struct wire_file *f)
{
        const char *path, *why, *encoding;

        f->mode = 0644;
        if (json_get_str(o, "path", &path, NULL)) {
                why = path_fault(path);
                if (why)
                        fault(o, "path", why);
                f->path = strdup(path);
        } else if (!json_object_get(o->value, "path")) {
                fault(o, "path", "is required");
        }
        encoding = json_string_value(json_object_get(o->value, "encoding"));
        if (str_eq(encoding, "tar+base64")) {
                json_t *any;

                (void)json_get_any(o, "encoding", &any);
                (void)json_get_any(o, "content", &any);
                fault(o, "encoding", "\"tar+base64\" is not in this version");
        } else if (!json_object_get(o->value, "content")) {
                fault(o, "content", "is required");
        } else {
                (void)get_content(o, "content", "encoding", &f->content, &f->len);
        }
        read_mode(o, &f->mode);
}

static void read_files(struct json_obj *body, struct wire_task_request *r)
{
        json_t *value;
        size_t n;

        if (!json_get_any(body, "files", &value) || json_is_null(value))
                return;
        if (!json_is_array(value)) {
                fault(body, "files", "must be an array of objects");
                return;
        }
        n = json_array_size(value);
        if (n > WIRE_FILES_MAX) {
                fault(body, "files", "holds too many files");
                return;
        }
        r->files = calloc(n ? n : 1, sizeof(*r->files));
        if (!r->files) {
                fault(body, "files", "out of memory");
                return;
        }
        r->n_files = n;
        for (size_t i = 0; i < n; i++) {
                auto_str pointer = STR_INIT;
                struct json_obj o;

                (void)str_addf(&pointer, "/files/%zu", i);
                if (json_obj_init(&o, json_array_get(value, i), pointer.data ? pointer.data : "", body->faults) < 0)
                        continue;
                read_file(&o, &r->files[i]);
                json_obj_done(&o);
        }
}

/* ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void get_size(struct json_obj *o, const char *name, int64_t min, int64_t max, int64_t *ret)
{
        int64_t n;

        if (!json_get_bytes(o, name, &n))
                return;
        if (n < min || n > max) {
                auto_str pointer = STR_INIT;

                json_obj_pointer(o, name, &pointer);
                json_faults_add(o->faults, pointer.data ? pointer.data : "",
                                "must be from %" PRId64 " to %" PRId64 " bytes", min, max);
                return;
        }
        *ret = n;
}

static void get_time(struct json_obj *o, const char *name, int64_t min, int64_t max, bool zero, int64_t *ret)
{
        int64_t ns;

        if (!json_get_duration(o, name, &ns))
                return;
        if ((ns < min && !(ns == 0 && zero)) || ns > max)
                fault(o, name, ns > max ? "is too long" : "is too short");
        else
                *ret = ns;
}

/* "1", "0.5", "1.125": thousandths, nothing finer. */
static bool cpus_parse(const char *s, int64_t *ret)
{
        int64_t milli = 0;
        int decimals = -1;

        if (*s < '0' || *s > '9')
                return false;
        for (; *s; s++) {
                if (*s == '.' && decimals < 0) {
                        decimals = 0;
                        continue;
                }
                if (*s < '0' || *s > '9' || decimals == 3 || milli > WIRE_CPU_MILLI_MAX)
                        return false;
                milli = milli * 10 + (*s - '0');
                decimals += decimals >= 0;
        }
        if (decimals == 0)
                return false;
        for (int i = decimals < 0 ? 0 : decimals; i < 3; i++)
                milli *= 10;
        *ret = milli;
        return true;
}

static bool cpus_read(const json_t *v, int64_t *ret)
{
        double milli;

        if (json_is_string(v))
                return strlen(json_string_value(v)) == json_string_length(v) && cpus_parse(json_string_value(v), ret);
        if (!json_is_number(v))
                return false;
        milli = json_number_value(v) * 1000;
        if (!(milli >= 0 && milli <= WIRE_CPU_MILLI_MAX) || fabs(milli - round(milli)) > 1e-6)
                return false;
        *ret = llround(milli);
        return true;
}

static void read_cpus(struct json_obj *o, int64_t *ret)
{
        int64_t milli = 0;
        json_t *value;

        if (!json_get_any(o, "cpus", &value))
                return;
        if (!cpus_read(value, &milli))
                fault(o, "cpus", "must be a number with at most three decimals, such as 0.5");
        else if (milli < WIRE_CPU_MILLI_MIN || milli > WIRE_CPU_MILLI_MAX)
                fault(o, "cpus", "must be from 0.01 to 1024");
        else
                *ret = milli;
}

static void read_limits(struct json_obj *body, struct wire_limits *l)
{
        json_t *value, *any;
        struct json_obj o;

        if (!json_get_any(body, "limits", &value) || json_is_null(value))
                return;
        if (json_obj_init(&o, value, "/limits", body->faults) < 0)
                return;
        get_time(&o, "timeout", WIRE_TIMEOUT_MIN_NS, WIRE_TIMEOUT_MAX_NS, true, &l->timeout_ns);
        get_time(&o, "queue_timeout", WIRE_TIMEOUT_MIN_NS, WIRE_QUEUE_TIMEOUT_MAX_NS, false, &l->queue_timeout_ns);
        get_time(&o, "grace", 0, WIRE_GRACE_MAX_NS, true, &l->grace_ns);
        get_size(&o, "memory", WIRE_MEMORY_MIN, WIRE_MEMORY_MAX, &l->memory);
        get_size(&o, "disk", WIRE_DISK_MIN, WIRE_MEMORY_MAX, &l->disk);
        get_size(&o, "shm", WIRE_SHM_MIN, WIRE_MEMORY_MAX, &l->shm);
        get_size(&o, "output", 0, WIRE_OUTPUT_MAX, &l->output);
        (void)json_get_int(&o, "pids", 1, WIRE_PIDS_MAX, &l->pids);
        read_cpus(&o, &l->cpu_milli);
        if (json_get_any(&o, "cpu_time", &any))
                fault(&o, "cpu_time", "is not in this version");
        json_obj_done(&o);
}

/* ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void read_later_members(struct json_obj *o)
{
        json_t *any;

        for (size_t i = 0; later_members[i]; i++)
                if (json_get_any(o, later_members[i], &any))
                        fault(o, later_members[i], "is not in this version");
        if (json_get_any(o, "wait", &any) && !json_is_true(any))
                fault(o, "wait", "must be true in this version");
}

/* Empty means the image's, as it does in an image's own configuration. */
static void read_user(struct json_obj *o, struct wire_task_request *r)
{
        const char *s;

        if (json_get_str(o, "user", &s, NULL) && *s)
                (void)get_text(o, "user", WIRE_USER_MAX, &r->user);
}

static void read_members(struct json_obj *o, struct wire_task_request *r)
{
        int word;

        if (!json_object_get(o->value, "image"))
                fault(o, "image", "is required");
        (void)get_text(o, "image", WIRE_IMAGE_MAX, &r->image);
        read_command(o, r);
        if (get_text(o, "workdir", WIRE_PATH_MAX, &r->workdir) && r->workdir[0] != '/')
                fault(o, "workdir", "must be absolute");
        read_user(o, r);
        (void)get_content(o, "stdin", "stdin_encoding", &r->stdin_data, &r->stdin_len);
        read_files(o, r);
        read_limits(o, &r->limits);
        if (json_get_enum(o, "on_output_limit", output_words, &word))
                r->kill_on_output_limit = word == 1;
        if (json_get_enum(o, "network", network_words, &word))
                r->network = (enum wire_network)(WIRE_NET_NONE + word);
        if (json_get_enum(o, "encoding", encoding_words, &word))
                r->encoding = (enum wire_encoding)word;
        (void)json_get_bool(o, "init", &r->init);
        read_later_members(o);
}

int wire_task_request_read(json_t *body, struct wire_task_request *ret, struct json_faults *faults)
{
        struct wire_task_request r = { .image = NULL };
        size_t before = faults->len;
        struct json_obj o;

        wire_limits_default(&r.limits);
        if (json_obj_init(&o, body, "", faults) < 0)
                return -EINVAL;
        read_members(&o, &r);
        json_obj_done(&o);
        if (faults->len > before) {
                wire_task_request_done(&r);
                return -EINVAL;
        }
        *ret = r;
        return 0;
}

/* ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

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

static json_t *files_json(const struct wire_file *files, size_t n)
{
        auto_json array = json_array();

        for (size_t i = 0; array && i < n; i++) {
                auto_free char *mode = str_printf("%04o", files[i].mode);
                auto_json file = json_object();

                if (!mode || !file || json_object_set_new(file, "path", json_string(files[i].path)) < 0 ||
                    json_object_set_new(file, "mode", json_string(mode)) < 0 ||
                    set_content(file, "content", "encoding", files[i].content, files[i].len) < 0 ||
                    json_array_append(array, file) < 0)
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
        return !bad;
}

static bool set_words(json_t *o, const struct wire_task_request *r)
{
        bool bad = false;

        if (r->kill_on_output_limit)
                bad |= json_object_set_new(o, "on_output_limit", json_string("kill")) < 0;
        if (r->network != WIRE_NET_DEFAULT)
                bad |= json_object_set_new(o, "network", json_string(network_words[r->network - WIRE_NET_NONE])) < 0;
        if (r->init)
                bad |= json_object_set_new(o, "init", json_true()) < 0;
        if (r->encoding != WIRE_ENC_AUTO)
                bad |= json_object_set_new(o, "encoding", json_string(encoding_words[r->encoding])) < 0;
        return !bad;
}

static bool text_valid(const char *s)
{
        return !s || utf8_valid(s, strlen(s));
}

static bool texts_valid(const struct wire_task_request *r)
{
        char *const *const arrays[] = { r->cmd, r->entrypoint, r->env };

        for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
                for (char *const *s = arrays[i]; s && *s; s++)
                        if (!text_valid(*s))
                                return false;
        for (size_t i = 0; i < r->n_files; i++)
                if (!text_valid(r->files[i].path))
                        return false;
        return text_valid(r->image) && text_valid(r->workdir) && text_valid(r->user);
}

int wire_task_request_write(const struct wire_task_request *r, struct str *out)
{
        auto_json o = json_object();
        auto_json limits = limits_json(&r->limits);

        if (!texts_valid(r))
                return -EILSEQ;
        if (!o || !limits || !set_texts(o, r) || !set_words(o, r))
                return -ENOMEM;
        if (r->stdin_data && set_content(o, "stdin", "stdin_encoding", r->stdin_data, r->stdin_len) < 0)
                return -ENOMEM;
        if (r->n_files > 0 && json_object_set_new(o, "files", files_json(r->files, r->n_files)) < 0)
                return -ENOMEM;
        if (json_object_size(limits) > 0 && json_object_set(o, "limits", limits) < 0)
                return -ENOMEM;
        return json_write(o, out);
}
