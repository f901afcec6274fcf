/* The tests: first those that are a row of a table, then those that need more. */

#include "base/time.h"
#include "harness.h"
#include "pattern.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (INT64_C(1) << 20)
#define STREAM_BYTES (10 * MIB)

static uint64_t out_number(const struct job *j)
{
        return j->out[0] ? strtoull((const char *)j->out[0], NULL, 10) : 0;
}

static bool pattern_is(const struct job *j, int stream, size_t len)
{
        if (j->len[stream] != len)
                return false;
        for (size_t i = 0; i < len; i++)
                if (j->out[stream][i] != pattern_byte(i, (unsigned)stream))
                        return false;
        return true;
}

/* ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct row {
        const char *what;
        const char *args[8];
        struct expect expect;
        const char *out, *err; /* NULL: whatever */
        bool init;
        const char *user, *workdir;
        enum wire_network network;
        uint32_t features; /* of the engine, without which it is skipped */
        const char *found; /* what is skipped where the engine says so of its host */
};

static const struct row rows[] = {
        { "nothing written", { "exit", "0" }, { WIRE_EXITED, 0, 0, WIRE_REASON_NONE }, "", "", .init = false },
        { "a shell",
          { "/bin/sh", "-c", "echo out; echo err >&2; exit 3" },
          { WIRE_EXITED, 3, 0, WIRE_REASON_NONE },
          "out\n",
          "err\n",
          .init = false },
        { "the path is searched",
          { "/bin/sh", "-c", "helper exit 4" },
          { WIRE_EXITED, 4, 0, WIRE_REASON_NONE },
          "",
          "",
          .init = false },
        { "no such command",
          { "/bin/nothing-here" },
          { WIRE_FAILED, 127, 0, WIRE_REASON_COMMAND_NOT_FOUND },
          "",
          "",
          .init = false },
        { "no such command, with init",
          { "/bin/nothing-here" },
          { WIRE_FAILED, 127, 0, WIRE_REASON_COMMAND_NOT_FOUND },
          "",
          "",
          .init = true },
        { "not executable",
          { "/etc/passwd" },
          { WIRE_FAILED, 126, 0, WIRE_REASON_COMMAND_NOT_EXECUTABLE },
          "",
          "",
          .init = false },
        { "not executable, with init",
          { "/etc/passwd" },
          { WIRE_FAILED, 126, 0, WIRE_REASON_COMMAND_NOT_EXECUTABLE },
          "",
          "",
          .init = true },
        { "a directory",
          { "/etc" },
          { WIRE_FAILED, 126, 0, WIRE_REASON_COMMAND_NOT_EXECUTABLE },
          "",
          "",
          .init = false },
        { "closed output", { "close" }, { WIRE_EXITED, 7, 0, WIRE_REASON_NONE }, "", "", .init = false },
        { "exit 139 is no signal",
          { "exit", "139" },
          { WIRE_EXITED, 139, 0, WIRE_REASON_NONE },
          "",
          "",
          .init = false },
        { "double fork and setsid",
          { "escape" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "left one behind\n",
          "",
          .init = false },
        { "double fork and setsid, with init",
          { "escape" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "left one behind\n",
          "",
          .init = true },
        { "background process holds stdout",
          { "hold" },
          { WIRE_EXITED, 3, 0, WIRE_REASON_NONE },
          "held\n",
          "",
          .init = false },
        { "background process holds stdout, with init",
          { "hold" },
          { WIRE_EXITED, 3, 0, WIRE_REASON_NONE },
          "held\n",
          "",
          .init = true },
        { "standard streams reopened by another user",
          { "reopen", "1234" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "out",
          "err",
          .features = ENGINE_F_REOPEN },
        { "three descriptors", { "count-fds" }, { WIRE_EXITED, 0, 0, WIRE_REASON_NONE }, "3\n", "", .init = false },
        { "three descriptors, with init",
          { "count-fds" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "3\n",
          "",
          .init = true },
        { "user by name",
          { "/bin/sh", "-c", "id -u; id -g" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "65534\n65534\n",
          "",
          .user = "nobody" },
        { "user by number",
          { "/bin/sh", "-c", "id -u; id -g" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "1000\n1001\n",
          "",
          .user = "1000:1001" },
        { "home of the user",
          { "/bin/sh", "-c", "echo $HOME" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "/root\n",
          "",
          .init = false },
        { "working directory is made",
          { "/bin/sh", "-c", "pwd" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "/new/place\n",
          "",
          .workdir = "/new/place" },
        { "its own processes only",
          { "/bin/sh", "-c", "ls -d /proc/[0-9]* | wc -l" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          NULL,
          "",
          .init = false },
        { "environment of the image",
          { "/bin/sh", "-c", "echo $FROM_IMAGE" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "yes\n",
          "",
          .init = false },
        { "hostname is in hosts",
          { "/bin/sh", "-c", "grep -qw \"$(hostname)\" /etc/hosts && [ $(hostname) = $HOSTNAME ]" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "",
          "",
          .init = false },
        { "hostname is in hosts, without a network",
          { "/bin/sh", "-c", "grep -w \"$(hostname)\" /etc/hosts | grep -q ^127.0.0.1" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "",
          "",
          .network = WIRE_NET_NONE },
        { "no control group but its own",
          { "/bin/sh", "-c", "cut -d: -f3- /proc/self/cgroup | sort -u" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "/\n",
          "",
          .found = "the host's control groups" },
        { "network none: only lo",
          { "/bin/sh", "-c", "ls /sys/class/net" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "lo\n",
          "",
          .network = WIRE_NET_NONE },
        { "network nat: lo is up",
          { "/bin/sh", "-c", "ip addr show lo | grep -c 127.0.0.1" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "1\n",
          "",
          .network = WIRE_NET_NAT },
        { "network internet: a second link",
          { "/bin/sh", "-c", "ls /sys/class/net | wc -l" },
          { WIRE_EXITED, 0, 0, WIRE_REASON_NONE },
          "2\n",
          "",
          .network = WIRE_NET_INTERNET },
};

static void run_row(struct suite *s, const struct row *row)
{
        struct job j;

        job_init(&j, row->args);
        j.request.init = row->init;
        j.request.network = row->network;
        if (row->user)
                j.request.user = strdup(row->user);
        if (row->workdir)
                j.request.workdir = strdup(row->workdir);
        job_run(s, &j);
        if (j.ended) {
                unsigned before = s->bad;

                job_expect(s, &j, &row->expect);
                if (row->out && !job_out_is(&j, 0, row->out))
                        suite_fail(s, "stdout is '%.200s'", (const char *)j.out[0]);
                if (row->err && !job_out_is(&j, 1, row->err))
                        suite_fail(s, "stderr is '%.200s'", (const char *)j.out[1]);
                if (s->bad != before)
                        printf("  in the row '%s'\n", row->what);
        }
        job_done(&j);
}

static void test_rows(struct suite *s)
{
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
                if (rows[i].features & ~s->engine->ops->features)
                        printf("skip - the row '%s': the engine lacks it\n", rows[i].what);
                else if (suite_found(s, rows[i].found))
                        printf("skip - the row '%s': the engine says so of its host\n", rows[i].what);
                else
                        run_row(s, &rows[i]);
}

/* ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_exit_codes(struct suite *s)
{
        for (int code = 0; code < 256; code += s->sample ? 17 : 1) {
                char text[8];
                struct job j;

                (void)snprintf(text, sizeof(text), "%d", code);
                JOB_INIT(&j, "exit", text);
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, code, 0, WIRE_REASON_NONE);
                job_done(&j);
        }
}

static bool ends_a_process(int signo)
{
        switch (signo) {
        case SIGCHLD:
        case SIGCONT:
        case SIGURG:
        case SIGWINCH:
        case SIGSTOP:
        case SIGTSTP:
        case SIGTTIN:
        case SIGTTOU:
        case 32: /* the C library's own */
        case 33:
                return false;
        default:
                return true;
        }
}

static void test_signals(struct suite *s)
{
        for (int signo = 1; signo <= 64; signo++) {
                char text[8];
                struct job j;

                if (!ends_a_process(signo))
                        continue;
                (void)snprintf(text, sizeof(text), "%d", signo);
                JOB_INIT(&j, "signal", text);
                j.request.init = true;
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, 128 + signo, signo, WIRE_REASON_SIGNAL);
                job_done(&j);
        }
}

static void test_image_command(struct suite *s)
{
        struct job j;

        job_init(&j, (const char *const[]){ NULL });
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 42, 0, WIRE_REASON_NONE);
        job_done(&j);
        /* An entrypoint puts the image's command out of force. */
        job_init(&j, (const char *const[]){ NULL });
        (void)strv_add(&j.request.entrypoint, "/bin/helper");
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 120, 0, WIRE_REASON_NONE);
        job_done(&j);
}

static void test_environment(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c", "echo $FROM_IMAGE $OVERRIDDEN $EMPTY. $PATH");
        (void)strv_add(&j.request.env, "OVERRIDDEN=yes");
        (void)strv_add(&j.request.env, "EMPTY=");
        job_run(s, &j);
        CHECK(s, job_out_is(&j, 0, "yes yes . /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"), "%s",
              (const char *)j.out[0]);
        job_done(&j);
}

static void test_no_image(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "exit", "0");
        free(j.request.image);
        j.request.image = strdup("nowhere/nothing:1");
        j.request.pull = WIRE_PULL_NEVER; /* no registry is there to be asked */
        job_run(s, &j);
        EXPECT(s, &j, WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_NOT_FOUND);
        job_done(&j);
}

static void test_no_user(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "exit", "0");
        j.request.user = strdup("nobody-of-that-name");
        job_run(s, &j);
        EXPECT(s, &j, WIRE_FAILED, -1, 0, WIRE_REASON_START_ERROR);
        job_done(&j);
}

static void test_files(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c", "cat a/b/c; stat -c %a:%u a/b/c; cat /abs; ./run");
        j.request.workdir = strdup("/work");
        j.request.user = strdup("1000");
        j.request.n_files = 3;
        j.request.files = calloc(3, sizeof(*j.request.files));
        j.request.files[0] = (struct wire_file){
                .path = strdup("a/b/c"), .content = strdup("content\n"), .len = 8, .mode = 0640
        };
        j.request.files[1] = (struct wire_file){
                .path = strdup("/abs"), .content = strdup("absolute\n"), .len = 9, .mode = 0644
        };
        j.request.files[2] = (struct wire_file){
                .path = strdup("run"), .content = strdup("#!/bin/sh\necho ran\n"), .len = 19, .mode = 0755
        };
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, job_out_is(&j, 0, "content\n640:1000\nabsolute\nran\n"), "%s", (const char *)j.out[0]);
        job_done(&j);
}

/* ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_both_streams(struct suite *s)
{
        char text[24];
        struct job j;

        (void)snprintf(text, sizeof(text), "%lld", (long long)STREAM_BYTES);
        JOB_INIT(&j, "both", text);
        j.request.limits.output = STREAM_BYTES;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, pattern_is(&j, 0, STREAM_BYTES), "%zu bytes", j.len[0]);
        CHECK(s, pattern_is(&j, 1, STREAM_BYTES), "%zu bytes", j.len[1]);
        CHECK(s, !j.result.truncated, "truncated");
        job_done(&j);
}

static void test_binary_output(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "bytes");
        job_run(s, &j);
        CHECK(s, j.len[0] == 256, "%zu bytes", j.len[0]);
        for (size_t i = 0; i < j.len[0]; i++)
                CHECK(s, j.out[0][i] == i, "at %zu", i);
        job_done(&j);
}

static void test_stdin(struct suite *s)
{
        unsigned char *data = malloc(STREAM_BYTES);
        struct job j;

        pattern_fill(data, STREAM_BYTES, 0, 0);
        JOB_INIT(&j, "cat");
        j.request.limits.output = STREAM_BYTES;
        job_stdin(&j, data, STREAM_BYTES);
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, pattern_is(&j, 0, STREAM_BYTES), "%zu bytes", j.len[0]);
        job_done(&j);
        JOB_INIT(&j, "exit", "5"); /* never read */
        job_stdin(&j, data, STREAM_BYTES);
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 5, 0, WIRE_REASON_NONE);
        job_done(&j);
        JOB_INIT(&j, "cat"); /* none: end of file */
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, j.len[0] == 0, "%zu bytes", j.len[0]);
        job_done(&j);
        JOB_INIT(&j, "/bin/sh", "-c", "cat /dev/stdin");
        j.request.user = strdup("4321");
        job_stdin(&j, "by name", 7);
        job_run(s, &j);
        CHECK(s, job_out_is(&j, 0, "by name"), "%s", (const char *)j.out[1]);
        job_done(&j);
        free(data);
}

/* ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_timeout(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c", "echo so far; sleep 60");
        j.request.limits.timeout_ns = 300 * (int64_t)NS_PER_MS;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_TIMEOUT);
        CHECK(s, job_out_is(&j, 0, "so far\n"), "%s", (const char *)j.out[0]);
        job_done(&j);
}

static void test_stubborn(struct suite *s)
{
        static const char *const deeds[] = { "stop", "ignore", "pdeathsig" };

        for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++)
                for (int init = 0; init < 2; init++) {
                        struct job j;

                        JOB_INIT(&j, deeds[i]);
                        j.request.init = init;
                        j.request.limits.timeout_ns = 300 * (int64_t)NS_PER_MS;
                        job_run(s, &j);
                        /* A first process of its pid namespace does not stop itself: it then sleeps. */
                        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_TIMEOUT);
                        CHECK(s, j.len[0] > 0, "%s wrote nothing", deeds[i]);
                        job_done(&j);
                }
}

static void test_cancel(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "term");
        j.request.limits.grace_ns = 5 * (int64_t)NS_PER_S;
        job_start(s, &j);
        job_hear(s, &j);
        job_cancel(s, &j);
        job_wait(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 143, SIGTERM, WIRE_REASON_CANCELLED);
        CHECK(s, job_out_is(&j, 0, "waiting\nterm\n"), "%s", (const char *)j.out[0]);
        job_done(&j);
        JOB_INIT(&j, "ignore");
        j.request.limits.grace_ns = 200 * (int64_t)NS_PER_MS;
        job_start(s, &j);
        job_hear(s, &j);
        job_cancel(s, &j);
        job_wait(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_CANCELLED);
        job_done(&j);
        JOB_INIT(&j, "sleep", "60000");
        job_start(s, &j);
        job_cancel(s, &j); /* at once: it may not even have started */
        job_wait(s, &j);
        CHECK(s, j.result.status == WIRE_KILLED && j.result.reason == WIRE_REASON_CANCELLED, "%d", j.result.status);
        job_done(&j);
}

