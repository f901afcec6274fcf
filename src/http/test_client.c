#include "http/client.h"

#include "base/fd.h"
#include "http/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The server echoes, in a thread of its own: the client blocks. */
struct fixture {
        char dir[32], path[64], host[80], tcp[40];
        struct loop *loop;
        struct http_server *server;
        struct str body;
        pthread_t thread;
        atomic_bool stop;
};

static void on_begin(struct http_request *r, void *data)
{
        struct fixture *f = data;

        (void)r;
        str_clear(&f->body);
}

static int on_body(struct http_request *r, const void *piece, size_t len, void *data)
{
        struct fixture *f = data;

        (void)r;
        return str_add(&f->body, piece, len);
}

static void on_end(struct http_request *r, void *data)
{
        const char *key = http_header(r, "Authorization"), *extra = http_header(r, "X-Extra");
        const char *type = http_header(r, "Content-Type");
        struct fixture *f = data;
        auto_str text = STR_INIT;

        if (str_eq(http_path(r), "/never"))
                return;
        (void)http_add_header(r, "Location", "/elsewhere");
        (void)str_addf(&text, "%s %s %lld %s %s %s|", http_method(r), http_path(r), (long long)http_content_length(r),
                       type ? type : "-", key ? key : "-", extra ? extra : "-");
        if (f->body.len > 0)
                (void)str_add(&text, f->body.data, f->body.len);
        (void)http_reply(r, str_eq(http_path(r), "/moved") ? 301 : 200, "text/x-echo", text.data, text.len);
}

static void *serve(void *data)
{
        struct fixture *f = data;

        while (!atomic_load(&f->stop))
                (void)loop_turn(f->loop, 5, NULL);
        return NULL;
}

static int listen_tcp(struct fixture *f)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        socklen_t len = sizeof(address);

        assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
        assert_int_equal(listen(fd, 8), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
        (void)snprintf(f->tcp, sizeof(f->tcp), "http://127.0.0.1:%u", ntohs(address.sin_port));
        return fd;
}

static int setup(void **state)
{
        static const struct http_handler handler = { .begin = on_begin, .body = on_body, .end = on_end };
        const struct http_config config = { .max_connections = 0 };
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;
        int fd = -EBADF;

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-http-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
        (void)snprintf(f->host, sizeof(f->host), "unix://%s", f->path);
        assert_int_equal(loop_new(&f->loop, &err), 0);
        assert_int_equal(http_server_new(f->loop, &config, &handler, f, &f->server, &err), 0);
        assert_int_equal(fd_listen_unix(f->path, SOCK_STREAM, (uid_t)-1, (gid_t)-1, 0600, &fd, &err), 0);
        assert_int_equal(http_server_listen(f->server, fd, &err), 0);
        assert_int_equal(http_server_listen(f->server, listen_tcp(f), &err), 0);
        assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        atomic_store(&f->stop, true);
        assert_int_equal(pthread_join(f->thread, NULL), 0);
        http_server_free(f->server);
        loop_free(f->loop);
        (void)unlink(f->path);
        (void)rmdir(f->dir);
        str_done(&f->body);
        free(f);
        return 0;
}

static struct http_client *client(const struct fixture *f, const char *key)
{
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(http_client_new(f->host, key, &c, &err), 0);
        return c;
}

static void assert_answer(struct http_client *c, const struct http_client_request *request, const char *expected)
{
        auto_answer answer = { .status = 0 };
        struct err err = ERR_INIT;
        int r = http_client_do(c, request, &answer, &err);

        if (r < 0)
                print_error("%s\n", err.text);
        assert_int_equal(r, 0);
        assert_string_equal(answer.body.data, expected);
        assert_string_equal(answer.content_type, "text/x-echo");
        assert_string_equal(answer.location, "/elsewhere");
}

