/* Blobs: from a registry into a file, hashed as they come. */

#include "image/prune.h"
#include "image/pull_internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "http/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BEGIN_BYTES ((uint64_t)4 << 20)
#define LOOK_NS NS_PER_S
#define OWNER_PLACES 2
#define PARALLEL_TIMES 4

static void blob_reset(struct blob *b)
{
        feed_cancel(b);
        if (b->call)
                registry_cancel(TAKE_PTR(b->call));
        fd_replace(&b->fd, -EBADF);
        image_layout_close(&b->view);
        EVP_MD_CTX_free(b->md);
        b->md = NULL;
        str_done(&b->filling);
        str_done(&b->writing);
        b->written = b->begun = 0;
        b->ended = b->paused = false;
}

static void blob_free(struct blob *b)
{
        blob_reset(b);
        sources_done(&b->sources);
        free(b);
}

static bool is_active(const struct blob *b)
{
        return b->state == BLOB_OPENING || b->state == BLOB_LOADING || b->state == BLOB_FINISHING;
}

static void blob_move(struct blob *b, enum blob_state to)
{
        static const bool allowed[BLOB_FAILED + 1][BLOB_FAILED + 1] = {
                [BLOB_QUEUED] = { [BLOB_OPENING] = true, [BLOB_FAILED] = true },
                [BLOB_OPENING] = { [BLOB_LOADING] = true, [BLOB_READY] = true, [BLOB_FAILED] = true },
                [BLOB_LOADING] = { [BLOB_FINISHING] = true, [BLOB_FAILED] = true },
                [BLOB_FINISHING] = { [BLOB_READY] = true, [BLOB_FAILED] = true },
                [BLOB_FAILED] = { [BLOB_QUEUED] = true },
        };
        bool before = is_active(b);

        if (!allowed[b->state][to])
                abort();
        b->state = to;
        b->pulls->active += (unsigned)is_active(b) - (unsigned)before;
        pulls_kick(b->pulls);
}

static void blob_settle(struct blob *b);

/* Nothing of it is a beginning to go on from. */
static void blob_empty(struct blob *b)
{
        if ((b->state == BLOB_LOADING || b->state == BLOB_FINISHING) && b->fd >= 0)
                (void)!ftruncate(b->fd, 0);
}

/* Never while a work thread has it. */
static void blob_fail(struct blob *b, int r, const struct err *err)
{
        const struct err why = err ? *err : b->err;

        /* What others brought is not thrown away because one of them answers nonsense. */
        if (b->sources.alone ||
            (r == -EBADMSG && (b->sources.giver == b->sources.now || !sources_several(&b->sources))))
                blob_empty(b);
        blob_reset(b);
        sources_fail(&b->sources, r, &why, b->retry_after_s);
        blob_move(b, BLOB_FAILED);
        b->source = NULL;
        blob_settle(b);
}

/* From nothing, for that job; NULL: by whoever is next. */
static void blob_begin_anew(struct blob *b, struct job *job)
{
        blob_empty(b);
        blob_reset(b);
        b->sources.giver = NULL;
        b->sources.mixed = false;
        blob_move(b, BLOB_FAILED);
        b->source = job;
        if (job)
                blob_move(b, BLOB_QUEUED);
        else
                blob_settle(b);
}

/* A work thread is done with the blob. False: nobody is left to care. */
static bool blob_back(struct blob *b)
{
        b->busy = false;
        if (b->pulls)
                return true;
        blob_free(b);
        return false;
}

static int blob_work(struct blob *b, void (*run)(void *data), void (*done)(void *data))
{
        int r = loop_work(b->pulls->loop, DOWNLOAD_QUEUE, run, done, b);

        b->busy = r == 0;
        return r < 0 ? err_set(&b->err, ENOMEM, "too much work waits") : 0;
}

/* ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct source_id source_of(const struct job *job)
{
        return (struct source_id){ job->ref.domain, job->ref.path, job->credentials.key, job->owner };
}

static struct source *source_by(const struct blob *b, const struct job *job)
{
        const struct source_id id = source_of(job);

        return sources_find(&b->sources, &id);
}

static bool job_wants(const struct job *job, const struct blob *b)
{
        if (job->config_blob == b)
                return true;
        for (size_t i = 0; job->layer_blobs && i < job->parts.n_layers; i++)
                if (job->layer_blobs[i] == b)
                        return true;
        return false;
}

static struct job *job_of(const struct blob *b, const struct source *x)
{
        struct job *job;

        LIST_FOREACH(job, &b->pulls->jobs, node)
                if (job_wants(job, b) && source_by(b, job) == x)
                        return job;
        return NULL;
}

/* In the name of a job that is still there. False: there is none. */
static bool take_source(struct blob *b)
{
        struct source *x = sources_next(&b->sources);
        struct job *job = x ? job_of(b, x) : NULL;

        if (!job)
                return false;
        b->sources.now = x;
        b->source = job;
        return true;
}

/* It has failed: a job is told, or the next source is taken. Whoever has no access, or other bytes, is told first. */
static void blob_settle(struct blob *b)
{
        struct source *x = sources_failed(&b->sources, false);

        if (!x && take_source(b)) {
                blob_move(b, BLOB_QUEUED);
                return;
        }
        if (!x)
                x = sources_failed(&b->sources, true);
        b->source = x ? job_of(b, x) : NULL;
        if (!b->source)
                return;
        b->result = x->result;
        b->err = x->err;
        b->retry_after_s = x->retry_after_s;
        pulls_kick(b->pulls);
}

/* ── the end of the bytes ─────────────────────────────────────────────────────────────────────────────────────────── */

static int digest_check(struct blob *b, struct err *err)
{
        unsigned char hash[SHA256_DIGEST_LENGTH];
        char hex[2 * SHA256_DIGEST_LENGTH + 1];

        if (EVP_DigestFinal_ex(b->md, hash, NULL) != 1)
                return err_set(err, EIO, "cannot compute SHA-256");
        hex_encode(hash, sizeof(hash), hex);
        if (!str_eq(hex, b->digest + strlen("sha256:")))
                return err_set(err, EBADMSG, "digest mismatch: what came has sha256:%s", hex);
        return 0;
}

/* ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Images are collected, and the same is tried once more. Until then the blob counts as busy. */
static bool make_room(struct blob *b, image_done_fn fn)
{
        if ((b->work_result != -ENOSPC && b->work_result != -EDQUOT) || b->roomed ||
            image_store_make_room(b->pulls->config.store, fn, b, NULL) < 0)
                return false;
        b->roomed = true;
        b->busy = true;
        return true;
}

/* The disk begins with it meanwhile; it is waited for when the blob becomes part of an image. */
static void begin_to_write(struct blob *b, uint64_t to)
{
        (void)sync_file_range(b->fd, (off_t)b->begun, (off_t)(to - b->begun), SYNC_FILE_RANGE_WRITE);
        b->begun = to;
}

static void finish_run(void *data)
{
        struct blob *b = data;

        b->work_result = digest_check(b, &b->work_err);
        begin_to_write(b, b->written);
}

/* A mirror that has other bytes is one that does not have it; of several who brought a part nobody is known to be wrong. */
static bool try_again(struct blob *b)
{
        struct source *x = b->sources.now;

        if (b->work_result != -EBADMSG)
                return false;
        if (b->sources.mixed && !b->sources.alone) {
                log_debug("blob %s: a wrong digest of several sources; each alone from now on", b->digest);
                sources_part(&b->sources);
                b->source = NULL;
        } else if (b->source && x && !x->direct && registries_mirrored(b->pulls->config.registries, &b->source->ref)) {
                x->direct = true;
        } else {
                return false;
        }
        blob_begin_anew(b, b->source);
        return true;
}

