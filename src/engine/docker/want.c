/* Who may run what. Docker shows whatever it has to whoever asks, also what it pulled with somebody else's credentials.
 *
 *             is not there                    may be closed to the owner
 *   PULL ◀───────────────── LOOK ────────────────────────────────────────▶ PROVE ─▶ answered
 *    │                       │ ▲                                             │
 *    ▼                       ▼ │ (in the store, part of Mayfly: LOAD)        ▼ the registry cannot be asked by us
 *   answered              answered                                          PULL, where there are credentials
 *
 * Where the policy wants a signature or a digest, the store brings and verifies the image (VERIFY), and Docker is given exactly
 * that one.
 *
 * PULL of a tag always asks the registry, with the owner's credentials: that it is answered is a proof. Of a digest it is none:
 * what Docker has of it already it does not ask for, whatever the credentials (moby, distribution/manifest.go). */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "image/install.h"
#include "image/layout.h"
#include "image/prove.h"
#include "image/ref.h"
#include "image/save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct docker_want {
        struct list node;
        struct docker *docker;
        engine_image_fn fn;
        void (*progress)(const struct engine_progress *p, void *data);
        void *data;
        struct image_ref parsed;
        char ref[REF_TEXT_MAX];
        char *owner, *username, *password;
        enum engine_pull pull;
        struct engine_image image; /* that was found */
        struct image_proof *proof;
        bool pulling, closed; /* with credentials; and its repository was closed for it */
        bool loaded, loading; /* an archive, which Docker is given */
        struct docker_copy *copy;
        struct image_want *verify;
        char only[80];     /* the image's ID, where the policy wants this one */
        bool orphan, told; /* nobody wants it any more, and has been told so */
};

static void wipe(char *text)
{
        if (text)
                explicit_bzero(text, strlen(text));
        free(text);
}

/* An image of the store on its way into an archive. */
struct docker_copy {
        struct list node;
        struct docker_want *want; /* NULL: has gone */
        struct image_save *save;
        int fd, r;
        struct err err;
        bool released;
};

static void want_free(struct docker_want *w)
{
        list_remove(&w->node);
        if (w->copy)
                w->copy->want = NULL;
        if (w->verify)
                image_pull_cancel(w->verify);
        if (w->proof)
                image_prove_cancel(w->proof);
        wipe(w->username);
        wipe(w->password);
        free(w->owner);
        free(w);
}

static void want_answer(struct docker_want *w, int r, const struct engine_image *image, const struct err *err)
{
        list_remove(&w->node);
        w->fn(r, image, err, w->data);
        want_free(w);
}

static void want_failed(struct docker_want *w, int r, const struct err *err)
{
        want_answer(w, r, NULL, err);
}

static void copy_release(struct docker_copy *x)
{
        if (!x->released)
                image_save_release(x->save);
        x->released = true;
}

/* Nobody is told any more; what somebody still holds goes when he lets go. */
void docker_wants_done(struct docker *d)
{
        struct docker_want *w;
        struct docker_copy *x;

        while ((w = LIST_FIRST(&d->wants, struct docker_want, node))) {
                (void)docker_leave_image(d, w);
                list_remove(&w->node);
                w->fn = NULL;
                if (w->orphan && !w->told)
                        continue; /* on_cancelled() */
                w->orphan = w->told = true;
                if (!w->loading || w->copy)
                        want_free(w);
        }
        LIST_FOREACH(x, &d->copies, node) {
                copy_release(x);
                list_remove(&x->node);
        }
}

static int want_look(struct docker_want *w, struct err *err);

/* ── pulling ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct docker_want *other_of(const struct docker_want *w)
{
        struct docker_want *x;

        LIST_FOREACH(x, &w->docker->wants, node) {
                if (x != w && x->pulling && str_eq(x->parsed.domain, w->parsed.domain) &&
                    str_eq(x->parsed.path, w->parsed.path))
                        return x;
        }
        return NULL;
}

/* It brought nothing: the repository opens again, unless another such pull may bring something. */
static void reopen(struct docker_want *w, bool brought)
{
        struct docker_want *x = other_of(w);

        w->pulling = false;
        if (!w->closed)
                return;
        w->closed = false;
        if (brought)
                return;
        if (x)
                x->closed = true;
        else if (w->docker->images_of.pulls)
                image_note_failed(w->docker->images_of.pulls, &w->parsed);
}

/* It stays closed, whatever becomes of the others. */
static void pulled(struct docker_want *w)
{
        struct docker_want *x;

        LIST_FOREACH(x, &w->docker->wants, node) {
                if (w->pulling && str_eq(x->parsed.domain, w->parsed.domain) && str_eq(x->parsed.path, w->parsed.path))
                        x->closed = false;
        }
        w->pulling = false;
        if (!w->parsed.digest[0])
                image_note_pulled(w->docker->images_of.pulls, w->owner, &w->parsed);
}

