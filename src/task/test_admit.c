/* The queue's order, and what an owner may ask for. */

#include "task/test_fake.h"

static struct wire_task_request labelled(const char *label)
{
        struct wire_task_request q = request();

        assert_int_equal(strv_add(&q.labels, label), 0);
        return q;
}

static int submit_as(struct fixture *f, const char *owner, const struct task_maxima *maxima, struct wire_task_request q,
                     struct result *r)
{
        const struct task_submit how = { .owner = owner, .maxima = maxima };

        return submit_how(f, q, &how, r, NULL);
}

static void restart_with(struct fixture *f, uint32_t max_running)
{
        tasks_free(f->ts);
        f->config.max_running = max_running;
        start_tasks(f);
}

/* One owner's long queue does not stand before another's. */
static void test_owners_in_turn(void **state)
{
        struct fixture *f = *state;

        restart_with(f, 1);
        for (int i = 0; i < 8; i++)
                assert_int_equal(submit_as(f, "alice", NULL, request(), NULL), 0);
        assert_int_equal(submit_as(f, "bob", NULL, request(), NULL), 0);
        assert_int_equal(submit_as(f, "carol", NULL, request(), NULL), 0);
        for (size_t n = 1; n <= 10; n++) {
                struct fake_container *c = running(f, n);

                /* The queue was alice's alone at the first one, who went to its end then. */
                if (n == 2)
                        assert_string_equal(f->fake.owner, "alice");
                if (n == 3)
                        assert_string_equal(f->fake.owner, "bob");
                if (n == 4)
                        assert_string_equal(f->fake.owner, "carol");
                end(c, exit_0);
        }
        wait_stored(f);
        assert_int_equal(tasks_count(f->ts, NULL).queued, 0);
}

static void test_max_running(void **state)
{
        const struct task_maxima m = { .max_running = 1 };
        struct fixture *f = *state;

        assert_int_equal(submit_as(f, "alice", &m, request(), NULL), 0);
        assert_int_equal(submit_as(f, "alice", &m, request(), NULL), 0);
        (void)running(f, 1);
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_int_equal(f->fake.n, 1);
        assert_int_equal(tasks_count(f->ts, "alice").queued, 1);
        assert_int_equal(submit_as(f, "bob", NULL, request(), NULL), 0);
        (void)running(f, 2);
        end(f->fake.containers[0], exit_0);
        (void)running(f, 3);
        assert_int_equal(tasks_count(f->ts, "alice").running, 1);
        assert_int_equal(tasks_count(f->ts, NULL).running, 2);
        assert_int_equal(tasks_count(f->ts, "nobody").running, 0);
}

/* What a task may print costs nobody a place; what it has printed does. */
static void test_output_counts_when_it_is_there(void **state)
{
        static char text[8192];
        uint64_t total = 0, available = 0, cost;
        struct wire_task_request q = request();
        struct fixture *f = *state;

        memset(text, 'x', sizeof(text) - 1);
        assert_int_equal(meminfo_read(&total, &available), 0);
        q.limits.output = WIRE_OUTPUT_MAX;
        cost = task_cost(&q.limits);
        assert_true(cost <= (uint64_t)(q.limits.memory + q.limits.disk + q.limits.shm) + TASK_OUTPUT_PROMISED);
        tasks_free(f->ts);
        f->config.overcommit = (double)(2 * cost + 1000) / (double)total;
        start_tasks(f);
        assert_int_equal(submit_as(f, "alice", NULL, q, NULL), 0);
        (void)running(f, 1);
        for (size_t n = 0; n < TASK_OUTPUT_PROMISED + 4096; n += sizeof(text) - 1)
                say(f->fake.containers[0], ENGINE_STDOUT, text);
        q = request();
        q.limits.output = WIRE_OUTPUT_MAX;
        assert_int_equal(submit_as(f, "alice", NULL, q, NULL), 0);
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_int_equal(f->fake.n, 1);
        end(f->fake.containers[0], exit_0);
        end(running(f, 2), exit_0);
        wait_stored(f);
}

static void test_max_queued(void **state)
{
        const struct task_maxima m = { .max_running = 1, .max_queued = 2 };
        struct fixture *f = *state;

        for (int i = 0; i < 3; i++)
                assert_int_equal(submit_as(f, "alice", &m, request(), NULL), 0);
        assert_int_equal(submit_as(f, "alice", &m, request(), NULL), -EAGAIN);
        assert_int_equal(submit_as(f, "bob", &m, request(), NULL), 0);
        assert_true(tasks_retry_after(f->ts) >= 1 && tasks_retry_after(f->ts) <= 60);
}

