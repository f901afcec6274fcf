#include "base/id.h"
#include "base/time.h"
#include "history/db.h"
#include "history/test_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

static void open_with(struct fixture *f, uint64_t max_tasks, uint64_t max_bytes, uint64_t max_age_ms)
{
        const struct history_config config = {
                .path = f->path,
                .max_tasks = max_tasks,
                .max_bytes = max_bytes,
                .max_age_ms = max_age_ms,
        };
        struct err err = ERR_INIT;

        if (history_open(f->loop, &config, &f->h, &err) < 0)
                fail_msg("%s", err.text);
}

static void reopen(struct fixture *f)
{
        history_close(f->h);
        f->h = NULL;
        open_with(f, 0, 0, 0);
}

static struct history_record make(const char *id, const char *owner, const char *out)
{
        struct history_record r = {
                .owner = strdup(owner),
                .status = strdup("exited"),
                .image = strdup("docker.io/library/busybox:demo"),
                .created_ms = time_real_ms(),
                .finished_ms = time_real_ms(),
        };

        (void)snprintf(r.id, sizeof(r.id), "%s", id);
        assert_int_equal(str_adds(&r.document, "{\"id\":\"x\"}"), 0);
        assert_int_equal(str_adds(&r.out[0], out), 0);
        return r;
}

static int stored, failed;

static void on_stored(int r, const struct err *err, void *data)
{
        (void)data;
        (void)err;
        if (r == 0)
                stored++;
        else
                failed++;
}

static void add(struct fixture *f, struct history_record r)
{
        struct err err = ERR_INIT;

        if (history_add(f->h, &r, on_stored, NULL, &err) < 0)
                fail_msg("%s", err.text);
}

static void wait_stored(struct fixture *f, int n)
{
        while (stored + failed < n)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
}

struct got {
        bool done, more;
        int r;
        size_t n;
        char first[32], last[32], out[64], key[32];
        uint8_t hash;
};

static void on_record(int r, struct history_record *rec, const struct err *err, void *data)
{
        struct got *g = data;

        (void)err;
        g->done = true;
        g->r = r;
        if (r < 0)
                return;
        (void)snprintf(g->first, sizeof(g->first), "%s", rec->id);
        (void)snprintf(g->out, sizeof(g->out), "%.*s", (int)rec->out[0].len, rec->out[0].data ? rec->out[0].data : "");
        (void)snprintf(g->key, sizeof(g->key), "%s", rec->idempotency_key ? rec->idempotency_key : "");
        g->hash = rec->body_hash[31];
}

static void on_list(int r, const struct history_record *records, size_t n, bool more, const struct err *err, void *data)
{
        struct got *g = data;

        (void)err;
        g->done = true;
        g->r = r;
        g->n = n;
        g->more = more;
        if (n > 0) {
                (void)snprintf(g->first, sizeof(g->first), "%s", records[0].id);
                (void)snprintf(g->last, sizeof(g->last), "%s", records[n - 1].id);
        }
}

static struct got get(struct fixture *f, const char *id, const char *owner)
{
        struct got g = { .done = false };

        assert_int_equal(history_get(f->h, id, owner, on_record, &g, NULL), 0);
        while (!g.done)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        return g;
}

static struct got find_key(struct fixture *f, const char *owner, const char *key)
{
        struct got g = { .done = false };

        assert_int_equal(history_find_key(f->h, owner, key, on_record, &g, NULL), 0);
        while (!g.done)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        return g;
}

static struct got list(struct fixture *f, const struct history_query *q)
{
        struct got g = { .done = false };

        assert_int_equal(history_list(f->h, q, on_list, &g, NULL), 0);
        while (!g.done)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        return g;
}

static void test_add_and_get(void **state)
{
        struct fixture *f = *state;
        struct got g;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        add(f, make("a1", "alice", "hello"));
        add(f, make("a2", "bob", ""));
        assert_int_equal(stored, 0);
        wait_stored(f, 2);
        assert_int_equal(stored, 2);
        g = get(f, "a1", "alice");
        assert_int_equal(g.r, 0);
        assert_string_equal(g.out, "hello");
        assert_int_equal(get(f, "a1", NULL).r, 0);
        assert_int_equal(get(f, "a1", "bob").r, -ENOENT);
        assert_int_equal(get(f, "a3", NULL).r, -ENOENT);
        reopen(f);
        assert_string_equal(get(f, "a1", NULL).out, "hello");
}

static void test_same_id_is_kept(void **state)
{
        struct fixture *f = *state;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        add(f, make("a1", "alice", "first"));
        wait_stored(f, 1);
        add(f, make("a1", "alice", "second"));
        wait_stored(f, 2);
        assert_int_equal(stored, 2);
        assert_string_equal(get(f, "a1", NULL).out, "first");
}

static void test_borrowed_output(void **state)
{
        struct fixture *f = *state;
        struct history_record r = make("a1", "alice", "");
        char text[] = "borrowed";

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        str_done(&r.out[0]);
        r.out[0] = (struct str){ .data = text, .len = strlen(text) };
        r.out_borrowed = true;
        add(f, r);
        wait_stored(f, 1);
        assert_string_equal(get(f, "a1", NULL).out, "borrowed");
}

