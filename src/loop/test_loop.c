#include "loop/loop.h"

#include "base/fd.h"
#include "base/test_skip.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct loop *new_loop(void)
{
        struct err err = ERR_INIT;
        struct loop *loop = NULL;

        if (loop_new(&loop, &err) < 0)
                fail_msg("%s", err.text);
        return loop;
}

static void turn(struct loop *loop, int timeout_ms)
{
        struct err err = ERR_INIT;

        assert_int_equal(loop_turn(loop, timeout_ms, &err), 0);
}

/* ── descriptors ─────────────────────────────────────────────────────────────────────────────────────────────── */

struct end {
        struct loop_io *io;
        struct end *other;
        int fd;
        unsigned calls;
        uint32_t events;
        bool remove_self, remove_other;
};

static void on_end(struct loop_io *io, uint32_t events, void *data)
{
        struct end *e = data;

        assert_ptr_equal(io, e->io);
        e->calls++;
        e->events = events;
        if (e->remove_other)
                loop_io_remove(e->other->io);
        if (e->remove_self)
                loop_io_remove(e->io);
}

static void test_io(void **state)
{
        struct loop *loop = new_loop();
        struct err err = ERR_INIT;
        struct end e = { 0 };
        char c;
        int p[2];

        (void)state;
        assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
        assert_int_equal(loop_io_add(loop, p[0], EPOLLIN, on_end, &e, &e.io, &err), 0);
        turn(loop, 0);
        assert_int_equal(e.calls, 0);
        assert_int_equal(write(p[1], "x", 1), 1);
        turn(loop, 0);
        turn(loop, 0);
        assert_int_equal(e.calls, 2); /* level-triggered */
        assert_int_equal(e.events, EPOLLIN);
        assert_int_equal(loop_io_set(e.io, 0), 0);
        turn(loop, 0);
        assert_int_equal(e.calls, 2);
        assert_int_equal(loop_io_set(e.io, EPOLLIN), 0);
        turn(loop, 0);
        assert_int_equal(e.calls, 3);
        assert_int_equal(read(p[0], &c, 1), 1);
        fd_close(p[1]);
        turn(loop, 0);
        assert_true(e.events & EPOLLHUP);
        /* A rest rests from hang-ups too, or the loop would spin. */
        assert_int_equal(loop_io_set(e.io, 0), 0);
        turn(loop, 0);
        assert_int_equal(e.calls, 4);
        loop_io_remove(e.io);
        loop_io_remove(NULL);
        fd_close(p[0]);
        loop_free(loop);
        loop_free(NULL);
}

static void test_io_change(void **state)
{
        struct loop *loop = new_loop();
        struct err err = ERR_INIT;
        struct end e = { 0 };
        int s[2];

        (void)state;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
        assert_int_equal(loop_io_add(loop, s[0], EPOLLIN, on_end, &e, &e.io, &err), 0);
        turn(loop, 0);
        assert_int_equal(e.calls, 0);
        assert_int_equal(loop_io_set(e.io, EPOLLIN | EPOLLOUT), 0);
        turn(loop, 0);
        assert_int_equal(e.events, EPOLLOUT);
        loop_io_remove(e.io);
        fd_close(s[0]);
        fd_close(s[1]);
        loop_free(loop);
}

static void test_io_errors(void **state)
{
        struct loop *loop = new_loop();
        struct err err = ERR_INIT;
        struct loop_io *io = NULL;
        auto_fd file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

        (void)state;
        assert_int_equal(loop_io_add(loop, -EBADF, EPOLLIN, on_end, NULL, &io, &err), -EBADF);
        assert_int_equal(loop_io_add(loop, file, EPOLLIN, on_end, NULL, &io, &err), -EPERM);
        assert_null(io);
        loop_free(loop);
}

