#include "daemon/node.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/startup.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/builtin.h"
#include "daemon/engines.h"
#include "daemon/notify.h"
#include "daemon/serve.h"
#include "engine/native/native.h"
#include "history/history.h"
#include "image/prune.h"
#include "image/store.h"
#include "image/trust.h"
#include "loop/loop.h"
#include "task/task.h"

#include <errno.h>
#include <signal.h>

/* How long a stop waits for tasks and answers, then (with end_tasks) for cancelled ones. */
#define DRAIN_NS (5 * NS_PER_S)
#define CANCEL_NS (5 * NS_PER_S)
#define DRAIN_LOOK_NS (20 * NS_PER_MS)
/* How long the start waits for an engine that does not answer, when there is another one or it is not ours to start. */
#define ENGINE_ANSWER_NS (3 * NS_PER_S)
/* How long the start waits for all of the engines, so that the first who asks for its health finds it well. */
#define ENGINE_NS (2 * NS_PER_S)
#define ENGINE_LOOK_NS (2 * NS_PER_MS)
#define SWEEP_AGAIN_NS NS_PER_S /* after a launcher that died */

enum node_state { NODE_STARTING, NODE_ADOPTING, NODE_SERVING, NODE_DRAINING, NODE_STOPPED };

struct node {
        const struct config *config;
        enum node_state state;
        int ready_fd;
        bool end_tasks, cancelled;

        struct loop *loop;
        struct history *history;
        struct engines engines;
        struct image_store *store;
        struct registries *registries;
        struct trust *trust;
        struct image_pulls *pulls;
        struct tasks *tasks;
        struct serve serve;

        struct loop_timer drain_timer, engine_timer, sweep_timer;
        uint64_t drain_until_ns, engine_until_ns;
        struct err failure;
};

static void node_move(struct node *n, enum node_state to)
{
        static const bool allowed[NODE_STOPPED + 1][NODE_STOPPED + 1] = {
                [NODE_STARTING] = { [NODE_ADOPTING] = true, [NODE_STOPPED] = true },
                [NODE_ADOPTING] = { [NODE_SERVING] = true, [NODE_STOPPED] = true },
                [NODE_SERVING] = { [NODE_DRAINING] = true, [NODE_STOPPED] = true },
                [NODE_DRAINING] = { [NODE_STOPPED] = true },
        };

        if (!allowed[n->state][to])
                log_error("node: from state %d to %d: this cannot be", n->state, to);
        n->state = to;
}

/* ── end ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void stop(struct node *n, int code)
{
        if (n->state == NODE_STOPPED)
                return;
        node_move(n, NODE_STOPPED);
        loop_stop(n->loop, code);
}

static void cancel_all(struct node *n)
{
        log_info("cancelling %zu tasks", tasks_live(n->tasks));
        tasks_cancel_all(n->tasks);
}

/* With end_tasks nothing runs on, so tasks are waited for and then cancelled, and those who wait get their answers.
 * Without, what runs is the next daemon's; answers are waited for only. */
static void drain_look(struct loop_timer *timer, void *data)
{
        struct node *n = data;
        uint64_t now = time_mono_ns();
        bool done = api_open(n->serve.api) == 0 && (!n->end_tasks || tasks_live(n->tasks) == 0);

        if (!done && now >= n->drain_until_ns && n->end_tasks && !n->cancelled) {
                n->cancelled = true;
                n->drain_until_ns = now + CANCEL_NS;
                cancel_all(n);
        }
        if (done || now >= n->drain_until_ns || loop_timer_set(n->loop, timer, now + DRAIN_LOOK_NS, drain_look, n) < 0)
                stop(n, 0);
}

static void on_stop_signal(int signo, void *data)
{
        struct node *n = data;

        if (n->state != NODE_SERVING) {
                stop(n, 0);
                return;
        }
        log_info("signal %d: draining", signo);
        notify_send("STOPPING=1");
        node_move(n, NODE_DRAINING);
        api_drain(n->serve.api);
        tasks_drain(n->tasks);
        n->drain_until_ns = time_mono_ns() + DRAIN_NS;
        drain_look(&n->drain_timer, n);
}

