/* The life of one container.
 *
 *   NEW ──start()──▶ WAITING (slot, network namespace) ──START sent──▶ STARTED ──EXITED, lost──▶ ENDED
 *    └───────────────────────────────────────────────────────────────────failure──────────────────▲ */

#include "engine/native/internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct native_container *to_native(struct engine_container *c)
{
        return CONTAINER_OF(c, struct native_container, base);
}

static bool id_fits(const char *id)
{
        size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789");

        return len > 0 && len <= LAUNCH_ID_MAX && id[len] == '\0';
}

static struct native_container *container_new(struct native *n, const char *id, const char *owner)
{
        struct native_container *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        c->base.engine = &n->engine;
        c->native = n;
        list_init(&c->node);
        list_init(&c->wait_node);
        list_init(&c->watch_node);
        c->stdin_fd = c->record_fd = -EBADF;
        for (int i = 0; i < NATIVE_STREAMS; i++)
                c->out[i].pipe_r = c->out[i].pipe_w = c->out[i].mem = -EBADF;
        (void)snprintf(c->id, sizeof(c->id), "%s", id);
        c->owner = strdup(owner);
        if (!c->owner || map_set(n->by_id, c->id, c) < 0) {
                free(c->owner);
                free(c);
                return NULL;
        }
        list_append(&n->containers, &c->node);
        return c;
}

static void wipe(struct str *s)
{
        if (s->data)
                explicit_bzero(s->data, s->len);
}

/* What is needed until START is sent only. */
static void container_forget_start(struct native_container *c)
{
        /* The environment is as secret as the secrets. */
        if (c->start) {
                wipe(&c->head);
                wipe(&c->tail);
        }
        free(c->start);
        c->start = NULL;
        str_done(&c->head);
        str_done(&c->tail);
        fd_replace(&c->stdin_fd, -EBADF);
        for (int i = 0; i < NATIVE_STREAMS; i++)
                fd_replace(&c->out[i].pipe_w, -EBADF);
}

static void container_stop_waiting(struct native_container *c)
{
        list_remove(&c->wait_node);
        loop_timer_cancel(&c->wait_timer);
}

void native_serve_slots(struct native *n)
{
        struct native_container *c;

        while (n->state == LAUNCH_UP && n->slots_used < n->host.slots &&
               (c = LIST_FIRST(&n->slot_waiters, struct native_container, wait_node))) {
                list_remove(&c->wait_node);
                n->slot_ns = time_mono_ns();
                native_container_advance(c);
        }
}

static void container_release_slot(struct native_container *c)
{
        if (!c->holds_slot)
                return;
        c->holds_slot = false;
        c->native->slots_used--;
}

static void container_release_net(struct native_container *c)
{
        struct netns *ns = c->netns;

        c->netns = NULL;
        native_net_release(c->native, ns);
}

void native_container_free(struct native_container *c)
{
        struct native *n = c->native;

        container_stop_waiting(c);
        native_copies_forget(c);
        list_remove(&c->watch_node);
        list_remove(&c->node);
        (void)map_remove(n->by_id, c->id);
        container_forget_start(c);
        for (int i = 0; i < NATIVE_STREAMS; i++)
                native_output_close(&c->out[i]);
        container_release_net(c);
        container_release_slot(c);
        fd_close(c->record_fd);
        free(c->owner);
        free(c->workdir);
        free(c);
}

/* ── making ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint32_t mode_of(enum engine_network network)
{
        switch (network) {
        case ENGINE_NET_NONE:
                return NET_NONE;
        case ENGINE_NET_NAT:
                return NET_NAT;
        case ENGINE_NET_INTERNET:
                return NET_INTERNET;
        }
        return 0;
}

/* Any user of the task may open it again by /dev/stdin; nobody may write to it. */
static int open_stdin(struct native_container *c, const struct engine_spec *spec, struct err *err)
{
        size_t len = spec->stdin_data ? spec->stdin_len : 0;
        int r;

        if (spec->stdin_fd >= 0) {
                c->stdin_fd = fcntl(spec->stdin_fd, F_DUPFD_CLOEXEC, 3);
                return c->stdin_fd < 0 ? err_sys(err, "take over stdin") : 0;
        }
        r = fd_memfd_sealed("stdin", len > 0 ? spec->stdin_data : "", len, &c->stdin_fd, err);
        if (r < 0)
                return r;
        return fchmod(c->stdin_fd, 0444) < 0 ? err_sys(err, "chmod stdin") : 0;
}

