/* The life of one container (the states are in internal.h): one call to Docker after the other. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define CONTAINER_RETRY_NS (500 * NS_PER_MS)
#define CONTAINER_CLOSED_NS                                                                                            \
        (3 * NS_PER_S) /* without output that it still runs: was it cut off? A busy Docker is as slow */
#define CONTAINER_KILL_NS (30 * NS_PER_S) /* for a killed one to end */

static struct docker_container *to_docker(struct engine_container *c)
{
        return CONTAINER_OF(c, struct docker_container, base);
}

struct docker_container *docker_container_new(struct docker *d, const char *id, struct err *err)
{
        size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789");
        struct docker_container *c;

        if (len == 0 || len > DOCKER_ID_MAX || id[len])
                return (void)err_set(err, EINVAL, "'%s' is no id of a container", id), NULL;
        c = calloc(1, sizeof(*c));
        if (!c)
                return (void)err_oom(err), NULL;
        c->base.engine = &d->engine;
        c->docker = d;
        c->deaths = d->deaths;
        c->stdin_fd = -EBADF;
        for (int i = 0; i < DOCKER_STREAMS; i++)
                c->out[i].mem = -EBADF;
        (void)snprintf(c->id, sizeof(c->id), "%s", id);
        (void)snprintf(c->name, sizeof(c->name), "%s-%s", d->name, id);
        list_init(&c->node);
        list_init(&c->start_node);
        list_append(&d->containers, &c->node);
        return c;
}

static void on_turn(struct loop_timer *timer, void *data);

/* What is needed until it runs only. */
static void forget_start(struct docker_container *c)
{
        str_done(&c->body);
        docker_files_free(c->files);
        c->files = NULL;
}

/* Its turn is over: the next ones'. They begin on a later turn of the loop, from a timer of their own. */
static void start_over(struct docker_container *c)
{
        struct docker *d = c->docker;
        struct docker_container *next;

        if (!c->starting && !c->queued)
                return;
        list_remove(&c->start_node);
        d->starting -= c->starting;
        c->queued = c->starting = false;
        next = LIST_FIRST(&d->starts, struct docker_container, start_node);
        if (next && d->starting < DOCKER_STARTS)
                (void)loop_timer_set(d->loop, &next->timer, time_mono_ns(), on_turn, next);
        else if (!next)
                docker_warm_plan(d);
}

static void stop_all(struct docker_container *c)
{
        start_over(c);
        docker_call_cancel(c->call);
        c->call = NULL;
        loop_timer_cancel(&c->timer);
        docker_streams_close(c);
        forget_start(c);
}

void docker_container_free(struct docker_container *c)
{
        stop_all(c);
        loop_timer_cancel(&c->kill_timer);
        list_remove(&c->node);
        for (int i = 0; i < DOCKER_STREAMS; i++)
                fd_close(c->out[i].mem);
        docker_warm_release(c->docker, c->spec);
        free(c->workdir);
        free(c->exec);
        free(c);
}

/* ── ending ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

void docker_container_ended(struct docker_container *c, const struct engine_exit *how)
{
        stop_all(c);
        loop_timer_cancel(&c->kill_timer);
        c->state = DOCKER_ENDED;
        c->exit = *how;
        c->exit.memory_peak = c->exit.cpu_ns = UINT64_MAX;
        c->exit.create_mono_ns = c->create_ns;
        c->exit.end_mono_ns = time_mono_ns();
        if (c->base.events)
                c->base.events->exited(&c->base, &c->exit, c->base.data);
}

void docker_container_failed(struct docker_container *c, enum engine_end end, int error, const char *text)
{
        struct engine_exit e = { .end = end, .error = error };

        if (end == ENGINE_END_SIGNALED)
                e.signo = c->kill_signo;
        (void)snprintf(e.text, sizeof(e.text), "%s", text);
        docker_container_ended(c, &e);
}

static void start_failed(struct docker_container *c, int r, const struct err *err)
{
        docker_container_failed(c, ENGINE_END_START_ERROR, -r, err->num ? err->text : strerror(-r));
}

/* ── after the end of the output ─────────────────────────────────────────────────────────────────────────────────── */

static void wait_begin(struct docker_container *c);
static void follow_begin(struct docker_container *c);

static int container_call(struct docker_container *c, const char *method, const char *rest, docker_call_fn fn,
                          struct err *err)
{
        auto_free char *path = str_printf("/containers/%s%s", c->name, rest);
        const struct docker_request q = { .method = method, .path = path };

