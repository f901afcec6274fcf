#include "base/err.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_set(void **state)
{
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(err_set(&err, EINVAL, "bad %s", "name"), -EINVAL);
        assert_int_equal(err.num, EINVAL);
        assert_string_equal(err.text, "bad name");
        assert_int_equal(err_set(NULL, EPERM, "nobody listens"), -EPERM);
        assert_int_equal(err_oom(&err), -ENOMEM);
        assert_string_equal(err.text, "out of memory");
}

static void test_sys(void **state)
{
        struct err err = ERR_INIT;

        (void)state;
        errno = ENOENT;
        assert_int_equal(err_sys(&err, "open '%s'", "x"), -ENOENT);
        assert_string_equal(err.text, "open 'x': No such file or directory");
        errno = 0;
        assert_int_equal(err_sys(&err, "odd"), -EIO);
        errno = EACCES;
        assert_int_equal(err_sys(NULL, "odd"), -EACCES);
}

static void test_wrap(void **state)
{
        struct err err = ERR_INIT;

        (void)state;
        (void)err_set(&err, EBADMSG, "digest mismatch");
        assert_int_equal(err_wrap(&err, "layer %d", 3), -EBADMSG);
        assert_int_equal(err_wrap(&err, "pull busybox"), -EBADMSG);
        assert_string_equal(err.text, "pull busybox: layer 3: digest mismatch");
        assert_int_equal(err_wrap(NULL, "x"), -EIO);
        err = (struct err)ERR_INIT;
        assert_int_equal(err_wrap(&err, "x"), -EIO);
}

static void test_cut(void **state)
{
        char longer[2 * ERR_TEXT_MAX];
        struct err err = ERR_INIT;

        (void)state;
        memset(longer, 'a', sizeof(longer));
        longer[sizeof(longer) - 1] = '\0';
        assert_int_equal(err_set(&err, EIO, "%s", longer), -EIO);
        assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
        errno = EIO;
        assert_int_equal(err_sys(&err, "%s", longer), -EIO);
        assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
        assert_int_equal(err_wrap(&err, "%s", longer), -EIO);
        assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_set),
                cmocka_unit_test(test_sys),
                cmocka_unit_test(test_wrap),
                cmocka_unit_test(test_cut),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
