/* Feeds: a large layer is unpacked while it still comes. What is in its file, and what follows, goes into a pipe that a worker
 * uncompresses:
 *
 *   registry ─▶ blob: file, SHA-256 ─▶ feed ──pipe──▶ worker ─▶ … (layer_flow.c)
 *
 * The pipe's end comes only after the blob's digest was found right, and the layer gets its name only after both. Whatever goes
 * wrong, with a worker or on the way, ends the feed and nothing else: the layer is unpacked from the file then, as small ones
 * are. A feed holds two places of the few that workers have, so there is one at a time, it begins when the end is near at the
 * pace at which bytes come, and it ends when they stop coming. */

#include "image/pull_internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "image/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define FEED_SIZE_MIN (UINT64_C(8) << 20) /* of a blob; what is smaller is unpacked while others come */
#define FEED_BEGIN (UINT64_C(1) << 20)    /* bytes that are there */
#define FEED_REST_MIN (UINT64_C(2) << 20) /* and that are not */
#define FEED_AHEAD_S 8                    /* from the end, at the pace at which bytes come */
#define FEED_LATE_S 16                    /* …and at that of each second since */
#define FEED_LONGEST_NS (20 * NS_PER_S)
#define FEED_CROWDED_S 2 /* as FEED_AHEAD_S, when others want the places */
#define FEED_LOOK_NS (NS_PER_S / 4)
#define FEED_LOOK_MS 1000 /* of which it is judged */
#define FEED_TRIES 2      /* of one blob */
#define FEEDS_MAX 1
#define FDS_PLENTY 256
#define FDS_LEFT 48 /* with fewer, pulls and tasks need them all */
#define PACE_NS (NS_PER_S / 4)
#define PACE_LEAST (UINT64_C(128) << 10) /* bytes, before a pace is one */
#define TURN (UINT64_C(4) << 20)         /* bytes, then others of the queue have theirs */
#define PIPE_SIZE (1 << 20)

struct feed {
        struct image_pulls *pulls; /* NULL: gone, while a work thread has the feed */
        struct list node;
        struct job *job; /* that asked first; it may have left */
        size_t layer;
        struct blob *blob; /* NULL: cancelled */
        bool *came;        /* the operation's */
        bool ended;        /* the operation */
        int file, pipe;
        struct loop_io *io;
        char *buffer;
        size_t taken, have;     /* of buffer: written, read */
        uint64_t at, limit;     /* of the file: read; what may be read in this turn */
        bool busy, full;        /* a work thread has it; so was the pipe */
        int result;             /* of the turn */
        uint64_t seen, seen_ns; /* bytes of the blob, a second ago */
        uint64_t begun_ns;
        struct loop_timer timer;
};

/* ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void pace_note(struct pace *p, uint64_t bytes, uint64_t now)
{
        if (p->since_ns == 0 || bytes < p->mark)
                *p = (struct pace){ bytes, bytes, now, now };
        if (now - p->mark_ns < PACE_NS)
                return;
        p->since = p->mark;
        p->since_ns = p->mark_ns;
        p->mark = bytes;
        p->mark_ns = now;
}

bool feed_ends_within(const struct pace *p, uint64_t bytes, uint64_t size, uint64_t now, unsigned seconds)
{
        uint64_t came = bytes - MIN(p->since, bytes), us = (now - MIN(p->since_ns, now)) / 1000;

        /* rest / (came / us) <= seconds; nothing of it is near 2^63. */
        return came >= PACE_LEAST && (size - bytes) / came <= UINT64_C(1000000) * seconds / MAX(us, (uint64_t)1);
}

bool feed_pays(const struct pace *p, uint64_t written, uint64_t bytes, uint64_t size, uint64_t now, bool crowded)
{
        return size >= FEED_SIZE_MIN && written >= FEED_BEGIN && bytes <= size && size - bytes >= FEED_REST_MIN &&
               feed_ends_within(p, bytes, size, now, crowded ? FEED_CROWDED_S : FEED_AHEAD_S);
}

/* ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void close_pipe(struct feed *f)
{
        loop_timer_cancel(&f->timer);
        loop_io_remove(f->io);
        f->io = NULL;
        fd_replace(&f->pipe, -EBADF);
}

/* When neither the operation nor a thread has it. */
static void feed_drop(struct feed *f)
{
        if (f->busy || (f->pulls && !f->ended))
                return;
        close_pipe(f);
        list_remove(&f->node);
        fd_close(f->file);
        free(f->buffer);
        free(f);
}