static void finish_done(void *data)
{
        struct blob *b = data;

        if (!blob_back(b) || try_again(b))
                return;
        if (b->work_result < 0) {
                blob_fail(b, b->work_result, &b->work_err);
                return;
        }
        b->downloaded = true;
        b->sources.now = NULL;
        fd_replace(&b->fd, -EBADF);
        blob_move(b, BLOB_READY);
}

/* ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void write_run(void *data)
{
        struct blob *b = data;
        const char *at = b->writing.data;
        size_t left = b->writing.len;
        uint64_t offset = b->written;

        b->work_result = 0;
        while (left > 0 && b->work_result == 0) {
                ssize_t n = pwrite(b->fd, at, left, (off_t)offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        b->work_result = n < 0 ? err_sys(&b->work_err, "write a blob")
                                               : err_set(&b->work_err, EIO, "write a blob");
                        return;
                }
                at += n;
                left -= (size_t)n;
                offset += (uint64_t)n;
        }
        if (EVP_DigestUpdate(b->md, b->writing.data, b->writing.len) != 1)
                b->work_result = err_set(&b->work_err, EIO, "cannot compute SHA-256");
        if (offset - b->begun >= BEGIN_BYTES)
                begin_to_write(b, offset);
}

static void write_next(struct blob *b);
static void write_done(void *data);

static void write_again(int r, const struct err *err, void *data)
{
        struct blob *b = data;

        (void)err;
        if (!blob_back(b))
                return;
        if (r == 0)
                r = blob_work(b, write_run, write_done);
        if (r < 0)
                blob_fail(b, b->work_result, &b->work_err);
}

static void write_done(void *data)
{
        struct blob *b = data;

        if (!blob_back(b))
                return;
        if (make_room(b, write_again))
                return;
        if (b->work_result < 0) {
                blob_fail(b, b->work_result, &b->work_err);
                return;
        }
        b->written += b->writing.len;
        str_clear(&b->writing);
        if (b->state == BLOB_LOADING)
                write_next(b);
}

static void write_next(struct blob *b)
{
        struct str swap = b->writing;
        int r;

        if (b->busy || (!b->ended && b->filling.len < BLOB_BUFFER))
                return;
        if (b->filling.len == 0 && b->result < 0) {
                /* It ended too early, while the thread was busy: what is there is a beginning. */
                blob_fail(b, b->result, NULL);
                return;
        }
        if (b->filling.len == 0) {
                blob_move(b, BLOB_FINISHING);
                r = blob_work(b, finish_run, finish_done);
        } else {
                b->writing = b->filling;
                b->filling = swap;
                r = blob_work(b, write_run, write_done);
                if (r == 0 && b->paused && b->call) {
                        b->paused = false;
                        registry_resume(b->call);
                }
        }
        if (r < 0)
                blob_fail(b, r, NULL);
}

static int on_data(struct registry_call *c, const void *data, size_t len, void *arg)
{
        struct blob *b = arg;

        (void)c;
        if (b->busy && b->filling.len >= BLOB_BUFFER) {
                b->paused = true;
                return FETCH_PAUSE;
        }
        if (str_add(&b->filling, data, len) < 0)
                return -ENOMEM;
        sources_took(&b->sources, len);
        if (b->filling.len >= BLOB_BUFFER)
                write_next(b);
        pulls_kick(b->pulls);
        return b->state == BLOB_LOADING ? 0 : -EIO;
}

static int call_start(struct blob *b);

/* Where it failed for the moment, the next source goes on. */
static bool call_passes_on(struct blob *b, int *r)
{
        if (!source_is_passing(*r) || b->sources.alone)
                return false;
        sources_fail(&b->sources, *r, &b->err, b->retry_after_s);
        if (!take_source(b))
                return false;
        *r = call_start(b);
        return *r == 0;
}