/* The record is written when the container starts: before, there is nothing that could outlive us. */
static int open_record(struct native_container *c, const struct engine_spec *spec, struct err *err)
{
        const struct native_record rec = { .mode = c->mode, .output_limit = c->output_limit };

        c->record_fd = memfd_create("record", MFD_CLOEXEC);
        if (c->record_fd < 0)
                return err_sys(err, "memfd");
        return native_record_write(c->record_fd, &rec, c->owner, spec->record, spec->record_len, err);
}

static int container_fill(struct native_container *c, const struct engine_spec *spec, struct err *err)
{
        struct native *n = c->native;
        struct image_user user = { .uid = 0 };
        const struct image *image = image_store_by_digest(n->store, spec->digest);
        int r;

        if (!image)
                return err_set(err, ENOENT, "there is no image %s", spec->digest);
        r = image_user_resolve(n->store, image, spec->user ? spec->user : image->user, &user, err);
        if (r < 0)
                return err_set(err, EINVAL, "user: %s", err && err->num ? err->text : "unknown");
        image_store_touch(n->store, image);
        r = native_spec_build(c, spec, image, &user, err);
        if (r == 0)
                r = open_stdin(c, spec, err);
        if (r == 0)
                r = open_record(c, spec, err);
        return r;
}

int native_container_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events,
                            void *data, struct engine_container **ret, struct err *err)
{
        struct native *n = CONTAINER_OF(e, struct native, engine);
        struct native_container *c;
        int r;

        if (!id_fits(spec->id) || mode_of(spec->network) == 0 || map_find(n->by_id, spec->id))
                return err_set(err, EINVAL, "container '%.40s' is not valid", spec->id);
        c = container_new(n, spec->id, spec->owner);
        if (!c)
                return err_oom(err);
        c->mode = mode_of(spec->network);
        c->output_limit = spec->limits.output;
        c->live = spec->live;
        r = container_fill(c, spec, err);
        if (r < 0) {
                native_container_free(c);
                return r;
        }
        c->base.events = events;
        c->base.data = data;
        *ret = &c->base;
        return 0;
}

int native_container_adopt(struct native *n, const struct launch_adopt *m, int *fds, struct native_container **ret,
                           struct err *err)
{
        struct native_record rec = { .mode = 0 };
        struct native_container *c;
        char id[LAUNCH_ID_MAX + 1];
        struct stat st[NATIVE_STREAMS];
        int r;

        memcpy(id, m->id, LAUNCH_ID_MAX);
        id[LAUNCH_ID_MAX] = '\0';
        r = native_record_read(fds[LAUNCH_ADOPT_RECORD], &rec, &(uint32_t){ 0 }, err);
        if (r < 0)
                return r;
        c = fstat(fds[LAUNCH_ADOPT_STDOUT_MEM], &st[0]) == 0 && fstat(fds[LAUNCH_ADOPT_STDERR_MEM], &st[1]) == 0
                    ? container_new(n, id, rec.owner.data)
                    : NULL;
        if (!c) {
                native_record_done(&rec);
                return err_oom(err);
        }
        c->mode = rec.mode;
        c->output_limit = rec.output_limit;
        c->start_ns = rec.start_ns;
        for (int i = 0; i < NATIVE_STREAMS; i++) {
                c->out[i].pipe_r = TAKE_FD(fds[LAUNCH_ADOPT_STDOUT_R + i]);
                c->out[i].mem = TAKE_FD(fds[LAUNCH_ADOPT_STDOUT_MEM + i]);
                c->out[i].kept = (uint64_t)st[i].st_size;
                c->out[i].dropped = rec.dropped[i];
        }
        c->record_fd = TAKE_FD(fds[LAUNCH_ADOPT_RECORD]);
        c->netns = native_net_adopt(n, TAKE_FD(fds[LAUNCH_ADOPT_NETNS]), rec.mode, rec.net_index, rec.net_address,
                                    rec.owner.data);
        c->holds_slot = true;
        n->slots_used++;
        c->state = CONTAINER_STARTED;
        native_record_done(&rec);
        if (m->ended)
                native_container_ended(c, &m->exit);
        else
                native_output_watch(c);
        *ret = c;
        return 0;
}

