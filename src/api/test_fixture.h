/* For the tests of the API: the real tasks, history and keys, an engine that only pretends, and a store with one image. */
#pragma once

#include "api/api.h"

#include "base/fd.h"
#include "base/list.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "http/client.h"
#include "image/prune.h"
#include "image/save.h"
#include "image/test_no_pulls.h"
#include "image/verify.h"
#include "state/db.h"
#include "state/keys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* ── the engine: cmd[0] says what becomes of a container ───────────────────────────────────────────────────────────── */

struct fake_container {
        struct engine_container base;
        struct engine_exit exit;
        struct loop_timer timer;
        int out[2];
        uint64_t total[2];
        bool running, sleeps;
        struct list node;
};

struct fake_engine {
        struct engine base;
        struct loop *loop;
        struct list containers;
        atomic_int broken, live, started, hindered;
};

struct image_call {
        engine_image_fn fn;
        void *data;
        char ref[128];
        struct loop_timer timer;
};

static inline void image_known(struct loop_timer *timer, void *data)
{
        static const struct engine_image image = { .ref = "docker.io/library/busybox:demo", .digest = "sha256:1234" };
        struct image_call *c = data;
        struct err err = ERR_INIT;
        int r = 0;

        (void)timer;
        if (str_eq(c->ref, "none"))
                r = err_set(&err, ENOENT, "there is no such image");
        else if (str_eq(c->ref, "theirs"))
                r = err_set(&err, EACCES, "it is not yours");
        else if (str_eq(c->ref, "far"))
                r = err_set(&err, EHOSTUNREACH, "no way there");
        else if (str_eq(c->ref, "busy"))
                r = err_set(&err, EBUSY, "too many requests");
        else if (str_eq(c->ref, "wrong"))
                r = err_set(&err, EBADMSG, "digest mismatch");
        else if (str_eq(c->ref, "strange"))
                r = err_set(&err, EOPNOTSUPP, "an artifact");
        else if (str_eq(c->ref, "unsigned"))
                r = err_set(&err, EKEYREJECTED, "no signature");
        else if (str_eq(c->ref, "rotten"))
                r = err_set(&err, EUCLEAN, "it is damaged");
        else if (str_eq(c->ref, "large"))
                r = err_set(&err, ENOSPC, "no space");
        c->fn(r, r < 0 ? NULL : &image, &err, c->data);
        free(c);
}

static inline int fake_ensure_image(struct engine *e, const struct engine_image_request *request, engine_image_fn fn,
                                    void *data, struct err *err)
{
        struct fake_engine *fake = (struct fake_engine *)e;
        struct image_call *c = calloc(1, sizeof(*c));

        (void)err;
        c->fn = fn;
        c->data = data;
        (void)snprintf(c->ref, sizeof(c->ref), "%s", request->ref);
        return loop_timer_set(fake->loop, &c->timer, 0, image_known, c);
}

static inline void say(struct fake_container *c, int stream, const void *data, size_t len)
{
        (void)fd_write_all(c->out[stream], data, len);
        c->total[stream] += len;
}

static inline int fake_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events,
                              void *data, struct engine_container **ret, struct err *err)
{
        const char *what = spec->cmd && spec->cmd[0] ? spec->cmd[0] : "true";
        struct fake_container *c;

        if (str_eq(what, "uncreatable"))
                return err_set(err, EIO, "cannot be made");
        c = calloc(1, sizeof(*c));
        c->base = (struct engine_container){ .engine = e, .events = events, .data = data };
        c->out[0] = memfd_create("out", MFD_CLOEXEC);
        c->out[1] = memfd_create("err", MFD_CLOEXEC);
        c->exit.end = ENGINE_END_EXITED;
        c->exit.cpu_ns = 1000;
        c->exit.memory_peak = 4096;
        if (str_eq(what, "cat"))
                say(c, 0, spec->stdin_data, spec->stdin_len);
        else if (str_eq(what, "echo"))
                say(c, 1, "x", 1);
        else if (str_eq(what, "sleep"))
                c->sleeps = true;
        else if (str_eq(what, "missing"))
                c->exit.end = ENGINE_END_NOT_FOUND;
        else if (str_eq(what, "broken"))
                c->exit.end = ENGINE_END_START_ERROR;
        atomic_fetch_add(&((struct fake_engine *)e)->live, 1);
        list_append(&((struct fake_engine *)e)->containers, &c->node);
        *ret = &c->base;
        return 0;
}

