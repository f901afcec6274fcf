/* The driver against a small Docker of our own: what it asks, how often, and what it makes of the answers. */

#include "engine/docker/test_fake.h"

/* ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_life(void **state)
{
        struct world *w = *state;
        struct engine_output out;
        char have[8] = { 0 };
        struct stat st;

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\2er", 21);
        str_clear(&w->fake.log);
        run(w, "one");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(w->exit.code, 3);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 3);
        assert_int_equal(pread(out.fd, have, 3, 0), 3);
        assert_string_equal(have, "out");
        /* Nothing is deleted before the result is stored. */
        assert_int_equal(asked(w, "DELETE"), 0);
        assert_int_equal(stat(w->records, &st), 0);
        w->engine->ops->remove(w->c);
        wait_for(w, "DELETE /v1.41/containers/test-one?", 1);
        /* create, attach, start, wait, delete: no call that is not needed. */
        assert_int_equal(asked(w, "\n"), 5);
}

static void test_oom(void **state)
{
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        expect(w, "/wait", -1, 200, "{\"StatusCode\":137}");
        expect(w, "GET /v1.41/containers/test-one/json", -1, 200,
               "{\"State\":{\"ExitCode\":137,\"Running\":false,\"OOMKilled\":true}}");
        run(w, "one");
        assert_true(w->exit.oom);
        assert_int_equal(w->exit.signo, SIGKILL);
        w->engine->ops->remove(w->c);
}

static void test_start_refused(void **state)
{
        static const struct {
                const char *request;
                unsigned status;
                const char *body;
                enum engine_end end;
        } cases[] = {
                { "/start", 400, "{\"message\":\"exec: \\\"x\\\": executable file not found in $PATH: unknown\"}",
                  ENGINE_END_NOT_FOUND },
                { "/start", 400, "{\"message\":\"exec: \\\"/x\\\": permission denied: unknown\"}",
                  ENGINE_END_NOT_EXECUTABLE },
                { "/start", 500, "{\"message\":\"no space left on device\"}", ENGINE_END_START_ERROR },
                { "/start", 0, "", ENGINE_END_START_ERROR },
                { "/attach?", 409, "{\"message\":\"preparing: executable file `x` not found in $PATH: exec\"}",
                  ENGINE_END_NOT_FOUND },
                { "/attach?", 0, "", ENGINE_END_START_ERROR },
                { "containers/create", 409, "{\"message\":\"Conflict. The name is in use\"}", ENGINE_END_START_ERROR },
                { "containers/create", 500, "<html>nonsense", ENGINE_END_START_ERROR },
        };
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_free char *id = str_printf("case%zu", i),
                               *line = str_printf("DELETE /v1.41/containers/test-%s?", id);

                /* More than once: libcurl asks again where a kept connection was closed. */
                expect(w, cases[i].request, -1, cases[i].status, cases[i].body);
                run(w, id);
                assert_int_equal(w->exit.end, cases[i].end);
                w->fake.answers[0].times = 0;
                w->engine->ops->remove(w->c);
                wait_for(w, line, 1);
        }
}

static void test_wait_again(void **state)
{
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\2ok", 10);
        expect(w, "/wait", 1, 0, "");
        expect(w, "/logs?", -1, 200, "");
        run(w, "one");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(w->exit.code, 3);
        w->engine->ops->remove(w->c);
        expect(w, "/wait", -1, 404, "{\"message\":\"No such container\"}");
        expect(w, "GET /v1.41/containers/test-two/json", -1, 404, "{\"message\":\"No such container\"}");
        run(w, "two");
        assert_int_equal(w->exit.end, ENGINE_END_LOST);
        w->engine->ops->remove(w->c);
}

static void take_log(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        docker_output_log(data, stream, bytes, len);
}