static void on_reload_signal(int signo, void *data)
{
        struct node *n = data;

        (void)signo;
        serve_reload(&n->serve);
}

static void fail(struct node *n, const struct err *why)
{
        n->failure = *why;
        stop(n, -(why->num ? why->num : EIO));
}

/* ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void sweep(struct loop_timer *timer, void *data);

static void swept(int r, const struct err *err, void *data)
{
        struct node *n = data;

        if (r < 0)
                log_warn("sweep images: %s", err->text);
        engine_native_hold(n->engines.native, false);
        if (r == -ENOTCONN)
                (void)loop_timer_set(n->loop, &n->sweep_timer, time_mono_ns() + SWEEP_AGAIN_NS, sweep, n);
}

static void sweep(struct loop_timer *timer, void *data)
{
        struct node *n = data;
        struct err err = ERR_INIT;

        (void)timer;
        if (n->state <= NODE_SERVING && image_store_sweep(n->store, swept, n, &err) < 0)
                swept(-err.num, &err, n);
}

static int serve(struct node *n, struct err *err)
{
        struct api_config config = {
                .tasks = n->tasks,
                .store = n->store,
                .pulls = n->pulls,
                .no_images = engines_no_images(&n->engines),
                .registries = n->registries,
                .history = n->history,
                .engines = n->engines.all,
                .n_engines = n->engines.n,
                .health_image = BUILTIN_HEALTH_REF,
        };

        return serve_start(&n->serve, n->loop, &config, err);
}

static void serve_now(struct node *n)
{
        struct err why = ERR_INIT;

        if (n->state != NODE_ADOPTING)
                return;
        if (serve(n, &why) < 0) {
                fail(n, &why);
                return;
        }
        /* Without the native engine nothing is unpacked. */
        if (n->engines.native)
                sweep(NULL, n);
        node_move(n, NODE_SERVING);
        log_info("serving on %s/mayfly.sock, %zu tasks taken over", n->config->run, tasks_live(n->tasks));
        notify_send("READY=1");
        if (n->ready_fd >= 0)
                (void)!write(n->ready_fd, "ready\n", 6);
        fd_replace(&n->ready_fd, -EBADF);
        startup_forget();
}

static bool engines_are_well(const struct node *n)
{
        for (size_t i = 0; i < n->engines.n; i++)
                if (n->engines.all[i]->ops->check(n->engines.all[i], NULL) < 0)
                        return false;
        return true;
}

/* With a part of its engines missing for longer, a node serves, and health says what is wrong. */
static void engine_look(struct loop_timer *timer, void *data)
{
        struct node *n = data;
        uint64_t now = time_mono_ns();

        if (engines_are_well(n) || now >= n->engine_until_ns ||
            loop_timer_set(n->loop, timer, now + ENGINE_LOOK_NS, engine_look, n) < 0)
                serve_now(n);
}

/* Without its built-in image, too. */
static void builtin_done(int r, const struct err *err, void *data)
{
        struct node *n = data;

        if (r < 0)
                log_warn("the built-in image: %s", err->text);
        n->engine_until_ns = time_mono_ns() + ENGINE_NS;
        engine_look(&n->engine_timer, n);
}

/* Every task of an earlier daemon is known: only now may a client ask for one. */
static void adopted(int r, const struct err *err, void *data)
{
        struct err why = ERR_INIT;
        struct node *n = data;

        if (n->state != NODE_ADOPTING)
                return;
        if (r < 0) {
                why = *err;
                (void)err_wrap(&why, "take over what runs");
                fail(n, &why);
                return;
        }
        if (!n->engines.native) {
                builtin_done(0, NULL, n);
                return;
        }
        r = builtin_install(n->store, builtin_done, n, &why);
        if (r < 0)
                builtin_done(r, &why, n);
}

