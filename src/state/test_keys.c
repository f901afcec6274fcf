#include "state/keys.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "state/db.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
        char dir[40], path[64];
        struct loop *loop;
        struct state_db *db;
        struct keys *keys;
        unsigned revoked;
};

struct made {
        bool done;
        int r;
        char id[KEY_ID_LEN + 1], secret[KEY_SECRET_LEN + 1];
};

static void open_keys(struct fixture *f)
{
        struct err err = ERR_INIT;

        assert_int_equal(state_db_open(f->path, &f->db, &err), 0);
        assert_int_equal(keys_new(f->loop, f->db, &f->keys, &err), 0);
}

static void close_keys(struct fixture *f)
{
        keys_free(f->keys);
        state_db_close(f->db);
        f->keys = NULL;
        f->db = NULL;
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-keys-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/state.db", f->dir);
        assert_int_equal(loop_new(&f->loop, &err), 0);
        open_keys(f);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        close_keys(f);
        loop_free(f->loop);
        assert_int_equal(path_remove_tree(tmp, f->dir + strlen("/tmp/")), 0);
        free(f);
        return 0;
}

static void on_made(int r, const struct key *key, const char *secret, const struct err *err, void *data)
{
        struct made *m = data;

        m->done = true;
        m->r = r;
        if (r < 0) {
                assert_non_null(err);
                return;
        }
        memcpy(m->id, key->id, sizeof(m->id));
        assert_int_equal(strlen(secret), KEY_SECRET_LEN);
        memcpy(m->secret, secret, sizeof(m->secret));
}

static struct made make(struct fixture *f, const struct key *wanted)
{
        struct made m = { .done = false };
        struct err err = ERR_INIT;

        assert_int_equal(keys_create(f->keys, wanted, on_made, &m, &err), 0);
        while (!m.done)
                assert_int_equal(loop_turn(f->loop, -1, &err), 0);
        assert_int_equal(m.r, 0);
        return m;
}

static void on_done(int r, const struct err *err, void *data)
{
        (void)err;
        *(int *)data = r;
}

static void revoke_one(struct fixture *f, const char *id)
{
        struct err err = ERR_INIT;
        int r = 1;

        assert_int_equal(keys_revoke(f->keys, id, on_done, &r, &err), 0);
        while (r == 1)
                assert_int_equal(loop_turn(f->loop, -1, &err), 0);
        assert_int_equal(r, 0);
}

static void test_verify(void **state)
{
        struct fixture *f = *state;
        struct made one = make(f, &(struct key){ .role = KEY_TASK, .name = (char[]){ "ci" } });
        struct made two = make(f, &(struct key){ .role = KEY_READ });
        const struct key *k = keys_verify(f->keys, one.id, one.secret);
        auto_free char *longer = str_printf("%sx", one.secret);
        auto_free char *huge = calloc(1, 100001);

        assert_non_null(k);
        assert_int_equal(k->role, KEY_TASK);
        assert_string_equal(k->name, "ci");
        assert_true(str_starts(k->owner, "key:") && str_eq(k->owner + 4, one.id));
        assert_true(k->used_ms > 0 && k->used_ms % 60000 == 0);
        assert_string_not_equal(one.id, two.id);
        assert_null(keys_verify(f->keys, one.id, two.secret));
        assert_null(keys_verify(f->keys, two.id, one.secret));
        assert_null(keys_verify(f->keys, one.id, ""));
        assert_null(keys_verify(f->keys, one.id, longer));
        assert_null(keys_verify(f->keys, "", one.secret));
        assert_null(keys_verify(f->keys, "nobody", one.secret));
        memset(huge, 'x', 100000);
        assert_null(keys_verify(f->keys, one.id, huge));
        assert_string_equal(keys_at(f->keys, 0)->id, two.id);
        assert_string_equal(keys_at(f->keys, 1)->id, one.id);
        assert_null(keys_at(f->keys, 2));
}

