#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
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
        size_t n_cmd, stdin_len, n_files;
};

static struct fake *to_fake(struct engine *e)
{
        return (struct fake *)e;
}

static void answer_image(void *data)
{
        struct fake *f = data;
        const struct engine_image image = { "docker.io/library/x:latest", "sha256:abc" };
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
        return 0;
}

static int fake_check(struct engine *e, struct err *err)
{
        return to_fake(e)->check_r < 0 ? err_set(err, -to_fake(e)->check_r, "down") : 0;
}

static void answer_stats(struct fake_container *c)
{
        const struct engine_stats stats = { .start_mono_ns = c->prepared ? 0 : c->runs_ns };
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

static const struct engine_ops fake_ops = {
        .name = "fake",
        .stats = fake_stats,
        .ensure_image = fake_ensure,
        .create = fake_create,
        .start = fake_start,
        .attach = fake_attach,
        .signal = fake_signal,
        .update_record = fake_update,
        .remove = fake_remove,
        .list = fake_list,
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

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-task-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/history.db", f->dir);
        f->fake.engine.ops = &fake_ops;
        assert_int_equal(loop_new(&f->fake.loop, NULL), 0);
        assert_int_equal(history_open(f->fake.loop, &hc, &f->history, NULL), 0);
        f->config.reserve = 1;
        start_tasks(f);
        *state = f;
        return 0;
}

static void free_container(struct fake_container *c)
{
        fd_close(c->mem[0]);
        fd_close(c->mem[1]);
        free(c);
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        tasks_free(f->ts);
        history_close(f->history);
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

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_runs_and_is_stored(void **state)
{
        struct fixture *f = *state;
        struct result r = { .calls = 0 };
        struct wire_task_request q = request();
        struct fake_container *c;
        struct task *t;
        struct wire_task w;

        q.stdin_data = strdup("in");
        q.stdin_len = 2;
        t = submit(f, q, &r);
        assert_int_equal(r.calls, 0);
        c = running(f, 1);
        assert_string_equal(f->fake.owner, "alice");
        assert_string_equal(f->fake.digest, "sha256:abc");
        assert_int_equal(f->fake.n_cmd, 1);
        assert_int_equal(f->fake.stdin_len, 2);
        assert_int_equal(f->fake.network, ENGINE_NET_NAT);
        task_describe(t, &w);
        assert_int_equal(w.status, WIRE_RUNNING);
        assert_false(w.has_output);
        assert_ptr_equal(tasks_find(f->ts, task_id(t)), t);
        say(c, ENGINE_STDOUT, "hello");
        say(c, ENGINE_STDERR, "oops");
        end(c, exit_0);
        assert_int_equal(r.calls, 1);
        assert_int_equal(r.t.status, WIRE_EXITED);
        assert_int_equal(r.t.exit_code, 0);
        assert_int_equal(r.t.reason, WIRE_REASON_NONE);
        assert_string_equal(r.out[0], "hello");
        assert_string_equal(r.out[1], "oops");
        assert_string_equal(r.ref, "docker.io/library/x:latest");
        assert_int_equal(r.t.memory_peak, 4096);
        assert_true(r.t.wall_ns >= 0 && r.t.queued_ns >= 0 && r.t.start_ns >= 0 && r.t.run_ns == 1000);
        assert_false(c->removed);
        assert_int_equal(tasks_live(f->ts), 1);
        wait_stored(f);
        assert_true(c->removed);
        assert_int_equal(r.calls, 1);
}

struct outcome {
        struct engine_exit exit;
        enum wire_status status;
        int code, signo;
        enum wire_reason reason;
};

static void test_outcomes(void **state)
{
        static const struct outcome table[] = {
                { { .end = ENGINE_END_EXITED, .code = 3 }, WIRE_EXITED, 3, 0, WIRE_REASON_NONE },
                { { .end = ENGINE_END_EXITED, .code = 255 }, WIRE_EXITED, 255, 0, WIRE_REASON_NONE },
                { { .end = ENGINE_END_SIGNALED, .signo = SIGSEGV }, WIRE_EXITED, 139, SIGSEGV, WIRE_REASON_SIGNAL },
                { { .end = ENGINE_END_SIGNALED, .signo = SIGKILL }, WIRE_EXITED, 137, SIGKILL, WIRE_REASON_SIGNAL },
                { { .end = ENGINE_END_SIGNALED, .signo = SIGKILL, .oom = true },
                  WIRE_KILLED,
                  137,
                  SIGKILL,
                  WIRE_REASON_OOM },
                { { .end = ENGINE_END_EXITED, .code = 137, .oom = true }, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OOM },
                { { .end = ENGINE_END_EXITED, .code = 1, .disk_full = true },
                  WIRE_EXITED,
                  1,
                  0,
                  WIRE_REASON_DISK_LIMIT },
                { { .end = ENGINE_END_EXITED, .code = 0, .disk_full = true }, WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
                { { .end = ENGINE_END_NOT_FOUND, .text = "t" }, WIRE_FAILED, 127, 0, WIRE_REASON_COMMAND_NOT_FOUND },
                { { .end = ENGINE_END_NOT_EXECUTABLE, .text = "t" },
                  WIRE_FAILED,
                  126,
                  0,
                  WIRE_REASON_COMMAND_NOT_EXECUTABLE },
                { { .end = ENGINE_END_START_ERROR, .text = "t" }, WIRE_FAILED, -1, 0, WIRE_REASON_START_ERROR },
                { { .end = ENGINE_END_LOST, .text = "t" }, WIRE_FAILED, -1, 0, WIRE_REASON_NODE_LOST },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                const struct outcome *o = &table[i];
                struct result r = { .calls = 0 };

                (void)submit(f, request(), &r);
                end(running(f, i + 1), o->exit);
                assert_int_equal(r.calls, 1);
                assert_int_equal(r.t.status, o->status);
                assert_int_equal(r.t.exit_code, o->code);
                assert_int_equal(r.t.signal, o->signo);
                assert_int_equal(r.t.reason, o->reason);
                if (o->status == WIRE_FAILED)
                        assert_string_equal(r.detail, "t");
        }
        wait_stored(f);
}

static void test_image_errors(void **state)
{
        static const struct {
                int r;
                enum wire_reason reason;
        } table[] = {
                { -ENOENT, WIRE_REASON_IMAGE_NOT_FOUND },      { -EACCES, WIRE_REASON_IMAGE_UNAUTHORIZED },
                { -EHOSTUNREACH, WIRE_REASON_REGISTRY_ERROR }, { -ENOMEM, WIRE_REASON_START_ERROR },
                { -EBUSY, WIRE_REASON_REGISTRY_ERROR }, /* at once, not by callback */
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                struct result r = { .calls = 0 };

                f->fake.image_r = table[i].r;
                (void)submit(f, request(), &r);
                assert_int_equal(r.calls, 0);
                for (int k = 0; k < 100 && r.calls == 0; k++)
                        turn(f);
                assert_int_equal(r.t.status, WIRE_FAILED);
                assert_int_equal(r.t.reason, table[i].reason);
                assert_int_equal(r.t.exit_code, -1);
        }
        wait_stored(f);
        assert_int_equal(f->fake.n, 0);
}

static void test_start_errors(void **state)
{
        struct fixture *f = *state;
        struct result r = { .calls = 0 };

        f->fake.create_r = -EINVAL;
        (void)submit(f, request(), &r);
        for (int k = 0; k < 100 && r.calls == 0; k++)
                turn(f);
        assert_int_equal(r.t.reason, WIRE_REASON_START_ERROR);
        assert_string_equal(r.detail, "cannot create");
        f->fake.create_r = 0;
        f->fake.start_r = -EIO;
        r.calls = 0;
        (void)submit(f, request(), &r);
        for (int k = 0; k < 100 && r.calls == 0; k++)
                turn(f);
        assert_string_equal(r.detail, "cannot start");
        wait_stored(f);
        assert_true(f->fake.containers[0]->removed);
}

static void test_timeout(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct fake_container *c;
        struct task_record rec;

        q.limits.timeout_ns = 1000000;
        (void)submit(f, q, &r);
        c = running(f, 1);
        say(c, ENGINE_STDOUT, "so far");
        while (c->n_signals == 0)
                turn(f);
        assert_int_equal(c->signals[0], SIGKILL);
        assert_int_equal(task_record_read(c->record, c->record_len, &rec, NULL), 0);
        assert_int_equal(rec.kill_reason, WIRE_REASON_TIMEOUT);
        task_record_done(&rec);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        assert_int_equal(r.t.status, WIRE_KILLED);
        assert_int_equal(r.t.reason, WIRE_REASON_TIMEOUT);
        assert_int_equal(r.t.exit_code, 137);
        assert_int_equal(r.t.signal, SIGKILL);
        assert_string_equal(r.out[0], "so far");
        wait_stored(f);
}

static void test_cancel_with_grace(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct fake_container *c;
        struct task *t;

        q.limits.grace_ns = 3600 * (int64_t)NS_PER_S;
        t = submit(f, q, &r);
        c = running(f, 1);
        task_cancel(t);
        task_cancel(t);
        assert_int_equal(c->n_signals, 1);
        assert_int_equal(c->signals[0], SIGTERM);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGTERM });
        assert_int_equal(r.t.status, WIRE_KILLED);
        assert_int_equal(r.t.reason, WIRE_REASON_CANCELLED);
        assert_int_equal(r.t.exit_code, 143);
        assert_int_equal(r.t.signal, SIGTERM);

        q = request();
        q.limits.grace_ns = 1000000;
        t = submit(f, q, &r);
        c = running(f, 2);
        task_cancel(t);
        while (c->n_signals < 2)
                turn(f);
        assert_int_equal(c->signals[1], SIGKILL);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        assert_int_equal(r.t.exit_code, 137);
        wait_stored(f);
}

static void test_cancel_before_it_runs(void **state)
{
        struct fixture *f = *state;
        struct result r[2] = { { .calls = 0 }, { .calls = 0 } };
        struct task *t;

        f->fake.hold_images = true;
        t = submit(f, request(), &r[0]);
        task_cancel(t);
        assert_int_equal(r[0].calls, 0);
        f->fake.hold_images = false;
        turn(f);
        assert_int_equal(r[0].calls, 1);
        assert_int_equal(r[0].t.status, WIRE_KILLED);
        assert_int_equal(r[0].t.reason, WIRE_REASON_CANCELLED);
        f->fake.check_r = -ENOTCONN;
        t = submit(f, request(), &r[1]);
        task_cancel(t);
        assert_int_equal(r[1].calls, 1);
        assert_int_equal(r[1].t.status, WIRE_KILLED);
        assert_int_equal(f->fake.n, 0);
        wait_stored(f);
}

static void test_hang_up(void **state)
{
        struct fixture *f = *state;
        const struct task_submit detach = { .owner = "alice" };
        struct result r[2] = { { .calls = 0 }, { .calls = 0 } };
        struct fake_container *c;
        struct task *t;

        t = submit(f, request(), &r[0]);
        assert_int_equal(task_join(t, &(struct task_waiter){ on_ended, &r[1] }, NULL), 0);
        c = running(f, 1);
        task_forget(t, &r[0]);
        assert_int_equal(c->n_signals, 0);
        task_forget(t, &r[1]);
        assert_int_equal(c->n_signals, 1);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        assert_int_equal(r[0].calls + r[1].calls, 0);

        assert_int_equal(submit_how(f, request(), &detach, &r[0], &t), 0);
        c = running(f, 2);
        task_forget(t, &r[0]);
        assert_int_equal(c->n_signals, 0);
        end(c, exit_0);
        assert_int_equal(r[0].calls, 0);
        wait_stored(f);
}

static void test_output_limit(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct fake_container *c;

        q.limits.output = 4;
        (void)submit(f, q, &r);
        c = running(f, 1);
        say(c, ENGINE_STDOUT, "123456");
        assert_int_equal(c->n_signals, 0);
        end(c, exit_0);
        assert_int_equal(r.t.status, WIRE_EXITED);
        assert_true(r.t.truncated);
        assert_string_equal(r.out[0], "1234");
        assert_int_equal(r.t.out_total[0], 6);

        for (int late = 0; late < 2; late++) {
                q = request();
                q.limits.output = 4;
                q.kill_on_output_limit = true;
                (void)submit(f, q, &r);
                c = running(f, (size_t)late + 2);
                say(c, ENGINE_STDERR, "1234");
                assert_int_equal(c->n_signals, 0);
                if (late)
                        c->total[1] = 5; /* nobody saw it before the end */
                else
                        say(c, ENGINE_STDERR, "5");
                assert_int_equal(c->n_signals, late ? 0 : 1);
                end(c, late ? exit_0 : (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
                assert_int_equal(r.t.status, WIRE_KILLED);
                assert_int_equal(r.t.reason, WIRE_REASON_OUTPUT_LIMIT);
                assert_int_equal(r.t.exit_code, 137);
                assert_string_equal(r.out[1], "1234");
        }
        wait_stored(f);
}

static void test_admission_is_fifo(void **state)
{
        struct fixture *f = *state;
        struct result r[4] = { { .calls = 0 } };

        tasks_free(f->ts);
        f->config.max_running = 2;
        f->config.max_queued = 2;
        start_tasks(f);
        for (int i = 0; i < 4; i++)
                (void)submit(f, request(), &r[i]);
        assert_int_equal(submit_how(f, request(), &(struct task_submit){ .owner = "o" }, NULL, NULL), -EAGAIN);
        (void)running(f, 2);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_int_equal(f->fake.n, 2);
        end(f->fake.containers[1], exit_0);
        /* The place is free when history has the result, for the container lives until then. */
        (void)running(f, 3);
        assert_true(f->fake.containers[1]->removed);
        end(f->fake.containers[0], exit_0);
        end(f->fake.containers[2], exit_0);
        end(running(f, 4), exit_0);
        assert_int_equal(r[0].calls + r[1].calls + r[2].calls + r[3].calls, 4);
        wait_stored(f);
}

static void test_admission_by_memory(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
        struct result r = { .calls = 0 };

        q.limits.memory = (int64_t)(ram * 5);
        assert_int_equal(submit_how(f, q, &(struct task_submit){ .owner = "o" }, NULL, NULL), -EINVAL);
        q = request();
        q.limits.memory = (int64_t)(ram * 3);
        (void)submit(f, q, &r);
        (void)running(f, 1);
        q = request();
        q.limits.memory = (int64_t)(ram * 3);
        (void)submit(f, q, &r);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_int_equal(f->fake.n, 1);
        end(f->fake.containers[0], exit_0);
        end(running(f, 2), exit_0);
        wait_stored(f);
        /* Nothing starts while too little memory is available. */
        tasks_free(f->ts);
        f->config.reserve = ram * 2;
        start_tasks(f);
        q = request();
        q.limits.queue_timeout_ns = 150 * (int64_t)NS_PER_MS;
        r.calls = 0;
        (void)submit(f, q, &r);
        for (int i = 0; i < 100000 && r.calls == 0; i++)
                turn(f);
        assert_int_equal(r.t.status, WIRE_FAILED);
        assert_int_equal(r.t.reason, WIRE_REASON_QUEUE_TIMEOUT);
        assert_int_equal(f->fake.n, 2);
        wait_stored(f);
}

static void test_waits_for_the_engine(void **state)
{
        struct fixture *f = *state;
        struct result r = { .calls = 0 };

        f->fake.check_r = -ENOTCONN;
        (void)submit(f, request(), &r);
        for (int i = 0; i < 5; i++)
                turn(f);
        assert_int_equal(f->fake.n, 0);
        f->fake.check_r = 0;
        while (f->fake.n == 0)
                turn(f);
        end(f->fake.containers[0], exit_0);
        assert_int_equal(r.calls, 1);
        wait_stored(f);
}

static void test_idempotency(void **state)
{
        struct fixture *f = *state;
        uint8_t hash[32] = { 1 }, other[32] = { 2 };
        struct task_submit how = { .owner = "alice", .idempotency_key = "k", .body_hash = hash };
        struct result r[3] = { { .calls = 0 } };
        struct task *t[3] = { NULL };

        assert_int_equal(submit_how(f, request(), &how, &r[0], &t[0]), 0);
        assert_int_equal(submit_how(f, request(), &how, &r[1], &t[1]), 1);
        assert_ptr_equal(t[0], t[1]);
        how.body_hash = other;
        assert_int_equal(submit_how(f, request(), &how, &r[2], NULL), -EEXIST);
        how.owner = "bob";
        assert_int_equal(submit_how(f, request(), &how, NULL, &t[2]), 0);
        assert_ptr_not_equal(t[0], t[2]);
        (void)running(f, 2);
        end(f->fake.containers[0], exit_0);
        assert_int_equal(r[0].calls, 1);
        assert_int_equal(r[1].calls, 1);
        /* Ended, and not yet in history: the answer comes on a later turn. */
        how.owner = "alice";
        how.body_hash = hash;
        assert_int_equal(submit_how(f, request(), &how, &r[2], &t[1]), 1);
        assert_int_equal(r[2].calls, 0);
        turn(f);
        assert_int_equal(r[2].calls, 1);
        end(f->fake.containers[1], exit_0);
        wait_stored(f);
        /* The join and the commit on the same turn. */
        for (int i = 0; i < 20; i++) {
                r[2].calls = 0;
                assert_int_equal(submit_how(f, request(), &how, NULL, &t[1]), 0);
                end(running(f, (size_t)i + 3), exit_0);
                while (tasks_live(f->ts) > 0) {
                        assert_int_equal(task_join(t[1], &(struct task_waiter){ on_ended, &r[2] }, NULL), 0);
                        r[1].calls = r[2].calls;
                        turn(f);
                        assert_true(r[2].calls > r[1].calls);
                }
        }
        while (f->fake.n > 2)
                free_container(f->fake.containers[--f->fake.n]);
        assert_int_equal(submit_how(f, request(), &how, NULL, NULL), 0);
        end(running(f, 3), exit_0);
        wait_stored(f);
}

struct late_join {
        struct fixture *f;
        struct task_submit how;
        struct result r;
        int joined;
};

static void on_not_found(int r, struct history_record *record, const struct err *err, void *data)
{
        struct late_join *l = data;

        (void)record;
        (void)err;
        assert_int_equal(r, -ENOENT);
        l->joined = submit_how(l->f, request(), &l->how, &l->r, NULL);
}

/* Who looked for the key just before history had it joins in the very turn in which history answers for the task. */
static void test_join_while_it_is_stored(void **state)
{
        struct fixture *f = *state;
        const uint8_t hash[32] = { 1 };
        struct late_join l = { .f = f, .how = { .owner = "alice", .idempotency_key = "k", .body_hash = hash } };
        struct fake_container *c;

        assert_int_equal(submit_how(f, request(), &l.how, NULL, NULL), 0);
        c = running(f, 1);
        end(c, exit_0);
        assert_int_equal(history_find_key(f->history, "alice", "k", on_not_found, &l, NULL), 0);
        history_flush(f->history);
        (void)usleep(200 * 1000);
        wait_stored(f);
        assert_int_equal(l.joined, 1);
        assert_int_equal(l.r.calls, 1);
        assert_true(c->removed);
        assert_int_equal(f->fake.n, 1);
}

/* Where history has no place, the container keeps the result until it has. */
static void test_history_full(void **state)
{
        struct fixture *f = *state;
        struct rlimit before, none;
        struct result r = { .calls = 0 };
        struct fake_container *c;
        struct task *t;
        bool removed;

        t = submit(f, request(), &r);
        c = running(f, 1);
        say(c, ENGINE_STDOUT, "kept");
        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        none = (struct rlimit){ 1, before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
        end(c, exit_0);
        assert_int_equal(r.calls, 1);
        for (int i = 0; i < 1000 && t->tries < 1; i++)
                turn(f);
        t->tries = TASK_HISTORY_TRIES;
        for (int i = 0; i < 3000 && tasks_live(f->ts) > 0 && t->tries == TASK_HISTORY_TRIES; i++)
                turn(f);
        removed = c->removed;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_false(removed);
        wait_stored(f);
        assert_true(c->removed);
}

static void test_drain(void **state)
{
        struct fixture *f = *state;
        struct result r = { .calls = 0 };

        (void)submit(f, request(), &r);
        tasks_drain(f->ts);
        assert_int_equal(submit_how(f, request(), &(struct task_submit){ .owner = "o" }, NULL, NULL), -ESHUTDOWN);
        end(running(f, 1), exit_0);
        assert_int_equal(r.calls, 1);
        wait_stored(f);
}

/* Preparing it may take longer than it may run. */
static void test_timeout_of_the_program(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct fake_container *c;

        q.limits.timeout_ns = 30 * (int64_t)NS_PER_MS;
        (void)submit(f, q, &r);
        c = running(f, 1);
        c->started = false;
        while (c->n_stats < 2)
                turn(f);
        c->started = c->prepared = true;
        while (c->n_stats < 4)
                turn(f);
        assert_int_equal(c->n_signals, 0);
        c->runs_ns = time_mono_ns();
        c->prepared = false;
        while (c->n_signals == 0)
                turn(f);
        assert_true(time_mono_ns() - c->runs_ns >= 30 * NS_PER_MS);
        assert_int_equal(c->signals[0], SIGKILL);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        assert_int_equal(r.t.reason, WIRE_REASON_TIMEOUT);
}

/* The answer about its start comes after its end. */
static void test_timeout_meets_the_end(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct fake_container *c;

        q.limits.timeout_ns = 1;
        (void)submit(f, q, &r);
        c = running(f, 1);
        while (!c->stats_fn)
                assert_true(loop_turn(f->fake.loop, 1, NULL) >= 0);
        end(c, exit_0);
        assert_int_equal(r.calls, 1);
        assert_int_equal(r.t.status, WIRE_EXITED);
        for (int i = 0; i < 200 && !c->removed; i++)
                assert_true(loop_turn(f->fake.loop, 10, NULL) >= 0);
        answer_stats(c);
        assert_int_equal(c->n_signals, 0);
}

static void test_adoption(void **state)
{
        struct fixture *f = *state;
        uint8_t hash[32] = { 1 };
        const struct task_submit how = { .owner = "alice", .idempotency_key = "k", .body_hash = hash };
        struct result r = { .calls = 0 };
        struct wire_task_request q = request();
        struct fake_container *c;
        struct task *t = NULL;
        char id[32];

        q.limits.timeout_ns = 50 * (int64_t)NS_PER_MS;
        assert_int_equal(submit_how(f, q, &how, NULL, &t), 0);
        (void)snprintf(id, sizeof(id), "%s", task_id(t));
        c = running(f, 1);
        say(c, ENGINE_STDOUT, "kept");
        tasks_free(f->ts);
        assert_false(c->removed);
        assert_null(c->base.events);

        /* The next daemon: the timeout goes on from the start, the key still leads to the task. */
        start_tasks(f);
        assert_int_equal(tasks_adopt(f->ts, NULL, NULL, NULL), 0);
        assert_int_equal(tasks_live(f->ts), 1);
        t = tasks_find(f->ts, id);
        assert_non_null(t);
        assert_string_equal(task_owner(t), "alice");
        assert_int_equal(submit_how(f, request(), &how, &r, NULL), 1);
        while (c->n_signals == 0)
                turn(f);
        tasks_free(f->ts);

        /* And the one after that still knows why it was killed, and kills again. */
        start_tasks(f);
        assert_int_equal(tasks_adopt(f->ts, NULL, NULL, NULL), 0);
        assert_int_equal(c->n_signals, 2);
        assert_int_equal(submit_how(f, request(), &how, &r, NULL), 1);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        assert_int_equal(r.calls, 1);
        assert_int_equal(r.t.reason, WIRE_REASON_TIMEOUT);
        assert_string_equal(r.out[0], "kept");
        wait_stored(f);
        assert_true(c->removed);
}

static void test_adoption_of_garbage(void **state)
{
        struct fixture *f = *state;
        struct fake_container *c;

        (void)submit(f, request(), NULL);
        c = running(f, 1);
        tasks_free(f->ts);
        c->record[0] ^= 1;
        start_tasks(f);
        assert_int_equal(tasks_adopt(f->ts, NULL, NULL, NULL), 0);
        assert_int_equal(tasks_live(f->ts), 0);
        assert_true(c->removed);
}

static void test_record(void **state)
{
        struct task_record r = { .owner = strdup("alice"), .image_ref = strdup("x") }, back;
        auto_str text = STR_INIT;

        (void)state;
        wire_limits_default(&r.limits);
        r.kill_reason = WIRE_REASON_CANCELLED;
        r.kill_signo = SIGTERM;
        r.grace_end_ns = 42;
        r.body_hash[0] = 9;
        assert_int_equal(task_record_write(&r, &text), 0);
        assert_int_equal(task_record_read(text.data, text.len, &back, NULL), 0);
        assert_string_equal(back.owner, "alice");
        assert_null(back.key);
        assert_null(back.image_digest);
        assert_int_equal(back.limits.memory, r.limits.memory);
        assert_int_equal(back.kill_signo, SIGTERM);
        assert_int_equal(back.grace_end_ns, 42);
        assert_int_equal(back.body_hash[0], 9);
        task_record_done(&back);
        for (size_t len = 0; len < text.len; len++)
                assert_int_equal(task_record_read(text.data, len, &back, NULL), -EBADMSG);
        assert_int_equal(str_addc(&text, 'x'), 0);
        assert_int_equal(task_record_read(text.data, text.len, &back, NULL), -EBADMSG);
        task_record_done(&r);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_runs_and_is_stored, setup, teardown),
                cmocka_unit_test_setup_teardown(test_outcomes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_image_errors, setup, teardown),
                cmocka_unit_test_setup_teardown(test_start_errors, setup, teardown),
                cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
                cmocka_unit_test_setup_teardown(test_timeout_of_the_program, setup, teardown),
                cmocka_unit_test_setup_teardown(test_timeout_meets_the_end, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel_with_grace, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel_before_it_runs, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hang_up, setup, teardown),
                cmocka_unit_test_setup_teardown(test_output_limit, setup, teardown),
                cmocka_unit_test_setup_teardown(test_admission_is_fifo, setup, teardown),
                cmocka_unit_test_setup_teardown(test_admission_by_memory, setup, teardown),
                cmocka_unit_test_setup_teardown(test_waits_for_the_engine, setup, teardown),
                cmocka_unit_test_setup_teardown(test_idempotency, setup, teardown),
                cmocka_unit_test_setup_teardown(test_join_while_it_is_stored, setup, teardown),
                cmocka_unit_test_setup_teardown(test_history_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_adoption, setup, teardown),
                cmocka_unit_test_setup_teardown(test_adoption_of_garbage, setup, teardown),
                cmocka_unit_test(test_record),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