/* What is known of the log is not taken twice; one that begins later than it did is known by that. */
static void test_log(void **state)
{
        static const struct {
                const char *log;
                size_t len;
                uint64_t kept, total;
        } cases[] = {
                { "\1\0\0\0\0\0\0\4abcd", 12, 4, 4 },
                { "\1\0\0\0\0\0\0\2ab\1\0\0\0\0\0\0\5cdefg", 23, 7, 7 },
                { "\1\0\0\0\0\0\0\4efgh", 12, 4, 9 },
        };
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\4abcd", 12);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_free char *id = str_printf("log%zu", i);
                struct engine_output out;
                struct docker_container *c;

                run(w, id);
                c = CONTAINER_OF(w->c, struct docker_container, base);
                docker_output_log_begin(c);
                assert_int_equal(demux_feed(&c->log, cases[i].log, cases[i].len, take_log, c, NULL), 0);
                docker_output_log_end(c);
                w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
                assert_int_equal(out.kept, cases[i].kept);
                assert_int_equal(out.total, cases[i].total);
                w->engine->ops->remove(w->c);
        }
}

/* A frame that was cut off is read again from the log, until that is there; where it never is, the task did not end well. */
static void test_cut(void **state)
{
        struct world *w = *state;
        struct engine_output out;
        char have[8] = { 0 };

        world_open(w, 0);
        get_images(w, 1, NULL);
        frames(w, "\1\0\0\0\0\0\0\4ab", 10);
        w->fake.logged = "\1\0\0\0\0\0\0\4abcd";
        w->fake.logged_len = 12;
        expect(w, "/logs?", -1, 200, NULL);
        expect(w, "/logs?", 1, 500, "{\"message\":\"not now\"}");
        run(w, "one");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 4);
        assert_int_equal(pread(out.fd, have, 4, 0), 4);
        assert_string_equal(have, "abcd");
        w->engine->ops->remove(w->c);
        expect(w, "/logs?", -1, 500, "{\"message\":\"never\"}");
        run(w, "two");
        assert_int_equal(w->exit.end, ENGINE_END_LOST);
        assert_non_null(strstr(w->exit.text, "never"));
        w->engine->ops->remove(w->c);
}

/* The connection that carries stdin may end before the other one does. */
static void test_stdin_outlives(void **state)
{
        struct world *w = *state;
        int ends[2];

        world_open(w, 0);
        get_images(w, 1, NULL);
        for (unsigned i = 0; i < 2; i++) {
                auto_free char *id = str_printf("live%u", i);

                hold_open(w);
                assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
                start_as(w, id, true, ends[0], NULL);
                fd_close(ends[0]);
                wait_for(w, "/start", i + 1);
                turns(w, 5);
                assert_int_equal(w->fake.n_attaches, 2);
                conn_close(w->fake.attaches[0]);
                turns(w, 5);
                if (i == 0)
                        (void)!write(ends[1], "x", 1);
                else
                        fd_replace(&ends[1], -EBADF);
                turns(w, 5);
                conn_close(w->fake.attaches[1]);
                finish(w);
                assert_int_equal(w->exit.code, 3);
                fd_close(ends[1]);
                w->engine->ops->remove(w->c);
        }
}

/* Who does not read keeps nothing alive. */
static void test_killed_while_paused(void **state)
{
        struct world *w = *state;
        struct engine_output out;

        world_open(w, 0);
        get_images(w, 1, NULL);
        hold_open(w);
        start_as(w, "one", true, -EBADF, NULL);
        wait_for(w, "/start", 1);
        turns(w, 5);
        assert_int_equal(w->fake.n_attaches, 2);
        w->engine->ops->pause(w->c, ENGINE_STDOUT, true);
        w->engine->ops->pause(w->c, ENGINE_STDERR, true);
        fake_write(w->fake.attaches[0], "\1\0\0\0\0\0\0\2ok", 10);
        turns(w, 5);
        assert_int_equal(w->exits, 0);
        expect(w, "/kill?signal=9", -1, 204, "");
        expect(w, "/wait", -1, 200, "{\"StatusCode\":137}");
        expect(w, "GET /v1.41/containers/test-one/json", -1, 200, "{\"State\":{\"ExitCode\":137,\"Running\":false}}");
        assert_int_equal(w->engine->ops->signal(w->c, SIGKILL, NULL), 0);
        conn_close(w->fake.attaches[0]);
        conn_close(w->fake.attaches[1]);
        finish(w);
        assert_int_equal(w->exit.end, ENGINE_END_SIGNALED);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 2);
        w->engine->ops->remove(w->c);
}

