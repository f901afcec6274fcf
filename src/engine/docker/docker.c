#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DOCKER_LOST_NS (30 * NS_PER_S)
#define DOCKER_PING_NS (10 * NS_PER_S) /* while it answers */
#define DOCKER_AGAIN_NS (500 * NS_PER_MS)
#define DOCKER_PING_S 10u
#define DOCKER_FINISH_NS (10 * NS_PER_S) /* at the end, for what is to be deleted */
#define DOCKER_DELETES 8                 /* at a time */
#define DOCKER_UNSURE 4                  /* times that "no such container" is not believed: it may be being made */

static struct docker *to_docker(struct engine *e)
{
        return CONTAINER_OF(e, struct docker, engine);
}

/* ── the circuit breaker ─────────────────────────────────────────────────────────────────────────────────────────── */

static void on_ping_timer(struct loop_timer *timer, void *data);

static void ping_at(struct docker *d, uint64_t in_ns)
{
        if (loop_timer_set(d->loop, &d->ping_timer, time_mono_ns() + in_ns, on_ping_timer, d) < 0)
                log_error("out of memory");
}

static void breaker_open(struct docker *d, const char *why)
{
        (void)snprintf(d->fault, sizeof(d->fault), "Docker cannot be used (%s): %.120s", d->host.shown, why);
        if (d->up)
                log_warn("%s", d->fault);
        d->up = false;
}

/* One answer that did not come may be that call's fault; then whether Docker is there is asked at once. */
void docker_report(struct docker *d, int r, const struct err *err)
{
        if (r == 0 || r == -EMSGSIZE || r == -EBADMSG || r == -EREMOTEIO || r == -EFBIG || r == -E2BIG) {
                d->failures = 0;
                return;
        }
        d->failures++;
        if (r == -ECONNREFUSED || r == -ENOENT || d->failures >= 3)
                breaker_open(d, err->text);
        if (!d->ping)
                ping_at(d, d->failures > 1 ? DOCKER_AGAIN_NS : 0);
}

static void deletes_go_on(struct docker *d);

void docker_known(struct docker *d, int r, const struct err *err)
{
        if (r < 0) {
                breaker_open(d, err->text);
                ping_at(d, DOCKER_AGAIN_NS);
                return;
        }
        d->up = true;
        log_info("%s %s answers (%s, API %s)", d->podman ? "Podman" : "Docker", d->version, d->host.shown,
                 d->prefix + 2);
        for (size_t i = 0; i < d->n_findings; i++)
                log_warn("%s: %s", d->host.shown, d->findings[i]);
        ping_at(d, DOCKER_PING_NS);
        docker_watch(d);
        docker_list_begin(d);
        deletes_go_on(d);
        if (d->watcher)
                d->watcher(&d->engine, d->watcher_data);
}

static void on_ping(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;
        struct err fault = ERR_INIT;

        d->ping = NULL;
        if (r < 0)
                fault = *err;
        else if (call->status != 200)
                r = err_set(&fault, EREMOTEIO, "GET /version: status %u", call->status);
        else
                r = docker_version_read(d, call->body.data, call->body.len, &fault);
        if (r == 0 && !d->up)
                r = docker_info_begin(d, &fault);
        else if (r == 0) {
                ping_at(d, DOCKER_PING_NS);
                docker_watch(d);
                docker_list_begin(d);
                docker_recount(d);
                deletes_go_on(d);
        }
        if (r < 0)
                docker_known(d, r, &fault);
}

static void on_ping_timer(struct loop_timer *timer, void *data)
{
        struct docker *d = data;
        const struct docker_request q = {
                .method = "GET", .path = "/version", .unversioned = true, .timeout_s = MIN(d->timeout_s, DOCKER_PING_S)
        };

        (void)timer;
        if (d->ping)
                return;
        if (docker_call(d, &q, on_ping, d, &d->ping, NULL) < 0)
                ping_at(d, DOCKER_AGAIN_NS);
}