static void test_memory(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "memory", "268435456");
        j.request.limits.memory = 32 * MIB;
        j.request.limits.disk = j.request.limits.shm = 4 * MIB;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OOM);
        job_done(&j);
        /* Not only the process that asked for it dies. */
        JOB_INIT(&j, "/bin/sh", "-c", "helper memory 268435456; echo survived; sleep 60");
        j.request.limits.memory = 32 * MIB;
        j.request.limits.disk = j.request.limits.shm = 4 * MIB;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OOM);
        job_done(&j);
}

static void test_disk(struct suite *s)
{
        static const char *const deeds[][3] = {
                { "disk", "/tmp/file", "67108864" },
                { "inodes", NULL, NULL },
        };

        for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++) {
                struct job j;

                job_init(&j, (const char *const[]){ deeds[i][0], deeds[i][1], deeds[i][2], NULL });
                j.request.limits.disk = 8 * MIB;
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, 28, 0, WIRE_REASON_DISK_LIMIT);
                job_done(&j);
        }
        for (int i = 0; i < 2; i++) {
                struct job j;

                JOB_INIT(&j, "disk", i ? "/dev/shm/file" : "/tmp/file", "3145728");
                j.request.limits.disk = j.request.limits.shm = 4 * MIB;
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
                job_done(&j);
        }
}

