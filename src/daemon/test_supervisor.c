/* Each case runs a supervisor in a process of its own over small shell programs, which write what happens to a pipe. */
#include "daemon/supervisor.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/test_skip.h"
#include "base/time.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 20000

struct run {
        pid_t pid;
        int out; /* what the children and the supervisor write */
        struct str seen;
        const char *scripts[4];
        bool ready_pipe[4];
};

static void say(int fd, const char *text)
{
        (void)!write(fd, text, strlen(text));
}

static void on_ready(void *data)
{
        say(*(int *)data, "READY\n");
}

/* The scripts write to descriptor 3; readiness is on 4. */
static void supervise(struct run *run, int out)
{
        struct supervisor s;
        struct err err = ERR_INIT;
        int r;

        log_set_level(LOG_LEVEL_ERROR);
        r = supervisor_init(&s, &err);
        s.ready = on_ready;
        s.data = &out;
        for (size_t i = 0; run->scripts[i] && r == 0; i++) {
                char **argv = NULL;

                if (strv_add(&argv, "/bin/sh") < 0 || strv_add(&argv, "-c") < 0 || strv_add(&argv, run->scripts[i]) < 0)
                        _exit(99);
                r = supervisor_add(&s,
                                   &(struct child_spec){ .name = "sh",
                                                         .argv = argv,
                                                         .fds = { out },
                                                         .ready_pipe = run->ready_pipe[i],
                                                         .death_signal = SIGKILL,
                                                         .stop_ms = 300 },
                                   &err);
        }
        if (r == 0)
                r = supervisor_run(&s, &err);
        for (size_t i = 0; i < s.n; i++)
                strv_free(s.children[i].spec.argv);
        supervisor_done(&s);
        _exit(r < 0 ? 1 : 0);
}

static void run_start(struct run *run)
{
        int out[2];

        assert_int_equal(pipe(out), 0);
        run->pid = fork();
        assert_true(run->pid >= 0);
        if (run->pid == 0) {
                close(out[0]);
                supervise(run, out[1]);
        }
        close(out[1]);
        run->out = out[0];
}

/* Reads until `text` was written `times` times, or the end. */
static bool run_await(struct run *run, const char *text, unsigned times)
{
        uint64_t until = time_mono_ns() + PATIENCE_MS * NS_PER_MS;

        while (time_mono_ns() < until) {
                struct pollfd p = { .fd = run->out, .events = POLLIN };
                const char *at = run->seen.data ? run->seen.data : "";
                char piece[256];
                unsigned n = 0;
                ssize_t len;

                for (at = strstr(at, text); at; at = strstr(at + 1, text))
                        n++;
                if (n >= times)
                        return true;
                if (poll(&p, 1, 100) <= 0)
                        continue;
                len = read(run->out, piece, sizeof(piece));
                if (len <= 0)
                        return false;
                assert_int_equal(str_add(&run->seen, piece, (size_t)len), 0);
        }
        return false;
}

