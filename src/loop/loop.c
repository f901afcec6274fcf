#include "loop/loop.h"

#include "base/fd.h"
#include "base/time.h"
#include "loop/internal.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define BATCH 256      /* events in one look at the nested epoll */
#define BATCHES_MAX 4  /* looks in one turn: others than descriptors get their turn too */
#define SIGNALS_MAX 16 /* signals in one turn */
#define SIGNAL_NUMBERS 65

struct loop_io {
        struct loop *loop;
        int fd;
        uint32_t events;
        bool watched, removed;
        loop_io_fn fn;
        void *data;
        struct loop_io *next_removed;
};

struct deferred {
        void (*fn)(void *data);
        void *data;
};

struct signal_handler {
        void (*fn)(int signo, void *data);
        void *data;
};

struct loop {
        int epoll, timerfd, signalfd;
        struct loop_heap heap;
        uint64_t armed_ns;
        struct loop_pool *pool;
        struct loop_io *removed; /* freed at the end of the turn */
        VEC(struct deferred) deferred;
        struct signal_handler signals[SIGNAL_NUMBERS];
        sigset_t mask;
        int code;
        bool stopped;
        bool signal_ready, timer_ready, work_ready;
};

/* What an event of the loop's own descriptors points to. */
static char mark_timer, mark_signal, mark_work;

static int watch_own(struct loop *loop, int fd, uint32_t events, void *mark)
{
        struct epoll_event ev = { .events = events, .data.ptr = mark };

        if (fd < 0 || epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
                return -errno;
        return 0;
}

static int loop_init(struct loop *loop)
{
        int r;

        loop->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (loop->epoll < 0)
                return -errno;
        /* Edge-triggered: neither the timer nor the workers' eventfd is ever read. */
        loop->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        r = watch_own(loop, loop->timerfd, EPOLLIN | EPOLLET, &mark_timer);
        if (r < 0)
                return r;
        r = loop_pool_new(&loop->pool);
        if (r < 0)
                return r;
        return watch_own(loop, loop_pool_fd(loop->pool), EPOLLIN | EPOLLET, &mark_work);
}

int loop_new(struct loop **ret, struct err *err)
{
        struct loop *loop;
        int r;

        loop = calloc(1, sizeof(*loop));
        if (!loop)
                return err_oom(err);
        loop->epoll = loop->timerfd = loop->signalfd = -EBADF;
        loop->armed_ns = TIME_NEVER;
        (void)sigemptyset(&loop->mask);
        r = loop_init(loop);
        if (r < 0) {
                loop_free(loop);
                errno = -r;
                return err_sys(err, "event loop");
        }
        *ret = loop;
        return 0;
}

static void free_removed(struct loop *loop)
{
        while (loop->removed) {
                struct loop_io *io = loop->removed;

                loop->removed = io->next_removed;
                free(io);
        }
}

void loop_free(struct loop *loop)
{
        if (!loop)
                return;
        loop_pool_free(loop->pool);
        free_removed(loop);
        loop_heap_done(&loop->heap);
        VEC_DONE(&loop->deferred);
        fd_close(loop->signalfd);
        fd_close(loop->timerfd);
        fd_close(loop->epoll);
        free(loop);
}

void loop_stop(struct loop *loop, int code)
{
        loop->stopped = true;
        loop->code = code;
}

/* ── descriptors ─────────────────────────────────────────────────────────────────────────────────────────────── */

int loop_io_add(struct loop *loop, int fd, uint32_t events, loop_io_fn fn, void *data, struct loop_io **ret,
                struct err *err)
{
        struct loop_io *io;
        int r;

        io = malloc(sizeof(*io));
        if (!io)
                return err_oom(err);
        *io = (struct loop_io){ .loop = loop, .fd = fd, .fn = fn, .data = data };
        r = loop_io_set(io, events);
        if (r < 0) {
                free(io);
                errno = -r;
                return err_sys(err, "watch descriptor %d", fd);
        }
        *ret = io;
        return 0;
}

int loop_io_set(struct loop_io *io, uint32_t events)
{
        struct epoll_event ev = { .events = events, .data.ptr = io };
        int op;

        if (io->removed || (io->watched && io->events == events) || (!io->watched && events == 0))
                return 0;
        if (events == 0)
                op = EPOLL_CTL_DEL;
        else
                op = io->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
        if (epoll_ctl(io->loop->epoll, op, io->fd, &ev) < 0)
                return -errno;
        io->watched = events != 0;
        io->events = events;
        return 0;
}

void loop_io_remove(struct loop_io *io)
{
        if (!io || io->removed)
                return;
        (void)loop_io_set(io, 0);
        io->removed = true;
        io->next_removed = io->loop->removed;
        io->loop->removed = io;
}

/* ── timers ──────────────────────────────────────────────────────────────────────────────────────────────────── */

int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_mono_ns,
                   void (*fn)(struct loop_timer *, void *), void *data)
{
        timer->loop = loop;
        timer->fn = fn;
        timer->data = data;
        return loop_heap_set(&loop->heap, timer, at_mono_ns);
}

void loop_timer_cancel(struct loop_timer *timer)
{
        if (timer->heap_index > 0)
                loop_heap_remove(&timer->loop->heap, timer);
}

/* Only an earlier head costs a system call; when the head was cancelled, one empty wake-up comes later instead. */
static int arm_timer(struct loop *loop)
{
        const struct loop_timer *head = loop_heap_head(&loop->heap);
        struct itimerspec spec = { 0 };

        if (!head || head->at_ns >= loop->armed_ns)
                return 0;
        /* All zero would disarm. */
        spec.it_value.tv_sec = (time_t)(head->at_ns / NS_PER_S);
        spec.it_value.tv_nsec = head->at_ns > 0 ? (long)(head->at_ns % NS_PER_S) : 1;
        if (timerfd_settime(loop->timerfd, TFD_TIMER_ABSTIME, &spec, NULL) < 0)
                return -errno;
        loop->armed_ns = head->at_ns;
        return 0;
}

