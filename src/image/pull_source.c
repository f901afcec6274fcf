#include "image/pull_source.h"

#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NEVER_S 1e18

/* ── who they are ─────────────────────────────────────────────────────────────────────────────────────────────────── */

void sources_init(struct sources *s)
{
        *s = (struct sources){ .now = NULL };
        list_init(&s->all);
}

static void source_free(struct source *x)
{
        list_remove(&x->node);
        free(x->domain);
        free(x->path);
        free(x->key);
        free(x->owner);
        free(x);
}

void sources_done(struct sources *s)
{
        struct source *x;

        LIST_FOREACH(x, &s->all, node)
                source_free(x);
        sources_init(s);
}

struct source *sources_find(const struct sources *s, const struct source_id *id)
{
        struct source *x;

        LIST_FOREACH(x, &s->all, node)
                if (str_eq(x->domain, id->domain) && str_eq(x->path, id->path) && str_eq(x->key, id->key))
                        return x;
        return NULL;
}

static void forget_some(struct sources *s)
{
        struct source *x;
        unsigned n = 0;

        LIST_FOREACH(x, &s->all, node)
                if (++n > (x->wrong > 0 ? SOURCES_WRONG_KEPT : SOURCES_KEPT) && x->users == 0 && x != s->now &&
                    x != s->giver)
                        source_free(x);
}

int sources_join(struct sources *s, const struct source_id *id, struct err *err)
{
        struct source *x = sources_find(s, id);

        if (!x) {
                x = calloc(1, sizeof(*x));
                if (!x)
                        return err_oom(err);
                list_init(&x->node);
                x->domain = strdup(id->domain);
                x->path = strdup(id->path);
                x->key = strdup(id->key);
                x->owner = strdup(id->owner);
                if (!x->domain || !x->path || !x->key || !x->owner) {
                        source_free(x);
                        return err_oom(err);
                }
                list_append(&s->all, &x->node);
        }
        x->users++;
        x->result = 0;
        x->several |= !str_eq(x->owner, id->owner);
        forget_some(s);
        return 0;
}

void sources_leave(struct sources *s, const struct source_id *id)
{
        struct source *x = sources_find(s, id);

        if (x && x->users > 0)
                x->users--;
}

static bool is_usable(const struct source *x)
{
        return x->users > 0 && x->result == 0;
}

bool sources_several(const struct sources *s)
{
        const struct source *x;

        LIST_FOREACH(x, &s->all, node)
                if (x != s->now && is_usable(x))
                        return true;
        return false;
}

/* ── who is next ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* By him who named it; what several name is nobody's. */
static unsigned wrongs_of(const struct sources *s, const struct source *x)
{
        const struct source *y;
        unsigned n = 0;

        if (x->several)
                return x->wrong;
        LIST_FOREACH(y, &s->all, node)
                if (!y->several && str_eq(y->owner, x->owner))
                        n += y->wrong;
        return n;
}

static bool is_before(const struct source *a, const struct source *b)
{
        uint64_t x = a->rate >= SOURCE_DRIP ? a->rate : 0, y = b->rate >= SOURCE_DRIP ? b->rate : 0;

        return x != y ? x > y : a->turns < b->turns;
}

struct source *sources_next(const struct sources *s)
{
        struct source *x, *best = NULL;
        unsigned of_best = 0;

        LIST_FOREACH(x, &s->all, node) {
                unsigned wrongs = is_usable(x) ? wrongs_of(s, x) : 0;

                if (!is_usable(x) || (best && (wrongs > of_best || (wrongs == of_best && !is_before(x, best)))))
                        continue;
                best = x;
                of_best = wrongs;
        }
        return best;
}

bool source_is_passing(int r)
{
        return r == -EHOSTUNREACH || r == -EBUSY;
}

struct source *sources_failed(const struct sources *s, bool all)
{
        struct source *x;

        LIST_FOREACH(x, &s->all, node)
                if (x->users > 0 && x->result < 0 && (all || !source_is_passing(x->result)))
                        return x;
        return NULL;
}

/* ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────── */

void sources_begin(struct sources *s, struct source *x, uint64_t now_ns)
{
        s->now = x;
        s->turn_ns = now_ns;
        s->until_ns = now_ns + (SOURCE_TURN_NS << MIN(x->turns, (unsigned)SOURCE_TURNS_MAX));
        s->turn_bytes = 0;
        x->turns++;
}

void sources_have(struct sources *s, uint64_t bytes)
{
        if (bytes == 0)
                s->giver = NULL;
        s->mixed = bytes > 0 && !s->giver;
}

