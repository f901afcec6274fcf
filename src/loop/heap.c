#include "loop/internal.h"

#include <errno.h>
#include <stdlib.h>

static void place(struct loop_heap *h, size_t i, struct loop_timer *t)
{
        h->items[i] = t;
        t->heap_index = i + 1;
}

static void sift_up(struct loop_heap *h, size_t i, struct loop_timer *t)
{
        while (i > 0 && h->items[(i - 1) / 2]->at_ns > t->at_ns) {
                place(h, i, h->items[(i - 1) / 2]);
                i = (i - 1) / 2;
        }
        place(h, i, t);
}

static void sift_down(struct loop_heap *h, size_t i, struct loop_timer *t)
{
        for (;;) {
                size_t child = 2 * i + 1;

                if (child + 1 < h->len && h->items[child + 1]->at_ns < h->items[child]->at_ns)
                        child++;
                if (child >= h->len || h->items[child]->at_ns >= t->at_ns)
                        break;
                place(h, i, h->items[child]);
                i = child;
        }
        place(h, i, t);
}

static void settle(struct loop_heap *h, size_t i, struct loop_timer *t)
{
        if (i > 0 && h->items[(i - 1) / 2]->at_ns > t->at_ns)
                sift_up(h, i, t);
        else
                sift_down(h, i, t);
}

int loop_heap_set(struct loop_heap *h, struct loop_timer *t, uint64_t at_ns)
{
        int r;

        if (t->heap_index == 0) {
                r = vec_grow((void **)&h->items, &h->cap, h->len, sizeof(struct loop_timer *));
                if (r < 0)
                        return r;
                t->at_ns = at_ns;
                h->len++;
                sift_up(h, h->len - 1, t);
                return 0;
        }
        t->at_ns = at_ns;
        settle(h, t->heap_index - 1, t);
        return 0;
}

void loop_heap_remove(struct loop_heap *h, struct loop_timer *t)
{
        size_t i = t->heap_index - 1;
        struct loop_timer *last = h->items[--h->len];

        t->heap_index = 0;
        if (last != t)
                settle(h, i, last);
}

struct loop_timer *loop_heap_head(const struct loop_heap *h)
{
        return h->len > 0 ? h->items[0] : NULL;
}

void loop_heap_done(struct loop_heap *h)
{
        for (size_t i = 0; i < h->len; i++)
                h->items[i]->heap_index = 0;
        free(h->items);
        *h = (struct loop_heap){ 0 };
}
