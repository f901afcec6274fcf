#include "launcher/server.h"

#include "base/fd.h"
#include "base/time.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define EVENTS_MAX 32
#define PACKETS_PER_TURN 16   /* of the peer, before anything else gets its turn */
#define OUT_MAX (1024 * 1024) /* for a peer that does not read; above, it is disconnected */
#define WORK_MEMORY (UINT64_C(512) << 20)
#define WORK_PIDS 16
#define END_SECONDS 10
#define IDLE_DELAY_MS 2
#define ACCEPT_DELAY_MS 100 /* until descriptors may be free again */

enum tag { TAG_LISTENER, TAG_PEER, TAG_SIGNALS, TAG_WORK, TAG_COPY };

/* One packet of the daemon. Static: each page of it that a child has seen costs a copy when it is written again, so it is
 * not larger than it must be in use. One byte more, for the NUL after the last string. */
static _Alignas(16) uint8_t packet[LAUNCH_MSG_MAX];

static int watch(struct server *s, int fd, uint32_t events, enum tag tag, struct err *err)
{
        struct epoll_event event = { .events = events, .data.u64 = tag };

        return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? err_sys(err, "watch a descriptor") : 0;
}

static void watch_peer(struct server *s, uint32_t events)
{
        struct epoll_event event = { .events = events, .data.u64 = TAG_PEER };

        (void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->peer, &event);
}

/* ── the peer: coming, going, sending ─────────────────────────────────────────────────────────────────────────────── */

static void log_line(const char *what, const struct err *err)
{
        (void)dprintf(STDERR_FILENO, "mayfly-launcher: %s%s%s\n", what, err ? ": " : "", err ? err->text : "");
}

/* Containers go on, and wait for the next daemon. */
static void drop_peer(struct server *s, const char *why, const struct err *err)
{
        if (s->peer < 0)
                return;
        if (why)
                log_line(why, err);
        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->peer, NULL);
        fd_replace(&s->peer, -EBADF);
        s->peer_state = PEER_NONE;
        s->out_sent = 0;
        str_clear(&s->out);
        for (uint32_t i = 0; i < s->containers.top; i++)
                s->containers.items[i].adopted = false;
        if (s->work)
                work_peer_lost(s->work);
        copies_stop(&s->copies, NULL);
        (void)watch(s, s->listener, EPOLLIN, TAG_LISTENER, NULL);
}

static void accept_peer(struct server *s)
{
        auto_fd fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.u64 = TAG_PEER };
        uid_t uid;

        if (fd < 0) {
                s->deaf = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
                if (s->deaf)
                        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->listener, NULL);
                return;
        }
        if (fd_peer_uid(fd, &uid) < 0 || uid != s->ceiling->uid) {
                log_line("a peer of another user was refused", NULL);
                return;
        }
        if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                return;
        /* The next one waits in the backlog until this one has gone. */
        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->listener, NULL);
        s->peer = TAKE_FD(fd);
        s->peer_state = PEER_NEW;
}