static void call_ended(struct blob *b, int r, const struct err *err)
{
        sources_ended(&b->sources, time_mono_ns());
        if (r < 0 && err != &b->err)
                b->err = *err;
        if (call_passes_on(b, &r))
                return;
        b->ended = true;
        b->result = r;
        if (r == 0)
                write_next(b);
        else if (!b->busy)
                blob_fail(b, r, NULL);
}

static void on_done(struct registry_call *c, int r, const struct registry_answer *answer, const struct err *err,
                    void *arg)
{
        struct blob *b = arg;

        (void)c;
        b->call = NULL;
        b->retry_after_s = answer->retry_after_s;
        if (b->state == BLOB_LOADING)
                call_ended(b, r, err);
}

/* ── the beginning ────────────────────────────────────────────────────────────────────────────────────────────────── */

enum opened { OPENED_PART, OPENED_WHOLE, OPENED_MORE }; /* MORE: to be hashed of what was found */

static int hash_some(struct blob *b, struct err *err)
{
        auto_free char *buffer = malloc(BLOB_BUFFER);
        uint64_t end = b->written + HASH_TURN;

        if (!buffer)
                return err_oom(err);
        while (b->written < b->size) {
                ssize_t n;

                if (b->written >= end)
                        return OPENED_MORE;
                n = pread(b->fd, buffer, MIN((uint64_t)BLOB_BUFFER, b->size - b->written), (off_t)b->written);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return err_sys(err, "read a blob");
                if (n == 0)
                        break;
                if (EVP_DigestUpdate(b->md, buffer, (size_t)n) != 1)
                        return err_set(err, EIO, "cannot compute SHA-256");
                b->written += (uint64_t)n;
        }
        return OPENED_PART;
}

static int md_begin(struct blob *b, struct err *err)
{
        EVP_MD_CTX_free(b->md);
        b->md = EVP_MD_CTX_new();
        return b->md && EVP_DigestInit_ex(b->md, EVP_sha256(), NULL) == 1 ? 0 : err_oom(err);
}

static int begin_empty(struct blob *b, struct err *err)
{
        int r;

        if (ftruncate(b->fd, 0) < 0)
                return err_sys(err, "write a blob");
        b->written = 0;
        r = md_begin(b, err);
        if (r == 0 && b->size == 0)
                r = err_set(err, EBADMSG, "digest mismatch: it is empty");
        return r;
}

static int look_at_found(struct blob *b, struct err *err)
{
        int r = hash_some(b, err);

        if (r != 0 || b->written < b->size)
                return r;
        return digest_check(b, NULL) == 0 ? OPENED_WHOLE : begin_empty(b, err);
}

static int open_partial(struct blob *b, struct err *err)
{
        int held = image_layout_partial_hold(&b->view, b->digest, b->size), r;
        struct stat st;

        if (held == -EBADMSG)
                return err_set(err, EBADMSG, "it has another size than the manifest says");
        r = image_layout_partial_open(&b->view, b->digest, b->size, &b->fd, err);
        if (r == 0)
                r = md_begin(b, err);
        if (r < 0)
                return r;
        if (held == 0)
                return OPENED_WHOLE;
        if (fstat(b->fd, &st) < 0)
                return err_sys(err, "read a blob");
        b->written = 0;
        return (uint64_t)st.st_size <= b->size ? look_at_found(b, err) : begin_empty(b, err);
}

static void open_run(void *data)
{
        struct blob *b = data;

        b->work_result = open_partial(b, &b->work_err);
}

static void look_run(void *data)
{
        struct blob *b = data;

        b->work_result = look_at_found(b, &b->work_err);
}

/* The rest of it, of its source and with that one's credentials alone. */
static int call_start(struct blob *b)
{
        static const struct registry_handler handler = { .data = on_data, .done = on_done };
        const struct job *job = b->source;
        const struct registry_request q = {
                .what = REGISTRY_BLOB,
                .ref = &job->ref,
                .reference = b->digest,
                .username = job->credentials.username,
                .password = job->credentials.password,
                .offset = blob_done(b),
                .size = b->size,
                .direct = b->sources.now->direct,
        };

        sources_begin(&b->sources, b->sources.now, time_mono_ns());
        return registry_start(b->pulls->config.registries, &q, &handler, b, &b->call, &b->err);
}