/* ── deleting ────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct docker_delete {
        struct list node;
        struct docker *docker;
        uint64_t at_ns;
        unsigned attempts, unsure;
        bool running;
        char name[DOCKER_NAME_MAX];
};

static void on_delete_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        deletes_go_on(data);
}

static void delete_again(struct docker_delete *x)
{
        struct docker *d = x->docker;

        x->attempts++;
        x->at_ns = time_mono_ns() + MIN(x->attempts, 20u) * DOCKER_AGAIN_NS;
        list_append(&d->deletes, &x->node);
}

static void on_deleted(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_delete *x = data;
        struct docker *d = x->docker;
        bool gone = r == 0 && call->status == 204;

        (void)err;
        d->deleting--;
        list_remove(&x->node);
        x->running = false;
        if (r == 0 && call->status == 404)
                gone = x->unsure == 0 || --x->unsure == 0;
        if (gone)
                free(x);
        else
                delete_again(x);
        deletes_go_on(d);
}

static int delete_send(struct docker_delete *x)
{
        auto_free char *path = str_printf("/containers/%s?force=true&v=true", x->name);
        const struct docker_request q = { .method = "DELETE", .path = path };

        return path ? docker_call(x->docker, &q, on_deleted, x, NULL, NULL) : -ENOMEM;
}

static void deletes_go_on(struct docker *d)
{
        uint64_t now = time_mono_ns(), next = TIME_NEVER;
        struct docker_delete *x;

        if (!d->up)
                return;
        LIST_FOREACH(x, &d->deletes, node) {
                if (d->deleting >= DOCKER_DELETES)
                        return;
                if (x->running)
                        continue;
                if (x->at_ns <= now && delete_send(x) == 0) {
                        x->running = true;
                        d->deleting++;
                } else {
                        next = MIN(next, MAX(x->at_ns, now + NS_PER_MS));
                }
        }
        if (next != TIME_NEVER)
                (void)loop_timer_set(d->loop, &d->delete_timer, next, on_delete_timer, d);
}

bool docker_deletes(const struct docker *d, const char *name)
{
        const struct docker_delete *x;

        LIST_FOREACH(x, &d->deletes, node) {
                if (str_eq(x->name, name))
                        return true;
        }
        return false;
}

void docker_delete(struct docker *d, const char *name, bool unsure)
{
        struct docker_delete *x = calloc(1, sizeof(*x));

        if (!x) {
                log_error("container %s is left behind: out of memory", name);
                return;
        }
        x->docker = d;
        x->unsure = unsure ? DOCKER_UNSURE : 0;
        (void)snprintf(x->name, sizeof(x->name), "%s", name);
        list_init(&x->node);
        list_append(&d->deletes, &x->node);
        deletes_go_on(d);
}

/* ── the engine ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int docker_check(struct engine *e, struct err *err)
{
        const struct docker *d = to_docker(e);

        return d->up ? 0 : err_set(err, ENOTCONN, "%s", d->fault);
}

static const char *docker_notice(const struct engine *e)
{
        const struct docker *d = CONTAINER_OF(e, const struct docker, engine);

        return !d->up ? NULL : d->hindered ? d->findings[0] : d->strangers;
}

static void calls_cancel(struct docker *d)
{
        struct docker_delete *x;
        struct docker_call *call;

        while ((call = LIST_FIRST(&d->calls, struct docker_call, node))) {
                if (call->drop)
                        call->drop(call->data);
                docker_call_cancel(call);
        }
        LIST_FOREACH(x, &d->deletes, node)
                x->running = false;
        d->deleting = 0;
        d->ping = d->watch = NULL;
}

/* What is to be deleted is: nobody else would, until the next daemon comes. Nobody is told anything any more. */
static void deletes_finish(struct docker *d)
{
        uint64_t end = time_mono_ns() + DOCKER_FINISH_NS;

        d->listed = true;
        d->watcher = NULL;
        deletes_go_on(d);
        while (d->up && !list_empty(&d->deletes) && time_mono_ns() < end)
                if (loop_turn(d->loop, 100, NULL) < 0)
                        return;
}

