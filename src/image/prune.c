#include "image/prune.h"

#include "image/operation.h"

#include "base/log.h"
#include "base/time.h"
#include "base/units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define LOOK_NS (5 * NS_PER_S)
#define SETTLE_NS (10 * NS_PER_S) /* how long nothing of what was deleted may leave the disk until it is given up */
#define SETTLE_LOOK_NS (100 * NS_PER_MS)
#define PARTIAL_AGE_MS (UINT64_C(24) * 3600 * 1000)
#define FAULT_NS (20 * NS_PER_S) /* between two rounds that could not do it */

/* ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

void image_prune_result_done(struct image_prune_result *r)
{
        for (size_t i = 0; i < r->n; i++)
                strv_free(r->items[i].names);
        vec_free((void **)&r->items);
        r->n = r->cap = 0;
}

static int add_item(struct image_prune_result *r, const struct stored *i, uint64_t bytes)
{
        struct image_pruned item = { .bytes = bytes, .used_ms = i->image.used_ms };

        if (vec_grow((void **)&r->items, &r->cap, r->n, sizeof(item)) < 0)
                return -ENOMEM;
        memcpy(item.digest, i->image.digest, sizeof(item.digest));
        item.names = strv_dup(i->image.names);
        if (i->image.names && !item.names)
                return -ENOMEM;
        r->items[r->n++] = item;
        r->bytes += bytes;
        return 0;
}

/* ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The order in which the disk's pressure takes them: nobody can name the first, a registry has the second. Whose name was lost
 * with the index may be named again, and it is not known whether a registry has it. */
enum class { CLASS_NAMELESS, CLASS_PULLED, CLASS_BROUGHT };

struct candidates {
        const struct stored **items;
        size_t n;
};

static enum class class_of(const struct image *i) {
        bool named = i->names && i->names[0];

        return !named && !i->lost             ? CLASS_NAMELESS
               : i->source == IMAGE_FROM_PULL ? CLASS_PULLED
                                              : CLASS_BROUGHT;
}

static int older(const void *a, const void *b)
{
        const struct image *x = &(*(struct stored *const *)a)->image, *y = &(*(struct stored *const *)b)->image;

        if (x->used_ms != y->used_ms)
                return x->used_ms < y->used_ms ? -1 : 1;
        return strcmp(x->digest, y->digest);
}

static int of_class(const void *a, const void *b)
{
        const struct image *x = &(*(struct stored *const *)a)->image, *y = &(*(struct stored *const *)b)->image;

        return class_of(x) != class_of(y) ? (int)class_of(x) - (int)class_of(y) : older(a, b);
}

static bool matches(const struct image_prune_policy *p, const struct image *i, uint64_t now)
{
        bool named = i->names && i->names[0];

        if (p->may && !p->may(i, p->data))
                return false;
        if (named && (p->dangling || !(p->all || p->aged || p->capped)))
                return false;
        return !p->aged || (i->used_ms <= now && now - i->used_ms >= p->unused_for_ms);
}

static bool is_spared(const struct image_store *s, const struct stored *i, const struct map *used, uint64_t now,
                      struct image_prune_result *ret)
{
        if (image_is_builtin(&i->image))
                return true;
        if (i->image.pinned) {
                ret->pinned++;
        } else if (map_find(used, i->image.digest)) {
                ret->in_use++;
        } else if (i->image.came_ms > 0 && now - MIN(now, i->image.came_ms) < s->config.keep_for_ms) {
                ret->recent++;
        } else {
                return false;
        }
        return true;
}

static int used_now(const struct image_store *s, struct map **ret)
{
        struct map *used = map_new();
        int r = used ? 0 : -ENOMEM;

        if (r == 0 && s->users)
                r = s->users(s->users_data, used);
        if (r < 0) {
                map_free(used);
                return r;
        }
        *ret = used;
        return 0;
}

int prune_in_use(const struct image_store *s, const char *digest)
{
        struct map *used = NULL;
        int r = used_now(s, &used);

        if (r == 0)
                r = map_find(used, digest) != NULL;
        map_free(used);
        return r;
}

