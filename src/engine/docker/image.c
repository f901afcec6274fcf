/* Images: what Docker has, and what it is told to pull. Pulls of the same image with the same credentials are one; what went
 * wrong stands in the stream, after a status of 200 (Engine API, ImageCreate). */

#include "engine/docker/internal.h"

#include "image/ref.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define PULL_PROGRESS_NS (250 * NS_PER_MS)
#define PULL_LAYERS_MAX 512

struct pull_waiter {
        struct list node;
        engine_image_fn fn;
        void (*progress)(const struct engine_progress *p, void *data);
        void *data;
};

struct pull_layer {
        char id[16];
        uint64_t done, total;
};

struct docker_pull {
        struct list node;
        struct docker *docker;
        struct docker_call *call;
        struct list waiters;
        struct image_ref parsed;
        char ref[REF_TEXT_MAX];
        enum engine_pull pull;
        char *username, *password;
        bool pulled;
        bool brought; /* Docker may have it, whatever is heard of it from now on */
        struct docker_lines lines;
        struct err fault;
        struct pull_layer layers[PULL_LAYERS_MAX];
        size_t n_layers;
        uint64_t told_ns;
};

static void wipe(char *text)
{
        if (text)
                explicit_bzero(text, strlen(text));
        free(text);
}

static void pull_free(struct docker_pull *p)
{
        struct pull_waiter *w;

        list_remove(&p->node);
        while ((w = LIST_FIRST(&p->waiters, struct pull_waiter, node))) {
                list_remove(&w->node);
                free(w);
        }
        wipe(p->username);
        wipe(p->password);
        docker_lines_done(&p->lines);
        free(p);
}

void docker_pulls_done(struct docker *d)
{
        struct docker_pull *p;

        docker_wants_done(d);
        while ((p = LIST_FIRST(&d->pulls, struct docker_pull, node))) {
                docker_call_cancel(p->call);
                pull_free(p);
        }
}

/* No longer in the list, so that who asks in a callback gets a new one. */
static void pull_answer(struct docker_pull *p, int r, const struct engine_image *image, const struct err *err)
{
        static const struct engine_image some = { .ref = "" };
        struct pull_waiter *w;

        if (r < 0)
                image = p->brought && r != -ENOENT ? &some : NULL;

        list_remove(&p->node);
        while ((w = LIST_FIRST(&p->waiters, struct pull_waiter, node))) {
                list_remove(&w->node);
                w->fn(r, image, err, w->data);
                free(w);
        }
        pull_free(p);
}

static void pull_failed(struct docker_pull *p, int error, const char *text)
{
        struct err err = ERR_INIT;

        (void)err_set(&err, error, "image '%s': %s", p->ref, text);
        pull_answer(p, -error, NULL, &err);
}

/* ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────── */

static int image_read(struct docker_pull *p, const struct docker_call *call, struct engine_image *ret)
{
        struct docker_image *image;
        int r = docker_image_read(call->body.data, call->body.len, &image);

        if (r < 0)
                return r;
        (void)snprintf(ret->ref, sizeof(ret->ref), "%s", p->ref);
        (void)snprintf(ret->digest, sizeof(ret->digest), "%s", image->digest);
        return docker_image_note(p->docker, image);
}

static int pull_begin(struct docker_pull *p, struct err *err);

static void on_image(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_pull *p = data;
        struct engine_image image = { .ref = "" };
        struct err fault = ERR_INIT;
        char text[200];

        p->call = NULL;
        if (r < 0) {
                pull_answer(p, -EHOSTUNREACH, NULL, err);
                return;
        }
        docker_call_message(call, text, sizeof(text));
        if (call->status == 404 && !p->pulled && p->pull != ENGINE_PULL_NEVER) {
                r = pull_begin(p, &fault);
                if (r < 0)
                        pull_answer(p, r, NULL, &fault);
                return;
        }
        if (call->status != 200) {
                pull_failed(p, call->status == 404 ? ENOENT : EREMOTEIO, text);
                return;
        }
        r = image_read(p, call, &image);
        if (r < 0)
                pull_failed(p, -r, "Docker's description of it makes no sense");
        else
                pull_answer(p, 0, &image, &fault);
}

static int image_ask(struct docker_pull *p, struct err *err)
{
        auto_free char *path = str_printf("/images/%s/json", p->ref);
        const struct docker_request q = { .method = "GET", .path = path };

        return path ? docker_call(p->docker, &q, on_image, p, &p->call, err) : err_oom(err);
}

