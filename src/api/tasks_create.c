/* POST /v1/tasks */

#include "api/internal.h"
#include "api/text.h"
#include "base/time.h"
#include "state/seal.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

/* ── how an ended task is answered ─────────────────────────────────────────────────────────────────────────────────── */

int outcome_status(enum wire_status status, enum wire_reason reason)
{
        if (status != WIRE_FAILED)
                return 0;
        switch (reason) {
        case WIRE_REASON_IMAGE_NOT_FOUND:
                return 404;
        case WIRE_REASON_IMAGE_UNAUTHORIZED:
        case WIRE_REASON_IMAGE_UNTRUSTED:
                return 403;
        case WIRE_REASON_IMAGE_UNSUPPORTED:
                return 422;
        case WIRE_REASON_REGISTRY_ERROR:
        case WIRE_REASON_IMAGE_INVALID:
                return 502;
        case WIRE_REASON_REGISTRY_BUSY:
                return 503;
        case WIRE_REASON_NO_SPACE:
                return 507;
        case WIRE_REASON_IMAGE_BROKEN:
        case WIRE_REASON_START_ERROR:
                return 500;
        case WIRE_REASON_QUEUE_TIMEOUT:
                return 503;
        default:
                return 0;
        }
}

unsigned outcome_retry_after(enum wire_reason reason, unsigned said_s)
{
        if (reason != WIRE_REASON_REGISTRY_BUSY)
                return 0;
        return said_s ? said_s : API_BUSY_RETRY_S;
}

static void add_location(struct call *c, const char *id)
{
        char location[64];

        if (!c->http)
                return;
        (void)snprintf(location, sizeof(location), "/v1/tasks/%s", id);
        (void)http_add_header(c->http, "Location", location);
}

static void answer_with_location(struct call *c, int status, const char *id, struct str *text)
{
        add_location(c, id);
        call_answer(c, status, text);
}

static void answer_result(struct call *c, const struct wire_task *result)
{
        auto_str text = STR_INIT;
        int status = outcome_status(result->status, result->reason);
        unsigned retry_s = outcome_retry_after(result->reason, result->retry_after_s);

        if (retry_s > 0)
                call_retry_after(c, retry_s);
        if (status != 0)
                call_problem_of(c, status, wire_reason_names[result->reason], result->detail, result->id, NULL);
        else if (c->ended_task && output_is_long(result->out_len[0], result->out_len[1])) {
                add_location(c, result->id);
                answer_long_task(c, 201, result, c->ended_task);
        } else if (wire_task_write(result, &text) < 0)
                call_oom(c);
        else
                answer_with_location(c, 201, result->id, &text);
}

static void on_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct call *c = data;

        c->task = NULL;
        loop_timer_cancel(&c->timer);
        c->ended_task = t;
        if (c->http && !c->answered)
                c->ended(c, result);
        c->ended_task = NULL;
        call_release(c);
}

void tasks_call_gone(struct call *c)
{
        struct task *t = c->task;

        if (!t)
                return;
        c->task = NULL;
        loop_timer_cancel(&c->timer);
        /* A daemon that stops is no client that hangs up, and neither is one who only waited for somebody's task. */
        if (c->api->closing || c->route->op != OP_TASK_RUN)
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

int record_text(const struct history_record *record, struct str *out)
{
        const void *const data[2] = { record->out[0].data, record->out[1].data };
        const size_t len[2] = { record->out[0].len, record->out[1].len };

        return wire_task_add_output(record->document.data, record->document.len, data, len, &record->outputs, out);
}

void answer_record(struct call *c, struct history_record *record)
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
        if (outcome_retry_after((enum wire_reason)word_of(wire_reason_names, reason), 0) > 0)
                call_retry_after(c, API_BUSY_RETRY_S);
        if (status != 0)
                call_problem_of(c, status, reason, json_string_value(json_object_get(document, "detail")), record->id,
                                NULL);
        else if (output_is_long(record->out[0].len, record->out[1].len)) {
                add_location(c, record->id);
                answer_long_record(c, 201, record);
        } else if (record_text(record, &text) < 0)
                call_oom(c);
        else
                answer_with_location(c, 201, record->id, &text);
}

