#include "launcher/janitor.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <setjmp.h>

#include <cmocka.h>

static void close_something(struct janitor *j)
{
        int fds[2], *both[] = { &fds[0], &fds[1] };

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        janitor_close(j, both, 2);
        assert_int_equal(fds[0], -EBADF);
        assert_int_equal(fds[1], -EBADF);
}

static void test_stop(void **state)
{
        struct janitor j = JANITOR_NONE;
        pid_t pid;

        (void)state;
        janitor_stop(&j);
        assert_int_equal(janitor_start(&j, NULL), 0);
        pid = j.pid;
        close_something(&j);
        janitor_stop(&j);
        assert_int_equal(waitpid(pid, NULL, WNOHANG), -1);
}

/* One that does nothing any more is not waited for. */
static void test_stop_of_a_stopped_one(void **state)
{
        struct janitor j = JANITOR_NONE;
        pid_t pid;

        (void)state;
        assert_int_equal(janitor_start(&j, NULL), 0);
        pid = j.pid;
        assert_int_equal(kill(pid, SIGSTOP), 0);
        assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
        close_something(&j);
        janitor_stop(&j);
        assert_int_equal(waitpid(pid, NULL, WNOHANG), -1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_stop),
                cmocka_unit_test(test_stop_of_a_stopped_one),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
