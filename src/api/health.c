/* /healthz, /v1/version, /v1/health */

#include "api/internal.h"
#include "base/time.h"

#include <errno.h>
#include <string.h>

/* How long the result of a task that health ran is answered again. */
#define HEALTH_CACHE_NS (5 * NS_PER_S)
#define HEALTH_TIMEOUT_NS (10 * (int64_t)NS_PER_S)
#define HEALTH_OWNER "health"

void healthz_run(struct call *c)
{
        auto_str text = STR_INIT;

        if (str_adds(&text, c->api->draining ? "{\"status\":\"draining\"}" : "{\"status\":\"ok\"}") < 0)
                call_oom(c);
        else
                call_answer(c, c->api->draining ? 503 : 200, &text);
}

void version_run(struct call *c)
{
        auto_str text = STR_INIT;

        if (str_addf(&text, "{\"name\":\"mayfly\",\"version\":\"%s\",\"engine\":\"%s\"}", MAYFLY_VERSION,
                     c->api->config.engine->ops->name) < 0)
                call_oom(c);
        else
                call_answer(c, 200, &text);
}

/* ── the full check ────────────────────────────────────────────────────────────────────────────────────────────────── */

void health_init(struct health *h)
{
        list_init(&h->waiting);
}

void health_done(struct api *a)
{
        if (a->health.task)
                task_forget(a->health.task, a);
        str_done(&a->health.body);
}

/* {"status", "engine": {"name", "status", "detail"}, "task": {"status", "detail", "run_ms"}} */
static int health_write(struct str *out, struct api *a, const char *engine_fault, const char *task_status,
                        const char *task_detail, int64_t run_ns)
{
        auto_json o = NULL;
        auto_json task = json_null();
        bool ok = !engine_fault && !str_eq(task_status, "failed");

        if (task_status)
                task = json_pack("{s:s, s:s?, s:o}", "status", task_status, "detail", task_detail, "run_ms",
                                 run_ns >= 0 ? json_real((double)run_ns / 1e6) : json_null());
        o = json_pack("{s:s, s:{s:s, s:s, s:s?}, s:O}", "status", ok ? "ok" : "failed", "engine", "name",
                      a->config.engine->ops->name, "status", engine_fault ? "failed" : "ok", "detail", engine_fault,
                      "task", task);
        return o ? json_write(o, out) : -ENOMEM;
}

static void answer_again(struct call *c)
{
        const struct health *h = &c->api->health;
        auto_str text = STR_INIT;

        if (str_add(&text, h->body.data, h->body.len) < 0)
                call_oom(c);
        else
                call_answer(c, h->status, &text);
}

/* The result is there: keeps it, and answers all who wait. */
static void health_settle(struct api *a, const char *task_status, const char *detail, int64_t run_ns)
{
        struct health *h = &a->health;
        struct call *c;

        str_clear(&h->body);
        h->running = false;
        h->task = NULL;
        h->status = str_eq(task_status, "failed") ? 503 : 200;
        h->checked_ns = health_write(&h->body, a, NULL, task_status, detail, run_ns) < 0 ? 0 : time_mono_ns();
        LIST_FOREACH(c, &h->waiting, health_node) {
                list_remove(&c->health_node);
                if (h->checked_ns == 0)
                        call_oom(c);
                else
                        answer_again(c);
        }
}

/* The image may hold nothing that can be run: that the task got as far as its exec shows that all else works. */
static void on_health_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct api *a = data;
        bool ok = result->status == WIRE_EXITED || result->reason == WIRE_REASON_COMMAND_NOT_FOUND ||
                  result->reason == WIRE_REASON_COMMAND_NOT_EXECUTABLE;

        (void)t;
        if (ok)
                health_settle(a, "ok", NULL, result->run_ns);
        else
                health_settle(a, "failed", result->detail ? result->detail : wire_reason_names[result->reason], -1);
}

static int request_fill(struct wire_task_request *r, const char *image)
{
        *r = (struct wire_task_request){ .network = WIRE_NET_NONE };
        wire_limits_default(&r->limits);
        r->limits.memory = 32 << 20;
        r->limits.disk = 1 << 20;
        r->limits.shm = 1 << 20;
        r->limits.timeout_ns = HEALTH_TIMEOUT_NS;
        r->limits.queue_timeout_ns = HEALTH_TIMEOUT_NS;
        r->image = strdup(image);
        return r->image && strv_add(&r->entrypoint, "/bin/true") == 0 ? 0 : -ENOMEM;
}

static void health_start(struct api *a)
{
        const struct task_waiter waiter = { .ended = on_health_ended, .data = a };
        const struct task_submit how = { .owner = HEALTH_OWNER };
        struct wire_task_request request;
        const struct image *image;
        struct err err = ERR_INIT;
        size_t pos = 0;
        int r;

        image = image_store_next(a->config.store, &pos);
        if (!image) {
                health_settle(a, "skipped", "no image is present", -1);
                return;
        }
        r = request_fill(&request, image->names && image->names[0] ? image->names[0] : image->digest);
        if (r == 0)
                r = tasks_submit(a->config.tasks, &request, &how, &waiter, &a->health.task, &err);
        if (r < 0) {
                wire_task_request_done(&request);
                health_settle(a, "failed", err.num ? err.text : strerror(-r), -1);
        }
}

void health_call_gone(struct call *c)
{
        list_remove(&c->health_node);
}

static void health_full(struct call *c)
{
        struct health *h = &c->api->health;

        if (!h->running && h->checked_ns != 0 && time_mono_ns() - h->checked_ns < HEALTH_CACHE_NS) {
                answer_again(c);
                return;
        }
        list_append(&h->waiting, &c->health_node);
        if (h->running)
                return;
        h->running = true;
        health_start(c->api);
}

void health_run(struct call *c)
{
        const struct engine *engine = c->api->config.engine;
        const char *full = call_query(c, "full");
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        int r = 0;

        if (full && !str_eq(full, "0") && !str_eq(full, "1")) {
                call_problem(c, 400, "bad_request", "full: not 0 or 1");
                return;
        }
        if (engine->ops->check)
                r = engine->ops->check(c->api->config.engine, &err);
        if (r == 0 && str_eq(full, "1")) {
                health_full(c);
                return;
        }
        if (health_write(&text, c->api, r < 0 ? err.text : NULL, NULL, NULL, -1) < 0)
                call_oom(c);
        else
                call_answer(c, r < 0 || c->api->draining ? 503 : 200, &text);
}
