/* Keys over the API: who may call, in what role, whose objects there are, and how often. */

#include "api/test_fixture.h"

#include "api/meters.h"
#include "api/roles.h"

/* A new key: `id:secret`. `more` are members of the request. */
static char *make_key(struct fixture *f, const char *role, const char *more)
{
        auto_free char *body = str_printf("{\"role\":\"%s\"%s%s}", role, more ? "," : "", more ? more : "");
        auto_json v = ask(f->client, "POST", "/v1/keys", NULL, "application/json", body, 201);

        assert_string_equal(text_of(v, "role"), role);
        assert_int_equal(strlen(text_of(v, "secret")), KEY_SECRET_LEN);
        return strdup(text_of(v, "key"));
}

static struct http_client *client_of(struct fixture *f, const char *key)
{
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(http_client_new(f->tcp, key, &c, &err), 0);
        return c;
}

static json_t *as(struct fixture *f, const char *key, const char *method, const char *path, const char *body,
                  long expected)
{
        struct http_client *c = client_of(f, key);
        json_t *v = ask(c, method, path, NULL, body ? "application/json" : NULL, body, expected);

        http_client_free(c);
        return v;
}

static void expect(struct fixture *f, const char *key, const char *method, const char *path, const char *body,
                   long status)
{
        auto_json v = as(f, key, method, path, body, status);

        assert_true(status < 400 || v);
}

static void test_credentials(void **state)
{
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "read", NULL);
        auto_free char *wrong = strdup(key);
        auto_free char *unknown = strdup(key);

        wrong[strlen(wrong) - 1] ^= 1;
        unknown[0] = unknown[0] == 'a' ? 'b' : 'a';
        expect(f, NULL, "GET", "/healthz", NULL, 200);
        expect(f, NULL, "GET", "/v1/version", NULL, 401);
        expect(f, NULL, "GET", "/v2", NULL, 401);
        expect(f, key, "GET", "/v1/version", NULL, 200);
        expect(f, key, "GET", "/v2", NULL, 404);
        expect(f, wrong, "GET", "/v1/version", NULL, 401);
        expect(f, unknown, "GET", "/v1/version", NULL, 401);
        expect(f, "x:", "GET", "/v1/version", NULL, 401);
}

/* What goes over the wire, and what comes back: the first line and the head. */
static void raw(struct fixture *f, const char *text, char *out, size_t size)
{
        struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        auto_fd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        size_t n = 0;
        ssize_t got;

        addr.sin_port = htons(f->port);
        assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        while (n + 1 < size && (got = read(fd, out + n, size - n - 1)) > 0)
                n += (size_t)got;
        out[n] = '\0';
}

static void test_schemes(void **state)
{
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "read", NULL);
        auto_free char *bearer = str_printf("GET /v1/version HTTP/1.1\r\nHost: x\r\nauthorization: bEarer  %s\r\n"
                                            "Connection: close\r\n\r\n",
                                            key);
        char out[2048];

        raw(f, bearer, out, sizeof(out));
        assert_true(str_starts(out, "HTTP/1.1 200 "));
        raw(f, "GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", out, sizeof(out));
        assert_true(str_starts(out, "HTTP/1.1 401 "));
        assert_non_null(strstr(out, "WWW-Authenticate: Basic realm=\"mayfly\""));
        assert_non_null(strstr(out, "WWW-Authenticate: Bearer realm=\"mayfly\""));
        raw(f, "GET /v1/version HTTP/1.1\r\nHost: x\r\nAuthorization: Digest abc\r\nConnection: close\r\n\r\n", out,
            sizeof(out));
        assert_true(str_starts(out, "HTTP/1.1 401 "));
        raw(f, "GET /v1/version HTTP/1.1\r\nHost: x\r\nAuthorization: Basic !!!\r\nConnection: close\r\n\r\n", out,
            sizeof(out));
        assert_true(str_starts(out, "HTTP/1.1 401 "));
}

