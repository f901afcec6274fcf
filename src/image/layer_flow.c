/* A compressed layer, uncompressed by one worker, hashed here on the way, and unpacked by another worker, all at once:
 *
 *   blob ─▶ worker ──pipe──▶ relay: SHA-256 ──pipe──▶ worker ─▶ layer
 *
 * The blob is a file, or comes by a pipe (pull_feed.c).
 *
 * What the first makes of the blob is what the digest is of and what the second gets, byte for byte, so that who takes over the
 * one cannot choose what lies under the digest of the other (install.c). Whatever of the three ends early, the pipes end the
 * others; the operation goes on when all have. */

#include "base/fd.h"
#include "image/operation.h"
#include "image/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct layer_flow {
        struct relay *relay;
        unsigned running; /* of the three */
        int plain, relayed, unpacked;
        struct err plain_err, relay_err, unpack_err;
        int plain_report; /* the unpacking worker's is the operation's */
        char digest[65];
};

void layer_flow_free(struct layer_flow *f)
{
        if (!f)
                return;
        relay_cancel(f->relay);
        fd_close(f->plain_report);
        free(f);
}

/* The first cause: what ends the others by a pipe looks like a fault of theirs. */
static int outcome(struct op *op, struct layer_flow *f)
{
        if (f->relayed < 0 && f->relayed != -EPIPE) {
                op->err = f->relay_err;
                return f->relayed == -EFBIG ? err_set(&op->err, EBADMSG, "%s", f->relay_err.text) : f->relayed;
        }
        if (f->plain < 0 && f->relayed != -EPIPE) {
                fd_replace(&op->report, TAKE_FD(f->plain_report));
                return op_worker_error(op, f->plain, &f->plain_err);
        }
        if (f->unpacked < 0)
                return op_worker_error(op, f->unpacked, &f->unpack_err);
        if (f->relayed < 0)
                return err_set(&op->err, EIO, "the worker did not read all of the layer");
        return 0;
}

static void part_ended(struct op *op)
{
        struct layer_flow *f = op->flow;
        int r;

        if (--f->running > 0)
                return;
        r = outcome(op, f);
        memcpy(op->diff_id, f->digest, sizeof(op->diff_id));
        layer_flow_free(f);
        op->flow = NULL;
        layer_flowed(op, r);
}

static void on_plain(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        (void)token;
        op->flow->plain = r;
        if (r < 0)
                op->flow->plain_err = *err;
        part_ended(op);
}

static void on_relayed(int r, const char digest[65], uint64_t bytes, const struct err *err, void *data)
{
        struct op *op = data;

        (void)bytes;
        op->flow->relay = NULL;
        op->flow->relayed = r;
        if (r < 0)
                op->flow->relay_err = *err;
        else
                memcpy(op->flow->digest, digest, sizeof(op->flow->digest));
        part_ended(op);
}

static void on_unpacked(int r, uint32_t token, const struct err *err, void *data)
{
        struct op *op = data;

        op->flow->unpacked = r;
        op->token = r == 0 ? token : 0;
        if (r < 0)
                op->flow->unpack_err = *err;
        part_ended(op);
}

static int start(struct op *op, struct layer_flow *f, int blob, uint64_t max, const int first[2], const int second[2])
{
        const struct image_workers *w = &op->store->workers;
        const struct image_store_config *c = &op->store->config;
        int from = fcntl(first[0], F_DUPFD_CLOEXEC, 3), to = fcntl(second[1], F_DUPFD_CLOEXEC, 3), r;

        r = from < 0 || to < 0 ? err_sys(&op->err, "hold a pipe") : 0;
        if (r < 0) {
                fd_close(from);
                fd_close(to);
                return r;
        }
        r = relay_start(op->store->loop, op->queue, from, to, max, on_relayed, op, &f->relay, &op->err);
        if (r < 0)
                return r;
        f->running = 1;
        r = w->plain(w->context, blob, first[1], f->plain_report, max, c->max_layer_entries, on_plain, op, &op->err);
        if (r < 0) {
                relay_cancel(TAKE_PTR(f->relay));
                return r;
        }
        f->running++;
        /* They are started in this order, and so all that runs is with the one that it needs, or next. */
        f->unpacked = w->unpack(w->context, second[0], op->report, c->max_layer_bytes, c->max_layer_entries,
                                on_unpacked, op, &f->unpack_err);
        f->running += f->unpacked == 0;
        return 0;
}

int layer_flow_start(struct op *op, int blob, uint64_t max)
{
        int first[2] = { -EBADF, -EBADF }, second[2] = { -EBADF, -EBADF };
        struct layer_flow *f = calloc(1, sizeof(*f));
        int r;

        if (!f)
                return err_oom(&op->err);
        op->flow = f;
        f->plain_report = memfd_create("report", MFD_CLOEXEC);
        r = f->plain_report < 0 ? err_sys(&op->err, "make a report") : op_report(op);
        if (r == 0 && (pipe2(first, O_CLOEXEC) < 0 || pipe2(second, O_CLOEXEC) < 0))
                r = err_sys(&op->err, "make a pipe");
        if (r == 0)
                r = start(op, f, blob, max, first, second);
        for (int i = 0; i < 2; i++) {
                fd_close(first[i]);
                fd_close(second[i]);
        }
        if (r < 0) {
                op->flow = NULL;
                layer_flow_free(f);
        }
        return r;
}
