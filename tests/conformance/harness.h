/* The node of the conformance suite, without HTTP: loop, history, engine, images and tasks of this process. */
#pragma once

#include "base/err.h"
#include "engine/engine.h"
#include "task/task.h"
#include "wire/task.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUITE_IMAGE "conformance:1"
#define SUITE_WAIT_NS (60 * UINT64_C(1000000000)) /* nothing here takes longer */

struct suite_config {
        const char *engine, *launcher, *netd, *data, *image;
        const char *docker, *name; /* its socket, our containers' instance */
        bool sample;
};

struct suite {
        struct loop *loop;
        struct history *history;
        struct engine *engine;
        struct image_store *store;
        struct tasks *tasks;
        const char *owner;
        bool adopted;
        int imported;
        struct err err;
        unsigned passed, failed, skipped;
        bool sample;      /* of what is done very often, a part: for engines that take long */
        const char *name; /* of the test that runs */
        bool bad;         /* it has failed */
};

int suite_open(struct suite *s, const struct suite_config *config, struct err *err);
void suite_close(struct suite *s);

/* One task and its result. */
struct job {
        struct wire_task_request request;
        bool ended;
        struct wire_task result;
        uint8_t *out[2];
        size_t len[2];
        struct task *task; /* until it has ended */
        char *outputs;     /* what was brought back, as JSON */
        const struct task_live *live;
};

/* `args` end with NULL; the helper's name is put before them unless the first one begins with '/'. */
void job_init(struct job *j, const char *const *args);
#define JOB_INIT(j, ...) job_init(j, (const char *const[]){ __VA_ARGS__, NULL })
void job_stdin(struct job *j, const void *data, size_t len);
void job_start(struct suite *s, struct job *j);
void job_wait(struct suite *s, struct job *j);
void job_hear(struct suite *s, struct job *j);   /* until it says something on stdout, or has ended */
void job_cancel(struct suite *s, struct job *j); /* one that has ended already fails the test */
void job_run(struct suite *s, struct job *j);
void job_done(struct job *j);

/* Turns the loop for that long. */
void suite_sleep(struct suite *s, uint64_t ms);
/* Until history has every result and the engine has forgotten every container. */
void suite_settle(struct suite *s);

bool suite_found(const struct suite *s, const char *part); /* part NULL: false */

void suite_fail(struct suite *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define CHECK(s, cond, ...)                                                                                            \
        do {                                                                                                           \
                if (!(cond))                                                                                           \
                        suite_fail(s, "line " LINE_TEXT(__LINE__) ": " #cond ": " __VA_ARGS__);                        \
        } while (0)
#define LINE_TEXT(n) LINE_TEXT_(n)
#define LINE_TEXT_(n) #n

/* The whole outcome at once. */
struct expect {
        enum wire_status status;
        int code, signo;
        enum wire_reason reason;
};
void job_expect(struct suite *s, const struct job *j, const struct expect *e);
#define EXPECT(s, j, ...) job_expect(s, j, &(const struct expect){ __VA_ARGS__ })
bool job_out_is(const struct job *j, int stream, const char *text);

struct test {
        const char *name;
        void (*fn)(struct suite *s);
        uint32_t features; /* of the engine, without which it is skipped */
        const char *reason;
        const char *found; /* what is skipped where the engine says so of its host */
};
/* members.c: what a request can ask for beside a command. */
void test_archive(struct suite *s);
void test_outputs(struct suite *s);
void test_outputs_bound(struct suite *s);
void test_secrets(struct suite *s);
void test_labels(struct suite *s);
void test_retries(struct suite *s);
void test_cpu_time(struct suite *s);
void test_grace(struct suite *s);
void test_signal(struct suite *s);
void test_follow(struct suite *s);
void test_live(struct suite *s);
void test_live_slow(struct suite *s);
void test_neighbours(struct suite *s);
void test_host_addresses(struct suite *s);

extern const struct test tests[];
extern const size_t n_tests;
