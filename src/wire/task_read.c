/* The answer, read: what the command knows of a task. */

#include "base/time.h"
#include "wire/task.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const output_errors[] = { "not_found", "too_large", "not_allowed", "not_supported",
                                             "timeout",   "failed",    NULL };

void wire_task_done(struct wire_task *t)
{
        free(t->detail);
        free((void *)t->out[0]);
        free((void *)t->out[1]);
        wire_outputs_free(t->outputs, t->n_outputs);
        strv_free((char **)t->labels);
        free(t->image_ref);
        free(t->image_digest);
        free((void *)t->engine);
        memset(t, 0, sizeof(*t));
}

/* One reading: what goes wrong first is remembered, and the rest is skipped. */
struct reader {
        int error;
        char text[128];
};

static void bad(struct reader *r, const char *name)
{
        if (r->error == 0)
                (void)snprintf(r->text, sizeof(r->text), "the answer's '%s' is not as a task has it", name);
        if (r->error == 0)
                r->error = -EINVAL;
}

static char *text_of(struct reader *r, const json_t *o, const char *name)
{
        const json_t *v = json_object_get(o, name);
        char *copy;

        if (!v || json_is_null(v))
                return NULL;
        if (!json_is_string(v)) {
                bad(r, name);
                return NULL;
        }
        copy = strdup(json_string_value(v));
        if (!copy)
                r->error = -ENOMEM;
        return copy;
}

static int64_t integer_of(struct reader *r, const json_t *o, const char *name, int64_t absent)
{
        const json_t *v = json_object_get(o, name);

        if (!v || json_is_null(v))
                return absent;
        if (!json_is_integer(v) || json_integer_value(v) < 0) {
                bad(r, name);
                return absent;
        }
        return json_integer_value(v);
}

static int64_t scaled_of(struct reader *r, const json_t *o, const char *name, double scale, int64_t absent)
{
        const json_t *v = json_object_get(o, name);
        double x;

        if (!v || json_is_null(v))
                return absent;
        x = json_number_value(v) * scale;
        if (!json_is_number(v) || !(x >= 0 && x < 9e18)) {
                bad(r, name);
                return absent;
        }
        return llround(x);
}

static int word_of(struct reader *r, const json_t *o, const char *name, const char *const *words)
{
        const json_t *v = json_object_get(o, name);

        if (!v || json_is_null(v))
                return 0;
        for (int i = 0; words[i]; i++)
                if (json_is_string(v) && str_eq(json_string_value(v), words[i]))
                        return i;
        bad(r, name);
        return 0;
}

/* What time_rfc3339() writes. */
static bool time_parse(const char *s, uint64_t *ret_ms)
{
        static const char form[] = "dddd-dd-ddTdd:dd:dd.dddZ";
        unsigned n[7] = { 0 };
        struct tm tm = { .tm_isdst = 0 };
        size_t field = 0;
        time_t t;

        for (size_t i = 0; form[i]; i++) {
                if (form[i] != 'd') {
                        if (s[i] != form[i])
                                return false;
                        field++;
                } else if (s[i] < '0' || s[i] > '9') {
                        return false;
                } else {
                        n[field] = n[field] * 10 + (unsigned)(s[i] - '0');
                }
        }
        if (s[strlen(form)] != '\0' || n[0] < 1970)
                return false;
        tm.tm_year = (int)n[0] - 1900;
        tm.tm_mon = (int)n[1] - 1;
        tm.tm_mday = (int)n[2];
        tm.tm_hour = (int)n[3];
        tm.tm_min = (int)n[4];
        tm.tm_sec = (int)n[5];
        t = timegm(&tm);
        *ret_ms = (uint64_t)t * 1000 + n[6];
        return t >= 0;
}

static uint64_t time_of(struct reader *r, const json_t *o, const char *name)
{
        const char *s = json_string_value(json_object_get(o, name));
        uint64_t ms = 0;

        if (s && !time_parse(s, &ms))
                bad(r, name);
        return ms;
}

