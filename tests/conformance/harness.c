#include "harness.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "engine/docker/docker.h"
#include "engine/native/native.h"
#include "image/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HELPER "/bin/helper"

/* ── the node ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* MAYFLY_SLOW is how many times slower than others this machine is. */
static uint64_t wait_ns(void)
{
        const char *slow = getenv("MAYFLY_SLOW");
        uint64_t factor = slow ? strtoull(slow, NULL, 10) : 1;

        return SUITE_WAIT_NS * MIN(MAX(factor, 1U), 100U);
}

static int turn_until(struct suite *s, const bool *done, struct err *err)
{
        uint64_t end = time_mono_ns() + wait_ns();

        while (!*done) {
                int r = loop_turn(s->loop, 100, err);

                if (r < 0)
                        return r;
                if (time_mono_ns() > end)
                        return err_set(err, ETIMEDOUT, "it took too long");
        }
        return 0;
}

struct waiting {
        bool done;
        int r;
        struct err err;
};

static void on_adopted(int r, const struct err *err, void *data)
{
        struct waiting *w = data;

        w->done = true;
        w->r = r;
        if (r < 0)
                w->err = *err;
}

static void on_loaded(int r, const char *const *digests, size_t n, const struct err *err, void *data)
{
        (void)digests;
        (void)n;
        on_adopted(r, err, data);
}

static int feed(struct image_sink *sink, int fd, struct err *err)
{
        static char buf[1 << 16];
        ssize_t n;

        while ((n = read(fd, buf, sizeof(buf))) > 0) {
                int r = image_sink_write(sink, buf, (size_t)n, err);

                if (r < 0)
                        return r;
        }
        return n < 0 ? err_sys(err, "read the image") : 0;
}

static int import(struct suite *s, const char *path, struct err *err)
{
        char *changes[] = { (char[]){ "CMD [\"/bin/helper\", \"exit\", \"42\"]" },
                            (char[]){ "ENV FROM_IMAGE=yes OVERRIDDEN=no" }, NULL };
        auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
        struct waiting w = { .done = false };
        struct image_sink *sink = NULL;
        int r;

        if (fd < 0)
                return err_sys(err, "open '%s'", path);
        r = image_sink_open(s->store, IMAGE_IMPORT, SUITE_IMAGE, changes, &sink, err);
        if (r < 0)
                return r;
        r = feed(sink, fd, err);
        if (r < 0) {
                image_sink_discard(sink);
                return r;
        }
        r = image_sink_finish(sink, on_loaded, &w, err);
        if (r == 0)
                r = turn_until(s, &w.done, err);
        if (r == 0 && w.r < 0)
                return err_set(err, -w.r, "import: %s", w.err.text);
        return r;
}

static int open_native(struct suite *s, const struct suite_config *c, struct err *err)
{
        const struct engine_native_config config = { .launcher_path = c->launcher, .netd_path = c->netd };
        auto_free char *dir = str_printf("%s/images", c->data);
        const struct image_store_config images = { .dir = dir };
        int r;

        if (!dir)
                return err_oom(err);
        r = engine_native_new(s->loop, &config, &s->engine, err);
        if (r == 0)
                r = image_store_open(s->loop, &images, engine_native_workers(s->engine), &s->store, err);
        if (r == 0)
                engine_native_set_store(s->engine, s->store);
        return r;
}

static int open_docker(struct suite *s, const struct suite_config *c, struct err *err)
{
        auto_free char *records = str_printf("%s/docker", c->data);
        const struct engine_docker_config config = { .host = c->docker, .name = c->name, .records = records };

        return records ? engine_docker_new(s->loop, &config, &s->engine, err) : err_oom(err);
}

static int open_engine(struct suite *s, const struct suite_config *c, struct err *err)
{
        if (str_eq(c->engine, "native"))
                return open_native(s, c, err);
        if (str_eq(c->engine, "docker"))
                return open_docker(s, c, err);
        return err_set(err, EINVAL, "there is no engine '%s'", c->engine);
}