        return path ? docker_call(c->docker, &q, fn, c, &c->call, err) : err_oom(err);
}

static void on_again(struct loop_timer *timer, void *data)
{
        struct docker_container *c = data;

        (void)timer;
        wait_begin(c);
}

/* Docker is away: it may come back, with or without the container. */
static void container_unseen(struct docker_container *c, const struct err *err)
{
        uint64_t now = time_mono_ns();
        char text[160];

        docker_streams_close(c);
        c->disturbed = c->lost_sight = true;
        c->state = DOCKER_WAITING;
        if (c->gone_ns == 0)
                c->gone_ns = now;
        if (now - c->gone_ns < c->docker->lost_ns &&
            loop_timer_set(c->docker->loop, &c->timer, now + CONTAINER_RETRY_NS, on_again, c) == 0)
                return;
        (void)snprintf(text, sizeof(text), "Docker cannot be reached any more: %.100s", err->text);
        docker_container_failed(c, ENGINE_END_LOST, 0, text);
}

/* The init of Docker (tini) or Podman (catatonit) runs where the command cannot, and says so itself. */
static bool init_failed(struct docker_container *c)
{
        bool missing;

        if (!c->init || c->exit.code == 0)
                return false;
        if (docker_output_begins(c, ENGINE_STDERR, "[FATAL tini (") && (c->exit.code == 127 || c->exit.code == 126))
                missing = c->exit.code == 127;
        else if (c->exit.code == 1 && docker_output_begins(c, ENGINE_STDERR, "ERROR (catatonit:"))
                missing = docker_output_holds(c, ENGINE_STDERR, "failed to exec pid1: No such file");
        else
                return false;
        docker_output_drop(c, ENGINE_STDERR);
        docker_container_failed(
                c, missing ? ENGINE_END_NOT_FOUND : ENGINE_END_NOT_EXECUTABLE, missing ? ENOENT : EACCES,
                missing ? "execute the command: no such file" : "execute the command: permission denied");
        return true;
}

/* Docker tells only 128 + n, of who died of signal n as of who called exit: those that we sent are the ones to believe in. */
static int died_of(const struct docker_container *c, int code)
{
        int signo = code - 128;

        return signo >= 1 && signo <= 64 && c->sent & UINT64_C(1) << (signo - 1) ? signo : 0;
}

static void container_exit(struct docker_container *c)
{
        struct engine_exit e = c->exit;
        int signo;

        if (init_failed(c))
                return;
        e.end = ENGINE_END_EXITED;
        e.start_mono_ns = c->start_ns;
        if (c->lost_sight && !c->kill_signo && !e.oom && (e.code == 137 || e.code == 255 || e.code == 143)) {
                docker_container_failed(c, ENGINE_END_LOST, 0, "Docker was restarted, and ended it");
                return;
        }
        /* What it wrote while there was no Docker to read it is gone, unless the pipes were kept. */
        if (c->lost_sight && c->deaths != c->docker->deaths && !c->docker->live_restore && !c->kill_signo && !e.oom) {
                docker_container_failed(c, ENGINE_END_LOST, 0, "Docker was restarted: its output may be incomplete");
                return;
        }
        signo = e.oom ? SIGKILL : died_of(c, e.code);
        if (signo) {
                e.end = ENGINE_END_SIGNALED;
                e.signo = signo;
                e.code = 0;
        }
        docker_container_ended(c, &e);
}

static void on_log_piece(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        docker_output_log(data, stream, bytes, len);
}

static int on_log(struct docker_call *call, const void *bytes, size_t len, void *data)
{
        struct docker_container *c = data;
        int r = demux_feed(&c->log, bytes, len, on_log_piece, c, NULL);

        (void)call;
        if (c->state == DOCKER_FOLLOWING)
                docker_output_tell(c);
        return r;
}

static void reread_begin(struct docker_container *c);

static void on_reread_again(struct loop_timer *timer, void *data)
{
        (void)timer;
        reread_begin(data);
}

