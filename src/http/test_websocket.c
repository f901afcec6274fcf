/* The command's client and the server, through sockets of every kind. */

#include "base/time.h"
#include "http/client.h"
#include "http/test_fixture.h"

#include <fcntl.h>
#include <poll.h>

#define LARGE 900000

static int setup(void **state)
{
        const struct http_config config = { .max_connections = 0 };

        *state = fixture_new(&config, true);
        return 0;
}

static int teardown(void **state)
{
        fixture_free(*state);
        return 0;
}

struct seen {
        unsigned messages, fail_at;
        size_t bytes, last_len;
        bool last_text;
        char last[64];
};

static int on_message(bool text, const void *data, size_t len, void *arg)
{
        struct seen *s = arg;

        s->messages++;
        s->bytes += len;
        s->last_len = len;
        s->last_text = text;
        (void)snprintf(s->last, sizeof(s->last), "%.*s", (int)MIN(len, (size_t)60), (const char *)data);
        return s->fail_at && s->messages == s->fail_at ? -ENOSPC : 0;
}

static struct http_client *client(const struct fixture *f, const char *host)
{
        const struct http_client_options options = {
                .host = host,
                .key = "id:secret",
                .pin = str_starts(host, "https") ? f->pin : NULL,
        };
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(http_client_open(&options, &c, &err), 0);
        return c;
}

static struct http_ws_client *ws_open(const struct fixture *f, const char *host, struct seen *s)
{
        static const struct http_ws_client_handler handler = { .message = on_message };
        auto_answer refused = { .status = 0 };
        struct http_client *c = client(f, host);
        struct http_ws_client *w = NULL;
        struct err err = ERR_INIT;
        int r = http_ws_client_open(c, "/ws", NULL, &handler, s, &w, &refused, &err);

        if (r < 0)
                print_error("%s: %s\n", host, err.text);
        assert_int_equal(r, 0);
        http_client_free(c);
        return w;
}

/* Until that many messages came, or the connection ended. */
static int pump(struct http_ws_client *w, const struct seen *s, unsigned messages)
{
        uint64_t give_up = time_mono_ns() + 60 * NS_PER_S;
        int r = 1;

        while (r > 0 && s->messages < messages) {
                struct pollfd fd = { .fd = http_ws_client_fd(w) };

                r = http_ws_client_pump(w, NULL);
                fd.events = http_ws_client_events(w);
                if (r > 0 && s->messages < messages)
                        (void)poll(&fd, 1, 1000);
                assert_true(time_mono_ns() < give_up);
        }
        return r;
}

static void echo(const struct fixture *f, const char *host)
{
        struct seen s = { .messages = 0 };
        struct http_ws_client *w = ws_open(f, host, &s);
        auto_free char *large = calloc(1, LARGE);

        assert_int_equal(http_ws_client_send(w, true, "hello", 5), 0);
        assert_int_equal(pump(w, &s, 1), 1);
        assert_string_equal(s.last, "hello");
        assert_true(s.last_text);
        for (unsigned i = 0; i < 300; i++)
                assert_int_equal(http_ws_client_send(w, false, "01234567", 8), 0);
        assert_int_equal(pump(w, &s, 301), 1);
        assert_int_equal(s.bytes, 5 + 300 * 8);
        assert_false(s.last_text);
        assert_int_equal(http_ws_client_send(w, false, large, LARGE), 0);
        assert_true(http_ws_client_pending(w) >= LARGE);
        assert_int_equal(pump(w, &s, 302), 1);
        assert_int_equal(s.last_len, LARGE);
        assert_int_equal(http_ws_client_pending(w), 0);
        assert_int_equal(http_ws_client_close(w, 1000), 0);
        assert_int_equal(http_ws_client_send(w, true, "late", 4), -ESHUTDOWN);
        assert_int_equal(pump(w, &s, UINT32_MAX), 0);
        assert_int_equal(http_ws_client_code(w), 1000);
        http_ws_client_free(w);
}

