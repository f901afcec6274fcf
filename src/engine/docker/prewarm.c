/* Containers that are made ahead (config `prewarm`): of a specification that was run twice, as many as ran at a time, and of all
 * no more than the configuration allows. They are made when no task waits to be started, carry no task's label and are in no
 * record, so that a daemon that comes after a crash deletes them. What belongs to one task only (files, stdin) comes when it is
 * taken; it is used once. */

#include "engine/docker/internal.h"

#include "base/id.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WARM_SPECS_MAX 16
#define WARM_KEY_MAX (64 * 1024)
#define WARM_IDLE_NS (60 * NS_PER_S) /* without use, until those of a specification are deleted */
#define WARM_PAUSE_NS (2 * NS_PER_MS)
#define WARM_AGAIN_NS (5 * NS_PER_S) /* after one could not be made */

struct docker_warm_spec {
        struct list node; /* the last used one comes last */
        char *key;        /* the body of the create call without what is one container's own */
        unsigned uses, live, peak, n;
        uint64_t used_ns, not_before_ns;
        struct list warm;
};

struct warm {
        struct list node;
        struct docker *docker;
        struct docker_warm_spec *spec;
        struct docker_call *call; /* that makes it */
        char name[DOCKER_NAME_MAX];
};

static void plan(struct docker *d, uint64_t in_ns);

/* ── specifications ──────────────────────────────────────────────────────────────────────────────────────────────── */

static void spec_free(struct docker *d, struct docker_warm_spec *s)
{
        list_remove(&s->node);
        d->n_warm_specs--;
        free(s->key);
        free(s);
}

/* unsure: Docker may be making it still. */
static void drop(struct warm *w, bool unsure)
{
        struct docker *d = w->docker;

        if (w->call)
                d->warming--;
        docker_call_cancel(w->call);
        docker_delete(d, w->name, unsure);
        list_remove(&w->node);
        w->spec->n--;
        d->n_warm--;
        free(w);
}

static void spec_drop(struct docker_warm_spec *s)
{
        struct warm *w;

        while ((w = LIST_FIRST(&s->warm, struct warm, node)))
                drop(w, w->call != NULL);
}

static struct docker_warm_spec *spec_find(struct docker *d, const char *key)
{
        struct docker_warm_spec *s;

        LIST_FOREACH(s, &d->warm_specs, node) {
                if (str_eq(s->key, key))
                        return s;
        }
        return NULL;
}

/* Room for one more: that of the one which was not used for longest, and nobody uses. */
static bool spec_room(struct docker *d)
{
        struct docker_warm_spec *s;

        if (d->n_warm_specs < WARM_SPECS_MAX)
                return true;
        LIST_FOREACH(s, &d->warm_specs, node) {
                if (s->live == 0) {
                        spec_drop(s);
                        spec_free(d, s);
                        return true;
                }
        }
        return false;
}

static struct docker_warm_spec *spec_add(struct docker *d, const char *key)
{
        struct docker_warm_spec *s = spec_room(d) ? calloc(1, sizeof(*s)) : NULL;

        if (!s)
                return NULL;
        s->key = strdup(key);
        if (!s->key) {
                free(s);
                return NULL;
        }
        list_init(&s->node);
        list_init(&s->warm);
        list_append(&d->warm_specs, &s->node);
        d->n_warm_specs++;
        return s;
}