static int open_history(struct node *n, struct err *err)
{
        auto_free char *path = str_printf("%s/state/history.db", n->config->data);
        const struct history_config config = {
                .path = path,
                .max_tasks = n->config->history.max_tasks,
                .max_bytes = n->config->history.max_bytes,
                .max_age_ms = n->config->history.max_age_ms,
        };

        if (!path)
                return err_oom(err);
        return history_open(n->loop, &config, &n->history, err);
}

/* Those that wait for their start have an image, too. */
static int images_in_use(void *data, struct map *digests)
{
        static char used;
        struct node *n = data;
        struct task *t;
        size_t pos = 0;
        int r = 0;

        while (r == 0 && n->tasks && (t = tasks_next(n->tasks, &pos))) {
                struct wire_task told;
                const struct image *image;

                task_describe(t, &told);
                if (told.status >= WIRE_EXITED)
                        continue;
                image = told.image_digest ? image_store_by_digest(n->store, told.image_digest) : NULL;
                if (!image && told.image_ref)
                        image = image_store_find(n->store, told.image_ref, NULL);
                if (image)
                        r = map_set(digests, image->digest, &used);
        }
        return r;
}

static int open_images(struct node *n, struct err *err)
{
        auto_free char *dir = str_printf("%s/state/images", n->config->data);
        auto_free char *trees = n->engines.native ? str_printf("%s/store", n->config->data) : NULL;
        const struct image_store_config config = {
                .dir = dir,
                .trees_dir = trees,
                .parallel = n->config->images.parallel,
                .high_water = n->config->images.high_water,
                .low_water = n->config->images.low_water,
                .keep_for_ms = n->config->images.keep_for_ms,
                .max_layer_bytes = n->config->images.max_layer_bytes,
                .max_archive_bytes = n->config->images.max_archive_bytes,
        };
        int r;

        if (!dir || (n->engines.native && !trees))
                return err_oom(err);
        r = image_store_open(n->loop, &config, engines_workers(&n->engines), &n->store, err);
        if (r == 0)
                image_store_set_users(n->store, images_in_use, n);
        return r;
}

static bool kept_login(const char *owner, const char *registry, struct str *username, struct str *password, void *data)
{
        const struct node *n = data;

        return logins_find(n->serve.logins, owner, registry, username, password);
}

static int open_pulls(struct node *n, struct err *err)
{
        const struct config *c = n->config;
        const struct registries_config registries = {
                .enabled = c->registries.enabled,
                .insecure = c->registries.insecure,
                .allow = c->registries.allow,
                .realms = c->registries.realms,
                .mirrors = c->registries.mirrors,
                .proxy = c->registries.proxy,
                .no_proxy = c->registries.no_proxy,
                .ca_dir = c->registries.certs,
                .retries = c->registries.retries,
                .stall_s = (unsigned)(c->registries.stall_ms / 1000),
                .connect_ms = (unsigned)c->registries.connect_ms,
                .wait_max_s = (unsigned)(c->registries.wait_max_ms / 1000),
        };
        struct image_pulls_config pulls = {
                .store = n->store,
                .kept = kept_login,
                .kept_data = n,
                .parallel = c->registries.parallel,
                .proof_fresh_ms = c->registries.proof_ms,
                .proof_hold_ms = c->registries.proof_hold_ms,
                .tag_max_age_ms = c->registries.tag_max_age_ms,
        };
        const struct trust_config trust = {
                .keys = c->trust.keys,
                .signed_by = c->trust.signed_by,
                .pinned = c->trust.pinned,
        };
        int r = registries_new(n->loop, &registries, &n->registries, err);

        if (r == 0)
                r = trust_new(&trust, &n->trust, err);
        pulls.registries = n->registries;
        pulls.trust = n->trust;
        if (r == 0)
                r = image_pulls_new(n->loop, &pulls, &n->pulls, err);
        if (r == 0)
                engines_join(&n->engines, n->store, n->pulls);
        return r;
}

