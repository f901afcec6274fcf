/* Whom the server lets in, and what it believes of them. */

#include "base/time.h"
#include "http/client.h"
#include "http/test_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/resource.h>

#define TURNS_MAX 20000

static const char *const proxies[] = { "127.0.0.1", "10.0.0.0/8", NULL };

static int setup(void **state)
{
        const struct http_config config = {
                .trusted_proxies = proxies,
                .body_budget = 3000,
                .body_budget_per_address = 2000,
        };

        *state = fixture_new(&config, false);
        return 0;
}

static int setup_few(void **state)
{
        const struct http_config config = { .max_connections = 2 };

        *state = fixture_new(&config, false);
        return 0;
}

static int setup_per_address(void **state)
{
        const struct http_config config = { .max_per_address = 2 };

        *state = fixture_new(&config, false);
        return 0;
}

static int setup_threaded(void **state)
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

static int dial(int port)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(fd_set_nonblock(fd, true), 0);
        return fd;
}

static void put(int fd, const char *text)
{
        assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Until the text is there, or the connection ends; whether it is there. */
static bool get(struct fixture *f, int fd, const char *needle, struct str *in)
{
        for (int i = 0; i < TURNS_MAX; i++) {
                char piece[4096];
                ssize_t n = recv(fd, piece, sizeof(piece), 0);

                if (n > 0)
                        assert_int_equal(str_add(in, piece, (size_t)n), 0);
                if (in->len > 0 && strstr(in->data, needle))
                        return true;
                if (n == 0 || (n < 0 && errno == ECONNRESET))
                        return false;
                if (n < 0)
                        assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        }
        fail_msg("neither '%s' nor an end in: %s", needle, in->data ? in->data : "");
        return false;
}

static void assert_answer(struct fixture *f, int port, const char *request, const char *needle)
{
        auto_str in = STR_INIT;
        auto_fd fd = dial(port);

        put(fd, request);
        if (!get(f, fd, needle, &in))
                fail_msg("no '%s' in: %s", needle, in.data ? in.data : "");
}

static void test_proxies(void **state)
{
#define GET "GET /x HTTP/1.1\r\nHost: x\r\n"
        static const struct {
                const char *request, *from;
        } plain[] = {
                { GET "\r\n", "from=127.0.0.1 " },
                { GET "X-Forwarded-For: 198.51.100.7\r\n\r\n", "from=198.51.100.7 " },
                { GET "X-Forwarded-For: 1.1.1.1, 198.51.100.7\r\nX-Forwarded-For: 10.0.0.5\r\n\r\n",
                  "from=198.51.100.7 " },
                { GET "X-Forwarded-For: unknown\r\n\r\n", "from=127.0.0.1 " },
                { "PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n" GET "\r\n", "HTTP/1.1 400" },
        };
        static const struct {
                const char *request, *from;
        } proxied[] = {
                { "PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n" GET "\r\n", "from=198.51.100.7 " },
                { "PROXY UNKNOWN\r\n" GET "\r\n", "from=127.0.0.1 " },
                /* Whom the proxy speaks for is not a proxy itself, and may say what it likes. */
                { "PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n" GET "X-Forwarded-For: 1.1.1.1\r\n\r\n",
                  "from=198.51.100.7 " },
                { "PROXY TCP4 10.0.0.9 10.0.0.1 1 2\r\n" GET "X-Forwarded-For: 192.0.2.1\r\n\r\n", "from=192.0.2.1 " },
        };
#undef GET
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f->proxy_port);

        for (size_t i = 0; i < ARRAY_LEN(plain); i++)
                assert_answer(f, f->tcp_port, plain[i].request, plain[i].from);
        for (size_t i = 0; i < ARRAY_LEN(proxied); i++)
                assert_answer(f, f->proxy_port, proxied[i].request, proxied[i].from);
        put(fd, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_false(get(f, fd, "HTTP", &in));
        assert_int_equal(in.len, 0);
}

static void test_proxy_in_pieces(void **state)
{
        static const char text[] = "PROXY TCP6 2001:db8::7 ::1 1 2\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n";
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f->proxy_port);

        for (size_t i = 0; i < sizeof(text) - 1; i++) {
                assert_int_equal(send(fd, text + i, 1, MSG_NOSIGNAL), 1);
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        }
        assert_true(get(f, fd, "from=2001:db8::7 ", &in));
}