/* Bytes of a member, as the one beside it says that they are written. */
static void *bytes_of(struct reader *r, const json_t *o, const char *name, const char *encoding_name, size_t *ret_len)
{
        const char *encoding = json_string_value(json_object_get(o, encoding_name));
        const json_t *v = json_object_get(o, name);
        auto_str data = STR_INIT;
        int k;

        if (!v || json_is_null(v))
                return NULL;
        if (!json_is_string(v)) {
                bad(r, name);
                return NULL;
        }
        if (!encoding || str_eq(encoding, "utf-8"))
                k = str_add(&data, json_string_value(v), json_string_length(v));
        else
                k = base64_decode(&data, json_string_value(v), json_string_length(v));
        if (k == -EINVAL) {
                bad(r, name);
                return NULL;
        }
        *ret_len = data.len;
        if (k == 0) {
                void *bytes = str_take(&data);

                if (bytes)
                        return bytes;
        }
        r->error = -ENOMEM;
        return NULL;
}

static void read_output(struct reader *r, const json_t *o, struct wire_output *ret)
{
        const char *mode = json_string_value(json_object_get(o, "mode"));
        uint32_t bits = 0;

        ret->path = text_of(r, o, "path");
        if (!ret->path)
                bad(r, "outputs");
        if (json_object_get(o, "error")) {
                ret->error = output_errors[word_of(r, o, "error", output_errors)];
                return;
        }
        ret->type = (enum wire_output_type)word_of(r, o, "type", wire_output_types);
        for (; mode && *mode >= '0' && *mode <= '7' && bits <= 07777; mode++)
                bits = bits * 8 + (uint32_t)(*mode - '0');
        ret->mode = bits & 07777;
        ret->data = bytes_of(r, o, "content", "encoding", &ret->len);
}

static void read_outputs(struct reader *r, const json_t *o, struct wire_task *t)
{
        const json_t *v = json_object_get(o, "outputs");
        size_t n = json_array_size(v);

        if (n == 0)
                return;
        t->outputs = calloc(n, sizeof(*t->outputs));
        if (!t->outputs) {
                r->error = -ENOMEM;
                return;
        }
        t->n_outputs = n;
        for (size_t i = 0; i < n; i++)
                read_output(r, json_array_get(v, i), &t->outputs[i]);
}

static void read_labels(struct reader *r, json_t *o, struct wire_task *t)
{
        json_t *labels = json_object_get(o, "labels"), *value;
        auto_strv list = NULL;
        const char *name;

        json_object_foreach(labels, name, value) {
                auto_free char *text = NULL;

                if (!json_is_string(value)) {
                        bad(r, "labels");
                        return;
                }
                text = str_printf("%s=%s", name, json_string_value(value));
                if (!text || strv_add(&list, text) < 0) {
                        r->error = -ENOMEM;
                        return;
                }
        }
        t->labels = TAKE_PTR(list);
}

static void read_limits(struct reader *r, const json_t *o, struct wire_limits *l)
{
        const json_t *v = json_object_get(o, "limits");
        const double second = (double)NS_PER_S;

        l->timeout_ns = scaled_of(r, v, "timeout", second, 0);
        l->queue_timeout_ns = scaled_of(r, v, "queue_timeout", second, 0);
        l->grace_ns = scaled_of(r, v, "grace", second, 0);
        l->cpu_time_ns = scaled_of(r, v, "cpu_time", second, 0);
        l->memory = integer_of(r, v, "memory", 0);
        l->disk = integer_of(r, v, "disk", 0);
        l->shm = integer_of(r, v, "shm", 0);
        l->output = integer_of(r, v, "output", 0);
        l->pids = integer_of(r, v, "pids", 0);
        l->cpu_milli = scaled_of(r, v, "cpus", 1000, 0);
}

static void read_outcome(struct reader *r, const json_t *o, struct wire_task *t)
{
        const char *signal = json_string_value(json_object_get(o, "signal"));
        auto_free char *id = text_of(r, o, "id");

        if (!id || strlen(id) >= sizeof(t->id))
                bad(r, "id");
        else
                (void)snprintf(t->id, sizeof(t->id), "%s", id);
        if (!json_object_get(o, "status"))
                bad(r, "status");
        t->status = (enum wire_status)word_of(r, o, "status", wire_status_names);
        t->exit_code = (int)integer_of(r, o, "exit_code", -1);
        t->signal = signal ? wire_signal_parse(signal) : 0;
        if (t->signal < 0)
                bad(r, "signal");
        t->reason = (enum wire_reason)word_of(r, o, "reason", wire_reason_names);
        t->detail = text_of(r, o, "detail");
}

