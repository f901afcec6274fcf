/* Connections under TLS, as the server's end sees them. */

#include "http/internal.h"
#include "http/test_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/resource.h>

#define TURNS_MAX 20000

struct peer {
        int fd;
        SSL *ssl;
};

static SSL_CTX *client_ctx;

static void turns(struct fixture *f, int n)
{
        for (int i = 0; i < n; i++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
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

static struct peer peer_new(int fd)
{
        struct peer p = { .fd = fd, .ssl = SSL_new(client_ctx) };

        assert_non_null(p.ssl);
        assert_int_equal(SSL_set_fd(p.ssl, fd), 1);
        return p;
}

/* 1: done. */
static int peer_step(struct peer *p)
{
        ERR_clear_error();
        return SSL_connect(p->ssl);
}

static struct peer peer_dial(struct fixture *f, int port)
{
        struct peer p = peer_new(dial(port));
        int i;

        for (i = 0; i < TURNS_MAX && peer_step(&p) != 1; i++)
                turns(f, 1);
        assert_true(i < TURNS_MAX);
        return p;
}

static void peer_close(struct peer *p)
{
        SSL_free(p->ssl);
        fd_close(p->fd);
        p->ssl = NULL;
}

static bool peer_put(struct peer *p, const void *data, size_t len)
{
        ERR_clear_error();
        return SSL_write(p->ssl, data, (int)len) == (int)len;
}

static bool peer_get(struct fixture *f, struct peer *p, const char *needle)
{
        auto_str in = STR_INIT;

        for (int i = 0; i < TURNS_MAX; i++) {
                char piece[4096];
                int n;

                ERR_clear_error();
                n = SSL_read(p->ssl, piece, sizeof(piece));
                if (n > 0)
                        assert_int_equal(str_add(&in, piece, (size_t)n), 0);
                if (in.len > 0 && strstr(in.data, needle))
                        return true;
                if (n <= 0 && SSL_get_error(p->ssl, n) != SSL_ERROR_WANT_READ)
                        return false;
                turns(f, 1);
        }
        return false;
}

static int setup_with(void **state, const struct http_config *config)
{
        client_ctx = SSL_CTX_new(TLS_client_method());
        assert_non_null(client_ctx);
        (void)SSL_CTX_set_mode(client_ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        *state = fixture_new(config, false);
        return 0;
}

static int setup(void **state)
{
        const struct http_config config = { .max_connections = 0 };

        return setup_with(state, &config);
}

static int setup_few(void **state)
{
        const struct http_config config = { .max_connections = 2 };

        return setup_with(state, &config);
}

static int teardown(void **state)
{
        if (*state)
                fixture_free(*state);
        SSL_CTX_free(client_ctx);
        return 0;
}

/* Nobody reads what the client has sent last, and behind that comes its end. */
static void test_hang_up_unread(void **state)
{
        static const char head[] = "POST /pause HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n";
        static char piece[16384];
        struct fixture *f = *state;
        struct peer p = peer_dial(f, f->tls_port);
        int i, blocked = 0;

        assert_true(peer_put(&p, head, sizeof(head) - 1));
        for (i = 0; i < TURNS_MAX && blocked < 20; i++) {
                blocked = peer_put(&p, piece, sizeof(piece)) ? 0 : blocked + 1;
                turns(f, 1);
        }
        assert_int_equal(blocked, 20);
        assert_int_equal(f->gone, 0);
        peer_close(&p);
        for (i = 0; i < TURNS_MAX / 10 && f->gone == 0; i++)
                turns(f, 1);
        assert_int_equal(f->gone, 1);
        assert_int_equal(f->sent, 0);
        assert_int_equal(http_server_open(f->server), 0);
}

/* What the parser is done with may be on its way still. */
static void test_open_until_sent(void **state)
{
        static const char get[] = "GET /stream?n=100000 HTTP/1.1\r\nHost: x\r\n\r\n";
        struct fixture *f = *state;
        struct peer p = peer_dial(f, f->tls_port);
        unsigned n;

        for (n = 1; n < 1000; n++) {
                assert_true(peer_put(&p, get, sizeof(get) - 1));
                for (int i = 0; i < 500 && f->sent < n; i++)
                        turns(f, 1);
                assert_int_equal(f->sent, n);
                turns(f, 20);
                if (http_server_open(f->server) > 0)
                        break;
        }
        assert_in_range(n, 1, 999);
        assert_int_equal(http_server_open(f->server), 1);
        peer_close(&p);
        for (int i = 0; i < TURNS_MAX && http_server_open(f->server) > 0; i++)
                turns(f, 1);
        assert_int_equal(http_server_open(f->server), 0);
}

/* A fault of somebody else's on this thread is no fault of a connection. */
static void test_errors_of_others(void **state)
{
        static const char get[] = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
        struct fixture *f = *state;
        struct peer p = peer_new(dial(f->tls_port));
        int i;

        for (i = 0; i < TURNS_MAX && peer_step(&p) != 1; i++) {
                ERR_raise(ERR_LIB_USER, 1);
                turns(f, 1);
        }
        assert_true(i < TURNS_MAX);
        assert_true(peer_put(&p, get, sizeof(get) - 1));
        for (int k = 0; k < 20; k++) {
                ERR_raise(ERR_LIB_USER, 1);
                turns(f, 1);
        }
        assert_true(peer_get(f, &p, "HTTP/1.1 200 "));
        assert_true(peer_put(&p, get, sizeof(get) - 1));
        assert_true(peer_get(f, &p, "HTTP/1.1 200 "));
        peer_close(&p);
        ERR_clear_error();
}

/* Whoever is in no hurry to shake hands makes room for those who are, long before his time is over. */
static void test_silent_ones_go(void **state)
{
        static const char get[] = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
        struct fixture *f = *state;
        int silent[2] = { dial(f->tls_port), dial(f->tls_port) }, open = 0;
        struct peer p;
        char c;

        turns(f, 300);
        p = peer_dial(f, f->tls_port);
        assert_true(peer_put(&p, get, sizeof(get) - 1));
        assert_true(peer_get(f, &p, "HTTP/1.1 200 "));
        for (size_t i = 0; i < ARRAY_LEN(silent); i++)
                open += recv(silent[i], &c, 1, 0) < 0 && errno == EAGAIN;
        assert_int_equal(open, 1);
        peer_close(&p);
        for (size_t i = 0; i < ARRAY_LEN(silent); i++)
                fd_close(silent[i]);
}

/* Each takes two descriptors more once the hands are shaken. */
static void test_reserve(void **state)
{
        enum { N = 24, HIGH = 500 };
        const struct http_config config = { .max_connections = 0 };
        auto_fd probe = dup(STDOUT_FILENO);
        int spare[HTTP_FD_RESERVE - 2];
        struct rlimit before, few;
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        struct peer peers[N];
        struct fixture *f;

        (void)state;
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        /* The clients' are above the limit, which then is the server's alone. */
        for (int i = 0; i < N; i++) {
                auto_fd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

                peers[i] = peer_new(fcntl(fd, F_DUPFD_CLOEXEC, HIGH));
        }
        few = (struct rlimit){ .rlim_cur = (rlim_t)probe + 60, .rlim_max = before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        f = fixture_new(&config, false);
        to.sin_port = htons((uint16_t)f->tls_port);
        for (int i = 0; i < N; i++) {
                assert_int_equal(connect(peers[i].fd, (struct sockaddr *)&to, sizeof(to)), 0);
                assert_int_equal(fd_set_nonblock(peers[i].fd, true), 0);
                turns(f, 1);
        }
        for (int k = 0; k < 50; k++) {
                for (int i = 0; i < N; i++)
                        (void)peer_step(&peers[i]);
                turns(f, 1);
        }
        for (size_t i = 0; i < ARRAY_LEN(spare); i++) {
                spare[i] = dup(STDOUT_FILENO);
                assert_true(spare[i] >= 0);
        }
        for (size_t i = 0; i < ARRAY_LEN(spare); i++)
                fd_close(spare[i]);
        for (int i = 0; i < N; i++)
                peer_close(&peers[i]);
        fixture_free(f);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static int setup_none(void **state)
{
        client_ctx = SSL_CTX_new(TLS_client_method());
        assert_non_null(client_ctx);
        *state = NULL;
        return 0;
}

/* A client of TLS 1.2 that takes no tickets would have the server remember its session. */
static void test_no_sessions_kept(void **state)
{
        struct fixture *f = *state;

        for (int n = 0; n < 3; n++) {
                struct peer p = peer_new(dial(f->tls_port));
                int i, done = 0;

                (void)SSL_set_max_proto_version(p.ssl, TLS1_2_VERSION);
                (void)SSL_set_options(p.ssl, SSL_OP_NO_TICKET);
                for (i = 0; i < TURNS_MAX && done != 1; i++) {
                        done = peer_step(&p);
                        turns(f, 1);
                }
                assert_int_equal(done, 1);
                SSL_free(p.ssl);
                (void)close(p.fd);
        }
        turns(f, 20);
        assert_int_equal(SSL_CTX_sess_number(f->tls->ctx), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_no_sessions_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hang_up_unread, setup, teardown),
                cmocka_unit_test_setup_teardown(test_open_until_sent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_errors_of_others, setup, teardown),
                cmocka_unit_test_setup_teardown(test_silent_ones_go, setup_few, teardown),
                cmocka_unit_test_setup_teardown(test_reserve, setup_none, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