static void test_life_of_a_key(void **state)
{
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "task",
                                       "\"name\":\"ci\",\"expires_in\":\"1h\",\"limits\":{\"memory\":\"64m\"},"
                                       "\"images\":[\"docker.io/library/*\"]");
        auto_free char *path = str_printf("/v1/keys/%.*s", KEY_ID_LEN, key);
        auto_json one = NULL;
        auto_json all = NULL;
        auto_json none = NULL;

        expect(f, key, "GET", "/v1/version", NULL, 200);
        one = get(f, path, 200);
        assert_string_equal(text_of(one, "name"), "ci");
        assert_int_equal(json_integer_value(json_object_get(json_object_get(one, "limits"), "memory")), 64 << 20);
        assert_true(*text_of(one, "expires_at") && *text_of(one, "last_used_at"));
        assert_null(json_object_get(one, "secret"));
        assert_true(json_is_null(json_object_get(one, "revoked_at")));
        all = get(f, "/v1/keys", 200);
        assert_int_equal(json_array_size(json_object_get(all, "keys")), 1);
        none = ask(f->client, "DELETE", path, NULL, NULL, NULL, 204);
        assert_null(none);
        expect(f, key, "GET", "/v1/version", NULL, 401);
        json_decref(one);
        one = get(f, path, 200);
        assert_true(*text_of(one, "revoked_at"));
        assert_null(ask(f->client, "DELETE", path, NULL, NULL, NULL, 204));
        json_decref(ask(f->client, "DELETE", "/v1/keys/nobody", NULL, NULL, NULL, 404));
}

static void test_bad_keys(void **state)
{
        static const struct {
                const char *body, *pointer;
        } cases[] = {
                { "{}", "/role" },
                { "{\"role\":\"root\"}", "/role" },
                { "{\"role\":\"task\",\"colour\":1}", "/colour" },
                { "{\"role\":\"task\",\"expires_in\":0}", "/expires_in" },
                { "{\"role\":\"task\",\"expires_at\":\"2000-01-01T00:00:00Z\"}", "/expires_at" },
                { "{\"role\":\"task\",\"limits\":{\"memory\":0}}", "/limits/memory" },
                { "{\"role\":\"task\",\"limits\":{\"rate\":-1}}", "/limits/rate" },
                { "{\"role\":\"task\",\"networks\":[\"host\"]}", "/networks" },
                { "{\"role\":\"task\",\"images\":[]}", "/images" },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_json v = ask(f->client, "POST", "/v1/keys", NULL, "application/json", cases[i].body, 400);

                assert_problem(v, "bad_request", 400);
                assert_string_equal(text_of(json_array_get(json_object_get(v, "errors"), 0), "pointer"),
                                    cases[i].pointer);
        }
}

/* Each role with each route; whose object it is comes below. */
static void test_roles(void **state)
{
        static const struct {
                const char *method, *path, *body;
                long expected[KEY_ROLES]; /* admin, deploy, task, read */
        } rows[] = {
                { "GET", "/v1/version", NULL, { 200, 200, 200, 200 } },
                { "GET", "/v1/engines", NULL, { 200, 200, 200, 200 } },
                { "GET", "/v1/health", NULL, { 200, 200, 200, 200 } },
                { "POST", "/v1/tasks", "{\"image\":\"busybox:demo\"}", { 201, 403, 201, 403 } },
                { "GET", "/v1/tasks", NULL, { 200, 403, 200, 200 } },
                { "GET", "/v1/tasks/stream", NULL, { 426, 403, 426, 403 } },
                { "GET", "/v1/images", NULL, { 200, 200, 200, 200 } },
                { "GET", "/v1/images/busybox:demo", NULL, { 200, 200, 200, 200 } },
                { "DELETE", "/v1/images/busybox:demo", NULL, { 200, 200, 403, 403 } },
                { "GET", "/v1/keys", NULL, { 200, 403, 403, 403 } },
                { "POST", "/v1/keys", "{\"role\":\"read\"}", { 201, 403, 403, 403 } },
                { "DELETE", "/v1/keys/x", NULL, { 404, 403, 403, 403 } },
        };
        struct fixture *f = *state;

        for (int role = 0; role < KEY_ROLES; role++) {
                auto_free char *key = make_key(f, key_role_names[role], NULL);

                for (size_t i = 0; i < ARRAY_LEN(rows); i++)
                        expect(f, key, rows[i].method, rows[i].path, rows[i].body, rows[i].expected[role]);
        }
}

