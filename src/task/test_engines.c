/* Several engines: who runs what, one that is away, and one that tells late what it has. */

#include "task/test_fake.h"

struct two {
        struct fixture f; /* first */
        struct fake other;
        struct engine *more[1];
        engine_found_fn found; /* of the list() that waits */
        engine_done_fn listed;
        void *list_data;
};

static struct two *two_of(struct engine *e)
{
        return CONTAINER_OF(e, struct two, other.engine);
}

static int hold_list(struct engine *e, engine_found_fn found, engine_done_fn done, void *data, struct err *err)
{
        struct two *s = two_of(e);

        (void)err;
        s->found = found;
        s->listed = done;
        s->list_data = data;
        return 0;
}

static void answer_list(struct two *s)
{
        engine_done_fn listed = s->listed;

        s->listed = NULL;
        for (size_t i = 0; i < s->other.n; i++)
                if (!s->other.containers[i]->removed)
                        s->found(&s->other.containers[i]->base, s->other.containers[i]->id,
                                 s->other.containers[i]->record, s->other.containers[i]->record_len, s->list_data);
        listed(0, NULL, s->list_data);
}

static struct engine_ops other_ops;

static int setup_two(void **state)
{
        struct two *s;
        void *single = NULL;

        assert_int_equal(setup(&single), 0);
        s = calloc(1, sizeof(*s));
        assert_non_null(s);
        s->f = *(struct fixture *)single;
        tasks_free(s->f.ts);
        free(single);
        other_ops = fake_ops;
        other_ops.name = "other";
        other_ops.list = hold_list;
        other_ops.life = NULL;
        other_ops.features = 0;
        s->other.engine.ops = &other_ops;
        s->other.loop = s->f.fake.loop;
        s->more[0] = &s->other.engine;
        s->f.config.more_engines = s->more;
        s->f.config.n_more_engines = 1;
        start_tasks(&s->f);
        *state = s;
        return 0;
}

static int teardown_two(void **state)
{
        struct two *s = *state;

        tasks_free(s->f.ts);
        s->f.ts = NULL;
        for (size_t i = 0; i < s->other.n; i++)
                free_container(s->other.containers[i]);
        return teardown(state);
}

static void turn_both(struct two *s)
{
        if (s->other.image_fn)
                answer_image(&s->other);
        turn(&s->f);
}

static struct fake_container *other_running(struct two *s, size_t n)
{
        for (int i = 0; i < 100 && s->other.n < n; i++)
                turn_both(s);
        assert_int_equal(s->other.n, n);
        return s->other.containers[n - 1];
}

static struct wire_task_request request_of(const char *engine)
{
        struct wire_task_request q = request();

        q.engine = strdup(engine);
        return q;
}

static void on_ready(int r, const struct err *err, void *data)
{
        (void)err;
        *(int *)data = r == 0 ? 1 : -1;
}

static void on_request_stored(int r, const char *id, const struct err *err, void *data)
{
        (void)err;
        assert_int_equal(r, 0);
        (void)snprintf(data, 32, "%s", id);
}

/* The daemon died, and the other engine does not say yet what it has. */
static void restart_without_other(struct two *s)
{
        int ready = 0;

        tasks_free(s->f.ts);
        s->f.config.engines_wait_ns = 10 * NS_PER_MS;
        start_tasks(&s->f);
        assert_int_equal(tasks_adopt(s->f.ts, on_ready, &ready, NULL), 0);
        for (int i = 0; i < 1000 && !ready; i++)
                turn_both(s);
        assert_int_equal(ready, 1);
        assert_non_null(s->listed);
}

static struct fake_container *accepted_in_other(struct two *s, char id[32])
{
        const struct task_submit how = { .owner = "alice", .stored = on_request_stored, .stored_data = id };
        struct fake_container *c;

        *id = '\0';
        assert_int_equal(submit_how(&s->f, request_of("other"), &how, NULL, NULL), 0);
        c = other_running(s, 1);
        assert_true(c->started);
        assert_true(*id);
        return c;
}

static void on_text(int r, struct history_record *record, const struct err *err, void *data)
{
        (void)err;
        *(char **)data = r == 0 ? strndup(record->document.data, record->document.len) : strdup("none");
}