/* Both are ready in one batch; the first callback removes both: the second must not be called. */
static void test_io_stale(void **state)
{
        struct loop *loop = new_loop();
        struct end a = { .remove_other = true, .remove_self = true }, b = a;
        struct err err = ERR_INIT;
        int p[2], q[2];

        (void)state;
        a.other = &b;
        b.other = &a;
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        assert_int_equal(pipe2(q, O_CLOEXEC), 0);
        assert_int_equal(loop_io_add(loop, p[0], EPOLLIN, on_end, &a, &a.io, &err), 0);
        assert_int_equal(loop_io_add(loop, q[0], EPOLLIN, on_end, &b, &b.io, &err), 0);
        assert_int_equal(write(p[1], "x", 1), 1);
        assert_int_equal(write(q[1], "x", 1), 1);
        turn(loop, 0);
        assert_int_equal(a.calls + b.calls, 1);
        turn(loop, 0);
        assert_int_equal(a.calls + b.calls, 1);
        for (int i = 0; i < 2; i++) {
                fd_close(p[i]);
                fd_close(q[i]);
        }
        loop_free(loop);
}

/* More ready descriptors than one batch holds: all are served in one turn. */
static void test_io_many(void **state)
{
        enum { MANY = 400, KEPT = 300 };
        static struct end ends[MANY];
        static int pipes[MANY][2];
        struct loop *loop = new_loop();
        struct err err = ERR_INIT;

        (void)state;
        for (int i = 0; i < MANY; i++) {
                if (pipe2(pipes[i], O_CLOEXEC) < 0)
                        skip_because("few descriptors are allowed here");
                assert_int_equal(loop_io_add(loop, pipes[i][0], EPOLLIN, on_end, &ends[i], &ends[i].io, &err), 0);
                assert_int_equal(write(pipes[i][1], "x", 1), 1);
                if (i >= KEPT)
                        ends[i].remove_self = true;
        }
        turn(loop, 0);
        for (int i = 0; i < MANY; i++) {
                assert_true(ends[i].calls >= 1);
                if (i < KEPT)
                        loop_io_remove(ends[i].io);
                fd_close(pipes[i][0]);
                fd_close(pipes[i][1]);
        }
        loop_free(loop);
}

/* ── timers ──────────────────────────────────────────────────────────────────────────────────────────────────── */

struct tick {
        struct loop_timer timer;
        struct loop *loop;
        unsigned *order;
        unsigned at, again;
};

static void on_tick(struct loop_timer *timer, void *data)
{
        struct tick *t = data;

        assert_ptr_equal(timer, &t->timer);
        assert_int_equal(timer->heap_index, 0);
        t->at = ++*t->order;
        if (t->again > 0) {
                t->again--;
                assert_int_equal(loop_timer_set(t->loop, timer, 0, on_tick, t), 0);
        }
}

static void test_timer_order(void **state)
{
        struct loop *loop = new_loop();
        uint64_t now = time_mono_ns();
        struct tick t[50];
        unsigned order = 0;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(t); i++) {
                t[i] = (struct tick){ .loop = loop, .order = &order };
                /* 7 and 50 have no common divisor: each moment once. */
                assert_int_equal(loop_timer_set(loop, &t[i].timer, now + 1 + (i * 7) % 50, on_tick, &t[i]), 0);
        }
        loop_timer_cancel(&t[0].timer);
        loop_timer_cancel(&t[0].timer);
        while (order < 49)
                turn(loop, -1);
        assert_int_equal(t[0].at, 0);
        for (size_t i = 1; i < ARRAY_LEN(t); i++)
                assert_int_equal(t[i].at, (i * 7) % 50);
        loop_free(loop);
}

static void test_timer_move(void **state)
{
        struct loop *loop = new_loop();
        uint64_t now = time_mono_ns();
        struct tick a = { .loop = loop }, b = { .loop = loop }, never = { .loop = loop };
        unsigned order = 0;

        (void)state;
        a.order = b.order = never.order = &order;
        assert_int_equal(loop_timer_set(loop, &never.timer, TIME_NEVER, on_tick, &never), 0);
        turn(loop, 0);
        assert_int_equal(loop_timer_set(loop, &a.timer, now + 3600 * NS_PER_S, on_tick, &a), 0);
        assert_int_equal(loop_timer_set(loop, &b.timer, now + 1, on_tick, &b), 0);
        turn(loop, 0);
        while (order < 1)
                turn(loop, -1);
        assert_int_equal(b.at, 1);
        assert_int_equal(a.at, 0);
        assert_int_equal(loop_timer_set(loop, &a.timer, now + 2, on_tick, &a), 0);
        while (order < 2)
                turn(loop, -1);
        assert_int_equal(a.at, 2);
        loop_free(loop);
        assert_int_equal(never.timer.heap_index, 0);
}