static void test_requests(void **state)
{
        static const char *const extra[] = { "X-Extra: yes", NULL };
        struct http_client_request get = { .method = "GET", .path = "/a%20b?c", .body_fd = -EBADF };
        struct http_client_request post = {
                .method = "POST",
                .path = "/p",
                .content_type = "application/json",
                .body = "{}",
                .body_len = 2,
                .headers = extra,
        };
        struct http_client_request empty = { .method = "DELETE", .path = "/d", .body = "", .body_fd = -EBADF };
        struct fixture *f = *state;
        struct http_client *c = client(f, NULL);

        assert_answer(c, &get, "GET /a b -1 - - -|");
        assert_answer(c, &post, "POST /p 2 application/json - yes|{}");
        assert_answer(c, &empty, "DELETE /d 0 - - -|");
        http_client_free(c);
        c = client(f, "id:secret");
        assert_answer(c, &get, "GET /a b -1 - Basic aWQ6c2VjcmV0 -|");
        http_client_free(c);
        http_client_free(NULL);
}

static void test_head_and_moved(void **state)
{
        struct http_client_request head = { .method = "HEAD", .path = "/h", .body_fd = -EBADF };
        struct http_client_request moved = { .method = "GET", .path = "/moved", .body_fd = -EBADF };
        auto_answer first = { .status = 0 }, second = { .status = 0 };
        struct fixture *f = *state;
        struct http_client *c = client(f, NULL);
        struct err err = ERR_INIT;

        assert_int_equal(http_client_do(c, &head, &first, &err), 0);
        assert_int_equal(first.status, 200);
        assert_int_equal(first.body.len, 0);
        assert_int_equal(http_client_do(c, &moved, &second, &err), 0);
        assert_int_equal(second.status, 301);
        http_client_free(c);
}

static void on_progress(uint64_t sent, void *data)
{
        uint64_t *max = data;

        *max = MAX(*max, sent);
}

static void test_streams(void **state)
{
        struct http_client_request put = { .method = "PUT", .path = "/s", .progress = on_progress };
        struct fixture *f = *state;
        struct http_client *c = client(f, NULL);
        auto_fd file = memfd_create("body", MFD_CLOEXEC);
        uint64_t sent = 0;
        int pipe_fds[2];

        put.progress_data = &sent;
        assert_int_equal(fd_write_all(file, "skipped,kept", 12), 0);
        assert_int_equal(lseek(file, 8, SEEK_SET), 8);
        put.body_fd = file;
        assert_answer(c, &put, "PUT /s 4 - - -|kept");
        assert_true(sent == 4);
        assert_int_equal(pipe(pipe_fds), 0);
        assert_int_equal(fd_write_all(pipe_fds[1], "piped", 5), 0);
        fd_close(pipe_fds[1]);
        put.body_fd = pipe_fds[0];
        assert_answer(c, &put, "PUT /s -1 - - -|piped");
        fd_close(pipe_fds[0]);
        http_client_free(c);
}

static void test_bounds(void **state)
{
        struct http_client_request get = { .method = "GET", .path = "/long", .body_fd = -EBADF, .max_answer = 4 };
        auto_answer answer = { .status = 0 };
        struct fixture *f = *state;
        struct http_client *c = client(f, NULL);
        struct err err = ERR_INIT;

        assert_int_equal(http_client_do(c, &get, &answer, &err), -EFBIG);
        assert_null(answer.body.data);
        http_client_free(c);
}

static void test_abort(void **state)
{
        static const volatile int now = 1;
        struct http_client_request get = { .method = "GET", .path = "/never", .body_fd = -EBADF, .abort = &now };
        auto_answer answer = { .status = 0 };
        struct fixture *f = *state;
        struct http_client *c = client(f, NULL);
        struct err err = ERR_INIT;

        assert_int_equal(http_client_do(c, &get, &answer, &err), -ECANCELED);
        http_client_free(c);
}

