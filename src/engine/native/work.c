/* Image workers: the launcher runs them, the store asks for them. */

#include "engine/native/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define WORK_NAMES_MAX 1000000 /* layers or trees of one store */

void native_pending_fail(struct native_pending *p, int error, const char *text)
{
        struct err err = ERR_INIT;
        int r = err_set(&err, error > 0 ? error : EIO, "%s", text);

        list_remove(&p->node);
        if (p->stats_fn)
                p->stats_fn(r, NULL, &err, p->data);
        else if (p->work_fn)
                p->work_fn(r, 0, &err, p->data);
        else if (p->names_fn)
                p->names_fn(r, NULL, 0, &err, p->data);
        else if (p->done_fn)
                p->done_fn(r, &err, p->data);
        free(p->names);
        free(p);
}

/* Only what a worker says by its exit code (image/worker.h) is a judgement of its input; any other end says nothing of it. */
static void fail_by_exit(struct native_pending *p, int code)
{
        switch (code) {
        case IMAGE_WORKER_BAD:
                native_pending_fail(p, EBADMSG, "the image worker refused its input");
                break;
        case IMAGE_WORKER_NO_SPACE:
                native_pending_fail(p, ENOSPC, "the image worker found the disk full");
                break;
        case IMAGE_WORKER_NO_MEMORY:
                native_pending_fail(p, ENOMEM, "the image worker needed too much memory");
                break;
        case IMAGE_WORKER_NOT_STARTED:
                native_pending_fail(p, EIO, "the image worker could not be started");
                break;
        default:
                native_pending_fail(p, EIO, "the image worker failed");
                break;
        }
}

void native_work_done(struct native_pending *p, const struct launch_work_done *m)
{
        if (m->si_code == CLD_EXITED && m->status == 0) {
                list_remove(&p->node);
                p->work_fn(0, m->token, NULL, p->data);
                free(p);
        } else if (m->oom) {
                native_pending_fail(p, ENOMEM, "the image worker needed too much memory");
        } else if (m->si_code == CLD_EXITED) {
                fail_by_exit(p, m->status);
        } else if (m->status == SIGXCPU || m->status == SIGALRM) {
                native_pending_fail(p, ETIMEDOUT, "the image worker took too long");
        } else {
                native_pending_fail(p, EIO, "the image worker was killed");
        }
}

static bool names_add(struct native_pending *p, const char *names, uint32_t count)
{
        char(*grown)[65];

        if (p->n_names + count > WORK_NAMES_MAX)
                return false;
        grown = realloc(p->names, (p->n_names + count + 1) * sizeof(*grown));
        if (!grown)
                return false;
        p->names = grown;
        for (uint32_t i = 0; i < count; i++) {
                memcpy(grown[p->n_names], names + (size_t)i * LAUNCH_HEX, LAUNCH_HEX);
                grown[p->n_names++][LAUNCH_HEX] = '\0';
        }
        return true;
}

void native_work_names(struct native_pending *p, const struct launch_names *m, const char *names)
{
        if (!names_add(p, names, m->n)) {
                native_pending_fail(p, ENOMEM, "out of memory");
                return;
        }
        if (m->more)
                return;
        list_remove(&p->node);
        p->names_fn(0, (const char(*)[65])p->names, p->n_names, NULL, p->data);
        free(p->names);
        free(p);
}

static int work_start(struct native *n, const struct launch_work_start *m, const char (*layers)[65], const int *fds,
                      size_t n_fds, image_work_fn fn, void *data, struct err *err)
{
        struct native_pending *p = NULL;
        size_t len = sizeof(*m);
        int r;

        if (m->n_layers > LAUNCH_LAYERS_MAX)
                return err_set(err, EINVAL, "the image has more than %d layers", LAUNCH_LAYERS_MAX);
        memcpy(n->scratch, m, len);
        for (uint32_t i = 0; layers && i < m->n_layers; i++, len += LAUNCH_HEX)
                memcpy(n->scratch + len, layers[i], LAUNCH_HEX);
        r = native_request(n, n->scratch, len, fds, n_fds, &p, err);
        if (r < 0)
                return r;
        p->work_fn = fn;
        p->data = data;
        return 0;
}

static int work_copy(struct native *n, uint32_t work, const int fds[3], uint64_t max_bytes, uint64_t max_entries,
                     image_work_fn fn, void *data, struct err *err)
{
        struct launch_work_start m = {
                .h = { .op = LAUNCH_WORK },
                .work = work,
                .max_bytes = max_bytes,
                .max_entries = max_entries,
        };

        return work_start(n, &m, NULL, fds, 3, fn, data, err);
}

static int work_index(void *context, int archive_fd, int plain_fd, int report_fd, uint64_t max_bytes,
                      uint64_t max_entries, image_work_fn fn, void *data, struct err *err)
{
        const int fds[] = { archive_fd, plain_fd, report_fd };

        return work_copy(context, LAUNCH_WORK_INDEX, fds, max_bytes, max_entries, fn, data, err);
}

static int work_plain(void *context, int blob_fd, int plain_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                      image_work_fn fn, void *data, struct err *err)
{
        const int fds[] = { blob_fd, plain_fd, report_fd };

        return work_copy(context, LAUNCH_WORK_PLAIN, fds, max_bytes, max_entries, fn, data, err);
}

