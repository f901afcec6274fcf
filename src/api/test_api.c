/* The API over the real tasks and history, an engine that only pretends, and a store with one image. */

#include "api/api.h"

#include "base/fd.h"
#include "base/list.h"
#include "base/path.h"
#include "http/client.h"

#include <errno.h>
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
        atomic_int broken, live, started;
};

struct image_call {
        engine_image_fn fn;
        void *data;
        char ref[128];
        struct loop_timer timer;
};

static void image_known(struct loop_timer *timer, void *data)
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
        c->fn(r, r < 0 ? NULL : &image, &err, c->data);
        free(c);
}

static int fake_ensure_image(struct engine *e, const struct engine_image_request *request, engine_image_fn fn,
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

static void say(struct fake_container *c, int stream, const void *data, size_t len)
{
        (void)fd_write_all(c->out[stream], data, len);
        c->total[stream] += len;
}

static int fake_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events, void *data,
                       struct engine_container **ret, struct err *err)
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

static void fake_ended(struct loop_timer *timer, void *data)
{
        struct fake_container *c = data;

        (void)timer;
        c->running = false;
        c->base.events->exited(&c->base, &c->exit, c->base.data);
}

static int fake_start(struct engine_container *base, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;
        struct fake_engine *fake = (struct fake_engine *)base->engine;

        (void)err;
        c->running = true;
        c->exit.create_mono_ns = c->exit.start_mono_ns = c->exit.end_mono_ns = 1;
        atomic_fetch_add(&fake->started, 1);
        return c->sleeps ? 0 : loop_timer_set(fake->loop, &c->timer, 0, fake_ended, c);
}

static void fake_attach(struct engine_container *base, enum engine_stream stream, struct engine_output *ret)
{
        struct fake_container *c = (struct fake_container *)base;

        *ret = (struct engine_output){ .fd = c->out[stream], .kept = c->total[stream], .total = c->total[stream] };
}

static int fake_signal(struct engine_container *base, int signo, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;

        (void)err;
        if (!c->running)
                return 0;
        c->exit.end = ENGINE_END_SIGNALED;
        c->exit.signo = signo;
        return loop_timer_set(((struct fake_engine *)base->engine)->loop, &c->timer, 0, fake_ended, c);
}

static int fake_update_record(struct engine_container *c, const void *record, size_t len, struct err *err)
{
        (void)c;
        (void)record;
        (void)len;
        (void)err;
        return 0;
}

static void fake_remove(struct engine_container *base)
{
        struct fake_container *c = (struct fake_container *)base;

        list_remove(&c->node);
        loop_timer_cancel(&c->timer);
        fd_close(c->out[0]);
        fd_close(c->out[1]);
        atomic_fetch_sub(&((struct fake_engine *)base->engine)->live, 1);
        free(c);
}

static int fake_check(struct engine *e, struct err *err)
{
        int number = atomic_load(&((struct fake_engine *)e)->broken);

        return number ? err_set(err, number, "the launcher does not answer") : 0;
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
};

/* ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct image_store {
        struct loop *loop;
        atomic_int images;
};

struct image_sink {
        struct image_store *store;
        size_t len;
};

static char image_name[] = "docker.io/library/busybox:demo", *image_names[] = { image_name, NULL };
static char image_layers[1][65] = { "ab" };
static struct image image = {
        .digest = "sha256:1234",
        .architecture = "amd64",
        .os = "linux",
        .created = "2026-01-01T00:00:00Z",
        .names = image_names,
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

int image_sink_write(struct image_sink *sink, const void *data, size_t len, struct err *err)
{
        (void)data;
        sink->len += len;
        return sink->len > 1000000 ? err_set(err, ENOSPC, "the disk is full") : 0;
}

struct store_call {
        image_loaded_fn loaded;
        image_done_fn done;
        void *data;
        int r;
        struct loop_timer timer;
};

static void store_called(struct loop_timer *timer, void *data)
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

static int store_call(struct image_store *s, int r, image_loaded_fn loaded, image_done_fn done, void *data)
{
        struct store_call *c = calloc(1, sizeof(*c));

        c->loaded = loaded;
        c->done = done;
        c->data = data;
        c->r = r;
        return loop_timer_set(s->loop, &c->timer, 0, store_called, c);
}

int image_sink_finish(struct image_sink *sink, image_loaded_fn fn, void *data, struct err *err)
{
        struct image_store *s = sink->store;
        int r = sink->len == 3 ? 0 : -EBADMSG;

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

/* ── the fixture: the loop in a thread, the client in the test's ───────────────────────────────────────────────────── */