static int queue(struct server *s, const void *data, size_t len)
{
        uint32_t n = (uint32_t)len;

        if (s->out.len - s->out_sent + len + sizeof(n) > OUT_MAX)
                return -EMSGSIZE;
        if (str_reserve(&s->out, len + sizeof(n)) < 0)
                return -ENOMEM;
        (void)str_add(&s->out, &n, sizeof(n));
        (void)str_add(&s->out, data, len);
        watch_peer(s, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
        return 0;
}

/* To the peer, if there is one; in the order of the calls. */
static void send_packet(struct server *s, const void *data, size_t len)
{
        int r = -EAGAIN;

        if (s->peer < 0)
                return;
        if (s->out.len == 0 && s->peer_state != PEER_GREETING)
                r = fd_send(s->peer, data, len, NULL, 0);
        if (r == -EAGAIN)
                r = queue(s, data, len);
        if (r < 0)
                drop_peer(s, "the peer does not read", NULL);
}

static void flush_out(struct server *s)
{
        while (s->out_sent < s->out.len) {
                uint32_t n;
                int r;

                memcpy(&n, s->out.data + s->out_sent, sizeof(n));
                r = fd_send(s->peer, s->out.data + s->out_sent + sizeof(n), n, NULL, 0);
                if (r == -EAGAIN)
                        return;
                if (r < 0) {
                        drop_peer(s, NULL, NULL);
                        return;
                }
                s->out_sent += sizeof(n) + n;
        }
        s->out_sent = 0;
        str_clear(&s->out);
        watch_peer(s, EPOLLIN | EPOLLRDHUP);
}

static void refuse(struct server *s, const struct launch_header *h, const char *id, const struct err *err)
{
        struct launch_refused m = { .h = { .op = LAUNCH_REFUSED, .seq = h->seq }, .error = err->num };

        if (id)
                memcpy(m.id, id, LAUNCH_ID_MAX);
        (void)snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, err->text);
        send_packet(s, &m, sizeof(m));
}

/* ── greeting ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int send_adopt(struct server *s, struct container *c)
{
        struct launch_adopt m = { .h = { .op = LAUNCH_ADOPT }, .ended = c->state == CONTAINER_ENDED };
        int r;

        memcpy(m.id, c->id, LAUNCH_ID_MAX);
        m.exit = c->exit;
        r = fd_send(s->peer, &m, sizeof(m), c->fds, LAUNCH_ADOPT_COUNT);
        if (r == 0)
                c->adopted = true;
        return r;
}

/* Goes on where the socket was full. No operation of the peer is taken up before READY. */
static void greet(struct server *s)
{
        struct launch_header ready = { .op = LAUNCH_READY };
        int r = 0;

        for (; r == 0 && s->greeted < s->containers.top; s->greeted += r == 0) {
                struct container *c = &s->containers.items[s->greeted];

                if (c->state == CONTAINER_RUNNING || c->state == CONTAINER_ENDED)
                        r = send_adopt(s, c);
        }
        if (r == 0)
                r = fd_send(s->peer, &ready, sizeof(ready), NULL, 0);
        if (r == 0) {
                s->peer_state = PEER_SERVED;
                flush_out(s);
        } else if (r == -EAGAIN) {
                watch_peer(s, EPOLLOUT | EPOLLRDHUP);
        } else {
                drop_peer(s, NULL, NULL);
        }
}

static int handle_hello(struct server *s, const struct launch_hello *hello, struct err *err)
{
        struct launch_hello m = {
                .h = { .op = LAUNCH_HELLO, .seq = hello->h.seq },
                .version = LAUNCH_VERSION,
                .cgroup = s->cgroup.kind,
                .slots = s->slots.n,
                .idmap = s->slots.idmapped,
                .life = s->life,
        };

        if (s->peer_state != PEER_NEW)
                return err_set(err, EBADMSG, "a second HELLO");
        send_packet(s, &m, sizeof(m));
        if (hello->version != LAUNCH_VERSION)
                return err_set(err, EBADMSG, "version %u, not %d", hello->version, LAUNCH_VERSION);
        if (s->peer < 0)
                return 0;
        s->peer_state = PEER_GREETING;
        s->greeted = 0;
        greet(s);
        return 0;
}

/* ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void tell_exited(struct server *s, struct container *c)
{
        struct launch_exited m = { .h = { .op = LAUNCH_EXITED }, .exit = c->exit };

        /* A daemon that has not been told of it yet will adopt it as ended. */
        if (!c->adopted)
                return;
        memcpy(m.id, c->id, LAUNCH_ID_MAX);
        send_packet(s, &m, sizeof(m));
}

