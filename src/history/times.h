/* When which part of a stream came: marks in the order of the stream, of a bounded number. Where there would be more, what came one
 * after the other gets one time, that of its end, and from then on marks are as far apart as that made them. */
#pragma once

#include "base/str.h"

#include <stddef.h>
#include <stdint.h>

#define TIMES_MAX 4096       /* marks of one stream */
#define TIMES_TEXT_MAX 65536 /* bytes of what times_write() makes, and more */

struct times_mark {
        uint64_t end, ms; /* what lies before this offset, behind the mark before, was there at this time since 1970 */
};

/* Zero-initialised is empty. */
struct times {
        struct times_mark *marks;
        size_t n, cap;
        uint64_t step_ms;
};
void times_done(struct times *t);

/* The stream reaches to `end` now. Without memory the last mark grows. */
void times_add(struct times *t, uint64_t end, uint64_t ms);

/* When the byte at an offset came, and in *ret_end where what came then ends; what no mark reaches: other_ms and UINT64_MAX. */
uint64_t times_find(const struct times *t, uint64_t offset, uint64_t other_ms, uint64_t *ret_end);

int times_copy(const struct times *t, struct times *ret); /* -ENOMEM */

/* Both streams' marks, short; nothing where there are none. */
int times_write(const struct times t[2], struct str *out); /* -ENOMEM */
/* The caller owns what ret holds: times_done(). -EBADMSG, -ENOMEM. */
int times_read(const void *data, size_t len, struct times ret[2]);