static bool may_use(const struct docker_want *w);
static int want_prove(struct docker_want *w, struct err *err);

static void on_pulled(int r, const struct engine_image *image, const struct err *err, void *data)
{
        struct docker_want *w = data;
        struct err why = ERR_INIT;

        if (w->orphan)
                return;
        if (r == 0)
                pulled(w);
        else
                reopen(w, image != NULL);
        if (r < 0 || !image) {
                want_answer(w, r < 0 ? r : -EBADMSG, NULL, err);
                return;
        }
        if (!w->parsed.digest[0] || may_use(w)) {
                want_answer(w, 0, image, err);
                return;
        }
        w->image = *image;
        r = want_prove(w, &why);
        if (r < 0)
                want_failed(w, r, &why);
}

static void on_progress(const struct engine_progress *p, void *data)
{
        struct docker_want *w = data;

        if (w->progress)
                w->progress(p, w->data);
}

static int want_pull(struct docker_want *w, struct err *err)
{
        const struct engine_image_request q = {
                .ref = w->ref,
                .owner = w->owner,
                .pull = ENGINE_PULL_ALWAYS,
                .username = w->username,
                .password = w->password,
                .progress = on_progress,
        };
        int r;

        if (w->username) {
                r = image_note_pulling(w->docker->images_of.pulls, &w->parsed, err);
                if (r < 0)
                        return r;
                w->pulling = true;
                w->closed = r;
        }
        r = docker_bring_image(&w->docker->engine, &q, on_pulled, w, err);
        if (r < 0)
                reopen(w, false);
        return r;
}

static bool may_pull(const struct docker_want *w)
{
        return w->pull != ENGINE_PULL_NEVER && !str_eq(w->parsed.domain, IMAGE_BUILTIN_DOMAIN) &&
               image_pulls_enabled(w->docker->images_of.pulls);
}

/* ── proving ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_proven(int r, const struct err *err, void *data)
{
        struct docker_want *w = data;
        struct err why = *err;

        w->proof = NULL;
        if (r == 0) {
                want_answer(w, 0, &w->image, err);
                return;
        }
        if ((r == -EHOSTUNREACH || r == -EBUSY) && w->username && !w->parsed.digest[0] && may_pull(w))
                r = want_pull(w, &why);
        if (r < 0)
                want_failed(w, r, &why);
}

/* Who may open the API's socket is admin. */
static bool may_use(const struct docker_want *w)
{
        return str_starts(w->owner, "uid:") || image_access_known(w->docker->images_of.pulls, w->owner, &w->parsed);
}

static int want_prove(struct docker_want *w, struct err *err)
{
        const struct image_pull_request q = {
                .ref = w->ref, .owner = w->owner, .username = w->username, .password = w->password
        };

        return image_prove(w->docker->images_of.pulls, &q, on_proven, w, &w->proof, err);
}

/* ── what Docker is given ────────────────────────────────────────────────────────────────────────────────────────── */

static void on_loaded(int r, const struct err *err, void *data)
{
        struct docker_want *w = data;
        struct err why = *err;

        w->loading = false;
        if (w->orphan) {
                if (w->told)
                        want_free(w);
                return;
        }
        if (r == 0)
                r = want_look(w, &why);
        if (r < 0)
                want_failed(w, r, &why);
}

#define COPY_QUEUE 7 /* of the loop's work threads */
#define COPY_BUFFER ((size_t)256 * 1024)

static void copy_run(void *data)
{
        struct docker_copy *x = data;
        auto_free char *buf = malloc(COPY_BUFFER);
        ssize_t n = 0;

        if (!buf)
                x->r = err_oom(&x->err);
        while (x->r == 0 && (n = image_save_read(x->save, buf, COPY_BUFFER, &x->err)) > 0) {
                x->r = fd_write_all(x->fd, buf, (size_t)n);
                if (x->r < 0)
                        (void)err_set(&x->err, -x->r, "write the archive: %s", strerror(-x->r));
        }
        if (n < 0)
                x->r = (int)n;
}

static void copy_done(void *data)
{
        struct docker_copy *x = data;
        struct docker_want *w = x->want;

        list_remove(&x->node);
        copy_release(x);
        image_save_close(x->save);
        if (w) {
                w->copy = NULL;
                if (x->r == 0 && !w->orphan)
                        x->r = engine_docker_load(&w->docker->engine, x->fd, on_loaded, w, &x->err);
                if (x->r < 0 || w->orphan)
                        on_loaded(x->r, &x->err, w);
        }
        fd_close(x->fd);
        free(x);
}