static void test_keys(void **state)
{
        struct fixture *f = *state;
        struct history_record r = make("a1", "alice", "x"), old = make("a2", "alice", "y");
        struct got g;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        r.idempotency_key = strdup("k");
        r.body_hash[31] = 7;
        old.idempotency_key = strdup("old");
        old.created_ms = time_real_ms() - HISTORY_KEY_MS - 60000;
        add(f, r);
        add(f, old);
        wait_stored(f, 2);
        g = find_key(f, "alice", "k");
        assert_int_equal(g.r, 0);
        assert_string_equal(g.first, "a1");
        assert_int_equal(g.hash, 7);
        assert_int_equal(find_key(f, "bob", "k").r, -ENOENT);
        assert_int_equal(find_key(f, "alice", "old").r, -ENOENT);
        assert_int_equal(get(f, "a2", NULL).r, 0);
        /* A key that has run out may be used again. */
        r = make("a3", "alice", "z");
        r.idempotency_key = strdup("old");
        add(f, r);
        wait_stored(f, 3);
        assert_string_equal(find_key(f, "alice", "old").first, "a3");
}

static void test_list(void **state)
{
        struct fixture *f = *state;
        struct history_query q = { .limit = 3 };
        struct got g;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        for (int i = 0; i < 8; i++) {
                char id[8];
                struct history_record r;

                (void)snprintf(id, sizeof(id), "a%d", i);
                r = make(id, i % 2 ? "odd" : "even", "");
                r.created_ms = 1000 + (uint64_t)i;
                if (i == 5) {
                        free(r.status);
                        r.status = strdup("failed");
                }
                add(f, r);
        }
        wait_stored(f, 8);
        g = list(f, &q);
        assert_int_equal(g.n, 3);
        assert_true(g.more);
        assert_string_equal(g.first, "a7");
        q.before = g.last;
        q.limit = 100;
        g = list(f, &q);
        assert_int_equal(g.n, 5);
        assert_false(g.more);
        assert_string_equal(g.first, "a4");
        q = (struct history_query){ .limit = 4, .owner = "odd" };
        g = list(f, &q);
        assert_int_equal(g.n, 4);
        assert_false(g.more);
        q = (struct history_query){ .limit = 9, .status = "failed" };
        assert_int_equal(list(f, &q).n, 1);
        q = (struct history_query){ .limit = 9, .since_ms = 1002, .until_ms = 1004 };
        assert_int_equal(list(f, &q).n, 2);
        q = (struct history_query){ .limit = 9, .image = "other" };
        assert_int_equal(list(f, &q).n, 0);
        q.limit = 0;
        assert_int_equal(history_list(f->h, &q, on_list, &g, NULL), -EINVAL);
        q.limit = 1001;
        assert_int_equal(history_list(f->h, &q, on_list, &g, NULL), -EINVAL);
}

/* Pruning goes in steps behind the commits, so it is waited for. */
static void wait_count(struct fixture *f, size_t n)
{
        struct history_query q = { .limit = 1000 };

        for (int i = 0; i < 200 && list(f, &q).n != n; i++)
                assert_true(loop_turn(f->loop, 20, NULL) >= 0);
        assert_int_equal(list(f, &q).n, n);
}

static void test_bounded_in_number(void **state)
{
        struct fixture *f = *state;

        stored = failed = 0;
        open_with(f, 10, 0, 0);
        for (int i = 0; i < 300; i++) {
                struct history_record r;
                char id[8];

                (void)snprintf(id, sizeof(id), "a%04d", i);
                r = make(id, "o", "");
                r.idempotency_key = i == 0 ? strdup("k") : NULL;
                add(f, r);
        }
        wait_stored(f, 300);
        wait_count(f, 10);
        /* Who asks with the key of a record that is gone must not take its task for one that never ran. */
        assert_int_equal(find_key(f, "o", "k").r, -ESTALE);
        assert_int_equal(get(f, "a0299", NULL).r, 0);
        assert_int_equal(get(f, "a0289", NULL).r, -ENOENT);
}

static void test_bounded_in_bytes(void **state)
{
        struct fixture *f = *state;

        stored = failed = 0;
        open_with(f, 0, 100000, 0);
        for (int i = 0; i < 20; i++) {
                struct history_record r;
                char id[8];

                (void)snprintf(id, sizeof(id), "a%02d", i);
                r = make(id, "o", "");
                for (int k = 0; k < 100; k++)
                        assert_int_equal(str_addf(&r.out[1], "%100d", k), 0);
                add(f, r);
        }
        wait_stored(f, 20);
        wait_count(f, 9);
}

