/* Server-sent events (WHATWG HTML, "Server-sent events"), as they stream in. */
#pragma once

#include "base/str.h"

#define SSE_EVENT_MAX ((size_t)16 * 1024 * 1024)

struct sse {
        struct str line, data;
        bool has_data, cr; /* cr: a line ended by CR, and an LF may follow */
};

/* Calls fn for each event that is complete, with its data (NUL-terminated). What fn answers below 0 ends it; -EFBIG, -ENOMEM. */
typedef int (*sse_fn)(const char *data, size_t len, void *arg);
int sse_feed(struct sse *s, const void *data, size_t len, sse_fn fn, void *arg);
void sse_done(struct sse *s);