/* The payload lies in the packet, or in a sealed memfd: mapped privately, since the child cuts it into strings. */
static int map_payload(const struct launch_start *m, int spec, uint8_t **ret)
{
        void *p;

        if (!(m->flags & LAUNCH_F_SPEC)) {
                *ret = packet + sizeof(*m);
                return 0;
        }
        if (m->payload_len == 0)
                return -EBADMSG;
        p = mmap(NULL, m->payload_len, PROT_READ | PROT_WRITE, MAP_PRIVATE, spec, 0);
        if (p == MAP_FAILED)
                return -errno;
        *ret = p;
        return 0;
}

static int start_checked(struct server *s, const struct launch_start *m, uint8_t *payload, int *fds, size_t n_fds,
                         struct err *err)
{
        struct container *c = NULL;
        int r = validate_payload(m, payload, m->payload_len, err);

        if (r < 0)
                return r;
        r = containers_start(&s->containers, m, payload, m->payload_len, fds, n_fds, &c, err);
        if (r < 0) {
                refuse(s, &m->h, m->id, err);
                return 0;
        }
        c->adopted = true;
        s->just_ended = false;
        if (c->state == CONTAINER_ENDED)
                tell_exited(s, c);
        return 0;
}

static int start_from(struct server *s, const struct launch_start *m, int *fds, size_t n_fds, struct err *err)
{
        uint8_t *payload = NULL;
        int r = validate_start_fds(&s->host, fds, n_fds, m->payload_len, err);

        if (r == 0)
                r = validate_start(m, s->ceiling, err);
        if (r == -EPERM) {
                refuse(s, &m->h, m->id, err);
                return 0;
        }
        if (r < 0)
                return r;
        r = map_payload(m, n_fds > LAUNCH_FD_SPEC ? fds[LAUNCH_FD_SPEC] : -EBADF, &payload);
        if (r < 0)
                return err_set(err, EBADMSG, "the payload cannot be mapped");
        r = start_checked(s, m, payload, fds, n_fds, err);
        if (m->flags & LAUNCH_F_SPEC)
                (void)munmap(payload, m->payload_len);
        return r;
}

/* No later child is to have secrets, or the environment, in its copy of this memory, whether there was a start or not. A
 * mapped payload has left nothing: it is only read here. */
static int handle_start(struct server *s, const struct launch_start *m, size_t len, int *fds, size_t n_fds,
                        struct err *err)
{
        int r = start_from(s, m, fds, n_fds, err);

        explicit_bzero(packet + sizeof(*m), len - sizeof(*m));
        return r;
}

static void handle_stats(struct server *s, const struct launch_id *m)
{
        struct container *c = containers_find(&s->containers, m->id);
        struct launch_stats answer = { .h = { .op = LAUNCH_COUNTERS, .seq = m->h.seq } };
        struct err err = ERR_INIT;

        if (!c) {
                (void)err_set(&err, ENOENT, "no such container");
                refuse(s, &m->h, m->id, &err);
                return;
        }
        memcpy(answer.id, m->id, LAUNCH_ID_MAX);
        answer.exec_ns = container_exec_ns(c);
        container_counters(&s->containers, c, &answer.counters);
        send_packet(s, &answer, sizeof(answer));
}

static int handle_copy(struct server *s, const struct launch_copy *m, int fd, struct err *err)
{
        const struct container *c = containers_find(&s->containers, m->id);
        struct err refusal = ERR_INIT;

        if (validate_copy_fd(&s->host, fd, err) < 0)
                return -EBADMSG;
        if (!c)
                (void)err_set(&refusal, ESRCH, "no such container");
        else if (copies_start(&s->copies, c, m, fd, &refusal) == 0)
                return 0;
        refuse(s, &m->h, m->id, &refusal);
        return 0;
}

static int handle_signal(struct server *s, const struct launch_signal *m, struct err *err)
{
        struct container *c = containers_find(&s->containers, m->id);

        if (m->signo < 1 || m->signo > 64)
                return err_set(err, EBADMSG, "no such signal");
        if (c)
                container_signal(c, (int)m->signo);
        return 0;
}

