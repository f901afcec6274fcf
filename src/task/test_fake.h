/* For the tests of this folder: an engine that does what the test says, and tasks over it. */
#pragma once

#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-const-variable"

#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "state/seal.h"
#include "task/internal.h"
#include "task/record.h"
#include "task/task.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

/* ── an engine that does what the test says ──────────────────────────────────────────────────────────────────────── */

#define FAKE_MAX 64

struct fake_container {
        struct engine_container base;
        char id[33];
        char record[ENGINE_RECORD_MAX];
        size_t record_len;
        int mem[2];
        uint64_t total[2], limit;
        int signals[8];
        size_t n_signals;
        bool started, removed;
        bool prepared; /* the program does not run yet */
        uint64_t runs_ns;
        engine_stats_fn stats_fn; /* the last stats() that waits */
        void *stats_data;
        unsigned n_stats;
        uint64_t cpu_ns;
        bool paused[2];
        int stdin_fd;
        engine_done_fn copy_fn; /* the last copy_out() that waits */
        void *copy_data;
        int copy_fd;
        char copy_path[64];
};

struct fake {
        struct engine engine;
        struct loop *loop;
        struct fake_container *containers[FAKE_MAX];
        size_t n;
        int image_r, create_r, start_r, check_r;
        engine_image_fn image_fn; /* the last ensure_image() that waits */
        void *image_data;
        bool hold_images;
        char owner[64], digest[80];
        enum engine_network network;
        size_t n_cmd, stdin_len, n_files, n_secrets;
        char file_paths[8][64], secret[64];
        bool live, keep_root;
        bool ends_when_listed; /* what list() finds has ended meanwhile */
        struct engine_exit end_when_listed;
        uint64_t life;
};

static struct fake *to_fake(struct engine *e)
{
        return (struct fake *)e;
}

static void answer_image(void *data)
{
        struct fake *f = data;
        const struct engine_image image = { .ref = "docker.io/library/x:latest", .digest = "sha256:abc" };
        struct err err = { .num = -f->image_r, .text = "refused" };
        engine_image_fn fn = f->image_fn;

        f->image_fn = NULL;
        fn(f->image_r, f->image_r == 0 ? &image : NULL, &err, f->image_data);
}

static int fake_ensure(struct engine *e, const struct engine_image_request *request, engine_image_fn fn, void *data,
                       struct err *err)
{
        struct fake *f = to_fake(e);

        if (f->image_r == -EBUSY)
                return err_set(err, EBUSY, "not now");
        (void)snprintf(f->owner, sizeof(f->owner), "%s", request->owner);
        /* One at a time is enough here: each is answered before the next turn. */
        if (f->image_fn)
                answer_image(f);
        f->image_fn = fn;
        f->image_data = data;
        return 0;
}

static int fake_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events, void *data,
                       struct engine_container **ret, struct err *err)
{
        struct fake *f = to_fake(e);
        struct fake_container *c;

        if (f->create_r < 0)
                return err_set(err, -f->create_r, "cannot create");
        c = calloc(1, sizeof(*c));
        assert_non_null(c);
        c->base = (struct engine_container){ e, events, data };
        (void)snprintf(c->id, sizeof(c->id), "%s", spec->id);
        assert_true(spec->record_len <= sizeof(c->record));
        memcpy(c->record, spec->record, spec->record_len);
        c->record_len = spec->record_len;
        c->limit = spec->limits.output;
        c->mem[0] = memfd_create("out", MFD_CLOEXEC);
        c->mem[1] = memfd_create("err", MFD_CLOEXEC);
        f->network = spec->network;
        (void)snprintf(f->digest, sizeof(f->digest), "%s", spec->digest);
        f->n_cmd = strv_len(spec->cmd);
        f->stdin_len = spec->stdin_len;
        f->n_files = spec->n_files;
        for (size_t i = 0; i < spec->n_files && i < ARRAY_LEN(f->file_paths); i++)
                (void)snprintf(f->file_paths[i], sizeof(f->file_paths[i]), "%s", spec->files[i].path);
        f->n_secrets = spec->n_secrets;
        if (spec->n_secrets > 0)
                (void)snprintf(f->secret, sizeof(f->secret), "%s=%.*s", spec->secrets[0].name,
                               (int)spec->secrets[0].len, (const char *)spec->secrets[0].value);
        f->live = spec->live;
        f->keep_root = spec->keep_root;
        c->stdin_fd = spec->stdin_fd >= 0 ? fcntl(spec->stdin_fd, F_DUPFD_CLOEXEC, 3) : -EBADF;
        assert_true(f->n < FAKE_MAX);
        f->containers[f->n++] = c;
        *ret = &c->base;
        return 0;
}