static void test_kept(void **state)
{
        char *images[] = { (char[]){ "docker.io/library/*" }, (char[]){ "quay.io/x/y:1" }, NULL };
        char *networks[] = { (char[]){ "none" }, NULL };
        const struct key wanted = {
                .role = KEY_DEPLOY,
                .expires_ms = time_real_ms() + 3600000,
                .images = images,
                .networks = networks,
                .maxima = { .memory = 1 << 28,
                            .cpu_milli = 1500,
                            .timeout_ns = 90 * (int64_t)NS_PER_S,
                            .max_running = 7,
                            .rate = 2.5,
                            .burst = 9 },
        };
        struct fixture *f = *state;
        struct made m = make(f, &wanted);
        const struct key *k;

        assert_non_null(keys_verify(f->keys, m.id, m.secret));
        close_keys(f);
        open_keys(f);
        k = keys_verify(f->keys, m.id, m.secret);
        assert_non_null(k);
        assert_int_equal(k->role, KEY_DEPLOY);
        assert_memory_equal(&k->maxima, &wanted.maxima, sizeof(k->maxima));
        assert_int_equal(k->expires_ms, wanted.expires_ms);
        assert_true(k->used_ms > 0); /* written at the end, too */
        assert_true(key_allows_image(k, "docker.io/library/busybox:1.36"));
        assert_true(key_allows_image(k, "quay.io/x/y:1"));
        assert_false(key_allows_image(k, "docker.io/evil/busybox:1.36"));
        assert_false(key_allows_image(k, "quay.io/x/y:2"));
        assert_true(key_allows_network(k, "none"));
        assert_false(key_allows_network(k, "nat"));
        assert_true(key_allows_engine(k, "native"));
}

/* What a key may have a daemon can read again. */
static void test_outermost_bounds_are_kept(void **state)
{
        static const struct key_maxima rows[] = {
                { .timeout_ns = INT64_MAX, .queue_timeout_ns = INT64_MAX - 1, .cpu_time_ns = 1 },
                { .timeout_ns = INT64_MAX - 855 * (int64_t)NS_PER_MS, .cpu_time_ns = 999999999 },
                { .memory = INT64_MAX, .disk = 1, .cpu_milli = 1, .pids = INT32_MAX, .rate = 0.001 },
                { .cpu_milli = 1024000, .rate = 1e6, .burst = INT32_MAX, .max_running = INT32_MAX },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                const struct key wanted = { .role = KEY_TASK, .maxima = rows[i] };
                struct made m = make(f, &wanted);
                const struct key *k;

                close_keys(f);
                open_keys(f);
                k = keys_find(f->keys, m.id);
                assert_non_null(k);
                assert_int_equal(k->maxima.timeout_ns / (int64_t)NS_PER_S, rows[i].timeout_ns / (int64_t)NS_PER_S);
                assert_int_equal(k->maxima.cpu_time_ns, rows[i].cpu_time_ns);
                assert_int_equal(k->maxima.memory, rows[i].memory);
                assert_int_equal(k->maxima.cpu_milli, rows[i].cpu_milli);
                assert_int_equal(k->maxima.burst, rows[i].burst);
                assert_true(k->maxima.rate == rows[i].rate);
        }
}

/* What the file holds does not tell the secret. */
static void test_only_a_hash(void **state)
{
        struct fixture *f = *state;
        struct made m = make(f, &(struct key){ .role = KEY_ADMIN });
        static const char *const suffixes[] = { "", "-wal" };
        struct stat st;

        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
                auto_free char *path = str_printf("%s%s", f->path, suffixes[i]);
                auto_str text = STR_INIT;
                struct err err = ERR_INIT;

                assert_int_equal(fd_read_file(AT_FDCWD, path, 1 << 24, &text, &err), 0);
                assert_null(memmem(text.data, text.len, m.secret, KEY_SECRET_LEN));
        }
}

static void note_revoked(const struct key *k, void *data)
{
        struct fixture *f = data;

        assert_true(k->revoked_ms > 0);
        f->revoked++;
}

static void test_revoke(void **state)
{
        struct fixture *f = *state;
        struct made m = make(f, &(struct key){ .role = KEY_TASK });
        struct err err = ERR_INIT;
        int r = 1;

        keys_on_revoke(f->keys, note_revoked, f);
        assert_int_equal(keys_revoke(f->keys, m.id, on_done, &r, &err), 0);
        /* Before the disk knows. */
        assert_null(keys_verify(f->keys, m.id, m.secret));
        assert_int_equal(f->revoked, 1);
        while (r == 1)
                assert_int_equal(loop_turn(f->loop, -1, &err), 0);
        revoke_one(f, m.id);
        assert_int_equal(f->revoked, 1);
        assert_int_equal(keys_revoke(f->keys, "nobody", on_done, &r, &err), -ENOENT);
        assert_false(key_is_live(keys_find(f->keys, m.id)));
        close_keys(f);
        open_keys(f);
        assert_null(keys_verify(f->keys, m.id, m.secret));
        assert_true(keys_find(f->keys, m.id)->revoked_ms > 0);
}