/* Something of the output is missing as long as the log was not read to its end. */
static void reread_failed(struct docker_container *c, const char *why)
{
        uint64_t now = time_mono_ns();
        char text[160];

        log_debug("container %s: its log: %s", c->id, why);
        if (c->gone_ns == 0)
                c->gone_ns = now;
        if (now - c->gone_ns < c->docker->lost_ns &&
            loop_timer_set(c->docker->loop, &c->timer, now + CONTAINER_RETRY_NS, on_reread_again, c) == 0)
                return;
        (void)snprintf(text, sizeof(text), "its output is incomplete, and cannot be read again: %.90s", why);
        docker_container_failed(c, ENGINE_END_LOST, 0, text);
}

static void on_reread(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        char text[160];

        c->call = NULL;
        if (r == 0 && call->status != 200) {
                docker_call_message(call, text, sizeof(text));
                reread_failed(c, text);
                return;
        }
        if (r < 0) {
                reread_failed(c, err->text);
                return;
        }
        docker_output_log_end(c);
        docker_output_tell(c);
        container_exit(c);
}

static void on_followed(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;

        (void)call;
        c->call = NULL;
        c->disturbed = true;
        if (r < 0 && r != -EBADMSG && r != -EREMOTEIO)
                container_unseen(c, err);
        else
                wait_begin(c);
}

static int log_call(struct docker_container *c, bool follow, struct err *err)
{
        auto_free char *path = str_printf("/containers/%s/logs?stdout=true&stderr=true%s", c->name,
                                          follow ? "&follow=true" : "");
        const struct docker_request q = {
                .method = "GET", .path = path, .timeout_s = follow ? UINT_MAX : 0, .on_data = on_log
        };

        docker_output_log_begin(c);
        return path ? docker_call(c->docker, &q, follow ? on_followed : on_reread, c, &c->call, err) : err_oom(err);
}

static void follow_begin(struct docker_container *c)
{
        struct err err = ERR_INIT;

        c->state = DOCKER_FOLLOWING;
        if (log_call(c, true, &err) < 0)
                docker_container_failed(c, ENGINE_END_LOST, err.num, err.text);
}

void docker_container_follow(struct docker_container *c)
{
        c->disturbed = true;
        follow_begin(c);
}

static void reread_begin(struct docker_container *c)
{
        struct err err = ERR_INIT;

        c->state = DOCKER_REREADING;
        if (log_call(c, false, &err) < 0)
                reread_failed(c, err.text);
}

static void exit_known(struct docker_container *c)
{
        if (c->disturbed)
                reread_begin(c);
        else
                container_exit(c);
}

/* 1: it runs still; -EBADMSG: this is no answer. */
static int inspect_read(struct docker_container *c, const struct docker_call *call)
{
        struct docker_run_state state;
        int r = docker_inspect_read(call->body.data, call->body.len, &state);

        if (r < 0 || state.running)
                return r < 0 ? r : 1;
        c->exit = (struct engine_exit){ .code = state.code };
        c->exit.oom = (c->oom || state.oom) && state.code == 137;
        return 0;
}

static void on_inspected(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        char text[160];

        c->call = NULL;
        if (r < 0) {
                container_unseen(c, err);
                return;
        }
        if (call->status == 404) {
                docker_container_failed(c, ENGINE_END_LOST, 0, "somebody else removed the container");
                return;
        }
        docker_call_message(call, text, sizeof(text));
        r = call->status == 200 ? inspect_read(c, call) : -EREMOTEIO;
        if (r < 0) {
                struct err fault = ERR_INIT;

                (void)err_set(&fault, -r, "inspect: %s", text);
                container_unseen(c, &fault);
        } else if (r > 0) {
                c->disturbed = true;
                follow_begin(c);
        } else {
                exit_known(c);
        }
}

static void inspect_begin(struct docker_container *c)
{
        struct err err = ERR_INIT;

        c->state = DOCKER_INSPECTING;
        if (container_call(c, "GET", "/json", on_inspected, &err) < 0)
                container_unseen(c, &err);
}

/* -EBADMSG: this is no answer. */
static int wait_read(struct docker_container *c, const struct docker_call *call)
{
        int code;

        if (call->status != 200 || docker_wait_read(call->body.data, call->body.len, &code) < 0)
                return -EBADMSG;
        c->exit = (struct engine_exit){ .code = code };
        return 0;
}

static void on_waited(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;

        c->call = NULL;
        loop_timer_cancel(&c->timer);
        if (r < 0 && r != -ETIMEDOUT)
                container_unseen(c, err);
        else if (r < 0 || wait_read(c, call) < 0 || c->exit.code == 137)
                inspect_begin(c); /* who was killed may have wanted too much memory, which only this tells */
        else
                exit_known(c);
}