static int copy_start(struct docker_want *w, struct image_save *save, struct err *err)
{
        int dir = image_store_layout(w->docker->images_of.store)->dir, r;
        struct docker_copy *x = calloc(1, sizeof(*x));

        if (!x)
                return err_oom(err);
        *x = (struct docker_copy){ .want = w, .save = save };
        list_init(&x->node);
        x->fd = openat(dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
        r = x->fd < 0 ? err_sys(err, "make a temporary file")
                      : loop_work(w->docker->loop, COPY_QUEUE, copy_run, copy_done, x);
        if (r < 0) {
                if (x->fd >= 0)
                        (void)err_set(err, -r, "copy image '%s': %s", w->ref, strerror(-r));
                fd_close(x->fd);
                free(x);
                return r;
        }
        list_append(&w->docker->copies, &x->node);
        w->copy = x;
        w->loaded = w->loading = true;
        return 0;
}

/* An image of the store that the owner may use there. -ENOENT: there is none. */
static int want_copy(struct docker_want *w, struct err *err)
{
        const struct engine_docker_images *of = &w->docker->images_of;
        const struct image *image = of->store && !w->loaded ? image_store_find(of->store, w->ref, NULL) : NULL;
        const char *const refs[] = { w->ref };
        struct image_save *save = NULL;
        int r;

        if (!image || image_is_builtin(image) ||
            !(str_starts(w->owner, "uid:") || image_pulls_may_use(of->pulls, w->owner, image)))
                return err_set(err, ENOENT, "there is no image '%s' here", w->ref);
        r = image_save_open(of->store, refs, 1, IMAGE_SAVE_DOCKER, NULL, NULL, &save, err);
        if (r == 0)
                r = copy_start(w, save, err);
        if (r < 0 && save) {
                image_save_release(save);
                image_save_close(save);
        }
        return r;
}

/* -ENOENT: there is none of that name. */
static int want_load(struct docker_want *w, struct err *err)
{
        struct docker *d = w->docker;
        auto_fd fd = -EBADF;
        int r;

        if (w->loaded || !d->images_of.builtin || !str_eq(w->parsed.domain, IMAGE_BUILTIN_DOMAIN))
                return err_set(err, ENOENT, "there is no image '%s' here", w->ref);
        r = d->images_of.builtin(w->ref, &fd, err);
        if (r == 0)
                r = engine_docker_load(&d->engine, fd, on_loaded, w, err);
        w->loaded = true;
        w->loading = r == 0;
        return r;
}

/* ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* From where it is nearest; as `missing` says it where it is nowhere. */
static int want_bring(struct docker_want *w, const struct err *missing, struct err *ret)
{
        int r = want_load(w, ret);

        if (r == -ENOENT)
                r = want_copy(w, ret);
        if (r == -ENOENT && may_pull(w))
                r = want_pull(w, ret);
        if (r == -ENOENT)
                *ret = *missing;
        return r;
}

/* Docker's name may stand for another image: then it is given the right one, which takes the name. */
static void on_looked_for_one(struct docker_want *w, int r, const struct engine_image *image, const struct err *err)
{
        struct err why = *err;

        if (r == 0 && str_eq(image->digest, w->only)) {
                want_answer(w, 0, image, err);
                return;
        }
        if (r == 0 || r == -ENOENT)
                r = w->loaded ? err_set(&why, EKEYREJECTED, "image '%s' is not in Docker what was verified", w->ref)
                              : want_copy(w, &why);
        if (r < 0)
                want_failed(w, r, &why);
}

static void on_looked(int r, const struct engine_image *image, const struct err *err, void *data)
{
        struct docker_want *w = data;
        struct err why = *err;

        if (w->orphan)
                return;
        if (w->only[0]) {
                on_looked_for_one(w, r, image, err);
                return;
        }
        if (r == 0 && may_use(w)) {
                want_answer(w, 0, image, err);
                return;
        }
        if (r == 0) {
                w->image = *image;
                r = want_prove(w, &why);
        } else if (r == -ENOENT) {
                r = want_bring(w, err, &why);
        }
        if (r < 0)
                want_failed(w, r, &why);
}

static int want_look(struct docker_want *w, struct err *err)
{
        const struct engine_image_request q = { .ref = w->ref, .owner = w->owner, .pull = ENGINE_PULL_NEVER };

        return docker_bring_image(&w->docker->engine, &q, on_looked, w, err);
}

/* ── where the policy decides ────────────────────────────────────────────────────────────────────────────────────── */

static void on_verified(int r, const struct image_pull_result *result, const struct err *err, void *data)
{
        struct docker_want *w = data;
        const struct image *image = NULL, *named = NULL;
        struct err why = ERR_INIT;

        w->verify = NULL;
        if (r < 0)
                why = *err;
        if (r == 0) {
                image = image_store_by_digest(w->docker->images_of.store, result->digest);
                named = image_store_find(w->docker->images_of.store, w->ref, NULL);
        }
        if (r == 0 && (!image || image != named))
                r = err_set(&why, EKEYREJECTED, "image '%s' was replaced meanwhile", w->ref);
        if (r == 0) {
                (void)snprintf(w->only, sizeof(w->only), "%s", image->config_digest);
                r = want_look(w, &why);
        }
        if (r < 0)
                want_failed(w, r, &why);
}

static void on_verify_progress(const struct image_pull_progress *p, void *data)
{
        const struct engine_progress told = { .done = p->done, .total = p->total };

        on_progress(&told, data);
}

static int want_verify(struct docker_want *w, struct err *err)
{
        const struct image_pull_request q = {
                .ref = w->ref,
                .owner = w->owner,
                .all = str_starts(w->owner, "uid:"),
                .policy = (enum image_pull_policy)w->pull,
                .username = w->username,
                .password = w->password,
                .progress = on_verify_progress,
        };

        if (!w->docker->images_of.store)
                return err_set(
                        err, EKEYREJECTED,
                        "image '%s': the policy wants it verified, which this node cannot without the native engine",
                        w->ref);
        return image_pull(w->docker->images_of.pulls, &q, on_verified, w, &w->verify, err);
}

/* ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int copy(char **to, const char *text)
{
        *to = text ? strdup(text) : NULL;
        return text && !*to ? -ENOMEM : 0;
}

static struct docker_want *want_new(struct docker *d, const struct engine_image_request *q)
{
        struct docker_want *w = calloc(1, sizeof(*w));

        if (!w)
                return NULL;
        w->docker = d;
        w->pull = q->pull;
        w->progress = q->progress;
        list_init(&w->node);
        if (copy(&w->owner, q->owner ? q->owner : "") < 0 ||
            copy(&w->username, q->username && *q->username ? q->username : NULL) < 0 ||
            copy(&w->password, w->username ? q->password : NULL) < 0) {
                want_free(w);
                return NULL;
        }
        return w;
}

int docker_ensure_image(struct engine *e, const struct engine_image_request *q, engine_image_fn fn, void *data,
                        struct err *err)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);
        struct image_ref parsed;
        struct docker_want *w;
        int r;

        if (!d->images_of.pulls)
                return docker_bring_image(e, q, fn, data, err);
        r = image_ref_parse_docker(q->ref, &parsed, err);
        if (r < 0)
                return r;
        if (!d->up)
                return err_set(err, EHOSTUNREACH, "%s", d->fault);
        w = want_new(d, q);
        if (!w)
                return err_oom(err);
        w->fn = fn;
        w->data = data;
        w->parsed = parsed;
        if (!w->username)
                (void)image_pulls_kept(d->images_of.pulls, w->owner, parsed.domain, &w->username, &w->password);
        image_ref_format(&parsed, w->ref);
        list_append(&d->wants, &w->node);
        if (!image_policy_is_open(d->images_of.pulls, &parsed) && !str_eq(parsed.domain, IMAGE_BUILTIN_DOMAIN))
                r = want_verify(w, err);
        else
                /* A digest stands for one image ever. */
                r = q->pull == ENGINE_PULL_ALWAYS && !parsed.digest[0] && may_pull(w) ? want_pull(w, err)
                                                                                      : want_look(w, err);
        if (r < 0)
                want_free(w);
        return r;
}

