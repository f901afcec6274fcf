#include "http/server.h"

#include "base/fd.h"
#include "base/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define BODY_MAX (256 * 1024)
/* A test that hangs ends with a failure; nothing depends on how long a turn takes. */
#define TURNS_MAX 20000

struct fixture {
        char dir[32], path[64];
        struct loop *loop;
        struct http_server *server;
        struct str events;            /* what the handler was told, as text */
        struct http_request *waiting; /* for the test's reply */
        size_t body;
};

/* ── the handler: the path says how it answers ─────────────────────────────────────────────────────────────────────── */

static void on_begin(struct http_request *r, void *data)
{
        struct fixture *f = data;

        (void)str_addf(&f->events, "begin %s;", http_path(r));
        f->body = 0;
        if (str_eq(http_path(r), "/early"))
                assert_int_equal(http_reply(r, 403, "text/plain", "early", 5), 0);
}

static int on_body(struct http_request *r, const void *piece, size_t len, void *data)
{
        struct fixture *f = data;

        (void)piece;
        assert_false(str_eq(http_path(r), "/early"));
        f->body += len;
        if (f->body <= BODY_MAX)
                return 0;
        assert_int_equal(http_reply(r, 413, "text/plain", "large", 5), 0);
        return -EFBIG;
}

static void answer_sync(struct http_request *r, struct fixture *f)
{
        const char *q = http_query(r, "q"), *x = http_header(r, "X-Test");
        auto_str text = STR_INIT;
        uid_t uid = 0;

        assert_true(http_peer_uid(r, &uid));
        assert_int_equal(uid, getuid());
        assert_int_equal(str_addf(&text, "%s %s body=%zu length=%lld has=%d q=%s x=%s", http_method(r), http_path(r),
                                  f->body, (long long)http_content_length(r), http_has_body(r), q ? q : "-",
                                  x ? x : "-"),
                         0);
        assert_int_equal(http_add_header(r, "X-Answer", "yes"), 0);
        assert_int_equal(http_add_header(r, "X-Bad", "a\r\nb: c"), -EINVAL);
        if (str_eq(http_path(r), "/close"))
                http_close_after(r);
        assert_int_equal(http_reply(r, 200, "text/plain", text.data, text.len), 0);
        assert_int_equal(http_reply(r, 200, "text/plain", "", 0), -EALREADY);
}

static void on_end(struct http_request *r, void *data)
{
        struct fixture *f = data;

        (void)str_addf(&f->events, "end %zu;", f->body);
        if (str_eq(http_path(r), "/later"))
                f->waiting = r;
        else
                answer_sync(r, f);
}

static void on_gone(struct http_request *r, bool sent, void *data)
{
        struct fixture *f = data;

        (void)str_addf(&f->events, "gone %d;", sent);
        if (f->waiting == r) {
                assert_int_equal(sent ? 0 : http_reply(r, 200, NULL, "", 0), sent ? 0 : -ECONNRESET);
                f->waiting = NULL;
        }
}

static void on_bad(struct http_request *r, int status, const char *why, void *data)
{
        struct fixture *f = data;

        (void)str_addf(&f->events, "bad %d;", status);
        assert_int_equal(http_reply(r, status, "text/plain", why, strlen(why)), 0);
}

static int setup_with(void **state, const struct http_config *config)
{
        static const struct http_handler handler = { on_begin, on_body, on_end, on_gone, on_bad, NULL };
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;
        int fd = -EBADF;

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-http-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
        assert_int_equal(loop_new(&f->loop, &err), 0);
        assert_int_equal(http_server_new(f->loop, config, &handler, f, &f->server, &err), 0);
        assert_int_equal(fd_listen_unix(f->path, SOCK_STREAM, (uid_t)-1, (gid_t)-1, 0600, &fd, &err), 0);
        assert_int_equal(http_server_listen(f->server, fd, &err), 0);
        *state = f;
        return 0;
}