/* ── taking ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct warm *ready(struct docker_warm_spec *s)
{
        struct warm *w;

        LIST_FOREACH(w, &s->warm, node) {
                if (!w->call)
                        return w;
        }
        return NULL;
}

struct docker_warm_spec *docker_warm_take(struct docker *d, const char *key, char name[DOCKER_NAME_MAX], bool *ret)
{
        struct docker_warm_spec *s;
        struct warm *w;

        *ret = false;
        if (d->prewarm == 0 || strlen(key) > WARM_KEY_MAX)
                return NULL;
        s = spec_find(d, key);
        if (!s)
                s = spec_add(d, key);
        if (!s)
                return NULL;
        list_remove(&s->node);
        list_append(&d->warm_specs, &s->node);
        s->used_ns = time_mono_ns();
        s->uses++;
        s->live++;
        s->peak = MAX(s->peak, s->live);
        w = ready(s);
        if (w) {
                (void)snprintf(name, DOCKER_NAME_MAX, "%s", w->name);
                list_remove(&w->node);
                s->n--;
                d->n_warm--;
                free(w);
                *ret = true;
        }
        return s;
}

void docker_warm_release(struct docker *d, struct docker_warm_spec *s)
{
        if (!s)
                return;
        s->live--;
        docker_warm_plan(d);
}

/* ── making ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_made(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct warm *w = data;
        struct docker *d = w->docker;
        char text[200];

        w->call = NULL;
        d->warming--;
        if (r < 0 || call->status != 201) {
                if (r == 0)
                        docker_call_message(call, text, sizeof(text));
                log_debug("a container made ahead: %s", r < 0 ? err->text : text);
                w->spec->not_before_ns = time_mono_ns() + WARM_AGAIN_NS;
                drop(w, r < 0);
        }
        plan(d, 0);
}

static int make(struct docker *d, struct docker_warm_spec *s)
{
        struct warm *w = calloc(1, sizeof(*w));
        char id[ID_LEN + 1];
        auto_str body = STR_INIT;
        auto_free char *path = NULL;
        struct docker_request q = { .method = "POST" };

        if (!w)
                return -ENOMEM;
        id_make(id);
        (void)snprintf(w->name, sizeof(w->name), "%s-%s", d->name, id);
        path = str_printf("/containers/create?name=%s", w->name);
        if (!path || docker_spec_own(d, s->key, id, NULL, &body) < 0) {
                free(w);
                return -ENOMEM;
        }
        w->docker = d;
        w->spec = s;
        list_init(&w->node);
        q.path = path;
        q.body = body.data;
        q.body_len = body.len;
        if (docker_call(d, &q, on_made, w, &w->call, NULL) < 0) {
                free(w);
                return -ENOMEM;
        }
        list_append(&s->warm, &w->node);
        s->n++;
        d->n_warm++;
        d->warming++;
        return 0;
}

/* Whose turn it is: the last used one that has fewer than ran at a time. */
static struct docker_warm_spec *next_spec(struct docker *d, uint64_t now)
{
        struct docker_warm_spec *s, *found = NULL;

        LIST_FOREACH(s, &d->warm_specs, node) {
                if (s->uses >= 2 && s->n < MIN(s->peak, d->prewarm) && now >= s->not_before_ns &&
                    now < s->used_ns + WARM_IDLE_NS)
                        found = s;
        }
        return found;
}

/* One of those that others need more. */
static bool make_room(struct docker *d, const struct docker_warm_spec *for_whom)
{
        struct docker_warm_spec *s;

        if (d->n_warm < d->prewarm)
                return true;
        LIST_FOREACH(s, &d->warm_specs, node) {
                struct warm *w = ready(s);

                if (s == for_whom)
                        return false;
                if (w) {
                        drop(w, false);
                        return true;
                }
        }
        return false;
}

static uint64_t expire(struct docker *d, uint64_t now)
{
        uint64_t next = TIME_NEVER;
        struct docker_warm_spec *s;

        LIST_FOREACH(s, &d->warm_specs, node) {
                if (s->live > 0)
                        continue;
                if (now >= s->used_ns + WARM_IDLE_NS) {
                        spec_drop(s);
                        spec_free(d, s);
                } else {
                        next = MIN(next, s->used_ns + WARM_IDLE_NS);
                }
        }
        return next;
}

static void on_plan(struct loop_timer *timer, void *data)
{
        struct docker *d = data;
        uint64_t now = time_mono_ns(), next = expire(d, now);
        struct docker_warm_spec *s = d->up && d->starting == 0 && d->warming == 0 ? next_spec(d, now) : NULL;

        if (s && make_room(d, s) && make(d, s) < 0)
                next = MIN(next, now + WARM_AGAIN_NS);
        if (next != TIME_NEVER)
                (void)loop_timer_set(d->loop, timer, next, on_plan, d);
}

static void plan(struct docker *d, uint64_t in_ns)
{
        uint64_t at = time_mono_ns() + in_ns;

        if (d->prewarm == 0 || (d->warm_timer.heap_index > 0 && d->warm_timer.at_ns <= at))
                return;
        if (loop_timer_set(d->loop, &d->warm_timer, at, on_plan, d) < 0)
                log_debug("containers made ahead: out of memory");
}

void docker_warm_plan(struct docker *d)
{
        plan(d, WARM_PAUSE_NS);
}

void docker_warm_done(struct docker *d)
{
        struct docker_warm_spec *s;

        loop_timer_cancel(&d->warm_timer);
        d->prewarm = 0;
        LIST_FOREACH(s, &d->warm_specs, node) {
                spec_drop(s);
                spec_free(d, s);
        }
}
