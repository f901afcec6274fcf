/* /v1/tasks */

#include "api/internal.h"
#include "api/text.h"
#include "base/id.h"
#include "base/vec.h"
#include "image/ref.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define LIST_DEFAULT 100
#define LIST_MAX 1000

/* ── how an ended task is answered ─────────────────────────────────────────────────────────────────────────────────── */

/* 0: the task's document; else a problem of that status. */
static int outcome_status(enum wire_status status, enum wire_reason reason)
{
        if (status != WIRE_FAILED)
                return 0;
        switch (reason) {
        case WIRE_REASON_IMAGE_NOT_FOUND:
                return 404;
        case WIRE_REASON_IMAGE_UNAUTHORIZED:
                return 403;
        case WIRE_REASON_REGISTRY_ERROR:
                return 502;
        case WIRE_REASON_START_ERROR:
                return 500;
        case WIRE_REASON_QUEUE_TIMEOUT:
                return 503;
        default:
                return 0;
        }
}

static void answer_created(struct call *c, const char *id, struct str *text)
{
        char location[64];

        if (c->http) {
                (void)snprintf(location, sizeof(location), "/v1/tasks/%s", id);
                (void)http_add_header(c->http, "Location", location);
        }
        call_answer(c, 201, text);
}

static void on_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct call *c = data;
        auto_str text = STR_INIT;
        int status = outcome_status(result->status, result->reason);

        (void)t;
        c->task = NULL;
        if (status != 0)
                call_problem_of(c, status, wire_reason_names[result->reason], result->detail, result->id, NULL);
        else if (wire_task_write(result, &text) < 0)
                call_oom(c);
        else
                answer_created(c, result->id, &text);
        call_release(c);
}

void tasks_call_gone(struct call *c)
{
        struct task *t = c->task;

        if (!t)
                return;
        c->task = NULL;
        /* A daemon that stops is no client that hangs up. */
        if (c->api->closing)
                task_leave(t, c);
        else
                task_forget(t, c);
        call_release(c);
}

static int word_of(const char *const *words, const char *word)
{
        for (int i = 0; word && words[i]; i++)
                if (str_eq(words[i], word))
                        return i;
        return 0;
}

static int record_text(const struct history_record *record, struct str *out)
{
        const void *const data[2] = { record->out[0].data, record->out[1].data };
        const size_t len[2] = { record->out[0].len, record->out[1].len };

        return wire_task_add_output(record->document.data, record->document.len, data, len, &record->outputs, out);
}

/* A stored task, as its end was answered. */
static void answer_record(struct call *c, const struct history_record *record)
{
        auto_json document = NULL;
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        const char *reason;
        int status;

        if (json_read(record->document.data, record->document.len, &document, &err) < 0) {
                call_problem(c, 500, "internal", "task %s: %s", record->id, err.text);
                return;
        }
        reason = json_string_value(json_object_get(document, "reason"));
        status = outcome_status((enum wire_status)word_of(wire_status_names, record->status),
                                (enum wire_reason)word_of(wire_reason_names, reason));
        if (status != 0)
                call_problem_of(c, status, reason, json_string_value(json_object_get(document, "detail")), record->id,
                                NULL);
        else if (record_text(record, &text) < 0)
                call_oom(c);
        else
                answer_created(c, record->id, &text);
}

/* ── POST /v1/tasks ────────────────────────────────────────────────────────────────────────────────────────────────── */

static void refuse_submit(struct call *c, int r, const struct err *err)
{
        switch (-r) {
        case EEXIST:
                call_problem(c, 422, "idempotency_mismatch", "the key was used with another body");
                break;
        case EAGAIN:
                (void)http_add_header(c->http, "Retry-After", "1");
                call_problem(c, 429, "queue_full", "%s", err->num ? err->text : "the queue is full");
                break;
        case ESHUTDOWN:
                (void)http_add_header(c->http, "Retry-After", "1");
                call_problem(c, 503, "draining", "the daemon is stopping");
                break;
        case EINVAL:
                call_problem(c, 400, "bad_request", "%s", err->text);
                break;
        case ENOMEM:
                call_oom(c);
                break;
        default:
                call_problem(c, 500, "internal", "%s", err->text);
                break;
        }
}