static void test_expiry(void **state)
{
        struct fixture *f = *state;
        uint64_t at = time_real_ms() + 200;
        struct made m = make(f, &(struct key){ .role = KEY_TASK, .expires_ms = at });

        while (time_real_ms() < at)
                (void)usleep(1000);
        assert_null(keys_verify(f->keys, m.id, m.secret));
        assert_non_null(keys_find(f->keys, m.id));
}

static void test_refused(void **state)
{
        char *empty[] = { NULL }, *blank[] = { (char[]){ "" }, NULL };
        char name[KEY_NAME_MAX + 2];
        const struct key bad[] = {
                { .role = KEY_TASK, .expires_ms = 1 },
                { .role = KEY_TASK, .name = name },
                { .role = KEY_TASK, .name = (char[]){ "\xff" } },
                { .role = KEY_TASK, .images = empty },
                { .role = KEY_TASK, .engines = blank },
                { .role = (enum key_role)KEY_ROLES },
        };
        struct fixture *f = *state;

        memset(name, 'x', sizeof(name) - 1);
        name[sizeof(name) - 1] = '\0';
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                struct err err = ERR_INIT;

                assert_int_equal(keys_create(f->keys, &bad[i], on_made, NULL, &err), -EINVAL);
                assert_true(*err.text);
        }
}

static void set_version(const char *path, int version)
{
        auto_free char *sql = str_printf("PRAGMA user_version = %d", version);
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_versions(void **state)
{
        struct fixture *f = *state;
        auto_free char *garbage = str_printf("%s/garbage", f->dir);
        struct state_db *db = NULL;
        struct err err = ERR_INIT;

        close_keys(f);
        set_version(f->path, 99);
        assert_int_equal(state_db_open(f->path, &db, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, "newer Mayfly"));
        set_version(f->path, 2);
        assert_int_equal(fd_write_file(AT_FDCWD, garbage, 0600, "this is not a database at all", 29, &err), 0);
        assert_int_equal(state_db_open(garbage, &db, &err), -EBADMSG);
        assert_null(db);
        open_keys(f);
}

/* A row that somebody else wrote: the daemon says which, and does not start with half of the keys. */
static void test_damaged_row(void **state)
{
        static const char sql[] = "UPDATE keys SET role = 'king'";
        struct fixture *f = *state;
        struct made m = make(f, &(struct key){ .role = KEY_TASK });
        struct err err = ERR_INIT;
        sqlite3 *db = NULL;

        close_keys(f);
        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
        assert_int_equal(state_db_open(f->path, &f->db, &err), 0);
        assert_int_equal(keys_new(f->loop, f->db, &f->keys, &err), -EBADMSG);
        assert_non_null(strstr(err.text, m.id));
        f->keys = NULL;
}

static void run_sql(const char *path, const char *sql)
{
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* The table is bounded: what nobody can use makes room, what somebody can use does not. */
static void test_full(void **state)
{
        static const char many[] =
                "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
                "INSERT INTO keys SELECT printf('k%011d', i), name, role, salt, hash, created + i, 0,"
                " 0, 0, bounds FROM keys, n";
        struct fixture *f = *state;
        struct made first = make(f, &(struct key){ .role = KEY_TASK }), next;
        struct err err = ERR_INIT;
        auto_free char *revoked = strdup("k00000000007");

        close_keys(f);
        run_sql(f->path, many);
        open_keys(f);
        assert_non_null(keys_at(f->keys, KEYS_MAX - 1));
        assert_null(keys_at(f->keys, KEYS_MAX));
        assert_int_equal(keys_create(f->keys, &(struct key){ .role = KEY_TASK }, on_made, NULL, &err), -ENOSPC);
        revoke_one(f, revoked);
        next = make(f, &(struct key){ .role = KEY_TASK });
        assert_null(keys_find(f->keys, revoked));
        assert_non_null(keys_verify(f->keys, next.id, next.secret));
        assert_non_null(keys_verify(f->keys, first.id, first.secret));
        close_keys(f);
        open_keys(f);
        assert_null(keys_find(f->keys, revoked));
        assert_non_null(keys_verify(f->keys, next.id, next.secret));
        assert_null(keys_at(f->keys, KEYS_MAX));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_verify, setup, teardown),
                cmocka_unit_test_setup_teardown(test_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_outermost_bounds_are_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_only_a_hash, setup, teardown),
                cmocka_unit_test_setup_teardown(test_revoke, setup, teardown),
                cmocka_unit_test_setup_teardown(test_expiry, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged_row, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