static void test_ownership(void **state)
{
        struct fixture *f = *state;
        auto_free char *mine = make_key(f, "task", NULL);
        auto_free char *other = make_key(f, "task", NULL);
        auto_free char *admin = make_key(f, "admin", NULL);
        auto_free char *reader = make_key(f, "read", NULL);
        auto_json t = as(f, mine, "POST", "/v1/tasks", "{\"image\":\"busybox:demo\",\"cmd\":[\"cat\"],\"stdin\":\"x\"}",
                         201);
        auto_free char *path = str_printf("/v1/tasks/%s", text_of(t, "id"));
        auto_free char *wait = str_printf("%s/wait", path);
        auto_free char *cancel = str_printf("%s/cancel", path);
        auto_json seen = NULL;
        auto_json hidden = NULL;

        expect(f, mine, "GET", path, NULL, 200);
        expect(f, reader, "GET", path, NULL, 200);
        expect(f, admin, "GET", wait, NULL, 200);
        expect(f, other, "GET", path, NULL, 404);
        expect(f, other, "GET", wait, NULL, 404);
        expect(f, other, "POST", cancel, NULL, 404);
        expect(f, other, "DELETE", path, NULL, 404);
        expect(f, reader, "DELETE", path, NULL, 403);
        seen = as(f, mine, "GET", "/v1/tasks", NULL, 200);
        assert_int_equal(json_array_size(json_object_get(seen, "tasks")), 1);
        hidden = as(f, other, "GET", "/v1/tasks", NULL, 200);
        assert_int_equal(json_array_size(json_object_get(hidden, "tasks")), 0);
        expect(f, mine, "POST", cancel, NULL, 200);
        expect(f, mine, "DELETE", path, NULL, 204);
        expect(f, mine, "GET", path, NULL, 404);
}

/* The same while it runs. */
static void test_ownership_of_live_tasks(void **state)
{
        struct fixture *f = *state;
        auto_free char *other = make_key(f, "task", NULL);
        auto_free char *reader = make_key(f, "read", NULL);
        auto_fd fd = start_task(f, NULL);
        auto_json running = wait_count(f, "running", 1);
        const json_t *t = json_array_get(json_object_get(running, "tasks"), 0);
        auto_free char *path = str_printf("/v1/tasks/%s", text_of(t, "id"));
        auto_free char *cancel = str_printf("%s/cancel", path);
        auto_json seen = as(f, other, "GET", "/v1/tasks", NULL, 200);

        assert_int_equal(json_array_size(json_object_get(seen, "tasks")), 0);
        expect(f, other, "GET", path, NULL, 404);
        expect(f, other, "POST", cancel, NULL, 404);
        expect(f, other, "DELETE", path, NULL, 404);
        expect(f, reader, "GET", path, NULL, 200);
        expect(f, reader, "POST", cancel, NULL, 403);
        wait_for(f, "running", 1);
}

/* A body without a length is bounded by what comes. */
static void test_chunked_body_too_long(void **state)
{
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "admin", NULL);
        auto_str text = STR_INIT;
        char out[2048];

        assert_int_equal(
                str_addf(&text,
                         "POST /v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n"
                         "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n",
                         key),
                0);
        for (int i = 0; i < 0x11170; i++)
                assert_int_equal(str_addc(&text, ' '), 0);
        assert_int_equal(str_adds(&text, "\r\n0\r\n\r\n"), 0);
        raw(f, text.data, out, sizeof(out));
        assert_true(str_starts(out, "HTTP/1.1 413 "));
}