/* It runs on without output: either it has closed it, or the connection was cut. The log knows. */
static void on_silent(struct loop_timer *timer, void *data)
{
        struct docker_container *c = data;

        (void)timer;
        docker_call_cancel(c->call);
        c->call = NULL;
        docker_container_follow(c);
}

/* An answer may never come, because a connection has died in silence: one looks, and asks again. */
static int wait_call(struct docker_container *c, struct err *err)
{
        auto_free char *path = str_printf("/containers/%s/wait", c->name);
        const struct docker_request q = { .method = "POST", .path = path, .patient = true };

        return path ? docker_call(c->docker, &q, on_waited, c, &c->call, err) : err_oom(err);
}

static void wait_begin(struct docker_container *c)
{
        bool followed = c->disturbed && !c->lost_sight;
        struct err err = ERR_INIT;

        docker_streams_close(c);
        if (c->is_exec) {
                docker_exec_ended(c);
                return;
        }
        c->state = DOCKER_WAITING;
        if (!followed &&
            loop_timer_set(c->docker->loop, &c->timer, time_mono_ns() + CONTAINER_CLOSED_NS, on_silent, c) < 0)
                log_debug("container %s: out of memory", c->id);
        if (wait_call(c, &err) < 0) {
                loop_timer_cancel(&c->timer);
                container_unseen(c, &err);
        }
}

static bool streams_ended(const struct docker_container *c)
{
        for (unsigned i = 0; i < c->n_streams; i++)
                if (!c->streams[i].ended)
                        return false;
        return true;
}

static bool has(const char *text, const char *part)
{
        return strstr(text, part) != NULL;
}

/* Texts of runc and crun, through containerd and Docker, or Podman. */
enum engine_end docker_start_end(const char *text)
{
        if (!has(text, "exec") || has(text, "container init exited"))
                return ENGINE_END_START_ERROR;
        if (has(text, "executable file not found") || has(text, "no such file or directory") ||
            has(text, "executable file `") || has(text, "No such file or directory"))
                return ENGINE_END_NOT_FOUND;
        if (has(text, "permission denied") || has(text, "exec format error") || has(text, "is a directory") ||
            has(text, "Permission denied"))
                return ENGINE_END_NOT_EXECUTABLE;
        return ENGINE_END_START_ERROR;
}

static int create_send(struct docker_container *c, struct err *err);

/* Somebody has removed a container that was made ahead: another one takes its place. */
static bool start_cold(struct docker_container *c, unsigned status, const char *text)
{
        struct err err = ERR_INIT;
        int r;

        if (!c->warm || status != 404 || !strcasestr(text, "no such container"))
                return false;
        log_debug("container %s, made ahead, is gone", c->name);
        c->warm = c->start_asked = false;
        docker_streams_again(c);
        docker_files_again(c->files);
        (void)snprintf(c->name, sizeof(c->name), "%s-%s", c->docker->name, c->id);
        r = docker_record_again(c, &err);
        if (r == 0)
                r = create_send(c, &err);
        if (r < 0)
                start_failed(c, r, &err);
        return true;
}

static void start_refused(struct docker_container *c, unsigned status, const char *text)
{
        /* Podman prepares all but the exec itself when it is attached to. */
        bool tried = c->state == DOCKER_STARTING || c->state == DOCKER_ATTACHING;
        int error = status == 404 ? ENOENT : status == 400 ? EINVAL : EREMOTEIO;

        if (start_cold(c, status, text))
                return;
        docker_container_failed(c, tried ? docker_start_end(text) : ENGINE_END_START_ERROR, error, text);
}

static void call_refused(struct docker_container *c, const struct docker_call *call)
{
        char text[ERR_TEXT_MAX];

        docker_call_message(call, text, sizeof(text));
        start_refused(c, call->status, text);
}

void docker_container_cut(struct docker_container *c, int r, const struct err *err)
{
        if (c->state == DOCKER_ATTACHING) {
                for (unsigned i = 0; i < c->n_streams; i++) {
                        if (c->streams[i].refused) {
                                start_refused(c, c->streams[i].refused, c->streams[i].why);
                                return;
                        }
                }
                start_failed(c, r < 0 ? r : -ECONNRESET, err);
                return;
        }
        if (r < 0) {
                log_debug("container %s: %s", c->id, err->text);
                c->disturbed = true;
        }
        if (c->state == DOCKER_RUNNING && streams_ended(c))
                wait_begin(c);
}

