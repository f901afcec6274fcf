/* POST /v1/images/verify */

#include "api/internal.h"
#include "base/str.h"
#include "base/time.h"
#include "image/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESS_NS (NS_PER_S / 5)

struct verifying {
        struct call *call;
        bool streams; /* events are being sent */
        uint64_t told_ns;
};

/* ── as JSON ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* A name that the caller may know, else the digest. */
static const char *called(const struct call *c, const struct image *i)
{
        for (char **name = i->names; name && *name; name++)
                if (image_name_known(c, *name))
                        return *name;
        return i->digest;
}

/* Of those images that the caller may see. */
static json_t *images_of(struct call *c, char *const *digests)
{
        auto_json list = json_array();

        for (; list && digests && *digests; digests++) {
                const struct image *i = image_store_by_digest(c->api->config.store, *digests);

                if (i && image_visible(c, i) && json_array_append_new(list, json_string(called(c, i))) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

/* Of what is in images only that he may not see, he is told no more than that not all is well. */
static bool may_hear(struct call *c, const struct image_fault *f)
{
        if (images_all_seen(c))
                return true;
        for (char **digest = f->digests; digest && *digest; digest++) {
                const struct image *i = image_store_by_digest(c->api->config.store, *digest);

                if (i && image_visible(c, i))
                        return true;
        }
        return false;
}

static json_t *fault_json(struct call *c, const struct image_fault *f)
{
        return json_pack("{s:s, s:s, s:s, s:o, s:b}", "kind", image_fault_kinds[f->kind], "name", f->name, "detail",
                         f->text, "images", images_of(c, f->digests), "repaired", f->repaired);
}

static json_t *faults_json(struct call *c, const struct image_verification *v, bool *ret_ok)
{
        auto_json list = json_array();

        *ret_ok = true;
        for (size_t i = 0; list && i < v->n_faults; i++) {
                *ret_ok &= v->faults[i].repaired;
                if (may_hear(c, &v->faults[i]) && json_array_append_new(list, fault_json(c, &v->faults[i])) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

json_t *repairs_json(const struct call *c)
{
        char *const *line = image_store_repairs(c->api->config.store);
        size_t n = strv_len(line);
        auto_json list = json_array();

        if (list && n > 0 && !images_all_seen(c))
                return json_pack("[o]",
                                 json_sprintf("%zu repair%s; an admin's key is told which", n, n == 1 ? "" : "s"));
        for (; list && line && *line; line++)
                if (json_array_append_new(list, json_string(*line)) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

/* What nothing is known of, for want of room or of a worker. */
static json_t *unchecked_json(struct call *c, const struct image_verification *v)
{
        auto_json list = json_array();

        for (size_t i = 0; list && i < v->n_unchecked; i++) {
                const struct image_fault *f = &v->unchecked[i];

                if (may_hear(c, f) &&
                    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "kind", image_fault_kinds[f->kind],
                                                          "name", f->name, "detail", f->text, "images",
                                                          images_of(c, f->digests))) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

static json_t *result_json(struct call *c, const struct image_verification *v)
{
        bool ok;
        json_t *faults = faults_json(c, v, &ok);

        return json_pack("{s:b, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "ok", ok && v->n_unchecked == 0, "blobs",
                         (json_int_t)v->blobs, "layers", (json_int_t)v->layers, "trees", (json_int_t)v->trees, "bytes",
                         (json_int_t)v->bytes, "faults", faults, "unchecked", unchecked_json(c, v), "repairs",
                         repairs_json(c));
}

/* ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void stream_end(struct call *c, int r, const struct image_verification *v, const struct err *err)
{
        if (r == 0)
                call_events_done(c, result_json(c, v));
        else
                call_events_fail(c, r == -ENOSPC ? 507 : 500, r == -ENOSPC ? "no_space" : "internal",
                                 err ? err->text : strerror(-r));
}

static void on_verified(int r, const struct image_verification *v, const struct err *err, void *data)
{
        struct verifying *run = data;
        struct call *c = run->call;
        auto_json answer = NULL;

        c->verifying = NULL;
        if (run->streams) {
                stream_end(c, r, v, err);
        } else if (r < 0) {
                refuse_image(c, r, err);
        } else {
                answer = result_json(c, v);
                call_answer_json(c, 200, answer);
        }
        free(run);
}

static void on_progress(const struct image_verification *v, void *data)
{
        struct verifying *run = data;
        uint64_t now = time_mono_ns();

        if (now - run->told_ns < PROGRESS_NS || http_stream_pending(run->call->http) >= HTTP_STREAM_LOW)
                return;
        run->told_ns = now;
        call_event(run->call, json_pack("{s:I, s:I, s:I}", "done", (json_int_t)v->done, "total", (json_int_t)v->total,
                                        "bytes", (json_int_t)v->bytes));
}

/* Nobody reads the answer any more: it ends with what is in hand. */
void verify_call_gone(struct call *c)
{
        struct verifying *run = TAKE_PTR(c->verifying);

        if (!run)
                return;
        loop_timer_cancel(&c->timer);
        image_store_verify_cancel(c->api->config.store, run);
        free(run);
}

void images_verify_run(struct call *c)
{
        struct err err = ERR_INIT;
        struct verifying *run;
        bool repair;
        int r;

        if (!call_flag(c, "repair", false, &repair))
                return;
        run = calloc(1, sizeof(*run));
        if (!run) {
                call_oom(c);
                return;
        }
        run->call = c;
        run->streams = call_wants_events(c);
        r = image_store_verify(c->api->config.store, repair, run->streams ? on_progress : NULL, on_verified, run, &err);
        if (r < 0) {
                free(run);
                refuse_image(c, r, &err);
                return;
        }
        c->verifying = run;
        if (run->streams && !call_events_begin(c))
                verify_call_gone(c);
}