static int handle_work(struct server *s, const struct launch_header *h, size_t len, int *fds, size_t n_fds,
                       struct err *err)
{
        if (s->work) {
                int r = work_handle(s->work, h, len, fds, n_fds);

                for (size_t i = 0; i < n_fds; i++)
                        fds[i] = -EBADF;
                return r < 0 ? err_set(err, -r, "malformed image work") : 0;
        }
        (void)err_set(err, ENOSYS, "there is no image worker");
        refuse(s, h, NULL, err);
        return 0;
}

static int dispatch(struct server *s, size_t len, int *fds, size_t n_fds, struct err *err)
{
        const struct launch_header *h = (const void *)packet;
        int r = validate_packet(packet, len, n_fds, err);

        if (r < 0)
                return r;
        if (s->peer_state == PEER_NEW && h->op != LAUNCH_HELLO)
                return err_set(err, EBADMSG, "no HELLO");
        switch (h->op) {
        case LAUNCH_HELLO:
                return handle_hello(s, (const void *)packet, err);
        case LAUNCH_START:
                return handle_start(s, (const void *)packet, len, fds, n_fds, err);
        case LAUNCH_SIGNAL:
                return handle_signal(s, (const void *)packet, err);
        case LAUNCH_STATS:
                handle_stats(s, (const void *)packet);
                return 0;
        case LAUNCH_REMOVE: {
                struct container *c = containers_find(&s->containers,
                                                      ((const struct launch_id *)(const void *)packet)->id);

                if (c) {
                        copies_stop(&s->copies, c);
                        container_remove(&s->containers, c);
                }
                return 0;
        }
        case LAUNCH_COPY_OUT:
                return handle_copy(s, (const void *)packet, fds[0], err);
        default:
                return handle_work(s, h, len, fds, n_fds, err);
        }
}

/* One packet. False: there is nothing more to read. */
static bool receive(struct server *s)
{
        struct err err = ERR_INIT;
        int fds[FD_MSG_MAX];
        size_t n_fds = ARRAY_LEN(fds), len = 0;
        int r = fd_recv(s->peer, packet, sizeof(packet) - 1, &len, fds, &n_fds);

        if (r == -EAGAIN)
                return false;
        if (r < 0 || len == 0) {
                for (size_t i = 0; r == 0 && i < n_fds; i++)
                        fd_close(fds[i]);
                drop_peer(s, r < 0 ? "the peer's packet is too large" : NULL, NULL);
                return false;
        }
        r = dispatch(s, len, fds, n_fds, &err);
        for (size_t i = 0; i < n_fds; i++)
                fd_close(fds[i]);
        if (r < 0)
                drop_peer(s, "the peer is disconnected", &err);
        return r == 0;
}

