/* Answers that are server-sent events of progress, then `done` or `error`. */

#include "api/internal.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <string.h>

#define BEAT_NS (15 * NS_PER_S)

bool call_wants_events(const struct call *c)
{
        const char *accept = http_header(c->http, "Accept");

        return accept && strstr(accept, "text/event-stream");
}

static int write_event(struct call *c, const char *event, json_t *value)
{
        auto_json owned = value;
        auto_str data = STR_INIT, text = STR_INIT;

        if (!owned || json_write(owned, &data) < 0 || str_addf(&text, "event: %s\ndata: %s\n\n", event, data.data) < 0)
                return -ENOMEM;
        return http_stream_write(c->http, text.data, text.len);
}

void call_event(struct call *c, json_t *value)
{
        (void)write_event(c, "progress", value);
}

static void end(struct call *c, const char *event, json_t *value)
{
        loop_timer_cancel(&c->timer);
        if (write_event(c, event, value) < 0)
                http_stream_abort(c->http);
        else
                (void)http_stream_end(c->http);
}

void call_events_done(struct call *c, json_t *value)
{
        end(c, "done", value);
}

void call_events_fail(struct call *c, int status, const char *reason, const char *detail)
{
        end(c, "error",
            json_pack("{s:s+, s:s, s:i, s:s, s:s}", "type", "urn:mayfly:problem:", reason, "title",
                      status_title(status), "status", status, "detail", detail, "request_id", c->request_id));
}

static void on_beat(struct loop_timer *timer, void *data)
{
        struct call *c = data;

        if (http_stream_pending(c->http) == 0)
                (void)http_stream_write(c->http, ":\n\n", 3);
        (void)loop_timer_set(c->api->loop, timer, time_mono_ns() + BEAT_NS, on_beat, c);
}

bool call_events_begin(struct call *c)
{
        call_log(c, 200);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        (void)http_add_header(c->http, "Cache-Control", "no-store");
        c->answered = true;
        if (http_stream_begin(c->http, 200, "text/event-stream") < 0)
                return false;
        (void)loop_timer_set(c->api->loop, &c->timer, time_mono_ns() + BEAT_NS, on_beat, c);
        return true;
}