static void read_streams(struct reader *r, const json_t *o, struct wire_task *t)
{
        t->out_total[0] = (uint64_t)integer_of(r, o, "stdout_bytes", 0);
        t->out_total[1] = (uint64_t)integer_of(r, o, "stderr_bytes", 0);
        t->truncated = json_is_true(json_object_get(o, "truncated"));
        t->has_output = json_object_get(o, "stdout");
        t->out[0] = bytes_of(r, o, "stdout", "stdout_encoding", &t->out_len[0]);
        t->out[1] = bytes_of(r, o, "stderr", "stderr_encoding", &t->out_len[1]);
        read_outputs(r, o, t);
}

static void read_facts(struct reader *r, json_t *o, struct wire_task *t)
{
        const json_t *usage = json_object_get(o, "usage"), *timings = json_object_get(o, "timings");
        const json_t *image = json_object_get(o, "image");
        const double ms = (double)NS_PER_MS;

        t->wall_ns = scaled_of(r, usage, "wall_ms", ms, -1);
        t->cpu_ns = scaled_of(r, usage, "cpu_ms", ms, -1);
        t->memory_peak = integer_of(r, usage, "memory_peak", -1);
        t->queued_ns = scaled_of(r, timings, "queued_ms", ms, -1);
        t->pull_ns = scaled_of(r, timings, "pull_ms", ms, -1);
        t->start_ns = scaled_of(r, timings, "start_ms", ms, -1);
        t->run_ns = scaled_of(r, timings, "run_ms", ms, -1);
        t->created_ms = time_of(r, o, "created_at");
        t->started_ms = time_of(r, o, "started_at");
        t->finished_ms = time_of(r, o, "finished_at");
        t->image_ref = text_of(r, image, "ref");
        t->image_digest = text_of(r, image, "digest");
        t->engine = text_of(r, o, "engine");
        t->pull_done = (uint64_t)integer_of(r, json_object_get(o, "pull"), "done", 0);
        t->pull_total = (uint64_t)integer_of(r, json_object_get(o, "pull"), "total", 0);
        t->attempts = (unsigned)MIN(integer_of(r, o, "attempts", 0), 1000);
        read_limits(r, o, &t->limits);
        read_labels(r, o, t);
}

int wire_task_read(json_t *document, struct wire_task *ret, struct err *err)
{
        struct reader r = { .error = 0 };
        struct wire_task t = { .exit_code = -1 };

        if (!json_is_object(document))
                return err_set(err, EINVAL, "the answer is no task");
        read_outcome(&r, document, &t);
        read_streams(&r, document, &t);
        read_facts(&r, document, &t);
        if (r.error < 0) {
                wire_task_done(&t);
                return r.error == -ENOMEM ? err_oom(err) : err_set(err, EINVAL, "%s", r.text);
        }
        *ret = t;
        return 0;
}

int wire_task_list_read(json_t *document, struct wire_task_list *ret, struct err *err)
{
        const json_t *tasks = json_object_get(document, "tasks");
        const char *cursor = json_string_value(json_object_get(document, "next_cursor"));
        struct wire_task_list l = { .tasks = NULL };
        int r = 0;

        if (!json_is_array(tasks))
                return err_set(err, EINVAL, "the answer is no list of tasks");
        l.tasks = calloc(json_array_size(tasks) + 1, sizeof(*l.tasks));
        if (!l.tasks)
                return err_oom(err);
        if (cursor) {
                l.next_cursor = strdup(cursor);
                r = l.next_cursor ? 0 : err_oom(err);
        }
        for (; r == 0 && l.n < json_array_size(tasks); l.n += r == 0)
                r = wire_task_read(json_array_get(tasks, l.n), &l.tasks[l.n], err);
        if (r < 0) {
                wire_task_list_done(&l);
                return r;
        }
        *ret = l;
        return 0;
}

void wire_task_list_done(struct wire_task_list *l)
{
        for (size_t i = 0; i < l->n; i++)
                wire_task_done(&l->tasks[i]);
        free(l->tasks);
        free(l->next_cursor);
        memset(l, 0, sizeof(*l));
}