static void test_echo_unix(void **state)
{
        struct fixture *f = *state;

        echo(f, f->unix_host);
}

static void test_echo_tcp(void **state)
{
        struct fixture *f = *state;

        echo(f, f->tcp_host);
}

static void test_echo_tls(void **state)
{
        struct fixture *f = *state;

        echo(f, f->tls_host);
}

static void test_server_closes(void **state)
{
        struct fixture *f = *state;
        const char *hosts[] = { f->unix_host, f->tcp_host, f->tls_host };

        for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
                struct seen s = { .messages = 0 };
                struct http_ws_client *w = ws_open(f, hosts[i], &s);

                assert_int_equal(http_ws_client_send(w, true, "close", 5), 0);
                assert_int_equal(pump(w, &s, UINT32_MAX), 0);
                assert_int_equal(http_ws_client_code(w), 4000);
                http_ws_client_free(w);
        }
}

/* More than the server takes, what is no UTF-8, and a client that goes without a word. */
static void test_ends(void **state)
{
        struct fixture *f = *state;
        auto_free char *huge = calloc(1, 1024 * 1024 + 1);
        const struct {
                bool text;
                const char *data;
                size_t len;
                unsigned code;
        } cases[] = { { false, huge, 1024 * 1024 + 1, 1009 }, { true, "\xff\xfe", 2, 1007 } };
        struct seen s = { .messages = 0 };
        struct http_ws_client *w;

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                w = ws_open(f, f->tcp_host, &s);
                assert_int_equal(http_ws_client_send(w, cases[i].text, cases[i].data, cases[i].len), 0);
                assert_int_equal(pump(w, &s, UINT32_MAX), 0);
                assert_int_equal(http_ws_client_code(w), cases[i].code);
                http_ws_client_free(w);
        }
        w = ws_open(f, f->tcp_host, &s);
        http_ws_client_free(w);
        w = ws_open(f, f->unix_host, &s);
        s.fail_at = s.messages + 1;
        assert_int_equal(http_ws_client_send(w, true, "x", 1), 0);
        assert_int_equal(pump(w, &s, UINT32_MAX), -ENOSPC);
        http_ws_client_free(w);
        /* One is open while its server ends. */
        s.fail_at = 0;
        w = ws_open(f, f->unix_host, &s);
        assert_int_equal(http_ws_client_send(w, true, "y", 1), 0);
        (void)pump(w, &s, s.messages + 1);
        http_ws_client_free(w);
}

static int setup_budget(void **state)
{
        const struct http_config config = { .body_budget = LARGE, .body_budget_per_address = LARGE / 2 };

        *state = fixture_new(&config, true);
        return 0;
}

/* A message that is coming is memory for a body, until it was told. */
static void test_budget(void **state)
{
        struct fixture *f = *state;
        auto_free char *large = calloc(1, LARGE);
        struct seen s = { .messages = 0 };
        struct http_ws_client *w = ws_open(f, f->tcp_host, &s);

        for (unsigned i = 1; i <= 5; i++) {
                assert_int_equal(http_ws_client_send(w, false, large, LARGE / 2), 0);
                assert_int_equal(pump(w, &s, i), 1);
        }
        assert_int_equal(http_ws_client_send(w, false, large, LARGE), 0);
        assert_int_equal(pump(w, &s, UINT32_MAX), 0);
        assert_int_equal(http_ws_client_code(w), 1009);
        assert_int_equal(s.messages, 5);
        http_ws_client_free(w);
        /* What the one that was refused had taken is there again. */
        w = ws_open(f, f->tcp_host, &s);
        assert_int_equal(http_ws_client_send(w, false, large, LARGE / 2), 0);
        assert_int_equal(pump(w, &s, 6), 1);
        http_ws_client_free(w);
}