/* ── starting ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool stop_here(struct docker_container *c)
{
        if (c->kill_signo != SIGKILL && c->kill_signo != SIGTERM)
                return false;
        docker_container_failed(c, ENGINE_END_SIGNALED, 0, "");
        return true;
}

static void kill_now(struct docker_container *c);

static void on_started(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;

        c->call = NULL;
        if (r < 0) {
                start_failed(c, r, err);
                return;
        }
        if (call->status != 204 && call->status != 304) {
                call_refused(c, call);
                return;
        }
        c->start_ns = time_mono_ns();
        c->state = DOCKER_RUNNING;
        start_over(c);
        forget_start(c);
        docker_streams_started(c);
        if (c->kill_signo)
                kill_now(c);
        if (streams_ended(c))
                wait_begin(c);
}

void docker_container_attached(struct docker_container *c)
{
        struct err err = ERR_INIT;
        int r;

        for (unsigned i = 0; i < c->n_streams; i++)
                if (!c->streams[i].open)
                        return;
        if (c->state != DOCKER_ATTACHING || stop_here(c))
                return;
        if (c->is_exec) {
                c->state = DOCKER_RUNNING;
                c->start_ns = time_mono_ns();
                return;
        }
        c->state = DOCKER_STARTING;
        c->start_asked = true;
        r = docker_record_again(c, &err);
        if (r == 0)
                r = container_call(c, "POST", "/start", on_started, &err);
        if (r < 0)
                start_failed(c, r, &err);
}

void docker_container_filled(struct docker_container *c, int r, const struct err *filled)
{
        struct err err = ERR_INIT;

        if (r < 0) {
                if (r != -ENOENT || !start_cold(c, 404, filled->text))
                        start_failed(c, r, filled);
                return;
        }
        if (stop_here(c))
                return;
        c->state = DOCKER_ATTACHING;
        r = docker_streams_open(c, &err);
        if (r < 0)
                start_failed(c, r, &err);
}

/* There is a container. */
static int fill_begin(struct docker_container *c, struct err *err)
{
        c->state = DOCKER_FILLING;
        if (c->files)
                return docker_files_put(c, err);
        c->state = DOCKER_ATTACHING;
        return docker_streams_open(c, err);
}

static void on_created(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        struct err fault = ERR_INIT;

        c->call = NULL;
        if (r < 0) {
                start_failed(c, r, err);
                return;
        }
        if (call->status != 201) {
                call_refused(c, call);
                return;
        }
        /* One of its warnings: "Your kernel does not support cgroup namespaces. …". */
        if (call->body.data && strstr(call->body.data, "cgroup namespaces"))
                docker_find_cgroups(c->docker);
        if (stop_here(c))
                return;
        r = fill_begin(c, &fault);
        if (r < 0)
                start_failed(c, r, &fault);
}

static int create_send(struct docker_container *c, struct err *err)
{
        struct docker *d = c->docker;
        auto_free char *path = str_printf("/containers/create?name=%s", c->name);
        auto_str body = STR_INIT;
        struct docker_request q = { .method = "POST", .path = path };
        int r;

        if (!path || docker_spec_own(d, c->body.data, c->id, c->id, &body) < 0)
                return err_oom(err);
        q.body = body.data;
        q.body_len = body.len;
        c->state = DOCKER_CREATING;
        r = docker_call(d, &q, on_created, c, &c->call, err);
        if (r == 0)
                c->created = true;
        return r;
}

static int start_begin(struct docker_container *c, struct err *err)
{
        struct docker *d = c->docker;
        int r;

        list_remove(&c->start_node);
        c->queued = false;
        c->starting = true;
        d->starting++;
        r = c->warm ? fill_begin(c, err) : create_send(c, err);
        if (r < 0) {
                c->state = DOCKER_NEW;
                start_over(c);
        }
        return r;
}

static void on_turn(struct loop_timer *timer, void *data)
{
        struct docker_container *c = data;
        struct docker *d = c->docker;
        struct docker_container *next;
        struct err err = ERR_INIT;
        int r;

        (void)timer;
        if (!c->queued || stop_here(c))
                return;
        r = start_begin(c, &err);
        if (r < 0) {
                start_failed(c, r, &err);
                return;
        }
        next = LIST_FIRST(&d->starts, struct docker_container, start_node);
        if (next && d->starting < DOCKER_STARTS)
                (void)loop_timer_set(d->loop, &next->timer, time_mono_ns(), on_turn, next);
}

