/* Requests on disk, and what begins anew. */

#include "state/db.h"
#include "state/keys.h"
#include "task/test_fake.h"

#include <signal.h>
#include <sys/resource.h>

struct stored {
        int calls, r;
        char id[32];
};

static void on_request_stored(int r, const char *id, const struct err *err, void *data)
{
        struct stored *s = data;

        (void)err;
        s->calls++;
        s->r = r;
        (void)snprintf(s->id, sizeof(s->id), "%s", id);
}

static struct task *accept_task(struct fixture *f, struct wire_task_request q, struct stored *s, struct result *r)
{
        const struct task_submit how = {
                .owner = "alice",
                .cancel_when_alone = true,
                .stored = on_request_stored,
                .stored_data = s,
        };
        struct task *t = NULL;

        assert_int_equal(submit_how(f, q, &how, r, &t), 0);
        assert_int_equal(s->calls, 0);
        return t;
}

static void wait_call(struct fixture *f, const struct stored *s)
{
        for (int i = 0; i < 1000 && s->calls == 0; i++)
                turn(f);
        assert_int_equal(s->calls, 1);
}

static void on_ready(int r, const struct err *err, void *data)
{
        (void)err;
        *(int *)data = r == 0 ? 1 : -1;
}

/* As after a crash of the daemon: what was in memory is gone. */
static void restart(struct fixture *f)
{
        int ready = 0;

        tasks_free(f->ts);
        if (f->fake.image_fn)
                answer_image(&f->fake);
        f->fake.hold_images = false;
        start_tasks(f);
        assert_int_equal(tasks_adopt(f->ts, on_ready, &ready, NULL), 0);
        for (int i = 0; i < 5000 && !ready; i++)
                turn(f);
        assert_int_equal(ready, 1);
}

struct counted {
        bool done;
        size_t n;
        bool started;
        unsigned attempts;
};

static void on_requests(int r, struct history_request *requests, size_t n, const struct err *err, void *data)
{
        struct counted *c = data;

        (void)err;
        assert_int_equal(r, 0);
        *c = (struct counted){ .done = true, .n = n };
        if (n > 0) {
                c->started = requests[0].started;
                c->attempts = requests[0].attempts;
        }
}

static struct counted requests_on_disk(struct fixture *f)
{
        struct counted c = { .done = false };

        assert_int_equal(history_requests(f->history, on_requests, &c, NULL), 0);
        while (!c.done)
                turn(f);
        return c;
}

static void on_text(int r, struct history_record *record, const struct err *err, void *data)
{
        (void)err;
        *(char **)data = r == 0 ? strndup(record->document.data, record->document.len) : strdup("none");
}

static char *document_of(struct fixture *f, const char *id)
{
        char *text = NULL;

        wait_stored(f);
        assert_int_equal(history_get(f->history, id, NULL, on_text, &text, NULL), 0);
        while (!text)
                turn(f);
        return text;
}

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_accepted_before_it_starts(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };
        struct fake_container *c;
        struct task *t = accept_task(f, request(), &s, &r);
        struct counted on_disk;

        assert_null(f->fake.image_fn);
        wait_call(f, &s);
        assert_int_equal(s.r, 0);
        assert_string_equal(s.id, task_id(t));
        c = running(f, 1);
        on_disk = requests_on_disk(f);
        assert_int_equal(on_disk.n, 1);
        assert_true(on_disk.started);
        assert_int_equal(on_disk.attempts, 1);
        /* Who was answered may go. */
        task_forget(t, &r);
        assert_int_equal(c->n_signals, 0);
        end(c, exit_0);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
        assert_int_equal(r.calls, 0);
}

/* The disk is full when its turn comes. */
static void test_accepted_waits_for_the_disk(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };
        struct rlimit before, none;
        struct task *t;

        f->fake.hold_images = true;
        t = accept_task(f, request(), &s, &r);
        wait_call(f, &s);
        for (int i = 0; i < 1000 && !f->fake.image_fn; i++)
                turn(f);
        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        none = (struct rlimit){ 1, before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
        answer_image(&f->fake);
        for (int i = 0; i < 3000 && t->state != WIRE_QUEUED && r.calls == 0; i++)
                turn(f);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(r.calls, 0);
        assert_int_equal(t->state, WIRE_QUEUED);
        f->fake.hold_images = false;
        for (int i = 0; i < 3000 && f->fake.n == 0; i++)
                turn(f);
        end(running(f, 1), exit_0);
        assert_int_equal(r.calls, 1);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
}