struct fixture {
        char dir[32], path[64], db[64], host[80];
        struct loop *loop;
        struct history *history;
        struct fake_engine engine;
        struct image_store store;
        struct tasks *tasks;
        struct api *api;
        struct http_client *client;
        pthread_t thread;
        atomic_int stop, drain;
        char health_image[16];
};

static void *serve(void *data)
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

static int setup(void **state)
{
        const struct tasks_config tasks_config = { .max_queued = 4, .max_running = 4, .reserve = 1 };
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;
        int fd = -EBADF;

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-api-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
        (void)snprintf(f->db, sizeof(f->db), "%s/history.db", f->dir);
        (void)snprintf(f->host, sizeof(f->host), "unix://%s", f->path);
        assert_int_equal(loop_new(&f->loop, &err), 0);
        f->engine.base.ops = &fake_ops;
        list_init(&f->engine.containers);
        (void)snprintf(f->health_image, sizeof(f->health_image), "health");
        f->engine.loop = f->store.loop = f->loop;
        atomic_store(&f->store.images, 1);
        assert_int_equal(history_open(f->loop, &(struct history_config){ .path = f->db }, &f->history, &err), 0);
        assert_int_equal(tasks_new(f->loop, &f->engine.base, f->history, &tasks_config, &f->tasks, &err), 0);
        assert_int_equal(api_new(f->loop,
                                 &(struct api_config){ .tasks = f->tasks,
                                                       .store = &f->store,
                                                       .history = f->history,
                                                       .engine = &f->engine.base,
                                                       .health_image = f->health_image },
                                 &f->api, &err),
                         0);
        assert_int_equal(fd_listen_unix(f->path, SOCK_STREAM, (uid_t)-1, (gid_t)-1, 0600, &fd, &err), 0);
        assert_int_equal(api_listen(f->api, fd, &err), 0);
        assert_int_equal(http_client_new(f->host, NULL, &f->client, &err), 0);
        assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
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
        http_client_free(f->client);
        loop_free(f->loop);
        tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(tmp, f->dir + strlen("/tmp/")), 0);
        free(f);
        return 0;
}

static json_t *ask(struct http_client *client, const char *method, const char *path, const char *key, const char *type,
                   const char *body, long expected)
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
        assert_string_equal(answer.content_type,
                            expected < 400 || health ? "application/json" : "application/problem+json");
        return v;
}

static json_t *get(struct fixture *f, const char *path, long expected)
{
        return ask(f->client, "GET", path, NULL, NULL, NULL, expected);
}

static json_t *run(struct fixture *f, const char *body, long expected)
{
        return ask(f->client, "POST", "/v1/tasks", NULL, "application/json", body, expected);
}

static const char *text_of(const json_t *v, const char *name)
{
        const char *s = json_string_value(json_object_get(v, name));

        return s ? s : "";
}

static void assert_problem(const json_t *v, const char *reason, int status)
{
        auto_free char *type = str_printf("urn:mayfly:problem:%s", reason);

        assert_string_equal(text_of(v, "type"), type);
        assert_int_equal(json_integer_value(json_object_get(v, "status")), status);
        assert_true(*text_of(v, "title") && *text_of(v, "request_id"));
}

/* ── tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_run(void **state)
{
        auto_json v = run(*state, "{\"image\":\"busybox:demo\",\"cmd\":[\"cat\"],\"stdin\":\"hi\",\"user\":\"nobody\"}",
                          201);
        auto_free char *path = str_printf("/v1/tasks/%s", text_of(v, "id"));
        auto_json again = NULL;

        assert_string_equal(text_of(v, "status"), "exited");
        assert_string_equal(text_of(v, "stdout"), "hi");
        assert_string_equal(text_of(v, "engine"), "fake");
        assert_string_equal(text_of(json_object_get(v, "image"), "digest"), "sha256:1234");
        again = get(*state, path, 200);
        assert_true(json_equal(v, again));
}

static void test_large_streams(void **state)
{
        const size_t size = 1 << 20;
        auto_free char *body = malloc(2 * size);
        auto_json v = NULL;
        size_t len;

        len = (size_t)snprintf(body, 100, "{\"image\":\"b\",\"cmd\":[\"cat\"],\"encoding\":\"base64\",\"stdin\":\"");
        memset(body + len, 'x', size);
        memcpy(body + len + size, "\"}", 3);
        v = run(*state, body, 201);
        assert_int_equal(json_string_length(json_object_get(v, "stdout")), (size + 2) / 3 * 4);
}

static void test_outcomes(void **state)
{
        static const struct {
                const char *body, *reason;
                int status;
        } rows[] = {
                { "{\"image\":\"none\"}", "image_not_found", 404 },
                { "{\"image\":\"theirs\"}", "image_unauthorized", 403 },
                { "{\"image\":\"far\"}", "registry_error", 502 },
                { "{\"image\":\"b\",\"cmd\":[\"uncreatable\"]}", "start_error", 500 },
                { "{\"image\":\"b\",\"cmd\":[\"broken\"]}", "start_error", 500 },
        };
        auto_json v = run(*state, "{\"image\":\"b\",\"cmd\":[\"missing\"]}", 201);

        assert_string_equal(text_of(v, "reason"), "command_not_found");
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                auto_json p = run(*state, rows[i].body, rows[i].status);
                auto_free char *path = str_printf("/v1/tasks/%s", text_of(p, "task_id"));
                auto_json kept = get(*state, path, 200);

                assert_problem(p, rows[i].reason, rows[i].status);
                assert_string_equal(text_of(kept, "reason"), rows[i].reason);
                assert_string_equal(text_of(kept, "status"), "failed");
        }
}

static void test_bad_bodies(void **state)
{
        static const struct {
                const char *body, *pointer;
        } cases[] = {
                { "{", "" },
                { "", "" },
                { "{\"image\":\"A\"}", "/image" },
                { "{\"image\":\"b\",\"tty\":true}", "/tty" },
                { "{\"image\":\"busybox:demo\",\"user\":\"ghost\"}", "/user" },
        };

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_json v = run(*state, cases[i].body, 400);

                assert_problem(v, "bad_request", 400);
                assert_string_equal(text_of(json_array_get(json_object_get(v, "errors"), 0), "pointer"),
                                    cases[i].pointer);
        }
}

static void test_idempotency(void **state)
{
        static const char body[] = "{\"image\":\"b\",\"cmd\":[\"echo\",\"x\"],\"encoding\":\"base64\"}";
        struct fixture *f = *state;
        auto_json first = ask(f->client, "POST", "/v1/tasks", "k", "application/json", body, 201);
        auto_json again = ask(f->client, "POST", "/v1/tasks", "k", "application/json", body, 201);
        auto_json other = ask(f->client, "POST", "/v1/tasks", "k", "application/json", "{\"image\":\"b\"}", 422);
        auto_json failed = ask(f->client, "POST", "/v1/tasks", "n", "application/json", "{\"image\":\"none\"}", 404);
        auto_json failed_again = ask(f->client, "POST", "/v1/tasks", "n", "application/json", "{\"image\":\"none\"}",
                                     404);
        auto_json bad = NULL;

        assert_true(json_equal(first, again));
        assert_string_equal(text_of(first, "stderr"), "eA==");
        assert_problem(other, "idempotency_mismatch", 422);
        assert_problem(failed_again, "image_not_found", 404);
        assert_string_equal(text_of(failed, "task_id"), text_of(failed_again, "task_id"));
        bad = ask(f->client, "POST", "/v1/tasks", "a b", "application/json", body, 400);
        assert_problem(bad, "bad_request", 400);
        assert_int_equal(atomic_load(&f->engine.started), 1);
}

static void test_list(void **state)
{
        auto_json one = run(*state, "{\"image\":\"busybox:demo\"}", 201);
        auto_json two = run(*state, "{\"image\":\"none\"}", 404);
        auto_json three = run(*state, "{\"image\":\"busybox:demo\"}", 201);
        auto_json page = get(*state, "/v1/tasks?limit=2", 200);
        auto_free char *next = str_printf("/v1/tasks?limit=2&cursor=%s", text_of(page, "next_cursor"));
        auto_json rest = get(*state, next, 200);
        auto_json failed = get(*state, "/v1/tasks?status=failed", 200);
        auto_json of_image = get(*state, "/v1/tasks?image=busybox:demo&since=2020-01-01T00:00:00Z", 200);
        auto_json old = get(*state, "/v1/tasks?until=1000", 200);
        const json_t *list = json_object_get(page, "tasks");

        assert_int_equal(json_array_size(list), 2);
        assert_string_equal(text_of(json_array_get(list, 0), "id"), text_of(three, "id"));
        assert_string_equal(text_of(json_array_get(list, 1), "id"), text_of(two, "task_id"));
        assert_null(json_object_get(json_array_get(list, 0), "stdout"));
        list = json_object_get(rest, "tasks");
        assert_int_equal(json_array_size(list), 1);
        assert_string_equal(text_of(json_array_get(list, 0), "id"), text_of(one, "id"));
        assert_true(json_is_null(json_object_get(rest, "next_cursor")));
        assert_int_equal(json_array_size(json_object_get(failed, "tasks")), 1);
        assert_int_equal(json_array_size(json_object_get(of_image, "tasks")), 2);
        assert_int_equal(json_array_size(json_object_get(old, "tasks")), 0);
}

static void test_bad_queries(void **state)
{
        static const char *const paths[] = {
                "/v1/tasks?limit=0",    "/v1/tasks?limit=1001",   "/v1/tasks?limit=x",  "/v1/tasks?status=dead",
                "/v1/tasks?since=soon", "/v1/tasks?until=2026-1", "/v1/tasks?cursor=x", "/v1/tasks?image=A",
                "/v1/tasks?colour=red", "/v1/version?a",          "/v1/health?full=2",  "/v1/images?all=1",
        };

        for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
                auto_json v = get(*state, paths[i], 400);

                assert_problem(v, "bad_request", 400);
        }
}

/* A connection of its own, which does not wait. */
static int start_task(struct fixture *f, const char *key)
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
static json_t *wait_count(struct fixture *f, const char *status, size_t n)
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

