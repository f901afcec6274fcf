#include "cli/sse.h"

#include <errno.h>
#include <string.h>

static int end_line(struct sse *s, sse_fn fn, void *arg)
{
        const char *line = s->line.data ? s->line.data : "";
        int r = 0;

        if (s->line.len == 0) {
                if (s->has_data)
                        r = fn(s->data.data ? s->data.data : "", s->data.len, arg);
                str_clear(&s->data);
                s->has_data = false;
        } else if (s->line.len >= 5 && memcmp(line, "data:", 5) == 0) {
                size_t skip = 5 + (line[5] == ' ');

                if (s->data.len + s->line.len > SSE_EVENT_MAX)
                        return -EFBIG;
                if (s->has_data)
                        r = str_addc(&s->data, '\n');
                if (r == 0)
                        r = str_add(&s->data, line + skip, s->line.len - skip);
                s->has_data = true;
        }
        str_clear(&s->line);
        return r;
}

int sse_feed(struct sse *s, const void *data, size_t len, sse_fn fn, void *arg)
{
        const char *p = data, *end = p + len;
        int r = 0;

        while (p < end && r == 0) {
                size_t n = 0;

                if (s->cr && *p == '\n')
                        p++;
                s->cr = false;
                while (p + n < end && p[n] != '\n' && p[n] != '\r')
                        n++;
                if (s->line.len + n > SSE_EVENT_MAX)
                        return -EFBIG;
                r = str_add(&s->line, p, n);
                p += n;
                if (r == 0 && p < end) {
                        s->cr = *p++ == '\r';
                        r = end_line(s, fn, arg);
                }
        }
        return r;
}

void sse_done(struct sse *s)
{
        str_done(&s->line);
        str_done(&s->data);
}