static void test_never_started(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };
        auto_free char *document = NULL;

        assert_int_equal(strv_add(&q.labels, "a=b"), 0);
        q.secrets = calloc(1, sizeof(*q.secrets));
        q.secrets[0] = (struct wire_secret){ strdup("N"), strdup("hidden"), 6 };
        q.n_secrets = 1;
        f->fake.check_r = -ENOTCONN;
        (void)accept_task(f, q, &s, &r);
        wait_call(f, &s);
        assert_int_equal(f->fake.n, 0);
        assert_false(requests_on_disk(f).started);
        f->fake.check_r = 0;
        restart(f);
        assert_non_null(tasks_find(f->ts, s.id));
        end(running(f, 1), exit_0);
        assert_string_equal(f->fake.containers[0]->id, s.id);
        assert_string_equal(f->fake.secret, "N=hidden");
        document = document_of(f, s.id);
        assert_non_null(strstr(document, "\"status\":\"exited\""));
        assert_non_null(strstr(document, "\"labels\":{\"a\":\"b\"}"));
        assert_int_equal(requests_on_disk(f).n, 0);
}

static void test_started_and_gone(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        auto_free char *document = NULL;

        (void)accept_task(f, request(), &s, NULL);
        running(f, 1)->removed = true;
        restart(f);
        document = document_of(f, s.id);
        assert_non_null(strstr(document, "\"status\":\"failed\""));
        assert_non_null(strstr(document, "\"reason\":\"node_lost\""));
        assert_int_equal(f->fake.n, 1);
        assert_int_equal(requests_on_disk(f).n, 0);
}

static void test_started_and_gone_with_retries(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct stored s = { .calls = 0 };
        auto_free char *document = NULL;

        q.retries = 1;
        (void)accept_task(f, q, &s, NULL);
        running(f, 1)->removed = true;
        restart(f);
        for (int i = 0; i < 3000 && f->fake.n < 2; i++)
                turn(f);
        assert_int_equal(requests_on_disk(f).attempts, 2);
        running(f, 2)->removed = true;
        /* That was the last one. */
        restart(f);
        document = document_of(f, s.id);
        assert_non_null(strstr(document, "\"reason\":\"node_lost\""));
        assert_non_null(strstr(document, "\"attempts\":2"));
        assert_int_equal(f->fake.n, 2);
}

/* What ended while there was no daemon is told before the requests have been read. */
static void test_ended_meanwhile(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct stored s = { .calls = 0 };

        f->fake.life = 42;
        f->fake.ends_when_listed = true;
        f->fake.end_when_listed = (struct engine_exit){ .end = ENGINE_END_START_ERROR, .text = "no" };
        q.retries = 1;
        (void)accept_task(f, q, &s, NULL);
        (void)running(f, 1);
        restart(f);
        /* It begins anew, as its request says. */
        for (int i = 0; i < 3000 && f->fake.n < 2; i++)
                turn(f);
        end(running(f, 2), exit_0);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
}

/* The same where the request came to the disk when the task ran: it goes with the result, or the task would run once more. */
static void test_stored_late_and_ended_meanwhile(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct task *t;

        f->fake.life = 42;
        f->fake.ends_when_listed = true;
        f->fake.end_when_listed = exit_0;
        t = submit(f, request(), NULL);
        (void)running(f, 1);
        assert_int_equal(task_store_request(t, on_request_stored, &s, NULL), 0);
        wait_call(f, &s);
        restart(f);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
        restart(f);
        assert_int_equal(tasks_live(f->ts), 0);
        assert_int_equal(f->fake.n, 1);
}

/* The daemon died between the mark on disk and the start: the engine that lives never had it. */
static void test_marked_and_unknown_to_the_engine(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct stored s = { .calls = 0 };

        f->fake.life = 42;
        q.retries = 0;
        (void)accept_task(f, q, &s, NULL);
        running(f, 1)->removed = true;
        restart(f);
        end(running(f, 2), exit_0);
        assert_string_equal(f->fake.containers[1]->id, s.id);
        assert_int_equal(requests_on_disk(f).attempts, 1);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
}

/* Another launcher: whether it ran is not known. */
static void test_marked_under_another_engine(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        auto_free char *document = NULL;

        f->fake.life = 42;
        (void)accept_task(f, request(), &s, NULL);
        running(f, 1)->removed = true;
        f->fake.life = 43;
        restart(f);
        document = document_of(f, s.id);
        assert_non_null(strstr(document, "\"reason\":\"node_lost\""));
        assert_int_equal(f->fake.n, 1);
}

