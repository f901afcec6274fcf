/* What a request may ask for: of this node, and of its owner's maxima. */

#include "image/ref.h"
#include "task/internal.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first refusal is the call's error; all of them are faults. */
struct checker {
        const struct task_submit *how;
        struct err *err;
        int r;
};

static void refuse(struct checker *c, int error, const char *pointer, const char *text)
{
        if (c->how->faults)
                json_faults_add(c->how->faults, pointer, "%s", text);
        if (c->r == 0)
                c->r = err_set(c->err, error, "%s: %s", pointer + 1, text);
}

/* ── maxima ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct bound {
        const char *pointer, *unit;
        size_t offset;
        int64_t scale;
        bool zero_is_none; /* the limit's 0 is more than any maximum */
};

static const struct bound bounds[] = {
#define BOUND(name, member, unit, scale, none)                                                                         \
        {                                                                                                              \
                "/limits/" name, unit, offsetof(struct wire_limits, member), scale, none                               \
        }
        BOUND("timeout", timeout_ns, "s", 1000000000, true),
        BOUND("queue_timeout", queue_timeout_ns, "s", 1000000000, false),
        BOUND("grace", grace_ns, "s", 1000000000, false),
        BOUND("cpu_time", cpu_time_ns, "s", 1000000000, true),
        BOUND("memory", memory, " bytes", 1, false),
        BOUND("disk", disk, " bytes", 1, false),
        BOUND("shm", shm, " bytes", 1, false),
        BOUND("output", output, " bytes", 1, false),
        BOUND("cpus", cpu_milli, "", 1000, false),
        BOUND("pids", pids, "", 1, false),
#undef BOUND
};

static int64_t *member_of(struct wire_limits *l, const struct bound *b)
{
        return (int64_t *)(void *)((char *)l + b->offset);
}

/* "1.5" of 1500 thousandths. */
static void show(int64_t value, int64_t scale, char out[48])
{
        int64_t whole = value / scale, milli = value % scale * 1000 / scale;

        if (milli)
                (void)snprintf(out, 48, "%lld.%03lld", (long long)whole, (long long)milli);
        else
                (void)snprintf(out, 48, "%lld", (long long)whole);
}

/* What was not asked for gives way; what was is refused. The bits of limits_given are in the order of the table. */
static void check_limits(struct checker *c, struct wire_task_request *q)
{
        struct wire_limits max = c->how->maxima->limits;

        for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
                const struct bound *b = &bounds[i];
                int64_t *value = member_of(&q->limits, b), most = *member_of(&max, b);
                bool none = b->zero_is_none && *value == 0;
                char text[96], number[48];

                if (most <= 0 || (*value <= most && !none))
                        continue;
                if (none || !(q->limits_given & (1u << i))) {
                        *value = most;
                        continue;
                }
                show(most, b->scale, number);
                (void)snprintf(text, sizeof(text), "is above this key's maximum of %s%s", number, b->unit);
                refuse(c, EPERM, b->pointer, text);
        }
}

static bool matches(const char *text, char *const *patterns)
{
        for (; *patterns; patterns++)
                if (fnmatch(*patterns, text, 0) == 0)
                        return true;
        return false;
}

/* The hex of what the store takes for a digest, or the beginning of one; NULL: it is none. */
static const char *digest_of(const char *image)
{
        const char *hex = str_starts(image, "sha256:") ? image + strlen("sha256:") : image;

        return *hex && hex[strspn(hex, "0123456789abcdef")] == '\0' ? hex : NULL;
}

/* What was compared is what runs: a text that may be a name and the beginning of a digest becomes the name, unless digests are
 * allowed, too. */
static bool image_allowed(struct wire_task_request *q, char *const *patterns)
{
        const char *hex = digest_of(q->image);
        char text[REF_TEXT_MAX];
        struct image_ref ref;
        char *name;

        (void)snprintf(text, sizeof(text), "sha256:%s", hex ? hex : "");
        if (hex && matches(text, patterns))
                return true;
        if (image_ref_parse_docker(q->image, &ref, NULL) < 0)
                return false;
        image_ref_format(&ref, text);
        if (!matches(text, patterns))
                return false;
        if (!hex)
                return true;
        name = strdup(text);
        if (!name)
                return false;
        free(q->image);
        q->image = name;
        return true;
}

