#include "base/id.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_order(void **state)
{
        char last[ID_LEN + 1] = "", id[ID_LEN + 1];

        (void)state;
        for (int i = 0; i < 20000; i++) {
                id_make(id);
                assert_true(id_valid(id));
                assert_true(strcmp(last, id) < 0);
                memcpy(last, id, sizeof(last));
        }
}

static void test_valid(void **state)
{
        (void)state;
        assert_true(id_valid("01arz3ndektsv4rrffq69g5fav"));
        assert_true(id_valid("7zzzzzzzzzzzzzzzzzzzzzzzzz"));
        assert_false(id_valid(""));
        assert_false(id_valid("01arz3ndektsv4rrffq69g5fa"));
        assert_false(id_valid("01arz3ndektsv4rrffq69g5favx"));
        assert_false(id_valid("81arz3ndektsv4rrffq69g5fav"));
        assert_false(id_valid("01ARZ3NDEKTSV4RRFFQ69G5FAV"));
        assert_false(id_valid("01arz3ndektsv4rrffq69g5fai"));
        assert_false(id_valid("01arz3ndektsv4rrffq69g5fa/"));
}

/* A child that drew the parent's bytes would make the parent's identifiers. */
static void test_fork(void **state)
{
        char mine[ID_LEN + 1], theirs[ID_LEN + 1] = "";
        int p[2];
        pid_t pid;

        (void)state;
        id_make(mine);
        assert_int_equal(pipe(p), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                id_make(mine);
                _exit(write(p[1], mine, sizeof(mine)) == (ssize_t)sizeof(mine) ? 0 : 1);
        }
        id_make(mine);
        assert_int_equal(read(p[0], theirs, sizeof(theirs)), sizeof(theirs));
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_true(id_valid(theirs));
        assert_string_not_equal(mine + 10, theirs + 10);
        close(p[0]);
        close(p[1]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),
                cmocka_unit_test(test_valid),
                cmocka_unit_test(test_fork),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