static int work_unpack(void *context, int blob_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                       image_work_fn fn, void *data, struct err *err)
{
        struct launch_work_start m = {
                .h = { .op = LAUNCH_WORK },
                .work = LAUNCH_WORK_UNPACK,
                .max_bytes = max_bytes,
                .max_entries = max_entries,
        };
        int fds[] = { blob_fd, report_fd };

        return work_start(context, &m, NULL, fds, ARRAY_LEN(fds), fn, data, err);
}

static int work_merge(void *context, const char (*layers)[65], size_t n_layers, int report_fd, image_work_fn fn,
                      void *data, struct err *err)
{
        struct launch_work_start m = {
                .h = { .op = LAUNCH_WORK },
                .work = LAUNCH_WORK_MERGE,
                .n_layers = (uint32_t)MIN(n_layers, (size_t)UINT32_MAX),
        };

        return work_start(context, &m, layers, &report_fd, 1, fn, data, err);
}

static uint32_t kind_of(enum image_kind kind)
{
        return kind == IMAGE_LAYER ? LAUNCH_KIND_LAYER : LAUNCH_KIND_TREE;
}

static int work_request_done(struct native *n, void *packet, size_t len, image_done_fn fn, void *data, struct err *err)
{
        struct native_pending *p = NULL;
        int r = native_request(n, packet, len, NULL, 0, &p, err);

        if (r < 0)
                return r;
        p->done_fn = fn;
        p->data = data;
        return 0;
}

static int work_commit(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                       void *data, struct err *err)
{
        struct launch_commit m = { .h = { .op = LAUNCH_COMMIT }, .token = token, .kind = kind_of(kind) };

        if (!hex_is_lower(name, LAUNCH_HEX))
                return err_set(err, EINVAL, "'%s' is no name of a layer or tree", name);
        memcpy(m.name, name, LAUNCH_HEX);
        return work_request_done(context, &m, sizeof(m), fn, data, err);
}

static int work_replace(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                        void *data, struct err *err)
{
        struct launch_commit m = { .h = { .op = LAUNCH_REPLACE }, .token = token, .kind = kind_of(kind) };

        if (!hex_is_lower(name, LAUNCH_HEX))
                return err_set(err, EINVAL, "'%s' is no name of a layer or tree", name);
        memcpy(m.name, name, LAUNCH_HEX);
        return work_request_done(context, &m, sizeof(m), fn, data, err);
}

static int work_compare(void *context, uint32_t token, enum image_kind kind, const char *name, int report_fd,
                        image_work_fn fn, void *data, struct err *err)
{
        struct launch_work_start m = {
                .h = { .op = LAUNCH_WORK },
                .work = LAUNCH_WORK_COMPARE,
                .n_layers = 1,
                .token = token,
                .kind = kind_of(kind),
        };
        char names[1][65];

        if (!hex_is_lower(name, LAUNCH_HEX))
                return err_set(err, EINVAL, "'%s' is no name of a layer or tree", name);
        memcpy(names[0], name, sizeof(names[0]));
        return work_start(context, &m, (const char(*)[65])names, &report_fd, 1, fn, data, err);
}

static int work_discard(void *context, uint32_t token, struct err *err)
{
        struct launch_discard m = { .h = { .op = LAUNCH_DISCARD }, .token = token };

        return work_request_done(context, &m, sizeof(m), NULL, NULL, err);
}

/* The launcher knows of those containers only that were started. */
static bool tree_awaited(struct native *n, const char *name)
{
        struct native_container *c;

        LIST_FOREACH(c, &n->containers, node) {
                if (c->start && memcmp(c->start->tree, name, LAUNCH_HEX) == 0)
                        return true;
        }
        return false;
}

static int work_remove(void *context, enum image_kind kind, const char *name, image_done_fn fn, void *data,
                       struct err *err)
{
        struct launch_delete m = { .h = { .op = LAUNCH_DELETE }, .kind = kind_of(kind) };

        if (!hex_is_lower(name, LAUNCH_HEX))
                return err_set(err, EINVAL, "'%s' is no name of a layer or tree", name);
        if (kind == IMAGE_TREE && tree_awaited(context, name))
                return err_set(err, EBUSY, "a container that waits for its start uses it");
        memcpy(m.name, name, LAUNCH_HEX);
        return work_request_done(context, &m, sizeof(m), fn, data, err);
}

static int work_list(void *context, enum image_kind kind, image_names_fn fn, void *data, struct err *err)
{
        struct launch_list m = { .h = { .op = LAUNCH_LIST }, .kind = kind_of(kind) };
        struct native_pending *p = NULL;
        int r = native_request(context, &m, sizeof(m), NULL, 0, &p, err);

        if (r < 0)
                return r;
        p->names_fn = fn;
        p->data = data;
        return 0;
}

void native_workers_init(struct native *n)
{
        n->workers = (struct image_workers){
                .context = n,
                .index = work_index,
                .plain = work_plain,
                .unpack = work_unpack,
                .merge = work_merge,
                .commit = work_commit,
                .compare = work_compare,
                .replace = work_replace,
                .discard = work_discard,
                .remove = work_remove,
                .list = work_list,
        };
}