void feed_cancel(struct blob *b)
{
        struct feed *f = b->feed;

        if (!f)
                return;
        b->feed = NULL;
        f->blob = NULL;
        /* The worker sees an end that comes too early. A thread that writes notices nothing, and closes when it is done. */
        if (!f->busy)
                close_pipe(f);
        else
                loop_timer_cancel(&f->timer);
}

bool feed_awaited(const struct blob *b, const char *diff_id)
{
        return b->feed && str_eq(b->feed->job->config.diff_ids[b->feed->layer], diff_id);
}

static void on_fed(int r, const struct err *err, void *data)
{
        struct feed *f = data;
        struct job *job = f->job;

        f->ended = true;
        job->ops_open--;
        pulls_kick(f->pulls);
        if (f->blob) {
                if (r == 0 && job->state == JOB_LAYERS)
                        job->layers[f->layer].state = LAYER_READY;
                else if (r == -EEXIST)
                        f->blob->feeds = FEED_TRIES;
                feed_cancel(f->blob);
        }
        if (r < 0)
                log_debug("images: layer %s is unpacked when it is here: %s", job->parts.layers[f->layer].digest,
                          err->text);
        feed_drop(f);
}

/* ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Sees to it that there is something in the buffer. */
static int refill(struct feed *f)
{
        ssize_t n;

        do
                n = pread(f->file, f->buffer, MIN((uint64_t)BLOB_BUFFER, f->limit - f->at), (off_t)f->at);
        while (n < 0 && errno == EINTR);
        if (n <= 0)
                return n < 0 ? -errno : -EIO;
        f->at += (uint64_t)n;
        f->taken = 0;
        f->have = (size_t)n;
        return 0;
}

static void turn_run(void *data)
{
        struct feed *f = data;

        f->result = 0;
        f->full = false;
        while (f->result == 0 && !f->full && (f->taken < f->have || f->at < f->limit)) {
                ssize_t n;

                if (f->taken == f->have) {
                        f->result = refill(f);
                        continue;
                }
                n = write(f->pipe, f->buffer + f->taken, f->have - f->taken);
                if (n >= 0)
                        f->taken += (size_t)n;
                else if (errno == EAGAIN)
                        f->full = true;
                else if (errno != EINTR)
                        f->result = -errno;
        }
}

static void feed_go(struct feed *f);

static void turn_done(void *data)
{
        struct feed *f = data;

        f->busy = false;
        if (!f->blob) {
                close_pipe(f);
                feed_drop(f);
                return;
        }
        if (f->result < 0 || (f->full && loop_io_set(f->io, EPOLLOUT) < 0))
                feed_cancel(f->blob);
        else if (!f->full)
                feed_go(f);
}

static void on_room(struct loop_io *io, uint32_t events, void *data)
{
        struct feed *f = data;

        (void)events;
        (void)loop_io_set(io, 0);
        f->full = false;
        feed_go(f);
}

/* Gives what there is to give. The pipe's end tells the worker that this was all, so it follows the digest. */
static void feed_go(struct feed *f)
{
        const struct blob *b = f->blob;
        bool here = b && b->state == BLOB_READY;
        uint64_t limit;

        if (!b || f->busy || f->full || f->pipe < 0)
                return;
        limit = here ? b->size : b->written;
        if (f->at < limit || f->taken < f->have) {
                f->limit = MIN(limit, f->at + TURN);
                f->busy = loop_work(f->pulls->loop, DOWNLOAD_QUEUE, turn_run, turn_done, f) == 0;
                if (!f->busy)
                        feed_cancel(f->blob);
        } else if (here) {
                *f->came = true;
                close_pipe(f);
        }
}

/* ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Second by second: what came at once before it began to drip is no pace. */
static bool comes_too_slowly(struct feed *f, uint64_t now)
{
        struct blob *b = f->blob;
        uint64_t bytes = blob_done(b), ms = (now - f->seen_ns) / NS_PER_MS;
        bool late = false;

        if (ms >= FEED_LOOK_MS) {
                late = bytes < b->size && !b->paused && /* else the disk is what is slow */
                       (b->size - bytes) / (FEED_LATE_S * 1000) * ms >= bytes - MIN(f->seen, bytes);
                f->seen = bytes;
                f->seen_ns = now;
        }
        pace_note(&b->pace, bytes, now);
        return late || now - f->begun_ns >= FEED_LONGEST_NS ||
               (image_store_crowded(f->pulls->config.store) &&
                !feed_ends_within(&b->pace, bytes, b->size, now, FEED_CROWDED_S));
}