/* stdin is that of the container which runs in the end. */
static void test_prewarm_stdin(void **state)
{
        static const char *const gone[] = { "/attach?", "/start" };
        struct world *w = *state;

        world_open(w, 1);
        get_images(w, 1, NULL);
        hold_open(w);
        for (unsigned i = 0; i < 6; i++) {
                auto_free char *id = str_printf("in%u", i);

                /* Of the third on there is one that was made ahead. */
                if (i == 2 || i == 4)
                        turns(w, 20);
                if (i == 2 || i == 4)
                        expect(w, gone[i / 2 - 1], 1, 404, "{\"message\":\"No such container: x\"}");
                start_as(w, id, false, -EBADF, "hello");
                for (int n = 0; n < TURNS && w->exits <= i; n++) {
                        turns(w, 1);
                        if (w->fake.attached && w->fake.attached->in.len == strlen("hello"))
                                conn_close(w->fake.attached);
                }
                assert_int_equal(w->exit.end, ENGINE_END_EXITED);
                assert_string_equal(w->fake.stdin.data, "hello");
                if (i == 2 || i == 4)
                        assert_int_equal(w->fake.answers[0].times, 0);
                w->engine->ops->remove(w->c);
        }
}

/* Of one that may be made still it is not believed that it is not there. */
static void test_prewarm_unsure(void **state)
{
        static const char made[] = "create?name=test-";
        struct world *w = *state;
        auto_free char *line = NULL;
        const char *at = NULL;

        world_open(w, 1);
        get_images(w, 1, NULL);
        run(w, "one");
        w->engine->ops->remove(w->c);
        expect(w, "DELETE", -1, 404, "{\"message\":\"No such container: x\"}");
        expect(w, made, -1, 0, "");
        expect(w, "create?name=test-two", -1, 201, "{\"Id\":\"x\"}");
        run(w, "two");
        w->engine->ops->remove(w->c);
        for (int i = 0; i < TURNS && !at; i++) {
                turns(w, 1);
                at = strstr(strstr(w->fake.log.data, "create?name=test-two"), "\n");
                at = strstr(at, made);
        }
        assert_non_null(at);
        at += strlen(made);
        line = str_printf("DELETE /v1.41/containers/test-%.*s?", (int)strcspn(at, "\n"), at);
        for (int i = 0; i < TURNS && asked(w, line) < 2; i++)
                turns(w, 1);
        assert_true(asked(w, line) >= 2);
}

static void test_pull(void **state)
{
        struct world *w = *state;

        world_open(w, 0);
        expect(w, "GET /v1.41/images/", 1, 404, "{\"message\":\"No such image\"}");
        expect(w, "POST /v1.41/images/create", -1, 200,
               "{\"status\":\"Repository is already being pulled by another client. Waiting.\"}\n"
               "{\"status\":\"Downloading\",\"id\":\"a\",\"progressDetail\":{\"current\":1,\"total\":2}}\n"
               "{\"status\":\"Status: Image is up to date\"}\n");
        get_images(w, 50, NULL);
        assert_int_equal(w->r, 0);
        assert_string_equal(w->image.digest, DIGEST);
        assert_string_equal(w->image.ref, "docker.io/library/busybox:1");
        assert_int_equal(asked(w, "POST /v1.41/images/create"), 1);
}