/* ── 202 ───────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_stored_record(int r, struct history_record *record, const struct err *err, void *data)
{
        struct call *c = data;

        if (!c->http)
                ;
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", err ? err->text : "history");
        else
                answer_record(c, record);
        call_release(c);
}

/* One that ended meanwhile is answered as such. */
static void answer_accepted(struct call *c, const char *id)
{
        struct task *t = tasks_find(c->api->config.tasks, id);
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        struct wire_task now;

        if (t) {
                task_describe(t, &now);
                now.has_output = false;
                if (now.status >= WIRE_EXITED && !c->request.no_wait)
                        return; /* its end is told in this turn */
                if (wire_task_write(&now, &text) < 0)
                        call_oom(c);
                else
                        answer_with_location(c, 202, id, &text);
                return;
        }
        call_hold(c);
        if (history_get(c->api->config.history, id, NULL, on_stored_record, c, &err) == 0)
                return;
        call_problem(c, 503, "history", "%s", err.text);
        call_release(c);
}

static void on_stored(int r, const char *id, const struct err *err, void *data)
{
        struct call *c = data;

        if (!c->http || c->answered) {
                /* nobody to tell */
        } else if (r == 0) {
                answer_accepted(c, id);
        } else if (r == -ENOSPC) {
                call_problem(c, 507, "no_space", "%s", err ? err->text : "the disk is full");
        } else {
                call_retry_after(c, 1);
                call_problem(c, 503, "not_stored", "%s", err ? err->text : "the request could not be stored");
        }
        call_release(c);
}

/* The time that the client would wait is over: the task runs on, but not before its request is on disk is that promised. */
static void on_wait_over(struct loop_timer *timer, void *data)
{
        struct call *c = data;
        struct err err = ERR_INIT;
        int r;

        (void)timer;
        if (!c->task)
                return;
        call_hold(c);
        r = task_store_request(c->task, on_stored, c, &err);
        if (r == 0)
                return;
        call_retry_after(c, 1);
        call_problem(c, 503, "not_stored", "%s", err.num ? err.text : strerror(-r));
        call_release(c);
}

/* ── submission ────────────────────────────────────────────────────────────────────────────────────────────────────── */

int submit_problem(const struct tasks *tasks, int r, struct err *err, const char **ret_reason, unsigned *ret_retry_s)
{
        static const struct {
                int num, status;
                const char *reason, *text; /* where err has none */
        } known[] = {
                { EEXIST, 422, "idempotency_mismatch", "the key was used with another body" },
                { EAGAIN, 429, "queue_full", "the queue is full" },
                { ESHUTDOWN, 503, "draining", "the daemon is stopping" },
                { ENOSPC, 503, "results_waiting", "too many results wait until they can be stored" },
                { EINVAL, 400, "bad_request", "the body is not a task that can run here" },
                { EPERM, 403, "not_allowed", "the key does not allow this" },
                { ENOMEM, 503, "out_of_memory", "out of memory" },
        };

        *ret_retry_s = r == -EAGAIN                                      ? tasks_retry_after(tasks)
                       : r == -ESHUTDOWN || r == -ENOMEM || r == -ENOSPC ? 1
                                                                         : 0;
        for (size_t i = 0; i < ARRAY_LEN(known); i++) {
                if (known[i].num != -r)
                        continue;
                if (!err->num || r == -EEXIST || r == -ESHUTDOWN)
                        (void)err_set(err, -r, "%s", known[i].text);
                *ret_reason = known[i].reason;
                return known[i].status;
        }
        *ret_reason = "internal";
        return 500;
}

static void refuse_submit(struct call *c, int r, struct err *err)
{
        const char *reason;
        unsigned retry_s;
        int status = submit_problem(c->api->config.tasks, r, err, &reason, &retry_s);

        if (retry_s > 0)
                call_retry_after(c, retry_s);
        call_problem_of(c, status, reason, err->text, NULL, c->faults.len > 0 ? &c->faults : NULL);
}

