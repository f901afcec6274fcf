/* The answer: one task as JSON. */

#include "wire/task.h"

#include "base/time.h"
#include "wire/stream.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const wire_status_names[] = { "queued", "pulling", "running", "exited", "failed", "killed", NULL };

const char *const wire_reason_names[] = {
        "",
        "signal",
        "command_not_found",
        "command_not_executable",
        "timeout",
        "cpu_time",
        "oom",
        "output_limit",
        "cancelled",
        "disk_limit",
        "image_not_found",
        "image_unauthorized",
        "registry_error",
        "registry_busy",
        "image_invalid",
        "image_unsupported",
        "image_untrusted",
        "image_broken",
        "no_space",
        "start_error",
        "queue_timeout",
        "node_lost",
        NULL,
};

/* ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

const char *wire_signal_name(int signo, char out[16])
{
        const char *abbrev = sigabbrev_np(signo);

        if (abbrev)
                (void)snprintf(out, 16, "SIG%s", abbrev);
        else if (signo >= SIGRTMIN && signo <= SIGRTMAX)
                (void)snprintf(out, 16, signo == SIGRTMIN ? "SIGRTMIN" : "SIGRTMIN+%d", signo - SIGRTMIN);
        else
                (void)snprintf(out, 16, "SIG%d", signo);
        return out;
}

static int realtime_parse(const char *name)
{
        uint32_t n = 0;

        if (str_eq(name, "RTMIN"))
                return SIGRTMIN;
        if (str_eq(name, "RTMAX"))
                return SIGRTMAX;
        if (str_starts(name, "RTMIN+") && parse_u32(name + 6, &n) == 0 && n <= (uint32_t)(SIGRTMAX - SIGRTMIN))
                return SIGRTMIN + (int)n;
        if (str_starts(name, "RTMAX-") && parse_u32(name + 6, &n) == 0 && n <= (uint32_t)(SIGRTMAX - SIGRTMIN))
                return SIGRTMAX - (int)n;
        return -EINVAL;
}

int wire_signal_parse(const char *name)
{
        uint32_t n;

        if (parse_u32(name, &n) == 0)
                return n >= 1 && n <= (uint32_t)SIGRTMAX ? (int)n : -EINVAL;
        if (str_starts(name, "SIG"))
                name += 3;
        for (int i = 1; i < SIGRTMIN; i++)
                if (str_eq(sigabbrev_np(i), name))
                        return i;
        return realtime_parse(name);
}

/* ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Writing goes through this, so that running out of memory is looked at once, at the end. */
struct writer {
        struct str *out;
        int error;
        struct wire_text *text; /* NULL: the streams are written with the rest */
};

#define PUT(w, call)                                                                                                   \
        do {                                                                                                           \
                if ((w)->error == 0)                                                                                   \
                        (w)->error = (call);                                                                           \
        } while (0)

static void put(struct writer *w, const char *text)
{
        PUT(w, str_adds(w->out, text));
}

/* `name` with its comma and quotes: ,"x": */
static void put_string(struct writer *w, const char *name, const char *value)
{
        put(w, name);
        if (value)
                PUT(w, json_add_string(w->out, value, strlen(value)));
        else
                put(w, "null");
}

/* value / 10^digits, without zeros at the end. */
static void put_decimal(struct writer *w, const char *name, int64_t value, unsigned digits)
{
        int64_t scale = 1;

        put(w, name);
        for (unsigned i = 0; i < digits; i++)
                scale *= 10;
        PUT(w, str_addf(w->out, "%" PRId64, value / scale));
        value %= scale;
        while (value != 0 && value % 10 == 0) {
                value /= 10;
                digits--;
        }
        if (value != 0)
                PUT(w, str_addf(w->out, ".%0*" PRId64, (int)digits, value));
}

/* Milliseconds to the microsecond; null where negative. */
static void put_ms(struct writer *w, const char *name, int64_t ns)
{
        if (ns < 0)
                put_string(w, name, NULL);
        else
                put_decimal(w, name, (ns + 500) / 1000, 3);
}

static void put_time(struct writer *w, const char *name, uint64_t ms)
{
        char text[TIME_RFC3339_MAX];

        if (ms != 0)
                time_rfc3339(ms, text);
        put_string(w, name, ms != 0 ? text : NULL);
}

