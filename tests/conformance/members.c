/* What a request can ask for beside a command: files, secrets, limits of their own kind, live streams. */

#include "base/tar.h"
#include "base/time.h"
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIB (INT64_C(1) << 20)

/* ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int to_str(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

static int put(struct tar_writer *w, enum tar_kind kind, const char *path, const char *text, uint32_t mode)
{
        const bool file = kind == TAR_KIND_FILE;
        const struct tar_member m = {
                .kind = kind,
                .path = path,
                .target = file || !text ? "" : text,
                .mode = mode,
                .size = file ? strlen(text) : 0,
        };
        int r = tar_write_member(w, &m);

        return r == 0 && file ? tar_write_content(w, text, strlen(text)) : r;
}

void test_archive(struct suite *s)
{
        auto_str tar = STR_INIT;
        struct tar_writer w = { .fn = to_str, .data = &tar };
        struct job j;

        CHECK(s, put(&w, TAR_KIND_DIRECTORY, "d", NULL, 0750) == 0, "directory");
        CHECK(s, put(&w, TAR_KIND_FILE, "d/f", "in the archive\n", 0640) == 0, "file");
        CHECK(s, put(&w, TAR_KIND_HARDLINK, "d/h", "d/f", 0) == 0, "hard link");
        CHECK(s, put(&w, TAR_KIND_SYMLINK, "l", "d/f", 0777) == 0, "symlink");
        CHECK(s, tar_write_end(&w) == 0, "end");
        JOB_INIT(&j, "/bin/sh", "-c", "cat l; cat d/h; stat -c %a:%u d d/f");
        j.request.workdir = strdup("/work");
        j.request.user = strdup("1000");
        j.request.n_files = 1;
        j.request.files = calloc(1, sizeof(*j.request.files));
        j.request.files[0] = (struct wire_file){ .path = strdup("."), .len = tar.len, .tar = true };
        j.request.files[0].content = str_take(&tar);
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, job_out_is(&j, 0, "in the archive\nin the archive\n750:1000\n640:1000\n"), "%s",
              (const char *)j.out[0]);
        job_done(&j);
}

static bool brought(const struct job *j, const char *text)
{
        return j->outputs && strstr(j->outputs, text);
}

void test_outputs(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c",
                 "echo result >out; mkdir d; echo x >d/x; ln -s /nowhere l; printf '\\377' >b; mkfifo p; exit 3");
        j.request.workdir = strdup("/work");
        for (const char *const *path = (const char *const[]){ "out", "/work/d", "l", "b", "none", "p",
                                                              "/proc/self/status", "../../../etc/hostname", NULL };
             *path; path++)
                (void)strv_add(&j.request.outputs, *path);
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 3, 0, WIRE_REASON_NONE);
        CHECK(s,
              brought(&j, "\"path\":\"out\",\"type\":\"file\",\"mode\":\"0644\",\"size\":7,\"encoding\":\"utf-8\","
                          "\"content\":\"result\\n\"}"),
              "%s", j.outputs);
        CHECK(s, brought(&j, "\"path\":\"/work/d\",\"type\":\"directory\",\"mode\":\"0755\","), "%s", j.outputs);
        CHECK(s, brought(&j, "\"path\":\"l\",\"type\":\"symlink\","), "%s", j.outputs);
        CHECK(s,
              brought(&j, "\"path\":\"b\",\"type\":\"file\",\"mode\":\"0644\",\"size\":1,\"encoding\":\"base64\","
                          "\"content\":\"/w==\"}"),
              "%s", j.outputs);
        CHECK(s, brought(&j, "{\"path\":\"none\",\"error\":\"not_found\"}"), "%s", j.outputs);
        CHECK(s, brought(&j, "{\"path\":\"p\",\"error\":\"not_supported\"}"), "%s", j.outputs);
        CHECK(s, brought(&j, "{\"path\":\"/proc/self/status\",\"error\":"), "%s", j.outputs);
        job_done(&j);
}

void test_outputs_bound(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c", "head -c 20971520 /dev/zero >a; cp a b; echo c >c");
        j.request.workdir = strdup("/work");
        for (const char *const *path = (const char *const[]){ "a", "b", "c", NULL }; *path; path++)
                (void)strv_add(&j.request.outputs, *path);
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, brought(&j, "\"size\":20971520,"), "the first one fits");
        CHECK(s, brought(&j, "{\"path\":\"b\",\"error\":\"too_large\"}"), "the second one does not");
        CHECK(s, brought(&j, "\"content\":\"c\\n\"}"), "a small one after it does");
        job_done(&j);
}

void test_secrets(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c",
                 "cd /run/secrets; cat TOKEN; stat -c %a:%u TOKEN; ls; stat -f -c %T .; "
                 "grep -c hidden /proc/self/environ");
        j.request.user = strdup("1000");
        j.request.secrets = calloc(2, sizeof(*j.request.secrets));
        j.request.secrets[0] = (struct wire_secret){ strdup("TOKEN"), strdup("hidden\n"), 7 };
        j.request.secrets[1] = (struct wire_secret){ strdup("b.key"), strdup("x"), 1 };
        j.request.n_secrets = 2;
        (void)strv_add(&j.request.outputs, "/run/secrets/TOKEN");
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 1, 0, WIRE_REASON_NONE);
        CHECK(s, job_out_is(&j, 0, "hidden\n400:1000\nTOKEN\nb.key\ntmpfs\n0\n"), "%s", (const char *)j.out[0]);
        CHECK(s, !brought(&j, "hidden"), "%s", j.outputs);
        job_done(&j);
}

/* ── labels and retries ──────────────────────────────────────────────────────────────────────────────────────────── */

