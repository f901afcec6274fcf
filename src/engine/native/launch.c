/* The connection to the launcher. */

#include "engine/native/internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int native_launch_send(struct native *n, const void *packet, size_t len, const int *fds, size_t n_fds, struct err *err)
{
        if (n->state != LAUNCH_UP)
                return err_set(err, ENOTCONN, "the launcher cannot be reached");
        return peer_send(&n->launcher, packet, len, fds, n_fds, err);
}

int native_request(struct native *n, void *packet, size_t len, const int *fds, size_t n_fds,
                   struct native_pending **ret, struct err *err)
{
        struct launch_header *h = packet;
        struct native_pending *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return err_oom(err);
        h->seq = ++n->seq ? n->seq : ++n->seq;
        r = native_launch_send(n, packet, len, fds, n_fds, err);
        if (r < 0) {
                free(p);
                return r;
        }
        p->seq = h->seq;
        list_append(&n->pending, &p->node);
        *ret = p;
        return 0;
}

static struct native_pending *pending_find(struct native *n, uint32_t seq)
{
        struct native_pending *p;

        LIST_FOREACH(p, &n->pending, node) {
                if (p->seq == seq)
                        return p;
        }
        return NULL;
}

static struct native_container *find_container(struct native *n, const char id[LAUNCH_ID_MAX])
{
        char text[LAUNCH_ID_MAX + 1];

        memcpy(text, id, LAUNCH_ID_MAX);
        text[LAUNCH_ID_MAX] = '\0';
        return map_find(n->by_id, text);
}

static void send_remove(struct native *n, const char id[LAUNCH_ID_MAX])
{
        struct launch_id m = { .h = { .op = LAUNCH_REMOVE } };

        memcpy(m.id, id, LAUNCH_ID_MAX);
        (void)peer_send(&n->launcher, &m, sizeof(m), NULL, 0, NULL);
}

/* ── greeting ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_hello(struct native *n, const struct launch_hello *m)
{
        if (n->state != LAUNCH_GREETING || m->version != LAUNCH_VERSION) {
                log_debug("the launcher speaks version %u, not %u", m->version, LAUNCH_VERSION);
                peer_drop(&n->launcher);
                return;
        }
        n->host = *m;
        n->state = LAUNCH_ADOPTING;
}

static void on_adopt(struct native *n, const struct launch_adopt *m, int *fds, size_t n_fds)
{
        struct native_container *c = find_container(n, m->id);
        struct err err = ERR_INIT;

        if (n->state != LAUNCH_ADOPTING || n_fds != LAUNCH_ADOPT_COUNT) {
                peer_drop(&n->launcher);
                return;
        }
        if (c) {
                /* Only the connection was lost: what we hold is the same. */
                c->unsure = false;
                if (m->ended && c->state == CONTAINER_STARTED)
                        native_container_ended(c, &m->exit);
                return;
        }
        if (n->listed || native_container_adopt(n, m, fds, &c, &err) < 0) {
                if (err.num)
                        log_debug("container %.*s: %s", LAUNCH_ID_MAX, m->id, err.text);
                n->forgot = true;
                send_remove(n, m->id);
        }
}

/* What the launcher does not know any more has ended with the one that did. */
static void lose_unsure(struct native *n)
{
        struct native_container *c;
        bool again = true;

        while (again) {
                again = false;
                LIST_FOREACH(c, &n->containers, node) {
                        if (!c->unsure)
                                continue;
                        c->unsure = false;
                        again = true;
                        native_container_failed(c, ENGINE_END_LOST, 0, "the launcher that ran it has died");
                        break;
                }
        }
}

void native_tell_found(struct native *n)
{
        struct native_container *c;

        n->listed = true;
        LIST_FOREACH(c, &n->containers, node) {
                struct native_record rec = { .mode = 0 };
                uint32_t slot;

                if (native_record_read(c->record_fd, &rec, &slot, NULL) < 0) {
                        n->forgot = true;
                        native_container_remove(&c->base);
                        continue;
                }
                c->record_slot = slot;
                n->found(&c->base, c->id, rec.data.data, rec.data.len, n->list_data);
                native_record_done(&rec);
        }
        n->list_done(0, NULL, n->list_data);
        LIST_FOREACH(c, &n->containers, node) {
                native_container_tell_end(c);
        }
        native_net_sync(n);
}

static void on_ready(struct native *n)
{
        if (n->state != LAUNCH_ADOPTING) {
                peer_drop(&n->launcher);
                return;
        }
        n->state = LAUNCH_UP;
        peer_settled(&n->launcher);
        loop_timer_cancel(&n->lost_timer);
        lose_unsure(n);
        native_serve_slots(n);
        if (!n->listed && n->list_done)
                native_tell_found(n);
}

/* ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_refused(struct native *n, const struct launch_refused *m)
{
        struct native_pending *p = m->h.seq ? pending_find(n, m->h.seq) : NULL;
        struct native_container *c;
        char text[sizeof(m->text) + 1];

        (void)snprintf(text, sizeof(text), "%.*s", (int)sizeof(m->text), m->text);
        if (p) {
                native_pending_fail(p, m->error, text);
                return;
        }
        c = find_container(n, m->id);
        if (c && c->state == CONTAINER_STARTED)
                native_container_failed(c, ENGINE_END_START_ERROR, m->error, text);
}

static void on_counters(struct native *n, const struct launch_stats *m)
{
        struct native_pending *p = pending_find(n, m->h.seq);
        struct engine_stats stats = {
                .memory_now = m->counters.memory_now,
                .memory_peak = m->counters.memory_peak,
                .cpu_ns = m->counters.cpu_ns,
                .start_mono_ns = m->exec_ns,
        };

        if (!p || !p->stats_fn)
                return;
        list_remove(&p->node);
        p->stats_fn(0, &stats, NULL, p->data);
        free(p);
}

static void on_done(struct native *n, const struct launch_done *m)
{
        struct native_pending *p = pending_find(n, m->h.seq);

        if (!p)
                return;
        list_remove(&p->node);
        if (p->done_fn)
                p->done_fn(0, NULL, p->data);
        free(p);
}

static void on_exited(struct native *n, const struct launch_exited *m)
{
        struct native_container *c = find_container(n, m->id);

        if (c && c->state == CONTAINER_STARTED)
                native_container_ended(c, &m->exit);
}

static void on_packet(struct peer *peer, const void *packet, size_t len, int *fds, size_t n_fds, void *data)
{
        /* The least length of each message. */
        static const size_t sizes[] = {
                [LAUNCH_HELLO] = sizeof(struct launch_hello),         [LAUNCH_ADOPT] = sizeof(struct launch_adopt),
                [LAUNCH_READY] = sizeof(struct launch_header),        [LAUNCH_REFUSED] = sizeof(struct launch_refused),
                [LAUNCH_EXITED] = sizeof(struct launch_exited),       [LAUNCH_COUNTERS] = sizeof(struct launch_stats),
                [LAUNCH_WORK_DONE] = sizeof(struct launch_work_done), [LAUNCH_DONE] = sizeof(struct launch_done),
                [LAUNCH_NAMES] = sizeof(struct launch_names),
        };
        /* The peer's buffer comes from malloc(), so it is aligned for every message. */
        const struct launch_header *h = packet;
        const struct launch_names *names = packet;
        struct native_pending *p = NULL;
        struct native *n = data;

        if (len < sizeof(*h) || h->op >= ARRAY_LEN(sizes) || sizes[h->op] == 0 || len < sizes[h->op]) {
                peer_drop(peer);
                return;
        }
        switch (h->op) {
        case LAUNCH_HELLO:
                on_hello(n, packet);
                break;
        case LAUNCH_ADOPT:
                on_adopt(n, packet, fds, n_fds);
                break;
        case LAUNCH_READY:
                on_ready(n);
                break;
        case LAUNCH_REFUSED:
                on_refused(n, packet);
                break;
        case LAUNCH_EXITED:
                on_exited(n, packet);
                break;
        case LAUNCH_COUNTERS:
                on_counters(n, packet);
                break;
        case LAUNCH_DONE:
                on_done(n, packet);
                break;
        case LAUNCH_WORK_DONE:
                p = pending_find(n, h->seq);
                if (p && p->work_fn)
                        native_work_done(p, packet);
                break;
        case LAUNCH_NAMES:
                p = pending_find(n, h->seq);
                if (names->n > LAUNCH_NAMES_MAX || len != sizeof(*names) + (size_t)names->n * LAUNCH_HEX)
                        peer_drop(peer);
                else if (p && p->names_fn)
                        native_work_names(p, packet, (const char *)packet + sizeof(struct launch_names));
                break;
        }
}

/* ── connection ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_connected(struct peer *p, void *data)
{
        struct launch_hello m = { .h = { .op = LAUNCH_HELLO }, .version = LAUNCH_VERSION };
        struct native *n = data;

        n->state = LAUNCH_GREETING;
        (void)peer_send(p, &m, sizeof(m), NULL, 0, NULL);
}

static void on_lost_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        lose_unsure(data);
}

static void fail_pending(struct native *n)
{
        struct native_pending *p;

        while ((p = LIST_FIRST(&n->pending, struct native_pending, node)))
                native_pending_fail(p, ENOTCONN, "the launcher has died");
}

static void on_closed(struct peer *p, void *data)
{
        struct native *n = data;
        struct native_container *c;

        (void)p;
        n->state = LAUNCH_DOWN;
        LIST_FOREACH(c, &n->containers, node) {
                if (c->state == CONTAINER_STARTED)
                        c->unsure = true;
        }
        /* Before the first list() has its answer, what was adopted is told anew by the next launcher. */
        if (!n->listed)
                while ((c = LIST_FIRST(&n->containers, struct native_container, node)))
                        native_container_free(c);
        (void)loop_timer_set(n->loop, &n->lost_timer, time_mono_ns() + NATIVE_LAUNCHER_NS, on_lost_timer, n);
        fail_pending(n);
}

int native_launch_init(struct native *n, const char *path, struct err *err)
{
        static const struct peer_ops ops = { .connected = on_connected, .packet = on_packet, .closed = on_closed };

        return peer_init(&n->launcher, n->loop, path, &ops, n, err);
}

void native_launch_done(struct native *n)
{
        struct native_pending *p;

        peer_done(&n->launcher);
        loop_timer_cancel(&n->lost_timer);
        while ((p = LIST_FIRST(&n->pending, struct native_pending, node))) {
                list_remove(&p->node);
                free(p->names);
                free(p);
        }
}
