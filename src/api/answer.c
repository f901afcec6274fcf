/* How a call is answered. */

#include "api/internal.h"
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

/* RFC 9110 section 15, RFC 4918 section 11, RFC 6585. */
static const char *status_title(int status)
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
                { 409, "Conflict" },
                { 410, "Gone" },
                { 413, "Content too large" },
                { 415, "Unsupported media type" },
                { 422, "Unprocessable content" },
                { 429, "Too many requests" },
                { 500, "Internal error" },
                { 502, "Bad gateway" },
                { 503, "Service unavailable" },
                { 507, "Insufficient storage" },
        };

        for (size_t i = 0; i < ARRAY_LEN(titles); i++)
                if (titles[i].status == status)
                        return titles[i].title;
        return "Error";
}

void call_send(struct call *c, int status, const char *type, struct str *text)
{
        auto_str own = *text;

        *text = (struct str)STR_INIT;
        if (!c->http || c->answered)
                return;
        c->answered = true;
        log_debug("api: %s %s %s %d %s", c->who.owner, http_method(c->http), http_path(c->http), status, c->request_id);
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

const char *call_query(const struct call *c, const char *name)
{
        return http_query(c->http, name);
}