/* A timer that is set again for the past cannot keep the turn from ending. */
static void test_timer_again(void **state)
{
        struct loop *loop = new_loop();
        struct tick a = { .loop = loop, .again = 5 };
        unsigned order = 0, turns = 0;

        (void)state;
        a.order = &order;
        assert_int_equal(loop_timer_set(loop, &a.timer, 0, on_tick, &a), 0);
        for (; order < 6; turns++)
                turn(loop, -1);
        assert_true(turns >= 6);
        loop_free(loop);
}

/* Against a sorted truth: sets, moves and cancels at random. */
static void test_timer_random(void **state)
{
        static struct tick t[500];
        struct loop *loop = new_loop();
        unsigned seed = 7, order = 0, active = 0;
        uint64_t now = time_mono_ns();

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(t); i++)
                t[i] = (struct tick){ .loop = loop, .order = &order };
        for (int i = 0; i < 20000; i++) {
                struct tick *x;

                seed = seed * 1103515245U + 12345U;
                x = &t[(seed >> 8) % ARRAY_LEN(t)];
                if (seed >> 30 == 0)
                        loop_timer_cancel(&x->timer);
                else
                        assert_int_equal(loop_timer_set(loop, &x->timer, now - (seed >> 4) % 1000000, on_tick, x), 0);
        }
        for (size_t i = 0; i < ARRAY_LEN(t); i++)
                active += t[i].timer.heap_index > 0;
        while (order < active)
                turn(loop, -1);
        for (size_t i = 0; i < ARRAY_LEN(t); i++)
                for (size_t j = 0; j < ARRAY_LEN(t); j++)
                        if (t[i].at && t[j].at && t[i].timer.at_ns < t[j].timer.at_ns)
                                assert_true(t[i].at < t[j].at);
        loop_free(loop);
}

/* ── deferred calls, signals ─────────────────────────────────────────────────────────────────────────────────── */

struct deferral {
        struct loop *loop;
        unsigned calls, more;
};

static void on_deferred(void *data)
{
        struct deferral *d = data;

        d->calls++;
        if (d->more > 0) {
                d->more--;
                assert_int_equal(loop_defer(d->loop, on_deferred, d), 0);
        }
}

static void test_defer(void **state)
{
        struct loop *loop = new_loop();
        struct deferral d = { .loop = loop, .more = 2 };

        (void)state;
        assert_int_equal(loop_defer(loop, on_deferred, &d), 0);
        assert_int_equal(d.calls, 0);
        turn(loop, -1); /* does not wait: there is something to do */
        assert_int_equal(d.calls, 1);
        turn(loop, -1);
        turn(loop, -1);
        assert_int_equal(d.calls, 3);
        turn(loop, 0);
        assert_int_equal(d.calls, 3);
        loop_free(loop);
}

static void on_signal(int signo, void *data)
{
        unsigned *count = data;

        count[signo]++;
}

static void test_signal(void **state)
{
        struct loop *loop = new_loop();
        struct err err = ERR_INIT;
        unsigned count[65] = { 0 };

        (void)state;
        assert_int_equal(loop_signal_add(loop, SIGUSR1, on_signal, count, &err), 0);
        assert_int_equal(loop_signal_add(loop, SIGHUP, on_signal, count, &err), 0);
        assert_int_equal(loop_signal_add(loop, 0, on_signal, count, &err), -EINVAL);
        assert_int_equal(loop_signal_add(loop, 1000, on_signal, count, &err), -EINVAL);
        assert_int_equal(raise(SIGUSR1), 0);
        assert_int_equal(raise(SIGHUP), 0);
        turn(loop, 0);
        assert_int_equal(count[SIGUSR1], 1);
        assert_int_equal(count[SIGHUP], 1);
        turn(loop, 0);
        assert_int_equal(count[SIGUSR1], 1);
        loop_free(loop);
}