int docker_container_start(struct engine_container *base, struct err *err)
{
        struct docker_container *c = to_docker(base);
        struct docker *d = c->docker;

        if (c->state != DOCKER_NEW || c->queued)
                return err_set(err, EINVAL, "container %s was started already", c->id);
        if (!d->up)
                return err_set(err, ENOTCONN, "%s", d->fault);
        c->create_ns = time_mono_ns();
        if (d->starting < DOCKER_STARTS && list_empty(&d->starts))
                return start_begin(c, err);
        c->queued = true;
        list_append(&d->starts, &c->start_node);
        return 0;
}

/* ── making ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int take_stdin(struct docker_container *c, const struct engine_spec *spec, struct err *err)
{
        c->has_stdin = spec->stdin_fd >= 0 || (spec->stdin_data && spec->stdin_len > 0);
        if (spec->stdin_fd >= 0) {
                c->stdin_fd = fcntl(spec->stdin_fd, F_DUPFD_CLOEXEC, 3);
                return c->stdin_fd < 0 ? err_sys(err, "take over stdin") : 0;
        }
        return c->has_stdin && str_add(&c->stdin_data, spec->stdin_data, spec->stdin_len) < 0 ? err_oom(err) : 0;
}

static int container_fill(struct docker_container *c, const struct engine_spec *spec, struct err *err)
{
        struct docker *d = c->docker;
        const struct docker_image *image = docker_image_find(d, spec->digest);
        const char *workdir = spec->workdir ? spec->workdir : image && image->workdir[0] ? image->workdir : "/";
        const char *user = spec->user ? spec->user : image ? image->user : "";
        int r;

        if (!image)
                return err_set(err, ENOENT, "there is no image %s", spec->digest);
        if (spec->n_secrets > 0)
                return err_set(err, EINVAL, "secrets are not what engine docker can do");
        c->live = spec->live;
        c->init = spec->init;
        c->output_limit = spec->limits.output;
        c->workdir = strdup(workdir);
        if (!c->workdir)
                return err_oom(err);
        c->create_ns = time_mono_ns();
        r = take_stdin(c, spec, err);
        if (r == 0 && spec->n_files > 0) {
                c->files = docker_files_new(c, spec, user, err);
                r = c->files ? 0 : -ENOMEM;
        }
        if (r == 0)
                r = docker_spec_build(d, c, spec, &c->body, err);
        if (r == 0)
                r = docker_output_open(c, err);
        if (r < 0)
                return r;
        c->spec = docker_warm_take(d, c->body.data, c->name, &c->warm);
        c->created = c->warm;
        r = docker_record_write(c, spec->record, spec->record_len, err);
        if (r < 0 && c->warm)
                docker_delete(d, c->name, false);
        return r;
}

int docker_container_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events,
                            void *data, struct engine_container **ret, struct err *err)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);
        struct docker_container *c = docker_container_new(d, spec->id, err);
        int r;

        if (!c)
                return -EINVAL;
        r = container_fill(c, spec, err);
        if (r < 0) {
                docker_container_free(c);
                return r;
        }
        c->base.events = events;
        c->base.data = data;
        *ret = &c->base;
        return 0;
}

/* ── signals ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_kill_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        docker_container_failed(data, ENGINE_END_LOST, 0, "Docker did not end it");
}

static void on_killed(struct docker_call *call, int r, const struct err *err, void *data)
{
        (void)data;
        if (r < 0)
                log_debug("kill: %s", err->text);
        else if (call->status >= 300 && call->status != 409 && call->status != 404)
                log_debug("kill: Docker answered with status %u", call->status);
}

static int send_signal(struct docker_container *c, int signo, struct err *err)
{
        auto_free char *path = str_printf("/containers/%s/kill?signal=%d", c->name, signo);
        const struct docker_request q = { .method = "POST", .path = path };

        return path ? docker_call(c->docker, &q, on_killed, NULL, NULL, err) : err_oom(err);
}

static void on_kill_turn(struct loop_timer *timer, void *data)
{
        struct docker_container *c = data;

        if (send_signal(c, c->kill_signo, NULL) < 0)
                log_debug("container %s: it could not be killed", c->id);
        if (c->kill_signo != SIGKILL)
                return;
        docker_streams_drain(c);
        (void)loop_timer_set(c->docker->loop, timer, time_mono_ns() + CONTAINER_KILL_NS, on_kill_timer, c);
}

/* On a turn of its own: who asks may be within a piece of an answer, where no call can begin. */
static void kill_now(struct docker_container *c)
{
        if (loop_timer_set(c->docker->loop, &c->kill_timer, time_mono_ns(), on_kill_turn, c) < 0)
                log_error("container %s: out of memory", c->id);
}