static int run_end(struct run *run)
{
        int status = -1;

        assert_int_equal(waitpid(run->pid, &status, 0), run->pid);
        (void)run_await(run, "no such text", 1); /* to the end of file: nobody holds the pipe any more */
        close(run->out);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *seen(const struct run *run, const char *text)
{
        return run->seen.data ? strstr(run->seen.data, text) : NULL;
}

#define LOOP "while :; do sleep 0.05; done"

static void test_stops_in_reverse_order(void **state)
{
        struct run run = { .scripts = { "trap 'echo a ends >&3; exit 0' TERM; echo a >&3; " LOOP,
                                        "trap 'echo b ends >&3; exit 0' TERM; echo b >&3; echo x >&4; " LOOP },
                           .ready_pipe = { false, true } };

        (void)state;
        run_start(&run);
        assert_true(run_await(&run, "READY", 1));
        assert_true(run_await(&run, "a\n", 1));
        assert_int_equal(kill(run.pid, SIGTERM), 0);
        assert_int_equal(run_end(&run), 0);
        assert_non_null(seen(&run, "b ends\na ends\n"));
        str_done(&run.seen);
}

static void test_restarts_what_dies(void **state)
{
        struct run run = { .scripts = { "echo up >&3; echo x >&4; sleep 0.1; kill -9 $$" }, .ready_pipe = { true } };

        (void)state;
        run_start(&run);
        assert_true(run_await(&run, "up", 4));
        assert_int_equal(kill(run.pid, SIGINT), 0);
        assert_int_equal(run_end(&run), 0);
        str_done(&run.seen);
}

static void test_gives_up_before_ready(void **state)
{
        struct run run = { .scripts = { "trap 'echo a ends >&3; exit 0' TERM; echo a >&3; " LOOP, "sleep 0.3; exit 3" },
                           .ready_pipe = { false, true } };

        (void)state;
        run_start(&run);
        assert_int_equal(run_end(&run), 1);
        assert_non_null(seen(&run, "a ends"));
        assert_null(seen(&run, "READY"));
        str_done(&run.seen);
}

static void test_missing_program(void **state)
{
        struct supervisor s;
        char *argv[] = { (char[]){ "/no/such/program" }, NULL };
        pid_t pid;
        int status;

        (void)state;
        pid = fork();
        if (pid == 0) {
                struct err err = ERR_INIT;
                bool said;

                said = supervisor_init(&s, &err) == 0 &&
                       supervisor_add(&s, &(struct child_spec){ .name = "x", .argv = argv, .death_signal = SIGKILL },
                                      &err) == 0 &&
                       supervisor_run(&s, &err) == -ENOENT && strstr(err.text, "/no/such/program");
                _exit(said ? 0 : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

/* One that ignores SIGTERM, and one of its own that left its session and ignores it too. */
static void test_leaves_nothing(void **state)
{
        struct run run = { .scripts = { "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo deep >&3; " LOOP
                                        "' & " LOOP } };

        (void)state;
        run_start(&run);
        assert_true(run_await(&run, "deep", 1));
        assert_int_equal(kill(run.pid, SIGTERM), 0);
        assert_int_equal(run_end(&run), 0);
        str_done(&run.seen);
}

static void test_ends_with_the_supervisor(void **state)
{
        struct run run = { .scripts = { "echo up >&3; " LOOP } };

        (void)state;
        run_start(&run);
        assert_true(run_await(&run, "up", 1));
        assert_int_equal(kill(run.pid, SIGKILL), 0);
        assert_int_equal(run_end(&run), -1);
        str_done(&run.seen);
}

static void test_drops_privileges(void **state)
{
        char *argv[] = { (char[]){ "/bin/sh" }, (char[]){ "-c" },
                         (char[]){ "grep -E 'Cap|NoNew|Groups|Uid' /proc/self/status >&3; ulimit -c >&3; " LOOP },
                         NULL };
        struct run run = { .out = -1 };
        int out[2];

        (void)state;
        skip_unless_root();
        assert_int_equal(pipe(out), 0);
        run.pid = fork();
        if (run.pid == 0) {
                struct child_spec spec = { .name = "sh",
                                           .argv = argv,
                                           .fds = { out[1] },
                                           .drop = true,
                                           .uid = 65534,
                                           .gid = 65534,
                                           .groups = { 1234 },
                                           .n_groups = 1,
                                           .death_signal = SIGKILL };
                struct supervisor s;

                (void)supervisor_init(&s, NULL);
                (void)supervisor_add(&s, &spec, NULL);
                _exit(supervisor_run(&s, NULL) < 0);
        }
        close(out[1]);
        run.out = out[0];
        assert_true(run_await(&run, "NoNewPrivs:\t1", 1));
        assert_true(run_await(&run, "\n0\n", 1));
        kill(run.pid, SIGTERM);
        assert_int_equal(run_end(&run), 0);
        assert_non_null(seen(&run, "Uid:\t65534\t65534\t65534\t65534"));
        assert_non_null(seen(&run, "Groups:\t1234 \n"));
        assert_non_null(seen(&run, "CapPrm:\t0000000000000000"));
        assert_non_null(seen(&run, "CapBnd:\t0000000000000000"));
        str_done(&run.seen);
}

static void test_kills_what_is_left_from_before(void **state)
{
        char text[128];
        pid_t stays, other;
        int status;

        (void)state;
        stays = fork();
        if (stays == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                execl("/bin/sleep", "sleep", "1000", NULL);
                _exit(1);
        }
        other = fork();
        if (other == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                execl("/bin/sleep", "sleep", "1000", NULL);
                _exit(1);
        }
        (void)poll(NULL, 0, 200); /* for exec */
        (void)snprintf(text, sizeof(text), "1\nsleep %d\nmayflyd %d\nsleep 1\nsleep\n", stays, other);
        supervisor_await_old(text, 50);
        assert_int_equal(waitpid(stays, &status, 0), stays);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        /* That pid is somebody else now, by its program's name. */
        assert_int_equal(waitpid(other, &status, WNOHANG), 0);
        kill(other, SIGKILL);
        assert_int_equal(waitpid(other, &status, 0), other);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_stops_in_reverse_order), cmocka_unit_test(test_restarts_what_dies),
                cmocka_unit_test(test_gives_up_before_ready),  cmocka_unit_test(test_missing_program),
                cmocka_unit_test(test_leaves_nothing),         cmocka_unit_test(test_ends_with_the_supervisor),
                cmocka_unit_test(test_drops_privileges),       cmocka_unit_test(test_kills_what_is_left_from_before),
        };

        return cmocka_run_group_tests_name("daemon/supervisor", tests, NULL, NULL);
}