static void put_limits(struct writer *w, const struct wire_limits *l)
{
        if (l->timeout_ns > 0)
                put_decimal(w, "\"limits\":{\"timeout\":", l->timeout_ns, 9);
        else
                put(w, "\"limits\":{\"timeout\":null");
        put_decimal(w, ",\"queue_timeout\":", l->queue_timeout_ns, 9);
        put_decimal(w, ",\"memory\":", l->memory, 0);
        put_decimal(w, ",\"cpus\":", l->cpu_milli, 3);
        put_decimal(w, ",\"pids\":", l->pids, 0);
        put_decimal(w, ",\"output\":", l->output, 0);
        put_decimal(w, ",\"disk\":", l->disk, 0);
        put_decimal(w, ",\"shm\":", l->shm, 0);
        put_decimal(w, ",\"grace\":", l->grace_ns, 9);
        if (l->cpu_time_ns > 0)
                put_decimal(w, ",\"cpu_time\":", l->cpu_time_ns, 9);
        else
                put(w, ",\"cpu_time\":null");
        put(w, "}");
}

/* ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool is_text(const void *data, size_t len)
{
        return len == 0 || (!memchr(data, 0, len) && utf8_valid(data, len));
}

static void put_stream(struct writer *w, const char *name, const void *data, size_t len, bool text)
{
        put(w, name);
        if (text) {
                PUT(w, json_add_string(w->out, len > 0 ? data : "", len));
                return;
        }
        put(w, "\"");
        if (len > 0)
                PUT(w, base64_encode(w->out, data, len));
        put(w, "\"");
}

/* Leaves a stream to wire_text_next(). */
static void leave_stream(struct writer *w, int i, const char *name, const void *data, size_t len, bool text)
{
        put(w, name);
        put(w, "\"");
        w->text->data[i] = data;
        w->text->len[i] = len;
        w->text->plain[i] = text;
        w->out = &w->text->parts[i + 1];
        put(w, "\"");
}

static void put_streams(struct writer *w, const void *const data[2], const size_t len[2], bool base64)
{
        bool text[2];

        for (int i = 0; i < 2; i++)
                text[i] = !base64 && is_text(data[i], len[i]);
        if (w->text) {
                leave_stream(w, 0, "\"stdout\":", data[0], len[0], text[0]);
                leave_stream(w, 1, ",\"stderr\":", data[1], len[1], text[1]);
        } else {
                put_stream(w, "\"stdout\":", data[0], len[0], text[0]);
                put_stream(w, ",\"stderr\":", data[1], len[1], text[1]);
        }
        put(w, text[0] ? ",\"stdout_encoding\":\"utf-8\"" : ",\"stdout_encoding\":\"base64\"");
        put(w, text[1] ? ",\"stderr_encoding\":\"utf-8\"," : ",\"stderr_encoding\":\"base64\",");
}

/* ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

const char *const wire_output_types[] = { "file", "directory", "symlink", NULL };

void wire_outputs_free(struct wire_output *outputs, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                free(outputs[i].path);
                free(outputs[i].data);
        }
        free(outputs);
}

static void put_output(struct writer *w, const struct wire_output *o)
{
        bool text = o->type != WIRE_OUTPUT_DIRECTORY && is_text(o->data, o->len);

        put_string(w, "{\"path\":", o->path);
        if (o->error) {
                put_string(w, ",\"error\":", o->error);
                put(w, "}");
                return;
        }
        put_string(w, ",\"type\":", wire_output_types[o->type]);
        PUT(w, str_addf(w->out, ",\"mode\":\"%04o\",\"size\":%zu", o->mode, o->len));
        put_string(w, ",\"encoding\":", text ? "utf-8" : o->type == WIRE_OUTPUT_DIRECTORY ? "tar+base64" : "base64");
        put_stream(w, ",\"content\":", o->data, o->len, text);
        put(w, "}");
}

static void put_outputs(struct writer *w, const struct wire_output *outputs, size_t n)
{
        put(w, "[");
        for (size_t i = 0; i < n; i++) {
                if (i > 0)
                        put(w, ",");
                put_output(w, &outputs[i]);
        }
        put(w, "]");
}

int wire_outputs_write(const struct wire_output *outputs, size_t n, struct str *out)
{
        struct writer w = { .out = out };

        put_outputs(&w, outputs, n);
        return w.error;
}

/* ── output that is kept apart from its document ───────────────────────────────────────────────────────────────────── */