static int setup(void **state)
{
        const struct http_config config = { .max_connections = 0 };

        return setup_with(state, &config);
}

static int setup_impatient(void **state)
{
        const struct http_config config = { .idle_timeout_s = 1, .max_header = 1024 };

        return setup_with(state, &config);
}

static int setup_narrow(void **state)
{
        const struct http_config config = { .max_connections = 2 };

        return setup_with(state, &config);
}

static int setup_thrifty(void **state)
{
        const struct http_config config = { .reply_budget = 3 * 1024 * 1024 };

        return setup_with(state, &config);
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        http_server_free(f->server);
        loop_free(f->loop);
        (void)unlink(f->path);
        (void)rmdir(f->dir);
        str_done(&f->events);
        free(f);
        return 0;
}

/* ── a client in the same thread ───────────────────────────────────────────────────────────────────────────────────── */

static int dial(struct fixture *f)
{
        struct err err = ERR_INIT;
        int fd = -EBADF;

        assert_int_equal(fd_connect_unix(f->path, SOCK_STREAM, &fd, &err), 0);
        assert_int_equal(fd_set_nonblock(fd, true), 0);
        return fd;
}

static void turn(struct fixture *f)
{
        assert_true(loop_turn(f->loop, 1, NULL) >= 0);
}

static void put(struct fixture *f, int fd, const void *data, size_t len)
{
        const char *p = data;

        for (int i = 0; len > 0; i++) {
                ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

                assert_true(i < TURNS_MAX);
                if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
                        return;
                if (n > 0) {
                        p += n;
                        len -= (size_t)n;
                }
                if (len > 0)
                        turn(f);
        }
}

static void puts_to(struct fixture *f, int fd, const char *text)
{
        put(f, fd, text, strlen(text));
}

/* Reads until `needle` is there, or the end of the connection if NULL. */
static void get_until(struct fixture *f, int fd, const char *needle, struct str *in)
{
        for (int i = 0; i < TURNS_MAX; i++) {
                char piece[65536];
                ssize_t n = recv(fd, piece, sizeof(piece), 0);

                if (n > 0)
                        assert_int_equal(str_add(in, piece, (size_t)n), 0);
                if (needle && in->len > 0 && strstr(in->data, needle))
                        return;
                if (n == 0 || (n < 0 && errno == ECONNRESET)) {
                        assert_null(needle);
                        return;
                }
                if (n < 0)
                        turn(f);
        }
        fail_msg("no '%s' in: %s", needle ? needle : "end", in->data ? in->data : "");
}

static void wait_event(struct fixture *f, const char *event)
{
        for (int i = 0; i < TURNS_MAX; i++) {
                if (f->events.len > 0 && strstr(f->events.data, event))
                        return;
                turn(f);
        }
        fail_msg("no '%s' in: %s", event, f->events.data ? f->events.data : "");
}

static unsigned count(const char *text, const char *needle)
{
        unsigned n = 0;

        for (const char *p = text; p && (p = strstr(p, needle)); p++)
                n++;
        return n;
}

