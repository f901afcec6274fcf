/* What asking who calls, limits, history and the access log cost a task, beside the task itself, by the functions that mayflyd
 * calls for it, with a real loop, its worker and a database:
 *
 *   mfcost DIRECTORY REQUESTS-A-SECOND REQUESTS ROUNDS
 *
 * Requests come at an even pace, as groups of history are made by time. The same pace with nothing to do is measured in
 * between, and taken off. CPU is the process's, so what waking the worker costs is in it; "path" is of the loop's thread alone.
 * Prints a JSON object, milliseconds a request. The log goes to stderr: give it a file. */
#include "api/meters.h"
#include "api/text.h"
#include "base/log.h"
#include "base/time.h"
#include "history/history.h"
#include "loop/loop.h"
#include "state/db.h"
#include "state/keys.h"
#include "state/seal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS_MAX 64

enum part { AUTHORISATION = 1, LIMITS = 2, HISTORY = 4, LOG = 8, ALL = 15 };

static const struct {
        const char *name;
        unsigned parts;
} variants[] = {
        { "nothing", 0 },      { "authorisation", AUTHORISATION },
        { "limits", LIMITS },  { "history", HISTORY },
        { "access log", LOG }, { "together", ALL },
};
#define VARIANTS ARRAY_LEN(variants)

/* The answer to `true`, without its streams: what history keeps of it. */
static const char document[] =
        "{\"id\":\"01m7zen2xftedhxprcdjffsst2\",\"status\":\"exited\",\"exit_code\":0,\"signal\":null,\"reason\":null,"
        "\"stdout_encoding\":\"utf-8\",\"stderr_encoding\":\"utf-8\",\"stdout_bytes\":0,\"stderr_bytes\":0,"
        "\"truncated\":false,"
        "\"usage\":{\"wall_ms\":0.512,\"cpu_ms\":0.493,\"memory_peak\":790528},\"timings\":{\"queued_ms\":0.021,\"pull_"
        "ms\":0,"
        "\"start_ms\":0.914,\"run_ms\":0.512},\"created_at\":\"2026-01-01T00:00:00.000Z\",\"started_at\":"
        "\"2026-01-01T00:00:00.001Z\",\"finished_at\":\"2026-01-01T00:00:00.002Z\",\"image\":{\"ref\":"
        "\"docker.io/library/"
        "bench:1\",\"digest\":\"sha256:de59d0553aff545f43b2de59d0553aff545f43b2de59d0553aff545f43b21234\"},"
        "\"engine\":\"native\",\"limits\":{\"timeout\":60,\"memory\":536870912,\"cpus\":1,\"pids\":512,\"output\":"
        "1048576},"
        "\"labels\":{}}";

struct cost {
        struct loop *loop;
        struct state_db *db;
        struct keys *keys;
        struct history *history;
        struct meters *meters;
        char id[KEY_ID_LEN + 1], owner[KEY_OWNER_MAX], header[256];
        struct loop_timer timer;
        unsigned parts;
        uint64_t step_ns, next_ns;
        uint64_t left, serial;
        uint64_t stored, failed;
};

static void fail(const char *what, const struct err *err)
{
        fprintf(stderr, "mfcost: %s: %s\n", what, err ? err->text : "failed");
        exit(1);
}