static inline void fake_ended(struct loop_timer *timer, void *data)
{
        struct fake_container *c = data;

        (void)timer;
        c->running = false;
        c->base.events->exited(&c->base, &c->exit, c->base.data);
}

static inline int fake_start(struct engine_container *base, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;
        struct fake_engine *fake = (struct fake_engine *)base->engine;

        (void)err;
        c->running = true;
        c->exit.create_mono_ns = c->exit.start_mono_ns = c->exit.end_mono_ns = 1;
        atomic_fetch_add(&fake->started, 1);
        return c->sleeps ? 0 : loop_timer_set(fake->loop, &c->timer, 0, fake_ended, c);
}

static inline void fake_attach(struct engine_container *base, enum engine_stream stream, struct engine_output *ret)
{
        struct fake_container *c = (struct fake_container *)base;

        *ret = (struct engine_output){ .fd = c->out[stream], .kept = c->total[stream], .total = c->total[stream] };
}

static inline int fake_signal(struct engine_container *base, int signo, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;

        (void)err;
        if (!c->running)
                return 0;
        c->exit.end = ENGINE_END_SIGNALED;
        c->exit.signo = signo;
        return loop_timer_set(((struct fake_engine *)base->engine)->loop, &c->timer, 0, fake_ended, c);
}

static inline int fake_update_record(struct engine_container *c, const void *record, size_t len, struct err *err)
{
        (void)c;
        (void)record;
        (void)len;
        (void)err;
        return 0;
}

static inline void fake_remove(struct engine_container *base)
{
        struct fake_container *c = (struct fake_container *)base;

        list_remove(&c->node);
        loop_timer_cancel(&c->timer);
        fd_close(c->out[0]);
        fd_close(c->out[1]);
        atomic_fetch_sub(&((struct fake_engine *)base->engine)->live, 1);
        free(c);
}

static inline int fake_check(struct engine *e, struct err *err)
{
        int number = atomic_load(&((struct fake_engine *)e)->broken);

        return number ? err_set(err, number, "the launcher does not answer") : 0;
}

static inline const char *fake_notice(const struct engine *e)
{
        return atomic_load(&((const struct fake_engine *)e)->hindered) ? "a firewall drops what tasks send" : NULL;
}

static const struct engine_ops fake_ops = {
        .name = "fake",
        .ensure_image = fake_ensure_image,
        .create = fake_create,
        .start = fake_start,
        .attach = fake_attach,
        .signal = fake_signal,
        .update_record = fake_update_record,
        .remove = fake_remove,
        .check = fake_check,
        .notice = fake_notice,
};

/* ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct image_store {
        struct loop *loop;
        atomic_int images;
};

#define SINK_ROOM 1000000
struct image_sink {
        struct image_store *store;
        size_t len;
        bool roomed;
};

static char image_name[] = "docker.io/library/busybox:demo", *image_names[] = { image_name, NULL };
static char image_layers[1][65] = { "ab" };
static char *image_cmd[] = { (char *)"true", NULL };
static struct image image = {
        .digest = "sha256:1234",
        .architecture = "amd64",
        .os = "linux",
        .created = "2026-01-01T00:00:00Z",
        .names = image_names,
        .cmd = image_cmd,
        .layers = image_layers,
        .n_layers = 1,
        .size = 42,
};

const struct image *image_store_find(struct image_store *s, const char *ref, struct err *err)
{
        if (strchr(ref, '!')) {
                (void)err_set(err, EINVAL, "reference '%s' is not valid", ref);
                return NULL;
        }
        return atomic_load(&s->images) > 0 && (str_eq(ref, "busybox:demo") || str_eq(ref, image_name)) ? &image : NULL;
}

const struct image *image_store_by_digest(struct image_store *s, const char *digest)
{
        return atomic_load(&s->images) > 0 && str_eq(digest, image.digest) ? &image : NULL;
}

const char *const image_layer_states[] = { NULL };

bool image_pulls_next(struct image_pulls *p, size_t *pos, struct image_pull_progress *ret)
{
        (void)p;
        (void)pos;
        (void)ret;
        return false;
}

bool image_pulls_may_use(const struct image_pulls *p, const char *owner, const struct image *i)
{
        (void)p;
        (void)owner;
        (void)i;
        return true;
}

bool image_pulls_may_know(const struct image_pulls *p, const char *owner, const char *name)
{
        (void)p;
        (void)owner;
        return !strstr(name, "secret");
}

bool image_is_builtin(const struct image *i)
{
        (void)i;
        return false;
}

const struct image *image_store_next(struct image_store *s, size_t *pos)
{
        return (*pos)++ < (size_t)atomic_load(&s->images) ? &image : NULL;
}

int image_user_resolve(struct image_store *s, const struct image *i, const char *user, struct image_user *ret,
                       struct err *err)
{
        (void)s;
        (void)i;
        memset(ret, 0, sizeof(*ret));
        return str_eq(user, "nobody") ? 0 : err_set(err, EINVAL, "the image has no user '%s'", user);
}

const char *const image_sources[] = { "unknown", "pull", "load", "import", NULL };

bool image_store_layer_info(struct image_store *s, const struct image *of, size_t n, const struct image_audience *who,
                            struct image_layer_info *ret)
{
        (void)s;
        (void)who;
        *ret = (struct image_layer_info){ .digest = "sha256:cd", .diff_id = "sha256:ab", .size = 7, .unpacked = -1 };
        return n < of->n_layers;
}

int image_store_bytes(struct image_store *s, const struct image *i, const struct image_audience *who,
                      struct image_bytes *ret)
{
        (void)s;
        (void)who;
        (void)i;
        *ret = (struct image_bytes){ .unique = 7, .unpacked = 9, .freed = 16 };
        return 0;
}

int image_sink_open(struct image_store *s, enum image_sink_kind kind, const char *ref, char *const *changes,
                    struct image_sink **ret, struct err *err)
{
        if (kind == IMAGE_IMPORT && strchr(ref, '!'))
                return err_set(err, EINVAL, "reference '%s' is not valid", ref);
        if (kind == IMAGE_IMPORT && changes[0] && (!str_eq(changes[0], "CMD true") || !changes[1]))
                return err_set(err, EINVAL, "changes");
        *ret = calloc(1, sizeof(**ret));
        (*ret)->store = s;
        return 0;
}

struct store_call {
        image_loaded_fn loaded;
        image_done_fn done;
        void *data;
        int r;
        struct loop_timer timer;
};

static inline void store_called(struct loop_timer *timer, void *data)
{
        const char *const digests[] = { image.digest };
        struct store_call *c = data;
        struct err err = ERR_INIT;

        (void)timer;
        if (c->r < 0)
                (void)err_set(&err, -c->r, "it did not work");
        if (c->loaded)
                c->loaded(c->r, digests, c->r < 0 ? 0 : 1, &err, c->data);
        else
                c->done(c->r, &err, c->data);
        free(c);
}

static atomic_uint_fast64_t store_delay_ns __attribute__((unused)); /* of the next calls */

static inline int store_call(struct image_store *s, int r, image_loaded_fn loaded, image_done_fn done, void *data)
{
        struct store_call *c = calloc(1, sizeof(*c));
        uint64_t delay = atomic_load(&store_delay_ns);

        c->loaded = loaded;
        c->done = done;
        c->data = data;
        c->r = r;
        return loop_timer_set(s->loop, &c->timer, delay > 0 ? time_mono_ns() + delay : 0, store_called, c);
}

int image_sink_write(struct image_sink *sink, const void *data, size_t len, struct err *err)
{
        (void)data;
        if (sink->len + len > SINK_ROOM && !sink->roomed)
                return err_set(err, ENOSPC, "the disk is full");
        sink->len += len;
        return 0;
}

static atomic_int rooms __attribute__((unused)); /* that can be made; each once */

int image_sink_make_room(struct image_sink *sink, image_done_fn fn, void *data, struct err *err)
{
        if (sink->roomed || atomic_load(&rooms) == 0)
                return err_set(err, ENOSPC, "nothing may go");
        sink->roomed = atomic_fetch_sub(&rooms, 1) > 0;
        return store_call(sink->store, 0, NULL, fn, data);
}

int image_sink_own(struct image_sink *sink, const char *owner, struct err *err)
{
        (void)sink;
        (void)owner;
        (void)err;
        return 0;
}

int image_store_tag_by(struct image_store *s, const char *owner, const char *ref, const char *name, image_done_fn fn,
                       void *data, struct err *err)
{
        (void)owner;
        (void)ref;
        return strchr(name, '!') ? err_set(err, EINVAL, "bad name") : store_call(s, 0, NULL, fn, data);
}

int image_store_pin(struct image_store *s, const char *ref, bool pinned, image_done_fn fn, void *data, struct err *err)
{
        (void)ref;
        (void)err;
        image.pinned = pinned;
        return store_call(s, 0, NULL, fn, data);
}