static void test_pull_errors(void **state)
{
        static const struct {
                const char *text;
                bool credentials;
                int r;
        } cases[] = {
                { "manifest for busybox:1 not found: manifest unknown", false, ENOENT },
                { "pull access denied for x, repository does not exist or may require 'docker login'", false, ENOENT },
                { "pull access denied for x, repository does not exist or may require 'docker login'", true, EACCES },
                { "unauthorized: incorrect username or password", true, EACCES },
                { "Get https://r/v2/: no basic auth credentials", false, EACCES },
                { "no matching manifest for linux/amd64 in the manifest list entries", false, ENOENT },
                { "Get \"https://r/v2/\": dial tcp: connection refused", false, EHOSTUNREACH },
                { "toomanyrequests: You have reached your pull rate limit", false, EHOSTUNREACH },
        };
        struct world *w = *state;

        world_open(w, 0);
        expect(w, "GET /v1.41/images/", -1, 404, "{\"message\":\"No such image\"}");
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_str body = STR_INIT;

                assert_int_equal(docker_pull_error(cases[i].text, cases[i].credentials), cases[i].r);
                assert_int_equal(str_adds(&body, "{\"status\":\"Pulling\"}\n{\"errorDetail\":{\"message\":"), 0);
                assert_int_equal(json_add_string(&body, cases[i].text, strlen(cases[i].text)), 0);
                assert_int_equal(str_adds(&body, "},\"error\":\"x\"}"), 0);
                expect(w, "POST /v1.41/images/create", 1, 200, body.data);
                get_images(w, 1, cases[i].credentials ? "ann" : NULL);
                assert_int_equal(w->r, -cases[i].r);
                assert_null(strstr(w->err.text, "secret"));
                w->fake.n--;
                memmove(&w->fake.answers[0], &w->fake.answers[1], w->fake.n * sizeof(w->fake.answers[0]));
        }
}

static void test_breaker(void **state)
{
        struct world *w = *state;
        struct err err = ERR_INIT;
        bool down = false;

        world_open(w, 0);
        assert_int_equal(w->engine->ops->check(w->engine, &err), 0);
        expect(w, "GET /", -1, 0, "");
        for (int i = 0; i < 3; i++)
                get_images(w, 1, NULL);
        for (int i = 0; i < TURNS && !down; i++) {
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
                down = w->engine->ops->check(w->engine, &err) < 0;
        }
        assert_true(down);
        assert_non_null(strstr(err.text, w->socket));
        w->fake.answers[0].times = 0;
        for (int i = 0; i < TURNS && down; i++) {
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
                down = w->engine->ops->check(w->engine, &err) < 0;
        }
        assert_false(down);
}

/* Of a death by a signal Docker says 128 + n: it is believed of those that were sent. */
static void test_signals(void **state)
{
        static const struct {
                int signo;
                const char *kill, *answer;
                enum engine_end end;
                int code, died;
        } cases[] = {
                { SIGUSR1, "/kill?signal=10", "{\"StatusCode\":138}", ENGINE_END_SIGNALED, 0, SIGUSR1 },
                { SIGUSR1, "/kill?signal=10", "{\"StatusCode\":140}", ENGINE_END_EXITED, 140, 0 },
                { SIGTERM, "/kill?signal=15", "{\"StatusCode\":143}", ENGINE_END_SIGNALED, 0, SIGTERM },
                { SIGTERM, "/kill?signal=15", "{\"StatusCode\":15}", ENGINE_END_EXITED, 15, 0 },
                { 0, "", "{\"StatusCode\":139}", ENGINE_END_EXITED, 139, 0 },
                { 64, "/kill?signal=64", "{\"StatusCode\":192}", ENGINE_END_SIGNALED, 0, 64 },
        };
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
                auto_free char *id = str_printf("sig%u", i);

                hold_open(w);
                expect(w, "/wait", -1, 200, cases[i].answer);
                start(w, id);
                wait_for(w, "/start", i + 1);
                turns(w, 5);
                if (cases[i].signo) {
                        expect(w, cases[i].kill, 1, 204, "");
                        assert_int_equal(w->engine->ops->signal(w->c, cases[i].signo, NULL), 0);
                        for (int n = 0; n < TURNS && w->fake.answers[0].times; n++)
                                turns(w, 1);
                }
                conn_close(w->fake.attaches[0]);
                finish(w);
                assert_int_equal(w->exit.end, cases[i].end);
                assert_int_equal(w->exit.code, cases[i].code);
                assert_int_equal(w->exit.signo, cases[i].died);
                w->engine->ops->remove(w->c);
        }
}