static void test_shm(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "disk", "/dev/shm/file", "67108864");
        j.request.limits.shm = 4 * MIB;
        job_run(s, &j);
        CHECK(s, j.result.exit_code == 28, "exit code %d", j.result.exit_code);
        job_done(&j);
}

static void test_pids(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "forks");
        j.request.limits.pids = 20;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, out_number(&j) == 19, "%s", (const char *)j.out[0]);
        job_done(&j);
}

static void test_fork_bomb(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "bomb");
        j.request.limits.pids = 64;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, out_number(&j) < 64, "%s", (const char *)j.out[0]);
        job_done(&j);
}

static void test_cpus(struct suite *s)
{
        struct job j;

        /* A tenth of a processor: 100 ms of it take most of a second. */
        JOB_INIT(&j, "cpu", "100");
        j.request.limits.cpu_milli = 100;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, j.result.run_ns > 400 * (int64_t)NS_PER_MS, "%lld ns", (long long)j.result.run_ns);
        job_done(&j);
}

static void test_output_cut(struct suite *s)
{
        char text[24];
        struct job j;

        (void)snprintf(text, sizeof(text), "%lld", (long long)STREAM_BYTES);
        JOB_INIT(&j, "both", text);
        j.request.limits.output = 100001;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        for (int i = 0; i < 2; i++) {
                CHECK(s, pattern_is(&j, i, 100001), "%zu bytes", j.len[i]);
                CHECK(s, j.result.out_total[i] == STREAM_BYTES, "%llu", (unsigned long long)j.result.out_total[i]);
        }
        CHECK(s, j.result.truncated, "not truncated");
        job_done(&j);
        JOB_INIT(&j, "/bin/sh", "-c", "printf 12345; printf 1234 >&2");
        j.request.limits.output = 4;
        job_run(s, &j);
        CHECK(s, job_out_is(&j, 0, "1234") && job_out_is(&j, 1, "1234"), "%s", (const char *)j.out[0]);
        CHECK(s, j.result.truncated && j.result.out_total[0] == 5 && j.result.out_total[1] == 4, "counts");
        job_done(&j);
}