static void on_look(struct loop_timer *timer, void *data)
{
        struct feed *f = data;
        uint64_t now = time_mono_ns();

        if (!f->blob || f->blob->state == BLOB_READY)
                return;
        if (f->blob->state == BLOB_LOADING && comes_too_slowly(f, now)) {
                log_debug("images: blob %s comes too slowly to be unpacked meanwhile", f->blob->digest);
                feed_cancel(f->blob);
                pulls_kick(f->pulls);
        } else if (loop_timer_set(f->pulls->loop, timer, now + FEED_LOOK_NS, on_look, f) < 0) {
                feed_cancel(f->blob);
        }
}

/* ── the beginning ────────────────────────────────────────────────────────────────────────────────────────────────── */

static int feed_open(struct feed *f, int *ret_end)
{
        int ends[2];

        f->file = fcntl(f->blob->fd, F_DUPFD_CLOEXEC, 3);
        f->buffer = malloc(BLOB_BUFFER);
        if (f->file < 0 || !f->buffer || pipe2(ends, O_CLOEXEC) < 0)
                return -ENOMEM;
        f->pipe = ends[1];
        *ret_end = ends[0];
        (void)fcntl(f->pipe, F_SETPIPE_SZ, PIPE_SIZE);
        if (fd_set_nonblock(f->pipe, true) < 0)
                return -EIO;
        return loop_io_add(f->pulls->loop, f->pipe, 0, on_room, f, &f->io, NULL);
}

static int feed_start(struct feed *f)
{
        struct job *job = f->job;
        auto_fd end = -EBADF;
        int r = feed_open(f, &end);

        if (r == 0)
                r = loop_timer_set(f->pulls->loop, &f->timer, time_mono_ns() + FEED_LOOK_NS, on_look, f);
        if (r == 0)
                r = image_store_feed(f->pulls->config.store, job->hold, TAKE_FD(end), &job->parts.layers[f->layer],
                                     job->config.diff_ids[f->layer], &f->came, on_fed, f, NULL);
        return r;
}

static void feed_begin(struct job *job, size_t i, uint64_t now)
{
        struct image_pulls *p = job->pulls;
        struct blob *b = job->layer_blobs[i];
        struct feed *f = calloc(1, sizeof(*f));

        if (!f)
                return;
        *f = (struct feed){ .pulls = p, .job = job, .layer = i, .blob = b, .file = -EBADF, .pipe = -EBADF };
        f->seen = blob_done(b);
        f->seen_ns = f->begun_ns = now;
        list_append(&p->feeds, &f->node);
        b->feed = f;
        b->feeds++;
        job->ops_open++;
        f->busy = true; /* on_fed() may come at once */
        if (feed_start(f) < 0) {
                job->ops_open--;
                b->feed = NULL;
                f->ended = true;
        }
        f->busy = false;
        if (f->ended)
                feed_drop(f);
}

static bool is_compressed(const struct blob *b)
{
        char media[IMAGE_MEDIA_MAX];

        return image_layer_media(b->fd, 0, media, NULL) == 0 && !str_eq(media, MEDIA_OCI_LAYER);
}

static size_t running(const struct image_pulls *p)
{
        const struct feed *f;
        size_t n = 0;

        LIST_FOREACH(f, &p->feeds, node)
                n++;
        return n;
}

void feed_look(struct job *job, size_t i)
{
        struct blob *b = job->layer_blobs[i];
        const struct image_store *s = job->pulls->config.store;
        uint64_t now;

        if (b->state != BLOB_LOADING || b->size < FEED_SIZE_MIN || b->feed || b->feeds >= FEED_TRIES)
                return;
        now = time_mono_ns();
        pace_note(&b->pace, blob_done(b), now);
        if (running(job->pulls) < FEEDS_MAX &&
            feed_pays(&b->pace, b->written, blob_done(b), b->size, now, image_store_crowded(s)) && is_compressed(b) &&
            fd_left(FDS_PLENTY) >= FDS_LEFT)
                feed_begin(job, i, now);
}

/* ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────── */

void feeds_tick(struct image_pulls *p)
{
        struct feed *f;

        LIST_FOREACH(f, &p->feeds, node)
                feed_go(f);
}

/* The operations are the store's, which is closed next. */
void feeds_free(struct image_pulls *p)
{
        struct feed *f;

        LIST_FOREACH(f, &p->feeds, node) {
                if (f->blob)
                        feed_cancel(f->blob);
                list_remove(&f->node);
                f->pulls = NULL;
                feed_drop(f);
        }
}
