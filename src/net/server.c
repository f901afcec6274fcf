#include "net/server.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "net/msg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

/* The answers to one message, when the peer does not read: nothing more is read before they are gone. */
#define SERVER_QUEUE_MAX (NET_ACQUIRE_MAX + 1)
#define ACCEPT_PAUSE_MS 50
#define SERVER_BURST 32 /* messages per turn, so that rules and signals get theirs */

struct answer {
        struct net_msg msg;
        int fd; /* borrowed from the pool; -EBADF for none */
};

struct server {
        int listener, peer;
        uid_t peer_uid;
        struct pool *pool;
        const struct resolv *resolv;
        bool greeted, resolv_due, notice_due;
        char notice[NET_NOTICE_MAX];
        struct answer queue[SERVER_QUEUE_MAX];
        size_t first, n;
};

static void hang_up(struct server *s, const char *why)
{
        log_info("peer: %s", why);
        fd_replace(&s->peer, -EBADF);
        s->first = s->n = 0;
        s->greeted = s->resolv_due = s->notice_due = false;
        pool_forget(s->pool);
}

/* ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int send_text(struct server *s, uint32_t op, const char *text, size_t len)
{
        char packet[sizeof(struct net_msg) + MAX(NET_RESOLV_MAX, NET_NOTICE_MAX)];
        struct net_msg msg = { .op = op, .len = (uint32_t)len };

        memcpy(packet, &msg, sizeof(msg));
        memcpy(packet + sizeof(msg), text, len);
        return fd_send(s->peer, packet, sizeof(msg) + len, NULL, 0);
}

/* What is due, and is not an answer. */
static int send_news(struct server *s)
{
        const struct resolv_conf *conf = resolv_get(s->resolv);
        int r = 0;

        if (s->resolv_due) {
                r = send_text(s, NET_OP_RESOLV, conf->text, conf->len);
                s->resolv_due = r != 0;
        }
        if (r == 0 && s->notice_due) {
                r = send_text(s, NET_OP_NOTICE, s->notice, strlen(s->notice));
                s->notice_due = r != 0;
        }
        return r;
}

static int send_answer(struct server *s, const struct answer *a)
{
        return fd_send(s->peer, &a->msg, sizeof(a->msg), &a->fd, a->fd >= 0 ? 1 : 0);
}

/* Sends what waits; whatever fails but a full socket ends the connection. */
static void flush(struct server *s)
{
        int r = 0;

        while (s->n > 0 && r == 0) {
                r = send_answer(s, &s->queue[s->first]);
                if (r == 0) {
                        s->first = (s->first + 1) % SERVER_QUEUE_MAX;
                        s->n--;
                }
        }
        if (r == 0 && s->greeted)
                r = send_news(s);
        if (r < 0 && r != -EAGAIN)
                hang_up(s, strerror(-r));
}

static void answer(struct server *s, struct net_msg msg, int fd)
{
        struct answer a = { .msg = msg, .fd = fd };

        /* Never full: one message is handled at a time, and each fits. */
        s->queue[(s->first + s->n++) % SERVER_QUEUE_MAX] = a;
}

/* ── messages ────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_acquire(struct server *s, const struct net_msg *m)
{
        for (uint32_t i = 0; i < m->count; i++) {
                struct net_msg msg = { .op = NET_OP_NETNS, .seq = m->seq, .mode = m->mode };
                const struct netns *ns;
                struct err err = ERR_INIT;

                if (pool_take(s->pool, m->mode, &ns, &err) < 0) {
                        log_error("%s", err.text);
                        msg.op = NET_OP_FAILED;
                        msg.error = err.num;
                        msg.count = m->count - i;
                        answer(s, msg, -EBADF);
                        return;
                }
                msg.index = ns->index;
                msg.address = htonl(ns->address);
                answer(s, msg, ns->fd);
                flush(s); /* the next one may have to be made first */
                if (s->peer < 0)
                        return;
        }
}

static void answer_cleaned(struct server *s, const struct net_msg *m, bool ok)
{
        struct net_msg msg = { .op = NET_OP_CLEANED, .seq = m->seq, .index = m->index, .ok = ok };

        answer(s, msg, -EBADF);
}

static void on_adopt(struct server *s, const struct net_msg *m, int fd)
{
        struct err err = ERR_INIT;
        int r = pool_adopt(s->pool, fd, m->mode, m->index, ntohl(m->address), &err);

        if (r < 0)
                log_warn("namespace %#x is not adopted: %s", (unsigned)m->index, err.text);
        answer_cleaned(s, m, r == 0);
}

static void on_clean(struct server *s, const struct net_msg *m)
{
        struct err err = ERR_INIT;
        bool ok = pool_clean(s->pool, m->index, &err);

        if (!ok)
                log_debug("namespace %#x is thrown away: %s", (unsigned)m->index, err.text);
        answer_cleaned(s, m, ok);
}

