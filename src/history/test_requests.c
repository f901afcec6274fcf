/* Accepted requests, labels, deletion, older databases, and a kill at each write. */

#include "base/time.h"
#include "history/db.h"
#include "history/test_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void open_history(struct fixture *f, uint64_t max_keys)
{
        const struct history_config config = { .path = f->path, .max_keys = max_keys };
        struct err err = ERR_INIT;

        if (history_open(f->loop, &config, &f->h, &err) < 0)
                fail_msg("%s", err.text);
}

static void exec_sql(const struct fixture *f, const char *sql)
{
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
                fail_msg("%s", sqlite3_errmsg(db));
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

struct done {
        bool done;
        int r;
};

static void on_done(int r, const struct err *err, void *data)
{
        struct done *d = data;

        (void)err;
        *d = (struct done){ true, r };
}

static int wait_done(struct fixture *f, struct done *d)
{
        while (!d->done)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        return d->r;
}

static struct history_record record(const char *id, bool accepted)
{
        struct history_record r = {
                .owner = strdup("alice"),
                .status = strdup("exited"),
                .image = strdup("x"),
                .created_ms = time_real_ms(),
                .finished_ms = time_real_ms(),
                .accepted = accepted,
        };

        (void)snprintf(r.id, sizeof(r.id), "%s", id);
        assert_int_equal(str_adds(&r.document, "{}"), 0);
        return r;
}

static struct history_request accepted(const char *id)
{
        struct history_request q = { .owner = strdup("alice"), .created_ms = 42 };

        (void)snprintf(q.id, sizeof(q.id), "%s", id);
        assert_int_equal(str_addf(&q.sealed, "sealed %s", id), 0);
        return q;
}

static int add(struct fixture *f, struct history_record r)
{
        struct done d = { .done = false };

        assert_int_equal(history_add(f->h, &r, on_done, &d, NULL), 0);
        return wait_done(f, &d);
}

static int accept_request(struct fixture *f, struct history_request q)
{
        struct done d = { .done = false };

        assert_int_equal(history_accept(f->h, &q, on_done, &d, NULL), 0);
        return wait_done(f, &d);
}

static int start(struct fixture *f, const char *id, unsigned attempts)
{
        struct done d = { .done = false };

        assert_int_equal(history_started(f->h, id, UINT64_MAX - 1, attempts, on_done, &d, NULL), 0);
        return wait_done(f, &d);
}

static int drop(struct fixture *f, const char *id)
{
        struct done d = { .done = false };

        assert_int_equal(history_drop(f->h, id, on_done, &d, NULL), 0);
        return wait_done(f, &d);
}

static int delete (struct fixture *f, const char *id, const char *owner)
{
        struct done d = { .done = false };

        assert_int_equal(history_delete(f->h, id, owner, on_done, &d, NULL), 0);
        return wait_done(f, &d);
}

struct requests {
        bool done;
        size_t n;
        struct history_request first;
};

static void on_requests(int r, struct history_request *requests, size_t n, const struct err *err, void *data)
{
        struct requests *all = data;

        (void)err;
        assert_int_equal(r, 0);
        all->done = true;
        all->n = n;
        if (n > 0) {
                all->first = requests[0];
                memset(&requests[0], 0, sizeof(requests[0]));
        }
}

static struct requests requests(struct fixture *f)
{
        struct requests all = { .done = false };

        assert_int_equal(history_requests(f->h, on_requests, &all, NULL), 0);
        while (!all.done)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        return all;
}

static size_t n_requests(struct fixture *f)
{
        struct requests all = requests(f);

        history_request_done(&all.first);
        return all.n;
}

struct listed {
        bool done;
        size_t n;
};

static void on_list(int r, const struct history_record *records, size_t n, bool more, const struct err *err, void *data)
{
        struct listed *l = data;

        (void)records;
        (void)more;
        (void)err;
        assert_int_equal(r, 0);
        *l = (struct listed){ true, n };
}

static size_t count(struct fixture *f, const char *label, const char *other)
{
        const struct history_query q = { .limit = 100, .labels = { label, label ? other : NULL } };
        struct listed l = { .done = false };

        assert_int_equal(history_list(f->h, &q, on_list, &l, NULL), 0);
        while (!l.done)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        return l.n;
}

static void on_key(int r, struct history_record *record, const struct err *err, void *data)
{
        (void)record;
        on_done(r, err, data);
}

static int find_key(struct fixture *f, const char *key)
{
        struct done d = { .done = false };

        assert_int_equal(history_find_key(f->h, "alice", key, on_key, &d, NULL), 0);
        return wait_done(f, &d);
}

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_life_of_a_request(void **state)
{
        struct fixture *f = *state;
        struct history_request q = accepted("b");
        struct requests all;

        open_history(f, 0);
        q.idempotency_key = strdup("k");
        q.body_hash[31] = 7;
        assert_int_equal(accept_request(f, q), 0);
        assert_int_equal(accept_request(f, accepted("c")), 0);
        assert_int_equal(start(f, "b", 2), 0);
        history_close(f->h);
        open_history(f, 0);
        all = requests(f);
        assert_int_equal(all.n, 2);
        assert_string_equal(all.first.id, "b");
        assert_string_equal(all.first.owner, "alice");
        assert_string_equal(all.first.idempotency_key, "k");
        assert_int_equal(all.first.body_hash[31], 7);
        assert_int_equal(all.first.created_ms, 42);
        assert_int_equal(all.first.started, UINT64_MAX - 1);
        assert_int_equal(all.first.attempts, 2);
        assert_string_equal(all.first.sealed.data, "sealed b");
        history_request_done(&all.first);
        /* The end of a task takes its request along, in one step. */
        assert_int_equal(add(f, record("b", true)), 0);
        assert_int_equal(n_requests(f), 1);
        assert_int_equal(drop(f, "c"), 0);
        assert_int_equal(n_requests(f), 0);
        /* One that has ended is not accepted any more. */
        assert_int_equal(accept_request(f, accepted("b")), 0);
        assert_int_equal(n_requests(f), 0);
        assert_int_equal(start(f, "none", 1), 0);
}

static void test_labels(void **state)
{
        struct fixture *f = *state;

        open_history(f, 0);
        for (int i = 0; i < 4; i++) {
                struct history_record r = record((const char *const[]){ "a", "b", "c", "d" }[i], false);

                assert_int_equal(strv_add(&r.labels, i % 2 ? "x=1" : "x=2"), 0);
                assert_int_equal(strv_add(&r.labels, i < 2 ? "y=1" : "y=\n"), 0);
                assert_int_equal(add(f, r), 0);
        }
        assert_int_equal(count(f, NULL, NULL), 4);
        assert_int_equal(count(f, "x=1", NULL), 2);
        assert_int_equal(count(f, "x=1", "y=1"), 1);
        assert_int_equal(count(f, "y=\n", NULL), 2);
        assert_int_equal(count(f, "x", NULL), 0);
        assert_int_equal(delete (f, "b", NULL), 0);
        assert_int_equal(count(f, "x=1", NULL), 1);
}

static void test_delete(void **state)
{
        struct fixture *f = *state;
        struct history_record r = record("a", false);

        open_history(f, 0);
        r.idempotency_key = strdup("k");
        assert_int_equal(add(f, r), 0);
        assert_int_equal(delete (f, "none", NULL), -ENOENT);
        assert_int_equal(delete (f, "a", "bob"), -ENOENT);
        assert_int_equal(count(f, NULL, NULL), 1);
        assert_int_equal(delete (f, "a", "alice"), 0);
        assert_int_equal(count(f, NULL, NULL), 0);
        assert_int_equal(delete (f, "a", "alice"), -ENOENT);
        /* The key is used up all the same. */
        assert_int_equal(find_key(f, "k"), -ESTALE);
}

static void test_keys_are_bounded(void **state)
{
        struct fixture *f = *state;
        int r = 0;

        open_history(f, 10);
        for (int i = 0; i < 30; i++) {
                struct history_record rec;
                char id[8];

                (void)snprintf(id, sizeof(id), "a%02d", i);
                rec = record(id, false);
                rec.created_ms += (uint64_t)i;
                rec.idempotency_key = strdup(id);
                assert_int_equal(add(f, rec), 0);
        }
        for (int i = 0; i < 1000 && r != -ENOENT; i++)
                r = find_key(f, "a19");
        assert_int_equal(r, -ENOENT);
        assert_int_equal(find_key(f, "a20"), 0);
        assert_int_equal(find_key(f, "a29"), 0);
}

/* The first version's tables, with a task and its key. */
static void test_older_is_migrated(void **state)
{
        struct fixture *f = *state;

        exec_sql(f,
                 "CREATE TABLE tasks (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
                 " status TEXT NOT NULL, image TEXT NOT NULL, created INTEGER NOT NULL, finished INTEGER NOT NULL,"
                 " bytes INTEGER NOT NULL, document TEXT NOT NULL, out BLOB, err BLOB);"
                 "CREATE INDEX tasks_owner ON tasks (owner, id);"
                 "CREATE TABLE keys (owner TEXT NOT NULL, key TEXT NOT NULL, hash BLOB NOT NULL, task TEXT NOT NULL,"
                 " created INTEGER NOT NULL, PRIMARY KEY (owner, key)) WITHOUT ROWID;"
                 "CREATE INDEX keys_created ON keys (created);"
                 "CREATE TABLE totals (tasks INTEGER NOT NULL, bytes INTEGER NOT NULL);"
                 "INSERT INTO totals VALUES (1, 2);"
                 "INSERT INTO tasks VALUES (1, 'old', 'alice', 'exited', 'x', 1, 9000000000000, 2, '{}', NULL, NULL);"
                 "INSERT INTO keys VALUES ('alice', 'k', x'00', 'old', 9000000000000);"
                 "PRAGMA user_version = 1;");
        open_history(f, 0);
        assert_int_equal(count(f, NULL, NULL), 1);
        assert_int_equal(find_key(f, "k"), 0);
        assert_int_equal(accept_request(f, accepted("new")), 0);
        assert_int_equal(n_requests(f), 1);
        history_close(f->h);
        open_history(f, 0);
        assert_int_equal(count(f, NULL, NULL), 1);
}

/* A file system that is full, and has room again. */
static void test_disk_full(void **state)
{
        struct fixture *f = *state;
        struct rlimit before, none;
        int r[3];

        open_history(f, 0);
        assert_int_equal(accept_request(f, accepted("a")), 0);
        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        none = (struct rlimit){ 1, before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
        r[0] = accept_request(f, accepted("b"));
        r[1] = add(f, record("a", true));
        r[2] = delete (f, "a", NULL);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_true(r[0] < 0 && r[1] < 0);
        assert_int_equal(r[2], -ENOENT);
        assert_int_equal(n_requests(f), 1);
        assert_int_equal(add(f, record("a", true)), 0);
        assert_int_equal(n_requests(f), 0);
        assert_int_equal(count(f, NULL, NULL), 1);
}

static void test_one_bad_entry(void **state)
{
        struct fixture *f = *state;
        struct done d[3] = { { .done = false } };
        struct history_record r[3] = { record("a", false), record("b", false), record("c", false) };

        open_history(f, 0);
        exec_sql(f, "CREATE TRIGGER no BEFORE INSERT ON tasks WHEN NEW.id = 'b' BEGIN SELECT RAISE(ABORT, 'no'); END");
        for (int i = 0; i < 3; i++)
                assert_int_equal(history_add(f->h, &r[i], on_done, &d[i], NULL), 0);
        assert_int_equal(wait_done(f, &d[0]), 0);
        assert_true(wait_done(f, &d[1]) < 0);
        assert_int_equal(wait_done(f, &d[2]), 0);
        assert_int_equal(count(f, NULL, NULL), 2);
}

/* ── a kill at each write ────────────────────────────────────────────────────────────────────────────────────────── */

/* Databases and logs have different methods. */
static struct {
        const sqlite3_io_methods *real;
        sqlite3_io_methods killing;
} methods[4];
static sqlite3_vfs *unix_vfs, killing_vfs;
static int writes_left, syncs;

static const sqlite3_io_methods *real_of(const sqlite3_file *file)
{
        for (size_t i = 0; i < ARRAY_LEN(methods); i++)
                if (file->pMethods == &methods[i].killing)
                        return methods[i].real;
        _exit(7);
}

/* Half of what was to be written is, and then the process is gone. */
static int killing_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 offset)
{
        if (--writes_left == 0) {
                (void)real_of(file)->xWrite(file, data, len / 2, offset);
                _exit(9);
        }
        return real_of(file)->xWrite(file, data, len, offset);
}

static int killing_sync(sqlite3_file *file, int flags)
{
        syncs++;
        return real_of(file)->xSync(file, flags);
}

static int killing_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret_flags)
{
        int rc = unix_vfs->xOpen(vfs, name, file, flags, ret_flags);

        size_t i = 0;

        if (rc != SQLITE_OK || !file->pMethods)
                return rc;
        while (methods[i].real && methods[i].real != file->pMethods)
                i++;
        methods[i].real = file->pMethods;
        methods[i].killing = *methods[i].real;
        methods[i].killing.xWrite = killing_write;
        methods[i].killing.xSync = killing_sync;
        file->pMethods = &methods[i].killing;
        return rc;
}