static void test_no_server(void **state)
{
        struct http_client_request get = { .method = "GET", .path = "/", .body_fd = -EBADF };
        auto_answer answer = { .status = 0 };
        struct fixture *f = *state;
        struct http_client *c = NULL;
        struct err err = ERR_INIT;
        auto_free char *nowhere = str_printf("unix://%s/none", f->dir);

        assert_int_equal(http_client_new(nowhere, NULL, &c, &err), 0);
        assert_int_equal(http_client_do(c, &get, &answer, &err), -ENOENT);
        assert_non_null(strstr(err.text, f->dir));
        http_client_free(c);
        /* Port 1 of this machine: nobody listens. */
        assert_int_equal(http_client_new("http://127.0.0.1:1/", NULL, &c, &err), 0);
        assert_int_equal(http_client_do(c, &get, &answer, &err), -ECONNREFUSED);
        http_client_free(c);
}

/* Port 1 of this machine stands for a proxy that would be told the key. */
static void test_no_proxy(void **state)
{
        struct http_client_request get = { .method = "GET", .path = "/p", .body_fd = -EBADF };
        struct fixture *f = *state;
        struct http_client *c = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(setenv("http_proxy", "http://127.0.0.1:1", 1), 0);
        assert_int_equal(unsetenv("no_proxy"), 0);
        assert_int_equal(http_client_new(f->tcp, "id:secret", &c, &err), 0);
        assert_answer(c, &get, "GET /p -1 - Basic aWQ6c2VjcmV0 -|");
        assert_int_equal(unsetenv("http_proxy"), 0);
        http_client_free(c);
}

static void test_header_lines(void **state)
{
        static const char *const bad[][2] = { { "X-Extra: a\r\nX-Evil: 1", NULL }, { "X-Extra: a\nb", NULL } };
        static const struct http_ws_client_handler handler = { .max_message = 0 };
        struct http_client_request get = { .method = "GET", .path = "/h", .body_fd = -EBADF };
        struct fixture *f = *state;
        const char *const hosts[] = { f->host, f->tcp };

        for (size_t i = 0; i < ARRAY_LEN(hosts) * ARRAY_LEN(bad); i++) {
                auto_answer answer = { .status = 0 };
                struct http_ws_client *w = NULL;
                struct http_client *c = NULL;
                struct err err = ERR_INIT;

                get.headers = bad[i % ARRAY_LEN(bad)];
                assert_int_equal(http_client_new(hosts[i / ARRAY_LEN(bad)], NULL, &c, &err), 0);
                assert_int_equal(http_client_do(c, &get, &answer, &err), -EINVAL);
                assert_string_equal(err.text, "the header 'X-Extra' holds a line break");
                assert_int_equal(http_ws_client_open(c, "/h", get.headers, &handler, NULL, &w, &answer, &err), -EINVAL);
                http_client_free(c);
        }
}

static void test_hosts(void **state)
{
        static const char *const bad[] = { "", "unix://relative", "ftp://x", "/run/mayfly.sock", "file:///x" };
        struct http_client *c = NULL;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                struct err err = ERR_INIT;

                assert_int_equal(http_client_new(bad[i], NULL, &c, &err), -EINVAL);
                assert_int_equal(err.num, EINVAL);
        }
        assert_null(c);
}

static void test_encode(void **state)
{
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(http_encode(&out, "aZ09-._~ /:@%\xc3\xa4+"), 0);
        assert_string_equal(out.data, "aZ09-._~%20%2F%3A%40%25%C3%A4%2B");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
                cmocka_unit_test_setup_teardown(test_head_and_moved, setup, teardown),
                cmocka_unit_test_setup_teardown(test_streams, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
                cmocka_unit_test_setup_teardown(test_abort, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_server, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_proxy, setup, teardown),
                cmocka_unit_test_setup_teardown(test_header_lines, setup, teardown),
                cmocka_unit_test(test_hosts),
                cmocka_unit_test(test_encode),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
