/* Copies out of containers: the launcher makes them, some at once; the others wait here. */

#include "engine/native/internal.h"

#include "base/fd.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct native_copy {
        struct list node; /* in native.copies or native.copying */
        struct native *native;
        struct native_container *container; /* NULL: removed meanwhile */
        struct str packet;
        int fd;
        engine_done_fn fn;
        void *data;
};

static void pump(struct native *n);

static void copy_free(struct native_copy *copy)
{
        list_remove(&copy->node);
        str_done(&copy->packet);
        fd_close(copy->fd);
        free(copy);
}

static void copy_answer(struct native_copy *copy, int r, const struct err *err)
{
        engine_done_fn fn = copy->fn;
        void *data = copy->data;

        copy_free(copy);
        fn(r, err, data);
}

static void on_made(int r, const struct err *err, void *data)
{
        struct native_copy *copy = data;
        struct native *n = copy->native;

        n->n_copying--;
        copy_answer(copy, r, err);
        pump(n);
}

static int copy_send(struct native_copy *copy, struct err *err)
{
        struct native *n = copy->native;
        struct native_pending *p = NULL;
        int r;

        if (!copy->container)
                return err_set(err, ESRCH, "the container was removed");
        r = native_request(n, copy->packet.data, copy->packet.len, &copy->fd, 1, &p, err);
        if (r < 0)
                return r;
        p->done_fn = on_made;
        p->data = copy;
        list_append(&n->copying, &copy->node);
        n->n_copying++;
        return 0;
}

static void pump(struct native *n)
{
        struct native_copy *copy;

        while (n->n_copying < LAUNCH_COPIES_MAX && (copy = LIST_FIRST(&n->copies, struct native_copy, node))) {
                struct err err = ERR_INIT;
                int r;

                list_remove(&copy->node);
                r = copy_send(copy, &err);
                if (r < 0)
                        copy_answer(copy, r, &err);
        }
}

static void on_turn(struct loop_timer *timer, void *data)
{
        (void)timer;
        pump(data);
}

static int copy_packet(struct native_copy *copy, const char *path, const struct engine_copy_limits *limits,
                       struct err *err)
{
        const struct native_container *c = copy->container;
        bool below = path[0] != '/' && c->workdir;
        uint64_t ms = limits->timeout_ns / NS_PER_MS;
        struct launch_copy m = {
                .h = { .op = LAUNCH_COPY_OUT },
                .max_bytes = MIN(limits->bytes, LAUNCH_COPY_BYTES_MAX),
                .max_entries = limits->entries,
                .timeout_ms = (uint32_t)MIN(MAX(ms, (uint64_t)1), (uint64_t)LAUNCH_COPY_MS_MAX),
        };
        auto_free char *whole = str_printf("%s%s%s", below ? c->workdir : "", below ? "/" : "", path);

        if (!whole)
                return err_oom(err);
        m.path_len = (uint32_t)strlen(whole);
        if (m.path_len == 0 || m.path_len >= LAUNCH_TEXT_MAX)
                return err_set(err, EINVAL, "a path of no bytes or more than %d", LAUNCH_TEXT_MAX - 1);
        memcpy(m.id, c->id, LAUNCH_ID_MAX);
        if (str_add(&copy->packet, &m, sizeof(m)) < 0 || str_adds(&copy->packet, whole) < 0)
                return err_oom(err);
        return 0;
}

int native_container_copy_out(struct engine_container *base, const char *path, const struct engine_copy_limits *limits,
                              int tar_fd, engine_done_fn fn, void *data, struct err *err)
{
        struct native_container *c = CONTAINER_OF(base, struct native_container, base);
        struct native *n = c->native;
        struct native_copy *copy;
        int r;

        if (c->state != CONTAINER_STARTED && c->state != CONTAINER_ENDED)
                return err_set(err, ESRCH, "container %s was not started", c->id);
        if (limits->bytes == 0 || limits->entries == 0 || limits->timeout_ns == 0)
                return err_set(err, EINVAL, "a copy without bounds");
        copy = calloc(1, sizeof(*copy));
        if (!copy)
                return err_oom(err);
        *copy = (struct native_copy){ .native = n, .container = c, .fn = fn, .data = data };
        list_init(&copy->node);
        copy->fd = fcntl(tar_fd, F_DUPFD_CLOEXEC, 3);
        r = copy->fd < 0 ? err_sys(err, "take over the descriptor of a copy") : copy_packet(copy, path, limits, err);
        /* The first attempt comes on a later turn: what fails is told by the callback, in the order of the calls. */
        if (r == 0 && loop_timer_set(n->loop, &n->copy_timer, time_mono_ns(), on_turn, n) < 0)
                r = err_oom(err);
        if (r < 0) {
                copy_free(copy);
                return r;
        }
        list_append(&n->copies, &copy->node);
        return 0;
}

void native_copies_forget(struct native_container *c)
{
        struct native *n = c->native;
        struct native_copy *copy;

        LIST_FOREACH(copy, &n->copies, node) {
                if (copy->container == c)
                        copy->container = NULL;
        }
}

void native_copies_done(struct native *n)
{
        struct native_copy *copy;

        loop_timer_cancel(&n->copy_timer);
        while ((copy = LIST_FIRST(&n->copies, struct native_copy, node)) ||
               (copy = LIST_FIRST(&n->copying, struct native_copy, node)))
                copy_free(copy);
}