struct listing {
        bool done;
        int r;
        unsigned tasks;
};

static void on_list(int r, const struct str *text, const struct err *err, void *data)
{
        struct listing *l = data;

        (void)err;
        l->done = true;
        l->r = r;
        if (r < 0 || !text->data)
                return;
        for (const char *at = text->data; (at = strstr(at, "{\"id\":")); at++)
                l->tasks++;
}

static unsigned count_label(struct suite *s, const char *label, const char *status)
{
        const struct history_query q = { .labels = { label }, .status = status, .limit = 100 };
        struct listing l = { .done = false };

        if (tasks_list(s->tasks, &q, on_list, &l, NULL) < 0)
                return 0;
        while (!l.done)
                suite_sleep(s, 10);
        return l.tasks;
}

void test_labels(struct suite *s)
{
        struct job live, ended;

        JOB_INIT(&ended, "exit", "0");
        (void)strv_add(&ended.request.labels, "suite=labels");
        job_run(s, &ended);
        suite_settle(s);
        JOB_INIT(&live, "sleep", "60");
        (void)strv_add(&live.request.labels, "suite=labels");
        job_start(s, &live);
        CHECK(s, count_label(s, "suite=labels", NULL) == 2, "%u", count_label(s, "suite=labels", NULL));
        CHECK(s, count_label(s, "suite=labels", "exited") == 1, "ended");
        CHECK(s, count_label(s, "suite=other", NULL) == 0, "another value");
        job_cancel(s, &live);
        job_wait(s, &live);
        job_done(&live);
        job_done(&ended);
}

/* An image that is not there is no reason to begin anew: nothing would be different. */
void test_retries(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "exit", "0");
        free(j.request.image);
        j.request.image = strdup("not-there:1");
        j.request.pull = WIRE_PULL_NEVER;
        j.request.retries = 3;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_NOT_FOUND);
        CHECK(s, j.result.attempts == 1, "%u", j.result.attempts);
        job_done(&j);
        JOB_INIT(&j, "exit", "3");
        j.request.retries = 3;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 3, 0, WIRE_REASON_NONE);
        CHECK(s, j.result.attempts == 1, "%u", j.result.attempts);
        job_done(&j);
}

/* ── limits and signals ──────────────────────────────────────────────────────────────────────────────────────────── */

void test_cpu_time(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c", "echo begun; while :; do :; done");
        j.request.limits.cpu_time_ns = 200 * (int64_t)NS_PER_MS;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_CPU_TIME);
        CHECK(s, job_out_is(&j, 0, "begun\n"), "%s", (const char *)j.out[0]);
        CHECK(s, j.result.cpu_ns >= 200 * (int64_t)NS_PER_MS, "%lld", (long long)j.result.cpu_ns);
        job_done(&j);
        /* Time alone is not CPU time. */
        JOB_INIT(&j, "/bin/sh", "-c", "sleep 0.5");
        j.request.limits.cpu_time_ns = 200 * (int64_t)NS_PER_MS;
        job_run(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        job_done(&j);
}

/* Until the program has said something. */
static void wait_output(struct suite *s, struct job *j, size_t len)
{
        char buf[64];

        for (int i = 0; i < 1000 && !j->ended; i++) {
                if (task_read_output(j->task, ENGINE_STDOUT, 0, buf, sizeof(buf)) >= (ssize_t)len)
                        return;
                suite_sleep(s, 10);
        }
        suite_fail(s, "it says nothing");
}

void test_grace(struct suite *s)
{
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        j.request.limits.grace_ns = 30 * (int64_t)NS_PER_S;
        job_start(s, &j);
        wait_output(s, &j, 3);
        job_cancel(s, &j);
        job_cancel(s, &j);
        job_wait(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 143, SIGTERM, WIRE_REASON_CANCELLED);
        CHECK(s, job_out_is(&j, 0, "up\nbye\n"), "%s", (const char *)j.out[0]);
        job_done(&j);
        JOB_INIT(&j, "/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done");
        j.request.limits.grace_ns = 100 * (int64_t)NS_PER_MS;
        job_start(s, &j);
        wait_output(s, &j, 3);
        job_cancel(s, &j);
        job_wait(s, &j);
        EXPECT(s, &j, WIRE_KILLED, 137, SIGKILL, WIRE_REASON_CANCELLED);
        job_done(&j);
}