static inline void one_pruned(struct image_prune_result *ret)
{
        *ret = (struct image_prune_result){ .bytes = 16, .total = 20, .pinned = 1, .n = 1 };
        ret->items = calloc(1, sizeof(*ret->items));
        (void)snprintf(ret->items[0].digest, sizeof(ret->items[0].digest), "%s", image.digest);
        ret->items[0].names = image.names;
}

void image_prune_result_done(struct image_prune_result *r)
{
        free(r->items);
}

int image_store_prune_plan(struct image_store *s, const struct image_prune_policy *policy,
                           struct image_prune_result *ret, struct err *err)
{
        (void)s;
        if (!policy->may(&image, policy->data) || (policy->aged && policy->unused_for_ms != 3600 * 1000))
                return err_set(err, EINVAL, "policy");
        one_pruned(ret);
        return 0;
}

int image_store_prune(struct image_store *s, const struct image_prune_policy *policy, image_pruned_fn fn, void *data,
                      struct err *err)
{
        struct image_prune_result gone = { .n = 0 };

        (void)s;
        (void)policy;
        (void)err;
        one_pruned(&gone);
        fn(0, &gone, NULL, data);
        image_prune_result_done(&gone);
        return 0;
}

const char *const image_fault_kinds[] = { "blob", "layer", "tree", NULL };

char *const *image_store_repairs(const struct image_store *s)
{
        static char line[] = "a name was left out", *lines[] = { line, NULL };

        (void)s;
        return lines;
}

struct verify_call {
        image_verify_progress_fn progress;
        image_verified_fn fn;
        void *data;
        struct loop_timer timer;
        bool repair;
};

static struct verify_call *verifying; /* the last one */

static inline void verify_called(struct loop_timer *timer, void *data)
{
        char *digests[] = { image.digest, NULL };
        struct image_fault fault = { .kind = IMAGE_FAULT_LAYER, .name = "sha256:ab", .text = "missing" };
        const struct image_verification v = { .done = 1, .total = 1, .layers = 1, .faults = &fault, .n_faults = 1 };
        struct verify_call *c = data;

        (void)timer;
        fault.digests = digests;
        fault.repaired = c->repair;
        verifying = NULL;
        if (c->progress)
                c->progress(&v, c->data);
        c->fn(0, &v, NULL, c->data);
        free(c);
}

int image_store_verify(struct image_store *s, bool repair, image_verify_progress_fn progress, image_verified_fn fn,
                       void *data, struct err *err)
{
        struct verify_call *c = calloc(1, sizeof(*c));
        uint64_t delay = atomic_load(&store_delay_ns);

        (void)err;
        c->progress = progress;
        c->fn = fn;
        c->data = data;
        c->repair = repair;
        verifying = c;
        return loop_timer_set(s->loop, &c->timer, delay > 0 ? time_mono_ns() + delay : 0, verify_called, c);
}

void image_store_verify_cancel(struct image_store *s, void *data)
{
        (void)s;
        if (!verifying || verifying->data != data)
                return;
        loop_timer_cancel(&verifying->timer);
        free(verifying);
        verifying = NULL;
}

const char *image_store_fault(const struct image_store *s)
{
        (void)s;
        return NULL;
}

int image_sink_finish(struct image_sink *sink, image_loaded_fn fn, void *data, struct err *err)
{
        struct image_store *s = sink->store;
        int r = sink->len == 3 || sink->roomed ? 0 : -EBADMSG;

        (void)err;
        free(sink);
        return store_call(s, r, fn, NULL, data);
}

void image_sink_discard(struct image_sink *sink)
{
        free(sink);
}

int image_store_remove(struct image_store *s, const char *ref, image_done_fn fn, void *data, struct err *err)
{
        if (str_eq(ref, "a/b:busy"))
                return store_call(s, -EBUSY, NULL, fn, data);
        return str_eq(ref, "busybox:demo") ? store_call(s, 0, NULL, fn, data)
                                           : err_set(err, ENOENT, "no image %s", ref);
}

/* An archive of so many bytes; of "broken:1" it is damaged near the end, of "damaged:1" at once. */
#define SAVED_LEN 3000000
struct image_save {
        size_t left;
        bool broken;
};
static atomic_int saves __attribute__((unused));

int image_save_open(struct image_store *s, const char *const *refs, size_t n, enum image_save_format format,
                    bool (*may)(const struct image *i, void *data), void *data, struct image_save **ret,
                    struct err *err)
{
        bool broken = str_eq(refs[n - 1], "broken:1"), damaged = str_eq(refs[n - 1], "damaged:1");