/* One that has said nothing yet is open while the server ends, and another while it says who it is. */
static void test_ends_early(void **state)
{
        struct fixture *f = *state;
        int silent = dial(f->proxy_port), tls = dial(f->tls_port), half = dial(f->proxy_port);

        put(half, "PROXY TCP4 198.");
        for (int i = 0; i < 10; i++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        http_server_drain(f->server);
        http_server_free(f->server);
        f->server = NULL;
        fd_close(silent);
        fd_close(half);
        fd_close(tls);
}

static void test_budget(void **state)
{
        struct fixture *f = *state;
        int fds[4];

        f->charge = 1500;
        /* 1,500 of each of two addresses are all there is; the second of one address is more than its share. */
        for (int i = 0; i < 4; i++) {
                auto_free char *text = str_printf(
                        "POST /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.%d\r\nContent-Length: 6\r\n\r\nabc",
                        i == 1 ? 0 : i);
                auto_str in = STR_INIT;

                fds[i] = dial(f->tcp_port);
                put(fds[i], text);
                for (int k = 0; k < 10; k++)
                        assert_true(loop_turn(f->loop, 1, NULL) >= 0);
                if (i == 1 || i == 3) {
                        put(fds[i], "def");
                        assert_true(get(f, fds[i], "HTTP/1.1 503 ", &in));
                }
        }
        assert_int_equal(f->refused, 2);
        /* What was given back is there for the next. */
        fd_close(fds[0]);
        for (int k = 0; k < 10; k++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        assert_answer(f, f->tcp_port, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 200 ");
        for (int i = 1; i < 4; i++)
                fd_close(fds[i]);
}

static void test_per_address(void **state)
{
        static const char get_x[] = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
        struct fixture *f = *state;
        auto_str first = STR_INIT, third = STR_INIT, last = STR_INIT;
        int fds[5];

        for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
                fds[i] = dial(f->tcp_port);
                for (int k = 0; k < 5; k++)
                        assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        }
        put(fds[0], get_x);
        assert_true(get(f, fds[0], "HTTP/1.1 200 ", &first));
        put(fds[2], get_x);
        assert_true(get(f, fds[2], "HTTP/1.1 503 ", &third));
        assert_false(get(f, fds[2], "nothing else", &third));
        assert_false(get(f, fds[4], "HTTP", &last));
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
        for (int k = 0; k < 10; k++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        assert_answer(f, f->tcp_port, get_x, "HTTP/1.1 200 ");
}

/* Connections that bring no request make room for those that do. */
static void test_eviction(void **state)
{
        struct fixture *f = *state;
        int idle[6];

        for (size_t i = 0; i < ARRAY_LEN(idle); i++)
                idle[i] = dial(f->tcp_port);
        put(idle[0], "GET /x HTTP/1.1\r\nHost:");
        for (int i = 0; i < 3; i++)
                assert_answer(f, f->tcp_port, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 ");
        for (size_t i = 0; i < ARRAY_LEN(idle); i++)
                fd_close(idle[i]);
}

/* Open connections keep theirs. */
static void test_reload(void **state)
{
        struct fixture *f = *state;
        struct http_client_request request = { .method = "GET", .path = "/x", .body_fd = -EBADF };
        struct http_client_options options = { .host = f->tls_host, .pin = f->pin };
        struct http_client *old = NULL, *new = NULL;
        char pin[HTTP_TLS_PIN_MAX];
        struct err err = ERR_INIT;
        auto_answer a = { .status = 0 }, b = { .status = 0 }, c = { .status = 0 }, d = { .status = 0 };

        assert_int_equal(http_client_open(&options, &old, &err), 0);
        assert_int_equal(http_client_do(old, &request, &a, &err), 0);
        assert_int_equal(http_tls_make_self_signed("other.example", f->cert, f->key, &err), 0);
        assert_int_equal(http_tls_reload(f->tls, &err), 0);
        http_tls_pin(f->tls, pin);
        assert_string_not_equal(pin, f->pin);
        assert_int_equal(http_client_do(old, &request, &b, &err), 0);
        options.pin = pin;
        assert_int_equal(http_client_open(&options, &new, &err), 0);
        assert_int_equal(http_client_do(new, &request, &c, &err), 0);
        http_client_free(old);
        http_client_free(new);
        /* What cannot be used changes nothing. */
        assert_int_equal(truncate(f->key, 10), 0);
        assert_int_equal(http_tls_reload(f->tls, &err), -EINVAL);
        assert_int_equal(http_client_open(&options, &new, &err), 0);
        assert_int_equal(http_client_do(new, &request, &d, &err), 0);
        http_client_free(new);
}

static void test_certificates(void **state)
{
        static const char *const bad[] = { "", "a b", "a,DNS:evil.example", "x\n", "a/b" };
        struct fixture *f = *state;
        auto_free char *other = str_printf("%s/other.pem", f->dir), *other_key = str_printf("%s/other.key", f->dir);
        struct http_tls *t = NULL;
        struct err err = ERR_INIT;

        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(http_tls_make_self_signed(bad[i], other, other_key, &err), -EINVAL);
        assert_int_equal(http_tls_make_self_signed("localhost", other, other_key, &err), 0);
        assert_int_equal(http_tls_new_from_files(other, f->key, &t, &err), -EINVAL);
        assert_int_equal(http_tls_new_from_files(other_key, other_key, &t, &err), -EINVAL);
        assert_int_equal(http_tls_new_from_files("/none", other_key, &t, &err), -EINVAL);
        assert_null(t);
        (void)unlink(other);
        (void)unlink(other_key);
        http_tls_free(NULL);
}

/* The last descriptors are not for connections. */
static void test_reserve(void **state)
{
        const struct http_config config = { .max_connections = 0 };
        auto_fd probe = dup(STDOUT_FILENO);
        struct rlimit before, few;
        struct fixture *f;
        int fds[12];

        (void)state;
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        few = (struct rlimit){ .rlim_cur = (rlim_t)probe + 48, .rlim_max = before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        f = fixture_new(&config, false);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
                fds[i] = dial(f->tcp_port);
                put(fds[i], "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        for (int i = 0; i < 100; i++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        fd_replace(&probe, dup(STDOUT_FILENO));
        assert_true(probe >= 0);
        assert_true(http_server_open(f->server) > 0);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
        assert_answer(f, f->tcp_port, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 ");
        fixture_free(f);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_proxies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_proxy_in_pieces, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ends_early, setup, teardown),
                cmocka_unit_test_setup_teardown(test_budget, setup, teardown),
                cmocka_unit_test_setup_teardown(test_per_address, setup_per_address, teardown),
                cmocka_unit_test_setup_teardown(test_eviction, setup_few, teardown),
                cmocka_unit_test_setup_teardown(test_reload, setup_threaded, teardown),
                cmocka_unit_test_setup_teardown(test_certificates, setup, teardown),
                cmocka_unit_test(test_reserve),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