/* ── work ────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct work {
        struct loop *loop;
        unsigned *ran, *reaped, want;
        unsigned ran_as, done_as;
        pthread_t thread;
};

static void work_run(void *data)
{
        struct work *w = data;

        w->ran_as = ++*w->ran; /* of one queue, so of one thread */
        w->thread = pthread_self();
}

static void work_done(void *data)
{
        struct work *w = data;

        w->done_as = ++*w->reaped;
        if (*w->reaped == w->want)
                loop_stop(w->loop, 17);
}

static void test_work(void **state)
{
        static struct work w[LOOP_QUEUES][1000];
        unsigned ran[LOOP_QUEUES] = { 0 }, reaped = 0;
        struct loop *loop = new_loop();
        struct err err = ERR_INIT;

        (void)state;
        for (unsigned q = 0; q < LOOP_QUEUES; q++)
                for (unsigned i = 0; i < 1000; i++) {
                        w[q][i] = (struct work){
                                .loop = loop, .ran = &ran[q], .reaped = &reaped, .want = LOOP_QUEUES * 1000
                        };
                        assert_int_equal(loop_work(loop, q, work_run, work_done, &w[q][i]), 0);
                }
        assert_int_equal(loop_work(loop, LOOP_QUEUES, work_run, work_done, &w[0][0]), -EINVAL);
        assert_int_equal(loop_run(loop, &err), 17);
        for (unsigned q = 0; q < LOOP_QUEUES; q++)
                for (unsigned i = 0; i < 1000; i++) {
                        assert_int_equal(w[q][i].ran_as, i + 1);
                        assert_true(i == 0 || w[q][i].done_as > w[q][i - 1].done_as);
                        assert_true(pthread_equal(w[q][i].thread, w[q][0].thread));
                        assert_false(pthread_equal(w[q][i].thread, pthread_self()));
                }
        loop_free(loop);
}

static void work_again(void *data)
{
        struct work *w = data;

        ++*w->reaped;
        w->want = (unsigned)-loop_work(w->loop, 0, work_run, work_again, w);
}

/* Freeing the loop finishes what was given to it. */
static void test_work_free(void **state)
{
        unsigned ran = 0, reaped = 0;
        struct loop *loop = new_loop();
        struct work w[100];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(w); i++) {
                w[i] = (struct work){ .loop = loop, .ran = &ran, .reaped = &reaped };
                assert_int_equal(loop_work(loop, 0, work_run, work_again, &w[i]), 0);
        }
        loop_free(loop);
        assert_int_equal(ran, ARRAY_LEN(w));
        assert_int_equal(reaped, ARRAY_LEN(w));
        assert_int_equal(w[0].want, ESHUTDOWN);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void gate_run(void *data)
{
        (void)data;
        (void)pthread_mutex_lock(&gate);
        (void)pthread_mutex_unlock(&gate);
}

static void count_done(void *data)
{
        ++*(unsigned *)data;
}

static void test_work_bound(void **state)
{
        struct loop *loop = new_loop();
        unsigned added = 0, done = 0;
        int r = 0;

        (void)state;
        (void)pthread_mutex_lock(&gate);
        for (; r == 0 && added <= LOOP_WORK_MAX + 1; added += r == 0)
                r = loop_work(loop, 2, gate_run, count_done, &done);
        assert_int_equal(r, -EAGAIN);
        assert_true(added >= LOOP_WORK_MAX);
        (void)pthread_mutex_unlock(&gate);
        loop_free(loop);
        assert_int_equal(done, added);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_io),           cmocka_unit_test(test_io_change),
                cmocka_unit_test(test_io_errors),    cmocka_unit_test(test_io_stale),
                cmocka_unit_test(test_io_many),      cmocka_unit_test(test_timer_order),
                cmocka_unit_test(test_timer_move),   cmocka_unit_test(test_timer_again),
                cmocka_unit_test(test_timer_random), cmocka_unit_test(test_defer),
                cmocka_unit_test(test_signal),       cmocka_unit_test(test_work),
                cmocka_unit_test(test_work_free),    cmocka_unit_test(test_work_bound),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