        (void)s;
        (void)format;
        if (!may(&image, data) || (!str_eq(refs[0], "busybox:demo") && !broken && !damaged))
                return err_set(err, ENOENT, "there is no image '%s'", refs[0]);
        *ret = calloc(1, sizeof(**ret));
        (*ret)->left = damaged ? 0 : SAVED_LEN;
        (*ret)->broken = broken || damaged;
        atomic_fetch_add(&saves, 1);
        return 0;
}

ssize_t image_save_read(struct image_save *w, void *buf, size_t len, struct err *err)
{
        len = MIN(len, w->left);
        memset(buf, 's', len);
        w->left -= len;
        return len == 0 && w->broken ? err_set(err, EBADMSG, "blob is damaged") : (ssize_t)len;
}

void image_save_release(struct image_save *w)
{
        (void)w;
}

void image_save_close(struct image_save *w)
{
        free(w);
        atomic_fetch_sub(&saves, 1);
}

/* ── the fixture: the loop in a thread, the client in the test's ───────────────────────────────────────────────────── */

struct fixture {
        char dir[32], path[64], db[64], host[80], tcp[48], state_db[64];
        struct loop *loop;
        struct history *history;
        struct fake_engine engine;
        struct engine *engines[1];
        struct image_store store;
        struct tasks *tasks;
        struct state_db *state;
        struct keys *keys;
        struct api *api;
        struct http_client *client;
        uint16_t port; /* on 127.0.0.1, where keys are needed */
        pthread_t thread;
        atomic_int stop, drain;
        struct meters_config meters;
        char health_image[16];
};

static inline void *serve(void *data)
{
        struct fixture *f = data;

        while (!atomic_load(&f->stop)) {
                (void)loop_turn(f->loop, 2, NULL);
                if (atomic_exchange(&f->drain, 0)) {
                        tasks_drain(f->tasks);
                        api_drain(f->api);
                }
        }
        return NULL;
}

static inline void listen_tcp(struct fixture *f)
{
        struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof(addr);
        struct err err = ERR_INIT;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
        assert_int_equal(listen(fd, 64), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
        f->port = ntohs(addr.sin_port);
        (void)snprintf(f->tcp, sizeof(f->tcp), "http://127.0.0.1:%u", f->port);
        assert_int_equal(api_listen(f->api, &(struct http_listen){ .fd = fd }, &err), 0);
}

static struct image_pulls *fixture_pulls; /* of the next API; it is only looked at whether there are any */

static inline int setup_with(void **state, const struct meters_config *meters)
{
        const struct tasks_config tasks_config = { .max_queued = 4, .max_running = 4, .reserve = 1 };
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;
        int fd = -EBADF;

        log_set_level(LOG_LEVEL_ERROR);
        f->meters = *meters;
        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-api-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
        (void)snprintf(f->db, sizeof(f->db), "%s/history.db", f->dir);
        (void)snprintf(f->host, sizeof(f->host), "unix://%s", f->path);
        assert_int_equal(loop_new(&f->loop, &err), 0);
        f->engine.base.ops = &fake_ops;
        f->engines[0] = &f->engine.base;
        list_init(&f->engine.containers);
        (void)snprintf(f->health_image, sizeof(f->health_image), "health");
        f->engine.loop = f->store.loop = f->loop;
        atomic_store(&f->store.images, 1);
        assert_int_equal(history_open(f->loop, &(struct history_config){ .path = f->db }, &f->history, &err), 0);
        assert_int_equal(tasks_new(f->loop, &f->engine.base, f->history, &tasks_config, &f->tasks, &err), 0);
        (void)snprintf(f->state_db, sizeof(f->state_db), "%s/state.db", f->dir);
        assert_int_equal(state_db_open(f->state_db, &f->state, &err), 0);
        assert_int_equal(keys_new(f->loop, f->state, &f->keys, &err), 0);
        assert_int_equal(api_new(f->loop,
                                 &(struct api_config){ .tasks = f->tasks,
                                                       .store = &f->store,
                                                       .pulls = fixture_pulls,
                                                       .history = f->history,
                                                       .engines = f->engines,
                                                       .n_engines = 1,
                                                       .keys = f->keys,
                                                       .meters = f->meters,
                                                       .max_uploads = 2,
                                                       .health_image = f->health_image },
                                 &f->api, &err),
                         0);
        assert_int_equal(fd_listen_unix(f->path, SOCK_STREAM, (uid_t)-1, (gid_t)-1, 0600, &fd, &err), 0);
        assert_int_equal(api_listen(f->api, &(struct http_listen){ .fd = fd }, &err), 0);
        listen_tcp(f);
        assert_int_equal(http_client_new(f->host, NULL, &f->client, &err), 0);
        assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
        *state = f;
        return 0;
}

static inline int setup(void **state)
{
        return setup_with(state, &(struct meters_config){ .key_rate = 0 });
}

static inline int teardown(void **state)
{
        struct fixture *f = *state;
        struct fake_container *c;
        auto_fd tmp = -EBADF;

        atomic_store(&f->stop, 1);
        assert_int_equal(pthread_join(f->thread, NULL), 0);
        api_free(f->api);
        tasks_free(f->tasks);
        /* Those that the next daemon would find. */
        LIST_FOREACH(c, &f->engine.containers, node) {
                fake_remove(&c->base);
        }
        history_close(f->history);
        keys_free(f->keys);
        state_db_close(f->state);
        http_client_free(f->client);
        loop_free(f->loop);
        tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(tmp, f->dir + strlen("/tmp/")), 0);
        free(f);
        return 0;
}