static uint64_t cpu_ns(clockid_t clock)
{
        struct timespec t;

        clock_gettime(clock, &t);
        return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void on_stored(int r, const struct err *err, void *data)
{
        struct cost *c = data;

        (void)err;
        c->stored++;
        c->failed += r < 0;
}

static void authorise(struct cost *c)
{
        auto_secret text = STR_INIT;
        char *colon;

        if (!credentials_parse(c->header, &text) || !(colon = strchr(text.data, ':')))
                fail("credentials", NULL);
        *colon = '\0';
        if (!keys_verify(c->keys, text.data, colon + 1))
                fail("the key is refused", NULL);
}

static void limit(struct cost *c)
{
        if (meters_take_address(c->meters, "127.0.0.1", time_mono_ns()) > 0 ||
            meters_enter_key(c->meters, keys_find(c->keys, c->id), time_mono_ns()) > 0)
                fail("limits", NULL);
        meters_leave_key(c->meters, c->id);
}

static void store(struct cost *c)
{
        struct history_record rec = { .created_ms = time_real_ms(), .finished_ms = time_real_ms() };
        struct err err = ERR_INIT;

        snprintf(rec.id, sizeof(rec.id), "01m7zen2xf%016llx", (unsigned long long)c->serial);
        rec.owner = strdup(c->owner);
        rec.status = strdup("exited");
        rec.image = strdup("docker.io/library/bench:1");
        if (!rec.owner || !rec.status || !rec.image || str_add(&rec.document, document, sizeof(document) - 1) < 0 ||
            history_add(c->history, &rec, on_stored, c, &err) < 0)
                fail("history", &err);
}

static void on_request(struct loop_timer *timer, void *data)
{
        struct cost *c = data;

        c->serial++;
        if (c->parts & AUTHORISATION)
                authorise(c);
        if (c->parts & LIMITS)
                limit(c);
        if (c->parts & HISTORY)
                store(c);
        if (c->parts & LOG)
                log_info("api: %d %.2fms who=%s from=%s id=%016llx %s %.*s", 201, 1.23, c->owner, "127.0.0.1",
                         (unsigned long long)c->serial, "POST", 256, "/v1/tasks");
        if (--c->left == 0)
                return;
        c->next_ns += c->step_ns;
        if (loop_timer_set(c->loop, timer, c->next_ns, on_request, c) < 0)
                fail("timer", NULL);
}

static void turn(struct cost *c)
{
        struct err err = ERR_INIT;

        if (loop_turn(c->loop, 1000, &err) < 0)
                fail("loop", &err);
}

static void run(struct cost *c, unsigned parts, uint64_t requests, double *ret_cpu_ms, double *ret_path_ms)
{
        uint64_t cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID), path = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
        uint64_t stored = c->stored;

        c->parts = parts;
        c->left = requests;
        c->next_ns = time_mono_ns() + c->step_ns;
        if (loop_timer_set(c->loop, &c->timer, c->next_ns, on_request, c) < 0)
                fail("timer", NULL);
        while (c->left > 0 || (parts & HISTORY && c->stored - stored < requests))
                turn(c);
        *ret_cpu_ms = (double)(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e6 / (double)requests;
        *ret_path_ms = (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - path) / 1e6 / (double)requests;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return x < y ? -1 : x > y;
}

static double median(double *values, size_t n)
{
        qsort(values, n, sizeof(*values), by_value);
        return values[n / 2];
}

static void measure(struct cost *c, uint64_t requests, size_t rounds)
{
        static double cpu[VARIANTS][ROUNDS_MAX], path[VARIANTS][ROUNDS_MAX];
        double warm[2];

        run(c, ALL, requests / 4 + 1, &warm[0], &warm[1]);
        for (size_t r = 0; r < rounds; r++) {
                for (size_t v = 0; v < VARIANTS; v++)
                        run(c, variants[v].parts, requests, &cpu[v][r], &path[v][r]);
                /* What the same pace costs without anything to do is of this round. */
                for (size_t v = 1; v < VARIANTS; v++) {
                        cpu[v][r] -= cpu[0][r];
                        path[v][r] -= path[0][r];
                }
        }
        printf("{\"requests\": %llu, \"rounds\": %zu", (unsigned long long)requests, rounds);
        for (size_t v = 1; v < VARIANTS; v++)
                printf(", \"%s\": {\"cpu_ms\": %.5f, \"path_ms\": %.5f}", variants[v].name, median(cpu[v], rounds),
                       median(path[v], rounds));
        printf("}\n");
}

static void on_key(int r, const struct key *key, const char *secret, const struct err *err, void *data)
{
        struct cost *c = data;

        if (r < 0)
                fail("make a key", err);
        snprintf(c->id, sizeof(c->id), "%s", key->id);
        snprintf(c->owner, sizeof(c->owner), "%s", key->owner);
        snprintf(c->header, sizeof(c->header), "Bearer %s:%s", key->id, secret);
}

static void set_up(struct cost *c, const char *dir)
{
        /* As mayflyd's defaults; the burst is never the bound here. */
        static const struct meters_config limits = { .key_rate = 10000,
                                                     .address_rate = 10000,
                                                     .key_burst = 20000,
                                                     .address_burst = 20000,
                                                     .key_connections = 2048 };
        static const struct key wanted = { .name = (char *)"bench", .role = KEY_TASK };
        char path[512];
        struct history_config history = { .path = path };
        struct err err = ERR_INIT;

        snprintf(path, sizeof(path), "%s/cost-state.db", dir);
        if (loop_new(&c->loop, &err) < 0 || state_db_open(path, &c->db, &err) < 0 ||
            keys_new(c->loop, c->db, &c->keys, &err) < 0)
                fail("keys", &err);
        snprintf(path, sizeof(path), "%s/cost-history.db", dir);
        if (history_open(c->loop, &history, &c->history, &err) < 0)
                fail("history", &err);
        if (meters_new(&limits, &c->meters) < 0 || keys_create(c->keys, &wanted, on_key, c, &err) < 0)
                fail("set up", &err);
        while (!*c->id)
                turn(c);
}

int main(int argc, char **argv)
{
        struct cost c = { .loop = NULL };
        unsigned long rate = argc == 5 ? strtoul(argv[2], NULL, 10) : 0;
        unsigned long requests = argc == 5 ? strtoul(argv[3], NULL, 10) : 0;
        unsigned long rounds = argc == 5 ? strtoul(argv[4], NULL, 10) : 0;

        if (rate == 0 || requests == 0 || rounds == 0 || rounds > ROUNDS_MAX) {
                fprintf(stderr, "usage: mfcost DIRECTORY REQUESTS-A-SECOND REQUESTS ROUNDS\n");
                return 2;
        }
        c.step_ns = NS_PER_S / rate;
        log_set_name("mfcost");
        set_up(&c, argv[1]);
        measure(&c, requests, rounds);
        history_close(c.history);
        keys_free(c.keys);
        state_db_close(c.db);
        meters_free(c.meters);
        loop_free(c.loop);
        return c.failed > 0;
}