/* free_bytes: how much has to come back; UINT64_MAX: all that can. */
static int plan(struct image_store *s, const struct image_prune_policy *p, uint64_t free_bytes,
                int (*order)(const void *, const void *), struct image_prune_result *ret)
{
        auto_free const struct stored **list = calloc(s->images.len + 1, sizeof(const struct stored *));
        struct map *used = NULL, *account = NULL;
        uint64_t now = time_real_ms();
        size_t n = 0;
        int r;

        if (!list)
                return -ENOMEM;
        r = used_now(s, &used);
        if (r == 0)
                r = account_new(s, &account, &ret->total);
        for (size_t i = 0; r == 0 && i < s->images.len; i++)
                if (matches(p, &s->images.items[i]->image, now) && !is_spared(s, s->images.items[i], used, now, ret))
                        list[n++] = s->images.items[i];
        if (n > 0)
                qsort(list, n, sizeof(const struct stored *), order);
        for (size_t i = 0; r == 0 && i < n; i++) {
                if (ret->bytes >= free_bytes || (p->capped && ret->total - ret->bytes <= p->keep_bytes))
                        break;
                r = add_item(ret, list[i], account_take(s, account, list[i]));
        }
        map_free(used);
        account_done(account);
        return r;
}

int image_store_prune_plan(struct image_store *s, const struct image_prune_policy *policy,
                           struct image_prune_result *ret, struct err *err)
{
        struct image_prune_result found = { .n = 0 };

        if (plan(s, policy, UINT64_MAX, older, &found) < 0) {
                image_prune_result_done(&found);
                return err_oom(err);
        }
        *ret = found;
        return 0;
}

/* ── taking out ───────────────────────────────────────────────────────────────────────────────────────────────────── */

struct prune {
        struct image_store *store;
        struct list node;
        struct image_prune_result planned, gone;
        size_t at;
        uint64_t planned_ms;
        const char *why; /* in the log */
        image_pruned_fn fn;
        void *data;
};

static void prune_free(struct prune *p)
{
        list_remove(&p->node);
        image_prune_result_done(&p->planned);
        image_prune_result_done(&p->gone);
        free(p);
}

void prune_close(struct image_store *s)
{
        struct prune *p;

        loop_timer_cancel(&s->pressure.timer);
        LIST_FOREACH(p, &s->prunes, node)
                prune_free(p);
        while (!list_empty(&s->pressure.rooms)) {
                struct image_room *room = LIST_FIRST(&s->pressure.rooms, struct image_room, node);

                list_remove(&room->node);
                free(room);
        }
}

static void on_collected(int r, const struct err *err, void *data)
{
        struct prune *p = data;

        /* What has gone has gone; what it alone needed is collected another time. */
        if (p->fn)
                p->fn(p->gone.n > 0 ? 0 : r, &p->gone, err, p->data);
        prune_free(p);
}

static void take_next(struct prune *p);

static void log_gone(const struct prune *p, const struct image_pruned *i)
{
        char size[UNITS_HUMAN_MAX], used[TIME_RFC3339_MAX];

        units_human(i->bytes, size);
        time_rfc3339(i->used_ms, used);
        log_info("images: %s%s%s is removed (%s): %s, last used %s", i->names && i->names[0] ? i->names[0] : "",
                 i->names && i->names[0] ? " " : "", i->digest, p->why, size, i->used_ms > 0 ? used : "never");
}

static void on_taken(int r, const struct err *err, void *data)
{
        struct prune *p = data;
        struct image_pruned *i = &p->planned.items[p->at++];

        if (r == 0 && vec_grow((void **)&p->gone.items, &p->gone.cap, p->gone.n, sizeof(*i)) == 0) {
                log_gone(p, i);
                p->gone.bytes += i->bytes;
                p->gone.items[p->gone.n++] = *i;
                i->names = NULL;
        } else if (r == -EBUSY) {
                p->gone.in_use++;
        } else if (r < 0 && r != -ENOENT) {
                log_warn("images: %s cannot be removed: %s", i->digest, err ? err->text : strerror(-r));
        }
        take_next(p);
}

static void take_next(struct prune *p)
{
        bool more = p->at < p->planned.n;
        struct op *op = op_new(p->store, more ? op_take_out_steps : op_collect_steps, false);
        struct err err = ERR_INIT;

        if (op && more) {
                op->ref = strdup(p->planned.items[p->at].digest);
                memcpy(op->looked_at, p->planned.items[p->at].digest, sizeof(op->looked_at));
                op->whole = op->pruning = true;
                op->planned_ms = p->planned_ms;
                op->planned_names = strv_len(p->planned.items[p->at].names);
        }
        if (!op || (more && !op->ref)) {
                int r = err_oom(&err);

                op_free(op);
                on_collected(r, &err, p);
                return;
        }
        op->done = more ? on_taken : on_collected;
        op->data = p;
        op_add(op);
}

