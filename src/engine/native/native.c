#include "engine/native/native.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "engine/native/internal.h"
#include "image/ref.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static struct native *to_native(struct engine *e)
{
        return CONTAINER_OF(e, struct native, engine);
}

/* ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct ensured {
        struct list node; /* of native.ensuring, while a pull has it, or native.held */
        struct native *native;
        struct image_want *want;
        int r;
        struct err err;
        struct engine_image image;
        engine_image_fn fn;
        void (*progress)(const struct engine_progress *p, void *data);
        void *data;
};

static void on_ensured(void *data)
{
        struct ensured *e = data;

        list_remove(&e->node);
        if (e->native->holding && e->r == 0) {
                list_append(&e->native->held, &e->node);
                return;
        }
        e->fn(e->r, &e->image, &e->err, e->data);
        free(e);
}

void engine_native_hold(struct engine *engine, bool on)
{
        struct native *n = to_native(engine);
        bool held = n->holding;
        struct ensured *e;

        n->holding = on;
        LIST_FOREACH(e, &n->held, node) {
                if (held && !on && loop_defer(n->loop, on_ensured, e) < 0)
                        log_warn("out of memory: a task waits on for its image");
        }
}

static void on_pulled(int r, const struct image_pull_result *result, const struct err *err, void *data)
{
        struct ensured *e = data;

        e->want = NULL;
        e->r = r;
        if (r < 0)
                e->err = *err;
        (void)snprintf(e->image.ref, sizeof(e->image.ref), "%s", result->ref);
        (void)snprintf(e->image.digest, sizeof(e->image.digest), "%s", result->digest);
        e->image.retry_after_s = result->retry_after_s;
        on_ensured(e);
}

static void on_progress(const struct image_pull_progress *p, void *data)
{
        const struct engine_progress told = { .done = p->done, .total = p->total };
        struct ensured *e = data;

        e->progress(&told, e->data);
}

/* The first name under which the image is known stands for one that was asked for by digest. */
static void fill_image(const struct image *image, const char *ref, struct engine_image *ret)
{
        struct image_ref parsed;
        char name[REF_TEXT_MAX] = "";

        if (image_ref_parse_docker(ref, &parsed, NULL) == 0)
                image_ref_format(&parsed, name);
        for (char **n = image->names; n && *n; n++)
                if (str_eq(*n, name)) {
                        (void)snprintf(ret->ref, sizeof(ret->ref), "%s", name);
                        break;
                }
        if (!ret->ref[0])
                (void)snprintf(ret->ref, sizeof(ret->ref), "%s",
                               image->names && image->names[0] ? image->names[0] : ref);
        (void)snprintf(ret->digest, sizeof(ret->digest), "%s", image->digest);
}

static int ensure_present(struct native *n, struct ensured *e, const char *ref)
{
        const struct image *image = image_store_find(n->store, ref, &e->err);

        if (image && image->broken)
                e->r = err_set(&e->err, EUCLEAN, "image '%s' is damaged, and has to be brought again", ref);
        else if (image)
                fill_image(image, ref, &e->image);
        else if (e->err.num)
                e->r = -e->err.num;
        else
                e->r = err_set(&e->err, ENOENT, "there is no image '%s' here", ref);
        return loop_defer(n->loop, on_ensured, e);
}

static int ensure_pulled(struct native *n, struct ensured *e, const struct engine_image_request *q, struct err *err)
{
        const struct image_pull_request request = {
                .ref = q->ref,
                .owner = q->owner,
                /* Who may open the socket is admin. */
                .all = q->owner && str_starts(q->owner, "uid:"),
                .policy = (enum image_pull_policy)q->pull,
                .username = q->username,
                .password = q->password,
                .progress = q->progress ? on_progress : NULL,
        };

        return image_pull(n->pulls, &request, on_pulled, e, &e->want, err);
}
_Static_assert((int)IMAGE_PULL_MISSING == (int)ENGINE_PULL_MISSING &&
                       (int)IMAGE_PULL_ALWAYS == (int)ENGINE_PULL_ALWAYS &&
                       (int)IMAGE_PULL_NEVER == (int)ENGINE_PULL_NEVER,
               "when an image is pulled has the same numbers everywhere");

