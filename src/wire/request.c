/* POST /v1/tasks: reading the body. */

#include "base/time.h"
#include "wire/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const wire_network_words[] = { "none", "nat", "internet", NULL };
const char *const wire_encoding_words[] = { "auto", "base64", NULL };
const char *const wire_pull_words[] = { "missing", "always", "never", NULL };
static const char *const content_words[] = { "utf-8", "base64", NULL };
static const char *const file_words[] = { "utf-8", "base64", "tar+base64", NULL };
static const char *const output_words[] = { "truncate", "kill", NULL };
static const char *const disconnect_words[] = { "cancel", "detach", NULL };

/* Members that the API has and this version does not. */
static const char *const later_members[] = { "callback_url", "profile", "tty", "priority", NULL };

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

static void wipe(void *data, size_t len)
{
        if (data)
                explicit_bzero(data, len);
        free(data);
}

static void wipe_text(char *s)
{
        wipe(s, s ? strlen(s) : 0);
}

void wire_task_request_done(struct wire_task_request *r)
{
        free(r->image);
        strv_free(r->cmd);
        strv_free(r->entrypoint);
        for (char **e = r->env; e && *e; e++)
                wipe_text(*e);
        free(r->env);
        free(r->workdir);
        free(r->user);
        wipe(r->stdin_data, r->stdin_len);
        for (size_t i = 0; i < r->n_files; i++) {
                free(r->files[i].path);
                free(r->files[i].content);
        }
        free(r->files);
        strv_free(r->outputs);
        for (size_t i = 0; i < r->n_secrets; i++) {
                free(r->secrets[i].name);
                wipe(r->secrets[i].value, r->secrets[i].len);
        }
        free(r->secrets);
        free(r->registry_username);
        wipe_text(r->registry_password);
        strv_free(r->labels);
        free(r->engine);
        *r = (struct wire_task_request){ .image = NULL };
}

static size_t strv_size(char *const *v)
{
        size_t size = 0;

        for (; v && *v; v++)
                size += sizeof(*v) + strlen(*v) + 1;
        return size;
}

size_t wire_task_request_size(const struct wire_task_request *r)
{
        size_t size = sizeof(*r) + r->stdin_len;

        size += strv_size(r->cmd) + strv_size(r->entrypoint) + strv_size(r->env);
        size += strv_size(r->outputs) + strv_size(r->labels);
        for (size_t i = 0; i < r->n_files; i++)
                size += sizeof(r->files[i]) + strlen(r->files[i].path) + 1 + r->files[i].len;
        for (size_t i = 0; i < r->n_secrets; i++)
                size += sizeof(r->secrets[i]) + strlen(r->secrets[i].name) + 1 + r->secrets[i].len;
        return size;
}

static void fault(struct json_obj *o, const char *name, const char *detail)
{
        auto_str pointer = STR_INIT;

        json_obj_pointer(o, name, &pointer);
        json_faults_add(o->faults, pointer.data ? pointer.data : "", "%s", detail);
}