static void submit(struct call *c)
{
        const struct task_waiter waiter = { .ended = on_ended, .data = c };
        const struct task_submit how = {
                .owner = c->who.owner,
                .idempotency_key = c->key,
                .body_hash = c->key ? c->body_hash : NULL,
                .cancel_when_alone = true,
        };
        struct err err = ERR_INIT;
        int r;

        call_hold(c);
        r = tasks_submit(c->api->config.tasks, &c->request, &how, &waiter, &c->task, &err);
        if (r >= 0) {
                c->request = (struct wire_task_request){ .image = NULL };
                return;
        }
        refuse_submit(c, r, &err);
        call_release(c);
}

/* Its tasks are looked for among the live ones in the very callback that says that history has none: one that reaches
 * history in between is still live, because its own callback comes after this one. */
static void on_key_found(int r, struct history_record *record, const struct err *err, void *data)
{
        struct call *c = data;

        if (!c->http)
                ;
        else if (r == -ENOENT)
                submit(c);
        else if (r == -ESTALE)
                call_problem(c, 410, "result_gone", "the key's task has run, and its result is kept no longer");
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        else if (memcmp(record->body_hash, c->body_hash, sizeof(c->body_hash)) != 0)
                call_problem(c, 422, "idempotency_mismatch", "the key was used with another body");
        else
                answer_record(c, record);
        call_release(c);
}

/* 0, 1 after having answered. */
static int read_key(struct call *c)
{
        const char *key = http_header(c->http, "Idempotency-Key");

        if (!key)
                return 0;
        if (!idempotency_key_valid(key)) {
                call_problem(c, 400, "bad_request", "Idempotency-Key must be 1 to %d visible ASCII characters",
                             API_KEY_MAX);
                return 1;
        }
        c->key = strdup(key);
        if (!c->key || EVP_Digest(c->body.data, c->body.len, c->body_hash, NULL, EVP_sha256(), NULL) != 1) {
                call_oom(c);
                return 1;
        }
        return 0;
}

/* The grammar of references, and what else names an image: a digest's hex. */
static bool image_named(const char *image)
{
        struct image_ref ref;

        return image_ref_parse_docker(image, &ref, NULL) == 0 || hex_is_lower(image, 64);
}

/* What only the image can tell, where it is present. */
static void check_user(struct call *c, struct json_faults *faults)
{
        const struct image *image;
        struct image_user user;
        struct err err = ERR_INIT;

        if (!c->request.user)
                return;
        image = image_store_find(c->api->config.store, c->request.image, NULL);
        if (image && image_user_resolve(c->api->config.store, image, c->request.user, &user, &err) < 0)
                json_faults_add(faults, "/user", "%s", err.text);
}

/* 0, 1 after having answered. */
static int read_request(struct call *c)
{
        struct json_faults faults = { .items = NULL };
        struct err err = ERR_INIT;
        auto_json body = NULL;
        bool refused;
        int r;

        r = json_read(c->body.data ? c->body.data : "", c->body.len, &body, &err);
        if (r < 0) {
                json_faults_add(&faults, "", "%s", err.text);
        } else {
                r = wire_task_request_read(body, &c->request, &faults);
                if (r == 0 && !image_named(c->request.image))
                        json_faults_add(&faults, "/image", "is not a reference");
                else if (r == 0)
                        check_user(c, &faults);
        }
        refused = faults.len > 0;
        if (refused)
                call_problem_of(c, 400, "bad_request", "the body is not a valid task", NULL, &faults);
        json_faults_done(&faults);
        return refused;
}

void tasks_create_run(struct call *c)
{
        struct err err = ERR_INIT;
        int r;

        if (read_key(c) || read_request(c))
                return;
        str_done(&c->body);
        if (!c->key) {
                submit(c);
                return;
        }
        call_hold(c);
        r = history_find_key(c->api->config.history, c->who.owner, c->key, on_key_found, c, &err);
        if (r < 0) {
                call_problem(c, 503, "history", "%s", err.text);
                call_release(c);
        }
}