static void docker_free(struct engine *e)
{
        struct docker *d = to_docker(e);
        struct docker_container *c;
        struct docker_delete *x;

        while ((c = LIST_FIRST(&d->containers, struct docker_container, node)))
                docker_container_free(c);
        docker_warm_done(d);
        docker_pulls_done(d);
        calls_cancel(d);
        deletes_finish(d);
        calls_cancel(d);
        while ((x = LIST_FIRST(&d->deletes, struct docker_delete, node))) {
                list_remove(&x->node);
                free(x);
        }
        fetcher_free(d->fetcher);
        loop_timer_cancel(&d->ping_timer);
        loop_timer_cancel(&d->delete_timer);
        docker_images_free(d);
        docker_lines_done(&d->events);
        docker_info_done(d);
        fd_close(d->records);
        docker_tls_free(d->tls);
        docker_host_done(&d->host);
        free(d->name);
        free(d);
}

static const struct engine_ops docker_ops = {
        .name = "docker",
        .features = ENGINE_F_SURVIVES_DAEMON | ENGINE_F_COPY_OUT | ENGINE_F_LIVE | ENGINE_F_EXEC | ENGINE_F_COPY_IN |
                    ENGINE_F_NETWORKS,
        .ensure_image = docker_ensure_image,
        .create = docker_container_create,
        .start = docker_container_start,
        .attach = docker_container_attach,
        .signal = docker_container_signal,
        .stats = docker_container_stats,
        .pause = docker_container_pause,
        .cancel_image = docker_cancel_image,
        .about = docker_about,
        .copy_out = docker_container_copy_out,
        .update_record = docker_container_update_record,
        .remove = docker_container_remove,
        .list = docker_list,
        .exec = docker_container_exec,
        .copy_in = docker_container_copy_in,
        .network_attach = docker_container_network_attach,
        .network_detach = docker_container_network_detach,
        .check = docker_check,
        .notice = docker_notice,
        .free = docker_free,
};

static int open_records(struct docker *d, const char *path, struct err *err)
{
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_sys(err, "make '%s'", path);
        d->records = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return d->records < 0 ? err_sys(err, "open '%s'", path) : docker_node_open(d, path, err);
}

static int docker_open(struct docker *d, const struct engine_docker_config *config, struct err *err)
{
        const struct fetcher_config fetcher = { .max_connections = 1024, .max_connections_per_host = 1024 };
        int r = docker_host_parse(config, &d->host, err);

        if (r < 0)
                return r;
        if (strspn(config->name, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(config->name) || !config->name[0] ||
            strlen(config->name) > DOCKER_NAME_MAX - DOCKER_ID_MAX - 2)
                return err_set(err, EINVAL, "'%s' is no name of an instance", config->name);
        d->name = strdup(config->name);
        d->images = map_new();
        if (!d->name || !d->images)
                return err_oom(err);
        (void)snprintf(d->fault, sizeof(d->fault), "Docker cannot be used (%s): it has not answered yet",
                       d->host.shown);
        r = open_records(d, config->records, err);
        if (r == 0)
                r = fetcher_new(d->loop, &fetcher, &d->fetcher, err);
        if (r == 0 && loop_timer_set(d->loop, &d->ping_timer, time_mono_ns(), on_ping_timer, d) < 0)
                r = err_oom(err);
        return r;
}

int engine_docker_new(struct loop *loop, const struct engine_docker_config *config, struct engine **ret,
                      struct err *err)
{
        struct docker *d = calloc(1, sizeof(*d));
        int r;

        if (!d)
                return err_oom(err);
        d->engine.ops = &docker_ops;
        d->loop = loop;
        d->records = -EBADF;
        d->lost_ns = config->lost_ns ? config->lost_ns : DOCKER_LOST_NS;
        d->timeout_s = config->timeout_s ? config->timeout_s : DOCKER_CALL_S;
        list_init(&d->calls);
        list_init(&d->starts);
        list_init(&d->containers);
        list_init(&d->pulls);
        list_init(&d->wants);
        list_init(&d->copies);
        list_init(&d->deletes);
        list_init(&d->warm_specs);
        list_init(&d->images_used);
        d->prewarm = MIN(config->prewarm, (unsigned)ENGINE_DOCKER_PREWARM_MAX);
        r = docker_open(d, config, err);
        if (r < 0) {
                docker_free(&d->engine);
                return r;
        }
        *ret = &d->engine;
        return 0;
}
