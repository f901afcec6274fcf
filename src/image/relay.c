#include "image/relay.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER ((size_t)256 * 1024)
#define PIPE_SIZE (1 << 20)       /* what anybody may have (pipe(7), pipe-max-size) */
#define TURN (UINT64_C(32) << 20) /* bytes, then others of the queue have theirs */
#define LINGER_MS 2               /* for more to come: cheaper than a way through the loop */

enum turn { TURN_READ, TURN_WRITE, TURN_ENDED, TURN_AGAIN };

struct relay {
        struct loop *loop;
        unsigned queue;
        int from, to;
        uint64_t max, bytes;
        struct loop_io *in, *out;
        EVP_MD_CTX *md;
        char *buffer;
        size_t at, have; /* of buffer: hashed, and not yet written */
        bool busy, cancelled;
        enum turn turn; /* how the last one ended */
        int result;
        char digest[65];
        struct err err;
        relay_fn fn;
        void *data;
};

static void relay_free(struct relay *r)
{
        loop_io_remove(r->in);
        loop_io_remove(r->out);
        fd_close(r->from);
        fd_close(r->to);
        EVP_MD_CTX_free(r->md);
        free(r->buffer);
        free(r);
}

/* ── on a thread ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static enum turn end_turn(struct relay *r, int result)
{
        r->result = result;
        return TURN_ENDED;
}

static enum turn finish(struct relay *r)
{
        unsigned char hash[SHA256_DIGEST_LENGTH];

        if (EVP_DigestFinal_ex(r->md, hash, NULL) != 1)
                return end_turn(r, err_set(&r->err, EIO, "cannot compute SHA-256"));
        hex_encode(hash, sizeof(hash), r->digest);
        return end_turn(r, 0);
}

static bool soon(int fd, short events)
{
        struct pollfd p = { .fd = fd, .events = events };

        return poll(&p, 1, LINGER_MS) > 0;
}

/* TURN_AGAIN: there is something in the buffer now. */
static enum turn fill(struct relay *r)
{
        ssize_t n;

        do
                n = read(r->from, r->buffer, BUFFER);
        while (n < 0 && (errno == EINTR || (errno == EAGAIN && soon(r->from, POLLIN))));
        if (n < 0 && errno == EAGAIN)
                return TURN_READ;
        if (n < 0)
                return end_turn(r, err_sys(&r->err, "read what a worker writes"));
        if (n == 0)
                return finish(r);
        if ((uint64_t)n > r->max - r->bytes)
                return end_turn(
                        r, err_set(&r->err, EFBIG, "the layer is larger than %llu bytes", (unsigned long long)r->max));
        if (EVP_DigestUpdate(r->md, r->buffer, (size_t)n) != 1)
                return end_turn(r, err_set(&r->err, EIO, "cannot compute SHA-256"));
        r->bytes += (uint64_t)n;
        r->at = 0;
        r->have = (size_t)n;
        return TURN_AGAIN;
}

static enum turn drain(struct relay *r)
{
        while (r->have > 0 && r->to >= 0) {
                ssize_t n = write(r->to, r->buffer + r->at, r->have);

                if (n < 0 && (errno == EINTR || (errno == EAGAIN && soon(r->to, POLLOUT))))
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return TURN_WRITE;
                if (n < 0)
                        return end_turn(r, err_sys(&r->err, "write what a worker reads"));
                r->at += (size_t)n;
                r->have -= (size_t)n;
        }
        return TURN_AGAIN;
}

static void turn_run(void *data)
{
        struct relay *r = data;
        uint64_t until = r->bytes + TURN;

        r->turn = TURN_AGAIN;
        while (r->turn == TURN_AGAIN && r->bytes < until) {
                r->turn = drain(r);
                if (r->turn == TURN_AGAIN)
                        r->turn = fill(r);
        }
}

/* ── on the loop ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void tell(struct relay *r)
{
        relay_fn fn = r->fn;
        struct err err = r->err;
        uint64_t bytes = r->bytes;
        int result = r->result;
        void *data = r->data;
        char digest[65];

        memcpy(digest, r->digest, sizeof(digest));
        relay_free(r);
        fn(result, digest, bytes, result < 0 ? &err : NULL, data);
}

static void turn_begin(struct relay *r);

static void turn_done(void *data)
{
        struct relay *r = data;
        int set = 0;

        r->busy = false;
        if (r->cancelled) {
                relay_free(r);
                return;
        }
        if (r->turn == TURN_READ)
                set = loop_io_set(r->in, EPOLLIN);
        else if (r->turn == TURN_WRITE)
                set = loop_io_set(r->out, EPOLLOUT);
        else if (r->turn == TURN_AGAIN)
                turn_begin(r);
        if (set < 0) {
                r->turn = TURN_ENDED;
                r->result = err_set(&r->err, -set, "wait for a worker: %s", strerror(-set));
        }
        if (r->turn == TURN_ENDED)
                tell(r);
}

static void turn_begin(struct relay *r)
{
        int err = loop_work(r->loop, r->queue, turn_run, turn_done, r);

        r->busy = err == 0;
        if (err < 0) {
                r->turn = TURN_ENDED;
                r->result = err_set(&r->err, -err, "too much work waits");
        }
}

static void on_ready(struct loop_io *io, uint32_t events, void *data)
{
        struct relay *r = data;

        (void)events;
        (void)loop_io_set(io, 0);
        if (r->busy)
                return;
        turn_begin(r);
        if (!r->busy)
                tell(r);
}

static int watch(struct relay *r, int fd, struct loop_io **ret, struct err *err)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return err_sys(err, "set up a pipe");
        (void)fcntl(fd, F_SETPIPE_SZ, PIPE_SIZE);
        return loop_io_add(r->loop, fd, 0, on_ready, r, ret, err);
}

int relay_start(struct loop *loop, unsigned queue, int from, int to, uint64_t max, relay_fn fn, void *data,
                struct relay **ret, struct err *err)
{
        struct relay *r = calloc(1, sizeof(*r));
        int result;

        if (!r) {
                fd_close(from);
                fd_close(to);
                return err_oom(err);
        }
        *r = (struct relay){ .loop = loop, .queue = queue, .from = from, .to = to, .max = max, .fn = fn, .data = data };
        r->buffer = malloc(BUFFER);
        r->md = EVP_MD_CTX_new();
        result = r->buffer && r->md && EVP_DigestInit_ex(r->md, EVP_sha256(), NULL) == 1 ? 0 : err_oom(err);
        if (result == 0)
                result = watch(r, from, &r->in, err);
        if (result == 0 && to >= 0)
                result = watch(r, to, &r->out, err);
        if (result == 0)
                result = loop_io_set(r->in, EPOLLIN);
        if (result < 0) {
                relay_free(r);
                return result;
        }
        *ret = r;
        return 0;
}

void relay_cancel(struct relay *r)
{
        if (!r)
                return;
        r->cancelled = true;
        if (!r->busy)
                relay_free(r);
}
