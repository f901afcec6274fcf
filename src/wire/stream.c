#include "wire/stream.h"

#include "wire/task.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const types[] = { "signal", "stdin_end", "cancel", "pulling", "started", "result", "problem", NULL };
static const char *const streams[] = { "stdout", "stderr", NULL };
static const char *const encodings[] = { "utf-8", "base64", NULL };

void wire_frame_done(struct wire_frame *f)
{
        json_decref(f->body);
        f->body = NULL;
}

/* The first fault as a text. */
static int fault_error(const struct json_faults *faults, struct err *err)
{
        const struct json_fault *f = &faults->items[0];

        return err_set(err, EINVAL, "%s%s%s", f->pointer, f->pointer[0] ? ": " : "", f->detail);
}

static void read_body(struct json_obj *o, const char *name, struct wire_frame *f)
{
        json_t *body;

        if (json_get_any(o, name, &body) && json_is_object(body))
                f->body = json_incref(body);
        else
                json_faults_add(o->faults, "", "the frame has no object '%s'", name);
}

static void read_signal(struct json_obj *o, struct wire_frame *f)
{
        json_t *v;

        if (!json_get_any(o, "signal", &v)) {
                json_faults_add(o->faults, "/signal", "is required");
                return;
        }
        if (json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v))
                f->signo = wire_signal_parse(json_string_value(v));
        else if (json_is_integer(v) && json_integer_value(v) >= 1 && json_integer_value(v) <= 64)
                f->signo = (int)json_integer_value(v);
        if (f->signo <= 0)
                json_faults_add(o->faults, "/signal", "is no signal");
}

static void read_started(struct json_obj *o, struct wire_frame *f)
{
        const char *id;

        if (json_get_str(o, "id", &id, NULL) && strlen(id) < sizeof(f->id))
                (void)snprintf(f->id, sizeof(f->id), "%s", id);
        else
                json_faults_add(o->faults, "/id", "is required");
}

static void read_pulling(struct json_obj *o, struct wire_frame *f)
{
        int64_t done = 0, total = 0;

        (void)json_get_int(o, "done", 0, INT64_MAX, &done);
        (void)json_get_int(o, "total", 0, INT64_MAX, &total);
        f->done = (uint64_t)done;
        f->total = (uint64_t)total;
}

static void read_frame(struct json_obj *o, bool server, struct wire_frame *f)
{
        int type = 0;

        if (!json_get_enum(o, "type", types, &type)) {
                if (!json_object_get(o->value, "type"))
                        json_faults_add(o->faults, "/type", "is required");
                return;
        }
        f->type = (enum wire_frame_type)type;
        if ((f->type >= WIRE_FRAME_PULLING) != server) {
                json_faults_add(o->faults, "/type", "\"%s\" is what the other side sends", types[type]);
                return;
        }
        switch (f->type) {
        case WIRE_FRAME_SIGNAL:
                read_signal(o, f);
                break;
        case WIRE_FRAME_STDIN_END:
        case WIRE_FRAME_CANCEL:
                break;
        case WIRE_FRAME_PULLING:
                read_pulling(o, f);
                break;
        case WIRE_FRAME_STARTED:
                read_started(o, f);
                break;
        case WIRE_FRAME_RESULT:
                read_body(o, "task", f);
                break;
        case WIRE_FRAME_PROBLEM:
                read_body(o, "problem", f);
                break;
        }
}

int wire_frame_read(const char *text, size_t len, bool server, struct wire_frame *ret, struct err *err)
{
        struct json_faults faults = { .items = NULL };
        struct wire_frame f = { .body = NULL };
        auto_json value = NULL;
        struct json_obj o;
        int r;

        if (!server && len > WIRE_FRAME_MAX)
                return err_set(err, EINVAL, "a message of more than %d bytes", WIRE_FRAME_MAX);
        r = json_read(text, len, &value, err);
        if (r < 0)
                return r;
        if (json_obj_init(&o, value, "", &faults) == 0) {
                read_frame(&o, server, &f);
                json_obj_done(&o);
        }
        if (faults.len > 0) {
                r = fault_error(&faults, err);
                wire_frame_done(&f);
        } else {
                *ret = f;
        }
        json_faults_done(&faults);
        return r;
}

int wire_frame_signal(int signo, struct str *out)
{
        char name[16];

        return str_addf(out, "{\"type\":\"signal\",\"signal\":\"%s\"}", wire_signal_name(signo, name));
}

int wire_frame_stdin_end(struct str *out)
{
        return str_adds(out, "{\"type\":\"stdin_end\"}");
}

int wire_frame_cancel(struct str *out)
{
        return str_adds(out, "{\"type\":\"cancel\"}");
}

int wire_frame_pulling(uint64_t done, uint64_t total, struct str *out)
{
        return str_addf(out, "{\"type\":\"pulling\",\"done\":%" PRIu64 ",\"total\":%" PRIu64 "}", done, total);
}

int wire_frame_started(const char *id, struct str *out)
{
        return str_addf(out, "{\"type\":\"started\",\"id\":\"%s\"}", id);
}

static int wrap(const char *head, const char *document, size_t len, struct str *out)
{
        size_t before = out->len;

        if (str_reserve(out, strlen(head) + len + 1) < 0)
                return -ENOMEM;
        if (str_adds(out, head) == 0 && str_add(out, document, len) == 0 && str_addc(out, '}') == 0)
                return 0;
        out->len = before;
        return -ENOMEM;
}