static void open_done(void *data)
{
        struct blob *b = data;
        int r;

        if (!blob_back(b))
                return;
        image_layout_close(&b->view);
        if (b->work_result == OPENED_MORE) {
                r = blob_work(b, look_run, open_done);
                if (r < 0)
                        blob_fail(b, r, NULL);
                return;
        }
        if (b->work_result < 0) {
                blob_fail(b, b->work_result, &b->work_err);
                return;
        }
        if (b->work_result == OPENED_WHOLE) {
                b->was_here = true;
                b->written = b->size;
                b->sources.now = NULL;
                fd_replace(&b->fd, -EBADF);
                blob_move(b, BLOB_READY);
                return;
        }
        if (!b->source && !take_source(b)) {
                blob_fail(b, err_set(&b->err, ECANCELED, "nobody wants it"), NULL);
                return;
        }
        sources_have(&b->sources, b->written);
        r = call_start(b);
        if (r < 0)
                blob_fail(b, r, NULL);
        else
                blob_move(b, BLOB_LOADING);
}

static void blob_open(struct blob *b)
{
        int r = 0;

        b->view.blobs = fcntl(b->layout->blobs, F_DUPFD_CLOEXEC, 3);
        b->view.partial = fcntl(b->layout->partial, F_DUPFD_CLOEXEC, 3);
        if (b->view.blobs < 0 || b->view.partial < 0)
                r = err_sys(&b->err, "open a blob");
        if (r == 0)
                r = blob_work(b, open_run, open_done);
        if (r < 0)
                blob_fail(b, r, NULL);
}

/* ── users ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

uint64_t blob_done(const struct blob *b)
{
        return b->state == BLOB_READY ? b->size : MIN(b->size, b->written + b->writing.len + b->filling.len);
}

int blob_want(struct image_pulls *p, struct job *job, const struct image_descriptor *d, struct blob **ret,
              struct err *err)
{
        const struct source_id id = source_of(job);
        struct blob *b;
        int r;

        /* A wrong size is a download of its own, which fails by itself. */
        LIST_FOREACH(b, &p->blobs, node) {
                if (!str_eq(b->digest, d->digest) || b->size != d->size)
                        continue;
                r = sources_join(&b->sources, &id, err);
                if (r < 0)
                        return r;
                b->users++;
                pulls_kick(p);
                *ret = b;
                return 0;
        }
        b = calloc(1, sizeof(*b));
        if (!b)
                return err_oom(err);
        sources_init(&b->sources);
        r = sources_join(&b->sources, &id, err);
        if (r < 0) {
                free(b);
                return r;
        }
        b->pulls = p;
        b->layout = image_store_layout(p->config.store);
        b->size = d->size;
        b->users = 1;
        b->source = job;
        b->fd = -EBADF;
        b->view = (struct image_layout)IMAGE_LAYOUT_NONE;
        memcpy(b->digest, d->digest, sizeof(b->digest));
        list_append(&p->blobs, &b->node);
        pulls_kick(p);
        *ret = b;
        return 0;
}

void blob_leave(struct blob *b, struct job *job)
{
        const struct source_id id = source_of(job);

        sources_leave(&b->sources, &id);
        if (b->source == job)
                b->source = NULL;
        b->users--;
        pulls_kick(b->pulls);
}

static void blob_drop(struct blob *b)
{
        list_remove(&b->node);
        if (is_active(b))
                b->pulls->active--;
        if (b->spent)
                image_layout_partial_remove(b->layout, b->digest, b->size);
        b->pulls = NULL;
        if (b->call)
                registry_cancel(TAKE_PTR(b->call));
        if (!b->busy)
                blob_free(b);
}

/* ── how fast it comes ────────────────────────────────────────────────────────────────────────────────────────────── */

