#include "state/logins.h"

#include "state/db.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
        char dir[32], db_path[64], key_path[64];
        struct loop *loop;
        struct state_db *db;
        struct seal *seal;
        struct logins *logins;
        int calls, r;
};

static void open_all(struct fixture *f)
{
        struct err err = ERR_INIT;

        assert_int_equal(seal_new(f->key_path, &f->seal, &err), 0);
        assert_int_equal(state_db_open(f->db_path, &f->db, &err), 0);
        assert_int_equal(logins_new(f->loop, f->db, f->seal, &f->logins, &err), 0);
}

static void close_all(struct fixture *f)
{
        logins_free(f->logins);
        state_db_close(f->db);
        seal_free(f->seal);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-logins-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->db_path, sizeof(f->db_path), "%s/db", f->dir);
        (void)snprintf(f->key_path, sizeof(f->key_path), "%s/key", f->dir);
        assert_int_equal(loop_new(&f->loop, NULL), 0);
        open_all(f);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        static const char *const suffixes[] = { "", "-wal", "-shm" };
        struct fixture *f = *state;

        close_all(f);
        loop_free(f->loop);
        for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
                auto_free char *path = str_printf("%s%s", f->db_path, suffixes[i]);

                (void)unlink(path);
        }
        (void)unlink(f->key_path);
        (void)rmdir(f->dir);
        free(f);
        return 0;
}

static void on_done(int r, const struct err *err, void *data)
{
        struct fixture *f = data;

        (void)err;
        f->calls++;
        f->r = r;
}

static void settle(struct fixture *f, int calls)
{
        while (f->calls < calls)
                assert_true(loop_turn(f->loop, 1000, NULL) >= 0);
        assert_int_equal(f->r, 0);
        f->calls = 0;
}

static void set(struct fixture *f, const char *owner, const char *registry, const char *password)
{
        assert_int_equal(logins_set(f->logins, owner, registry, "ann", password, on_done, f, NULL), 0);
        settle(f, 1);
}

static void assert_login(struct fixture *f, const char *owner, const char *registry, const char *password)
{
        auto_secret username = STR_INIT, found = STR_INIT;

        assert_int_equal(logins_find(f->logins, owner, registry, &username, &found), password != NULL);
        if (password)
                assert_string_equal(found.data, password);
}

static size_t count(struct fixture *f, const char *owner)
{
        struct login login;
        size_t pos = 0, n = 0;

        while (logins_next(f->logins, owner, &pos, &login))
                n++;
        return n;
}

static void test_there_and_back(void **state)
{
        struct fixture *f = *state;

        set(f, "key:a", "docker.io", "one");
        set(f, "key:a", "r.example", "two");
        set(f, "key:b", "docker.io", "three");
        set(f, "key:a", "docker.io", "four");
        for (int i = 0; i < 2; i++) {
                assert_login(f, "key:a", "docker.io", "four");
                assert_login(f, "key:a", "r.example", "two");
                assert_login(f, "key:b", "docker.io", "three");
                assert_login(f, "key:b", "r.example", NULL);
                assert_login(f, "key:c", "docker.io", NULL);
                assert_int_equal(count(f, "key:a"), 2);
                close_all(f);
                open_all(f);
        }
}

static void test_removal(void **state)
{
        struct fixture *f = *state;

        set(f, "key:a", "docker.io", "one");
        set(f, "key:a", "r.example", "two");
        set(f, "key:b", "docker.io", "three");
        assert_int_equal(logins_remove(f->logins, "key:a", "none.example", on_done, f, NULL), -ENOENT);
        assert_int_equal(logins_remove(f->logins, "key:a", "docker.io", on_done, f, NULL), 0);
        assert_login(f, "key:a", "docker.io", NULL);
        settle(f, 1);
        set(f, "key:a", "docker.io", "one");
        logins_forget(f->logins, "key:a");
        assert_int_equal(count(f, "key:a"), 0);
        close_all(f);
        open_all(f);
        assert_int_equal(count(f, "key:a"), 0);
        assert_login(f, "key:b", "docker.io", "three");
}

/* A login that is still being written when the logout, or the end of its key, is asked for. */
static void test_overtaken(void **state)
{
        struct fixture *f = *state;

        set(f, "key:a", "docker.io", "one");
        assert_int_equal(logins_set(f->logins, "key:a", "docker.io", "ann", "two", on_done, f, NULL), 0);
        assert_int_equal(logins_remove(f->logins, "key:a", "docker.io", on_done, f, NULL), 0);
        settle(f, 2);
        assert_login(f, "key:a", "docker.io", NULL);
        assert_int_equal(logins_set(f->logins, "key:b", "docker.io", "ann", "three", on_done, f, NULL), 0);
        logins_forget(f->logins, "key:b");
        settle(f, 1);
        set(f, "key:c", "docker.io", "four"); /* and what was queued before is done */
        assert_login(f, "key:b", "docker.io", NULL);
        close_all(f);
        open_all(f);
        assert_login(f, "key:a", "docker.io", NULL);
        assert_login(f, "key:b", "docker.io", NULL);
        assert_login(f, "key:c", "docker.io", "four");
}

static void test_bounds(void **state)
{
        struct fixture *f = *state;
        char large[LOGIN_PASSWORD_MAX + 2], host[300];

        memset(large, 'x', sizeof(large) - 1);
        large[sizeof(large) - 1] = '\0';
        memset(host, 'h', sizeof(host) - 1);
        host[sizeof(host) - 1] = '\0';
        assert_int_equal(logins_set(f->logins, "o", "r", "u", large, on_done, f, NULL), -EINVAL);
        assert_int_equal(logins_set(f->logins, "o", "r", large, "p", on_done, f, NULL), -EINVAL);
        assert_int_equal(logins_set(f->logins, "o", host, "u", "p", on_done, f, NULL), -EINVAL);
        assert_int_equal(logins_set(f->logins, "o", "", "u", "p", on_done, f, NULL), -EINVAL);
        assert_int_equal(logins_set(f->logins, "o", "r", "u", "", on_done, f, NULL), -EINVAL);
        for (int i = 0; i < LOGINS_OWNER_MAX; i++) {
                (void)snprintf(host, sizeof(host), "r%d.example", i);
                set(f, "o", host, "p");
        }
        assert_int_equal(logins_set(f->logins, "o", "one.more", "u", "p", on_done, f, NULL), -ENOSPC);
        set(f, "o", "r0.example", "another");
        set(f, "other", "one.more", "p");
}

/* With another key nothing opens; it is no reason not to start. */
static void test_another_seal(void **state)
{
        struct fixture *f = *state;

        set(f, "key:a", "docker.io", "one");
        close_all(f);
        assert_int_equal(unlink(f->key_path), 0);
        open_all(f);
        assert_login(f, "key:a", "docker.io", NULL);
        set(f, "key:a", "docker.io", "two");
        assert_login(f, "key:a", "docker.io", "two");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
                cmocka_unit_test_setup_teardown(test_removal, setup, teardown),
                cmocka_unit_test_setup_teardown(test_overtaken, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
                cmocka_unit_test_setup_teardown(test_another_seal, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