static void on_synced(struct server *s)
{
        struct err err = ERR_INIT;

        if (pool_sweep(s->pool, &err) < 0)
                log_error("%s", err.text);
}

/* Takes fd. -EBADMSG for what must not come now. */
static int handle(struct server *s, const struct net_msg *m, int fd)
{
        auto_fd owned = fd;

        if (!s->greeted) {
                struct net_msg hello = { .op = NET_OP_HELLO, .seq = m->seq, .version = NET_VERSION };

                if (m->op != NET_OP_HELLO || m->version != NET_VERSION)
                        return -EBADMSG;
                s->greeted = s->resolv_due = true;
                s->notice_due = *s->notice != '\0';
                answer(s, hello, -EBADF);
                return 0;
        }
        switch (m->op) {
        case NET_OP_ADOPT:
                on_adopt(s, m, TAKE_FD(owned));
                return 0;
        case NET_OP_SYNCED:
                on_synced(s);
                return 0;
        case NET_OP_ACQUIRE:
                on_acquire(s, m);
                return 0;
        case NET_OP_CLEAN:
                on_clean(s, m);
                return 0;
        case NET_OP_DROP:
                pool_drop(s->pool, m->index);
                return 0;
        default:
                return -EBADMSG;
        }
}

/* false when there is nothing more to read now. */
static bool read_one(struct server *s)
{
        char data[sizeof(struct net_msg)];
        struct net_msg msg;
        size_t len, n_fds = 1;
        int fd = -EBADF, r;

        r = fd_recv(s->peer, data, sizeof(data), &len, &fd, &n_fds);
        if (r == -EAGAIN)
                return false;
        if (r < 0 || (len == 0 && n_fds == 0)) {
                hang_up(s, r < 0 ? strerror(-r) : "it has gone");
                return false;
        }
        r = msg_parse(data, len, n_fds, &msg);
        if (r < 0)
                fd_close(n_fds > 0 ? fd : -EBADF);
        else
                r = handle(s, &msg, n_fds > 0 ? fd : -EBADF);
        if (r < 0) {
                hang_up(s, "it sent a malformed message");
                return false;
        }
        flush(s);
        return s->peer >= 0;
}

static void take_peer(struct server *s)
{
        auto_fd fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        uid_t uid;

        if (fd < 0) {
                if (errno == EMFILE || errno == ENFILE)
                        (void)poll(NULL, 0, ACCEPT_PAUSE_MS); /* it stays readable */
                return;
        }
        if (fd_peer_uid(fd, &uid) < 0 || uid != s->peer_uid) {
                log_warn("peer: refused, not user %u", (unsigned)s->peer_uid);
                return;
        }
        log_info("peer: connected");
        s->peer = TAKE_FD(fd);
}

/* ── the loop's side ─────────────────────────────────────────────────────────────────────────────────────────── */

struct pollfd server_poll(const struct server *s)
{
        if (s->peer < 0)
                return (struct pollfd){ .fd = s->listener, .events = POLLIN };
        return (struct pollfd){ .fd = s->peer,
                                .events = s->n > 0 || (s->greeted && (s->resolv_due || s->notice_due)) ? POLLOUT
                                                                                                       : POLLIN };
}

void server_ready(struct server *s, short revents)
{
        if (s->peer < 0) {
                take_peer(s);
                return;
        }
        if (revents & (POLLOUT | POLLHUP | POLLERR)) /* a send tells what has happened */
                flush(s);
        for (int i = 0; s->peer >= 0 && s->n == 0 && i < SERVER_BURST; i++) {
                if (!read_one(s))
                        break;
        }
}

void server_resolv_changed(struct server *s)
{
        if (s->peer < 0 || !s->greeted)
                return;
        s->resolv_due = true;
        flush(s);
}

void server_notice(struct server *s, const char *text)
{
        (void)snprintf(s->notice, sizeof(s->notice), "%s", text);
        if (s->peer < 0 || !s->greeted)
                return;
        s->notice_due = true;
        flush(s);
}

int server_new(int listener, uid_t peer_uid, struct pool *pool, const struct resolv *resolv, struct server **ret,
               struct err *err)
{
        struct server *s = calloc(1, sizeof(*s));

        if (!s) {
                fd_close(listener);
                return err_oom(err);
        }
        s->listener = listener;
        s->peer = -EBADF;
        s->peer_uid = peer_uid;
        s->pool = pool;
        s->resolv = resolv;
        *ret = s;
        return 0;
}

void server_free(struct server *s)
{
        if (!s)
                return;
        fd_close(s->peer);
        fd_close(s->listener);
        free(s);
}
