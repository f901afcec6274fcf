/* POST /v1/images/tag, /pin, /prune */

#include "api/internal.h"
#include "base/time.h"
#include "image/prune.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ── parameters ────────────────────────────────────────────────────────────────────────────────────────────────────── */

bool call_flag(struct call *c, const char *name, bool fallback, bool *ret)
{
        const char *value = call_query(c, name);

        *ret = value ? str_eq(value, "1") || str_eq(value, "true") : fallback;
        if (!value || *ret || str_eq(value, "0") || str_eq(value, "false"))
                return true;
        call_problem(c, 400, "bad_request", "%s: not 0, 1, false or true", name);
        return false;
}

static const char *needed(struct call *c, const char *name)
{
        const char *value = call_query(c, name);

        if (value && *value)
                return value;
        call_problem(c, 400, "bad_request", "%s: is required", name);
        return NULL;
}

/* ── tag, pin ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_changed(int r, const struct err *err, void *data)
{
        struct call *c = data;
        const char *name = c->http ? call_query(c, "name") : NULL, *ref = c->http ? call_query(c, "ref") : NULL;
        const struct image *i;
        auto_json answer = NULL;

        i = r == 0 && ref ? image_store_find(c->api->config.store, name ? name : ref, NULL) : NULL;
        if (!c->http) {
                /* nobody to tell */
        } else if (r < 0) {
                refuse_image(c, r, err);
        } else if (i) {
                answer = image_json(c, i, false);
                call_answer_json(c, 200, answer);
        } else {
                call_problem(c, 404, "image_not_found", "the image has gone meanwhile");
        }
        call_release(c);
}

void images_tag_run(struct call *c)
{
        const char *ref = needed(c, "ref"), *name = ref ? needed(c, "name") : NULL;
        struct err err = ERR_INIT;
        const struct image *i;
        int r;

        if (!name)
                return;
        i = image_find_visible(c, ref);
        if (!i)
                return;
        call_hold(c);
        r = image_store_tag_by(c->api->config.store, image_namer(c), i->digest, name, on_changed, c, &err);
        if (r < 0) {
                refuse_image(c, r, &err);
                call_release(c);
        }
}

void images_pin_run(struct call *c)
{
        const char *ref = needed(c, "ref");
        const struct image *i;
        struct err err = ERR_INIT;
        bool pinned;
        int r;

        if (!ref || !call_flag(c, "pinned", true, &pinned))
                return;
        i = image_find_visible(c, ref);
        if (!i)
                return;
        call_hold(c);
        r = image_store_pin(c->api->config.store, i->digest, pinned, on_changed, c, &err);
        if (r < 0) {
                refuse_image(c, r, &err);
                call_release(c);
        }
}

/* ── prune ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *pruned_json(const struct call *c, const struct image_pruned *i)
{
        auto_json names = image_names_json(c, i->names);
        char used[TIME_RFC3339_MAX];

        time_rfc3339(i->used_ms, used);
        return json_pack("{s:s, s:O, s:I, s:s?}", "digest", i->digest, "names", names, "bytes", (json_int_t)i->bytes,
                         "last_used_at", i->used_ms > 0 ? used : NULL);
}

static json_t *prune_json(const struct call *c, const struct image_prune_result *r, bool dry_run)
{
        auto_json list = json_array();

        for (size_t i = 0; list && i < r->n; i++)
                if (json_array_append_new(list, pruned_json(c, &r->items[i])) < 0)
                        return NULL;
        return json_pack("{s:b, s:O, s:I, s:I, s:{s:i, s:i, s:i}}", "dry_run", dry_run, "images", list, "bytes",
                         (json_int_t)r->bytes, "total_bytes", (json_int_t)r->total, "kept", "in_use", (int)r->in_use,
                         "pinned", (int)r->pinned, "recent", (int)r->recent);
}

static void on_pruned(int r, const struct image_prune_result *result, const struct err *err, void *data)
{
        struct call *c = data;
        auto_json answer = NULL;

        if (!c->http) {
                /* nobody to tell */
        } else if (r < 0) {
                refuse_image(c, r, err);
        } else {
                answer = prune_json(c, result, false);
                call_answer_json(c, 200, answer);
        }
        call_release(c);
}

static bool may_prune(const struct image *i, void *data)
{
        return image_visible(data, i);
}

static bool read_policy(struct call *c, struct image_prune_policy *p)
{
        const char *age = call_query(c, "unused_for"), *bytes = call_query(c, "keep_bytes");
        int64_t ns = 0;

        *p = (struct image_prune_policy){ .may = may_prune, .data = c };
        if (!call_flag(c, "dangling", false, &p->dangling) || !call_flag(c, "all", false, &p->all))
                return false;
        p->aged = age;
        p->capped = bytes;
        if (age && (time_parse_duration(age, &ns) < 0 || ns < 0)) {
                call_problem(c, 400, "bad_request", "unused_for: not a duration, such as 168h");
                return false;
        }
        if (bytes && parse_u64(bytes, &p->keep_bytes) < 0) {
                call_problem(c, 400, "bad_request", "keep_bytes: not a number of bytes");
                return false;
        }
        if (p->dangling && p->all) {
                call_problem(c, 400, "bad_request", "dangling, all: one of them");
                return false;
        }
        p->unused_for_ms = (uint64_t)ns / NS_PER_MS;
        return true;
}

void images_prune_run(struct call *c)
{
        struct image_prune_result planned = { .n = 0 };
        struct image_prune_policy policy;
        struct err err = ERR_INIT;
        auto_json answer = NULL;
        bool dry_run;
        int r;

        if (!call_flag(c, "dry_run", true, &dry_run) || !read_policy(c, &policy))
                return;
        if (!dry_run) {
                call_hold(c);
                r = image_store_prune(c->api->config.store, &policy, on_pruned, c, &err);
                if (r < 0) {
                        refuse_image(c, r, &err);
                        call_release(c);
                }
                return;
        }
        if (image_store_prune_plan(c->api->config.store, &policy, &planned, &err) < 0) {
                call_oom(c);
                return;
        }
        answer = prune_json(c, &planned, true);
        image_prune_result_done(&planned);
        call_answer_json(c, 200, answer);
}
