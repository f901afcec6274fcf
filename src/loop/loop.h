/* The event loop: one thread owns the state. Callbacks never block and never free their own watcher's memory; removal is
 * deferred to the end of the turn, and events of a removed watcher are dropped.
 *
 * One turn: signals, descriptors, timers, finished work, deferred calls. All descriptors are on one epoll:
 * sd-event costs ten times more per event where many are ready, and one system call more per turn around another epoll. */
#pragma once

#include "base/err.h"

#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_io;

int loop_new(struct loop **ret, struct err *err);
void loop_free(struct loop *loop);                /* accepts NULL; finishes all work that was given, `done` included */
int loop_run(struct loop *loop, struct err *err); /* until loop_stop(); answers its code */
int loop_turn(struct loop *loop, int timeout_ms, struct err *err); /* one turn, for tests and programs with own loops */
void loop_stop(struct loop *loop, int code);

/* Watches a borrowed descriptor, level-triggered. */
typedef void (*loop_io_fn)(struct loop_io *io, uint32_t events, void *data);
int loop_io_add(struct loop *loop, int fd, uint32_t events, loop_io_fn fn, void *data, struct loop_io **ret,
                struct err *err);
int loop_io_set(struct loop_io *io, uint32_t events); /* 0 or -errno; events 0: rests, hang-ups are not told either */
void loop_io_remove(struct loop_io *io);              /* accepts NULL; before closing the fd */

/* Timers live in their owner: zero-initialised is idle. One descriptor serves all (a heap). Monotonic clock. */
struct loop_timer {
        struct loop *loop;
        uint64_t at_ns;
        size_t heap_index; /* 1-based; 0 while idle */
        void (*fn)(struct loop_timer *timer, void *data);
        void *data;
};
int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_mono_ns,
                   void (*fn)(struct loop_timer *, void *), void *data); /* sets again if active; -ENOMEM */
void loop_timer_cancel(struct loop_timer *timer);

/* Runs fn at the end of this turn; from a deferred call, at the end of the next. loop_free() drops what waits: whoever needs it
 * takes a turn before, as those do whose memory is freed by such a call. */
int loop_defer(struct loop *loop, void (*fn)(void *data), void *data); /* -ENOMEM */

/* Delivers a signal as an event; blocks it for the process. */
int loop_signal_add(struct loop *loop, int signo, void (*fn)(int signo, void *data), void *data, struct err *err);

/* Blocking work on one of a few threads. `run` must touch nothing of the loop; `done` follows on the loop, in the
 * order of completion. Jobs of the same queue (0 to LOOP_QUEUES-1) run one after the other, in order. The queue is
 * bounded: -EAGAIN when LOOP_WORK_MAX jobs wait. Else -ENOMEM, or -ESHUTDOWN from a `done` while loop_free() runs. */
#define LOOP_QUEUES 8
#define LOOP_WORK_MAX 65536
int loop_work(struct loop *loop, unsigned queue, void (*run)(void *data), void (*done)(void *data), void *data);