static void test_maxima(void **state)
{
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "task",
                                       "\"limits\":{\"memory\":\"64m\"},\"images\":[\"docker.io/library/b*\"],"
                                       "\"networks\":[\"none\"]");
        auto_json refused = as(f, key, "POST", "/v1/tasks",
                               "{\"image\":\"b\",\"network\":\"nat\",\"limits\":{\"memory\":\"65m\"}}", 403);
        auto_json of_image = as(f, key, "POST", "/v1/tasks", "{\"image\":\"c\",\"network\":\"none\"}", 403);
        auto_json good = as(f, key, "POST", "/v1/tasks", "{\"image\":\"b\",\"network\":\"none\"}", 201);

        assert_problem(refused, "not_allowed", 403);
        assert_int_equal(json_array_size(json_object_get(refused, "errors")), 2);
        assert_problem(of_image, "not_allowed", 403);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(good, "limits"), "memory")), 64 << 20);
}

/* A digest may lead to an image that no name leads to: that is none of a name that is allowed. */
static void test_image_without_a_name(void **state)
{
        static const char request[] = "{\"image\":\"busybox:demo\",\"network\":\"none\"}";
        struct fixture *f = *state;
        auto_free char *some = make_key(f, "task", "\"images\":[\"docker.io/library/*\"]");
        auto_free char *all = make_key(f, "task", "\"images\":[\"*\"]");
        auto_json refused = NULL;

        expect(f, some, "POST", "/v1/tasks", request, 201);
        image.names = NULL;
        refused = as(f, some, "POST", "/v1/tasks", request, 403);
        expect(f, all, "POST", "/v1/tasks", request, 201);
        image.names = image_names;
        assert_problem(refused, "not_allowed", 403);
}

static int connect_tcp(struct fixture *f)
{
        struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        addr.sin_port = htons(f->port);
        assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        return fd;
}

static void assert_answer(int fd, const char *begins)
{
        char out[2048];
        size_t n = 0;
        ssize_t got;

        while (n + 1 < sizeof(out) && (got = read(fd, out + n, sizeof(out) - n - 1)) > 0)
                n += (size_t)got;
        out[n] = '\0';
        assert_true(str_starts(out, begins));
}

static void revoke_key(struct fixture *f, const char *key)
{
        auto_free char *path = str_printf("/v1/keys/%.*s", KEY_ID_LEN, key);

        assert_null(ask(f->client, "DELETE", path, NULL, NULL, NULL, 204));
}

/* Who sends the head of a request, and waits with its body until the key is revoked, gets nothing done by it. */
static void test_revoked_before_the_body(void **state)
{
        static const struct {
                const char *path, *type, *body;
        } rows[] = {
                { "/v1/keys", "application/json", "{\"role\":\"admin\"}" },
                { "/v1/tasks", "application/json", "{\"image\":\"b\"}" },
                { "/v1/images/load", "application/x-tar", "tar" },
        };
        struct fixture *f = *state;
        auto_json keys = NULL;

        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                auto_free char *key = make_key(f, "admin", NULL);
                auto_free char *path = str_printf("/v1/keys/%.*s", KEY_ID_LEN, key);
                auto_free char *head = str_printf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                                                  "Content-Type: %s\r\nContent-Length: %zu\r\n"
                                                  "Connection: close\r\n\r\n",
                                                  rows[i].path, key, rows[i].type, strlen(rows[i].body));
                auto_fd fd = connect_tcp(f);
                auto_json used = NULL;

                assert_int_equal(fd_write_all(fd, head, strlen(head)), 0);
                do {
                        json_decref(used);
                        used = get(f, path, 200);
                } while (!*text_of(used, "last_used_at"));
                revoke_key(f, key);
                assert_int_equal(fd_write_all(fd, rows[i].body, strlen(rows[i].body)), 0);
                assert_answer(fd, "HTTP/1.1 401 ");
        }
        keys = get(f, "/v1/keys", 200);
        assert_int_equal(json_array_size(json_object_get(keys, "keys")), ARRAY_LEN(rows));
}

