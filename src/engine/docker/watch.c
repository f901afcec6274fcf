/* What Docker tells of its own accord (GET /events): that a process of a container was killed for want of memory. The rest of
 * the container goes with it, as in the native engine. */

#include "engine/docker/internal.h"

#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#define EVENT_MAX (64 * 1024)

static void event_line(struct docker *d, const char *line, size_t len)
{
        auto_json event = NULL;
        const json_t *attributes;
        const char *id;
        struct docker_container *c;

        if (len == 0 || json_read(line, len, &event, NULL) < 0)
                return;
        attributes = json_object_get(json_object_get(event, "Actor"), "Attributes");
        id = json_string_value(json_object_get(attributes, DOCKER_LABEL_TASK));
        if (!id || !str_eq(json_string_value(json_object_get(event, "Action")), "oom") ||
            !str_eq(json_string_value(json_object_get(attributes, DOCKER_LABEL_INSTANCE)), d->name))
                return;
        LIST_FOREACH(c, &d->containers, node) {
                if (str_eq(c->id, id)) {
                        docker_container_oom(c);
                        return;
                }
        }
}

static int on_event(struct docker_call *call, const void *bytes, size_t len, void *data)
{
        struct docker *d = data;
        const char *at = bytes, *end = at + len;

        (void)call;
        while (at < end) {
                const char *nl = memchr(at, '\n', (size_t)(end - at));
                size_t n = (size_t)((nl ? nl : end) - at);

                if (d->event.len + n > EVENT_MAX)
                        return -EMSGSIZE;
                if (str_add(&d->event, at, n) < 0)
                        return -ENOMEM;
                if (nl) {
                        event_line(d, d->event.data, d->event.len);
                        str_clear(&d->event);
                }
                at += n + (nl != NULL);
        }
        return 0;
}

static void on_events_end(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;

        (void)call;
        d->watch = NULL;
        str_clear(&d->event);
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