static int prune_start(struct image_store *s, struct image_prune_result *planned, const char *why, image_pruned_fn fn,
                       void *data, struct err *err)
{
        struct prune *p = calloc(1, sizeof(*p));

        if (!p)
                return err_oom(err);
        p->store = s;
        p->planned = *planned;
        *planned = (struct image_prune_result){ .n = 0 };
        p->gone = p->planned;
        p->gone.items = NULL;
        p->gone.n = p->gone.cap = 0;
        p->gone.bytes = 0;
        p->planned_ms = time_real_ms();
        p->why = why;
        p->fn = fn;
        p->data = data;
        list_init(&p->node);
        list_append(&s->prunes, &p->node);
        take_next(p);
        return 0;
}

int image_store_prune(struct image_store *s, const struct image_prune_policy *policy, image_pruned_fn fn, void *data,
                      struct err *err)
{
        struct image_prune_result planned = { .n = 0 };
        int r = image_store_prune_plan(s, policy, &planned, err);

        if (r == 0)
                r = prune_start(s, &planned, "prune", fn, data, err);
        image_prune_result_done(&planned);
        return r;
}

/* ── partial downloads ────────────────────────────────────────────────────────────────────────────────────────────── */

static int work_partials(struct op *op, struct err *err)
{
        (void)err;
        image_layout_drop_partials(&op->layout, PARTIAL_AGE_MS / 1000);
        return 0;
}

int step_collect_partials(struct op *op)
{
        int r = op_work(op, work_partials);

        return r < 0 ? r : STEP_WAIT;
}

/* ── the disk's pressure ──────────────────────────────────────────────────────────────────────────────────────────── */

void image_store_set_users(struct image_store *s, image_users_fn fn, void *data)
{
        s->users = fn;
        s->users_data = data;
}

const char *image_store_fault(const struct image_store *s)
{
        return s->pressure.fault[0] ? s->pressure.fault : NULL;
}

struct disk {
        unsigned percent; /* used, of blocks or inodes, the fuller */
        uint64_t over;    /* bytes above the low mark */
        uint64_t used;    /* bytes */
};

/* As df(1): what is reserved for root is neither used nor free. Inodes are turned into bytes by the mean file. */
static void look_at(const struct statvfs *st, unsigned low, struct disk *d)
{
        uint64_t used = (uint64_t)(st->f_blocks - st->f_bfree) * st->f_frsize;
        uint64_t all = used + (uint64_t)st->f_bavail * st->f_frsize;
        uint64_t inodes = st->f_files - st->f_ffree, files = inodes + st->f_favail;

        d->used = MAX(d->used, used);
        if (all > 0) {
                d->percent = MAX(d->percent, (unsigned)(used * 100 / all));
                if (used > all / 100 * low)
                        d->over = MAX(d->over, used - all / 100 * low);
        }
        if (st->f_files > 0 && files > 0 && inodes > files / 100 * low) {
                d->percent = MAX(d->percent, (unsigned)(inodes * 100 / files));
                d->over = MAX(d->over, used / inodes * (inodes - files / 100 * low));
        }
}

static bool look(const struct image_store *s, struct disk *d)
{
        struct statvfs st;

        *d = (struct disk){ .percent = 0 };
        if (fstatvfs(s->layout.dir, &st) < 0)
                return false;
        look_at(&st, s->config.low_water, d);
        if (s->config.trees_dir && statvfs(s->config.trees_dir, &st) == 0)
                look_at(&st, s->config.low_water, d);
        return true;
}

static void on_look(struct loop_timer *timer, void *data);

static void look_again(struct image_store *s, uint64_t in_ns)
{
        (void)loop_timer_set(s->loop, &s->pressure.timer, time_mono_ns() + in_ns, on_look, s);
}

static void answer_rooms(struct image_store *s, int r)
{
        struct err err = ERR_INIT;
        struct list rooms;
        struct image_room *room;

        if (r < 0)
                (void)err_set(&err, -r, "the disk is full, and no image may go");
        list_init(&rooms);
        while ((room = LIST_FIRST(&s->pressure.rooms, struct image_room, node))) {
                list_remove(&room->node);
                list_append(&rooms, &room->node);
        }
        while ((room = LIST_FIRST(&rooms, struct image_room, node))) {
                list_remove(&room->node);
                room->fn(r, r < 0 ? &err : NULL, room->data);
                free(room);
        }
}

static void tell_fault(struct image_store *s, const struct disk *d)
{
        const struct image_prune_result *left = &s->pressure.left;
        char text[sizeof(s->pressure.fault)];

        (void)snprintf(text, sizeof(text),
                       "the disk of images is %u%% full, above %u%%, and nothing more may go: %u in use, %u pinned, %u "
                       "that came a short while ago",
                       d->percent, s->config.high_water, left->in_use, left->pinned, left->recent);
        if (!s->pressure.fault[0])
                log_warn("images: %s", text);
        memcpy(s->pressure.fault, text, sizeof(text));
}