static int make_tasks(struct node *n, struct err *err)
{
        const struct tasks_config config = {
                .max_running = n->config->tasks.max_running,
                .max_queued = n->config->tasks.max_queued,
                .overcommit = n->config->tasks.overcommit,
                .reserve = n->config->tasks.reserve,
                .network = engines_network(n->config),
                .seal = n->serve.seal,
                .max_kept = n->config->history.max_waiting,
                .max_running_owner = n->config->limits.key_running,
                .max_queued_owner = n->config->limits.key_queued,
                .keys = n->serve.keys,
                .more_engines = n->engines.all + 1,
                .n_more_engines = n->engines.n - 1,
                .engines_wait_ns = n->engines.docker ? ENGINE_ANSWER_NS : 0,
        };

        return tasks_new(n->loop, n->engines.all[0], n->history, &config, &n->tasks, err);
}

static int wire(struct node *n, struct err *err)
{
        static const int signals[] = { SIGTERM, SIGINT };
        int r;

        r = loop_new(&n->loop, err);
        for (size_t i = 0; i < ARRAY_LEN(signals) && r == 0; i++)
                r = loop_signal_add(n->loop, signals[i], on_stop_signal, n, err);
        if (r == 0)
                r = loop_signal_add(n->loop, SIGHUP, on_reload_signal, n, err);
        if (r == 0)
                r = serve_open(&n->serve, n->loop, err);
        if (r == 0)
                r = open_history(n, err);
        if (r == 0)
                r = engines_open(&n->engines, n->loop, n->config, err);
        if (r == 0)
                r = open_images(n, err);
        if (r == 0)
                r = open_pulls(n, err);
        if (r == 0)
                r = make_tasks(n, err);
        return r;
}

int node_new(const struct node_config *config, struct node **ret, struct err *err)
{
        struct node *n;
        int r;

        n = calloc(1, sizeof(*n));
        if (!n)
                return err_oom(err);
        n->config = config->config;
        n->serve.config = config->config;
        n->serve.reload_path = config->reload_config;
        n->serve.reload_args = config->reload_args;
        n->serve.n_reload_args = config->n_reload_args;
        n->serve.n_fds = MIN(config->n_listen_fds, ARRAY_LEN(n->serve.fds));
        for (size_t i = 0; i < n->serve.n_fds; i++)
                n->serve.fds[i] = config->listen_fds[i];
        n->ready_fd = config->ready_fd;
        n->end_tasks = config->end_tasks;
        r = wire(n, err);
        if (r < 0)
                node_free(n);
        else
                *ret = n;
        return r;
}

int node_run(struct node *n, struct err *err)
{
        int r;

        node_move(n, NODE_ADOPTING);
        if (n->engines.native)
                engine_native_hold(n->engines.native, true);
        r = tasks_adopt(n->tasks, adopted, n, err);
        if (r < 0)
                return r;
        r = loop_run(n->loop, err);
        if (r < 0 && n->failure.num && err)
                *err = n->failure;
        return r;
}

void node_free(struct node *n)
{
        if (!n)
                return;
        loop_timer_cancel(&n->drain_timer);
        loop_timer_cancel(&n->engine_timer);
        loop_timer_cancel(&n->sweep_timer);
        api_free(n->serve.api);
        if (n->tasks)
                tasks_free(n->tasks);
        engines_leave(&n->engines);
        image_pulls_free(n->pulls);
        registries_free(n->registries);
        trust_free(n->trust);
        if (n->store)
                image_store_close(n->store);
        engines_close(&n->engines);
        if (n->history)
                history_close(n->history);
        serve_done(&n->serve);
        loop_free(n->loop);
        fd_replace(&n->ready_fd, -EBADF);
        free(n);
}