/* A task that another key runs: who waits for its end does not get it with a key that is revoked meanwhile. */
static void test_revoked_while_waiting(void **state)
{
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "read", NULL);
        auto_free char *key_path = str_printf("/v1/keys/%.*s", KEY_ID_LEN, key);
        auto_fd task = start_task(f, NULL);
        auto_json running = wait_count(f, "running", 1);
        const json_t *t = json_array_get(json_object_get(running, "tasks"), 0);
        auto_free char *head = str_printf("GET /v1/tasks/%s/wait HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                                          "Connection: close\r\n\r\n",
                                          text_of(t, "id"), key);
        auto_free char *cancel = str_printf("/v1/tasks/%s/cancel", text_of(t, "id"));
        auto_fd fd = connect_tcp(f);
        auto_json used = NULL;

        assert_int_equal(fd_write_all(fd, head, strlen(head)), 0);
        do {
                json_decref(used);
                used = get(f, key_path, 200);
        } while (!*text_of(used, "last_used_at"));
        (void)usleep(20000); /* it waits, or is about to, with the same answer */
        revoke_key(f, key);
        json_decref(ask(f->client, "POST", cancel, NULL, NULL, NULL, 202));
        assert_answer(fd, "HTTP/1.1 401 ");
}

/* A browser sends the credentials that it has for us with whatever a page of another site asks for, without asking first where
 * no JSON is sent. */
static void test_pages_of_other_sites(void **state)
{
        static const struct {
                const char *line, *origin, *begins;
        } rows[] = {
                { "POST /v1/tasks/00000000000000000000000000/cancel", "https://evil.example", "HTTP/1.1 403 " },
                { "POST /v1/tasks/00000000000000000000000000/cancel", "null", "HTTP/1.1 403 " },
                { "POST /v1/tasks/00000000000000000000000000/cancel", "http://here:1", "HTTP/1.1 404 " },
                { "POST /v1/images/import?ref=busybox:demo", "https://evil.example", "HTTP/1.1 403 " },
                { "POST /v1/images/load", "https://evil.example", "HTTP/1.1 403 " },
                { "POST /v1.1/tasks", "https://evil.example", "HTTP/1.1 403 " },
                { "DELETE /v1/images/busybox:demo", "https://evil.example", "HTTP/1.1 403 " },
                { "GET /v1/version", "https://evil.example", "HTTP/1.1 200 " },
        };
        struct fixture *f = *state;
        auto_free char *key = make_key(f, "admin", NULL);

        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                bool post = str_starts(rows[i].line, "POST");
                auto_free char *head = str_printf("%s HTTP/1.1\r\nHost: here:1\r\nAuthorization: Bearer %s\r\n"
                                                  "Origin: %s\r\n%sConnection: close\r\n\r\n%s",
                                                  rows[i].line, key, rows[i].origin,
                                                  post ? "Content-Length: 3\r\n" : "", post ? "tar" : "");
                auto_fd fd = connect_tcp(f);

                assert_int_equal(fd_write_all(fd, head, strlen(head)), 0);
                assert_answer(fd, rows[i].begins);
        }
}

static int setup_limited(void **state)
{
        return setup_with(state,
                          &(struct meters_config){
                                  .key_rate = 0.001, .key_burst = 3, .address_rate = 0.001, .address_burst = 6 });
}

static void test_rates(void **state)
{
        struct fixture *f = *state;
        auto_free char *one = make_key(f, "read", NULL);
        auto_free char *two = make_key(f, "read", NULL);
        auto_json v = NULL;

        for (int i = 0; i < 3; i++)
                expect(f, one, "GET", "/v1/version", NULL, 200);
        v = as(f, one, "GET", "/v1/version", NULL, 429);
        assert_problem(v, "rate_limited", 429);
        for (int i = 0; i < 2; i++)
                expect(f, two, "GET", "/v1/version", NULL, 200);
        /* The address has had its six now, the unix socket has no bound. */
        expect(f, two, "GET", "/v1/version", NULL, 429);
        for (int i = 0; i < 8; i++)
                json_decref(get(f, "/v1/version", 200));
}