/* What is deleted leaves the disk a little later, by a worker; estimates are not exact. */
static bool is_settled(struct image_store *s, const struct disk *d)
{
        struct image_pressure *p = &s->pressure;

        if (d->used < p->used_last) {
                p->used_last = d->used;
                p->settle_ns = time_mono_ns() + SETTLE_NS;
        }
        return p->removed == 0 || d->percent <= s->config.low_water ||
               d->used + p->expected / 10 * 9 <= p->used_before || time_mono_ns() >= p->settle_ns;
}

/* A round has ended: has it helped? */
static void settle(struct image_store *s)
{
        struct image_pressure *p = &s->pressure;
        struct disk d;

        if (look(s, &d) && !is_settled(s, &d)) {
                look_again(s, SETTLE_LOOK_NS);
                return;
        }
        p->settling = false;
        answer_rooms(s, p->removed > 0 ? 0 : -ENOSPC);
        if (s->config.high_water > 0 && d.percent > s->config.high_water && p->removed == 0)
                tell_fault(s, &d);
        else
                p->fault[0] = '\0';
        look_again(s, p->fault[0] ? FAULT_NS : p->removed > 0 ? 0 : LOOK_NS);
}

static void on_round(int r, const struct image_prune_result *gone, const struct err *err, void *data)
{
        struct image_store *s = data;
        struct image_pressure *p = &s->pressure;
        char size[UNITS_HUMAN_MAX];

        if (r < 0 && err)
                log_warn("images: collection: %s", err->text);
        units_human(gone->bytes, size);
        if (gone->n > 0)
                log_info("images: the disk was %u%% full: %zu image%s removed, about %s", p->percent_before, gone->n,
                         gone->n == 1 ? "" : "s", size);
        p->removed = gone->n;
        p->expected = gone->bytes;
        p->left = *gone;
        p->left.items = NULL;
        p->running = false;
        p->settling = true;
        p->settle_ns = time_mono_ns() + SETTLE_NS;
        settle(s);
}

static void round_begin(struct image_store *s, const struct disk *d)
{
        const struct image_prune_policy all = { .all = true };
        struct image_prune_result planned = { .n = 0 };
        struct err err = ERR_INIT;
        /* Who met a full disk needs more than nothing. */
        uint64_t want = MAX(d->over, list_empty(&s->pressure.rooms) ? UINT64_C(0) : UINT64_C(1));
        int r = plan(s, &all, want, of_class, &planned);

        s->pressure.running = true;
        s->pressure.percent_before = d->percent;
        s->pressure.used_before = s->pressure.used_last = d->used;
        if (r == 0)
                r = prune_start(s, &planned, "the disk is full", on_round, s, &err);
        image_prune_result_done(&planned);
        if (r < 0) {
                s->pressure.running = false;
                answer_rooms(s, -ENOSPC);
                look_again(s, LOOK_NS);
        }
}

static void on_look(struct loop_timer *timer, void *data)
{
        struct image_store *s = data;
        struct image_pressure *p = &s->pressure;
        struct disk d;

        (void)timer;
        if (p->running)
                return;
        if (p->settling) {
                settle(s);
                return;
        }
        if (!look(s, &d)) {
                answer_rooms(s, -ENOSPC);
                look_again(s, LOOK_NS);
        } else if (!list_empty(&p->rooms) || (s->config.high_water > 0 && d.percent > s->config.high_water)) {
                round_begin(s, &d);
        } else {
                if (p->fault[0])
                        log_info("images: the disk has room again: %u%% full", d.percent);
                p->fault[0] = '\0';
                look_again(s, LOOK_NS);
        }
}

void pressure_start(struct image_store *s)
{
        if (s->config.high_water > 0)
                look_again(s, 0);
}

int room_wait(struct image_store *s, image_done_fn fn, void *data, struct image_room **ret, struct err *err)
{
        struct image_room *room;

        if (s->config.high_water == 0)
                return err_set(err, ENOSPC, "the disk is full, and no image is collected");
        room = calloc(1, sizeof(*room));
        if (!room)
                return err_oom(err);
        room->fn = fn;
        room->data = data;
        list_init(&room->node);
        list_append(&s->pressure.rooms, &room->node);
        if (!s->pressure.running && !s->pressure.settling)
                look_again(s, 0);
        *ret = room;
        return 0;
}

void room_leave(struct image_room *room)
{
        if (!room)
                return;
        list_remove(&room->node);
        free(room);
}

int image_store_make_room(struct image_store *s, image_done_fn fn, void *data, struct err *err)
{
        struct image_room *room;

        return room_wait(s, fn, data, &room, err);
}
