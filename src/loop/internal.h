/* Parts of the loop that loop.c puts together: a heap of timers and a pool of threads. For this folder only. */
#pragma once

#include "base/vec.h"
#include "loop/loop.h"

#include <stddef.h>
#include <stdint.h>

/* Binary heap, the earliest at the root; zero-initialised is empty. Timers are borrowed and know their index. */
struct loop_heap {
        struct loop_timer **items;
        size_t len, cap;
};

int loop_heap_set(struct loop_heap *h, struct loop_timer *t, uint64_t at_ns); /* adds or moves; -ENOMEM */
void loop_heap_remove(struct loop_heap *h, struct loop_timer *t);             /* must be in it */
struct loop_timer *loop_heap_head(const struct loop_heap *h);                 /* peek or NULL */
void loop_heap_done(struct loop_heap *h);                                     /* the timers that are left become idle */

/* One thread per queue, started with its first job. */
struct loop_pool;

int loop_pool_new(struct loop_pool **ret);      /* -errno */
void loop_pool_free(struct loop_pool *pool);    /* accepts NULL; finishes all jobs, their `done` included */
int loop_pool_fd(const struct loop_pool *pool); /* eventfd, written when something is done; never read */
int loop_pool_add(struct loop_pool *pool, unsigned queue, void (*run)(void *), void (*done)(void *), void *data);
void loop_pool_reap(struct loop_pool *pool); /* calls `done` of all that has run so far */