static int fake_start(struct engine_container *base, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;
        struct fake *f = to_fake(base->engine);

        if (f->start_r < 0)
                return err_set(err, -f->start_r, "cannot start");
        c->started = true;
        c->runs_ns = time_mono_ns();
        return 0;
}

static void fake_attach(struct engine_container *base, enum engine_stream stream, struct engine_output *ret)
{
        struct fake_container *c = (struct fake_container *)base;

        *ret = (struct engine_output){
                .fd = c->mem[stream],
                .kept = MIN(c->total[stream], c->limit),
                .total = c->total[stream],
        };
}

static int fake_signal(struct engine_container *base, int signo, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;

        (void)err;
        assert_true(c->n_signals < ARRAY_LEN(c->signals));
        c->signals[c->n_signals++] = signo;
        return 0;
}

static int fake_update(struct engine_container *base, const void *record, size_t len, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;

        (void)err;
        memcpy(c->record, record, len);
        c->record_len = len;
        return 0;
}

static void fake_remove(struct engine_container *base)
{
        ((struct fake_container *)base)->removed = true;
}

static int fake_list(struct engine *e, engine_found_fn found, engine_done_fn done, void *data, struct err *err)
{
        struct fake *f = to_fake(e);

        (void)err;
        for (size_t i = 0; i < f->n; i++)
                if (!f->containers[i]->removed)
                        found(&f->containers[i]->base, f->containers[i]->id, f->containers[i]->record,
                              f->containers[i]->record_len, data);
        done(0, NULL, data);
        for (size_t i = 0; i < f->n && f->ends_when_listed; i++)
                if (!f->containers[i]->removed)
                        f->containers[i]->base.events->exited(&f->containers[i]->base, &f->end_when_listed,
                                                              f->containers[i]->base.data);
        return 0;
}

static int fake_check(struct engine *e, struct err *err)
{
        return to_fake(e)->check_r < 0 ? err_set(err, -to_fake(e)->check_r, "down") : 0;
}

static void answer_stats(struct fake_container *c)
{
        const struct engine_stats stats = { .start_mono_ns = c->prepared ? 0 : c->runs_ns, .cpu_ns = c->cpu_ns };
        engine_stats_fn fn = c->stats_fn;

        c->stats_fn = NULL;
        if (fn)
                fn(0, &stats, NULL, c->stats_data);
}

static int fake_stats(struct engine_container *base, engine_stats_fn fn, void *data, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;

        c->n_stats++;
        if (!c->started)
                return err_set(err, ESRCH, "it waits");
        assert_null(c->stats_fn);
        c->stats_fn = fn;
        c->stats_data = data;
        return 0;
}

static void fake_pause(struct engine_container *base, enum engine_stream stream, bool paused)
{
        ((struct fake_container *)base)->paused[stream] = paused;
}

static int fake_copy_out(struct engine_container *base, const char *path, const struct engine_copy_limits *limits,
                         int tar_fd, engine_done_fn fn, void *data, struct err *err)
{
        struct fake_container *c = (struct fake_container *)base;

        (void)err;
        assert_true(limits->bytes > 0 && limits->timeout_ns > 0);
        (void)snprintf(c->copy_path, sizeof(c->copy_path), "%s", path);
        c->copy_fn = fn;
        c->copy_data = data;
        c->copy_fd = tar_fd;
        return 0;
}

static uint64_t fake_life(struct engine *e)
{
        return CONTAINER_OF(e, struct fake, engine)->life;
}

static const struct engine_ops fake_ops = {
        .name = "fake",
        .features = ENGINE_F_CPU_USAGE | ENGINE_F_COPY_OUT | ENGINE_F_LIVE | ENGINE_F_SECRETS,
        .stats = fake_stats,
        .pause = fake_pause,
        .copy_out = fake_copy_out,
        .ensure_image = fake_ensure,
        .create = fake_create,
        .start = fake_start,
        .attach = fake_attach,
        .signal = fake_signal,
        .update_record = fake_update,
        .remove = fake_remove,
        .list = fake_list,
        .life = fake_life,
        .check = fake_check,
};

static void say(struct fake_container *c, enum engine_stream stream, const char *text)
{
        assert_int_equal(fd_write_all(c->mem[stream], text, strlen(text)), 0);
        c->total[stream] += strlen(text);
        if (c->base.events && c->base.events->output)
                c->base.events->output(&c->base, stream, c->base.data);
}