/* ── starting ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int add_text(struct str *s, const char *data, size_t len)
{
        uint32_t n = (uint32_t)len;
        int r = str_add(s, &n, sizeof(n));

        return r == 0 ? str_add(s, data, len) : r;
}

static int build_payload(struct native_container *c, struct str *payload, struct err *err)
{
        const struct str *resolv = &c->native->net.resolv;
        bool networked = c->mode != NET_NONE;
        auto_str hosts = STR_INIT;

        if (native_spec_hosts(c, &hosts) < 0 || str_add(payload, c->head.data, c->head.len) < 0 ||
            add_text(payload, hosts.data, hosts.len) < 0 ||
            add_text(payload, resolv->data, networked ? resolv->len : 0) < 0 ||
            str_add(payload, c->tail.data, c->tail.len) < 0)
                return err_oom(err);
        return 0;
}

static int send_packet(struct native_container *c, struct err *err)
{
        struct native *n = c->native;
        struct launch_start *m = c->start;
        auto_str payload = STR_INIT;
        auto_fd spec = -EBADF;
        size_t len = sizeof(*m), n_fds = LAUNCH_FD_SPEC;
        int fds[LAUNCH_FD_COUNT] = {
                [LAUNCH_FD_NETNS] = c->netns->fd,
                [LAUNCH_FD_STDIN] = c->stdin_fd,
                [LAUNCH_FD_STDOUT_W] = c->out[ENGINE_STDOUT].pipe_w,
                [LAUNCH_FD_STDERR_W] = c->out[ENGINE_STDERR].pipe_w,
                [LAUNCH_FD_STDOUT_R] = c->out[ENGINE_STDOUT].pipe_r,
                [LAUNCH_FD_STDERR_R] = c->out[ENGINE_STDERR].pipe_r,
                [LAUNCH_FD_STDOUT_MEM] = c->out[ENGINE_STDOUT].mem,
                [LAUNCH_FD_STDERR_MEM] = c->out[ENGINE_STDERR].mem,
                [LAUNCH_FD_RECORD] = c->record_fd,
        };
        int r = build_payload(c, &payload, err);

        if (r < 0)
                return r;
        m->payload_len = (uint32_t)payload.len;
        if (payload.len <= LAUNCH_INLINE_MAX) {
                memcpy(n->scratch + sizeof(*m), payload.data, payload.len);
                len += payload.len;
        } else {
                r = fd_memfd_sealed("spec", payload.data, payload.len, &spec, err);
                if (r < 0)
                        return r;
                m->flags |= LAUNCH_F_SPEC;
                fds[n_fds++] = spec;
        }
        memcpy(n->scratch, m, sizeof(*m));
        r = native_launch_send(n, n->scratch, len, fds, n_fds, err);
        explicit_bzero(n->scratch, len);
        wipe(&payload);
        return r;
}

static void send_signal(struct native_container *c, int signo)
{
        struct launch_signal m = { .h = { .op = LAUNCH_SIGNAL }, .signo = (uint32_t)signo };

        memcpy(m.id, c->id, LAUNCH_ID_MAX);
        (void)native_launch_send(c->native, &m, sizeof(m), NULL, 0, NULL);
}

static int container_send(struct native_container *c, struct err *err)
{
        int r = native_output_open(c, err);

        if (r == 0)
                r = native_record_started(c->record_fd, c->netns->index, c->netns->address, c->start_ns, err);
        if (r == 0)
                r = send_packet(c, err);
        if (r < 0)
                return r;
        container_stop_waiting(c);
        container_forget_start(c);
        c->state = CONTAINER_STARTED;
        native_output_started(c);
        if (c->kill_signo)
                send_signal(c, c->kill_signo);
        return 0;
}

static void on_wait_timer(struct loop_timer *timer, void *data)
{
        struct native_container *c = data;
        struct native *n = c->native;
        uint64_t end = (c->holds_slot ? n->net.came_ns[c->mode] : n->slot_ns) + NATIVE_WAIT_NS;

        (void)timer;
        if (c->kill_signo) {
                native_container_failed(c, ENGINE_END_SIGNALED, 0, "");
                return;
        }
        /* While the line moves, whoever stands in it gets there. */
        if (end > time_mono_ns() && loop_timer_set(n->loop, &c->wait_timer, end, on_wait_timer, c) == 0)
                return;
        native_container_failed(c, ENGINE_END_START_ERROR, ETIMEDOUT,
                                c->holds_slot ? "no network namespace came in time" : "no slot became free in time");
}

