/* POST /v1/images/import, …/load: archives that come in. What comes is written by a worker, a buffer at a time, while the
 * connection is not read; how many there are at once, and how much of them together, is bounded. */

#include "api/internal.h"
#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_LEN ((size_t)256 * 1024)
#define CHANGES_MAX 32
#define UPLOADS_DEFAULT 16
#define UPLOAD_BYTES_DEFAULT (UINT64_C(128) << 30)

struct upload {
        struct call *call;
        struct api *api;
        struct image_sink *sink;
        struct str filling, writing;
        uint64_t bytes;
        bool busy;     /* a worker writes */
        bool waits;    /* for room on the disk, to write the same again */
        bool complete; /* the body is */
        bool over;     /* nothing is wanted any more */
        int r;
        struct err err;
};

/* ── begin and end ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static void upload_free(struct upload *u)
{
        if (u->call)
                u->call->upload = NULL;
        if (u->api) {
                u->api->uploads--;
                u->api->upload_bytes -= u->bytes;
        }
        image_sink_discard(u->sink);
        str_done(&u->filling);
        str_done(&u->writing);
        free(u);
}

static void upload_open(struct call *c, enum image_sink_kind kind, const char *ref, char *const *changes)
{
        const char *why = c->api->config.no_images;
        uint32_t max = c->api->config.max_uploads ? c->api->config.max_uploads : UPLOADS_DEFAULT;
        struct upload *u;
        struct err err = ERR_INIT;
        int r;

        if (why) {
                call_problem(c, 501, "not_supported", "%s", why);
                return;
        }
        if (c->api->uploads >= max) {
                call_retry_after(c, 5);
                call_problem(c, 503, "busy", "%u archives are being read already", c->api->uploads);
                return;
        }
        u = calloc(1, sizeof(*u));
        if (!u) {
                call_oom(c);
                return;
        }
        r = image_sink_open(c->api->config.store, kind, ref, changes, &u->sink, &err);
        if (r == 0)
                r = image_sink_own(u->sink, image_namer(c), &err);
        if (r < 0) {
                refuse_image(c, r, &err);
                image_sink_discard(u->sink);
                free(u);
                return;
        }
        u->call = c;
        u->api = c->api;
        c->api->uploads++;
        c->upload = u;
}

void images_import_begin(struct call *c)
{
        const char *changes[CHANGES_MAX + 1] = { NULL };
        const char *ref = call_query(c, "ref");
        size_t n = 0;

        if (!ref || !*ref) {
                call_problem(c, 400, "bad_request", "query parameter 'ref' is required: the name to give");
                return;
        }
        while (n <= CHANGES_MAX && (changes[n] = http_query_nth(c->http, "change", n)))
                n++;
        if (n > CHANGES_MAX)
                call_problem(c, 400, "bad_request", "more than %d changes", CHANGES_MAX);
        else
                upload_open(c, IMAGE_IMPORT, ref, (char *const *)(uintptr_t)changes);
}

void images_load_begin(struct call *c)
{
        upload_open(c, IMAGE_LOAD, NULL, NULL);
}

void upload_call_gone(struct call *c)
{
        struct upload *u = c->upload;

        if (!u)
                return;
        u->over = true;
        if (u->busy || !u->sink)
                return; /* the worker, or the store, has it in hand */
        if (u->waits)
                call_release(c);
        upload_free(u);
}

/* ── the archive ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *loaded_json(const struct call *c, const char *const *digests, size_t n)
{
        auto_json answer = json_object();
        json_t *array = json_array();

        if (!answer || json_object_set_new(answer, "images", array) < 0)
                return NULL;
        for (size_t i = 0; i < n; i++) {
                const struct image *image = image_store_by_digest(c->api->config.store, digests[i]);

                if (image && json_array_append_new(array, image_json(c, image, false)) < 0)
                        return NULL;
        }
        return TAKE_PTR(answer);
}

static void on_loaded(int r, const char *const *digests, size_t n, const struct err *err, void *data)
{
        struct upload *u = data;
        struct call *c = u->call;
        auto_json answer = NULL;

        if (!c->api)
                u->api = NULL;
        if (!c->api || !c->http) {
                /* nobody to tell */
        } else if (r < 0) {
                refuse_image(c, r, err);
        } else {
                answer = loaded_json(c, digests, n);
                call_answer_json(c, 201, answer);
        }
        upload_free(u);
        call_release(c);
}