void docker_container_oom(struct docker_container *c)
{
        if (c->state < DOCKER_STARTING || c->state == DOCKER_ENDED || c->oom)
                return;
        c->oom = true;
        c->kill_signo = SIGKILL;
        if (c->state > DOCKER_STARTING)
                kill_now(c);
}

int docker_container_signal(struct engine_container *base, int signo, struct err *err)
{
        struct docker_container *c = to_docker(base);

        if (c->is_exec)
                return err_set(err, EOPNOTSUPP, "Docker signals containers, and no single processes");
        if (signo < 1 || signo > 64)
                return err_set(err, EINVAL, "there is no signal %d", signo);
        if (c->state == DOCKER_ENDED)
                return 0;
        c->sent |= UINT64_C(1) << (signo - 1);
        if (c->state < DOCKER_RUNNING) {
                if (c->kill_signo != SIGKILL)
                        c->kill_signo = signo;
                if (c->queued && loop_timer_set(c->docker->loop, &c->timer, time_mono_ns(), on_turn, c) < 0)
                        return err_oom(err);
                return 0;
        }
        if (signo != SIGKILL && signo != SIGTERM)
                return send_signal(c, signo, err);
        if (c->kill_signo != SIGKILL)
                c->kill_signo = signo;
        kill_now(c);
        return 0;
}

/* ── statistics ──────────────────────────────────────────────────────────────────────────────────────────────────── */

struct stats_call {
        engine_stats_fn fn;
        void *data;
        uint64_t start_ns;
};

static void on_stats(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct stats_call *s = data;
        struct engine_stats stats = { .start_mono_ns = s->start_ns, .memory_peak = UINT64_MAX };
        struct err fault = ERR_INIT;

        if (r < 0)
                fault = *err;
        else if (call->status == 404 || call->status == 409)
                r = err_set(&fault, ESRCH, "the container does not run");
        else if (call->status != 200 || docker_stats_read(call->body.data, call->body.len, &stats) < 0)
                r = err_set(&fault, EREMOTEIO, "statistics: Docker answered with status %u", call->status);
        s->fn(r, r == 0 ? &stats : NULL, &fault, s->data);
        free(s);
}

int docker_container_stats(struct engine_container *base, engine_stats_fn fn, void *data, struct err *err)
{
        struct docker_container *c = to_docker(base);
        auto_free char *path = str_printf("/containers/%s/stats?stream=false&one-shot=true", c->name);
        const struct docker_request q = { .method = "GET", .path = path, .drop = free };
        struct stats_call *s;
        int r;

        if (c->state < DOCKER_RUNNING || c->state == DOCKER_ENDED || c->is_exec)
                return err_set(err, ESRCH, "container %s does not run", c->id);
        s = path ? calloc(1, sizeof(*s)) : NULL;
        if (!s)
                return err_oom(err);
        *s = (struct stats_call){ .fn = fn, .data = data, .start_ns = c->start_ns };
        r = docker_call(c->docker, &q, on_stats, s, NULL, err);
        if (r < 0)
                free(s);
        return r;
}

void docker_container_attach(struct engine_container *base, enum engine_stream stream, struct engine_output *ret)
{
        const struct docker_output *o = &to_docker(base)->out[stream];

        *ret = (struct engine_output){ .fd = o->mem, .kept = o->kept, .total = o->total };
}

int docker_container_update_record(struct engine_container *base, const void *record, size_t len, struct err *err)
{
        struct docker_container *c = to_docker(base);

        return c->is_exec ? 0 : docker_record_write(c, record, len, err);
}

/* The record goes first: what is left without one is nobody's, and swept. */
void docker_container_remove(struct engine_container *base)
{
        struct docker_container *c = to_docker(base);

        if (!c->is_exec)
                docker_record_remove(c->docker, c->id);
        if (c->created)
                docker_delete(c->docker, c->name, c->state == DOCKER_CREATING || c->exit.end == ENGINE_END_START_ERROR);
        docker_container_free(c);
}