/* ── tests ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_get(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        puts_to(f, fd, "GET /a%20b?q=c%26d HTTP/1.1\r\nHost: x\r\nX-Test:  two words \t\r\n\r\n");
        get_until(f, fd, "GET /a b body=0 length=-1 has=0 q=c&d x=two words", &in);
        assert_true(str_starts(in.data, "HTTP/1.1 200 OK\r\n"));
        assert_non_null(strstr(in.data, "X-Answer: yes\r\n"));
        assert_null(strstr(in.data, "X-Bad"));
        wait_event(f, "gone 1;");
        assert_string_equal(f->events.data, "begin /a b;end 0;gone 1;");
        assert_int_equal(http_server_open(f->server), 0);
}

static void test_keep_alive_and_pipeline(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        puts_to(f, fd, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
        get_until(f, fd, "GET /1", &in);
        puts_to(f, fd,
                "POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: x\r\n\r\n"
                "HEAD /4 HTTP/1.1\r\nHost: x\r\n\r\nGET /close HTTP/1.1\r\nHost: x\r\n\r\n");
        get_until(f, fd, NULL, &in);
        assert_non_null(strstr(in.data, "POST /2 body=3 length=3 has=1"));
        assert_non_null(strstr(in.data, "GET /3"));
        assert_null(strstr(in.data, "HEAD /4"));
        assert_non_null(strstr(in.data, "GET /close"));
        assert_int_equal(count(in.data, "HTTP/1.1 200 OK"), 5);
}

static void test_old_version(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        puts_to(f, fd, "GET /old HTTP/1.0\r\n\r\n");
        get_until(f, fd, NULL, &in);
        assert_non_null(strstr(in.data, "GET /old"));
}

static void test_bodies(void **state)
{
        struct fixture *f = *state;
        auto_free char *body = calloc(1, BODY_MAX);
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        puts_to(f, fd,
                "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                "chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
        get_until(f, fd, "POST /c body=5 length=-1 has=1", &in);
        puts_to(f, fd, "POST /l HTTP/1.1\r\nHost: x\r\nContent-Length: 262144\r\n\r\n");
        put(f, fd, body, BODY_MAX);
        get_until(f, fd, "POST /l body=262144", &in);
        str_clear(&in);
        puts_to(f, fd, "POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        get_until(f, fd, "HTTP/1.1 100 Continue\r\n\r\n", &in);
        puts_to(f, fd, "ab");
        get_until(f, fd, "POST /e body=2", &in);
}

/* Every head must be understood however it is cut into pieces. */
static void test_pieces(void **state)
{
        static const char text[] = "POST /p?q=r HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test/1.0\r\nX-Test: y\r\n"
                                   "Cookie: a=b; c=d\r\nEmpty:\r\nContent-Length: 2\r\n\r\nhi";
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        for (size_t i = 0; i < sizeof(text) - 1; i++) {
                put(f, fd, text + i, 1);
                turn(f);
        }
        get_until(f, fd, "POST /p body=2 length=2 has=1 q=r x=y", &in);
        for (size_t cut = 1; cut < sizeof(text) - 1; cut += 7) {
                str_clear(&in);
                put(f, fd, text, cut);
                turn(f);
                put(f, fd, text + cut, sizeof(text) - 1 - cut);
                get_until(f, fd, "POST /p body=2 length=2 has=1 q=r x=y", &in);
        }
        assert_int_equal(count(f->events.data, "bad"), 0);
}

/* Heads of every length up to the limit; above it the answer is 431. */
static void test_long_heads(void **state)
{
        struct fixture *f = *state;

        for (size_t size = 250; size <= 10000; size += 487) {
                auto_str request = STR_INIT, in = STR_INIT;
                auto_fd fd = dial(f);

                assert_int_equal(str_adds(&request, "GET /h HTTP/1.1\r\nHost: x\r\n"), 0);
                while (request.len + 630 < size)
                        assert_int_equal(str_addf(&request, "X-%zu: %0600d\r\n", request.len, 0), 0);
                assert_int_equal(str_addf(&request, "X-Last: %0*d\r\n\r\n", (int)(size - request.len - 12), 0), 0);
                assert_int_equal(request.len, size);
                put(f, fd, request.data, request.len);
                get_until(f, fd, size <= 6144 ? "GET /h" : NULL, &in);
                assert_true(size <= 6144 || strstr(in.data, "HTTP/1.1 431"));
        }
}