/* ── GET /v1/tasks/{id} ────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_record(int r, struct history_record *record, const struct err *err, void *data)
{
        struct call *c = data;
        auto_str text = STR_INIT;

        if (!c->http) {
                /* nobody to tell */
        } else if (r == -ENOENT) {
                call_problem(c, 404, "not_found", "there is no task %s", c->subject);
        } else if (r < 0) {
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        } else if (record_text(record, &text) < 0) {
                call_oom(c);
        } else {
                call_answer(c, 200, &text);
        }
        call_release(c);
}

static void get_record(struct call *c)
{
        struct err err = ERR_INIT;

        call_hold(c);
        if (history_get(c->api->config.history, c->subject, NULL, on_record, c, &err) == 0)
                return;
        call_problem(c, 503, "history", "%s", err.text);
        call_release(c);
}

void tasks_get_run(struct call *c)
{
        auto_str text = STR_INIT;
        struct wire_task now;
        struct task *t;

        if (!id_valid(c->subject)) {
                call_problem(c, 404, "not_found", "there is no task %s", c->subject);
                return;
        }
        t = tasks_find(c->api->config.tasks, c->subject);
        if (!t) {
                get_record(c);
                return;
        }
        task_describe(t, &now);
        if (wire_task_write(&now, &text) < 0)
                call_oom(c);
        else
                call_answer(c, 200, &text);
}

/* ── GET /v1/tasks ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct filter {
        const char *status, *image, *before;
        char image_text[REF_TEXT_MAX];
        uint64_t since_ms, until_ms;
        uint32_t limit;
};

/* A time as RFC 3339, or seconds since 1970. */
static bool read_time(struct call *c, const char *name, uint64_t *ret_ms)
{
        const char *value = call_query(c, name);
        uint64_t seconds;

        if (!value)
                return true;
        if (parse_u64(value, &seconds) == 0 && seconds <= UINT64_C(1) << 40)
                *ret_ms = seconds * 1000;
        else if (rfc3339_parse(value, ret_ms) < 0) {
                call_problem(c, 400, "bad_request", "%s: not a time of RFC 3339, nor seconds since 1970", name);
                return false;
        }
        return true;
}

/* False after having answered. */
static bool filter_read(struct call *c, struct filter *f)
{
        const char *image = call_query(c, "image"), *limit = call_query(c, "limit");
        struct image_ref ref;

        *f = (struct filter){ .status = call_query(c, "status"), .before = call_query(c, "cursor") };
        f->limit = LIST_DEFAULT;
        if (f->status && !str_eq(f->status, wire_status_names[0]) && word_of(wire_status_names, f->status) == 0) {
                call_problem(c, 400, "bad_request", "status: no state of a task");
                return false;
        }
        if (image && image_ref_parse_docker(image, &ref, NULL) < 0) {
                call_problem(c, 400, "bad_request", "image: not a reference");
                return false;
        }
        if (image) {
                image_ref_format(&ref, f->image_text);
                f->image = f->image_text;
        }
        if (limit && (parse_u32(limit, &f->limit) < 0 || f->limit < 1 || f->limit > LIST_MAX)) {
                call_problem(c, 400, "bad_request", "limit: not a number from 1 to %d", LIST_MAX);
                return false;
        }
        if (f->before && !id_valid(f->before)) {
                call_problem(c, 400, "bad_request", "cursor: not one of a list's");
                return false;
        }
        return read_time(c, "since", &f->since_ms) && read_time(c, "until", &f->until_ms);
}

/* A task that has not got its image yet has the reference as it was given. */
static bool image_matches(const char *image, const char *given)
{
        char text[REF_TEXT_MAX];
        struct image_ref ref;

        if (str_eq(image, given))
                return true;
        if (!given || image_ref_parse_docker(given, &ref, NULL) < 0)
                return false;
        image_ref_format(&ref, text);
        return str_eq(image, text);
}

