/* How a call is answered. */

#include "api/internal.h"
#include "base/log.h"
#include "base/time.h"

#include <stdarg.h>
#include <stdio.h>

/* RFC 9110 section 15, RFC 4918 section 11, RFC 6585. */
const char *status_title(int status)
{
        static const struct {
                int status;
                const char *title;
        } titles[] = {
                { 400, "Bad request" },
                { 401, "Unauthorized" },
                { 403, "Forbidden" },
                { 404, "Not found" },
                { 405, "Method not allowed" },
                { 411, "Length required" },
                { 409, "Conflict" },
                { 410, "Gone" },
                { 413, "Content too large" },
                { 415, "Unsupported media type" },
                { 416, "Range not satisfiable" },
                { 422, "Unprocessable content" },
                { 426, "Upgrade required" },
                { 429, "Too many requests" },
                { 500, "Internal error" },
                { 501, "Not implemented" },
                { 502, "Bad gateway" },
                { 503, "Service unavailable" },
                { 507, "Insufficient storage" },
        };

        for (size_t i = 0; i < ARRAY_LEN(titles); i++)
                if (titles[i].status == status)
                        return titles[i].title;
        return "Error";
}

/* How many lines a second, and at once: a flood of requests is not to become a flood of log. */
#define LOG_RATE 300
#define LOG_BURST 3000
#define LOG_PATH_MAX 256 /* bytes of a path; its query, which may hold secrets, is left out */

static bool log_allowed(struct api *a)
{
        uint64_t now = time_mono_ns();
        double since = a->log_ns ? (double)(now - a->log_ns) / (double)NS_PER_S : LOG_BURST;

        a->log_ns = now;
        a->log_tokens = MIN(LOG_BURST, a->log_tokens + since * LOG_RATE);
        if (a->log_tokens < 1) {
                a->log_left_out++;
                return false;
        }
        a->log_tokens -= 1;
        if (a->log_left_out > 0)
                log_info("api: %u requests were not logged", a->log_left_out);
        a->log_left_out = 0;
        return true;
}

void call_log(struct call *c, int status)
{
        if (!log_allowed(c->api))
                return;
        /* The path comes last: whatever a client puts there cannot pass for another field. */
        log_info("api: %d %.2fms who=%s from=%s id=%s %s %.*s", status, (double)(time_mono_ns() - c->begun_ns) / 1e6,
                 *c->who.owner ? c->who.owner : "-", http_peer_address(c->http)->text, c->request_id,
                 http_method(c->http), LOG_PATH_MAX, http_path(c->http));
}

void call_send(struct call *c, int status, const char *type, struct str *text)
{
        auto_str own = *text;

        *text = (struct str)STR_INIT;
        if (!c->http || c->answered)
                return;
        c->answered = true;
        call_log(c, status);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        if (c->api->draining)
                http_close_after(c->http);
        if (own.data)
                (void)http_reply_take(c->http, status, type, TAKE_PTR(own.data), own.len);
        else
                (void)http_reply(c->http, status, type, "", 0);
}

void call_answer(struct call *c, int status, struct str *text)
{
        call_send(c, status, "application/json", text);
}

void call_answer_json(struct call *c, int status, const json_t *value)
{
        auto_str text = STR_INIT;

        if (!value || json_write(value, &text) < 0)
                call_oom(c);
        else
                call_answer(c, status, &text);
}

void call_problem_of(struct call *c, int status, const char *reason, const char *detail, const char *task_id,
                     const struct json_faults *faults)
{
        auto_str text = STR_INIT;

        if (c->answered)
                return;
        if (c->root && c->root->problem) {
                c->root->problem(c, status, reason, detail, task_id, faults);
                return;
        }
        if (status >= 500 && status != 503)
                log_warn("api: request %s: %d %s: %s", c->request_id, status, reason, detail ? detail : "");
        (void)wire_problem_write(&text, status, reason, status_title(status), detail, c->request_id, task_id, faults);
        call_send(c, status, "application/problem+json", &text);
}

void call_problem(struct call *c, int status, const char *reason, const char *fmt, ...)
{
        char detail[ERR_TEXT_MAX];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(detail, sizeof(detail), fmt, ap);
        va_end(ap);
        call_problem_of(c, status, reason, detail, NULL, NULL);
}

void call_oom(struct call *c)
{
        call_problem_of(c, 503, "out_of_memory", "out of memory", NULL, NULL);
}

void call_retry_after(struct call *c, unsigned seconds)
{
        char text[16];

        (void)snprintf(text, sizeof(text), "%u", seconds);
        if (c->http)
                (void)http_add_header(c->http, "Retry-After", text);
}

void call_busy(struct call *c)
{
        call_retry_after(c, 1);
        call_problem_of(c, 503, "busy", "too much memory is in use for requests", NULL, NULL);
}

bool call_charge(struct call *c, size_t bytes)
{
        if (!c->http)
                return false;
        if (http_body_charge(c->http, bytes) < 0) {
                call_busy(c);
                return false;
        }
        c->charged += bytes;
        return true;
}

void call_discharge(struct call *c)
{
        if (c->http && c->charged > 0)
                http_body_release(c->http, c->charged);
        c->charged = 0;
}

const char *call_query(const struct call *c, const char *name)
{
        return http_query(c->http, name);
}