static void test_output_kill(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "flood");
        j.request.limits.output = 3 * MIB + 1;
        j.request.kill_on_output_limit = true;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OUTPUT_LIMIT);
        CHECK(s, pattern_is(&j, 0, (size_t)(3 * MIB + 1)), "%zu bytes", j.len[0]);
        CHECK(s, j.result.truncated, "not truncated");
        job_done(&j);
        JOB_INIT(&j, "/bin/sh", "-c", "printf 12345");
        j.request.limits.output = 4;
        j.request.kill_on_output_limit = true;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OUTPUT_LIMIT);
        CHECK(s, job_out_is(&j, 0, "1234"), "%s", (const char *)j.out[0]);
        job_done(&j);
}

static void test_queue_timeout(struct suite *s)
{
        struct job big, j;
        int64_t half = 0;

        /* The first takes more than half of what can be promised, so the second has to wait. */
        for (half = INT64_C(1) << 50; half > 0; half /= 2) {
                struct err err = ERR_INIT;
                const struct task_submit how = { .owner = s->owner };
                int r;

                JOB_INIT(&big, "sleep", "2000");
                big.request.limits.memory = half;
                r = tasks_submit(s->tasks, &big.request, &how, NULL, &big.task, &err);
                if (r == 0)
                        break;
                job_done(&big);
        }
        JOB_INIT(&j, "exit", "0");
        j.request.limits.memory = half;
        j.request.limits.queue_timeout_ns = 200 * (int64_t)NS_PER_MS;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_FAILED, -1, 0, WIRE_REASON_QUEUE_TIMEOUT);
        job_done(&j);
        job_cancel(s, &big);
        big.task = NULL;
        job_done(&big);
        suite_settle(s);
}