/* The daemon stops between the mark on disk and the start. */
static void test_marked_and_not_started(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct counted on_disk;

        f->fake.hold_images = true;
        (void)accept_task(f, request(), &s, NULL);
        wait_call(f, &s);
        assert_non_null(f->fake.image_fn);
        answer_image(&f->fake);
        tasks_free(f->ts);
        start_tasks(f);
        on_disk = requests_on_disk(f);
        assert_int_equal(on_disk.n, 1);
        assert_false(on_disk.started);
        assert_int_equal(on_disk.attempts, 0);
        restart(f);
        end(running(f, 1), exit_0);
        wait_stored(f);
}

/* Its container is there: it runs on, and is no second one. */
static void test_started_and_there(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        auto_free char *document = NULL;
        struct fake_container *c;

        (void)accept_task(f, request(), &s, NULL);
        c = running(f, 1);
        restart(f);
        assert_int_equal(tasks_live(f->ts), 1);
        end(c, exit_0);
        document = document_of(f, s.id);
        assert_non_null(strstr(document, "\"status\":\"exited\""));
        assert_int_equal(requests_on_disk(f).n, 0);
}

static void test_key_after_a_restart(void **state)
{
        struct fixture *f = *state;
        uint8_t hash[32] = { 1 };
        struct stored s = { .calls = 0 }, again = { .calls = 0 };
        struct task_submit how = { .owner = "alice", .idempotency_key = "k", .body_hash = hash };
        struct task *t = NULL;

        f->fake.check_r = -ENOTCONN;
        how.stored = on_request_stored;
        how.stored_data = &s;
        assert_int_equal(submit_how(f, request(), &how, NULL, &t), 0);
        wait_call(f, &s);
        restart(f);
        how.stored_data = &again;
        assert_int_equal(submit_how(f, request(), &how, NULL, &t), 1);
        wait_call(f, &again);
        assert_string_equal(again.id, s.id);
        assert_int_equal(tasks_live(f->ts), 1);
}

static void test_no_place(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };
        struct rlimit before, none;

        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        none = (struct rlimit){ 1, before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
        (void)accept_task(f, request(), &s, &r);
        for (int i = 0; i < 1000 && s.calls == 0; i++)
                turn(f);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(s.calls, 1);
        assert_true(s.r < 0);
        assert_int_equal(r.calls, 0);
        assert_int_equal(tasks_live(f->ts), 0);
        assert_int_equal(tasks_count(f->ts, NULL).queued, 0);
        s.calls = 0;
        (void)accept_task(f, request(), &s, &r);
        wait_call(f, &s);
        assert_int_equal(s.r, 0);
}

static void test_stored_later(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 }, again = { .calls = 0 };
        struct result r = { .calls = 0 };
        struct task *t = submit(f, request(), &r);
        struct fake_container *c = running(f, 1);

        assert_int_equal(task_store_request(t, on_request_stored, &s, NULL), 0);
        assert_int_equal(s.calls, 0);
        wait_call(f, &s);
        assert_true(requests_on_disk(f).started);
        assert_int_equal(task_store_request(t, on_request_stored, &again, NULL), 0);
        wait_call(f, &again);
        task_forget(t, &r);
        assert_int_equal(c->n_signals, 0);
        end(c, exit_0);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
}

/* Its end reaches history in the very turn in which somebody asks for the disk. */
static void test_stored_with_its_end(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };
        struct task *t = submit(f, request(), &r);
        char id[32];

        (void)snprintf(id, sizeof(id), "%s", task_id(t));
        end(running(f, 1), exit_0);
        assert_int_equal(r.calls, 1);
        history_flush(f->history);
        /* The worker is done with it, and the loop has not heard. */
        (void)usleep(300000);
        assert_ptr_equal(tasks_find(f->ts, id), t);
        assert_int_equal(task_store_request(t, on_request_stored, &s, NULL), 0);
        for (int i = 0; i < 100 && tasks_find(f->ts, id); i++)
                turn(f);
        turn(f);
        assert_int_equal(s.calls, 1);
        assert_int_equal(s.r, 0);
        assert_string_equal(s.id, id);
}

/* One that has not begun, since its image is on its way still, is no lost one. */
static void test_stored_while_it_pulls(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct wire_task_request q = request();
        struct counted on_disk;
        struct task *t;

        f->fake.hold_images = true;
        t = submit(f, q, NULL);
        turn(f);
        assert_non_null(f->fake.image_fn);
        assert_int_equal(task_store_request(t, on_request_stored, &s, NULL), 0);
        wait_call(f, &s);
        on_disk = requests_on_disk(f);
        assert_false(on_disk.started);
        assert_int_equal(on_disk.attempts, 0);
        restart(f);
        end(running(f, 1), exit_0);
        assert_string_equal(f->fake.containers[0]->id, s.id);
        wait_stored(f);
}

