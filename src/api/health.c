/* /healthz, /v1/version, /v1/health */

#include "api/internal.h"
#include "base/time.h"
#include "image/prune.h"

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
        auto_json answer = json_pack("{s:s, s:s, s:s, s:[]}", "name", "mayfly", "version", MAYFLY_VERSION, "engine",
                                     api_engine(c->api, NULL)->ops->name, "engines");

        for (size_t i = 0; answer && i < c->api->config.n_engines; i++)
                if (json_array_append_new(json_object_get(answer, "engines"),
                                          json_string(c->api->config.engines[i]->ops->name)) < 0) {
                        call_oom(c);
                        return;
                }
        call_answer_json(c, 200, answer);
}

/* ── the check ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

void health_init(struct api *a)
{
        for (size_t i = 0; i < a->config.n_engines; i++) {
                a->health[i] = (struct health){ .api = a, .engine = a->config.engines[i] };
                list_init(&a->health[i].waiting);
        }
}

void health_done(struct api *a)
{
        for (size_t i = 0; i < a->config.n_engines; i++)
                if (a->health[i].task)
                        task_forget(a->health[i].task, &a->health[i]);
}

static bool health_is_ok(const struct health_report *report)
{
        return !*report->engine_fault && !str_eq(report->task_status, "failed");
}

json_t *health_json(const struct call *c, const struct health_report *report)
{
        auto_json task = json_null();

        if (*report->task_status)
                task = json_pack("{s:s, s:s?, s:o}", "status", report->task_status, "detail",
                                 *report->task_detail ? report->task_detail : NULL, "run_ms",
                                 report->run_ns >= 0 ? json_real((double)report->run_ns / 1e6) : json_null());
        return json_pack("{s:{s:s, s:s, s:s?}, s:O, s:o}", "engine", "name", report->engine->ops->name, "status",
                         *report->engine_fault ? "failed" : "ok", "detail",
                         *report->engine_fault ? report->engine_fault : NULL, "task", task, "engines", engines_json(c));
}

/* The result is there: keeps it, and answers all who wait. */
static void health_settle(struct health *h, const char *task_status, const char *detail, int64_t run_ns)
{
        struct call *c;

        h->running = false;
        h->task = NULL;
        h->last = (struct health_report){ .engine = h->engine, .task_status = task_status, .run_ns = run_ns };
        (void)snprintf(h->last.task_detail, sizeof(h->last.task_detail), "%s", detail ? detail : "");
        h->last.ok = health_is_ok(&h->last);
        h->checked_ns = time_mono_ns();
        LIST_FOREACH(c, &h->waiting, health_node) {
                list_remove(&c->health_node);
                c->health_answer(c, &h->last);
        }
}

static void on_health_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct health *h = data;

        (void)t;
        if (result->status == WIRE_EXITED && result->exit_code == 0)
                health_settle(h, "ok", NULL, result->run_ns);
        else
                health_settle(h, "failed", result->detail ? result->detail : wire_reason_names[result->reason], -1);
}

static int request_fill(struct wire_task_request *r, const char *image, const char *engine)
{
        *r = (struct wire_task_request){ .network = WIRE_NET_NONE };
        wire_limits_default(&r->limits);
        r->limits.memory = 32 << 20;
        r->limits.disk = 1 << 20;
        r->limits.shm = 1 << 20;
        r->limits.timeout_ns = HEALTH_TIMEOUT_NS;
        r->limits.queue_timeout_ns = HEALTH_TIMEOUT_NS;
        r->image = strdup(image);
        r->engine = strdup(engine);
        return r->image && r->engine ? 0 : -ENOMEM;
}

static void health_start(struct health *h)
{
        const struct task_waiter waiter = { .ended = on_health_ended, .data = h };
        const struct task_submit how = { .owner = HEALTH_OWNER };
        const struct api_config *config = &h->api->config;
        struct wire_task_request request;
        struct err err = ERR_INIT;
        int r;

        r = request_fill(&request, config->health_image, h->engine->ops->name);
        if (r == 0)
                r = tasks_submit(config->tasks, &request, &how, &waiter, &h->task, &err);
        if (r < 0) {
                wire_task_request_done(&request);
                health_settle(h, "failed", err.num ? err.text : strerror(-r), -1);
        }
}

void health_call_gone(struct call *c)
{
        list_remove(&c->health_node);
}

void health_check(struct call *c, struct engine *engine, bool full, health_answer_fn fn)
{
        struct health_report report = { .task_status = "", .run_ns = -1 };
        struct health *h = c->api->health;
        struct err err = ERR_INIT;

        while (engine && h->engine != engine)
                h++;
        engine = h->engine;
        report.engine = engine;

        if (engine->ops->check && engine->ops->check(engine, &err) < 0)
                (void)snprintf(report.engine_fault, sizeof(report.engine_fault), "%s", err.text);
        report.ok = health_is_ok(&report);
        if (!full || !report.ok) {
                fn(c, &report);
                return;
        }
        if (!h->running && h->checked_ns != 0 && time_mono_ns() - h->checked_ns < HEALTH_CACHE_NS) {
                fn(c, &h->last);
                return;
        }
        c->health_answer = fn;
        list_append(&h->waiting, &c->health_node);
        if (h->running)
                return;
        h->running = true;
        health_start(h);
}

/* What hinders tasks, though the engine that was asked for is well: told beside the status, which it does not change. */
static json_t *warnings_json(const struct api *a, const struct engine *asked)
{
        auto_json list = json_array();

        for (size_t i = 0; list && i < a->config.n_engines; i++) {
                struct engine *e = a->config.engines[i];
                const char *notice = e->ops->notice ? e->ops->notice(e) : NULL;
                struct err err = ERR_INIT;

                if (notice && json_array_append_new(list, json_string(notice)) < 0)
                        return NULL;
                if (e != asked && e->ops->check && e->ops->check(e, &err) < 0 &&
                    json_array_append_new(list, json_sprintf("engine %s: %s", e->ops->name, err.text)) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

static json_t *store_json(const struct call *c)
{
        return json_pack("{s:s?, s:o}", "detail", image_store_fault(c->api->config.store), "repairs", repairs_json(c));
}

/* {"status", "engine": {"name", "status", "detail"}, "task": {"status", "detail", "run_ms"}, "engines": […], "warnings": […],
 * "store": {"detail", "repairs"}} */
static void health_answer(struct call *c, const struct health_report *report)
{
        auto_json o = health_json(c, report);
        auto_str text = STR_INIT;

        if (!o || json_object_set_new(o, "status", json_string(report->ok ? "ok" : "failed")) < 0 ||
            json_object_set_new(o, "warnings", warnings_json(c->api, report->engine)) < 0 ||
            json_object_set_new(o, "store", store_json(c)) < 0 || json_write(o, &text) < 0)
                call_oom(c);
        else
                call_answer(c, report->ok && !c->api->draining ? 200 : 503, &text);
}

void health_run(struct call *c)
{
        const char *full = call_query(c, "full"), *name = call_query(c, "engine");
        struct engine *engine = api_engine(c->api, name);

        if (full && !str_eq(full, "0") && !str_eq(full, "1") && !str_eq(full, "true") && !str_eq(full, "false"))
                call_problem(c, 400, "bad_request", "full: not 0, 1, false or true");
        else if (!engine)
                call_problem(c, 400, "bad_request", "engine: is no engine of this node");
        else
                health_check(c, engine, full && (str_eq(full, "1") || str_eq(full, "true")), health_answer);
}