int suite_open(struct suite *s, const struct suite_config *c, struct err *err)
{
        auto_free char *db = str_printf("%s/history.db", c->data);
        const struct history_config history = { .path = db };
        const struct tasks_config tasks = { .reserve = 1 << 20 };
        struct waiting w = { .done = false };
        int r;

        if (!db)
                return err_oom(err);
        s->owner = "conformance";
        s->sample = c->sample;
        r = loop_new(&s->loop, err);
        if (r == 0)
                r = history_open(s->loop, &history, &s->history, err);
        if (r == 0)
                r = open_engine(s, c, err);
        if (r == 0)
                r = tasks_new(s->loop, s->engine, s->history, &tasks, &s->tasks, err);
        if (r == 0)
                r = tasks_adopt(s->tasks, on_adopted, &w, err);
        if (r == 0)
                r = turn_until(s, &w.done, err);
        if (r == 0 && w.r < 0)
                r = err_set(err, -w.r, "%s", w.err.text);
        /* Docker has its own images: run.sh loads them. */
        return r == 0 && s->store ? import(s, c->image, err) : r;
}

void suite_close(struct suite *s)
{
        if (s->tasks)
                tasks_free(s->tasks);
        if (s->store)
                image_store_close(s->store);
        if (s->engine)
                s->engine->ops->free(s->engine);
        history_close(s->history);
        loop_free(s->loop);
}

/* ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void must(int r)
{
        if (r < 0) {
                printf("not ok - the suite itself: %s\n", strerror(-r));
                exit(2);
        }
}

void job_init(struct job *j, const char *const *args)
{
        memset(j, 0, sizeof(*j));
        j->request.image = strdup(SUITE_IMAGE);
        wire_limits_default(&j->request.limits);
        if (args[0] && args[0][0] != '/')
                must(strv_add(&j->request.cmd, HELPER));
        for (; *args; args++)
                must(strv_add(&j->request.cmd, *args));
}

void job_stdin(struct job *j, const void *data, size_t len)
{
        j->request.stdin_data = malloc(len + 1);
        must(j->request.stdin_data ? 0 : -ENOMEM);
        memcpy(j->request.stdin_data, data, len);
        j->request.stdin_len = len;
}

static void on_ended(struct task *t, const struct wire_task *result, void *data)
{
        struct job *j = data;

        (void)t;
        j->ended = true;
        j->task = NULL;
        j->result = *result;
        j->result.detail = result->detail ? strdup(result->detail) : NULL;
        j->result.image_ref = j->result.image_digest = NULL;
        j->result.labels = NULL;
        j->result.outputs_text = NULL;
        if (result->outputs_text && result->outputs_text->data)
                j->outputs = strdup(result->outputs_text->data);
        for (int i = 0; i < 2; i++) {
                j->len[i] = result->out_len[i];
                j->out[i] = malloc(j->len[i] + 1);
                must(j->out[i] ? 0 : -ENOMEM);
                if (j->len[i] > 0)
                        memcpy(j->out[i], result->out[i], j->len[i]);
                j->out[i][j->len[i]] = '\0';
                j->result.out[i] = NULL;
        }
}

void job_start(struct suite *s, struct job *j)
{
        const struct task_submit how = { .owner = s->owner, .cancel_when_alone = true, .live = j->live };
        const struct task_waiter waiter = { on_ended, j };
        struct err err = ERR_INIT;

        if (tasks_submit(s->tasks, &j->request, &how, &waiter, &j->task, &err) != 0)
                suite_fail(s, "submit: %s", err.text);
}

void job_wait(struct suite *s, struct job *j)
{
        struct err err = ERR_INIT;

        if (!j->task && !j->ended)
                return;
        if (turn_until(s, &j->ended, &err) < 0) {
                suite_fail(s, "wait: %s", err.text);
                task_forget(j->task, j);
                j->task = NULL;
        }
}

void job_cancel(struct suite *s, struct job *j)
{
        if (j->task)
                task_cancel(j->task);
        else
                suite_fail(s, "it has ended before it was cancelled: %s", j->result.detail ? j->result.detail : "");
}

void job_run(struct suite *s, struct job *j)
{
        job_start(s, j);
        job_wait(s, j);
}

void job_done(struct job *j)
{
        wire_task_request_done(&j->request);
        free(j->out[0]);
        free(j->out[1]);
        free(j->result.detail);
        free(j->outputs);
        memset(j, 0, sizeof(*j));
}

void suite_sleep(struct suite *s, uint64_t ms)
{
        uint64_t end = time_mono_ns() + ms * NS_PER_MS, now;

        while ((now = time_mono_ns()) < end)
                if (loop_turn(s->loop, (int)((end - now) / NS_PER_MS) + 1, NULL) < 0)
                        return;
}

void job_hear(struct suite *s, struct job *j)
{
        uint64_t end = time_mono_ns() + wait_ns();
        char byte;

        while (!j->ended && task_read_output(j->task, ENGINE_STDOUT, 0, &byte, 1) <= 0 && time_mono_ns() < end)
                suite_sleep(s, 5);
}

void suite_settle(struct suite *s)
{
        for (int i = 0; i < 1000 && tasks_live(s->tasks) > 0; i++)
                suite_sleep(s, 10);
        CHECK(s, tasks_live(s->tasks) == 0, "%zu tasks", tasks_live(s->tasks));
}

bool suite_found(const struct suite *s, const char *part)
{
        struct engine_about about = { .n_findings = 0 };

        if (s->engine->ops->about)
                s->engine->ops->about(s->engine, &about);
        for (size_t i = 0; part && i < about.n_findings; i++)
                if (strstr(about.findings[i], part))
                        return true;
        return false;
}

/* ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

void suite_fail(struct suite *s, const char *fmt, ...)
{
        va_list ap;

        if (!s->bad)
                printf("not ok - %s: ", s->name);
        else
                printf("  also: ");
        va_start(ap, fmt);
        (void)vprintf(fmt, ap);
        va_end(ap);
        printf("\n");
        s->bad = true;
}

void job_expect(struct suite *s, const struct job *j, const struct expect *e)
{
        const struct wire_task *r = &j->result;

        if (!j->ended)
                return;
        if (r->status != e->status || r->exit_code != e->code || r->signal != e->signo || r->reason != e->reason)
                suite_fail(s, "%s %d %d '%s' (%s), expected %s %d %d '%s'; stderr: %.200s",
                           wire_status_names[r->status], r->exit_code, r->signal, wire_reason_names[r->reason],
                           r->detail ? r->detail : "", wire_status_names[e->status], e->code, e->signo,
                           wire_reason_names[e->reason], j->out[1] ? (const char *)j->out[1] : "");
}

bool job_out_is(const struct job *j, int stream, const char *text)
{
        return j->out[stream] && j->len[stream] == strlen(text) && memcmp(j->out[stream], text, j->len[stream]) == 0;
}

/* ── program ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void run_test(struct suite *s, const struct test *t)
{
        uint32_t missing = t->features & ~s->engine->ops->features;

        s->name = t->name;
        s->bad = false;
        if (missing) {
                s->skipped++;
                printf("skip - %s: the engine lacks %s\n", t->name, t->reason);
                return;
        }
        if (suite_found(s, t->found)) {
                s->skipped++;
                printf("skip - %s: the engine says so of its host\n", t->name);
                return;
        }
        t->fn(s);
        if (s->bad) {
                s->failed++;
        } else {
                s->passed++;
                printf("ok - %s\n", t->name);
        }
        (void)fflush(stdout);
}

static const char *option(int argc, char **argv, const char *name)
{
        for (int i = 1; i + 1 < argc; i += 2)
                if (str_eq(argv[i], name))
                        return argv[i + 1];
        return NULL;
}

int main(int argc, char **argv)
{
        const struct suite_config config = {
                .engine = option(argc, argv, "--engine"),
                .launcher = option(argc, argv, "--launcher"),
                .docker = option(argc, argv, "--docker-host"),
                .name = option(argc, argv, "--name"),
                .netd = option(argc, argv, "--netd"),
                .data = option(argc, argv, "--data"),
                .image = option(argc, argv, "--image"),
                .sample = str_eq(option(argc, argv, "--sample"), "1"),
        };
        const char *only = option(argc, argv, "--only");
        struct suite s = { .loop = NULL };
        struct err err = ERR_INIT;

        bool docker = str_eq(config.engine, "docker");

        if (!config.engine || !config.data ||
            (docker ? !config.docker || !config.name : !config.launcher || !config.netd || !config.image)) {
                (void)fprintf(stderr, "usage: conformance --engine native --launcher SOCKET --netd SOCKET --data DIR "
                                      "--image TAR [--only TEXT]\n"
                                      "       conformance --engine docker --docker-host SOCKET --name NAME --data DIR "
                                      "[--sample 1] [--only TEXT]\n");
                return 2;
        }
        if (getenv("MAYFLY_DEBUG"))
                log_set_level(LOG_LEVEL_DEBUG);
        if (suite_open(&s, &config, &err) < 0) {
                printf("not ok - the node starts: %s\n", err.text);
                suite_close(&s);
                return 1;
        }
        for (size_t i = 0; i < n_tests; i++)
                if (!only || strstr(tests[i].name, only))
                        run_test(&s, &tests[i]);
        suite_close(&s);
        printf("%u passed, %u failed, %u skipped\n", s.passed, s.failed, s.skipped);
        return s.failed ? 1 : 0;
}