static bool filter_matches(const struct filter *f, const struct wire_task *t)
{
        if (f->status && !str_eq(f->status, wire_status_names[t->status]))
                return false;
        if (f->image && !image_matches(f->image, t->image_ref))
                return false;
        if (f->before && strcmp(t->id, f->before) >= 0)
                return false;
        return t->created_ms >= f->since_ms && (f->until_ms == 0 || t->created_ms < f->until_ms);
}

/* One line of the list: a live task, or a record. */
struct entry {
        char id[32];
        struct task *task;
        const struct history_record *record;
};

typedef VEC(struct entry) entries_t;

static int entry_order(const void *a, const void *b)
{
        const struct entry *x = a, *y = b;
        int order = strcmp(y->id, x->id);

        /* Of a task that is in both, the record comes first. */
        return order ? order : (x->task ? 1 : 0) - (y->task ? 1 : 0);
}

/* Live tasks not older than `oldest` (NULL: any); the older ones belong to a later page. */
static int add_live(struct tasks *tasks, const struct filter *f, const char *oldest, entries_t *entries)
{
        struct wire_task now;
        struct task *t;
        size_t pos = 0;

        while ((t = tasks_next(tasks, &pos))) {
                struct entry e = { .task = t };

                task_describe(t, &now);
                if (!filter_matches(f, &now) || (oldest && strcmp(now.id, oldest) < 0))
                        continue;
                memcpy(e.id, now.id, sizeof(e.id));
                if (VEC_ADD(entries, e) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int entry_write(const struct entry *e, struct str *out)
{
        struct wire_task now;

        if (e->record)
                return str_add(out, e->record->document.data, e->record->document.len);
        task_describe(e->task, &now);
        now.has_output = false;
        return wire_task_write(&now, out);
}

static int entries_write(const entries_t *entries, uint32_t limit, bool more, struct str *out)
{
        const char *last = NULL;
        uint32_t n = 0;
        int r = str_adds(out, "{\"tasks\":[");

        for (size_t i = 0; r == 0 && i < entries->len; i++) {
                const struct entry *e = &entries->items[i];

                if (str_eq(last, e->id))
                        continue;
                if (n == limit) {
                        more = true;
                        break;
                }
                if (n++ > 0)
                        r = str_addc(out, ',');
                if (r == 0)
                        r = entry_write(e, out);
                last = e->id;
        }
        if (r < 0)
                return r;
        return more && last ? str_addf(out, "],\"next_cursor\":\"%s\"}", last)
                            : str_adds(out, "],\"next_cursor\":null}");
}

static int list_write(struct tasks *tasks, const struct filter *f, const struct history_record *records, size_t n,
                      bool more, struct str *out)
{
        entries_t entries = { .items = NULL };
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++) {
                struct entry e = { .record = &records[i] };

                memcpy(e.id, records[i].id, sizeof(e.id));
                r = VEC_ADD(&entries, e);
        }
        if (r == 0)
                r = add_live(tasks, f, more && n > 0 ? records[n - 1].id : NULL, &entries);
        if (r == 0 && entries.len > 0)
                qsort(entries.items, entries.len, sizeof(*entries.items), entry_order);
        if (r == 0)
                r = entries_write(&entries, f->limit, more, out);
        VEC_DONE(&entries);
        return r;
}

static void on_list(int r, const struct history_record *records, size_t n, bool more, const struct err *err, void *data)
{
        struct call *c = data;
        auto_str text = STR_INIT;
        struct filter f;

        if (!c->http)
                ;
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        else if (filter_read(c, &f)) {
                if (list_write(c->api->config.tasks, &f, records, n, more, &text) < 0)
                        call_oom(c);
                else
                        call_answer(c, 200, &text);
        }
        call_release(c);
}

void tasks_list_run(struct call *c)
{
        struct history_query query = { .owner = NULL };
        struct err err = ERR_INIT;
        struct filter f;

        if (!filter_read(c, &f))
                return;
        query.status = f.status;
        query.image = f.image;
        query.since_ms = f.since_ms;
        query.until_ms = f.until_ms;
        query.before = f.before;
        query.limit = f.limit;
        call_hold(c);
        if (history_list(c->api->config.history, &query, on_list, c, &err) < 0) {
                call_problem(c, 503, "history", "%s", err.text);
                call_release(c);
        }
}