static void test_held_bytes(void **state)
{
        struct fixture *f = *state;
        struct wire_task_request q = request();

        f->config.max_held = 1000;
        restart_with(f, 1);
        assert_int_equal(submit_as(f, "alice", NULL, request(), NULL), 0);
        (void)running(f, 1);
        q.stdin_data = calloc(1, 2000);
        q.stdin_len = 2000;
        assert_int_equal(submit_as(f, "alice", NULL, q, NULL), 0);
        assert_int_equal(submit_as(f, "alice", NULL, request(), NULL), -EAGAIN);
        end(f->fake.containers[0], exit_0);
        (void)running(f, 2);
        assert_int_equal(submit_as(f, "alice", NULL, request(), NULL), 0);
}

/* One owner's requests leave room for another's. */
static void test_held_bytes_of_one(void **state)
{
        struct fixture *f = *state;
        int taken = 0, r = 0;

        f->config.max_held = 40000;
        restart_with(f, 1);
        assert_int_equal(submit_as(f, "alice", NULL, request(), NULL), 0);
        (void)running(f, 1);
        for (; r == 0 && taken < 100; taken += r == 0) {
                struct wire_task_request q = request();

                q.stdin_data = calloc(1, 4000);
                q.stdin_len = 4000;
                r = submit_as(f, "alice", NULL, q, NULL);
        }
        assert_int_equal(r, -EAGAIN);
        assert_true(taken >= 4 && taken <= 7);
        assert_int_equal(submit_as(f, "bob", NULL, request(), NULL), 0);
}

static int check(struct fixture *f, const struct task_maxima *m, struct wire_task_request q, const char *pointer)
{
        struct json_faults faults = { .items = NULL };
        const struct task_submit how = { .owner = "alice", .maxima = m, .faults = &faults };
        struct err err = ERR_INIT;
        struct task *t = NULL;
        int r = tasks_submit(f->ts, &q, &how, NULL, &t, &err);

        wire_task_request_done(&q);
        assert_int_equal(faults.len, pointer ? 1 : 0);
        if (pointer)
                assert_string_equal(faults.items[0].pointer, pointer);
        if (pointer)
                assert_non_null(strstr(err.text, pointer + 1));
        json_faults_done(&faults);
        return r;
}

static void test_limits(void **state)
{
        struct fixture *f = *state;
        struct task_maxima m = { .limits = { .memory = 64 << 20, .timeout_ns = 5 * (int64_t)NS_PER_S } };
        struct wire_task_request q = request();
        struct wire_task w;
        struct result r = { .calls = 0 };

        q.limits.memory = 128 << 20;
        q.limits_given = WIRE_LIMIT_MEMORY;
        assert_int_equal(check(f, &m, q, "/limits/memory"), -EPERM);
        q = request();
        q.limits.timeout_ns = 5 * (int64_t)NS_PER_S + 1;
        q.limits_given = WIRE_LIMIT_TIMEOUT;
        assert_int_equal(check(f, &m, q, "/limits/timeout"), -EPERM);
        /* A default gives way. */
        assert_int_equal(submit_as(f, "alice", &m, request(), &r), 0);
        end(running(f, 1), exit_0);
        w = r.t;
        assert_int_equal(w.limits.memory, 64 << 20);
        assert_true(w.limits.timeout_ns == 5 * (int64_t)NS_PER_S);
        assert_int_equal(w.limits.disk, 256 << 20);
}

/* What is a name to the key's patterns must be none of a digest to the store: "cafe" begins one, too. */
static void test_digests_and_names(struct fixture *f)
{
        static const struct {
                const char *pattern, *image, *becomes; /* NULL: it is refused */
        } rows[] = {
                { "docker.io/library/*", "cafe", "docker.io/library/cafe:latest" },
                { "docker.io/library/*", "sha256:cafe", "docker.io/library/sha256:cafe" },
                { "docker.io/library/*", "coffee", "coffee" },
                { "docker.io/library/*", "cafe:1", "cafe:1" },
                { "docker.io/library/x:*", "cafe", NULL },
                { "c*", "cafe", NULL },
                { "c*", "sha256:cafe", NULL },
                { "sha256:*", "cafe", "cafe" },
                { "*", "sha256:cafe", "sha256:cafe" },
        };

        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                char *images[] = { (char *)(uintptr_t)rows[i].pattern, NULL };
                const struct task_maxima m = { .images = images };
                const struct task_submit how = { .owner = "alice", .maxima = &m };
                struct wire_task_request q = request();
                struct err err = ERR_INIT;

                free(q.image);
                q.image = strdup(rows[i].image);
                assert_int_equal(tasks_check(f->ts, &q, &how, &err), rows[i].becomes ? 0 : -EPERM);
                assert_string_equal(q.image, rows[i].becomes ? rows[i].becomes : rows[i].image);
                wire_task_request_done(&q);
        }
}