static int native_ensure_image(struct engine *engine, const struct engine_image_request *request, engine_image_fn fn,
                               void *data, struct err *err)
{
        struct native *n = to_native(engine);
        struct ensured *e = calloc(1, sizeof(*e));

        if (!e)
                return err_oom(err);
        list_init(&e->node);
        e->native = n;
        e->fn = fn;
        e->data = data;
        e->progress = request->progress;
        if (n->pulls ? ensure_pulled(n, e, request, NULL) < 0 : ensure_present(n, e, request->ref) < 0) {
                free(e);
                return err_oom(err);
        }
        if (e->want)
                list_append(&n->ensuring, &e->node);
        return 0;
}

static void native_cancel_image(struct engine *engine, void *data)
{
        struct native *n = to_native(engine);
        struct ensured *e;

        LIST_FOREACH(e, &n->ensuring, node) {
                if (e->data != data || !e->want)
                        continue;
                e->r = err_set(&e->err, ECANCELED, "nobody wants it any more");
                /* Out of memory, it goes on. */
                if (loop_defer(n->loop, on_ensured, e) == 0)
                        image_pull_cancel(TAKE_PTR(e->want));
                return;
        }
}

/* ── the engine ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_list(void *data)
{
        struct native *n = data;

        /* Otherwise the launcher has gone meanwhile, and the next READY answers. */
        if (n->state == LAUNCH_UP && !n->listed)
                native_tell_found(n);
}

static int native_list(struct engine *e, engine_found_fn found, engine_done_fn done, void *data, struct err *err)
{
        struct native *n = to_native(e);

        if (n->list_done)
                return err_set(err, EALREADY, "the containers were listed already");
        n->found = found;
        n->list_done = done;
        n->list_data = data;
        if (n->state == LAUNCH_UP && loop_defer(n->loop, on_list, n) < 0) {
                n->list_done = NULL;
                return err_oom(err);
        }
        return 0;
}

static uint64_t native_life(struct engine *e)
{
        struct native *n = to_native(e);

        return n->forgot ? 0 : n->host.life;
}

/* Containers that have not got their pipes yet. */
static uint64_t unopened(const struct native *n)
{
        const struct native_container *c;
        uint64_t count = 0;

        LIST_FOREACH(c, (struct list *)(uintptr_t)&n->containers, node)
                count += c->state <= CONTAINER_WAITING;
        return count;
}

/* Connections take what HTTP_FD_RESERVE leaves them, so that there is room for one start at least, whatever clients do. */
static bool native_room(struct engine *e, unsigned starting)
{
        struct native *n = to_native(e);
        uint64_t needed = NATIVE_START_FDS + NATIVE_CONTAINER_FDS * (1 + (uint64_t)starting);

        if (fd_left(NATIVE_FDS_PLENTY) == NATIVE_FDS_PLENTY)
                return true;
        needed += NATIVE_CONTAINER_FDS * unopened(n) + native_net_owed(n);
        if (fd_left(NATIVE_FDS_PLENTY) >= needed)
                return true;
        native_net_shrink(n);
        return fd_left(NATIVE_FDS_PLENTY) >= needed;
}

static int native_check(struct engine *e, struct err *err)
{
        struct native *n = to_native(e);

        if (n->state != LAUNCH_UP)
                return err_set(err, ENOTCONN, "mayfly-launcher cannot be reached");
        if (!n->net.synced)
                return err_set(err, ENETDOWN, "mayfly-netd cannot be reached");
        return 0;
}