/* ── nothing is handed on ────────────────────────────────────────────────────────────────────────────────────────── */

/* More often than there can be namespaces in stock, so that some are used again. */
#define AGAIN 20

static void test_time_wait(struct suite *s)
{
        for (int i = 0; i < AGAIN; i++) {
                struct job j;

                JOB_INIT(&j, "timewait", "7777");
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
                job_done(&j);
        }
}

static void test_sysctls(struct suite *s)
{
        for (int i = 0; i < AGAIN; i++) {
                struct job j;

                /* Whether the write succeeds or not, the next one must not see it. */
                JOB_INIT(&j, "/bin/sh", "-c",
                         "cat /proc/sys/net/ipv4/tcp_keepalive_time; "
                         "helper write-file /proc/sys/net/ipv4/tcp_keepalive_time 4242; :");
                job_run(s, &j);
                CHECK(s, out_number(&j) != 4242 && out_number(&j) > 0, "%s", (const char *)j.out[0]);
                job_done(&j);
        }
}

static void test_usage_starts_at_zero(struct suite *s)
{
        for (int i = 0; i < 3; i++) {
                struct job j;
                int64_t large;

                JOB_INIT(&j, "/bin/sh", "-c", "helper memory 134217728; helper cpu 500");
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
                CHECK(s, j.result.memory_peak >= 128 * MIB, "%lld", (long long)j.result.memory_peak);
                CHECK(s, j.result.cpu_ns >= 500 * (int64_t)NS_PER_MS, "%lld", (long long)j.result.cpu_ns);
                large = j.result.cpu_ns;
                job_done(&j);
                JOB_INIT(&j, "exit", "0");
                job_run(s, &j);
                CHECK(s, j.result.memory_peak > 0 && j.result.memory_peak < 16 * MIB, "%lld",
                      (long long)j.result.memory_peak);
                CHECK(s, j.result.cpu_ns > 0 && j.result.cpu_ns < large / 2, "%lld after %lld",
                      (long long)j.result.cpu_ns, (long long)large);
                job_done(&j);
        }
}