static void test_images_networks_engines(void **state)
{
        struct fixture *f = *state;
        char *images[] = { (char[]){ "docker.io/library/x:*" }, (char[]){ "ghcr.io/*" }, NULL };
        char *engines[] = { (char[]){ "other" }, NULL };
        struct task_maxima m = { .images = images };
        struct wire_task_request q = request();

        assert_int_equal(check(f, &m, request(), NULL), 0);
        free(q.image);
        q.image = strdup("y");
        assert_int_equal(check(f, &m, q, "/image"), -EPERM);
        q = request();
        free(q.image);
        q.image = strdup("ghcr.io/a/b:1");
        assert_int_equal(check(f, &m, q, NULL), 0);
        test_digests_and_names(f);
        m = (struct task_maxima){ .networks = 1u << ENGINE_NET_NONE };
        q = request();
        q.network = WIRE_NET_NAT;
        assert_int_equal(check(f, &m, q, "/network"), -EPERM);
        assert_int_equal(check(f, &m, request(), NULL), 0);
        for (int i = 0; i < 100 && f->fake.n < 3; i++)
                turn(f);
        assert_int_equal(f->fake.network, ENGINE_NET_NONE);
        m = (struct task_maxima){ .engines = engines };
        assert_int_equal(check(f, &m, request(), "/engine"), -EPERM);
}

static void test_what_the_engine_lacks(void **state)
{
        struct fixture *f = *state;
        struct engine_ops poor = fake_ops;
        struct wire_task_request q = request();

        poor.features = 0;
        f->fake.engine.ops = &poor;
        q.limits.cpu_time_ns = 1;
        assert_int_equal(check(f, NULL, q, "/limits/cpu_time"), -EINVAL);
        q = request();
        assert_int_equal(strv_add(&q.outputs, "a"), 0);
        assert_int_equal(check(f, NULL, q, "/outputs"), -EINVAL);
        q = request();
        q.engine = strdup("docker");
        assert_int_equal(check(f, NULL, q, "/engine"), -EINVAL);
        q = request();
        q.limits.timeout_ns = 0;
        assert_int_equal(check(f, NULL, q, "/limits/timeout"), -EINVAL);
        f->fake.engine.ops = &fake_ops;
}

struct listed {
        bool done;
        char *text;
};

static void on_list(int r, const struct str *text, const struct err *err, void *data)
{
        struct listed *l = data;

        (void)err;
        assert_int_equal(r, 0);
        l->done = true;
        l->text = strdup(text->data);
}

static char *list(struct fixture *f, const struct history_query *q)
{
        struct listed l = { .done = false };

        assert_int_equal(tasks_list(f->ts, q, on_list, &l, NULL), 0);
        while (!l.done)
                turn(f);
        return l.text;
}

static unsigned count(struct fixture *f, const struct history_query *q)
{
        auto_free char *text = list(f, q);
        unsigned n = 0;

        for (const char *at = text; (at = strstr(at, "{\"id\":")); at++)
                n++;
        return n;
}

/* Of what runs and of what has ended alike, page by page. */
static void test_list(void **state)
{
        struct fixture *f = *state;
        char cursor[32] = "";
        unsigned pages = 0;

        for (size_t i = 1; i <= 4; i++) {
                assert_int_equal(submit_as(f, i % 2 ? "alice" : "bob", NULL, labelled(i % 2 ? "a=1" : "a=2"), NULL), 0);
                end(running(f, i), exit_0);
        }
        wait_stored(f);
        assert_int_equal(submit_as(f, "alice", NULL, labelled("a=1"), NULL), 0);
        (void)running(f, 5);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100 }), 5);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100, .labels = { "a=1" } }), 3);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100, .labels = { "a=1", "b=1" } }), 0);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100, .owner = "bob" }), 2);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100, .status = "running" }), 1);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100, .image = "x" }), 5);
        assert_int_equal(count(f, &(struct history_query){ .limit = 100, .image = "y" }), 0);
        do {
                const struct history_query q = { .limit = 2, .before = pages ? cursor : NULL };
                auto_free char *text = list(f, &q);
                const char *at = strstr(text, "\"next_cursor\":\"");

                pages++;
                if (!at)
                        break;
                (void)snprintf(cursor, sizeof(cursor), "%.26s", at + strlen("\"next_cursor\":\""));
        } while (pages < 10);
        assert_int_equal(pages, 3);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_owners_in_turn, setup, teardown),
                cmocka_unit_test_setup_teardown(test_max_running, setup, teardown),
                cmocka_unit_test_setup_teardown(test_output_counts_when_it_is_there, setup, teardown),
                cmocka_unit_test_setup_teardown(test_max_queued, setup, teardown),
                cmocka_unit_test_setup_teardown(test_held_bytes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_held_bytes_of_one, setup, teardown),
                cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
                cmocka_unit_test_setup_teardown(test_images_networks_engines, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_the_engine_lacks, setup, teardown),
                cmocka_unit_test_setup_teardown(test_list, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
