#include "task/test_fake.h"

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
                { -ENOENT, WIRE_REASON_IMAGE_NOT_FOUND },
                { -EACCES, WIRE_REASON_IMAGE_UNAUTHORIZED },
                { -EHOSTUNREACH, WIRE_REASON_REGISTRY_ERROR },
                { -ENOMEM, WIRE_REASON_START_ERROR },
                { -EBADMSG, WIRE_REASON_IMAGE_INVALID },
                { -EOPNOTSUPP, WIRE_REASON_IMAGE_UNSUPPORTED },
                { -EKEYREJECTED, WIRE_REASON_IMAGE_UNTRUSTED },
                { -ENOSPC, WIRE_REASON_NO_SPACE },
                { -EUCLEAN, WIRE_REASON_IMAGE_BROKEN },
                { -EREMOTEIO, WIRE_REASON_REGISTRY_ERROR },
                { -EIO, WIRE_REASON_START_ERROR }, /* a worker died */
                { -ENOTCONN, WIRE_REASON_START_ERROR },
                { -EBUSY, WIRE_REASON_REGISTRY_BUSY }, /* at once, not by callback */
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
        assert_string_equal(r.detail, "it waited too long for room on this node");
        assert_int_equal(f->fake.n, 2);
        wait_stored(f);
}

/* Not taken for want of room: who reads that would look for what is too much. */
static void test_waits_too_long_for_the_engine(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };

        q.limits.queue_timeout_ns = 50 * (int64_t)NS_PER_MS;
        f->fake.check_r = -ENOTCONN;
        (void)submit(f, q, &r);
        for (int i = 0; i < 100000 && r.calls == 0; i++)
                turn(f);
        assert_int_equal(r.t.reason, WIRE_REASON_QUEUE_TIMEOUT);
        assert_string_equal(r.detail, "engine fake: down");
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

/* More of them than may keep their containers: what was answered is kept all the same, and when that is too much, nothing new is
 * taken until there is room. */
static void test_history_full_for_many(void **state)
{
        struct fixture *f = *state;
        struct result r[4] = { { .calls = 0 } };
        struct rlimit before, none;
        int refused;

        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        none = (struct rlimit){ 1, before.rlim_max };
        f->ts->config.max_running = 2;
        f->ts->config.max_kept = 3 * sizeof(struct task);
        for (size_t i = 0; i < 3; i++) {
                struct fake_container *c;
                struct task *t = submit(f, request(), &r[i]);

                c = running(f, i + 1);
                say(c, ENGINE_STDOUT, "kept");
                assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
                end(c, exit_0);
                for (int k = 0; k < 1000 && t->tries < 1; k++)
                        turn(f);
                t->tries = TASK_HISTORY_TRIES + 1;
                assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
                assert_true(c->removed);
                assert_int_equal(t->out_len[0], 4);
        }
        assert_int_equal(tasks_live(f->ts), 3);
        refused = submit_how(f, request(), &(struct task_submit){ .owner = "o" }, NULL, NULL);
        assert_int_equal(refused, -ENOSPC);
        wait_stored(f);
        assert_int_equal(f->ts->n_kept, 0);
        assert_int_equal(f->ts->kept_bytes, 0);
        (void)submit(f, request(), &r[3]);
        end(running(f, 4), exit_0);
        wait_stored(f);
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
        for (int i = 0; i < 1000 && r.calls == 0; i++)
                turn(f); /* until the accepted requests are known */
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
        r.attempts = 3;
        r.retries = 4;
        r.accepted = true;
        r.created_ns = UINT64_MAX - 5; /* before the machine's start */
        assert_int_equal(strv_add(&r.labels, "a=b"), 0);
        assert_int_equal(strv_add(&r.outputs, "/x"), 0);
        assert_int_equal(strv_add(&r.outputs, "y"), 0);
        assert_int_equal(task_record_write(&r, &text), 0);
        assert_int_equal(task_record_read(text.data, text.len, &back, NULL), 0);
        assert_string_equal(back.owner, "alice");
        assert_null(back.key);
        assert_null(back.image_digest);
        assert_int_equal(back.limits.memory, r.limits.memory);
        assert_int_equal(back.kill_signo, SIGTERM);
        assert_int_equal(back.grace_end_ns, 42);
        assert_int_equal(back.body_hash[0], 9);
        assert_int_equal(back.attempts, 3);
        assert_int_equal(back.retries, 4);
        assert_true(back.accepted && back.created_ns == UINT64_MAX - 5);
        assert_string_equal(back.labels[0], "a=b");
        assert_null(back.labels[1]);
        assert_string_equal(back.outputs[1], "y");
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
                cmocka_unit_test_setup_teardown(test_waits_too_long_for_the_engine, setup, teardown),
                cmocka_unit_test_setup_teardown(test_idempotency, setup, teardown),
                cmocka_unit_test_setup_teardown(test_join_while_it_is_stored, setup, teardown),
                cmocka_unit_test_setup_teardown(test_history_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_history_full_for_many, setup, teardown),
                cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_adoption, setup, teardown),
                cmocka_unit_test_setup_teardown(test_adoption_of_garbage, setup, teardown),
                cmocka_unit_test(test_record),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
