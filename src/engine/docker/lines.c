/* Answers that are one JSON document after the other, a line each: pulls, loads, events. What is no JSON is passed over. */

#include "engine/docker/internal.h"

#include <errno.h>
#include <string.h>

static void line_end(struct docker_lines *l, docker_line_fn fn, void *data)
{
        auto_json o = NULL;

        if (l->line.len > 0 && json_read(l->line.data, l->line.len, &o, NULL) == 0 && json_is_object(o))
                fn(o, data);
        str_clear(&l->line);
}

int docker_lines_feed(struct docker_lines *l, const void *bytes, size_t len, docker_line_fn fn, void *data)
{
        const char *at = bytes, *end = at + len;

        while (at < end) {
                const char *nl = memchr(at, '\n', (size_t)(end - at));
                size_t n = (size_t)((nl ? nl : end) - at);

                if (n > DOCKER_LINE_MAX - l->line.len)
                        return -EMSGSIZE;
                if (str_add(&l->line, at, n) < 0)
                        return -ENOMEM;
                if (nl)
                        line_end(l, fn, data);
                at += n + (nl != NULL);
        }
        return 0;
}

void docker_lines_end(struct docker_lines *l, docker_line_fn fn, void *data)
{
        line_end(l, fn, data);
}

void docker_lines_done(struct docker_lines *l)
{
        str_done(&l->line);
}