static void native_free(struct engine *e)
{
        struct native *n = to_native(e);
        struct native_container *c;
        struct ensured *ensured;

        LIST_FOREACH(ensured, &n->ensuring, node) {
                list_remove(&ensured->node);
                free(ensured);
        }
        LIST_FOREACH(ensured, &n->held, node) {
                list_remove(&ensured->node);
                free(ensured);
        }
        native_launch_done(n);
        native_copies_done(n);
        loop_timer_cancel(&n->watch_timer);
        while ((c = LIST_FIRST(&n->containers, struct native_container, node)))
                native_container_free(c);
        map_free(n->by_id);
        fd_close(n->devnull);
        free(n->scratch);
        free(n->piece);
        native_net_done(n);
        free(n);
}

static const char *native_notice(const struct engine *e)
{
        const struct native *n = to_native((struct engine *)(uintptr_t)e);

        return n->net.notice.len > 0 ? n->net.notice.data : NULL;
}

static const struct engine_ops native_ops = {
        .name = "native",
        .features = ENGINE_F_SIGNAL_EXACT | ENGINE_F_MEMORY_PEAK | ENGINE_F_CPU_USAGE | ENGINE_F_DISK_LIMIT |
                    ENGINE_F_SURVIVES_DAEMON | ENGINE_F_COPY_OUT | ENGINE_F_LIVE | ENGINE_F_SECRETS | ENGINE_F_REOPEN |
                    ENGINE_F_NETWORK_RULES,
        .ensure_image = native_ensure_image,
        .cancel_image = native_cancel_image,
        .create = native_container_create,
        .start = native_container_start,
        .attach = native_container_attach,
        .signal = native_container_signal,
        .stats = native_container_stats,
        .pause = native_container_pause,
        .copy_out = native_container_copy_out,
        .update_record = native_container_update_record,
        .remove = native_container_remove,
        .list = native_list,
        .life = native_life,
        .room = native_room,
        .check = native_check,
        .notice = native_notice,
        .free = native_free,
};

static uint32_t stock_mode(enum engine_network network)
{
        switch (network) {
        case ENGINE_NET_NONE:
                return NET_NONE;
        case ENGINE_NET_INTERNET:
                return NET_INTERNET;
        case ENGINE_NET_NAT:
                break;
        }
        return NET_NAT;
}

int engine_native_new(struct loop *loop, const struct engine_native_config *config, struct engine **ret,
                      struct err *err)
{
        struct native *n = calloc(1, sizeof(*n));
        int r = 0;

        if (!n)
                return err_oom(err);
        n->engine.ops = &native_ops;
        n->loop = loop;
        n->stock = config->stock ? config->stock : 8;
        n->max_idle = config->idle ? config->idle : 128;
        list_init(&n->containers);
        list_init(&n->slot_waiters);
        list_init(&n->pending);
        list_init(&n->copies);
        list_init(&n->copying);
        list_init(&n->unwatched);
        list_init(&n->ensuring);
        list_init(&n->held);
        native_workers_init(n);
        n->devnull = open("/dev/null", O_WRONLY | O_CLOEXEC);
        n->by_id = map_new();
        n->scratch = malloc(LAUNCH_MSG_MAX);
        n->piece = malloc(OUTPUT_PIECE);
        if (n->devnull < 0)
                r = err_sys(err, "open /dev/null");
        else if (!n->by_id || !n->scratch || !n->piece)
                r = err_oom(err);
        if (r == 0)
                r = native_net_init(n, config->netd_path, err);
        if (r == 0)
                r = native_launch_init(n, config->launcher_path, err);
        if (r < 0) {
                if (n->net.peer.loop)
                        native_net_done(n);
                map_free(n->by_id);
                fd_close(n->devnull);
                free(n->scratch);
                free(n->piece);
                free(n);
                return r;
        }
        n->net.want[stock_mode(config->network)] = n->stock;
        *ret = &n->engine;
        return 0;
}

void engine_native_set_store(struct engine *e, struct image_store *store)
{
        to_native(e)->store = store;
}

void engine_native_set_pulls(struct engine *e, struct image_pulls *pulls)
{
        to_native(e)->pulls = pulls;
}

const struct image_workers *engine_native_workers(struct engine *e)
{
        return &to_native(e)->workers;
}