/* One step after the other, each of which may have to be waited for. */
static int container_proceed(struct native_container *c, struct err *err)
{
        struct native *n = c->native;

        if (!c->holds_slot) {
                if (n->state != LAUNCH_UP || n->slots_used >= n->host.slots) {
                        list_append(&n->slot_waiters, &c->wait_node);
                } else {
                        c->holds_slot = true;
                        n->slots_used++;
                }
        }
        if (c->holds_slot && !c->netns)
                native_net_acquire(n, c);
        if (c->holds_slot && c->netns)
                return container_send(c, err);
        if (c->state == CONTAINER_WAITING)
                return 0;
        c->state = CONTAINER_WAITING;
        if (loop_timer_set(n->loop, &c->wait_timer, time_mono_ns() + NATIVE_WAIT_NS, on_wait_timer, c) < 0)
                return err_oom(err);
        return 0;
}

void native_container_advance(struct native_container *c)
{
        struct err err = ERR_INIT;

        if (container_proceed(c, &err) < 0)
                native_container_failed(c, ENGINE_END_START_ERROR, err.num, err.text);
}

int native_container_start(struct engine_container *base, struct err *err)
{
        struct native_container *c = to_native(base);
        int r;

        if (c->state != CONTAINER_NEW)
                return err_set(err, EINVAL, "container %s was started already", c->id);
        c->start_ns = time_mono_ns();
        r = container_proceed(c, err);
        if (r < 0) {
                container_stop_waiting(c);
                c->state = CONTAINER_ENDED;
                container_release_net(c);
                container_release_slot(c);
        }
        return r;
}

int native_container_signal(struct engine_container *base, int signo, struct err *err)
{
        struct native_container *c = to_native(base);

        if (signo < 1 || signo > 64)
                return err_set(err, EINVAL, "there is no signal %d", signo);
        switch (c->state) {
        case CONTAINER_NEW:
                c->kill_signo = signo;
                break;
        case CONTAINER_WAITING:
                if (signo != SIGKILL && signo != SIGTERM)
                        break;
                c->kill_signo = signo;
                if (loop_timer_set(c->native->loop, &c->wait_timer, time_mono_ns(), on_wait_timer, c) < 0)
                        return err_oom(err);
                break;
        case CONTAINER_STARTED:
                send_signal(c, signo);
                break;
        case CONTAINER_ENDED:
                break;
        }
        return 0;
}

int native_container_stats(struct engine_container *base, engine_stats_fn fn, void *data, struct err *err)
{
        struct native_container *c = to_native(base);
        struct launch_id m = { .h = { .op = LAUNCH_STATS } };
        struct native_pending *p = NULL;
        int r;

        if (c->state != CONTAINER_STARTED)
                return err_set(err, ESRCH, "container %s does not run", c->id);
        memcpy(m.id, c->id, LAUNCH_ID_MAX);
        r = native_request(c->native, &m, sizeof(m), NULL, 0, &p, err);
        if (r < 0)
                return r;
        p->stats_fn = fn;
        p->data = data;
        return 0;
}

void native_container_attach(struct engine_container *base, enum engine_stream stream, struct engine_output *ret)
{
        const struct native_output *o = &to_native(base)->out[stream];

        *ret = (struct engine_output){ .fd = o->mem, .kept = o->kept, .total = o->kept + o->dropped };
}

int native_container_update_record(struct engine_container *base, const void *record, size_t len, struct err *err)
{
        struct native_container *c = to_native(base);

        return native_record_update(c->record_fd, &c->record_slot, record, len, err);
}

