/* GET /v1/images/save: images as an archive. A worker reads a piece while the client takes the one before, so that a save holds
 * two of them, however large its images are. */

#include "api/internal.h"
#include "base/log.h"
#include "image/ref.h"
#include "image/save.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_LEN ((size_t)128 * 1024) /* with what may be left of the last one: less than HTTP_STREAM_MAX */
#define SAVES_MAX 16

struct saving {
        struct call *call;
        struct api *api;
        struct image_save *save;
        bool busy;  /* a worker reads */
        bool begun; /* the answer has */
        bool over;  /* nothing is wanted any more */
        ssize_t n;
        struct err err;
        char piece[PIECE_LEN];
};

static void saving_free(struct saving *s)
{
        if (s->call)
                s->call->saving = NULL;
        if (s->api) {
                s->api->saves--;
                image_save_release(s->save);
        }
        image_save_close(s->save);
        free(s);
}

void save_call_gone(struct call *c)
{
        struct saving *s = c->saving;

        if (!s)
                return;
        s->over = true;
        image_save_release(s->save);
        if (!s->busy)
                saving_free(s);
}

static void read_run(void *data)
{
        struct saving *s = data;

        s->n = image_save_read(s->save, s->piece, sizeof(s->piece), &s->err);
}

static void read_done(void *data);

static void read_next(struct saving *s)
{
        struct call *c = s->call;

        s->busy = true;
        call_hold(c);
        if (loop_work(s->api->loop, API_QUEUE, read_run, read_done, s) == 0)
                return;
        s->busy = false;
        if (s->begun)
                http_stream_abort(c->http);
        else
                call_busy(c);
        saving_free(s);
        call_release(c);
}

static int begin(struct saving *s)
{
        struct call *c = s->call;

        call_log(c, 200);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        (void)http_add_header(c->http, "Cache-Control", "no-store");
        c->answered = true;
        s->begun = true;
        return http_stream_begin(c->http, 200, "application/x-tar");
}

/* True while more is to come. */
static bool send_piece(struct saving *s)
{
        struct call *c = s->call;

        if (s->n < 0 && !s->begun) {
                /* What is wrong with the store is not the caller's fault. */
                refuse_image(c, s->n == -EBADMSG ? -EUCLEAN : (int)s->n, &s->err);
                return false;
        }
        if (!s->begun && begin(s) < 0)
                return false;
        if (s->n < 0) {
                log_warn("api: %s: the archive ends early: %s", c->request_id, s->err.text);
                http_stream_abort(c->http);
                return false;
        }
        if (s->n == 0 || str_eq(http_method(c->http), "HEAD")) {
                (void)http_stream_end(c->http);
                return false;
        }
        if (http_stream_write(c->http, s->piece, (size_t)s->n) < 0) {
                http_stream_abort(c->http);
                return false;
        }
        return true;
}

static void read_done(void *data)
{
        struct saving *s = data;
        struct call *c = s->call;

        s->busy = false;
        if (!c->api)
                s->api = NULL;
        if (!c->api || !c->http || s->over || !send_piece(s))
                saving_free(s);
        else if (http_stream_pending(c->http) < HTTP_STREAM_LOW)
                read_next(s);
        call_release(c);
}

void save_call_drained(struct call *c)
{
        if (c->saving && c->saving->begun && !c->saving->busy && !c->saving->over)
                read_next(c->saving);
}

/* A key that may use some images only gets the contents of no other. */
static bool may_save(const struct image *image, void *data)
{
        const struct call *c = data;
        const struct key *key = call_key(c);

        if (!image_visible(c, image))
                return false;
        if (!key || !key->images || key_allows_image(key, image->digest))
                return true;
        for (char **name = image->names; name && *name; name++) {
                if (key_allows_image(key, *name))
                        return true;
        }
        return false;
}

/* Whether none of the names is in a repository that is closed to the caller, who would learn by the archive which tags it has. */
static bool may_ask(struct call *c, const char *const *refs, size_t n)
{
        struct image_ref ref;

        for (size_t i = 0; i < n; i++) {
                if (image_ref_parse_docker(refs[i], &ref, NULL) < 0 || image_name_known(c, refs[i]))
                        continue;
                call_problem(c, 404, "image_not_found", "there is no image '%s'", refs[i]);
                return false;
        }
        return true;
}

static bool read_format(struct call *c, enum image_save_format *ret)
{
        const char *format = call_query(c, "format");

        *ret = format && str_eq(format, "oci") ? IMAGE_SAVE_OCI : IMAGE_SAVE_DOCKER;
        if (!format || str_eq(format, "oci") || str_eq(format, "docker"))
                return true;
        call_problem(c, 400, "bad_request", "query parameter 'format' is docker or oci");
        return false;
}

void images_save_run(struct call *c)
{
        const char *refs[IMAGE_SAVE_REFS_MAX + 1];
        enum image_save_format format;
        struct err err = ERR_INIT;
        struct saving *s;
        size_t n = 0;
        int r;

        while (n <= IMAGE_SAVE_REFS_MAX && (refs[n] = http_query_nth(c->http, "ref", n)))
                n++;
        if (n == 0)
                call_problem(c, 400, "bad_request", "query parameter 'ref' is required: the image to save");
        if (n == 0 || !read_format(c, &format) || !may_ask(c, refs, n))
                return;
        if (c->api->saves >= SAVES_MAX) {
                call_retry_after(c, 5);
                call_problem(c, 503, "busy", "%u archives are being written already", c->api->saves);
                return;
        }
        s = calloc(1, sizeof(*s));
        if (!s) {
                call_oom(c);
                return;
        }
        r = image_save_open(c->api->config.store, refs, n, format, may_save, c, &s->save, &err);
        if (r < 0) {
                refuse_image(c, r, &err);
                free(s);
                return;
        }
        s->call = c;
        s->api = c->api;
        s->api->saves++;
        c->saving = s;
        read_next(s);
}