static void end(struct fake_container *c, struct engine_exit e)
{
        e.end_mono_ns = time_mono_ns();
        if (e.end == ENGINE_END_EXITED || e.end == ENGINE_END_SIGNALED)
                e.start_mono_ns = e.end_mono_ns - 1000;
        assert_non_null(c->base.events);
        if (c->base.events)
                c->base.events->exited(&c->base, &e, c->base.data);
}

/* ── fixture ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct result {
        int calls;
        struct wire_task t;
        char out[2][64], detail[64], ref[64];
};

struct fixture {
        struct fake fake; /* first */
        char dir[64], path[96];
        struct history *history;
        struct seal *seal;
        struct tasks_config config;
        struct tasks *ts;
};

static void start_tasks(struct fixture *f)
{
        assert_int_equal(tasks_new(f->fake.loop, &f->fake.engine, f->history, &f->config, &f->ts, NULL), 0);
}

/* path_remove_tree() takes one name below a directory. */
static void remove_dir(const char *dir)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(path_remove_tree(tmp, dir + strlen("/tmp/")), 0);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct history_config hc = { .path = f->path };
        char key[96];

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-task-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/history.db", f->dir);
        f->fake.engine.ops = &fake_ops;
        assert_int_equal(loop_new(&f->fake.loop, NULL), 0);
        assert_int_equal(history_open(f->fake.loop, &hc, &f->history, NULL), 0);
        (void)snprintf(key, sizeof(key), "%s/key", f->dir);
        assert_int_equal(seal_new(key, &f->seal, NULL), 0);
        f->config.seal = f->seal;
        f->config.reserve = 1;
        start_tasks(f);
        *state = f;
        return 0;
}

static void free_container(struct fake_container *c)
{
        fd_close(c->mem[0]);
        fd_close(c->mem[1]);
        fd_close(c->stdin_fd);
        free(c);
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        tasks_free(f->ts);
        if (f->fake.image_fn)
                answer_image(&f->fake);
        history_close(f->history);
        seal_free(f->seal);
        loop_free(f->fake.loop);
        for (size_t i = 0; i < f->fake.n; i++)
                free_container(f->fake.containers[i]);
        remove_dir(f->dir);
        free(f);
        return 0;
}

static void turn(struct fixture *f)
{
        if (f->fake.image_fn && !f->fake.hold_images)
                answer_image(&f->fake);
        for (size_t i = 0; i < f->fake.n; i++)
                answer_stats(f->fake.containers[i]);
        assert_true(loop_turn(f->fake.loop, 1, NULL) >= 0);
}

static void on_ended(struct task *t, const struct wire_task *w, void *data)
{
        struct result *r = data;

        (void)t;
        r->calls++;
        r->t = *w;
        for (int i = 0; i < 2; i++)
                (void)snprintf(r->out[i], sizeof(r->out[i]), "%.*s", (int)w->out_len[i],
                               w->out[i] ? (const char *)w->out[i] : "");
        (void)snprintf(r->detail, sizeof(r->detail), "%s", w->detail ? w->detail : "");
        (void)snprintf(r->ref, sizeof(r->ref), "%s", w->image_ref);
}

static struct wire_task_request request(void)
{
        struct wire_task_request q = { .image = strdup("x") };

        wire_limits_default(&q.limits);
        assert_int_equal(strv_add(&q.cmd, "true"), 0);
        return q;
}

static int submit_how(struct fixture *f, struct wire_task_request q, const struct task_submit *how, struct result *r,
                      struct task **ret)
{
        const struct task_waiter waiter = { on_ended, r };
        struct task *t = NULL;
        int k = tasks_submit(f->ts, &q, how, r ? &waiter : NULL, &t, NULL);

        wire_task_request_done(&q);
        if (ret)
                *ret = t;
        return k;
}

static struct task *submit(struct fixture *f, struct wire_task_request q, struct result *r)
{
        const struct task_submit how = { .owner = "alice", .cancel_when_alone = true };
        struct task *t = NULL;

        assert_int_equal(submit_how(f, q, &how, r, &t), 0);
        return t;
}

/* The newest container, once it runs. */
static struct fake_container *running(struct fixture *f, size_t n)
{
        for (int i = 0; i < 100 && f->fake.n < n; i++)
                turn(f);
        assert_int_equal(f->fake.n, n);
        assert_true(f->fake.containers[n - 1]->started);
        return f->fake.containers[n - 1];
}

static void wait_stored(struct fixture *f)
{
        for (int i = 0; i < 1000 && tasks_live(f->ts) > 0; i++)
                turn(f);
        assert_int_equal(tasks_live(f->ts), 0);
}

static const struct engine_exit exit_0 = { .end = ENGINE_END_EXITED, .memory_peak = 4096, .cpu_ns = 1000 };