static void on_cancelled(void *data)
{
        struct docker_want *w = data;
        struct err err = ERR_INIT;
        int r = err_set(&err, ECANCELED, "nobody wants it any more");

        if (w->fn)
                w->fn(r, NULL, &err, w->data);
        w->told = true;
        if (!w->loading)
                want_free(w);
}

void docker_cancel_image(struct engine *e, void *data)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);
        struct docker_want *w;
        bool brought;

        LIST_FOREACH(w, &d->wants, node) {
                if (w->data != data || w->orphan)
                        continue;
                /* Out of memory, it goes on. */
                if (loop_defer(d->loop, on_cancelled, w) < 0)
                        return;
                w->orphan = true;
                brought = docker_leave_image(d, w);
                if (w->proof)
                        image_prove_cancel(TAKE_PTR(w->proof));
                if (w->verify)
                        image_pull_cancel(TAKE_PTR(w->verify));
                reopen(w, brought);
                return;
        }
}

void engine_docker_set_images(struct engine *e, const struct engine_docker_images *images)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);

        struct docker_copy *x;

        if (!images)
                docker_wants_done(d);
        LIST_FOREACH(x, &d->copies, node)
                copy_release(x);
        d->images_of = images ? *images : (struct engine_docker_images){ .pulls = NULL };
}
