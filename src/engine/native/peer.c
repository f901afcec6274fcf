#include "engine/native/peer.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PEER_PACKETS_PER_TURN 64
#define PEER_REST_NS (5 * NS_PER_MS)

struct packet {
        struct list node;
        int fds[FD_MSG_MAX];
        size_t n_fds, len;
        char data[];
};

static void on_retry(struct loop_timer *timer, void *data);
static void on_rest(struct loop_timer *timer, void *data);

static void packet_free(struct packet *pk)
{
        for (size_t i = 0; i < pk->n_fds; i++)
                fd_close(pk->fds[i]);
        free(pk);
}

static void peer_retry_later(struct peer *p)
{
        (void)loop_timer_set(p->loop, &p->retry, time_mono_ns() + p->delay_ms * NS_PER_MS, on_retry, p);
        p->delay_ms = MIN(p->delay_ms * 2, (unsigned)PEER_DELAY_MAX_MS);
}

static void peer_close(struct peer *p)
{
        struct packet *pk;

        loop_timer_cancel(&p->rest);
        loop_io_remove(p->io);
        p->io = NULL;
        fd_replace(&p->fd, -EBADF);
        while ((pk = LIST_FIRST(&p->out, struct packet, node))) {
                list_remove(&pk->node);
                packet_free(pk);
        }
        p->out_bytes = 0;
}

void peer_drop(struct peer *p)
{
        if (p->fd < 0)
                return;
        peer_close(p);
        peer_retry_later(p);
        p->ops->closed(p, p->data);
}

/* 0; -EAGAIN: until there is room in the socket; -EBUSY: for a while; or the error that ends the connection. */
static int peer_send_now(struct peer *p, const void *data, size_t len, const int *fds, size_t n_fds)
{
        int r = fd_send(p->fd, data, len, fds, n_fds);

        /* Too many descriptors of this user are in flight (unix(7)), maybe another process's: no event tells when they have
         * been taken. */
        return r == -ETOOMANYREFS || r == -ENOBUFS ? -EBUSY : r;
}

static void peer_wait(struct peer *p, int r)
{
        bool rests = r == -EBUSY && loop_timer_set(p->loop, &p->rest, time_mono_ns() + PEER_REST_NS, on_rest, p) == 0;

        (void)loop_io_set(p->io, rests ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

static void peer_flush(struct peer *p)
{
        struct packet *pk;

        while ((pk = LIST_FIRST(&p->out, struct packet, node))) {
                int r = peer_send_now(p, pk->data, pk->len, pk->fds, pk->n_fds);

                if (r == -EAGAIN || r == -EBUSY) {
                        peer_wait(p, r);
                        return;
                }
                if (r < 0) {
                        peer_drop(p);
                        return;
                }
                p->out_bytes -= pk->len;
                list_remove(&pk->node);
                packet_free(pk);
        }
        (void)loop_io_set(p->io, EPOLLIN);
}

static void on_rest(struct loop_timer *timer, void *data)
{
        (void)timer;
        peer_flush(data);
}

static void peer_receive(struct peer *p)
{
        for (int i = 0; i < PEER_PACKETS_PER_TURN && p->fd >= 0; i++) {
                int fds[FD_MSG_MAX];
                size_t len = 0, n_fds = FD_MSG_MAX;
                int r = fd_recv(p->fd, p->buffer, PEER_PACKET_MAX, &len, fds, &n_fds);

                if (r == -EAGAIN)
                        return;
                if (r < 0 || (len == 0 && n_fds == 0)) {
                        peer_drop(p);
                        return;
                }
                p->ops->packet(p, p->buffer, len, fds, n_fds, p->data);
                for (size_t k = 0; k < n_fds; k++)
                        fd_close(fds[k]);
        }
}

static void on_io(struct loop_io *io, uint32_t events, void *data)
{
        struct peer *p = data;

        (void)io;
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                peer_receive(p);
        if (p->fd >= 0 && (events & EPOLLOUT))
                peer_flush(p);
}

static void on_retry(struct loop_timer *timer, void *data)
{
        struct peer *p = data;
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;
        int r;

        (void)timer;
        r = fd_connect_unix(p->path, SOCK_SEQPACKET, &fd, &err);
        if (r == 0)
                r = fd_set_nonblock(fd, true);
        if (r == 0)
                r = loop_io_add(p->loop, fd, EPOLLIN, on_io, p, &p->io, &err);
        if (r < 0) {
                log_debug("connect '%s': %s", p->path, err.text);
                peer_retry_later(p);
                return;
        }
        p->fd = TAKE_FD(fd);
        p->ops->connected(p, p->data);
}

int peer_init(struct peer *p, struct loop *loop, const char *path, const struct peer_ops *ops, void *data,
              struct err *err)
{
        memset(p, 0, sizeof(*p));
        p->fd = -EBADF;
        list_init(&p->out);
        p->path = strdup(path);
        p->buffer = malloc(PEER_PACKET_MAX);
        if (!p->path || !p->buffer || loop_timer_set(loop, &p->retry, time_mono_ns(), on_retry, p) < 0) {
                free(p->path);
                free(p->buffer);
                memset(p, 0, sizeof(*p));
                return err_oom(err);
        }
        p->loop = loop;
        p->ops = ops;
        p->data = data;
        p->delay_ms = PEER_DELAY_MIN_MS;
        return 0;
}

void peer_done(struct peer *p)
{
        if (!p->loop)
                return;
        loop_timer_cancel(&p->retry);
        peer_close(p);
        free(p->path);
        free(p->buffer);
        memset(p, 0, sizeof(*p));
}

static int peer_queue(struct peer *p, const void *data, size_t len, const int *fds, size_t n_fds, struct err *err)
{
        struct packet *pk;

        if (p->out_bytes + len > PEER_OUT_MAX)
                return err_set(err, EAGAIN, "too much waits for '%s'", p->path);
        pk = malloc(sizeof(*pk) + len);
        if (!pk)
                return err_oom(err);
        list_init(&pk->node);
        memcpy(pk->data, data, len);
        pk->len = len;
        for (pk->n_fds = 0; pk->n_fds < n_fds; pk->n_fds++) {
                pk->fds[pk->n_fds] = fcntl(fds[pk->n_fds], F_DUPFD_CLOEXEC, 0);
                if (pk->fds[pk->n_fds] < 0) {
                        int r = err_sys(err, "duplicate a descriptor");

                        packet_free(pk);
                        return r;
                }
        }
        list_append(&p->out, &pk->node);
        p->out_bytes += len;
        return 0;
}

int peer_send(struct peer *p, const void *packet, size_t len, const int *fds, size_t n_fds, struct err *err)
{
        bool first = list_empty(&p->out);
        int r = -EAGAIN;

        if (p->fd < 0)
                return err_set(err, ENOTCONN, "'%s' does not answer", p->path);
        if (first)
                r = peer_send_now(p, packet, len, fds, n_fds);
        if (r == -EAGAIN || r == -EBUSY) {
                int queued = peer_queue(p, packet, len, fds, n_fds, err);

                if (queued == 0 && first)
                        peer_wait(p, r);
                return queued;
        }
        if (r < 0)
                return err_set(err, ENOTCONN, "'%s' does not answer", p->path);
        return 0;
}

void peer_settled(struct peer *p)
{
        p->delay_ms = PEER_DELAY_MIN_MS;
}