static bool named(const char *name, char *const *names)
{
        for (; *names; names++)
                if (str_eq(name, *names))
                        return true;
        return false;
}

static enum engine_network network_of(const struct tasks *ts, enum wire_network network)
{
        switch (network) {
        case WIRE_NET_NONE:
                return ENGINE_NET_NONE;
        case WIRE_NET_NAT:
                return ENGINE_NET_NAT;
        case WIRE_NET_INTERNET:
                return ENGINE_NET_INTERNET;
        case WIRE_NET_DEFAULT:
                break;
        }
        return ts->config.network;
}

static bool network_allowed(const struct task_maxima *m, enum engine_network network)
{
        return m->networks == 0 || (m->networks & (1u << network));
}

/* A default that is not allowed gives way to what is nearest to it. */
static void check_network(struct checker *c, const struct tasks *ts, struct wire_task_request *q)
{
        const struct task_maxima *m = c->how->maxima;

        if (network_allowed(m, network_of(ts, q->network)))
                return;
        if (q->network != WIRE_NET_DEFAULT)
                refuse(c, EPERM, "/network", "is not allowed to this key");
        else if (network_allowed(m, ENGINE_NET_INTERNET))
                q->network = WIRE_NET_INTERNET;
        else if (network_allowed(m, ENGINE_NET_NAT))
                q->network = WIRE_NET_NAT;
        else
                q->network = WIRE_NET_NONE;
}

/* As the default network: one that is not allowed gives way to the first that is. */
static void check_engines(struct checker *c, struct tasks *ts, struct wire_task_request *q)
{
        char *const *allowed = c->how->maxima->engines;

        if (!allowed || named(q->engine ? q->engine : ts->engines[0].engine->ops->name, allowed))
                return;
        for (size_t i = 0; !q->engine && i < ts->n_engines; i++)
                if (named(ts->engines[i].engine->ops->name, allowed))
                        q->engine = strdup(ts->engines[i].engine->ops->name);
        if (!q->engine || !named(q->engine, allowed))
                refuse(c, EPERM, "/engine", "is not allowed to this key");
}

static void check_maxima(struct checker *c, struct tasks *ts, struct wire_task_request *q)
{
        const struct task_maxima *m = c->how->maxima;

        check_limits(c, q);
        check_network(c, ts, q);
        if (m->images && !image_allowed(q, m->images))
                refuse(c, EPERM, "/image", "is not allowed to this key");
        check_engines(c, ts, q);
}

/* ── the node ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void need(struct checker *c, const struct engine *e, uint32_t feature, const char *pointer)
{
        char text[96];

        if (e->ops->features & feature)
                return;
        (void)snprintf(text, sizeof(text), "is not what engine %s can do", e->ops->name);
        refuse(c, EINVAL, pointer, text);
}

static void check_engine(struct checker *c, struct tasks *ts, const struct wire_task_request *q)
{
        const struct task_engine *chosen = tasks_engine(ts, q->engine);
        char names[TASKS_ENGINES_MAX * 16], text[128];
        const struct engine *e;

        if (!chosen) {
                tasks_engine_names(ts, names, sizeof(names));
                (void)snprintf(text, sizeof(text), "is no engine of this node, which has: %s", names);
                refuse(c, EINVAL, "/engine", text);
                return;
        }
        e = chosen->engine;
        if (q->n_secrets > 0)
                need(c, e, ENGINE_F_SECRETS, "/secrets");
        if (q->outputs && q->outputs[0])
                need(c, e, ENGINE_F_COPY_OUT, "/outputs");
        if (q->limits.cpu_time_ns > 0)
                need(c, e, ENGINE_F_CPU_USAGE, "/limits/cpu_time");
        if (c->how->live)
                need(c, e, ENGINE_F_LIVE, "/");
}

int tasks_check(struct tasks *ts, struct wire_task_request *q, const struct task_submit *how, struct err *err)
{
        struct checker c = { .how = how, .err = err };

        if (q->limits.timeout_ns == 0 && !how->unlimited)
                refuse(&c, EINVAL, "/limits/timeout", "must be above 0: only a live task may run without end");
        if (how->maxima)
                check_maxima(&c, ts, q);
        check_engine(&c, ts, q);
        return c.r;
}
