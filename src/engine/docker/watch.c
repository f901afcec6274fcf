/* What Docker tells of its own accord (GET /events): that a process of a container was killed for want of memory. The rest of
 * the container goes with it, as in the native engine. */

#include "engine/docker/internal.h"

#include "base/log.h"

#include <limits.h>

static void on_line(const json_t *event, void *data)
{
        struct docker *d = data;
        const char *name = docker_event_oom(d, event);
        struct docker_container *c;

        if (!name)
                return;
        LIST_FOREACH(c, &d->containers, node) {
                if (!c->exec && str_eq(c->name, name)) {
                        docker_container_oom(c);
                        return;
                }
        }
}

static int on_event(struct docker_call *call, const void *bytes, size_t len, void *data)
{
        struct docker *d = data;

        (void)call;
        return docker_lines_feed(&d->events, bytes, len, on_line, d);
}

static void on_events_end(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;

        (void)call;
        d->watch = NULL;
        d->deaths++;
        docker_lines_done(&d->events);
        if (r < 0)
                log_debug("Docker's events: %s", err->text);
}

void docker_watch(struct docker *d)
{
        const struct docker_request q = {
                .method = "GET",
                .path = "/events?filters=%7B%22event%22%3A%5B%22oom%22%5D%7D",
                .timeout_s = UINT_MAX,
                .on_data = on_event,
        };

        if (!d->watch)
                (void)docker_call(d, &q, on_events_end, d, &d->watch, NULL);
}