/* NULL where the answer has no body. */
static inline json_t *ask(struct http_client *client, const char *method, const char *path, const char *key,
                          const char *type, const char *body, long expected)
{
        auto_free char *key_line = key ? str_printf("Idempotency-Key: %s", key) : NULL;
        const char *const headers[] = { key_line ? key_line : "X-Request-Id: mine", NULL };
        const struct http_client_request request = {
                .method = method,
                .path = path,
                .content_type = type,
                .body = body,
                .body_len = body ? strlen(body) : 0,
                .body_fd = -EBADF,
                .headers = headers,
        };
        auto_answer answer = { .status = 0 };
        struct err err = ERR_INIT;
        json_t *v = NULL;
        bool health;

        assert_int_equal(http_client_do(client, &request, &answer, &err), 0);
        if (answer.status != expected)
                print_error("%s %s %s: %ld %s\n", method, path, body ? body : "", answer.status,
                            answer.body.data ? answer.body.data : "");
        assert_int_equal(answer.status, expected);
        if (answer.body.len > 0)
                assert_int_equal(json_read(answer.body.data, answer.body.len, &v, &err), 0);
        health = expected == 503 && strstr(path, "health");
        if (expected != 204)
                assert_string_equal(answer.content_type,
                                    expected < 400 || health ? "application/json" : "application/problem+json");
        return v;
}

static inline json_t *get(struct fixture *f, const char *path, long expected)
{
        return ask(f->client, "GET", path, NULL, NULL, NULL, expected);
}

static inline json_t *run(struct fixture *f, const char *body, long expected)
{
        return ask(f->client, "POST", "/v1/tasks", NULL, "application/json", body, expected);
}

static const char *text_of(const json_t *v, const char *name)
{
        const char *s = json_string_value(json_object_get(v, name));

        return s ? s : "";
}

static inline void assert_problem(const json_t *v, const char *reason, int status)
{
        auto_free char *type = str_printf("urn:mayfly:problem:%s", reason);

        assert_string_equal(text_of(v, "type"), type);
        assert_int_equal(json_integer_value(json_object_get(v, "status")), status);
        assert_true(*text_of(v, "title") && *text_of(v, "request_id"));
}

/* A connection of its own, which does not wait. */
static inline int start_task(struct fixture *f, const char *key)
{
        static const char body[] = "{\"image\":\"b\",\"cmd\":[\"sleep\"]}";
        auto_free char *text = str_printf("POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                                          "%s%s%sContent-Length: %zu\r\n\r\n%s",
                                          key ? "Idempotency-Key: " : "", key ? key : "", key ? "\r\n" : "",
                                          strlen(body), body);
        struct err err = ERR_INIT;
        int fd = -EBADF;

        assert_int_equal(fd_connect_unix(f->path, SOCK_STREAM, &fd, &err), 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        return fd;
}

/* Asks until as many tasks are in that state; a test that waits in vain is ended by its caller. */
static inline json_t *wait_count(struct fixture *f, const char *status, size_t n)
{
        auto_free char *path = str_printf("/v1/tasks?status=%s", status);

        for (;;) {
                json_t *v = get(f, path, 200);

                if (json_array_size(json_object_get(v, "tasks")) == n)
                        return v;
                json_decref(v);
                (void)usleep(1000);
        }
}

static inline void wait_for(struct fixture *f, const char *status, size_t n)
{
        json_decref(wait_count(f, status, n));
}
