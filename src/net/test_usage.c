#include "net/usage.h"

#include "base/str.h"
#include "base/test_skip.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static void check_path(const char *own, const char *cgroup, const char *want)
{
        char path[64];

        assert_int_equal(usage_path(own, cgroup, path, sizeof(path)), want != NULL);
        if (want)
                assert_string_equal(path, want);
}

static void paths(void **state)
{
        (void)state;
        check_path("0::/system.slice/netd.service\n", "l.service", "/system.slice/l.service");
        check_path("12:cpu:/x\n1:name=systemd:/y\n0::/a/b/c\n", "d", "/a/b/d");
        check_path("0::/\n", "d", "/d");
        check_path("0::/a", "d", "/d");
        check_path("0::/a\n", "/b/c", "/b/c");
        check_path("", "/b/c", "/b/c");
        check_path("", "d", NULL);
        check_path("1:cpu:/x\n", "d", NULL);
        check_path("0::/a/b\n", "123456789012345678901234567890123456789012345678901234567890123", NULL);
}

static char dir[128];

/* Whatever the test came to: its process has died, or dies with this one. */
static int remove_cgroup(void **state)
{
        (void)state;
        return dir[0] && access(dir, F_OK) == 0 ? rmdir(dir) : 0;
}

static void populated(void **state)
{
        char name[64], procs[160];
        FILE *f;
        pid_t pid;

        (void)state;
        assert_false(usage_is_any("/mayfly-there-is-no-such-cgroup"));
        (void)snprintf(name, sizeof(name), "/mayfly-usagetest-%d", (int)getpid());
        (void)snprintf(dir, sizeof(dir), "%s%s", usage_root(), name);
        (void)snprintf(procs, sizeof(procs), "%s/cgroup.procs", dir);
        if (mkdir(dir, 0755) < 0)
                skip_because("no cgroup of version 2 can be made here");
        pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)pause();
                _exit(0);
        }
        assert_true(pid > 0);
        assert_false(usage_is_any(name));
        f = fopen(procs, "we");
        assert_non_null(f);
        assert_true(fprintf(f, "%d\n", (int)pid) > 0);
        assert_int_equal(fclose(f), 0);
        assert_true(usage_is_any(name));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_false(usage_is_any(name));
        assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(paths),
                cmocka_unit_test_teardown(populated, remove_cgroup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