/* An image without a name runs under any that stands before its digest: of names that are allowed it has none. */
bool image_is_hidden(const struct api *a, const struct key *key, const struct wire_task_request *r, struct err *err)
{
        const struct image *image = key->images ? image_store_find(a->config.store, r->image, NULL) : NULL;

        if (!image || (image->names && image->names[0]) || key_allows_image(key, image->digest))
                return false;
        (void)err_set(err, EPERM, "image: is not allowed to this key");
        return true;
}

void maxima_of(const struct key *key, struct task_maxima *ret)
{
        static const struct {
                const char *name;
                enum engine_network mode;
        } networks[] = {
                { "none", ENGINE_NET_NONE },
                { "nat", ENGINE_NET_NAT },
                { "internet", ENGINE_NET_INTERNET },
        };

        *ret = (struct task_maxima){
                .limits = {
                        .timeout_ns = key->maxima.timeout_ns,
                        .queue_timeout_ns = key->maxima.queue_timeout_ns,
                        .cpu_time_ns = key->maxima.cpu_time_ns,
                        .memory = key->maxima.memory,
                        .disk = key->maxima.disk,
                        .shm = key->maxima.shm,
                        .output = key->maxima.output,
                        .cpu_milli = key->maxima.cpu_milli,
                        .pids = key->maxima.pids,
                },
                .images = key->images,
                .engines = key->engines,
                .max_running = key->maxima.max_running,
                .max_queued = key->maxima.max_queued,
        };
        for (size_t i = 0; i < ARRAY_LEN(networks) && key->networks; i++)
                if (key_allows_network(key, networks[i].name))
                        ret->networks |= 1u << networks[i].mode;
}

void call_run_task(struct call *c, void (*ended)(struct call *c, const struct wire_task *result))
{
        const struct key *key = call_key(c);
        bool store = c->request.no_wait;
        int64_t wait_ns = c->request.wait_ns;
        const struct task_waiter waiter = { .ended = on_ended, .data = c };
        struct task_maxima maxima;
        struct task_submit how = {
                .owner = c->who.owner,
                .idempotency_key = c->key,
                .body_hash = c->key ? c->body_hash : NULL,
                .cancel_when_alone = true,
                .stored = store ? on_stored : NULL,
                .stored_data = c,
                .faults = &c->faults,
        };
        struct err err = ERR_INIT;
        struct task *task = NULL;
        int r;

        if (*c->who.key_id && !key) {
                call_problem(c, 401, "unauthorized", "the key was revoked");
                return;
        }
        if (key && image_is_hidden(c->api, key, &c->request, &err)) {
                refuse_submit(c, -EPERM, &err);
                return;
        }
        if (key) {
                maxima_of(key, &maxima);
                how.maxima = &maxima;
        }
        c->ended = ended;
        call_hold(c);
        r = tasks_submit(c->api->config.tasks, &c->request, &how, store ? NULL : &waiter, &task, &err);
        if (r < 0) {
                refuse_submit(c, r, &err);
                call_release(c);
                return;
        }
        /* What is not its own any more; that it does not wait is still asked for. */
        c->request = (struct wire_task_request){ .no_wait = store };
        if (store)
                return;
        c->task = task;
        if (wait_ns > 0)
                (void)loop_timer_set(c->api->loop, &c->timer, time_mono_ns() + (uint64_t)wait_ns, on_wait_over, c);
}

/* Its tasks are looked for among the live ones in the very callback that says that history has none: one that reaches
 * history in between is still live, because its own callback comes after this one. */