/* ── pulling ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool says(const char *text, const char *const *words)
{
        for (; *words; words++)
                if (strcasestr(text, *words))
                        return true;
        return false;
}

/* Docker hands the registry's words on. "pull access denied … may require 'docker login'" is what the Hub says of what does
 * not exist, too: who gave no credentials asked for something that is not there for him. */
int docker_pull_error(const char *text, bool credentials)
{
        static const char *const denied[] = {
                "unauthorized", "authentication required", "incorrect username", "no basic auth", "denied", NULL
        };
        static const char *const absent[] = { "not found",         "manifest unknown",
                                              "does not exist",    "name unknown",
                                              "no such image",     "no matching manifest",
                                              "invalid reference", NULL };

        if (strcasestr(text, "pull access denied"))
                return credentials ? EACCES : ENOENT;
        if (says(text, denied))
                return EACCES;
        return says(text, absent) ? ENOENT : EHOSTUNREACH;
}

static void pull_tell(struct docker_pull *p)
{
        struct engine_progress sum = { .done = 0 };
        uint64_t now = time_mono_ns();
        struct pull_waiter *w;

        if (now - p->told_ns < PULL_PROGRESS_NS)
                return;
        p->told_ns = now;
        for (size_t i = 0; i < p->n_layers; i++) {
                sum.done += p->layers[i].done;
                sum.total += p->layers[i].total;
        }
        LIST_FOREACH(w, &p->waiters, node) {
                if (w->progress)
                        w->progress(&sum, w->data);
        }
}

static void pull_progress(struct docker_pull *p, const char *id, const char *status, const json_t *detail)
{
        int64_t current = json_integer_value(json_object_get(detail, "current"));
        int64_t total = json_integer_value(json_object_get(detail, "total"));
        struct pull_layer *l = NULL;

        if (!str_eq(status, "Downloading") || current < 0 || total < current || total > INT64_MAX / PULL_LAYERS_MAX)
                return;
        for (size_t i = 0; i < p->n_layers && !l; i++)
                if (str_eq(p->layers[i].id, id))
                        l = &p->layers[i];
        if (!l && p->n_layers < PULL_LAYERS_MAX) {
                l = &p->layers[p->n_layers++];
                (void)snprintf(l->id, sizeof(l->id), "%s", id);
        }
        if (!l)
                return;
        l->done = (uint64_t)current;
        l->total = (uint64_t)total;
        pull_tell(p);
}

static void on_line(const json_t *o, void *data)
{
        struct docker_pull *p = data;
        const char *error = docker_text(json_object_get(o, "errorDetail"), "message");
        char shown[STR_SHOWN_MAX];

        if (!error[0])
                error = docker_text(o, "error");
        if (error[0] && !p->fault.num)
                (void)err_set(&p->fault, docker_pull_error(error, p->username != NULL), "pull '%s': %s", p->ref,
                              str_show(error, shown));
        p->brought |= str_starts(docker_text(o, "status"), "Digest: ");
        pull_progress(p, docker_text(o, "id"), docker_text(o, "status"), json_object_get(o, "progressDetail"));
}

static int on_pull_data(struct docker_call *call, const void *bytes, size_t len, void *data)
{
        struct docker_pull *p = data;

        (void)call;
        return docker_lines_feed(&p->lines, bytes, len, on_line, p);
}

static void on_pulled(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_pull *p = data;
        struct err fault = ERR_INIT;
        char text[200];

        p->call = NULL;
        p->pulled = true;
        if (r < 0) {
                pull_answer(p, -EHOSTUNREACH, NULL, err);
                return;
        }
        if (call->status != 200) {
                docker_call_message(call, text, sizeof(text));
                pull_failed(p, call->status == 404 ? ENOENT : docker_pull_error(text, p->username != NULL), text);
                return;
        }
        docker_lines_end(&p->lines, on_line, p);
        if (p->fault.num) {
                pull_answer(p, -p->fault.num, NULL, &p->fault);
                return;
        }
        p->brought = true;
        r = image_ask(p, &fault);
        if (r < 0)
                pull_answer(p, r, NULL, &fault);
}