static void install_killer(int writes)
{
        unix_vfs = sqlite3_vfs_find(NULL);
        killing_vfs = *unix_vfs;
        killing_vfs.zName = "killing";
        killing_vfs.pNext = NULL;
        killing_vfs.xOpen = killing_open;
        writes_left = writes;
        assert_int_equal(sqlite3_vfs_register(&killing_vfs, 1), SQLITE_OK);
}

static int change(struct history_db *db, enum history_write kind, const char *id)
{
        struct history_change c = { .kind = kind }, *changes[] = { &c };
        int r;

        if (kind == HISTORY_ADD)
                c.record = record(id, true);
        else if (kind == HISTORY_DELETE)
                (void)snprintf(c.record.id, sizeof(c.record.id), "%s", id);
        else
                c.request = accepted(id);
        if (kind == HISTORY_STARTED)
                c.request.started = 1;
        if (kind == HISTORY_ADD && strv_add(&c.record.labels, "a=b") < 0)
                return -ENOMEM;
        r = history_db_write(db, changes, 1, kind == HISTORY_ACCEPT || kind == HISTORY_STARTED, NULL);
        history_record_done(&c.record);
        history_request_done(&c.request);
        return r;
}

/* What the child does; it says how many of them have been answered. */
static const struct {
        enum history_write kind;
        const char *id;
        size_t requests, records; /* that there are when it is done */
} steps[] = {
        { HISTORY_ACCEPT, "a", 1, 0 }, { HISTORY_STARTED, "a", 1, 0 }, { HISTORY_ACCEPT, "b", 2, 0 },
        { HISTORY_ADD, "a", 1, 1 },    { HISTORY_DROP, "b", 0, 1 },    { HISTORY_ACCEPT, "c", 1, 1 },
        { HISTORY_DELETE, "a", 1, 0 }, { HISTORY_ADD, "c", 0, 1 },
};