void sources_took(struct sources *s, size_t bytes)
{
        s->turn_bytes += bytes;
        if (bytes == 0 || s->mixed)
                return;
        s->mixed = s->giver && s->giver != s->now;
        s->giver = s->mixed ? NULL : s->now;
}

/* How fast it was since the turn's beginning, or the last look, which comes after a whole turn. */
static void measure(struct sources *s, uint64_t now_ns)
{
        s->now->rate = (uint64_t)((double)s->turn_bytes * (double)NS_PER_S / (double)MAX(now_ns - s->turn_ns, 1U));
        s->turn_ns = now_ns;
        s->turn_bytes = 0;
}

void sources_ended(struct sources *s, uint64_t now_ns)
{
        if (s->now && s->turn_bytes > 0)
                measure(s, now_ns);
}

void sources_rest(struct sources *s, uint64_t now_ns)
{
        s->turn_ns = now_ns;
        s->turn_bytes = 0;
        s->until_ns = MAX(s->until_ns, now_ns + SOURCE_TURN_NS);
}

void sources_fail(struct sources *s, int r, const struct err *err, unsigned retry_after_s)
{
        struct source *x = s->now;

        if (!x)
                return;
        x->result = r;
        x->wrong += r == -EBADMSG;
        x->err = *err;
        x->retry_after_s = retry_after_s;
        s->now = NULL;
}

void sources_part(struct sources *s)
{
        struct source *x;

        s->alone = true;
        s->mixed = false;
        s->giver = NULL;
        s->now = NULL;
        LIST_FOREACH(x, &s->all, node)
                x->turns = 0;
}

/* ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static double seconds(uint64_t bytes, uint64_t rate)
{
        return rate > 0 ? (double)bytes / (double)rate : NEVER_S;
}

static unsigned turns_of(const struct sources *s, const char *owner)
{
        const struct source *x;
        unsigned turns = 0;

        LIST_FOREACH(x, &s->all, node)
                if (str_eq(x->owner, owner))
                        turns += x->turns;
        return turns;
}

/* A source that had at most so many turns, whose owner had the fewest: nobody comes before all others by naming many. The same
 * host gives the same to its other repositories, so it is only asked for them when it drips. */
static struct source *least_tried(const struct sources *s, unsigned most)
{
        bool drips = s->now->rate < SOURCE_DRIP;
        struct source *x, *best = NULL;
        unsigned of_best = 0;

        LIST_FOREACH(x, &s->all, node) {
                unsigned turns = turns_of(s, x->owner);

                if (x == s->now || !is_usable(x) || x->turns > most || (!drips && str_eq(x->domain, s->now->domain)) ||
                    wrongs_of(s, x) > wrongs_of(s, s->now))
                        continue;
                if (!best || turns < of_best || (turns == of_best && x->turns < best->turns)) {
                        best = x;
                        of_best = turns;
                }
        }
        return best;
}

static struct source *fastest_other(const struct sources *s)
{
        struct source *x, *best = NULL;

        LIST_FOREACH(x, &s->all, node)
                if (x != s->now && is_usable(x) && x->rate > 0 && (!best || x->rate > best->rate) &&
                    wrongs_of(s, x) <= wrongs_of(s, s->now))
                        best = x;
        return best;
}

struct source *sources_change(struct sources *s, uint64_t size, uint64_t have, uint64_t now_ns)
{
        uint64_t left = size - MIN(size, have);
        struct source *now = s->now, *fast, *to = NULL;
        bool was_trial = s->trial, drips, tries;

        if (!now || left == 0 || now_ns < s->until_ns)
                return NULL;
        measure(s, now_ns);
        s->until_ns = now_ns + SOURCE_TURN_NS;
        s->trial = false;
        if (seconds(left, now->rate) <= SOURCE_SOON_S)
                return NULL;
        /* Who is to begin anew has to make up for what is here. */
        drips = now->rate < SOURCE_DRIP;
        tries = s->trials < SOURCE_TRIALS_MAX && (!s->alone || seconds(size, SOURCE_DRIP) < seconds(left, now->rate));
        if (tries)
                to = least_tried(s, 0);
        fast = fastest_other(s);
        if (!to && fast && 2 * seconds(s->alone ? size : left, fast->rate) < seconds(left, now->rate)) {
                if (!was_trial && s->changes++ >= SOURCE_CHANGES_MAX)
                        return NULL;
                return fast;
        }
        if (!to && drips && tries)
                to = least_tried(s, SOURCE_TURNS_MAX - 1);
        if (to) {
                s->trial = true;
                s->trials++;
        }
        return to;
}
