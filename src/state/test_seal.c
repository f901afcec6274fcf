#include "state/seal.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/mayfly-seal-XXXXXX", keyfile[64];

static int setup(void **state)
{
        (void)state;
        (void)snprintf(dir, sizeof(dir), "/tmp/mayfly-seal-XXXXXX");
        assert_non_null(mkdtemp(dir));
        (void)snprintf(keyfile, sizeof(keyfile), "%s/key", dir);
        return 0;
}

static int teardown(void **state)
{
        (void)state;
        (void)unlink(keyfile);
        return rmdir(dir);
}

static struct seal *make(void)
{
        struct err err = ERR_INIT;
        struct seal *s = NULL;

        assert_int_equal(seal_new(keyfile, &s, &err), 0);
        return s;
}

static void test_there_and_back(void **state)
{
        static const char *const texts[] = { "", "x", "a secret of some length" };
        struct seal *s = make(), *again = make();
        struct stat st;

        (void)state;
        assert_int_equal(stat(keyfile, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(st.st_size, 32);
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
                auto_str one = STR_INIT, two = STR_INIT;
                auto_secret plain = STR_INIT;

                assert_int_equal(seal_seal(s, "ctx", texts[i], strlen(texts[i]), &one), 0);
                assert_int_equal(seal_seal(s, "ctx", texts[i], strlen(texts[i]), &two), 0);
                assert_int_equal(one.len, strlen(texts[i]) + SEAL_OVERHEAD);
                assert_memory_not_equal(one.data, two.data, one.len);
                assert_true(!*texts[i] || !texts[i][1] || !memmem(one.data, one.len, texts[i], strlen(texts[i])));
                assert_int_equal(seal_open(again, "ctx", one.data, one.len, &plain), 0);
                assert_int_equal(plain.len, strlen(texts[i]));
                assert_string_equal(plain.data, texts[i]);
        }
        seal_free(s);
        seal_free(again);
}

static void test_refuses_what_was_changed(void **state)
{
        struct seal *s = make(), *other = NULL;
        auto_str sealed = STR_INIT;
        auto_secret plain = STR_INIT;
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(seal_seal(s, "task 1", "secret", 6, &sealed), 0);
        for (size_t i = 0; i < sealed.len; i++) {
                sealed.data[i] ^= 1;
                assert_int_equal(seal_open(s, "task 1", sealed.data, sealed.len, &plain), -EBADMSG);
                sealed.data[i] ^= 1;
                assert_int_equal(seal_open(s, "task 1", sealed.data, i, &plain), -EBADMSG);
        }
        assert_int_equal(plain.len, 0);
        assert_int_equal(seal_open(s, "task 2", sealed.data, sealed.len, &plain), -EBADMSG);
        assert_int_equal(unlink(keyfile), 0);
        assert_int_equal(seal_new(keyfile, &other, &err), 0);
        assert_int_equal(seal_open(other, "task 1", sealed.data, sealed.len, &plain), -EBADMSG);
        assert_int_equal(seal_open(s, "task 1", sealed.data, sealed.len, &plain), 0);
        seal_free(s);
        seal_free(other);
}

static void test_refuses_bad_keys(void **state)
{
        struct seal *s = NULL;
        struct err err = ERR_INIT;
        char long_context[SEAL_CONTEXT_MAX + 2];
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(fd_write_file(AT_FDCWD, keyfile, 0600, "short", 5, &err), 0);
        assert_int_equal(seal_new(keyfile, &s, &err), -EBADMSG);
        assert_int_equal(unlink(keyfile), 0);
        seal_free(make());
        assert_int_equal(chmod(keyfile, 0640), 0);
        assert_int_equal(seal_new(keyfile, &s, &err), -EPERM);
        assert_null(s);
        assert_int_equal(chmod(keyfile, 0600), 0);
        s = make();
        memset(long_context, 'x', sizeof(long_context) - 1);
        long_context[sizeof(long_context) - 1] = '\0';
        assert_int_equal(seal_seal(s, long_context, "x", 1, &out), -E2BIG);
        seal_free(s);
        assert_int_equal(seal_new("/nonexistent/key", &s, &err), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refuses_what_was_changed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refuses_bad_keys, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