static void upload_finish(struct upload *u)
{
        struct call *c = u->call;
        struct err err = ERR_INIT;
        int r;

        call_hold(c);
        r = image_sink_finish(TAKE_PTR(u->sink), on_loaded, u, &err);
        if (r == 0)
                return;
        refuse_image(c, r, &err);
        upload_free(u);
        call_release(c);
}

/* ── pieces ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void write_run(void *data)
{
        struct upload *u = data;

        u->r = image_sink_write(u->sink, u->writing.data, u->writing.len, &u->err);
}

static void write_next(struct upload *u);
static void write_begin(struct upload *u);

static void on_room(int r, const struct err *err, void *data)
{
        struct upload *u = data;
        struct call *c = u->call;

        (void)err; /* what failed first tells more */
        u->waits = false;
        if (!c->http || u->over) {
                upload_free(u);
        } else if (r == 0) {
                write_begin(u);
        } else {
                u->over = true;
                refuse_image(c, u->r, &u->err);
        }
        call_release(c);
}

/* A disk that is full waits for one round of collection, and the same is written again. The call is held until then. */
static bool make_room(struct upload *u)
{
        if ((u->r != -ENOSPC && u->r != -EDQUOT) || image_sink_make_room(u->sink, on_room, u, NULL) < 0)
                return false;
        u->waits = true;
        return true;
}

static void write_done(void *data)
{
        struct upload *u = data;
        struct call *c = u->call;

        u->busy = false;
        if (!c->api)
                u->api = NULL;
        if (!c->http || u->over) {
                upload_free(u);
        } else if (make_room(u)) {
                return;
        } else if (u->r < 0) {
                u->over = true;
                refuse_image(c, u->r, &u->err);
        } else {
                write_next(u);
                http_body_resume(c->http);
        }
        call_release(c);
}

static void write_begin(struct upload *u)
{
        u->busy = true;
        u->err = (struct err)ERR_INIT;
        call_hold(u->call);
        if (loop_work(u->api->loop, API_QUEUE, write_run, write_done, u) == 0)
                return;
        u->busy = false;
        u->over = true;
        call_busy(u->call);
        call_release(u->call);
}

/* Hands on what has come, if it is enough or all. */
static void write_next(struct upload *u)
{
        struct str swap = u->writing;

        if (u->busy || u->waits || u->over || (!u->complete && u->filling.len < BUFFER_LEN))
                return;
        if (u->filling.len == 0) {
                upload_finish(u);
                return;
        }
        u->writing = u->filling;
        u->filling = swap;
        str_clear(&u->filling);
        write_begin(u);
}

int images_body(struct call *c, const void *piece, size_t len)
{
        uint64_t max = c->api->config.max_upload_bytes ? c->api->config.max_upload_bytes : UPLOAD_BYTES_DEFAULT;
        struct upload *u = c->upload;

        if (!call_is_still_allowed(c)) {
                u->over = true;
                return -EACCES;
        }
        if (len > max - MIN(max, c->api->upload_bytes)) {
                u->over = true;
                call_retry_after(c, 5);
                call_problem(c, 503, "busy", "the archives that are being read now are too large together");
                return -EFBIG;
        }
        if (str_add(&u->filling, piece, len) < 0) {
                u->over = true;
                call_oom(c);
                return -ENOMEM;
        }
        u->bytes += len;
        c->api->upload_bytes += len;
        write_next(u);
        if (u->over)
                return -EIO;
        if ((u->busy || u->waits) && u->filling.len >= BUFFER_LEN)
                http_body_pause(c->http);
        return 0;
}

void images_body_run(struct call *c)
{
        c->upload->complete = true;
        write_next(c->upload);
}