static void test_files_are_gone(struct suite *s)
{
        for (int i = 0; i < 3; i++) {
                struct job j;

                JOB_INIT(&j, "/bin/sh", "-c",
                         "ls /mark /tmp/mark /dev/shm/mark 2>/dev/null | wc -l; "
                         "touch /mark /tmp/mark /dev/shm/mark");
                job_run(s, &j);
                CHECK(s, job_out_is(&j, 0, "0\n"), "%s", (const char *)j.out[0]);
                job_done(&j);
        }
}

/* ── many ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_in_a_row(struct suite *s)
{
        for (int i = 0; i < (s->sample ? 30 : 1000) && !s->bad; i++) {
                struct job j;
                char text[16];

                (void)snprintf(text, sizeof(text), "%d", i % 256);
                JOB_INIT(&j, "exit", text);
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, i % 256, 0, WIRE_REASON_NONE);
                job_done(&j);
        }
        suite_settle(s);
}

#define AT_ONCE 200

static void test_at_once(struct suite *s)
{
        static struct job jobs[AT_ONCE];
        static const char *const owners[] = { "conformance", "second", "third", "fourth" };
        unsigned most = 0, n = s->sample ? 16 : AT_ONCE;

        for (int i = 0; (unsigned)i < n; i++) {
                char text[32];

                (void)snprintf(text, sizeof(text), "echo %d; sleep 1", i);
                JOB_INIT(&jobs[i], "/bin/sh", "-c", text);
                jobs[i].request.limits.memory = 16 * MIB;
                jobs[i].request.limits.disk = jobs[i].request.limits.shm = MIB;
                jobs[i].request.limits.pids = 8;
                s->owner = owners[i % 4];
                job_start(s, &jobs[i]);
        }
        s->owner = owners[0];
        for (int i = 0; (unsigned)i < n; i++) {
                unsigned live = 0;

                for (int k = 0; (unsigned)k < n; k++)
                        live += !jobs[k].ended;
                most = MAX(most, live);
                job_wait(s, &jobs[i]);
        }
        CHECK(s, most == n, "%u", most);
        for (int i = 0; (unsigned)i < n; i++) {
                EXPECT(s, &jobs[i], WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
                CHECK(s, out_number(&jobs[i]) == (uint64_t)i, "%s", (const char *)jobs[i].out[0]);
                job_done(&jobs[i]);
        }
        suite_settle(s);
}

const struct test tests[] = {
        { "rows", test_rows, 0, NULL, NULL },
        { "exit codes 0 to 255", test_exit_codes, 0, NULL, NULL },
        { "death by each signal", test_signals, ENGINE_F_SIGNAL_EXACT, "the exact signal", NULL },
        { "command of the image", test_image_command, 0, NULL, NULL },
        { "environment", test_environment, 0, NULL, NULL },
        { "no such image", test_no_image, 0, NULL, NULL },
        { "no such user", test_no_user, 0, NULL, NULL },
        { "files", test_files, 0, NULL, NULL },
        { "files of an archive", test_archive, 0, NULL, NULL },
        { "files brought back", test_outputs, ENGINE_F_COPY_OUT, "copying out", NULL },
        { "too much to bring back", test_outputs_bound, ENGINE_F_COPY_OUT, "copying out", NULL },
        { "secrets", test_secrets, ENGINE_F_SECRETS, "secrets", NULL },
        { "labels", test_labels, 0, NULL, NULL },
        { "retries", test_retries, 0, NULL, NULL },
        { "CPU time", test_cpu_time, ENGINE_F_CPU_USAGE, "usage", NULL },
        { "grace", test_grace, 0, NULL, NULL },
        { "a signal", test_signal, 0, NULL, NULL },
        { "a follower", test_follow, 0, NULL, NULL },
        { "live stdin and output", test_live, ENGINE_F_LIVE, "live streams", NULL },
        { "a live reader that is slow", test_live_slow, ENGINE_F_LIVE, "live streams", NULL },
        { "10 MB on both streams", test_both_streams, 0, NULL, NULL },
        { "binary output", test_binary_output, 0, NULL, NULL },
        { "stdin of 10 MB, read or not", test_stdin, 0, NULL, NULL },
        { "timeout with the output so far", test_timeout, 0, NULL, NULL },
        { "tasks that stop themselves, ignore SIGTERM, clear PDEATHSIG", test_stubborn, 0, NULL, NULL },
        { "cancel", test_cancel, 0, NULL, NULL },
        { "memory hog", test_memory, 0, NULL, "want of memory" },
        { "disk hog", test_disk, ENGINE_F_DISK_LIMIT, "a limit of the disk", NULL },
        { "shared memory", test_shm, 0, NULL, NULL },
        { "number of processes", test_pids, 0, NULL, NULL },
        { "fork bomb", test_fork_bomb, 0, NULL, NULL },
        { "processor share", test_cpus, 0, NULL, NULL },
        { "output flood, cut", test_output_cut, 0, NULL, NULL },
        { "output flood, killed", test_output_kill, 0, NULL, NULL },
        { "queue timeout", test_queue_timeout, 0, NULL, NULL },
        { "no neighbour is reached", test_neighbours, ENGINE_F_NETWORK_RULES, "rules of its own for networks", NULL },
        { "this host is not reached", test_host_addresses, ENGINE_F_NETWORK_RULES, "rules of its own for networks",
          NULL },
        { "TIME_WAIT is not handed on", test_time_wait, 0, NULL, NULL },
        { "sysctls are not handed on", test_sysctls, 0, NULL, NULL },
        { "usage starts at zero", test_usage_starts_at_zero, ENGINE_F_MEMORY_PEAK | ENGINE_F_CPU_USAGE, "usage", NULL },
        { "files are not handed on", test_files_are_gone, 0, NULL, NULL },
        { "1,000 in a row", test_in_a_row, 0, NULL, NULL },
        { "200 at once", test_at_once, 0, NULL, NULL },
};
const size_t n_tests = sizeof(tests) / sizeof(tests[0]);