static char *document_of(struct two *s, const char *id)
{
        char *text = NULL;

        wait_stored(&s->f);
        assert_int_equal(history_get(s->f.history, id, NULL, on_text, &text, NULL), 0);
        while (!text)
                turn_both(s);
        return text;
}

/* ── who runs what ───────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_task_chooses(void **state)
{
        struct two *s = *state;
        struct result a = { .calls = 0 }, b = { .calls = 0 };

        (void)submit(&s->f, request(), &a);
        (void)submit(&s->f, request_of("other"), &b);
        end(running(&s->f, 1), exit_0);
        end(other_running(s, 1), exit_0);
        assert_int_equal(a.calls, 1);
        assert_string_equal(a.t.engine, "fake");
        assert_int_equal(b.calls, 1);
        assert_string_equal(b.t.engine, "other");
        assert_int_equal(s->f.fake.n, 1);
        wait_stored(&s->f);
        assert_true(s->other.containers[0]->removed);
}

static void test_unknown_engine_names_those_there_are(void **state)
{
        const struct task_submit how = { .owner = "alice" };
        struct wire_task_request q = request_of("third");
        struct two *s = *state;
        struct err err = ERR_INIT;
        struct task *t;

        assert_int_equal(tasks_submit(s->f.ts, &q, &how, NULL, &t, &err), -EINVAL);
        assert_non_null(strstr(err.text, "fake, other"));
        wire_task_request_done(&q);
}

static void test_features_are_those_of_the_chosen(void **state)
{
        const struct task_submit how = { .owner = "alice" };
        struct two *s = *state;
        struct wire_task_request q;

        q = request_of("other");
        q.limits.cpu_time_ns = NS_PER_S;
        assert_int_equal(submit_how(&s->f, q, &how, NULL, NULL), -EINVAL);
        q = request_of("fake");
        q.limits.cpu_time_ns = NS_PER_S;
        assert_int_equal(submit_how(&s->f, q, &how, NULL, NULL), 0);
}

static void test_key_is_bound(void **state)
{
        char *only[] = { (char[]){ "other" }, NULL }, *none[] = { (char[]){ "third" }, NULL };
        struct task_maxima maxima = { .engines = only };
        const struct task_submit how = { .owner = "alice", .maxima = &maxima };
        struct two *s = *state;
        struct task *t = NULL;

        assert_int_equal(submit_how(&s->f, request_of("fake"), &how, NULL, NULL), -EPERM);
        assert_int_equal(submit_how(&s->f, request(), &how, NULL, &t), 0);
        (void)other_running(s, 1);
        maxima.engines = none;
        assert_int_equal(submit_how(&s->f, request(), &how, NULL, NULL), -EPERM);
}

/* What waits for an engine that is away lets others past. */
static void test_one_is_away(void **state)
{
        struct two *s = *state;
        struct result away = { .calls = 0 }, here = { .calls = 0 };

        s->other.check_r = -ENOTCONN;
        (void)submit(&s->f, request_of("other"), &away);
        (void)submit(&s->f, request(), &here);
        end(running(&s->f, 1), exit_0);
        assert_int_equal(here.calls, 1);
        assert_int_equal(s->other.n, 0);
        s->other.check_r = 0;
        end(other_running(s, 1), exit_0);
        assert_int_equal(away.calls, 1);
}

/* ── one that answers late ───────────────────────────────────────────────────────────────────────────────────────── */

static void test_found_late(void **state)
{
        struct two *s = *state;
        auto_free char *document = NULL;
        struct result native = { .calls = 0 };
        struct fake_container *c;
        char id[32];

        c = accepted_in_other(s, id);
        restart_without_other(s);
        assert_non_null(tasks_find(s->f.ts, id));
        (void)submit(&s->f, request(), &native);
        end(running(&s->f, 1), exit_0);
        assert_int_equal(native.calls, 1);
        answer_list(s);
        assert_int_equal(s->other.n, 1);
        end(c, (struct engine_exit){ .end = ENGINE_END_EXITED, .code = 3 });
        document = document_of(s, id);
        assert_non_null(strstr(document, "\"exit_code\":3"));
        assert_non_null(strstr(document, "\"engine\":\"other\""));
}