/* Where the streams stand in a document, and the outputs. In a JSON string the quotes would have a backslash. */
static const char streams_before[] = "\"stdout_bytes\":";
static const char outputs_before[] = "\"usage\":{\"wall_ms\":";
/* Stands there instead of them, so that a stored document knows how to show its streams. */
static const char base64_note[] = "\"stdout_encoding\":\"base64\",\"stderr_encoding\":\"base64\",";
/* What documents of earlier versions have. */
static const char no_outputs[] = "\"outputs\":[],";

/* The end of a document, from where the streams were put, with the outputs. */
static void put_rest(struct writer *w, const char *at, size_t len, const struct str *outputs)
{
        const char *usage = memmem(at, len, outputs_before, strlen(outputs_before));
        size_t head = usage ? (size_t)(usage - at) : len;
        const size_t none = strlen(no_outputs);
        bool has = head >= none && memcmp(at + head - none, no_outputs, none) == 0;

        PUT(w, str_add(w->out, at, head));
        if (usage && !has) {
                put(w, "\"outputs\":");
                if (outputs && outputs->len > 0)
                        PUT(w, str_add(w->out, outputs->data, outputs->len));
                else
                        put(w, "[]");
                put(w, ",");
        }
        PUT(w, str_add(w->out, at + head, len - head));
}

static int add_output(struct writer *w, const char *document, size_t len, const void *const data[2],
                      const size_t data_len[2], const struct str *outputs)
{
        const char *at = memmem(document, len, streams_before, strlen(streams_before));
        const size_t note = strlen(base64_note);
        size_t head;
        bool base64;

        if (!at)
                return str_add(w->out, document, len);
        head = (size_t)(at - document);
        base64 = head >= note && memcmp(at - note, base64_note, note) == 0;
        PUT(w,
            str_reserve(w->out, len + (w->text ? 0 : data_len[0] + data_len[1]) + (outputs ? outputs->len : 0) + 128));
        PUT(w, str_add(w->out, document, base64 ? head - note : head));
        put_streams(w, data, data_len, base64);
        put_rest(w, at, len - head, outputs);
        return w->error;
}

int wire_task_add_output(const char *document, size_t len, const void *const data[2], const size_t data_len[2],
                         const struct str *outputs, struct str *out)
{
        struct writer w = { .out = out };

        return add_output(&w, document, len, data, data_len, outputs);
}

int wire_task_begin_output(const char *document, size_t len, const void *const data[2], const size_t data_len[2],
                           const struct str *outputs, struct wire_text *ret)
{
        struct writer w = { .out = &ret->parts[0], .text = ret };
        int r;

        *ret = (struct wire_text){ .part = 0 };
        r = add_output(&w, document, len, data, data_len, outputs);
        if (r < 0)
                wire_text_done(ret);
        return r;
}

/* ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void put_outcome(struct writer *w, const struct wire_task *t)
{
        char signal_name[16];

        put_string(w, "{\"id\":", t->id);
        put_string(w, ",\"status\":", wire_status_names[t->status]);
        if (t->exit_code >= 0)
                put_decimal(w, ",\"exit_code\":", t->exit_code, 0);
        else
                put(w, ",\"exit_code\":null");
        put_string(w, ",\"signal\":", t->signal > 0 ? wire_signal_name(t->signal, signal_name) : NULL);
        put_string(w, ",\"reason\":", t->reason != WIRE_REASON_NONE ? wire_reason_names[t->reason] : NULL);
        if (t->detail)
                put_string(w, ",\"detail\":", t->detail);
        put(w, ",");
}

static void put_labels(struct writer *w, char *const *labels)
{
        const char *separator = "";

        put(w, ",\"labels\":{");
        for (; labels && *labels; labels++) {
                const char *value = strchrnul(*labels, '=');

                put(w, separator);
                PUT(w, json_add_string(w->out, *labels, (size_t)(value - *labels)));
                put(w, ":");
                value += *value == '=';
                PUT(w, json_add_string(w->out, value, strlen(value)));
                separator = ",";
        }
        put(w, "}");
}

static void put_facts(struct writer *w, const struct wire_task *t)
{
        PUT(w, str_addf(w->out, "\"stdout_bytes\":%" PRIu64 ",\"stderr_bytes\":%" PRIu64, t->out_total[0],
                        t->out_total[1]));
        put(w, t->truncated ? ",\"truncated\":true," : ",\"truncated\":false,");
        if (t->has_output) {
                put(w, "\"outputs\":");
                if (t->outputs_text && t->outputs_text->len > 0)
                        PUT(w, str_add(w->out, t->outputs_text->data, t->outputs_text->len));
                else
                        put_outputs(w, t->outputs, t->n_outputs);
                put(w, ",");
        }
        put_ms(w, "\"usage\":{\"wall_ms\":", t->wall_ns);
        put_ms(w, ",\"cpu_ms\":", t->cpu_ns);
        if (t->memory_peak >= 0)
                put_decimal(w, ",\"memory_peak\":", t->memory_peak, 0);
        else
                put(w, ",\"memory_peak\":null");
        put_ms(w, "},\"timings\":{\"queued_ms\":", t->queued_ns);
        put_ms(w, ",\"pull_ms\":", t->pull_ns);
        put_ms(w, ",\"start_ms\":", t->start_ns);
        put_ms(w, ",\"run_ms\":", t->run_ns);
        put_time(w, "},\"created_at\":", t->created_ms);
        put_time(w, ",\"started_at\":", t->started_ms);
        put_time(w, ",\"finished_at\":", t->finished_ms);
        put_string(w, ",\"image\":{\"ref\":", t->image_ref);
        put_string(w, ",\"digest\":", t->image_digest);
        put_string(w, "},\"engine\":", t->engine);
        put(w, ",");
        put_limits(w, &t->limits);
        if (t->pull_total > 0)
                PUT(w, str_addf(w->out, ",\"pull\":{\"done\":%" PRIu64 ",\"total\":%" PRIu64 "}", t->pull_done,
                                t->pull_total));
        PUT(w, str_addf(w->out, ",\"attempts\":%u", t->attempts));
        put_labels(w, t->labels);
        put(w, "}");
}

static void put_task(struct writer *w, const struct wire_task *t)
{
        put_outcome(w, t);
        if (t->has_output)
                put_streams(w, t->out, t->out_len, t->encoding == WIRE_ENC_BASE64);
        else if (t->encoding == WIRE_ENC_BASE64)
                put(w, base64_note);
        put_facts(w, t);
}

int wire_task_write(const struct wire_task *t, struct str *out)
{
        struct writer w = { .out = out };
        size_t before = out->len;

        PUT(&w, str_reserve(out, 1024 + (t->has_output ? t->out_len[0] + t->out_len[1] : 0)));
        put_task(&w, t);
        if (w.error < 0 && out->data) {
                out->len = before;
                out->data[before] = '\0';
        }
        return w.error;
}

/* ── in pieces ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

int wire_task_begin(const struct wire_task *t, struct wire_text *ret)
{
        struct writer w = { .out = &ret->parts[0], .text = ret };

        *ret = (struct wire_text){ .part = 0 };
        put_task(&w, t);
        if (w.error < 0)
                wire_text_done(ret);
        return w.error;
}

/* Cut where a character ends, or three bytes. */
static int next_of_string(struct wire_text *w, int i, struct str *out)
{
        const char *data = (const char *)w->data[i] + w->at;
        size_t n = MIN(w->len[i] - w->at, (size_t)WIRE_PIECE);
        int r;

        if (w->plain[i])
                n = wire_text_cut(data, n);
        r = w->plain[i] ? json_add_escaped(out, data, n) : base64_encode(out, data, n);
        if (r == 0)
                w->at += n;
        return r;
}
_Static_assert(WIRE_PIECE % 3 == 0, "pieces of base64 can be put one after the other");

int wire_text_next(struct wire_text *w, struct str *out)
{
        int i = (int)w->part / 2, r = 0;

        if (w->part % 2 == 1 && w->at < w->len[i])
                r = next_of_string(w, i, out);
        else if (w->part % 2 == 0)
                r = str_add(out, w->parts[i].data ? w->parts[i].data : "", w->parts[i].len);
        if (r < 0)
                return r;
        if (w->part % 2 == 0 || w->at >= w->len[i]) {
                w->part++;
                w->at = 0;
        }
        return w->part <= 4;
}

void wire_text_done(struct wire_text *w)
{
        for (size_t i = 0; i < ARRAY_LEN(w->parts); i++)
                str_done(&w->parts[i]);
}
