/* Jobs: a manifest's configuration and layers, until they are an image. */

#include "image/pull_internal.h"

#include "base/fd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const image_layer_states[] = { "waiting", "downloading", "downloaded", "unpacking", "ready", NULL };

static void job_move(struct job *job, enum job_state to)
{
        static const bool allowed[JOB_FAILED + 1][JOB_FAILED + 1] = {
                [JOB_CONFIG] = { [JOB_LAYERS] = true, [JOB_INSTALL] = true, [JOB_FAILED] = true },
                [JOB_LAYERS] = { [JOB_INSTALL] = true, [JOB_FAILED] = true },
                [JOB_INSTALL] = { [JOB_CONFIG] = true, [JOB_DONE] = true, [JOB_FAILED] = true },
        };

        if (!allowed[job->state][to])
                abort();
        job->state = to;
        pulls_kick(job->pulls);
}

static void leave_blobs(struct job *job)
{
        if (job->config_blob)
                blob_leave(TAKE_PTR(job->config_blob), job);
        for (size_t i = 0; job->layer_blobs && i < job->parts.n_layers; i++)
                if (job->layer_blobs[i])
                        blob_leave(TAKE_PTR(job->layer_blobs[i]), job);
}

static void job_free(struct job *job)
{
        leave_blobs(job);
        list_remove(&job->node);
        image_hold_free(job->hold);
        image_manifest_done(&job->parts);
        image_config_done(&job->config);
        credentials_done(&job->credentials);
        str_done(&job->manifest);
        free(job->layer_blobs);
        free(job->layers);
        free(job->ops);
        free(job->key);
        free(job->owner);
        free(job);
}

static void job_fail(struct job *job, int r, const struct err *err)
{
        if (job->state == JOB_DONE || job->state == JOB_FAILED)
                return;
        job->result = r;
        if (err != &job->err)
                job->err = *err;
        leave_blobs(job);
        job_move(job, JOB_FAILED);
}

/* Puts in front which layer it was. */
static void fail_layer(struct job *job, size_t i, int r, const struct err *err)
{
        job->err = *err;
        (void)err_wrap(&job->err, "layer %zu of %zu, %s", i + 1, job->parts.n_layers, job->parts.layers[i].digest);
        job_fail(job, r, &job->err);
}

/* ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void mark_installed(struct job *job)
{
        if (job->config_blob)
                job->config_blob->spent = true;
        for (size_t i = 0; job->layer_blobs && i < job->parts.n_layers; i++)
                if (job->layer_blobs[i])
                        job->layer_blobs[i]->spent = true;
}

static void fetch(struct job *job)
{
        if (blob_want(job->pulls, job, &job->parts.config, &job->config_blob, &job->err) < 0)
                job_fail(job, -job->err.num, &job->err);
}

static void on_installed(int r, const struct err *err, void *data)
{
        struct job *job = data;

        job->ops_open--;
        pulls_kick(job->pulls);
        if (job->state != JOB_INSTALL)
                return;
        /* The image was removed while this waited. */
        if (r == -ENOENT && job->present && job->users > 0) {
                job->present = false;
                job_move(job, JOB_CONFIG);
                fetch(job);
                return;
        }
        if (r < 0) {
                job_fail(job, r, err);
                return;
        }
        mark_installed(job);
        leave_blobs(job);
        job_move(job, JOB_DONE);
}

static void install(struct job *job)
{
        auto_strv names = NULL;
        char pinned[REF_TEXT_MAX];
        int r = strv_add(&names, job->name);

        /* By this name it stays known whose image it is when the tag has moved on. */
        if (r == 0 && job->closed && !strchr(job->name, '@')) {
                (void)snprintf(pinned, sizeof(pinned), "%.200s/%.200s@%.80s", job->ref.domain, job->ref.path,
                               job->digest);
                r = strv_add(&names, pinned);
        }
        if (r < 0)
                r = err_oom(&job->err);
        if (r == 0)
                r = image_store_install(job->pulls->config.store, job->hold, job->manifest.data, job->manifest.len,
                                        job->media_type, names, on_installed, job, &job->err);
        if (r < 0) {
                job_fail(job, r, &job->err);
                return;
        }
        job->ops_open++;
        job->moved = true;
        job_move(job, JOB_INSTALL);
}

/* ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_layer(int r, const struct err *err, void *data)
{
        struct job_layer *l = data;
        struct job *job = l->job;

        job->ops_open--;
        pulls_kick(job->pulls);
        if (job->state != JOB_LAYERS)
                return;
        if (r == -EBADMSG && job->layer_blobs[l->i])
                job->layer_blobs[l->i]->spent = true;
        if (r < 0)
                fail_layer(job, l->i, r, err);
        else
                job->layers[l->i].state = LAYER_READY;
}

static void unpack(struct job *job, size_t i)
{
        struct image_store *s = job->pulls->config.store;
        struct err err = ERR_INIT;
        int fd = -EBADF, r;

        r = image_layout_partial_open(image_store_layout(s), job->parts.layers[i].digest, job->parts.layers[i].size,
                                      &fd, &err);
        if (r == 0)
                r = image_store_layer(s, job->hold, fd, &job->parts.layers[i], job->config.diff_ids[i], on_layer,
                                      &job->ops[i], &err);
        if (r < 0) {
                fail_layer(job, i, r, &err);
                return;
        }
        job->ops_open++;
        job->layers[i].state = LAYER_UNPACKS;
}

static void look_at_layer(struct job *job, size_t i)
{
        struct image_layer_progress *l = &job->layers[i];
        const struct blob *b = job->layer_blobs[i];

        l->done = blob_done(b);
        if (b->state == BLOB_FAILED && b->source == job) {
                job->retry_after_s = b->retry_after_s;
                fail_layer(job, i, b->result, &b->err);
                return;
        }
        feed_look(job, i);
        if (b->state == BLOB_READY && l->state < LAYER_UNPACKS) {
                l->was_here = b->was_here;
                l->state = LAYER_IS_HERE;
                if (!feed_awaited(b, job->config.diff_ids[i]))
                        unpack(job, i);
        } else if (b->state != BLOB_READY && b->state != BLOB_QUEUED && l->state == LAYER_WAITS) {
                l->state = LAYER_COMES;
        }
}

static void look_at_layers(struct job *job)
{
        size_t ready = 0;

        for (size_t i = 0; i < job->parts.n_layers && job->state == JOB_LAYERS; i++) {
                look_at_layer(job, i);
                ready += job->layers[i].state == LAYER_READY;
        }
        if (job->state == JOB_LAYERS && ready == job->parts.n_layers)
                install(job);
}

/* ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────── */

static int read_config(struct job *job, struct err *err)
{
        size_t len = (size_t)job->parts.config.size;
        auto_free char *text = malloc(len + 1);
        auto_fd fd = -EBADF;
        int r;

        if (!text)
                return err_oom(err);
        r = image_layout_partial_open(image_store_layout(job->pulls->config.store), job->parts.config.digest,
                                      job->parts.config.size, &fd, err);
        if (r < 0)
                return r;
        r = fd_read_full(fd, text, len);
        if (r < 0)
                return err_set(err, EIO, "the configuration cannot be read");
        r = image_config_parse(text, len, &job->config, err);
        if (r < 0)
                return r;
        if (job->config.n_diff_ids != job->parts.n_layers)
                return err_set(err, EBADMSG, "the image has %zu layers and %zu diff_ids", job->parts.n_layers,
                               job->config.n_diff_ids);
        if ((job->config.os[0] && !str_eq(job->config.os, "linux")) ||
            (job->config.architecture[0] && !str_eq(job->config.architecture, image_host_architecture())))
                return err_set(err, EOPNOTSUPP, "the image is for %s/%s, this host is linux/%s", job->config.os,
                               job->config.architecture, image_host_architecture());
        return 0;
}

static int want_layers(struct job *job, struct err *err)
{
        int r;

        r = image_hold_new(job->pulls->config.store, (const char(*)[65])job->config.diff_ids, job->config.n_diff_ids,
                           &job->hold, err);
        for (size_t i = 0; r == 0 && i < job->parts.n_layers; i++) {
                r = blob_want(job->pulls, job, &job->parts.layers[i], &job->layer_blobs[i], err);
                if (r < 0)
                        (void)err_wrap(err, "layer %zu of %zu, %s", i + 1, job->parts.n_layers,
                                       job->parts.layers[i].digest);
        }
        return r;
}

static void look_at_config(struct job *job)
{
        const struct blob *b = job->config_blob;
        struct err err = ERR_INIT;
        int r;

        if (b->state == BLOB_FAILED && b->source == job) {
                job->retry_after_s = b->retry_after_s;
                job->err = b->err;
                (void)err_wrap(&job->err, "configuration %s", b->digest);
                job_fail(job, b->result, &job->err);
        }
        if (b->state != BLOB_READY || job->state != JOB_CONFIG)
                return;
        r = read_config(job, &err);
        if (r == 0)
                r = want_layers(job, &err);
        if (r < 0)
                job_fail(job, r, &err);
        else
                job_move(job, JOB_LAYERS);
}

/* ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int job_fill(struct job *job, const struct job_source *source, struct err *err)
{
        int r;

        job->ref = *source->ref;
        job->closed = source->closed;
        (void)snprintf(job->name, sizeof(job->name), "%s", source->name);
        (void)snprintf(job->media_type, sizeof(job->media_type), "%s", source->media_type);
        (void)snprintf(job->digest, sizeof(job->digest), "%s", source->digest);
        r = credentials_copy(&job->credentials, source->credentials->username, source->credentials->password, err);
        job->owner = strdup(source->owner);
        if (r == 0 && !job->owner)
                r = err_oom(err);
        if (r == 0 && str_add(&job->manifest, source->manifest, source->len) < 0)
                r = err_oom(err);
        if (r == 0)
                r = image_manifest_parse(job->manifest.data, job->manifest.len, &job->parts, err);
        if (r < 0)
                return r;
        if (job->parts.config.size > IMAGE_JSON_MAX)
                return err_set(err, EBADMSG, "its configuration is larger than %u bytes", IMAGE_JSON_MAX);
        job->layers = calloc(job->parts.n_layers + 1, sizeof(*job->layers));
        job->layer_blobs = calloc(job->parts.n_layers + 1, sizeof(struct blob *));
        job->ops = calloc(job->parts.n_layers + 1, sizeof(*job->ops));
        if (!job->layers || !job->layer_blobs || !job->ops)
                return err_oom(err);
        for (size_t i = 0; i < job->parts.n_layers; i++) {
                memcpy(job->layers[i].digest, job->parts.layers[i].digest, sizeof(job->layers[i].digest));
                job->layers[i].size = job->parts.layers[i].size;
                job->ops[i] = (struct job_layer){ job, i };
        }
        return 0;
}

static void job_begin(struct job *job)
{
        const struct image *image = image_store_by_digest(job->pulls->config.store, job->digest);

        job->present = image && !image->broken;
        if (job->present)
                install(job);
        else
                fetch(job);
}

int job_get(struct image_pulls *p, const struct job_source *source, struct job **ret, struct err *err)
{
        auto_free char *key = str_printf("%s\n%s", source->digest, source->name);
        struct job *job;
        int r;

        if (!key)
                return err_oom(err);
        LIST_FOREACH(job, &p->jobs, node) {
                if (job->state < JOB_DONE && job->users > 0 && str_eq(job->key, key)) {
                        job->users++;
                        *ret = job;
                        return 0;
                }
        }
        job = calloc(1, sizeof(*job));
        if (!job)
                return err_oom(err);
        job->pulls = p;
        job->users = 1;
        job->key = TAKE_PTR(key);
        list_init(&job->node);
        r = job_fill(job, source, err);
        if (r < 0) {
                job_free(job);
                return r;
        }
        list_append(&p->jobs, &job->node);
        job_begin(job);
        *ret = job;
        return 0;
}

void job_leave(struct job *job)
{
        job->users--;
        pulls_kick(job->pulls);
}

void jobs_tick(struct image_pulls *p)
{
        struct job *job;

        LIST_FOREACH(job, &p->jobs, node) {
                if (job->users == 0) {
                        /* What the store has begun it ends, and nobody writes to what it gives names to. */
                        if (job->state != JOB_INSTALL)
                                leave_blobs(job);
                        if (job->ops_open == 0)
                                job_free(job);
                        else if (job->state == JOB_CONFIG || job->state == JOB_LAYERS)
                                job_move(job, JOB_FAILED);
                        continue;
                }
                if (job->state == JOB_CONFIG)
                        look_at_config(job);
                if (job->state == JOB_LAYERS)
                        look_at_layers(job);
        }
}

void jobs_free(struct image_pulls *p)
{
        struct job *job;

        LIST_FOREACH(job, &p->jobs, node)
                job_free(job);
}

void job_progress(const struct job *job, struct image_pull_progress *ret)
{
        ret->layers = job->layers;
        ret->n_layers = job->parts.n_layers;
        ret->installing = job->state == JOB_INSTALL;
        ret->total = job->parts.config.size;
        ret->done = job->config_blob          ? blob_done(job->config_blob)
                    : job->state > JOB_CONFIG ? job->parts.config.size
                                              : 0;
        for (size_t i = 0; i < job->parts.n_layers; i++) {
                ret->total += job->layers[i].size;
                ret->done += job->layers[i].done;
        }
}