static void test_refused(void **state)
{
        static const char *const evil[] = { "Origin: https://evil.example", NULL };
        static const struct http_ws_client_handler handler = { .message = on_message };
        struct fixture *f = *state;
        const struct {
                const char *path;
                const char *const *headers;
                long status;
        } cases[] = { { "/ws", evil, 403 }, { "/x", NULL, 200 }, { "/x?n=404", NULL, 404 } };

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                const char *hosts[] = { f->unix_host, f->tls_host };

                for (size_t k = 0; k < ARRAY_LEN(hosts); k++) {
                        struct http_client *c = client(f, hosts[k]);
                        auto_answer refused = { .status = 0 };
                        struct http_ws_client *w = NULL;
                        struct err err = ERR_INIT;

                        assert_int_equal(http_ws_client_open(c, cases[i].path, cases[i].headers, &handler, NULL, &w,
                                                             &refused, &err),
                                         -EPROTO);
                        assert_int_equal(refused.status, cases[i].status);
                        assert_true(refused.body.len > 0);
                        assert_null(w);
                        http_client_free(c);
                }
        }
}

/* ── requests of the same client ───────────────────────────────────────────────────────────────────────────────────── */

static int count_bytes(const void *data, size_t len, void *arg)
{
        size_t *n = arg;

        (void)data;
        *n += len;
        return *n > 5000000 ? -ENOSPC : 0;
}

static void test_requests(void **state)
{
        struct fixture *f = *state;
        const char *hosts[] = { f->unix_host, f->tcp_host, f->tls_host };

        for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
                size_t n = 0;
                struct http_client_request stream = {
                        .method = "GET",
                        .path = "/stream?n=4000001",
                        .body_fd = -EBADF,
                        .on_data = count_bytes,
                        .on_data_arg = &n,
                };
                struct http_client_request file = { .method = "GET", .path = "/fd", .body_fd = -EBADF };
                struct http_client_request head = { .method = "HEAD", .path = "/stream?n=5", .body_fd = -EBADF };
                struct http_client_request cut = { .method = "GET", .path = "/cut", .body_fd = -EBADF };
                struct http_client_request refused = stream;
                auto_answer a = { .status = 0 }, b = { .status = 0 }, c = { .status = 0 }, d = { .status = 0 };
                struct http_client *client_ = client(f, hosts[i]);
                struct err err = ERR_INIT;

                assert_int_equal(http_client_do(client_, &stream, &a, &err), 0);
                assert_int_equal(n, 4000001);
                assert_int_equal(a.body.len, 0);
                assert_int_equal(http_client_do(client_, &file, &b, &err), 0);
                assert_string_equal(b.body.data, FIXTURE_FILE);
                assert_string_equal(b.content_type, "text/x-file");
                assert_int_equal(http_client_do(client_, &head, &c, &err), 0);
                assert_int_equal(c.body.len, 0);
                /* What is no success is collected for who shows it. */
                refused.path = "/x?n=404";
                assert_int_equal(http_client_do(client_, &refused, &d, &err), 0);
                assert_int_equal(d.status, 404);
                assert_true(d.body.len > 0);
                assert_int_equal(n, 4000001);
                assert_int_equal(http_client_do(client_, &cut, &d, &err), -ECONNRESET);
                assert_int_equal(http_client_do(client_, &stream, &d, &err), -ENOSPC);
                http_client_free(client_);
        }
}

static void assert_rejected(const struct http_client_options *options)
{
        struct http_client_request get = { .method = "GET", .path = "/x", .body_fd = -EBADF };
        auto_answer answer = { .status = 0 };
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(http_client_open(options, &c, &err), 0);
        assert_int_equal(http_client_do(c, &get, &answer, &err), -EKEYREJECTED);
        http_client_free(c);
}