static void child(const char *path, int writes, int fd)
{
        struct history_db *db = NULL;

        install_killer(writes);
        if (history_db_open(path, &db, NULL) < 0)
                _exit(8);
        for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
                char n = (char)(i + 1);

                if (change(db, steps[i].kind, steps[i].id) < 0 || write(fd, &n, 1) != 1)
                        _exit(8);
                if (i == 4 && history_db_checkpoint(db, NULL) < 0)
                        _exit(8);
        }
        history_db_close(db);
        _exit(0);
}

static void remove_files(const struct fixture *f)
{
        static const char *const suffixes[] = { "", "-wal", "-shm" };

        for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
                auto_free char *name = str_printf("%s%s", f->path, suffixes[i]);

                assert_true(unlink(name) == 0 || errno == ENOENT);
        }
}

static bool as_after(struct fixture *f, size_t n)
{
        size_t n_requests_then = n > 0 ? steps[n - 1].requests : 0, n_records = n > 0 ? steps[n - 1].records : 0;

        return n_requests(f) == n_requests_then && count(f, NULL, NULL) == n_records &&
               count(f, "a=b", NULL) == n_records;
}

static void test_killed_at_each_write(void **state)
{
        struct fixture *f = *state;
        int status = 9 << 8, writes;

        for (writes = 1; WEXITSTATUS(status) == 9 && writes < 1000; writes++) {
                char n, answered = 0;
                int fds[2];
                pid_t pid;

                assert_int_equal(pipe(fds), 0);
                pid = fork();
                if (pid == 0)
                        child(f->path, writes, fds[1]);
                close(fds[1]);
                while (read(fds[0], &n, 1) == 1)
                        answered = n;
                close(fds[0]);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 9 || WEXITSTATUS(status) == 0));
                open_history(f, 0);
                /* What was answered is there; of what was not, all or nothing. */
                assert_true(as_after(f, (size_t)answered) || as_after(f, (size_t)answered + 1));
                history_close(f->h);
                f->h = NULL;
                remove_files(f);
        }
        assert_true(writes > 20);
}