static void test_prewarm(void **state)
{
        struct world *w = *state;

        world_open(w, 2);
        get_images(w, 1, NULL);
        run(w, "one");
        w->engine->ops->remove(w->c);
        run(w, "two");
        w->engine->ops->remove(w->c);
        wait_for(w, "POST /v1.41/containers/create", 3); /* the second use: one is made ahead */
        for (int i = 0; i < 5; i++)
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
        run(w, "three");
        assert_int_equal(w->exit.code, 3);
        assert_int_equal(asked(w, "create?name=test-three"), 0);
        w->engine->ops->remove(w->c);
        wait_for(w, "POST /v1.41/containers/create", 4);
        for (int i = 0; i < 5; i++)
                assert_true(loop_turn(w->loop, 20, NULL) >= 0);
        /* Somebody has deleted it: another one is made. */
        expect(w, "/attach?", 1, 404, "{\"message\":\"No such container: x\"}");
        run(w, "four");
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(asked(w, "create?name=test-four"), 1);
        w->engine->ops->remove(w->c);
        /* The end deletes what was made ahead. */
        str_clear(&w->fake.log);
        w->engine->ops->free(w->engine);
        w->engine = NULL;
        assert_true(asked(w, "DELETE") >= 1);
}

static void test_hosts(void **state)
{
        static const struct {
                const char *host, *ca, *cert, *key, *base;
        } cases[] = {
                { NULL, NULL, NULL, NULL, "http://docker" },
                { "/run/x.sock", NULL, NULL, NULL, "http://docker" },
                { "unix:///run/x.sock", NULL, NULL, NULL, "http://docker" },
                { "tcp://10.0.0.1", "ca", "c", "k", "https://10.0.0.1:2376" },
                { "tcp://host.example:99/", NULL, "c", "k", "https://host.example:99" },
                { "tcp://[fe80::1]:99", NULL, "c", "k", "https://[fe80::1]:99" },
                { "tcp://localhost", NULL, NULL, NULL, "http://localhost:2375" },
                { "tcp://127.0.0.1:5", NULL, NULL, NULL, "http://127.0.0.1:5" },
                { "tcp://10.0.0.1", NULL, NULL, NULL, NULL },
                { "tcp://10.0.0.1", "ca", "c", NULL, NULL },
                { "tcp://10.0.0.1", "ca", NULL, NULL, NULL },
                { "unix:///run/x.sock", NULL, "c", "k", NULL },
                { "tcp://", NULL, "c", "k", NULL },
                { "tcp://a:0", NULL, "c", "k", NULL },
                { "tcp://a:65536", NULL, "c", "k", NULL },
                { "tcp://a:1x", NULL, "c", "k", NULL },
                { "tcp://a@b", NULL, "c", "k", NULL },
                { "tcp://a/b", NULL, "c", "k", NULL },
                { "tcp://[::1", NULL, "c", "k", NULL },
                { "tcp://[a]", NULL, "c", "k", NULL },
                { "http://a", NULL, NULL, NULL, NULL },
                { "relative", NULL, NULL, NULL, NULL },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                const struct engine_docker_config config = {
                        .host = cases[i].host, .tls_ca = cases[i].ca, .tls_cert = cases[i].cert, .tls_key = cases[i].key
                };
                struct docker_host h;
                struct err err = ERR_INIT;

                if (!cases[i].base) {
                        assert_int_equal(engine_docker_host_check(&config, &err), -EINVAL);
                        assert_true(err.text[0]);
                        continue;
                }
                assert_int_equal(docker_host_parse(&config, &h, &err), 0);
                assert_string_equal(h.base, cases[i].base);
                docker_host_done(&h);
        }
}