static void test_cancelled_while_it_is_stored(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };

        task_cancel(accept_task(f, request(), &s, &r));
        assert_int_equal(r.calls, 1);
        assert_int_equal(r.t.reason, WIRE_REASON_CANCELLED);
        wait_call(f, &s);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
        assert_int_equal(f->fake.n, 0);
}

/* What did not start when the daemon is to stop is the next one's. */
static void test_drain_leaves_it(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct task *t;

        f->fake.check_r = -ENOTCONN;
        t = accept_task(f, request(), &s, NULL);
        wait_call(f, &s);
        tasks_drain(f->ts);
        f->fake.check_r = 0;
        assert_int_equal(tasks_live(f->ts), 0);
        (void)t;
        tasks_cancel_all(f->ts);
        for (int i = 0; i < 100; i++)
                turn(f);
        assert_int_equal(f->fake.n, 0);
        restart(f);
        end(running(f, 1), exit_0);
        wait_stored(f);
}

/* Whoever cancels it himself means it. */
static void test_cancel_while_draining(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        struct result r = { .calls = 0 };
        const struct task_waiter waiter = { .ended = on_ended, .data = &r };
        struct task *t;

        f->fake.check_r = -ENOTCONN;
        t = accept_task(f, request(), &s, NULL);
        wait_call(f, &s);
        tasks_drain(f->ts);
        assert_int_equal(task_join(t, &waiter, NULL), 0);
        task_cancel(t);
        assert_int_equal(r.calls, 1);
        assert_int_equal(r.t.reason, WIRE_REASON_CANCELLED);
        wait_stored(f);
        assert_int_equal(requests_on_disk(f).n, 0);
}

static void on_key_made(int r, const struct key *key, const char *secret, const struct err *err, void *data)
{
        (void)secret;
        (void)err;
        assert_int_equal(r, 0);
        (void)snprintf(data, KEY_OWNER_MAX, "%s", key->owner);
}

/* A key's maxima are in force before it is used again. */
static void test_recovered_within_the_keys_maxima(void **state)
{
        struct fixture *f = *state;
        auto_free char *path = str_printf("%s/state.db", f->dir);
        const struct key wanted = { .role = KEY_TASK, .maxima.max_running = 1 };
        struct state_db *db = NULL;
        struct keys *keys = NULL;
        char owner[KEY_OWNER_MAX] = "";
        struct stored s[3] = { { .calls = 0 } };

        assert_int_equal(state_db_open(path, &db, NULL), 0);
        assert_int_equal(keys_new(f->fake.loop, db, &keys, NULL), 0);
        assert_int_equal(keys_create(keys, &wanted, on_key_made, owner, NULL), 0);
        while (!*owner)
                turn(f);
        f->fake.check_r = -ENOTCONN;
        for (size_t i = 0; i < ARRAY_LEN(s); i++) {
                const struct task_submit how = {
                        .owner = owner,
                        .stored = on_request_stored,
                        .stored_data = &s[i],
                };

                assert_int_equal(submit_how(f, request(), &how, NULL, NULL), 0);
                wait_call(f, &s[i]);
        }
        f->config.keys = keys;
        restart(f);
        f->fake.check_r = 0;
        for (size_t n = 1; n <= ARRAY_LEN(s); n++) {
                (void)running(f, n);
                for (int i = 0; i < 20; i++)
                        turn(f);
                assert_int_equal(f->fake.n, n);
                end(f->fake.containers[n - 1], exit_0);
        }
        wait_stored(f);
        tasks_free(f->ts);
        f->ts = NULL;
        keys_free(keys);
        state_db_close(db);
        (void)unlink(path);
}

static bool file_has(const char *path, const char *suffix, const char *what)
{
        auto_free char *name = str_printf("%s%s", path, suffix);
        auto_fd fd = open(name, O_RDONLY | O_CLOEXEC);
        static char buf[1 << 20];
        ssize_t n = fd >= 0 ? read(fd, buf, sizeof(buf)) : 0;

        return n > 0 && memmem(buf, (size_t)n, what, strlen(what));
}

static bool disk_has(const struct fixture *f, const char *what)
{
        return file_has(f->path, "", what) || file_has(f->path, "-wal", what);
}