static void on_peer(struct server *s, uint32_t events)
{
        if ((events & EPOLLOUT) && s->peer_state == PEER_GREETING)
                greet(s);
        else if (events & EPOLLOUT)
                flush_out(s);
        for (int i = 0; i < PACKETS_PER_TURN && s->peer >= 0 && s->peer_state != PEER_GREETING; i++)
                if (!receive(s))
                        break;
        if (s->peer_state == PEER_GREETING && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
                drop_peer(s, NULL, NULL);
}

/* ── children ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void reap(struct server *s)
{
        for (;;) {
                struct rusage usage;
                siginfo_t info = { .si_pid = 0 };
                struct container *c;

                if (sys_waitid(P_ALL, 0, &info, WEXITED | WNOHANG, &usage) < 0 || info.si_pid == 0)
                        return;
                if (janitor_reaped(&s->janitor, info.si_pid)) {
                        log_line("the janitor has died", NULL);
                        continue;
                }
                c = containers_find_pid(&s->containers, info.si_pid);
                if (!c && copies_reaped(&s->copies, &info))
                        continue;
                s->just_ended = true;
                if (!c && s->work)
                        (void)work_reaped(s->work, info.si_pid, &info);
                if (!c)
                        continue;
                if (container_reaped(&s->containers, c, &info, &usage))
                        tell_exited(s, c);
                if (!c->slot)
                        copies_stop(&s->copies, c);
        }
}

static void on_signals(struct server *s)
{
        struct signalfd_siginfo info;

        while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
                if (info.ssi_signo == SIGTERM)
                        s->stop = true;
        reap(s);
}

/* Version 1 kills one process of the group; this ends the task, as memory.oom.group does on version 2. */
static void on_oom(struct server *s, uint32_t n)
{
        struct container *c = containers_find_slot(&s->containers, n);
        uint64_t count;

        if (n >= s->slots.n || read(s->slots.items[n].leaf.oom_event, &count, sizeof(count)) != sizeof(count) || !c)
                return;
        c->oom = true;
        container_signal(c, SIGKILL);
}

/* ── image workers ────────────────────────────────────────────────────────────────────────────────────────────────── */

static void reply(const void *msg, size_t len, void *data)
{
        send_packet(data, msg, len);
}

static bool work_tree_busy(const char *name, void *data)
{
        return containers_use_tree(&((struct server *)data)->containers, name);
}

static uint64_t work_oom_kills(unsigned place, void *data)
{
        struct server *s = data;
        struct cgroup_counters now;

        cgroup_leaf_read(&s->cgroup, &s->work_leaves[place], &now);
        return now.oom_kills;
}

static int init_work(struct server *s, const struct server_fds *fds, struct err *err)
{
        struct cgroup_limits limits = { WORK_MEMORY, 1000, WORK_PIDS };
        struct work_config config = {
                .store_fd = fds->store,
                .proc_fd = fds->proc,
                .worker_fd = fds->worker,
                .id_base = s->ceiling->id_base,
                .reply = reply,
                .tree_busy = work_tree_busy,
                .oom_kills = work_oom_kills,
                .data = s,
        };
        int r;

        if (fds->worker < 0)
                return 0;
        for (unsigned i = 0; i < WORK_RUNNING_MAX; i++) {
                struct cgroup_leaf *leaf = &s->work_leaves[i];

                r = cgroup_leaf_make(&s->cgroup, CGROUP_WORKERS, &limits, leaf, err);
                if (r < 0)
                        return r;
                config.cgroups[i].v2_fd = s->cgroup.kind == LAUNCH_CGROUP_V2 ? leaf->dir[0] : -EBADF;
                for (unsigned k = 0; k < WORK_CGROUP_FILES_MAX; k++)
                        config.cgroups[i].v1_tasks[k] = leaf->enter[k];
        }
        r = work_new(&config, &s->work, err);
        return r < 0 ? r : watch(s, work_timer_fd(s->work), EPOLLIN, TAG_WORK, err);
}

/* ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

int server_init(struct server *s, const struct ceiling *ceiling, const struct server_fds *fds, struct err *err)
{
        struct slots_host host = { fds->proc, fds->store, fds->detached, -EBADF, &s->cgroup, &s->janitor };
        sigset_t set;
        int r;

        s->ceiling = ceiling;
        s->listener = fds->listener;
        s->peer = s->signals = -EBADF;
        s->janitor = (struct janitor)JANITOR_NONE;
        while (s->life < 2)
                if (getrandom(&s->life, sizeof(s->life), 0) < 0 && errno != EINTR)
                        return err_sys(err, "get random bytes");
        for (unsigned i = 0; i < WORK_RUNNING_MAX; i++)
                s->work_leaves[i] = (struct cgroup_leaf)CGROUP_LEAF_NONE;
        s->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (s->epoll < 0)
                return err_sys(err, "make an epoll");
        host.epoll = s->epoll;
        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGCHLD);
        (void)sigaddset(&set, SIGTERM);
        s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (s->signals < 0)
                return err_sys(err, "make a signalfd");
        r = janitor_start(&s->janitor, err);
        if (r == 0)
                r = watch(s, s->signals, EPOLLIN, TAG_SIGNALS, err);
        if (r == 0)
                r = watch(s, s->listener, EPOLLIN, TAG_LISTENER, err);
        if (r == 0)
                r = slots_init(&s->slots, ceiling->slots, ceiling->id_base, &host, err);
        if (r == 0)
                r = containers_init(&s->containers, 2 * ceiling->slots, &s->slots, &s->cgroup, fds->proc, fds->init,
                                    err);
        if (r == 0)
                r = copies_init(&s->copies, reply, s, err);
        if (r == 0)
                r = watch(s, s->copies.timer, EPOLLIN, TAG_COPY, err);
        return r < 0 ? r : init_work(s, fds, err);
}

static void on_event(struct server *s, const struct epoll_event *event)
{
        if (event->data.u64 & SLOT_EVENT) {
                on_oom(s, (uint32_t)event->data.u64);
                return;
        }
        switch ((enum tag)event->data.u64) {
        case TAG_LISTENER:
                if (s->peer < 0)
                        accept_peer(s);
                break;
        case TAG_PEER:
                if (s->peer >= 0)
                        on_peer(s, event->events);
                break;
        case TAG_SIGNALS:
                on_signals(s);
                break;
        case TAG_WORK:
                work_timer(s->work);
                break;
        case TAG_COPY:
                copies_timer(&s->copies);
                break;
        }
}

/* Where tasks follow one another, the next START comes right after an end: what that one left is cleaned up while the next
 * one runs, or when none comes. */
static int idle_delay(const struct server *s, bool idle)
{
        if (!idle)
                return s->deaf ? ACCEPT_DELAY_MS : -1;
        return s->just_ended && s->slots.ready > 0 ? IDLE_DELAY_MS : 0;
}

int server_run(struct server *s, struct err *err)
{
        struct epoll_event events[EVENTS_MAX];
        bool idle = true;

        while (!s->stop) {
                int n = epoll_wait(s->epoll, events, EVENTS_MAX, idle_delay(s, idle));

                if (n < 0 && errno != EINTR)
                        return err_sys(err, "wait for events");
                for (int i = 0; i < n; i++)
                        on_event(s, &events[i]);
                if (n <= 0)
                        s->just_ended = false;
                if (n == 0 && s->deaf)
                        s->deaf = watch(s, s->listener, EPOLLIN, TAG_LISTENER, NULL) < 0;
                idle = n > 0 || slots_idle(&s->slots);
                while (s->slots.used > SLOTS_USED_MAX)
                        (void)slots_idle(&s->slots);
        }
        return 0;
}

static bool any_alive(const struct server *s)
{
        return s->slots.busy > 0;
}

void server_done(struct server *s)
{
        uint64_t end = time_mono_ns() + END_SECONDS * NS_PER_S;

        drop_peer(s, NULL, NULL);
        containers_kill(&s->containers);
        containers_drop_kept(&s->containers);
        while (any_alive(s) && time_mono_ns() < end) {
                reap(s);
                (void)usleep(200);
                containers_drop_kept(&s->containers);
        }
        fd_replace(&s->copies.timer, -EBADF);
        work_free(s->work);
        s->work = NULL;
        slots_done(&s->slots);
        janitor_stop(&s->janitor);
        for (unsigned i = 0; i < WORK_RUNNING_MAX; i++)
                cgroup_leaf_remove(&s->cgroup, &s->work_leaves[i]);
        cgroup_close(&s->cgroup);
        free(s->containers.items);
        s->containers.items = NULL;
        str_done(&s->out);
        fd_replace(&s->signals, -EBADF);
        fd_replace(&s->epoll, -EBADF);
}