/* What takes long ends with its key, whether its client follows it or waits. */
static void test_revoked_while_verifying(void **state)
{
        static const struct {
                const char *accept, *begins, *holds;
        } rows[] = { { "text/event-stream", "HTTP/1.1 200 ", "" }, { "*/*", "HTTP/1.1 401 ", "unauthorized" } };
        struct fixture *f = *state;

        atomic_store(&store_delay_ns, 2 * NS_PER_S);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                auto_free char *key = make_key(f, "deploy", NULL);
                auto_free char *path = str_printf("/v1/keys/%.*s", KEY_ID_LEN, key);
                auto_free char *head = str_printf("POST /v1/images/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                                                  "%s\r\nAccept: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                                                  key, rows[i].accept);
                auto_fd fd = connect_tcp(f);
                auto_json used = NULL;
                char out[4096];
                size_t n = 0;
                ssize_t got;

                assert_int_equal(fd_write_all(fd, head, strlen(head)), 0);
                do {
                        json_decref(used);
                        used = get(f, path, 200);
                } while (!*text_of(used, "last_used_at"));
                (void)usleep(20000);
                revoke_key(f, key);
                while (n + 1 < sizeof(out) && (got = read(fd, out + n, sizeof(out) - n - 1)) > 0)
                        n += (size_t)got;
                out[n] = '\0';
                assert_true(str_starts(out, rows[i].begins));
                assert_non_null(strstr(out, rows[i].holds));
                assert_null(strstr(out, "faults"));
        }
        atomic_store(&store_delay_ns, 0);
}

static int setup_closed(void **state)
{
        static char secret[] = "docker.io/acme/secret:1", *names[] = { secret, image_name, NULL };

        fixture_pulls = (struct image_pulls *)(void *)&fixture_pulls;
        image.names = names;
        return setup(state);
}

static int teardown_closed(void **state)
{
        fixture_pulls = NULL;
        image.names = image_names;
        return teardown(state);
}

/* A name in a repository that is closed to a key stands in no answer that it gets. */
static void test_closed_names(void **state)
{
        static const struct {
                const char *method, *path;
        } rows[] = {
                { "GET", "/v1/images" },
                { "GET", "/v1/images/busybox:demo" },
                { "GET", "/v1/health" },
                { "POST", "/v1/images/verify" },
                { "POST", "/v1/images/prune?unused_for=1h" },
                { "POST", "/v1/images/prune?dry_run=false&all=1" },
        };
        struct fixture *f = *state;
        auto_free char *deploy = make_key(f, "deploy", NULL);
        auto_free char *admin = make_key(f, "admin", NULL);

        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                auto_json closed = as(f, deploy, rows[i].method, rows[i].path, NULL, 200);
                auto_json open = as(f, admin, rows[i].method, rows[i].path, NULL, 200);
                auto_free char *text = json_dumps(closed, 0), *all = json_dumps(open, 0);

                assert_null(strstr(text, "secret"));
                assert_null(strstr(text, "was left out"));
                assert_true(strstr(all, "secret") || strstr(all, "was left out"));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_credentials, setup, teardown),
                cmocka_unit_test_setup_teardown(test_schemes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_life_of_a_key, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_keys, setup, teardown),
                cmocka_unit_test_setup_teardown(test_roles, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ownership, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ownership_of_live_tasks, setup, teardown),
                cmocka_unit_test_setup_teardown(test_chunked_body_too_long, setup, teardown),
                cmocka_unit_test_setup_teardown(test_maxima, setup, teardown),
                cmocka_unit_test_setup_teardown(test_image_without_a_name, setup, teardown),
                cmocka_unit_test_setup_teardown(test_revoked_before_the_body, setup, teardown),
                cmocka_unit_test_setup_teardown(test_revoked_while_waiting, setup, teardown),
                cmocka_unit_test_setup_teardown(test_revoked_while_verifying, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pages_of_other_sites, setup, teardown),
                cmocka_unit_test_setup_teardown(test_closed_names, setup_closed, teardown_closed),
                cmocka_unit_test_setup_teardown(test_rates, setup_limited, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
