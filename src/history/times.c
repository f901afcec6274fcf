#include "history/times.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 16

void times_done(struct times *t)
{
        free(t->marks);
        memset(t, 0, sizeof(*t));
}

static void halve(struct times *t)
{
        size_t n = 0;

        for (size_t i = 1; i < t->n; i += 2)
                t->marks[n++] = t->marks[i];
        if (t->n % 2 == 1)
                t->marks[n++] = t->marks[t->n - 1];
        t->n = n;
        t->step_ms = t->step_ms > 0 ? t->step_ms * 2 : 1;
}

static bool grow(struct times *t)
{
        size_t cap = t->cap > 0 ? t->cap * 2 : FIRST_CAP;
        struct times_mark *marks = realloc(t->marks, cap * sizeof(*marks));

        if (!marks)
                return false;
        t->marks = marks;
        t->cap = cap;
        return true;
}

void times_add(struct times *t, uint64_t end, uint64_t ms)
{
        struct times_mark *last = t->n > 0 ? &t->marks[t->n - 1] : NULL;

        if (end <= (t->n > 0 ? last->end : 0))
                return;
        if (t->n > 0 && ms <= last->ms) {
                last->end = end;
                return;
        }
        /* Whatever its start, it has the time of its end. */
        if (t->n > 1 && ms - t->marks[t->n - 2].ms < t->step_ms) {
                *last = (struct times_mark){ end, ms };
                return;
        }
        if (t->n == TIMES_MAX)
                halve(t);
        if (t->n == t->cap && !grow(t)) {
                if (t->n > 0)
                        t->marks[t->n - 1] = (struct times_mark){ end, ms };
                return;
        }
        t->marks[t->n++] = (struct times_mark){ end, ms };
}

uint64_t times_find(const struct times *t, uint64_t offset, uint64_t other_ms, uint64_t *ret_end)
{
        size_t low = 0, high = t->n;

        while (low < high) {
                size_t mid = low + (high - low) / 2;

                if (t->marks[mid].end <= offset)
                        low = mid + 1;
                else
                        high = mid;
        }
        *ret_end = low < t->n ? t->marks[low].end : UINT64_MAX;
        return low < t->n ? t->marks[low].ms : other_ms;
}

int times_copy(const struct times *t, struct times *ret)
{
        struct times copy = { .n = t->n, .cap = t->n, .step_ms = t->step_ms };

        if (t->n > 0) {
                copy.marks = malloc(t->n * sizeof(*copy.marks));
                if (!copy.marks)
                        return -ENOMEM;
                memcpy(copy.marks, t->marks, t->n * sizeof(*copy.marks));
        }
        *ret = copy;
        return 0;
}

/* ── on disk: for each stream the number of marks, and of each how far it is from the one before, as LEB128 ─────────── */

static int put_number(struct str *out, uint64_t v)
{
        int r = 0;

        while (r == 0 && v >= 0x80) {
                r = str_addc(out, (char)(v | 0x80));
                v >>= 7;
        }
        return r == 0 ? str_addc(out, (char)v) : r;
}

int times_write(const struct times t[2], struct str *out)
{
        int r = 0;

        if (t[0].n == 0 && t[1].n == 0)
                return 0;
        for (int i = 0; i < 2 && r == 0; i++) {
                struct times_mark last = { 0, 0 };

                r = put_number(out, t[i].n);
                for (size_t k = 0; k < t[i].n && r == 0; k++) {
                        r = put_number(out, t[i].marks[k].end - last.end);
                        if (r == 0)
                                r = put_number(out, t[i].marks[k].ms - last.ms);
                        last = t[i].marks[k];
                }
        }
        return r;
}

struct cursor {
        const unsigned char *at, *end;
        bool bad;
};

static uint64_t take_number(struct cursor *c)
{
        uint64_t v = 0;

        for (unsigned shift = 0; shift < 64; shift += 7) {
                if (c->at == c->end)
                        break;
                v |= (uint64_t)(*c->at & 0x7f) << shift;
                if (!(*c->at++ & 0x80))
                        return v;
        }
        c->bad = true;
        return 0;
}

static int take_marks(struct cursor *c, struct times *ret)
{
        struct times_mark last = { 0, 0 };
        uint64_t n = take_number(c);

        if (c->bad || n > TIMES_MAX)
                return -EBADMSG;
        if (n == 0)
                return 0;
        ret->marks = malloc(n * sizeof(*ret->marks));
        if (!ret->marks)
                return -ENOMEM;
        ret->cap = n;
        while (ret->n < n) {
                struct times_mark mark = { .end = take_number(c), .ms = take_number(c) };

                if (c->bad || mark.end == 0 || mark.end > INT64_MAX - last.end || mark.ms > INT64_MAX - last.ms)
                        return -EBADMSG;
                last = (struct times_mark){ last.end + mark.end, last.ms + mark.ms };
                ret->marks[ret->n++] = last;
        }
        return 0;
}

int times_read(const void *data, size_t len, struct times ret[2])
{
        struct cursor c = { .at = data, .end = len > 0 ? (const unsigned char *)data + len : data };
        struct times t[2] = { { .n = 0 } };
        int r = 0;

        for (int i = 0; i < 2 && r == 0 && len > 0; i++)
                r = take_marks(&c, &t[i]);
        if (r == 0 && c.at != c.end)
                r = -EBADMSG;
        for (int i = 0; i < 2; i++) {
                if (r < 0)
                        times_done(&t[i]);
                else
                        ret[i] = t[i];
        }
        return r;
}