static void wait_for(struct fixture *f, const char *status, size_t n)
{
        json_decref(wait_count(f, status, n));
}

static void test_hang_up_cancels(void **state)
{
        struct fixture *f = *state;
        auto_fd fd = start_task(f, NULL);
        auto_json running = wait_count(f, "running", 1);
        auto_json killed = NULL;
        const json_t *t = json_array_get(json_object_get(running, "tasks"), 0);
        auto_free char *path = str_printf("/v1/tasks/%s", text_of(t, "id"));
        auto_json live = get(f, path, 200);

        assert_string_equal(text_of(live, "status"), "running");
        assert_true(json_is_null(json_object_get(live, "exit_code")));
        fd_replace(&fd, -EBADF);
        killed = wait_count(f, "killed", 1);
        t = json_array_get(json_object_get(killed, "tasks"), 0);
        assert_string_equal(text_of(t, "reason"), "cancelled");
        assert_string_equal(text_of(t, "signal"), "SIGKILL");
}

/* One of two that wait for the same task hangs up: it runs on. */
static void test_join(void **state)
{
        struct fixture *f = *state;
        auto_fd first = start_task(f, "same"), second = start_task(f, "same"), third = -EBADF;

        wait_for(f, "running", 1);
        third = start_task(f, "other");
        wait_for(f, "running", 2);
        fd_replace(&first, -EBADF);
        fd_replace(&third, -EBADF);
        wait_for(f, "killed", 1);
        wait_for(f, "running", 1);
        assert_int_equal(atomic_load(&f->engine.started), 2);
        fd_replace(&second, -EBADF);
        wait_for(f, "killed", 2);
}

static void test_queue_full(void **state)
{
        struct fixture *f = *state;
        auto_json v = NULL;
        auto_json of_image = NULL;
        int fds[8];

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fds[i] = start_task(f, NULL);
        wait_for(f, "running", 4);
        wait_for(f, "queued", 4);
        v = run(f, "{\"image\":\"b\"}", 429);
        assert_problem(v, "queue_full", 429);
        /* Those that have no image yet match by the reference that was given. */
        of_image = get(f, "/v1/tasks?status=queued&image=docker.io/library/b", 200);
        assert_int_equal(json_array_size(json_object_get(of_image, "tasks")), 4);
        json_decref(v);
        v = run(f, "{\"image\":\"b\",\"limits\":{\"memory\":\"16t\"}}", 400);
        assert_problem(v, "bad_request", 400);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
}

static void test_queue_timeout(void **state)
{
        struct fixture *f = *state;
        auto_json v = NULL;
        int fds[4];

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fds[i] = start_task(f, NULL);
        wait_for(f, "running", 4);
        v = run(f, "{\"image\":\"b\",\"limits\":{\"queue_timeout\":\"1ms\"}}", 503);
        assert_problem(v, "queue_timeout", 503);
        assert_true(*text_of(v, "task_id"));
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
}