static void fault_text(struct json_obj *o, const char *name, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static void fault_text(struct json_obj *o, const char *name, const char *fmt, ...)
{
        char text[256];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        fault(o, name, text);
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
static bool get_content(struct json_obj *o, const char *name, const char *encoding_name, const char *const *words,
                        void **ret, size_t *ret_len)
{
        auto_str data = STR_INIT;
        int encoding = 0, e;
        const char *s;
        size_t len;
        bool known;
        json_t *any;

        known = !json_object_get(o->value, encoding_name) || json_get_enum(o, encoding_name, words, &encoding);
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

static const char *path_fault(const char *path, bool directory)
{
        const char *end;

        if (strlen(path) > WIRE_PATH_MAX)
                return "is too long";
        for (const char *p = path; *p; p = *end ? end + 1 : end) {
                end = strchrnul(p, '/');
                if (end - p > WIRE_NAME_MAX)
                        return "has a component that is too long";
                if (*end == '\0' && !directory && (str_eq(p, ".") || str_eq(p, "..")))
                        return "is no file";
        }
        if (directory)
                return path[0] == '\0' ? "must not be empty" : NULL;
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

/* Faults of an archive belong to the request, not to the start of the task. */
static void check_tar(struct json_obj *o, const struct wire_file *f, size_t *entries)
{
        struct wire_members members = { .items = NULL };
        struct err err = ERR_INIT;

        if (!f->path)
                return;
        if (wire_members_read(f, WIRE_MEMBERS_MAX - *entries, &members, &err) < 0)
                fault_text(o, "content", "%s", err.text);
        *entries += members.len;
        wire_members_done(&members);
}

static void read_file(struct json_obj *o, struct wire_file *f, size_t *entries)
{
        const char *path, *why;

        f->mode = 0644;
        f->tar = str_eq(json_string_value(json_object_get(o->value, "encoding")), "tar+base64");
        if (json_get_str(o, "path", &path, NULL)) {
                why = path_fault(path, f->tar);
                if (why)
                        fault(o, "path", why);
                f->path = strdup(path);
        } else if (!json_object_get(o->value, "path")) {
                fault(o, "path", "is required");
        }
        if (!json_object_get(o->value, "content")) {
                fault(o, "content", "is required");
        } else if (get_content(o, "content", "encoding", file_words, &f->content, &f->len) && f->tar) {
                check_tar(o, f, entries);
        }
        if (f->tar && json_object_get(o->value, "mode"))
                fault(o, "mode", "is in the archive");
        read_mode(o, &f->mode);
}

static void read_files(struct json_obj *body, struct wire_task_request *r)
{
        size_t n, entries = 0;
        json_t *value;

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
                read_file(&o, &r->files[i], &entries);
                json_obj_done(&o);
        }
}

/* ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void get_size(struct json_obj *o, const char *name, int64_t min, int64_t max, int64_t *ret)
{
        int64_t n;

        if (!json_get_bytes(o, name, &n))
                return;
        if (n < min || n > max)
                fault_text(o, name, "must be from %" PRId64 " to %" PRId64 " bytes", min, max);
        else
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

static uint32_t limits_given(const json_t *limits)
{
        static const char *const names[] = {
                "timeout", "queue_timeout", "grace", "cpu_time", "memory", "disk", "shm", "output", "cpus", "pids",
        };
        uint32_t given = 0;

        for (size_t i = 0; i < ARRAY_LEN(names); i++)
                if (json_object_get(limits, names[i]))
                        given |= 1u << i;
        return given;
}

static void read_limits(struct json_obj *body, struct wire_task_request *r)
{
        struct wire_limits *l = &r->limits;
        struct json_obj o;
        json_t *value;

        if (!json_get_any(body, "limits", &value) || json_is_null(value))
                return;
        if (json_obj_init(&o, value, "/limits", body->faults) < 0)
                return;
        get_time(&o, "timeout", WIRE_TIMEOUT_MIN_NS, WIRE_TIMEOUT_MAX_NS, true, &l->timeout_ns);
        get_time(&o, "queue_timeout", WIRE_TIMEOUT_MIN_NS, WIRE_QUEUE_TIMEOUT_MAX_NS, false, &l->queue_timeout_ns);
        get_time(&o, "grace", 0, WIRE_GRACE_MAX_NS, true, &l->grace_ns);
        get_time(&o, "cpu_time", WIRE_TIMEOUT_MIN_NS, WIRE_CPU_TIME_MAX_NS, false, &l->cpu_time_ns);
        get_size(&o, "memory", WIRE_MEMORY_MIN, WIRE_MEMORY_MAX, &l->memory);
        get_size(&o, "disk", WIRE_DISK_MIN, WIRE_MEMORY_MAX, &l->disk);
        get_size(&o, "shm", WIRE_SHM_MIN, WIRE_MEMORY_MAX, &l->shm);
        get_size(&o, "output", 0, WIRE_OUTPUT_MAX, &l->output);
        (void)json_get_int(&o, "pids", 1, WIRE_PIDS_MAX, &l->pids);
        read_cpus(&o, &l->cpu_milli);
        r->limits_given = limits_given(value);
        json_obj_done(&o);
}

/* ── outputs, secrets, labels ──────────────────────────────────────────────────────────────────────────────────────── */

static void read_outputs(struct json_obj *body, struct wire_task_request *r)
{
        if (!json_get_strv(body, "outputs", WIRE_OUTPUTS_MAX, &r->outputs))
                return;
        if (strv_size(r->outputs) > WIRE_OUTPUTS_PATHS_MAX)
                fault_text(body, "outputs", "must not have more than %d bytes together", WIRE_OUTPUTS_PATHS_MAX);
        for (size_t i = 0; r->outputs[i]; i++) {
                const char *why = path_fault(r->outputs[i], true);
                char name[32];

                (void)snprintf(name, sizeof(name), "/outputs/%zu", i);
                if (why)
                        json_faults_add(body->faults, name, "%s", why);
        }
}

bool wire_secret_name_valid(const char *name)
{
        size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

        return len > 0 && len <= WIRE_SECRET_NAME_MAX && name[len] == '\0' && !str_eq(name, ".") && !str_eq(name, "..");
}

static void read_secret(struct json_obj *o, const char *name, struct wire_secret *ret)
{
        const char *value;
        size_t len;

        if (!json_get_str(o, name, &value, &len))
                return;
        if (!wire_secret_name_valid(name)) {
                fault_text(o, name, "is no name of a secret: 1 to %d of A-Z a-z 0-9 _ . -", WIRE_SECRET_NAME_MAX);
                return;
        }
        if (len > WIRE_SECRET_MAX) {
                fault_text(o, name, "must not be longer than %d bytes", WIRE_SECRET_MAX);
                return;
        }
        ret->name = strdup(name);
        ret->value = malloc(len + 1);
        if (!ret->name || !ret->value) {
                fault(o, name, "out of memory");
                return;
        }
        memcpy(ret->value, value, len + 1);
        ret->len = len;
}

/* An object of at most `max` members; false where there is nothing to read. */
static bool open_object(struct json_obj *body, const char *name, size_t max, struct json_obj *o)
{
        char pointer[64];
        json_t *value;

        if (!json_get_any(body, name, &value) || json_is_null(value))
                return false;
        if (json_is_object(value) && json_object_size(value) > max) {
                fault_text(body, name, "must not hold more than %zu members", max);
                return false;
        }
        (void)snprintf(pointer, sizeof(pointer), "/%s", name);
        return json_obj_init(o, value, pointer, body->faults) == 0;
}

static void read_secrets(struct json_obj *body, struct wire_task_request *r)
{
        struct json_obj o;
        const char *name;
        json_t *value;

        if (!open_object(body, "secrets", WIRE_SECRETS_MAX, &o))
                return;
        r->secrets = calloc(json_object_size(o.value) + 1, sizeof(*r->secrets));
        if (!r->secrets)
                fault(body, "secrets", "out of memory");
        json_object_foreach(o.value, name, value)
                if (r->secrets)
                        read_secret(&o, name, &r->secrets[r->n_secrets++]);
        json_obj_done(&o);
}

static void read_registry_auth(struct json_obj *body, struct wire_task_request *r)
{
        struct json_obj o;

        if (!open_object(body, "registry_auth", 64, &o))
                return;
        if (!json_object_get(o.value, "username"))
                fault(&o, "username", "is required");
        if (!json_object_get(o.value, "password"))
                fault(&o, "password", "is required");
        (void)get_text(&o, "username", WIRE_CREDENTIAL_MAX, &r->registry_username);
        (void)get_text(&o, "password", WIRE_CREDENTIAL_MAX, &r->registry_password);
        json_obj_done(&o);
}

static const char *label_fault(const char *name, const char *value, size_t value_len)
{
        if (name[0] == '\0' || strlen(name) > WIRE_LABEL_NAME_MAX)
                return "a label's name must have 1 to 128 bytes";
        for (const char *p = name; *p; p++)
                if ((unsigned char)*p < ' ' || *p == '=' || *p == 0x7f)
                        return "a label's name must not hold '=' or control characters";
        if (value_len > WIRE_LABEL_VALUE_MAX)
                return "a label's value must not be longer than 1024 bytes";
        return memchr(value, 0, value_len) ? "must not hold NUL" : NULL;
}

bool wire_label_valid(const char *label)
{
        const char *value = strchr(label, '=');
        auto_free char *name = value ? strndup(label, (size_t)(value - label)) : NULL;

        return name && utf8_valid(label, strlen(label)) && !label_fault(name, value + 1, strlen(value + 1));
}

static int label_order(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_labels(struct json_obj *body, struct wire_task_request *r)
{
        struct json_obj o;
        const char *name;
        json_t *member;
        size_t n = 0;

        if (!open_object(body, "labels", WIRE_LABELS_MAX, &o))
                return;
        r->labels = calloc(json_object_size(o.value) + 1, sizeof(*r->labels));
        if (!r->labels)
                fault(body, "labels", "out of memory");
        json_object_foreach(o.value, name, member) {
                const char *value, *why;
                size_t len;

                if (!r->labels || !json_get_str(&o, name, &value, &len))
                        continue;
                why = label_fault(name, value, len);
                if (!why) {
                        r->labels[n] = str_printf("%s=%s", name, value);
                        why = r->labels[n] ? NULL : "out of memory";
                }
                if (why)
                        fault(&o, name, why);
                else
                        n++;
        }
        if (strv_size(r->labels) > WIRE_LABELS_BYTES_MAX)
                fault_text(body, "labels", "must not have more than %d bytes together", WIRE_LABELS_BYTES_MAX);
        if (n > 1)
                qsort(r->labels, n, sizeof(*r->labels), label_order);
        json_obj_done(&o);
}

/* ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void read_later_members(struct json_obj *o)
{
        json_t *any;

        for (size_t i = 0; later_members[i]; i++)
                if (json_get_any(o, later_members[i], &any))
                        fault(o, later_members[i], "is not available yet");
}

static void read_wait(struct json_obj *o, struct wire_task_request *r)
{
        json_t *value = json_object_get(o->value, "wait");

        if (!value)
                return;
        if (json_is_boolean(value)) {
                bool wait = true;

                (void)json_get_bool(o, "wait", &wait);
                r->no_wait = !wait;
        } else if (json_is_number(value) || json_is_string(value)) {
                get_time(o, "wait", 0, WIRE_WAIT_MAX_NS, true, &r->wait_ns);
                r->no_wait = r->wait_ns == 0;
        } else {
                (void)json_get_any(o, "wait", &value);
                fault(o, "wait", "must be true, false or a duration, such as \"1m30s\"");
        }
}

static void read_words(struct json_obj *o, struct wire_task_request *r)
{
        int word;

        if (json_get_enum(o, "on_output_limit", output_words, &word))
                r->kill_on_output_limit = word == 1;
        if (json_get_enum(o, "network", wire_network_words, &word))
                r->network = (enum wire_network)(WIRE_NET_NONE + word);
        if (json_get_enum(o, "encoding", wire_encoding_words, &word))
                r->encoding = (enum wire_encoding)word;
        if (json_get_enum(o, "pull", wire_pull_words, &word))
                r->pull = (enum wire_pull)word;
        if (json_get_enum(o, "on_disconnect", disconnect_words, &word))
                r->detach = word == 1;
        (void)json_get_bool(o, "init", &r->init);
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
        int64_t retries = 0;

        if (!json_object_get(o->value, "image"))
                fault(o, "image", "is required");
        (void)get_text(o, "image", WIRE_IMAGE_MAX, &r->image);
        read_command(o, r);
        if (get_text(o, "workdir", WIRE_PATH_MAX, &r->workdir) && r->workdir[0] != '/')
                fault(o, "workdir", "must be absolute");
        read_user(o, r);
        (void)get_content(o, "stdin", "stdin_encoding", content_words, &r->stdin_data, &r->stdin_len);
        read_files(o, r);
        read_outputs(o, r);
        read_secrets(o, r);
        read_registry_auth(o, r);
        read_labels(o, r);
        read_limits(o, r);
        (void)get_text(o, "engine", WIRE_ENGINE_MAX, &r->engine);
        if (json_get_int(o, "retries", 0, WIRE_RETRIES_MAX, &retries))
                r->retries = (unsigned)retries;
        read_wait(o, r);
        read_words(o, r);
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