int wire_frame_result(const char *document, size_t len, struct str *out)
{
        return wrap("{\"type\":\"result\",\"task\":", document, len, out);
}

int wire_frame_problem(const char *document, size_t len, struct str *out)
{
        return wrap("{\"type\":\"problem\",\"problem\":", document, len, out);
}

/* ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_end(const struct wire_log_event *e, struct str *out)
{
        int r = str_addf(out, "{\"status\":\"%s\",\"exit_code\":", e->status);

        if (r == 0)
                r = e->exit_code < 0 ? str_adds(out, "null") : str_addf(out, "%d", e->exit_code);
        if (r == 0)
                r = e->reason[0] ? str_addf(out, ",\"reason\":\"%s\"", e->reason) : str_adds(out, ",\"reason\":null");
        if (r == 0)
                r = str_adds(out, e->truncated ? ",\"truncated\":true}" : ",\"truncated\":false}");
        return r;
}

int wire_log_event_write(const struct wire_log_event *e, struct str *out)
{
        bool text;
        int r;

        if (e->end)
                return write_end(e, out);
        text = e->len == 0 || (!memchr(e->data, 0, e->len) && utf8_valid(e->data, e->len));
        r = str_addf(out, "{\"stream\":\"%s\",\"offset\":%" PRIu64, streams[e->stream ? 1 : 0], e->offset);
        if (r == 0 && e->time[0])
                r = str_addf(out, ",\"time\":\"%s\"", e->time);
        if (r == 0)
                r = str_addf(out, ",\"encoding\":\"%s\",\"data\":", encodings[text ? 0 : 1]);
        if (r == 0 && text)
                return (r = json_add_string(out, e->len ? e->data : "", e->len)) < 0 ? r : str_addc(out, '}');
        if (r == 0)
                r = str_addc(out, '"');
        if (r == 0)
                r = base64_encode(out, e->data, e->len);
        return r < 0 ? r : str_adds(out, "\"}");
}

static void copy_word(struct json_obj *o, const char *name, char *ret, size_t size)
{
        json_t *v;

        if (!json_get_any(o, name, &v) || json_is_null(v))
                return;
        if (!json_is_string(v) || json_string_length(v) >= size)
                json_faults_add(o->faults, name, "is no word");
        else
                (void)snprintf(ret, size, "%s", json_string_value(v));
}

static void read_end(struct json_obj *o, struct wire_log_event *e)
{
        const json_t *code = json_object_get(o->value, "exit_code");

        e->end = true;
        copy_word(o, "status", e->status, sizeof(e->status));
        copy_word(o, "reason", e->reason, sizeof(e->reason));
        e->exit_code = json_is_integer(code) ? (int)json_integer_value(code) & 0xff : -1;
        e->truncated = json_is_true(json_object_get(o->value, "truncated"));
}

static int read_data(struct json_obj *o, struct wire_log_event *e)
{
        auto_str data = STR_INIT;
        int64_t offset = 0;
        int encoding = 0, r;
        const char *text = "";
        size_t len = 0;

        if (!json_get_enum(o, "stream", streams, &e->stream) || !json_get_int(o, "offset", 0, INT64_MAX, &offset) ||
            !json_get_str(o, "data", &text, &len))
                json_faults_add(o->faults, "", "is no event of a log");
        (void)json_get_enum(o, "encoding", encodings, &encoding);
        copy_word(o, "time", e->time, sizeof(e->time));
        if (e->time[strspn(e->time, "0123456789-:.TZ")])
                json_faults_add(o->faults, "time", "is no time");
        e->offset = (uint64_t)offset;
        r = encoding == 0 ? str_add(&data, text, len) : base64_decode(&data, text, len);
        if (r < 0)
                return r;
        e->len = data.len;
        e->data = str_take(&data);
        return e->data ? 0 : -ENOMEM;
}

int wire_log_event_read(const char *text, size_t len, struct wire_log_event *ret, struct err *err)
{
        struct json_faults faults = { .items = NULL };
        struct wire_log_event e = { .exit_code = -1 };
        auto_json value = NULL;
        struct json_obj o;
        int r;

        r = json_read(text, len, &value, err);
        if (r < 0)
                return r;
        /* Members of a newer daemon pass, so the cursor is not asked about what is left. */
        if (json_obj_init(&o, value, "", &faults) == 0) {
                if (json_object_get(value, "status"))
                        read_end(&o, &e);
                else
                        r = read_data(&o, &e);
                json_decref(o.seen);
        }
        if (faults.len > 0)
                r = fault_error(&faults, err);
        else if (r < 0)
                r = r == -EINVAL ? err_set(err, EINVAL, "is no event of a log") : err_oom(err);
        json_faults_done(&faults);
        if (r < 0) {
                wire_log_event_done(&e);
                return r;
        }
        *ret = e;
        return 0;
}

void wire_log_event_done(struct wire_log_event *e)
{
        free((void *)e->data);
        e->data = NULL;
}

/* RFC 3629: a sequence has at most four bytes. */
size_t wire_text_cut(const void *data, size_t len)
{
        const unsigned char *p = data;

        for (size_t back = 1; back <= 3 && back < len; back++) {
                unsigned char c = p[len - back];
                size_t want = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;

                if ((c & 0xc0) == 0x80)
                        continue;
                return want > back ? len - back : len;
        }
        return len;
}