static void test_later(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);
        char *text = strdup("at last");

        puts_to(f, fd, "POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab");
        wait_event(f, "end 2;");
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_int_equal(http_server_open(f->server), 1);
        http_set_data(f->waiting, f);
        assert_ptr_equal(http_data(f->waiting), f);
        assert_int_equal(http_reply_take(f->waiting, 201, "text/plain", text, strlen(text)), 0);
        get_until(f, fd, "at last", &in);
        assert_true(str_starts(in.data, "HTTP/1.1 201 Created\r\n"));
        wait_event(f, "gone 1;");
        /* The connection is kept. */
        puts_to(f, fd, "GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
        get_until(f, fd, "GET /next", &in);
}

static void test_hang_up_while_waiting(void **state)
{
        struct fixture *f = *state;
        auto_fd fd = dial(f);

        puts_to(f, fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_event(f, "end 0;");
        fd_replace(&fd, -EBADF);
        wait_event(f, "gone 0;");
        assert_null(f->waiting);
        assert_int_equal(http_server_open(f->server), 0);
}

/* The end came with the request: the parser sees it no more. */
static void test_hang_up_at_once(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        puts_to(f, fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        wait_event(f, "gone 0;");
        get_until(f, fd, NULL, &in);
        assert_int_equal(in.len, 0);
}

static void test_half_closed(void **state)
{
        static const char *const requests[] = {
                "",
                "G",
                "GET /x HTTP/1.1\r\nHost",
                "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
                "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
                auto_str in = STR_INIT;
                auto_fd fd = dial(f);

                puts_to(f, fd, requests[i]);
                assert_int_equal(shutdown(fd, SHUT_WR), 0);
                get_until(f, fd, NULL, &in);
                assert_int_equal(in.len, 0);
        }
        wait_event(f, "gone 0;begin /x;gone 0;");
        assert_int_equal(count(f->events.data, "end"), 0);
        assert_int_equal(http_server_open(f->server), 0);
}

static void test_half_closed_is_answered(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        puts_to(f, fd, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        get_until(f, fd, NULL, &in);
        assert_non_null(strstr(in.data, "GET /1"));
        assert_non_null(strstr(in.data, "GET /2"));
}

static void test_early_reply(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);

        /* A short rest is dropped, and the connection kept. */
        puts_to(f, fd,
                "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /n HTTP/1.1\r\nHost: x\r\n\r\n");
        get_until(f, fd, "GET /n", &in);
        assert_non_null(strstr(in.data, "HTTP/1.1 403 Forbidden"));
        /* Who asks before sending is told at once. */
        str_clear(&in);
        puts_to(f, fd, "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
        get_until(f, fd, NULL, &in);
        assert_true(str_starts(in.data, "HTTP/1.1 403 Forbidden"));
        assert_int_equal(count(f->events.data, "end"), 1);
}

/* The answer comes before the body is through, and then the connection ends. */
static void test_refused_upload(void **state)
{
        static const char *const heads[] = {
                "POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
                "POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5000000\r\n",
                "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n",
        };
        struct fixture *f = *state;
        auto_free char *body = calloc(1, 4 * BODY_MAX);

        for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
                auto_str in = STR_INIT;
                auto_fd fd = dial(f);

                puts_to(f, fd, heads[i]);
                put(f, fd, body, 4 * BODY_MAX);
                get_until(f, fd, i < 2 ? "large" : "early", &in);
                assert_non_null(strstr(in.data, "Connection: close\r\n"));
                assert_int_equal(count(in.data, "HTTP/1.1 "), 1);
                /* What is sent on is dropped, but not for ever. */
                for (int n = 0; n < 300 && send(fd, "", 0, MSG_NOSIGNAL) == 0; n++)
                        put(f, fd, body, 4 * BODY_MAX);
                get_until(f, fd, NULL, &in);
                assert_int_equal(count(in.data, "HTTP/1.1 "), 1);
        }
}

static void test_large_answer_to_slow_client(void **state)
{
        const size_t size = 4 << 20;
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);
        char *text = malloc(size);

        memset(text, 'x', size);
        puts_to(f, fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_event(f, "end 0;");
        assert_int_equal(http_reply_take(f->waiting, 200, NULL, text, size), 0);
        for (int i = 0; i < 100; i++)
                turn(f);
        for (int i = 0; i < TURNS_MAX && in.len < size; i++) {
                char piece[65536];
                ssize_t n = recv(fd, piece, sizeof(piece), 0);

                if (n > 0)
                        assert_int_equal(str_add(&in, piece, (size_t)n), 0);
                turn(f);
        }
        wait_event(f, "gone 1;");
        assert_int_equal(strlen(strstr(in.data, "\r\n\r\n") + 4), size);
}

/* Its end is told twice: of its side, and of the connection. */
static void test_half_closed_and_closed(void **state)
{
        const size_t size = 4 * 1024 * 1024;
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd other = -EBADF;
        int fd = dial(f), waiting = dial(f);

        puts_to(f, fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_event(f, "end 0;");
        assert_int_equal(http_reply_take(f->waiting, 200, "text/plain", calloc(1, size), size), 0);
        for (int i = 0; i < 20; i++)
                turn(f);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        puts_to(f, waiting, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        for (int i = 0; i < 20; i++)
                turn(f);
        /* After a hang-up of which the parser is not told, the server hears of the next one before the parser does. */
        fd_close(waiting);
        turn(f);
        fd_close(fd);
        wait_event(f, "gone 0;gone 0;");
        other = dial(f);
        puts_to(f, other, "GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
        get_until(f, other, "GET /next", &in);
}

/* What slow readers do not take is bounded, all together. */
static void test_reply_budget(void **state)
{
        static const size_t sizes[] = { 4 << 20, 1 << 20, 2 << 20, 2 << 20 };
        static const unsigned statuses[] = { 200, 503, 200, 503 };
        struct fixture *f = *state;
        int fds[ARRAY_LEN(sizes)];

        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
                auto_free char *status = str_printf("HTTP/1.1 %u ", statuses[i]);
                auto_str in = STR_INIT;

                fds[i] = dial(f);
                str_clear(&f->events);
                puts_to(f, fds[i], "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
                wait_event(f, "end 0;");
                assert_int_equal(http_reply_take(f->waiting, 200, NULL, calloc(1, sizes[i]), sizes[i]), 0);
                f->waiting = NULL;
                /* The head, and some of what follows. */
                for (int k = 0; k < TURNS_MAX && in.len < 12; k++) {
                        char piece[64];
                        ssize_t n = recv(fds[i], piece, sizeof(piece), 0);

                        if (n > 0)
                                assert_int_equal(str_add(&in, piece, (size_t)n), 0);
                        else
                                turn(f);
                }
                assert_true(str_starts(in.data, status));
                /* One that is alone may be longer, and whoever goes makes room. */
                if (i != 1)
                        continue;
                fd_close(fds[0]);
                wait_event(f, "gone 0;");
        }
        for (size_t i = 1; i < ARRAY_LEN(fds); i++)
                fd_close(fds[i]);
}

static void test_bad(void **state)
{
        static const struct {
                const char *text;
                size_t len;
                const char *answer;
        } cases[] = {
#define CASE(t, a) { t, sizeof(t) - 1, a }
                CASE("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\0\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nA: b\0\0\0\0\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\nHost: x\n\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", "HTTP/1.1 4"),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                     "HTTP/1.1 400 "),
                CASE("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 "),
                CASE("GET / HTTP/1.1\r\nHost: x\r\nExpect: y\r\n\r\n", "HTTP/1.1 417 "),
#undef CASE
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_str in = STR_INIT;
                auto_fd fd = dial(f);

                put(f, fd, cases[i].text, cases[i].len);
                /* Were it taken for the end of a first request, this would be a second one. */
                puts_to(f, fd, "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n");
                get_until(f, fd, NULL, &in);
                assert_non_null(in.data);
                assert_true(str_starts(in.data, cases[i].answer));
                assert_int_equal(count(in.data, "HTTP/1.1 "), 1);
        }
        assert_int_equal(count(f->events.data, "begin"), 0);
        assert_int_equal(count(f->events.data, "gone"), 0);
}

/* What costs the parser more memory than it has is answered once, too. */
static void test_many_of_all(void **state)
{
        static const struct {
                const char *head, *piece;
                size_t n;
        } cases[] = {
                { "GET /x?", "a&", 1500 },
                { "GET /x?", "a=b&", 1000 },
                { "GET /x HTTP/1.1\r\nHost: x\r\nCookie: ", "a=b; ", 1000 },
                { "GET /x HTTP/1.1\r\nHost: x\r\nCookie: ", "a;", 2000 },
                { "GET /x HTTP/1.1\r\nHost: x\r\n", "A:b\r\n", 1000 },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_str request = STR_INIT, in = STR_INIT;
                auto_fd fd = dial(f);

                assert_int_equal(str_adds(&request, cases[i].head), 0);
                for (size_t n = 0; n < cases[i].n; n++)
                        assert_int_equal(str_adds(&request, cases[i].piece), 0);
                assert_int_equal(str_adds(&request, i < 2 ? " HTTP/1.1\r\nHost: x\r\n\r\n" : "\r\n\r\n"), 0);
                put(f, fd, request.data, request.len);
                puts_to(f, fd, "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n");
                get_until(f, fd, NULL, &in);
                assert_non_null(in.data);
                assert_true(str_starts(in.data, "HTTP/1.1 4"));
                assert_int_equal(count(in.data, "HTTP/1.1 "), 1);
        }
        assert_null(f->events.data ? strstr(f->events.data, "begin") : NULL);
}

static void test_drain(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        auto_fd fd = dial(f);
        struct err err = ERR_INIT;
        int other = -EBADF;

        puts_to(f, fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_event(f, "end 0;");
        http_server_drain(f->server);
        turn(f);
        assert_int_equal(fd_connect_unix(f->path, SOCK_STREAM, &other, &err), -ECONNREFUSED);
        assert_int_equal(http_reply(f->waiting, 200, NULL, "done", 4), 0);
        get_until(f, fd, "done", &in);
}

static void test_free_with_open_requests(void **state)
{
        struct fixture *f = *state;
        auto_fd waiting = dial(f), sending = dial(f), idle = dial(f);
        auto_str in = STR_INIT;

        puts_to(f, waiting, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_event(f, "end 0;");
        puts_to(f, sending, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab");
        wait_event(f, "begin /x;");
        assert_int_equal(http_server_open(f->server), 2);
        http_server_free(f->server);
        f->server = NULL;
        assert_int_equal(count(f->events.data, "gone 0;"), 2);
        get_until(f, waiting, NULL, &in);
        get_until(f, sending, NULL, &in);
        get_until(f, idle, NULL, &in);
        assert_int_equal(in.len, 0);
}

/* Neither silence nor single bytes hold a connection. */
static void test_idle(void **state)
{
        struct fixture *f = *state;
        auto_fd silent = dial(f), slow = dial(f);
        uint64_t give_up = time_mono_ns() + 60 * NS_PER_S;
        bool silent_ended = false, slow_ended = false;
        char c;

        while (!(silent_ended && slow_ended)) {
                assert_true(time_mono_ns() < give_up);
                assert_true(loop_turn(f->loop, 50, NULL) >= 0);
                silent_ended = silent_ended || recv(silent, &c, 1, 0) == 0;
                (void)send(slow, "G", 1, MSG_NOSIGNAL);
                /* Its line may become too long before its time is up; either ends it. */
                slow_ended = slow_ended || recv(slow, &c, 1, 0) >= 0;
        }
}

/* But a body that comes through a pipe and a unix socket. */
static void test_body_that_pauses(void **state)
{
        struct fixture *f = *state;
        auto_fd fd = dial(f);
        auto_str in = STR_INIT;
        uint64_t end;

        puts_to(f, fd, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
        wait_event(f, "begin /x;");
        for (end = time_mono_ns() + 3 * NS_PER_S; time_mono_ns() < end;)
                assert_true(loop_turn(f->loop, 50, NULL) >= 0);
        puts_to(f, fd, "cd");
        get_until(f, fd, "body=4", &in);
        wait_event(f, "gone 1;");
        get_until(f, fd, NULL, &in); /* and is idle again */
}

/* Beyond the limit clients wait until another connection ends. */
static void test_max_connections(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        int fds[6];

        for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
                fds[i] = dial(f);
                puts_to(f, fds[i], "GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        for (int i = 0; i < 50; i++)
                turn(f);
        assert_int_equal(count(f->events.data, "begin"), 2);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
                str_clear(&in);
                get_until(f, fds[i], "GET /x", &in);
                fd_close(fds[i]);
        }
        assert_int_equal(count(f->events.data, "begin"), ARRAY_LEN(fds));
}

/* The same where the process has no descriptor left for them. */
static void test_no_descriptors(void **state)
{
        struct fixture *f = *state;
        auto_str in = STR_INIT;
        struct rlimit before, few;
        int fds[8], spare;

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fds[i] = dial(f);
        spare = dup(fds[0]);
        assert_true(spare >= 0);
        fd_close(spare);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        few = (struct rlimit){ .rlim_cur = (rlim_t)spare + 2, .rlim_max = before.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                puts_to(f, fds[i], "GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
        for (int i = 0; i < 50; i++)
                turn(f);
        assert_in_range(count(f->events.data, "begin"), 1, 2);
        for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
                str_clear(&in);
                get_until(f, fds[i], "GET /x", &in);
                fd_close(fds[i]);
        }
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void test_max_header(void **state)
{
        struct fixture *f = *state;
        auto_str request = STR_INIT, in = STR_INIT;
        auto_fd fd = dial(f);

        assert_int_equal(str_addf(&request, "GET / HTTP/1.1\r\nHost: x\r\nA: %01000d\r\n\r\n", 0), 0);
        put(f, fd, request.data, request.len);
        get_until(f, fd, NULL, &in);
        assert_true(str_starts(in.data, "HTTP/1.1 431 "));
        assert_string_equal(f->events.data, "bad 431;");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_get, setup, teardown),
                cmocka_unit_test_setup_teardown(test_keep_alive_and_pipeline, setup, teardown),
                cmocka_unit_test_setup_teardown(test_old_version, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bodies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pieces, setup, teardown),
                cmocka_unit_test_setup_teardown(test_long_heads, setup, teardown),
                cmocka_unit_test_setup_teardown(test_later, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hang_up_while_waiting, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hang_up_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_half_closed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_half_closed_is_answered, setup, teardown),
                cmocka_unit_test_setup_teardown(test_early_reply, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused_upload, setup, teardown),
                cmocka_unit_test_setup_teardown(test_large_answer_to_slow_client, setup, teardown),
                cmocka_unit_test_setup_teardown(test_half_closed_and_closed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_reply_budget, setup_thrifty, teardown),
                cmocka_unit_test_setup_teardown(test_bad, setup, teardown),
                cmocka_unit_test_setup_teardown(test_many_of_all, setup, teardown),
                cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_free_with_open_requests, setup, teardown),
                cmocka_unit_test_setup_teardown(test_max_connections, setup_narrow, teardown),
                cmocka_unit_test_setup_teardown(test_no_descriptors, setup, teardown),
                cmocka_unit_test_setup_teardown(test_idle, setup_impatient, teardown),
                cmocka_unit_test_setup_teardown(test_body_that_pauses, setup_impatient, teardown),
                cmocka_unit_test_setup_teardown(test_max_header, setup_impatient, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