static void test_bounded_in_age(void **state)
{
        struct fixture *f = *state;
        struct history_record r = make("a1", "o", "");

        stored = failed = 0;
        r.finished_ms = time_real_ms() - 10000;
        open_with(f, 0, 0, 5000);
        add(f, r);
        add(f, make("a2", "o", ""));
        wait_stored(f, 2);
        wait_count(f, 1);
        assert_int_equal(get(f, "a2", NULL).r, 0);
}

static void test_queue_is_bounded(void **state)
{
        struct fixture *f = *state;
        struct history_record r;
        int n = 0, k = 0;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        while (k == 0 && n < 200) {
                char id[8];

                (void)snprintf(id, sizeof(id), "a%d", n);
                r = make(id, "o", "");
                assert_int_equal(str_reserve(&r.out[0], 1 << 20), 0);
                memset(r.out[0].data, 'x', 1 << 20);
                r.out[0].len = 1 << 20;
                k = history_add(f->h, &r, on_stored, NULL, NULL);
                n++;
        }
        assert_int_equal(k, -EAGAIN);
        assert_int_equal(r.out[0].len, 1 << 20);
        history_record_done(&r);
        wait_stored(f, n - 1);
        assert_int_equal(failed, 0);
}

static void test_close_writes_what_waits(void **state)
{
        struct fixture *f = *state;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        add(f, make("a1", "o", "waits"));
        reopen(f);
        assert_int_equal(stored, 0);
        assert_string_equal(get(f, "a1", NULL).out, "waits");
}

static void exec_sql(const struct fixture *f, const char *sql)
{
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_newer_is_refused(void **state)
{
        struct fixture *f = *state;
        const struct history_config config = { .path = f->path };
        struct err err = ERR_INIT;

        exec_sql(f, "PRAGMA user_version = 1000");
        assert_int_equal(history_open(f->loop, &config, &f->h, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, "version 1000"));
        assert_null(f->h);
}

static void test_damaged_is_refused(void **state)
{
        struct fixture *f = *state;
        const struct history_config config = { .path = f->path };
        char garbage[8192];

        memset(garbage, 0x5a, sizeof(garbage));
        assert_int_equal(fd_write_file(AT_FDCWD, f->path, 0600, garbage, sizeof(garbage), NULL), 0);
        assert_int_equal(history_open(f->loop, &config, &f->h, NULL), -EBADMSG);
}

static void test_failed_group_is_told(void **state)
{
        struct fixture *f = *state;

        stored = failed = 0;
        open_with(f, 0, 0, 0);
        exec_sql(f, "CREATE TRIGGER no BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, 'no'); END");
        add(f, make("a1", "o", ""));
        wait_stored(f, 1);
        assert_int_equal(failed, 1);
        exec_sql(f, "DROP TRIGGER no");
        add(f, make("a1", "o", ""));
        wait_stored(f, 2);
        assert_int_equal(stored, 1);
}

/* A writer that is killed at any point leaves a database with all that it was told to be stored. */
static void writer(const char *path, int report)
{
        struct fixture f = { .h = NULL };

        (void)snprintf(f.path, sizeof(f.path), "%s", path);
        if (loop_new(&f.loop, NULL) < 0)
                _exit(1);
        open_with(&f, 0, 0, 0);
        for (int i = 0;; i++) {
                char id[16];

                stored = failed = 0;
                (void)snprintf(id, sizeof(id), "%d-%d", getpid(), i);
                add(&f, make(id, "o", id));
                history_flush(f.h);
                wait_stored(&f, 1);
                if (write(report, &i, sizeof(i)) != sizeof(i))
                        _exit(1);
        }
}

static void test_killed_writer(void **state)
{
        struct fixture *f = *state;

        for (int round = 0; round < 5; round++) {
                int fds[2], last = -1, i;
                pid_t pid;

                assert_int_equal(pipe(fds), 0);
                pid = fork();
                if (pid == 0) {
                        close(fds[0]);
                        writer(f->path, fds[1]);
                }
                close(fds[1]);
                while (last < 20 + round && read(fds[0], &i, sizeof(i)) == sizeof(i))
                        last = i;
                assert_int_equal(kill(pid, SIGKILL), 0);
                while (read(fds[0], &i, sizeof(i)) == sizeof(i))
                        last = i;
                close(fds[0]);
                assert_int_equal(waitpid(pid, NULL, 0), pid);
                open_with(f, 0, 0, 0);
                for (i = 0; i <= last; i++) {
                        char id[16];

                        (void)snprintf(id, sizeof(id), "%d-%d", pid, i);
                        assert_string_equal(get(f, id, NULL).out, id);
                }
                history_close(f->h);
                f->h = NULL;
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_add_and_get, setup, teardown),
                cmocka_unit_test_setup_teardown(test_same_id_is_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_borrowed_output, setup, teardown),
                cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
                cmocka_unit_test_setup_teardown(test_list, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bounded_in_number, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bounded_in_bytes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bounded_in_age, setup, teardown),
                cmocka_unit_test_setup_teardown(test_queue_is_bounded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_close_writes_what_waits, setup, teardown),
                cmocka_unit_test_setup_teardown(test_newer_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_failed_group_is_told, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_writer, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