/* The next source goes on where this one is left: what has come stays, and is hashed. */
static void take_over(struct blob *b, struct source *to, struct job *job)
{
        int r;

        registry_cancel(TAKE_PTR(b->call));
        b->paused = false;
        b->sources.now = to;
        b->source = job;
        r = call_start(b);
        if (r < 0)
                call_ended(b, r, &b->err);
}

static void look(struct blob *b, uint64_t now)
{
        struct source *to;
        struct job *job;

        if (b->state != BLOB_LOADING || !b->call || b->ended)
                return;
        if (b->paused) {
                sources_rest(&b->sources, now);
                return;
        }
        if (b->sources.alone && b->busy)
                return;
        to = sources_change(&b->sources, b->size, blob_done(b), now);
        job = to ? job_of(b, to) : NULL;
        if (!job)
                return;
        log_debug("blob %s: %s gives %llu bytes/s; on to %s", b->digest, b->sources.now->domain,
                  (unsigned long long)b->sources.now->rate, to->domain);
        if (b->sources.alone)
                blob_begin_anew(b, job);
        else
                take_over(b, to, job);
}

static void on_look(struct loop_timer *timer, void *data)
{
        struct image_pulls *p = data;
        uint64_t now = time_mono_ns();
        struct blob *b;

        (void)timer;
        LIST_FOREACH(b, &p->blobs, node)
                look(b, now);
        pulls_kick(p);
}

/* As long as there is somebody to change to. */
static void keep_looking(struct image_pulls *p)
{
        const struct blob *b;

        if (p->look.heap_index > 0)
                return;
        LIST_FOREACH(b, &p->blobs, node) {
                if (b->state == BLOB_LOADING && sources_several(&b->sources)) {
                        (void)loop_timer_set(p->loop, &p->look, time_mono_ns() + LOOK_NS, on_look, p);
                        return;
                }
        }
}

/* ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static unsigned active_of(const struct image_pulls *p, const char *owner)
{
        const struct blob *b;
        unsigned n = 0;

        LIST_FOREACH(b, &p->blobs, node)
                n += is_active(b) && b->source && str_eq(b->source->owner, owner);
        return n;
}

/* All together `parallel`; beyond them some for each owner, so that nobody's slow registry holds up the pulls of others. */
static bool has_place(const struct image_pulls *p, const struct blob *b)
{
        return p->active < p->config.parallel ||
               (p->active < PARALLEL_TIMES * p->config.parallel && active_of(p, b->source->owner) < OWNER_PLACES);
}

static void begin_some(struct image_pulls *p)
{
        const char *full = NULL;
        struct blob *b;

        LIST_FOREACH(b, &p->blobs, node) {
                if (b->state != BLOB_QUEUED || b->users == 0)
                        continue;
                if (!b->source && !take_source(b)) {
                        blob_move(b, BLOB_FAILED);
                        blob_settle(b);
                        continue;
                }
                if (full && str_eq(full, b->source->owner))
                        continue;
                if (!has_place(p, b)) {
                        full = b->source->owner;
                        continue;
                }
                b->sources.now = source_by(b, b->source);
                b->err = (struct err)ERR_INIT;
                b->result = 0;
                blob_move(b, BLOB_OPENING);
                blob_open(b);
        }
}

void blobs_tick(struct image_pulls *p)
{
        struct blob *b;

        LIST_FOREACH(b, &p->blobs, node) {
                if (b->users == 0) {
                        blob_drop(b);
                        continue;
                }
                if (b->state == BLOB_LOADING && b->ended && b->result < 0 && !b->busy)
                        blob_fail(b, b->result, NULL);
                else if (b->state == BLOB_FAILED && !b->source)
                        blob_settle(b);
        }
        begin_some(p);
        keep_looking(p);
}

void blobs_free(struct image_pulls *p)
{
        struct blob *b;

        loop_timer_cancel(&p->look);
        LIST_FOREACH(b, &p->blobs, node)
                blob_drop(b);
}