void test_signal(struct suite *s)
{
        struct err err = ERR_INIT;
        struct job j;

        JOB_INIT(&j, "/bin/sh", "-c",
                 "trap 'echo usr1' USR1; trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done");
        job_start(s, &j);
        wait_output(s, &j, 3);
        CHECK(s, task_signal(j.task, SIGUSR1, &err) == 0, "%s", err.text);
        wait_output(s, &j, 8);
        CHECK(s, task_signal(j.task, SIGTERM, &err) == 0, "%s", err.text);
        job_wait(s, &j);
        EXPECT(s, &j, WIRE_EXITED, 9, 0, WIRE_REASON_NONE);
        CHECK(s, job_out_is(&j, 0, "up\nusr1\n"), "%s", (const char *)j.out[0]);
        job_done(&j);
}

/* ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const enum wire_network outbound[] = { WIRE_NET_NAT, WIRE_NET_INTERNET };

static void expect_unreached(struct suite *s, const char *address, const char *port)
{
        for (size_t i = 0; i < ARRAY_LEN(outbound); i++) {
                struct job j;

                JOB_INIT(&j, "connect", address, port);
                j.request.network = outbound[i];
                job_run(s, &j);
                EXPECT(s, &j, WIRE_EXITED, 1, 0, WIRE_REASON_NONE);
                job_done(&j);
        }
}

/* Another task's address, which that one itself has reached. */
void test_neighbours(struct suite *s)
{
        char address[64] = "";
        struct job j;
        ssize_t n;

        JOB_INIT(&j, "listen", "7777");
        j.request.network = WIRE_NET_NAT;
        job_start(s, &j);
        wait_output(s, &j, 8);
        n = j.task ? task_read_output(j.task, ENGINE_STDOUT, 0, address, sizeof(address) - 1) : 0;
        address[MAX(n, 0)] = '\0';
        address[strcspn(address, "\n")] = '\0';
        CHECK(s, address[0], "it has no address");
        if (address[0])
                expect_unreached(s, address, "7777");
        job_cancel(s, &j);
        job_wait(s, &j);
        job_done(&j);
}

/* Of this host, whose addresses we reach ourselves. */
void test_host_addresses(struct suite *s)
{
        struct sockaddr_in a = { .sin_family = AF_INET };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t len = sizeof(a);
        struct ifaddrs *all = NULL;
        unsigned tried = 0;
        char port[8];

        if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 8) < 0 ||
            getsockname(fd, (struct sockaddr *)&a, &len) < 0 || getifaddrs(&all) < 0) {
                suite_fail(s, "listen: %s", strerror(errno));
                return;
        }
        (void)snprintf(port, sizeof(port), "%u", ntohs(a.sin_port));
        for (const struct ifaddrs *i = all; i && tried < 2; i = i->ifa_next) {
                struct sockaddr_in at;
                char text[INET_ADDRSTRLEN];

                if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || i->ifa_flags & IFF_LOOPBACK)
                        continue;
                memcpy(&at, i->ifa_addr, sizeof(at));
                expect_unreached(s, inet_ntop(AF_INET, &at.sin_addr, text, sizeof(text)), port);
                tried++;
        }
        CHECK(s, accept(fd, NULL, NULL) < 0 && errno == EAGAIN, "somebody has come");
        freeifaddrs(all);
        (void)close(fd);
}

/* ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct reader {
        struct suite *s;
        struct job job;
        struct str got[2];
        bool started, ready, ended, pause_each, paused;
        unsigned pieces;
};

static void follow_more(struct task *t, bool ended, void *data)
{
        struct reader *f = data;
        char buf[1000];
        ssize_t n;

        while ((n = task_read_output(t, ENGINE_STDOUT, f->got[0].len, buf, sizeof(buf))) > 0)
                if (str_add(&f->got[0], buf, (size_t)n) < 0)
                        return;
        f->ended = ended;
}

void test_follow(struct suite *s)
{
        struct reader f = { .s = s };
        const struct task_follower follower = { follow_more, &f };

        JOB_INIT(&f.job, "/bin/sh", "-c", "i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i + 1)); sleep 0.01; done");
        job_start(s, &f.job);
        CHECK(s, task_follow(f.job.task, &follower, NULL) == 0, "follow");
        job_wait(s, &f.job);
        suite_settle(s);
        EXPECT(s, &f.job, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, f.ended, "the follower is told of the end");
        CHECK(s, f.got[0].len == f.job.len[0] && memcmp(f.got[0].data, f.job.out[0], f.got[0].len) == 0, "%zu of %zu",
              f.got[0].len, f.job.len[0]);
        str_done(&f.got[0]);
        job_done(&f.job);
}

static void live_output(struct task *t, enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct reader *r = data;

        r->pieces++;
        if (str_add(&r->got[stream], bytes, len) < 0)
                suite_fail(r->s, "out of memory");
        if (r->pause_each && stream == ENGINE_STDOUT) {
                task_pause(t, stream, true);
                r->paused = true;
        }
}

static void live_started(struct task *t, void *data)
{
        (void)t;
        ((struct reader *)data)->started = true;
}

static void live_ready(struct task *t, void *data)
{
        (void)t;
        ((struct reader *)data)->ready = true;
}

static const struct task_live live = { .output = live_output, .started = live_started, .stdin_ready = live_ready };

/* Gives it all, as fast as it is taken. */
static void feed(struct suite *s, struct reader *r, const char *bytes, size_t len)
{
        uint64_t end = time_mono_ns() + SUITE_WAIT_NS;

        while (len > 0 && !r->job.ended && time_mono_ns() < end) {
                ssize_t n;

                r->ready = false;
                n = task_stdin_write(r->job.task, bytes, len);
                CHECK(s, n >= 0, "%s", strerror((int)-n));
                if (n < 0)
                        return;
                bytes += n;
                len -= (size_t)n;
                while (len > 0 && !r->ready && !r->job.ended && time_mono_ns() < end)
                        suite_sleep(s, 1);
        }
        CHECK(s, len == 0, "%zu bytes are left", len);
}

void test_live(struct suite *s)
{
        struct reader r = { .s = s };
        struct task_live l = live;
        auto_str big = STR_INIT;

        for (int i = 0; i < 200000; i++)
                (void)str_addf(&big, "line %d\n", i);
        JOB_INIT(&r.job, "/bin/sh", "-c", "read x; echo got $x; echo err >&2; cat");
        r.job.request.limits.output = 1000;
        l.data = &r;
        r.job.live = &l;
        job_start(s, &r.job);
        feed(s, &r, "hello\n", 6);
        for (int i = 0; i < 1000 && r.got[0].len < 10; i++)
                suite_sleep(s, 10);
        CHECK(s, r.started, "it is told of the start");
        CHECK(s, r.got[0].len == 10 && memcmp(r.got[0].data, "got hello\n", 10) == 0, "an answer before stdin's end");
        feed(s, &r, big.data, big.len);
        task_stdin_end(r.job.task);
        CHECK(s, task_stdin_write(r.job.task, "x", 1) == -EINVAL, "after the end");
        job_wait(s, &r.job);
        EXPECT(s, &r.job, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, r.got[0].len == big.len + 10 && memcmp(r.got[0].data + 10, big.data, big.len) == 0, "%zu",
              r.got[0].len);
        CHECK(s, r.got[1].len == 4, "%zu", r.got[1].len);
        CHECK(s, r.job.len[0] == 1000 && r.job.result.truncated, "%zu", r.job.len[0]);
        str_done(&r.got[0]);
        str_done(&r.got[1]);
        job_done(&r.job);
}

/* While the reader pauses, the program blocks: it cannot have written more than pipes and pieces hold. */
void test_live_slow(struct suite *s)
{
        struct reader r = { .s = s, .pause_each = true };
        struct task_live l = live;
        size_t before;

        l.data = &r;
        JOB_INIT(&r.job, "/bin/sh", "-c", "head -c 8388608 /dev/zero; echo done >&2");
        r.job.live = &l;
        job_start(s, &r.job);
        for (int i = 0; i < 1000 && !r.paused; i++)
                suite_sleep(s, 10);
        before = r.got[0].len;
        suite_sleep(s, 300);
        CHECK(s, r.got[0].len == before, "%zu after %zu, while it pauses", r.got[0].len, before);
        CHECK(s, r.got[1].len == 0 && !r.job.ended, "the program did not end");
        for (int i = 0; i < 100000 && !r.job.ended; i++) {
                if (r.paused && r.job.task) {
                        r.paused = false;
                        task_pause(r.job.task, ENGINE_STDOUT, false);
                }
                suite_sleep(s, 1);
        }
        job_wait(s, &r.job);
        EXPECT(s, &r.job, WIRE_EXITED, 0, 0, WIRE_REASON_NONE);
        CHECK(s, r.got[0].len == (size_t)(8 * MIB), "%zu", r.got[0].len);
        CHECK(s, r.pieces > 8, "%u pieces", r.pieces);
        str_done(&r.got[0]);
        str_done(&r.got[1]);
        job_done(&r.job);
}