/* ── ending ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const char *stage_text(uint32_t stage)
{
        static const char *const texts[] = {
                [LAUNCH_STAGE_CLONE] = "make the process",
                [LAUNCH_STAGE_CGROUP] = "join the control group",
                [LAUNCH_STAGE_NET] = "join the network namespace",
                [LAUNCH_STAGE_MOUNT] = "make the writable layer",
                [LAUNCH_STAGE_IMAGE] = "mount the image",
                [LAUNCH_STAGE_ROOT] = "mount the root",
                [LAUNCH_STAGE_KERNEL_FS] = "mount /proc, /sys and /dev",
                [LAUNCH_STAGE_SECRETS] = "place the secrets",
                [LAUNCH_STAGE_PIVOT] = "change the root",
                [LAUNCH_STAGE_USER] = "join the user namespace",
                [LAUNCH_STAGE_FILES] = "write the files",
                [LAUNCH_STAGE_WORKDIR] = "enter the working directory",
                [LAUNCH_STAGE_PRIVILEGE] = "drop privileges",
                [LAUNCH_STAGE_EXEC] = "execute the command",
        };

        return stage < ARRAY_LEN(texts) ? texts[stage] : "start";
}

static bool exec_is_transient(int error)
{
        return error == ENOMEM || error == EAGAIN || error == EMFILE || error == ENFILE || error == EIO;
}

static void translate_start_failure(const struct launch_exit *m, struct engine_exit *e)
{
        e->end = ENGINE_END_START_ERROR;
        e->error = m->error;
        if (m->stage == LAUNCH_STAGE_EXEC && !exec_is_transient(m->error))
                e->end = m->error == ENOENT ? ENGINE_END_NOT_FOUND : ENGINE_END_NOT_EXECUTABLE;
        (void)snprintf(e->text, sizeof(e->text), "%s: %s", stage_text(m->stage), strerror(m->error));
}

static void translate_exit(const struct launch_exit *m, struct engine_exit *e)
{
        e->oom = m->counters.oom_kills > 0;
        e->disk_full = m->counters.disk_full;
        e->memory_peak = m->counters.memory_peak;
        e->cpu_ns = m->counters.cpu_ns;
        e->create_mono_ns = m->clone_ns;
        e->end_mono_ns = m->exit_ns;
        if (m->stage < LAUNCH_STAGE_EXECED) {
                translate_start_failure(m, e);
                return;
        }
        e->start_mono_ns = m->exec_ns;
        e->end = m->si_code == CLD_EXITED ? ENGINE_END_EXITED : ENGINE_END_SIGNALED;
        if (e->end == ENGINE_END_EXITED)
                e->code = m->status;
        else
                e->signo = m->status;
}

static void send_remove(struct native_container *c)
{
        struct launch_id m = { .h = { .op = LAUNCH_REMOVE } };

        memcpy(m.id, c->id, LAUNCH_ID_MAX);
        (void)native_launch_send(c->native, &m, sizeof(m), NULL, 0, NULL);
}

static void container_tell(struct native_container *c)
{
        if (c->removed) {
                struct native *n = c->native;

                if (c->holds_slot)
                        send_remove(c);
                native_container_free(c);
                native_serve_slots(n);
        } else if (c->base.events) {
                c->base.events->exited(&c->base, &c->exit, c->base.data);
        } else {
                c->adopted_end = true;
        }
}

void native_container_ended(struct native_container *c, const struct launch_exit *m)
{
        c->state = CONTAINER_ENDED;
        c->unsure = false;
        translate_exit(m, &c->exit);
        native_output_finish(c);
        container_release_net(c);
        container_tell(c);
}

void native_container_failed(struct native_container *c, enum engine_end end, int error, const char *text)
{
        uint64_t now = time_mono_ns();
        struct native *n = c->native;

        container_stop_waiting(c);
        container_forget_start(c);
        c->state = CONTAINER_ENDED;
        c->exit = (struct engine_exit){
                .end = end,
                .error = error,
                .memory_peak = UINT64_MAX,
                .cpu_ns = UINT64_MAX,
                .create_mono_ns = c->start_ns,
                .end_mono_ns = now,
        };
        if (end == ENGINE_END_SIGNALED)
                c->exit.signo = c->kill_signo;
        (void)snprintf(c->exit.text, sizeof(c->exit.text), "%s", text);
        native_output_finish(c);
        if (end == ENGINE_END_LOST && c->netns)
                native_net_taint(c->netns);
        container_release_net(c);
        /* The launcher knows nothing of it, so there is nothing to remove there. */
        container_release_slot(c);
        container_tell(c);
        native_serve_slots(n);
}

void native_container_tell_end(struct native_container *c)
{
        if (!c->adopted_end || !c->base.events)
                return;
        c->adopted_end = false;
        c->base.events->exited(&c->base, &c->exit, c->base.data);
}

void native_container_remove(struct engine_container *base)
{
        struct native_container *c = to_native(base);
        struct native *n = c->native;

        if (c->state == CONTAINER_STARTED) {
                c->removed = true;
                c->base.events = NULL;
                send_signal(c, SIGKILL);
                return;
        }
        if (c->state == CONTAINER_ENDED && c->holds_slot)
                send_remove(c);
        native_container_free(c);
        native_serve_slots(n);
}