static void test_drain(void **state)
{
        struct fixture *f = *state;
        auto_json before = get(f, "/healthz", 200);
        auto_json after = NULL;
        auto_json v = NULL;

        assert_string_equal(text_of(before, "status"), "ok");
        atomic_store(&f->drain, 1);
        while (atomic_load(&f->drain))
                (void)usleep(1000);
        after = get(f, "/healthz", 503);
        assert_string_equal(text_of(after, "status"), "draining");
        v = run(f, "{\"image\":\"b\"}", 503);
        assert_problem(v, "draining", 503);
}

/* Those who wait when the daemon stops are no clients that hang up: teardown finds their tasks running. */
static void test_stop_with_tasks(void **state)
{
        struct fixture *f = *state;
        auto_fd fd = start_task(f, NULL);
        char c;

        wait_for(f, "running", 1);
        atomic_store(&f->stop, 1);
        assert_int_equal(pthread_join(f->thread, NULL), 0);
        api_free(f->api);
        f->api = NULL;
        assert_int_equal(recv(fd, &c, 1, 0), 0);
        assert_int_equal(atomic_load(&f->engine.live), 1);
        for (int i = 0; i < 5; i++)
                (void)loop_turn(f->loop, 1, NULL);
        assert_int_equal(tasks_live(f->tasks), 1);
        atomic_store(&f->stop, 0);
        assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

/* ── images, health, the rest ──────────────────────────────────────────────────────────────────────────────────────── */

static void test_images(void **state)
{
        struct fixture *f = *state;
        auto_json list = get(f, "/v1/images", 200);
        auto_json one = get(f, "/v1/images/busybox:demo", 200);
        auto_json named = get(f, "/v1/images/docker.io/library/busybox:demo", 200);
        auto_json encoded = get(f, "/v1/images/docker.io%2Flibrary%2fbusybox%3Ademo", 200);
        auto_json none = get(f, "/v1/images/none", 404);
        auto_json bad = get(f, "/v1/images/a%21", 400);
        auto_json gone = ask(f->client, "DELETE", "/v1/images/busybox:demo", NULL, NULL, NULL, 200);
        auto_json busy = ask(f->client, "DELETE", "/v1/images/a/b:busy", NULL, NULL, NULL, 409);
        auto_json absent = ask(f->client, "DELETE", "/v1/images/none", NULL, NULL, NULL, 404);

        assert_int_equal(json_array_size(json_object_get(list, "images")), 1);
        assert_string_equal(text_of(one, "digest"), "sha256:1234");
        assert_string_equal(json_string_value(json_array_get(json_object_get(one, "layers"), 0)), "sha256:ab");
        assert_true(json_equal(one, named) && json_equal(one, encoded));
        assert_problem(none, "image_not_found", 404);
        assert_problem(bad, "bad_request", 400);
        assert_string_equal(text_of(gone, "removed"), "busybox:demo");
        assert_problem(busy, "image_in_use", 409);
        assert_problem(absent, "image_not_found", 404);
}

static void test_uploads(void **state)
{
        static const char tar[] = "application/x-tar";
        struct fixture *f = *state;
        auto_free char *large = calloc(1, 3000001);
        auto_json import = ask(f->client, "POST", "/v1/images/import?ref=a:b&change=CMD%20true&change=ENV%20A=b", NULL,
                               tar, "tar", 201);
        auto_json load = ask(f->client, "POST", "/v1/images/load", NULL, NULL, "tar", 201);
        auto_json broken = ask(f->client, "POST", "/v1/images/load", NULL, tar, "broken", 400);
        auto_json no_ref = ask(f->client, "POST", "/v1/images/import", NULL, tar, "tar", 400);
        auto_json bad_ref = ask(f->client, "POST", "/v1/images/import?ref=a%21", NULL, tar, "tar", 400);
        auto_json form = ask(f->client, "POST", "/v1/images/load", NULL, "text/plain", "tar", 415);
        auto_json full = NULL;

        memset(large, 'x', 3000000);
        full = ask(f->client, "POST", "/v1/images/load", NULL, tar, large, 507);
        assert_string_equal(text_of(json_array_get(json_object_get(import, "images"), 0), "digest"), "sha256:1234");
        assert_string_equal(text_of(json_array_get(json_object_get(load, "images"), 0), "digest"), "sha256:1234");
        assert_problem(broken, "bad_archive", 400);
        assert_problem(no_ref, "bad_request", 400);
        assert_problem(bad_ref, "bad_request", 400);
        assert_problem(form, "unsupported_media_type", 415);
        assert_problem(full, "no_space", 507);
}

static void test_health(void **state)
{
        struct fixture *f = *state;
        auto_json quick = get(f, "/v1/health", 200);
        auto_json full = NULL;
        auto_json again = NULL;
        auto_json broken = NULL;

        assert_string_equal(text_of(quick, "status"), "ok");
        assert_true(json_is_null(json_object_get(quick, "task")));
        full = get(f, "/v1/health?full=1", 200);
        assert_string_equal(text_of(json_object_get(full, "task"), "status"), "ok");
        again = get(f, "/v1/health?full=1", 200);
        assert_true(json_equal(full, again));
        assert_int_equal(atomic_load(&f->engine.started), 1);
        atomic_store(&f->engine.broken, EIO);
        broken = get(f, "/v1/health?full=1", 503);
        assert_string_equal(text_of(broken, "status"), "failed");
        assert_string_equal(text_of(json_object_get(broken, "engine"), "detail"), "the launcher does not answer");
}

static void test_health_that_cannot_run(void **state)
{
        struct fixture *f = *state;
        auto_json v = NULL;

        (void)snprintf(f->health_image, sizeof(f->health_image), "none");
        v = get(f, "/v1/health?full=1", 503);
        assert_string_equal(text_of(v, "status"), "failed");
        assert_string_equal(text_of(json_object_get(v, "task"), "status"), "failed");
        assert_string_equal(text_of(json_object_get(v, "task"), "detail"), "there is no such image");
        assert_int_equal(atomic_load(&f->engine.started), 0);
}

static void test_routes(void **state)
{
        struct fixture *f = *state;
        auto_json version = get(f, "/v1/version", 200);
        auto_json none = get(f, "/v2", 404);
        auto_json task = get(f, "/v1/tasks/x", 404);
        auto_json unknown = get(f, "/v1/tasks/00000000000000000000000000", 404);
        auto_json method = ask(f->client, "PUT", "/v1/tasks", NULL, NULL, NULL, 405);
        auto_json word = get(f, "/v1/images/load", 405);
        auto_json type = ask(f->client, "POST", "/v1/tasks", NULL, "application/x-www-form-urlencoded", "{}", 415);
        auto_json head = ask(f->client, "HEAD", "/v1/version", NULL, NULL, NULL, 200);

        assert_string_equal(text_of(version, "name"), "mayfly");
        assert_string_equal(text_of(version, "engine"), "fake");
        assert_string_equal(text_of(none, "request_id"), "mine");
        assert_problem(none, "not_found", 404);
        assert_problem(task, "not_found", 404);
        assert_problem(unknown, "not_found", 404);
        assert_problem(method, "method_not_allowed", 405);
        assert_problem(word, "method_not_allowed", 405);
        assert_problem(type, "unsupported_media_type", 415);
        assert_null(head);
}

static void test_too_large(void **state)
{
        auto_free char *body = malloc(WIRE_BODY_MAX + 2);
        auto_json v = NULL;

        memset(body, ' ', WIRE_BODY_MAX + 1);
        body[WIRE_BODY_MAX + 1] = '\0';
        v = run(*state, body, 413);
        assert_problem(v, "payload_too_large", 413);
        json_decref(v);
        v = ask(((struct fixture *)*state)->client, "GET", "/healthz", NULL, NULL, body, 413);
        assert_problem(v, "payload_too_large", 413);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_run, setup, teardown),
                cmocka_unit_test_setup_teardown(test_large_streams, setup, teardown),
                cmocka_unit_test_setup_teardown(test_outcomes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_bodies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_idempotency, setup, teardown),
                cmocka_unit_test_setup_teardown(test_list, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_queries, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hang_up_cancels, setup, teardown),
                cmocka_unit_test_setup_teardown(test_join, setup, teardown),
                cmocka_unit_test_setup_teardown(test_queue_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_queue_timeout, setup, teardown),
                cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stop_with_tasks, setup, teardown),
                cmocka_unit_test_setup_teardown(test_images, setup, teardown),
                cmocka_unit_test_setup_teardown(test_uploads, setup, teardown),
                cmocka_unit_test_setup_teardown(test_health, setup, teardown),
                cmocka_unit_test_setup_teardown(test_health_that_cannot_run, setup, teardown),
                cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