/* X-Registry-Auth: base64url of {"username", "password", "serveraddress"} (Engine API, "Authentication"). */
static int auth_header(const struct docker_pull *p, struct str *out)
{
        auto_str text = STR_INIT;
        int r;

        if (!p->username || !p->password)
                return 0;
        r = str_adds(&text, "{\"username\":");
        if (r == 0)
                r = json_add_string(&text, p->username, strlen(p->username));
        if (r == 0)
                r = str_adds(&text, ",\"password\":");
        if (r == 0)
                r = json_add_string(&text, p->password, strlen(p->password));
        if (r == 0)
                r = str_addf(&text, ",\"serveraddress\":\"%s\"}", p->parsed.domain);
        if (r == 0)
                r = str_adds(out, "X-Registry-Auth: ");
        if (r == 0)
                r = base64_encode(out, text.data, text.len);
        for (size_t i = sizeof("X-Registry-Auth:"); r == 0 && i < out->len; i++)
                out->data[i] = out->data[i] == '+' ? '-' : out->data[i] == '/' ? '_' : out->data[i];
        if (text.data)
                explicit_bzero(text.data, text.cap);
        return r;
}

static int pull_begin(struct docker_pull *p, struct err *err)
{
        const struct image_ref *ref = &p->parsed;
        auto_free char *path = str_printf("/images/create?fromImage=%s/%s&tag=%s", ref->domain, ref->path,
                                          ref->digest[0] ? ref->digest : ref->tag);
        auto_str auth = STR_INIT;
        struct docker_request q = { .method = "POST", .path = path, .timeout_s = UINT_MAX, .on_data = on_pull_data };
        int r;

        if (!path || auth_header(p, &auth) < 0)
                return err_oom(err);
        q.header = auth.len > 0 ? auth.data : NULL;
        r = docker_call(p->docker, &q, on_pulled, p, &p->call, err);
        if (auth.data)
                explicit_bzero(auth.data, auth.cap);
        return r;
}

/* ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct docker_pull *pull_find(struct docker *d, const char *ref, const struct engine_image_request *q)
{
        struct docker_pull *p;

        LIST_FOREACH(p, &d->pulls, node) {
                if (str_eq(p->ref, ref) && p->pull == q->pull && str_eq(p->username, q->username) &&
                    str_eq(p->password, q->password))
                        return p;
        }
        return NULL;
}

static struct docker_pull *pull_new(struct docker *d, const struct image_ref *parsed, const char *ref,
                                    const struct engine_image_request *q)
{
        struct docker_pull *p = calloc(1, sizeof(*p));

        if (!p)
                return NULL;
        p->docker = d;
        p->parsed = *parsed;
        p->pull = q->pull;
        (void)snprintf(p->ref, sizeof(p->ref), "%s", ref);
        list_init(&p->node);
        list_init(&p->waiters);
        p->username = q->username ? strdup(q->username) : NULL;
        p->password = q->password ? strdup(q->password) : NULL;
        if ((q->username && !p->username) || (q->password && !p->password)) {
                pull_free(p);
                return NULL;
        }
        list_append(&d->pulls, &p->node);
        return p;
}

/* A pull that nobody wants any more ends. */
bool docker_leave_image(struct docker *d, void *data)
{
        bool brought = false;
        struct docker_pull *p;
        struct pull_waiter *w;

        LIST_FOREACH(p, &d->pulls, node) {
                LIST_FOREACH(w, &p->waiters, node) {
                        if (w->data != data)
                                continue;
                        brought |= p->brought;
                        list_remove(&w->node);
                        free(w);
                }
                if (!list_empty(&p->waiters))
                        continue;
                docker_call_cancel(p->call);
                pull_free(p);
        }
        return brought;
}

int docker_bring_image(struct engine *e, const struct engine_image_request *q, engine_image_fn fn, void *data,
                       struct err *err)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);
        struct image_ref parsed;
        char ref[REF_TEXT_MAX];
        struct pull_waiter *w;
        struct docker_pull *p;
        int r = image_ref_parse_docker(q->ref, &parsed, err);

        if (r < 0)
                return r;
        if (!d->up)
                return err_set(err, EHOSTUNREACH, "%s", d->fault);
        image_ref_format(&parsed, ref);
        w = calloc(1, sizeof(*w));
        if (!w)
                return err_oom(err);
        *w = (struct pull_waiter){ .fn = fn, .progress = q->progress, .data = data };
        p = pull_find(d, ref, q);
        if (!p) {
                p = pull_new(d, &parsed, ref, q);
                if (!p) {
                        free(w);
                        return err_oom(err);
                }
                r = q->pull == ENGINE_PULL_ALWAYS ? pull_begin(p, err) : image_ask(p, err);
        }
        if (r < 0) {
                free(w);
                pull_free(p);
                return r;
        }
        list_append(&p->waiters, &w->node);
        return 0;
}
