/* POST /v1/images/verify */

#include "api/internal.h"
#include "base/str.h"
#include "base/time.h"
#include "image/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BEAT_NS (15 * NS_PER_S)
#define PROGRESS_NS (NS_PER_S / 5)

struct verifying {
        struct call *call;
        bool streams; /* events are being sent */
        uint64_t told_ns;
};

/* ── as JSON ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Names of those images that the caller may see, a digest where one has none. */
static json_t *images_of(struct call *c, char *const *digests)
{
        auto_json list = json_array();

        for (; list && digests && *digests; digests++) {
                const struct image *i = image_store_by_digest(c->api->config.store, *digests);
                const char *name = i && i->names && i->names[0] ? i->names[0] : *digests;

                if (i && image_visible(c, i) && json_array_append_new(list, json_string(name)) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
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
                if (json_array_append_new(list, fault_json(c, &v->faults[i])) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

json_t *repairs_json(const struct image_store *s)
{
        char *const *line = image_store_repairs(s);
        auto_json list = json_array();

        for (; list && line && *line; line++)
                if (json_array_append_new(list, json_string(*line)) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

static json_t *result_json(struct call *c, const struct image_verification *v)
{
        bool ok;
        json_t *faults = faults_json(c, v, &ok);

        return json_pack("{s:b, s:I, s:I, s:I, s:I, s:o, s:o}", "ok", ok, "blobs", (json_int_t)v->blobs, "layers",
                         (json_int_t)v->layers, "trees", (json_int_t)v->trees, "bytes", (json_int_t)v->bytes, "faults",
                         faults, "repairs", repairs_json(c->api->config.store));
}

/* ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_event(struct call *c, const char *event, json_t *value)
{
        auto_json owned = value;
        auto_str data = STR_INIT, text = STR_INIT;

        if (!owned || json_write(owned, &data) < 0 || str_addf(&text, "event: %s\ndata: %s\n\n", event, data.data) < 0)
                return -ENOMEM;
        return http_stream_write(c->http, text.data, text.len);
}

static void stream_end(struct call *c, int r, const struct image_verification *v, const struct err *err)
{
        int status = r == -ENOSPC ? 507 : 500, w;

        loop_timer_cancel(&c->timer);
        if (r == 0)
                w = write_event(c, "done", result_json(c, v));
        else
                w = write_event(c, "error",
                                json_pack("{s:s+, s:s, s:i, s:s, s:s}", "type",
                                          "urn:mayfly:problem:", r == -ENOSPC ? "no_space" : "internal", "title",
                                          status_title(status), "status", status, "detail", err ? err->text : "",
                                          "request_id", c->request_id));
        if (w < 0)
                http_stream_abort(c->http);
        else
                (void)http_stream_end(c->http);
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
        (void)write_event(run->call, "progress",
                          json_pack("{s:I, s:I, s:I}", "done", (json_int_t)v->done, "total", (json_int_t)v->total,
                                    "bytes", (json_int_t)v->bytes));
}

static void on_beat(struct loop_timer *timer, void *data)
{
        struct call *c = data;

        if (http_stream_pending(c->http) == 0)
                (void)http_stream_write(c->http, ":\n\n", 3);
        (void)loop_timer_set(c->api->loop, timer, time_mono_ns() + BEAT_NS, on_beat, c);
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

static bool stream_begin(struct call *c)
{
        call_log(c, 200);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        (void)http_add_header(c->http, "Cache-Control", "no-store");
        c->answered = true;
        if (http_stream_begin(c->http, 200, "text/event-stream") < 0)
                return false;
        (void)loop_timer_set(c->api->loop, &c->timer, time_mono_ns() + BEAT_NS, on_beat, c);
        return true;
}

void images_verify_run(struct call *c)
{
        const char *accept = http_header(c->http, "Accept");
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
        run->streams = accept && strstr(accept, "text/event-stream");
        r = image_store_verify(c->api->config.store, repair, run->streams ? on_progress : NULL, on_verified, run, &err);
        if (r < 0) {
                free(run);
                refuse_image(c, r, &err);
                return;
        }
        c->verifying = run;
        if (run->streams && !stream_begin(c))
                verify_call_gone(c);
}
