#include "image/access.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DAY_MS (UINT64_C(24) * 3600 * 1000)

static const struct access_config config = { .fresh_ms = 1000, .hold_ms = DAY_MS };

struct fixture {
        char dir[64];
        int fd;
        struct access *access;
        struct image_ref ref, other;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-access-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        f->fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(f->fd >= 0);
        assert_int_equal(image_ref_parse_docker("registry.example/private/tool:1", &f->ref, NULL), 0);
        assert_int_equal(image_ref_parse_docker("registry.example/public/tool:1", &f->other, NULL), 0);
        assert_int_equal(access_open(f->fd, &config, &f->access, NULL), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct fixture *f = *state;

        access_free(f->access);
        fd_close(f->fd);
        assert_int_equal(path_remove_tree(tmp, f->dir + strlen("/tmp/")), 0);
        free(f);
        return 0;
}

/* As after a restart. */
static void again(struct fixture *f, uint64_t now_ms)
{
        auto_free char *text = NULL;

        assert_int_equal(access_text(f->access, now_ms, &text, NULL), 0);
        assert_int_equal(access_write(f->fd, text, NULL), 0);
        access_free(f->access);
        f->access = NULL;
        assert_int_equal(access_open(f->fd, &config, &f->access, NULL), 0);
}

static void test_closed(void **state)
{
        struct fixture *f = *state;

        assert_false(access_is_closed(f->access, &f->ref));
        assert_true(access_close(f->access, &f->ref));
        assert_false(access_close(f->access, &f->ref)); /* it is already */
        again(f, 1);
        assert_true(access_is_closed(f->access, &f->ref));
        assert_false(access_is_closed(f->access, &f->other));
}

/* One registry, however it is written; another port is another one. Also in a file that was written otherwise. */
static void test_spellings(void **state)
{
        static const char text[] =
                "{\"closed\": [\"registry.example:443/private/tool\"], \"proofs\": ["
                "{\"owner\": \"key:a\", \"repository\": \"REGISTRY.example/private/tool\", \"at\": 5000}]}";
        struct fixture *f = *state;
        struct image_ref spelled, other;

        assert_int_equal(image_ref_parse_docker("Registry.Example:443/private/tool:2", &spelled, NULL), 0);
        assert_int_equal(image_ref_parse_docker("registry.example:80/private/tool:1", &other, NULL), 0);
        assert_true(access_close(f->access, &spelled));
        assert_true(access_is_closed(f->access, &f->ref));
        assert_false(access_is_closed(f->access, &other));
        (void)access_prove(f->access, "key:a", &f->ref, 5000);
        assert_int_equal(access_look(f->access, "key:a", &spelled, 5000), ACCESS_FRESH);
        assert_int_equal(access_look(f->access, "key:a", &other, 5000), ACCESS_NONE);
        assert_int_equal(access_write(f->fd, text, NULL), 0);
        access_free(f->access);
        f->access = NULL;
        assert_int_equal(access_open(f->fd, &config, &f->access, NULL), 0);
        assert_true(access_is_closed(f->access, &f->ref));
        assert_true(access_is_closed(f->access, &spelled));
        assert_int_equal(access_look(f->access, "key:a", &spelled, 5000), ACCESS_FRESH);
}

/* Docker takes the first component for a registry where it has a capital letter, and names of hosts have no case: written without it,
 * it must not become a repository of Docker Hub. */
static void test_capital_registry(void **state)
{
        struct fixture *f = *state;
        struct image_ref capital, hub;

        assert_int_equal(image_ref_parse_docker("MyHost/own/tool:1", &capital, NULL), 0);
        assert_int_equal(image_ref_parse_docker("myhost/own/tool:1", &hub, NULL), 0);
        assert_true(access_close(f->access, &capital));
        (void)access_prove(f->access, "key:a", &capital, 5000);
        for (int i = 0; i < 2; i++) {
                assert_true(access_is_closed(f->access, &capital));
                assert_int_equal(access_look(f->access, "key:a", &capital, 5000), ACCESS_FRESH);
                assert_false(access_is_closed(f->access, &hub));
                assert_int_equal(access_look(f->access, "key:a", &hub, 5000), ACCESS_NONE);
                again(f, 5000);
        }
}

static void test_reopened(void **state)
{
        struct fixture *f = *state;

        assert_false(access_reopen(f->access, &f->ref));
        assert_true(access_close(f->access, &f->ref));
        assert_true(access_close(f->access, &f->other));
        assert_true(access_reopen(f->access, &f->ref));
        again(f, 1);
        assert_false(access_is_closed(f->access, &f->ref));
        assert_true(access_is_closed(f->access, &f->other));
}

static void test_proofs(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(access_look(f->access, "key:a", &f->ref, 5000), ACCESS_NONE);
        (void)access_prove(f->access, "key:a", &f->ref, 5000);
        again(f, 5000);
        assert_int_equal(access_look(f->access, "key:a", &f->ref, 6000), ACCESS_FRESH);
        assert_int_equal(access_look(f->access, "key:a", &f->ref, 6001), ACCESS_HELD);
        assert_int_equal(access_look(f->access, "key:a", &f->ref, 5001 + DAY_MS), ACCESS_NONE);
        /* A clock that was set back makes no proof younger. */
        assert_int_equal(access_look(f->access, "key:a", &f->ref, 4999), ACCESS_NONE);
        assert_int_equal(access_look(f->access, "key:b", &f->ref, 5000), ACCESS_NONE);
        assert_int_equal(access_look(f->access, "key:a", &f->other, 5000), ACCESS_NONE);
        assert_true(access_forget(f->access, "key:a", &f->ref));
        assert_int_equal(access_look(f->access, "key:a", &f->ref, 5000), ACCESS_NONE);
}

/* What was closed must not come open because the file was damaged. */
static void test_damaged(void **state)
{
        static const char *const damaged[] = {
                "",
                "{\"closed\": [",
                "[]",
                "{}",
                "{\"proofs\": []}",
                "{\"closed\": []}",
                "{\"clo3ed\": [\"docker.io/library/x\"], \"proofs\": []}",
                "{\"closed\": {}, \"proofs\": []}",
                "{\"closed\": [\"docker.io/library/x\", 5], \"proofs\": []}",
        };
        struct fixture *f = *state;
        struct access *a = NULL;

        for (size_t i = 0; i < ARRAY_LEN(damaged); i++) {
                struct err err = ERR_INIT;

                assert_int_equal(access_write(f->fd, damaged[i], NULL), 0);
                assert_true(access_open(f->fd, &config, &a, &err) < 0);
                assert_null(a);
                assert_non_null(strstr(err.text, "access.json"));
        }
        assert_int_equal(access_write(f->fd, "{\"closed\": [], \"proofs\": []}", NULL), 0);
        assert_int_equal(access_open(f->fd, &config, &a, NULL), 0);
        access_free(a);
}

/* Wherever one bit is another: what is closed stays so, and nobody has shown access who had not. */
static void test_flips(void **state)
{
        struct fixture *f = *state;
        auto_free char *text = NULL;
        size_t len, opened = 0;

        assert_true(access_close(f->access, &f->ref));
        assert_true(access_close(f->access, &f->other));
        (void)access_prove(f->access, "key:a", &f->other, 5000);
        assert_int_equal(access_text(f->access, 5000, &text, NULL), 0);
        len = strlen(text);
        for (size_t i = 0; i < 7 * len; i++) {
                struct access *a = NULL;
                auto_fd fd = openat(f->fd, "access.json", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

                text[i / 7] ^= (char)(1 << i % 7);
                assert_int_equal(fd_write_all(fd, text, len), 0);
                text[i / 7] ^= (char)(1 << i % 7);
                if (access_open(f->fd, &config, &a, NULL) < 0)
                        continue;
                opened++;
                assert_true(access_is_closed(a, &f->ref) && access_is_closed(a, &f->other));
                assert_int_equal(access_look(a, "key:a", &f->other, 5000), ACCESS_FRESH);
                assert_int_equal(access_look(a, "key:a", &f->ref, 5000), ACCESS_NONE);
                access_free(a);
        }
        assert_true(opened > 0 && opened < 30); /* the name of the digest itself */
}

/* Full is not open: the next repository is not closed, and says so; the file can be read again. */
static void test_full(void **state)
{
        struct fixture *f = *state;
        struct image_ref ref = f->ref;
        char fill[180];

        memset(fill, 'x', sizeof(fill) - 1);
        fill[sizeof(fill) - 1] = '\0';
        for (unsigned i = 0; i <= ACCESS_PROOFS_MAX; i++) {
                (void)snprintf(ref.path, sizeof(ref.path), "%s/%u", fill, i);
                assert_int_equal(access_close(f->access, &ref), i < ACCESS_REPOSITORIES_MAX);
                assert_int_equal(access_is_closed(f->access, &ref), i < ACCESS_REPOSITORIES_MAX);
                (void)access_prove(f->access, "key:a", &ref, 5000);
        }
        assert_int_equal(access_look(f->access, "key:a", &ref, 5000), ACCESS_NONE);
        (void)access_prove(f->access, "key:a", &ref, 5001 + DAY_MS);
        assert_int_equal(access_look(f->access, "key:a", &ref, 5001 + DAY_MS), ACCESS_FRESH);
        assert_int_equal(access_look(f->access, "key:a", &f->ref, 5001 + DAY_MS), ACCESS_NONE);
        (void)snprintf(ref.path, sizeof(ref.path), "%s/1", fill);
        again(f, 5001 + DAY_MS);
        assert_true(access_is_closed(f->access, &ref));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_closed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_spellings, setup, teardown),
                cmocka_unit_test_setup_teardown(test_capital_registry, setup, teardown),
                cmocka_unit_test_setup_teardown(test_reopened, setup, teardown),
                cmocka_unit_test_setup_teardown(test_proofs, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
                cmocka_unit_test_setup_teardown(test_flips, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/access", tests, NULL, NULL);
}