/* Neither the text nor, in the end, what was made of it. */
static void test_nothing_is_left(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct stored s = { .calls = 0 };

        q.stdin_data = strdup("canary-of-stdin");
        q.stdin_len = strlen("canary-of-stdin");
        assert_int_equal(strv_add(&q.env, "A=canary-of-env"), 0);
        q.registry_username = strdup("u");
        q.registry_password = strdup("canary-of-registry");
        (void)accept_task(f, q, &s, NULL);
        wait_call(f, &s);
        assert_true(disk_has(f, s.id));
        assert_false(disk_has(f, "canary"));
        end(running(f, 1), exit_0);
        wait_stored(f);
        /* The log is emptied some time later. */
        for (int i = 0; i < 3000 && file_has(f->path, "-wal", s.id); i++)
                turn(f);
        assert_false(file_has(f->path, "-wal", s.id));
        assert_false(disk_has(f, "canary"));
}

static void test_unreadable(void **state)
{
        struct fixture *f = *state;
        struct stored s = { .calls = 0 };
        auto_free char *document = NULL;
        char key[96];

        f->fake.check_r = -ENOTCONN;
        (void)accept_task(f, request(), &s, NULL);
        wait_call(f, &s);
        seal_free(f->seal);
        f->seal = NULL;
        (void)snprintf(key, sizeof(key), "%s/other", f->dir);
        assert_int_equal(seal_new(key, &f->seal, NULL), 0);
        f->config.seal = f->seal;
        f->fake.check_r = 0;
        restart(f);
        document = document_of(f, s.id);
        assert_non_null(strstr(document, "\"reason\":\"start_error\""));
}

static void test_retries(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct task *t;

        q.retries = 2;
        t = submit(f, q, &r);
        end(running(f, 1), (struct engine_exit){ .end = ENGINE_END_LOST });
        assert_int_equal(r.calls, 0);
        assert_int_equal(tasks_count(f->ts, "alice").queued, 1);
        assert_int_equal(tasks_count(f->ts, "alice").running, 0);
        for (int i = 0; i < 3000 && f->fake.n < 2; i++)
                turn(f);
        assert_true(f->fake.containers[0]->removed);
        assert_string_equal(f->fake.containers[1]->id, task_id(t));
        end(running(f, 2), exit_0);
        assert_int_equal(r.t.status, WIRE_EXITED);
        assert_int_equal(r.t.attempts, 2);
        wait_stored(f);
}

static void test_retries_end(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };

        q.retries = 1;
        f->fake.image_r = -EHOSTUNREACH;
        (void)submit(f, q, &r);
        for (int i = 0; i < 3000 && r.calls == 0; i++)
                turn(f);
        assert_int_equal(r.t.reason, WIRE_REASON_REGISTRY_ERROR);
        assert_int_equal(r.t.attempts, 2);
}

static void test_cancel_between_retries(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();
        struct result r = { .calls = 0 };
        struct task *t;

        q.retries = 10;
        f->fake.start_r = -EIO;
        t = submit(f, q, &r);
        for (int i = 0; i < 100 && f->fake.n == 0; i++)
                turn(f);
        task_cancel(t);
        assert_int_equal(r.t.reason, WIRE_REASON_CANCELLED);
        wait_stored(f);
        assert_true(f->fake.containers[0]->removed);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_accepted_before_it_starts, setup, teardown),
                cmocka_unit_test_setup_teardown(test_accepted_waits_for_the_disk, setup, teardown),
                cmocka_unit_test_setup_teardown(test_never_started, setup, teardown),
                cmocka_unit_test_setup_teardown(test_started_and_gone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_started_and_gone_with_retries, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ended_meanwhile, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stored_late_and_ended_meanwhile, setup, teardown),
                cmocka_unit_test_setup_teardown(test_marked_and_unknown_to_the_engine, setup, teardown),
                cmocka_unit_test_setup_teardown(test_marked_under_another_engine, setup, teardown),
                cmocka_unit_test_setup_teardown(test_marked_and_not_started, setup, teardown),
                cmocka_unit_test_setup_teardown(test_started_and_there, setup, teardown),
                cmocka_unit_test_setup_teardown(test_key_after_a_restart, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_place, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stored_later, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stored_with_its_end, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stored_while_it_pulls, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancelled_while_it_is_stored, setup, teardown),
                cmocka_unit_test_setup_teardown(test_drain_leaves_it, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel_while_draining, setup, teardown),
                cmocka_unit_test_setup_teardown(test_recovered_within_the_keys_maxima, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing_is_left, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
                cmocka_unit_test_setup_teardown(test_retries, setup, teardown),
                cmocka_unit_test_setup_teardown(test_retries_end, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel_between_retries, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