static void test_versions(void **state)
{
        static const struct {
                const char *text, *prefix;
                int r;
        } cases[] = {
                { "{\"ApiVersion\":\"1.41\"}", "/v1.41", 0 },
                { "{\"ApiVersion\":\"1.44\",\"MinAPIVersion\":\"1.24\"}", "/v1.44", 0 },
                { "{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.44\"}", "/v1.51", 0 },
                { "{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.52\"}", NULL, -EPROTO },
                { "{\"ApiVersion\":\"1.40\"}", NULL, -EPROTO },
                { "{\"ApiVersion\":\"2.0\"}", NULL, -EBADMSG },
                { "{\"ApiVersion\":141}", NULL, -EBADMSG },
                { "[]", NULL, -EBADMSG },
                { "", NULL, -EBADMSG },
                { "<html>", NULL, -EBADMSG },
        };
        struct docker d = { .up = false };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct err err = ERR_INIT;

                assert_int_equal(docker_version_read(&d, cases[i].text, strlen(cases[i].text), &err), cases[i].r);
                if (cases[i].prefix)
                        assert_string_equal(d.prefix, cases[i].prefix);
        }
}

static void test_findings(void **state)
{
        static const char text[] =
                "{\"MemoryLimit\":false,\"SwapLimit\":false,\"PidsLimit\":true,\"SecurityOptions\":[],"
                "\"LiveRestoreEnabled\":false,\"OSType\":\"linux\",\"Plugins\":{\"Log\":[\"json-file\"]}}";
        struct docker d = { .up = false };
        char podman[100];

        (void)state;
        assert_int_equal(docker_info_read(&d, text, strlen(text), NULL), 0);
        assert_int_equal(d.n_findings, 6); /* memory, swap, seccomp, user namespaces, restart, log */
        assert_true(d.hindered);
        assert_int_equal(docker_info_read(&d, "nonsense", 8, NULL), -EBADMSG);
        assert_int_equal(d.n_findings, 6);
        d.podman = true;
        for (int v = 1; v <= 2; v++) {
                (void)snprintf(podman, sizeof(podman),
                               "{\"CgroupVersion\":\"%d\",\"Rootless\":true,\"OSType\":\"linux\"}", v);
                assert_int_equal(docker_info_read(&d, podman, strlen(podman), NULL), 0);
                assert_int_equal(d.n_findings, v == 1 ? 2 : 1); /* seccomp, control groups */
        }
        docker_info_done(&d);
}

static void take_line(const json_t *line, void *data)
{
        (void)line;
        ++*(unsigned *)data;
}

static void test_lines(void **state)
{
        static const char text[] = "{}\n{\"a\":1}\r\nnonsense\n[1]\n\n{\"b\":";
        struct docker_lines l = { .line = STR_INIT };
        auto_str large = STR_INIT;
        unsigned n = 0;

        (void)state;
        for (size_t i = 0; i < strlen(text); i++)
                assert_int_equal(docker_lines_feed(&l, text + i, 1, take_line, &n), 0);
        assert_int_equal(n, 2);
        assert_int_equal(docker_lines_feed(&l, "2}", 2, take_line, &n), 0);
        docker_lines_end(&l, take_line, &n);
        assert_int_equal(n, 3);
        for (int i = 0; i <= DOCKER_LINE_MAX; i++)
                assert_int_equal(str_addc(&large, ' '), 0);
        assert_int_equal(docker_lines_feed(&l, large.data, large.len, take_line, &n), -EMSGSIZE);
        docker_lines_done(&l);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_life, setup, teardown),
                cmocka_unit_test_setup_teardown(test_oom, setup, teardown),
                cmocka_unit_test_setup_teardown(test_start_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_wait_again, setup, teardown),
                cmocka_unit_test_setup_teardown(test_log, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stdin_outlives, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_while_paused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prewarm_stdin, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prewarm_unsure, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pull, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pull_errors, setup, teardown),
                cmocka_unit_test_setup_teardown(test_breaker, setup, teardown),
                cmocka_unit_test_setup_teardown(test_signals, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prewarm, setup, teardown),
                cmocka_unit_test(test_hosts),
                cmocka_unit_test(test_versions),
                cmocka_unit_test(test_findings),
                cmocka_unit_test(test_lines),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