static void on_key_found(int r, struct history_record *record, const struct err *err, void *data)
{
        struct call *c = data;

        if (!c->http)
                ;
        else if (r == -ENOENT)
                call_run_task(c, answer_result);
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

/* ── the body ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* False after having answered. */
static bool read_key(struct call *c)
{
        const char *key = http_header(c->http, "Idempotency-Key");

        if (!key)
                return true;
        if (!idempotency_key_valid(key)) {
                call_problem(c, 400, "bad_request", "Idempotency-Key must be 1 to %d visible ASCII characters",
                             API_KEY_MAX);
                return false;
        }
        c->key = strdup(key);
        if (!c->key)
                call_oom(c);
        return c->key;
}

/* The grammar of references, and what else names an image: a digest's hex. */
static bool image_named(const char *image)
{
        struct image_ref ref;

        return image_ref_parse_docker(image, &ref, NULL) == 0 || hex_is_lower(image, 64);
}

/* An entrypoint in the request puts the image's command out of force too. */
static bool has_command(const struct wire_task_request *r, const struct image *image)
{
        char *const *entrypoint = r->entrypoint ? r->entrypoint : image->entrypoint;
        char *const *cmd = r->cmd || r->entrypoint ? r->cmd : image->cmd;

        return (entrypoint && entrypoint[0]) || (cmd && cmd[0]);
}

void request_check(struct api *a, const struct wire_task_request *r, struct json_faults *faults)
{
        const struct engine *engine = api_engine(a, r->engine);
        const struct image *image = NULL;
        struct image_user user;
        struct err err = ERR_INIT;

        if (!image_named(r->image)) {
                json_faults_add(faults, "/image", "is not a reference");
                return;
        }
        /* An engine that is not ours has images of its own. */
        if (engine && !engine->ops->about)
                image = image_store_find(a->config.store, r->image, NULL);
        if (image && !has_command(r, image))
                json_faults_add(faults, "/cmd", "is required: the image names no command");
        if (image && r->user && image_user_resolve(a->config.store, image, r->user, &user, &err) < 0)
                json_faults_add(faults, "/user", "%s", err.text);
}

/* On any thread: touches what is the call's own. */
static void parse_run(void *data)
{
        struct call *c = data;
        struct err err = ERR_INIT;
        auto_json body = NULL;

        if (c->key &&
            EVP_Digest(c->body.data ? c->body.data : "", c->body.len, c->body_hash, NULL, EVP_sha256(), NULL) != 1) {
                c->parsed = -ENOMEM;
                return;
        }
        c->parsed = json_read_within(c->body.data ? c->body.data : "", c->body.len, WIRE_VALUES_MAX, &body, &err);
        if (c->parsed == 0)
                c->parsed = wire_task_request_read(body, &c->request, &c->faults);
        else if (c->parsed != -ENOMEM)
                json_faults_add(&c->faults, "", "%s", err.text);
        seal_wipe(&c->body);
}

static void run_parsed(struct call *c)
{
        struct err err = ERR_INIT;

        call_discharge(c);
        if (c->parsed == 0)
                request_check(c->api, &c->request, &c->faults);
        if (c->faults.len > 0) {
                call_problem_of(c, 400, "bad_request", "the body is not a valid task", NULL, &c->faults);
                return;
        }
        if (c->parsed < 0) {
                call_oom(c);
                return;
        }
        if (!c->key) {
                call_run_task(c, answer_result);
                return;
        }
        call_hold(c);
        if (history_find_key(c->api->config.history, c->who.owner, c->key, on_key_found, c, &err) == 0)
                return;
        call_problem(c, 503, "history", "%s", err.text);
        call_release(c);
}

static void parse_done(void *data)
{
        struct call *c = data;

        if (c->http)
                run_parsed(c);
        call_release(c);
}

void tasks_create_run(struct call *c)
{
        /* The JSON value, and what is made out of it, stand beside the text for a moment. */
        if (!read_key(c) || !call_charge(c, c->body.len))
                return;
        if (c->body.len <= API_INLINE_MAX) {
                parse_run(c);
                run_parsed(c);
        } else if (loop_work(c->api->loop, API_QUEUE, parse_run, parse_done, c) == 0) {
                call_hold(c);
        } else {
                call_busy(c);
        }
}