/* Each durable group costs one fsync, the others none. */
static void test_fsyncs(void **state)
{
        struct fixture *f = *state;
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                struct history_db *db = NULL;
                int before;

                install_killer(0);
                if (history_db_open(f->path, &db, NULL) < 0)
                        _exit(1);
                (void)change(db, HISTORY_ACCEPT, "a");
                before = syncs;
                if (change(db, HISTORY_ADD, "x") < 0 || change(db, HISTORY_DELETE, "x") < 0 || syncs != before)
                        _exit(2);
                if (change(db, HISTORY_ACCEPT, "b") < 0 || syncs != before + 1)
                        _exit(3);
                if (change(db, HISTORY_STARTED, "b") < 0 || syncs != before + 2)
                        _exit(4);
                if (change(db, HISTORY_ADD, "b") < 0 || syncs != before + 2)
                        _exit(5);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_life_of_a_request, setup, teardown),
                cmocka_unit_test_setup_teardown(test_labels, setup, teardown),
                cmocka_unit_test_setup_teardown(test_delete, setup, teardown),
                cmocka_unit_test_setup_teardown(test_keys_are_bounded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_older_is_migrated, setup, teardown),
                cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_one_bad_entry, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_at_each_write, setup, teardown),
                cmocka_unit_test_setup_teardown(test_fsyncs, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