static void run_timers(struct loop *loop)
{
        uint64_t now = time_mono_ns();
        size_t most = loop->heap.len;

        loop->timer_ready = false;
        loop->armed_ns = TIME_NEVER;
        for (size_t i = 0; i < most; i++) {
                struct loop_timer *t = loop_heap_head(&loop->heap);

                if (!t || t->at_ns > now)
                        return;
                loop_heap_remove(&loop->heap, t);
                t->fn(t, t->data);
        }
}

/* ── signals ─────────────────────────────────────────────────────────────────────────────────────────────────── */

int loop_signal_add(struct loop *loop, int signo, void (*fn)(int signo, void *data), void *data, struct err *err)
{
        sigset_t mask = loop->mask;
        int fd, r;

        if (signo <= 0 || signo >= SIGNAL_NUMBERS || sigaddset(&mask, signo) < 0)
                return err_set(err, EINVAL, "signal %d cannot be an event", signo);
        r = pthread_sigmask(SIG_BLOCK, &mask, NULL);
        if (r != 0)
                return err_set(err, r, "block signal %d", signo);
        fd = signalfd(loop->signalfd < 0 ? -1 : loop->signalfd, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
                return err_sys(err, "signalfd");
        if (loop->signalfd < 0) {
                r = watch_own(loop, fd, EPOLLIN, &mark_signal);
                if (r < 0) {
                        fd_close(fd);
                        errno = -r;
                        return err_sys(err, "watch signals");
                }
                loop->signalfd = fd;
        }
        loop->mask = mask;
        loop->signals[signo] = (struct signal_handler){ .fn = fn, .data = data };
        return 0;
}

static void run_signals(struct loop *loop)
{
        struct signalfd_siginfo info[SIGNALS_MAX];
        ssize_t n;

        loop->signal_ready = false;
        n = read(loop->signalfd, info, sizeof(info));
        for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(info[0]); i++) {
                const struct signal_handler *h;

                if (info[i].ssi_signo >= SIGNAL_NUMBERS)
                        continue;
                h = &loop->signals[info[i].ssi_signo];
                if (h->fn)
                        h->fn((int)info[i].ssi_signo, h->data);
        }
}

/* ── deferred calls, work ────────────────────────────────────────────────────────────────────────────────────── */

int loop_defer(struct loop *loop, void (*fn)(void *data), void *data)
{
        return VEC_ADD(&loop->deferred, ((struct deferred){ .fn = fn, .data = data }));
}

/* What is deferred meanwhile waits for the next turn. */
static void run_deferred(struct loop *loop)
{
        size_t n = loop->deferred.len;

        for (size_t i = 0; i < n; i++) {
                struct deferred d = loop->deferred.items[i];

                d.fn(d.data);
        }
        for (size_t i = n; i < loop->deferred.len; i++)
                loop->deferred.items[i - n] = loop->deferred.items[i];
        loop->deferred.len -= n;
}

int loop_work(struct loop *loop, unsigned queue, void (*run)(void *data), void (*done)(void *data), void *data)
{
        return loop_pool_add(loop->pool, queue, run, done, data);
}

/* ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Sorts out the loop's own events, so that signals come first. */
static void note_own(struct loop *loop, const struct epoll_event *events, int n)
{
        for (int i = 0; i < n; i++) {
                if (events[i].data.ptr == &mark_timer)
                        loop->timer_ready = true;
                else if (events[i].data.ptr == &mark_signal)
                        loop->signal_ready = true;
                else if (events[i].data.ptr == &mark_work)
                        loop->work_ready = true;
        }
}

static bool is_mark(const void *p)
{
        return p == &mark_timer || p == &mark_signal || p == &mark_work;
}

/* A callback before this one may have removed the watcher, or asked for other events. */
static void dispatch_io(struct loop_io *io, uint32_t events)
{
        events &= io->events | EPOLLERR | EPOLLHUP;
        if (io->watched && events)
                io->fn(io, events, io->data);
}

/* 0 or -errno. */
static int run_events(struct loop *loop, int timeout_ms)
{
        struct epoll_event events[BATCH];
        int n = BATCH;

        for (int i = 0; i < BATCHES_MAX && n == BATCH; i++) {
                n = epoll_wait(loop->epoll, events, BATCH, i == 0 ? timeout_ms : 0);
                if (n < 0)
                        return -errno;
                note_own(loop, events, n);
                if (loop->signal_ready)
                        run_signals(loop);
                for (int j = 0; j < n; j++)
                        if (!is_mark(events[j].data.ptr))
                                dispatch_io(events[j].data.ptr, events[j].events);
        }
        if (loop->timer_ready)
                run_timers(loop);
        if (loop->work_ready) {
                loop->work_ready = false;
                loop_pool_reap(loop->pool);
        }
        return 0;
}

int loop_turn(struct loop *loop, int timeout_ms, struct err *err)
{
        int r;

        r = arm_timer(loop);
        if (r == 0)
                r = run_events(loop, loop->deferred.len > 0 ? 0 : timeout_ms);
        if (r < 0 && r != -EINTR) {
                errno = -r;
                return err_sys(err, "event loop");
        }
        run_deferred(loop);
        free_removed(loop);
        return 0;
}

int loop_run(struct loop *loop, struct err *err)
{
        loop->stopped = false;
        while (!loop->stopped) {
                int r = loop_turn(loop, -1, err);

                if (r < 0)
                        return r;
        }
        return loop->code;
}