static void test_trust(void **state)
{
        struct fixture *f = *state;
        struct http_client_request get = { .method = "GET", .path = "/x", .body_fd = -EBADF };
        auto_free char *by_address = str_printf("https://127.0.0.1:%d", f->tls_port);
        const struct http_client_options trusted = { .host = by_address, .cacert = f->cert };
        const struct http_client_options unknown = { .host = f->tls_host };
        const struct http_client_options other = {
                .host = f->tls_host,
                .pin = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        };
        auto_answer answer = { .status = 0 };
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(http_client_open(&trusted, &c, &err), 0);
        assert_int_equal(http_client_do(c, &get, &answer, &err), 0);
        assert_string_equal(answer.body.data, "GET /x from=127.0.0.1 tls=1 body=0 key=- extra=-");
        http_client_free(c);
        assert_rejected(&unknown);
        assert_rejected(&other);
}

/* A program in the place of ssh, which joins us to the socket. */
static void test_ssh(void **state)
{
        static const char script[] =
                "#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$0.args\"\nexec socat - UNIX-CONNECT:\"$TEST_SOCKET\"\n";
        struct http_client_request get = { .method = "GET", .path = "/x", .body_fd = -EBADF };
        static const char *const command[] = { "mayfly", "it's", NULL };
        const struct http_client_options options = { .host = "ssh://me@[::1]:22/", .ssh_command = command };
        struct fixture *f = *state;
        auto_free char *ssh = str_printf("%s/ssh", f->dir), *args = str_printf("%s/ssh.args", f->dir);
        auto_free char *path = str_printf("%s:%s", f->dir, getenv("PATH"));
        auto_str text = STR_INIT;
        auto_answer first = { .status = 0 }, second = { .status = 0 };
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(fd_write_file(AT_FDCWD, ssh, 0700, script, sizeof(script) - 1, &err), 0);
        assert_int_equal(setenv("PATH", path, 1) + setenv("TEST_SOCKET", f->path, 1), 0);
        assert_int_equal(http_client_open(&options, &c, &err), 0);
        assert_int_equal(http_client_do(c, &get, &first, &err), 0);
        assert_int_equal(http_client_do(c, &get, &second, &err), 0);
        http_client_free(c);
        assert_string_equal(first.body.data, "GET /x from=unix tls=0 body=0 key=- extra=-");
        assert_int_equal(fd_read_file(AT_FDCWD, args, 4096, &text, &err), 0);
        assert_string_equal(text.data, "-T\n-p\n22\n--\nme@::1\n'mayfly' 'it'\\''s'\n");
        (void)unlink(ssh);
        (void)unlink(args);
}

static void test_ssh_hosts(void **state)
{
        static const char *const bad[] = {
                "ssh://",      "ssh://-oProxyCommand=x",
                "ssh://a@-b",  "ssh://-a@b",
                "ssh://a b",   "ssh://a;b",
                "ssh://a:0",   "ssh://a:99999",
                "ssh://a:b",   "ssh://[::1",
                "ssh://a/b",   "ssh://$(x)",
                "ssh://a@b@c", "ssh://@b",
                "ssh://a@",
        };
        static const char *const good[] = { "ssh://a", "ssh://a.b-c:22", "ssh://u_1@h/", "ssh://u@[fe80::1%eth0]:2" };
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                assert_int_equal(http_client_new(bad[i], NULL, &c, &err), -EINVAL);
                assert_null(c);
        }
        for (size_t i = 0; i < ARRAY_LEN(good); i++) {
                assert_int_equal(http_client_new(good[i], NULL, &c, &err), 0);
                http_client_free(c);
                c = NULL;
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_echo_unix, setup, teardown),
                cmocka_unit_test_setup_teardown(test_echo_tcp, setup, teardown),
                cmocka_unit_test_setup_teardown(test_echo_tls, setup, teardown),
                cmocka_unit_test_setup_teardown(test_server_closes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ends, setup, teardown),
                cmocka_unit_test_setup_teardown(test_budget, setup_budget, teardown),
                cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
                cmocka_unit_test_setup_teardown(test_trust, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ssh, setup, teardown),
                cmocka_unit_test(test_ssh_hosts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