static void test_lost_late(void **state)
{
        struct two *s = *state;
        auto_free char *document = NULL;
        char id[32];

        accepted_in_other(s, id)->removed = true;
        restart_without_other(s);
        answer_list(s);
        document = document_of(s, id);
        assert_non_null(strstr(document, "\"reason\":\"node_lost\""));
        assert_int_equal(s->other.n, 1);
}

static void test_cancelled_meanwhile(void **state)
{
        struct two *s = *state;
        auto_free char *document = NULL;
        struct fake_container *c;
        char id[32];

        c = accepted_in_other(s, id);
        restart_without_other(s);
        task_cancel(tasks_find(s->f.ts, id));
        answer_list(s);
        assert_int_equal(c->n_signals, 1);
        assert_int_equal(c->signals[0], SIGKILL);
        end(c, (struct engine_exit){ .end = ENGINE_END_SIGNALED, .signo = SIGKILL });
        document = document_of(s, id);
        assert_non_null(strstr(document, "\"reason\":\"cancelled\""));
}

/* Nobody but the engine knows of a task that was not accepted: the same request comes again before it tells. */
static void test_key_that_runs_already(void **state)
{
        static const uint8_t hash[32] = { 1 };
        const struct task_submit how = { .owner = "alice", .idempotency_key = "k", .body_hash = hash };
        struct two *s = *state;
        struct result again = { .calls = 0 };
        struct task *t = NULL;

        assert_int_equal(submit_how(&s->f, request_of("other"), &how, NULL, NULL), 0);
        (void)other_running(s, 1);
        restart_without_other(s);
        assert_int_equal(submit_how(&s->f, request_of("other"), &how, &again, NULL), 0);
        answer_list(s);
        assert_int_equal(again.calls, 1);
        assert_int_equal(again.t.reason, WIRE_REASON_START_ERROR);
        for (int i = 0; i < 20; i++)
                turn_both(s);
        assert_int_equal(s->other.n, 1);
        assert_int_equal(submit_how(&s->f, request_of("other"), &how, NULL, &t), 1);
        assert_string_equal(task_id(t), s->other.containers[0]->id);
}

/* Another default after the restart: what was accepted stays with the engine that was chosen. */
static void test_default_that_changed(void **state)
{
        struct two *s = *state;
        const struct task_submit how = { .owner = "alice", .stored = on_request_stored };
        struct task_submit with_id = how;
        char id[32] = "";
        int ready = 0;

        with_id.stored_data = id;
        s->f.fake.check_r = -ENOTCONN;
        assert_int_equal(submit_how(&s->f, request(), &with_id, NULL, NULL), 0);
        for (int i = 0; i < 1000 && !*id; i++)
                turn_both(s);
        tasks_free(s->f.ts);
        s->more[0] = &s->f.fake.engine;
        assert_int_equal(tasks_new(s->f.fake.loop, &s->other.engine, s->f.history, &s->f.config, &s->f.ts, NULL), 0);
        assert_int_equal(tasks_adopt(s->f.ts, on_ready, &ready, NULL), 0);
        answer_list(s);
        s->f.fake.check_r = 0;
        (void)running(&s->f, 1);
        assert_int_equal(s->other.n, 0);
}

static void test_engine_that_is_gone(void **state)
{
        struct two *s = *state;
        auto_free char *document = NULL;
        char id[32];
        int ready = 0;

        (void)accepted_in_other(s, id);
        tasks_free(s->f.ts);
        s->f.config.n_more_engines = 0;
        start_tasks(&s->f);
        assert_int_equal(tasks_adopt(s->f.ts, on_ready, &ready, NULL), 0);
        for (int i = 0; i < 1000 && !ready; i++)
                turn_both(s);
        document = document_of(s, id);
        assert_non_null(strstr(document, "\"reason\":\"node_lost\""));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_task_chooses, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_unknown_engine_names_those_there_are, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_features_are_those_of_the_chosen, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_key_is_bound, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_one_is_away, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_found_late, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_lost_late, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_cancelled_meanwhile, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_key_that_runs_already, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_default_that_changed, setup_two, teardown_two),
                cmocka_unit_test_setup_teardown(test_engine_that_is_gone, setup_two, teardown_two),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
