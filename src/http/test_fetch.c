#include "http/fetch.h"

#include "http/test_fixture.h"

#define TURNS_MAX 20000

struct seen {
        unsigned status, heads, done;
        int result;
        size_t bytes;
        struct str body;
        char twice[8], error[ERR_TEXT_MAX];
        /* What it shall do. */
        struct fetch *fetch;
        bool pause_once, cancel_in_head, fail;
        struct fetch *cancel_other;
        size_t to_send;
        bool send_paused;
};

static void on_head(struct fetch *f, unsigned status, void *arg)
{
        const char *twice = fetch_header_nth(f, "x-twice", 1);
        struct seen *s = arg;

        s->heads++;
        s->status = status;
        assert_int_equal(fetch_status(f), status);
        (void)snprintf(s->twice, sizeof(s->twice), "%s", twice ? twice : "");
        if (s->cancel_in_head)
                fetch_cancel(f);
        if (s->cancel_other)
                fetch_cancel(s->cancel_other);
}

static int on_data(struct fetch *f, const void *data, size_t len, void *arg)
{
        struct seen *s = arg;

        assert_ptr_equal(f, s->fetch);
        if (s->fail)
                return -ENOSPC;
        if (s->pause_once) {
                s->pause_once = false;
                return FETCH_PAUSE;
        }
        s->bytes += len;
        return s->body.len < 1000 ? str_add(&s->body, data, MIN(len, (size_t)1000)) : 0;
}

static ssize_t on_send(struct fetch *f, void *buf, size_t max, void *arg)
{
        struct seen *s = arg;
        size_t n = MIN(max, s->to_send);

        (void)f;
        if (!s->send_paused) {
                s->send_paused = true;
                return FETCH_PAUSE;
        }
        memset(buf, 'x', n);
        s->to_send -= n;
        return (ssize_t)n;
}

static void on_done(struct fetch *f, int result, const struct err *err, void *arg)
{
        struct seen *s = arg;

        (void)f;
        s->done++;
        s->result = result;
        (void)snprintf(s->error, sizeof(s->error), "%s", err->text);
}

static const struct fetch_handler handler = { .head = on_head, .data = on_data, .send = on_send, .done = on_done };

static int setup(void **state)
{
        const struct http_config config = { .max_connections = 0 };

        *state = fixture_new(&config, false);
        return 0;
}

static int teardown(void **state)
{
        fixture_free(*state);
        return 0;
}

static struct fetcher *fetcher(struct fixture *f)
{
        const struct fetcher_config config = { .max_connections = 4 };
        struct fetcher *ret = NULL;
        struct err err = ERR_INIT;

        assert_int_equal(fetcher_new(f->loop, &config, &ret, &err), 0);
        return ret;
}

static void start(struct fetcher *fetcher, const struct fetch_request *q, struct seen *s)
{
        struct err err = ERR_INIT;
        int r = fetch_start(fetcher, q, &handler, s, &s->fetch, &err);

        if (r < 0)
                print_error("%s\n", err.text);
        assert_int_equal(r, 0);
}

static void wait_done(struct fixture *f, const struct seen *s)
{
        for (int i = 0; i < TURNS_MAX && s->done == 0; i++)
                assert_true(loop_turn(f->loop, 2, NULL) >= 0);
        assert_int_equal(s->done, 1);
}

static void test_all_ways(void **state)
{
        static const char *const extra[] = { "X-Extra: yes", NULL };
        struct fixture *f = *state;
        struct fetcher *fr = fetcher(f);
        char urls[4][96];
        struct fetch_request q[] = {
                { .url = urls[0], .headers = extra },
                { .url = urls[1], .pin = f->pin },
                { .url = urls[2], .cacert = f->cert },
                { .url = urls[3], .unix_socket = f->path },
        };
        struct seen seen[ARRAY_LEN(q)] = { { .status = 0 } };

        (void)snprintf(urls[0], sizeof(urls[0]), "%s/a", f->tcp_host);
        (void)snprintf(urls[1], sizeof(urls[1]), "https://127.0.0.1:%d/b", f->tls_port);
        (void)snprintf(urls[2], sizeof(urls[2]), "%s/c", f->tls_host);
        (void)snprintf(urls[3], sizeof(urls[3]), "http://docker/d");
        for (size_t i = 0; i < ARRAY_LEN(q); i++)
                start(fr, &q[i], &seen[i]);
        for (size_t i = 0; i < ARRAY_LEN(q); i++) {
                wait_done(f, &seen[i]);
                if (seen[i].result < 0)
                        print_error("%s: %s\n", urls[i], seen[i].error);
                assert_int_equal(seen[i].result, 0);
                assert_int_equal(seen[i].status, 200);
                assert_int_equal(seen[i].heads, 1);
                assert_string_equal(seen[i].twice, "2");
        }
        assert_string_equal(seen[0].body.data, "GET /a from=127.0.0.1 tls=0 body=0 key=- extra=yes");
        assert_string_equal(seen[2].body.data, "GET /c from=127.0.0.1 tls=1 body=0 key=- extra=-");
        assert_string_equal(seen[3].body.data, "GET /d from=unix tls=0 body=0 key=- extra=-");
        for (size_t i = 0; i < ARRAY_LEN(q); i++)
                str_done(&seen[i].body);
        fetcher_free(fr);
}

static void test_bodies_and_pauses(void **state)
{
        struct fixture *f = *state;
        struct fetcher *fr = fetcher(f);
        auto_free char *url = str_printf("%s/p", f->tcp_host), *stream = str_printf("%s/stream?n=3000000", f->tcp_host);
        struct fetch_request post = { .method = "POST", .url = url, .body = "abc", .body_len = 3 };
        struct fetch_request chunked = { .method = "PUT", .url = url, .has_send = true, .send_length = -1 };
        struct fetch_request get = { .url = stream };
        struct seen a = { .status = 0 }, b = { .to_send = 300000 }, c = { .pause_once = true };

        start(fr, &post, &a);
        start(fr, &chunked, &b);
        start(fr, &get, &c);
        wait_done(f, &a);
        for (int i = 0; i < TURNS_MAX && (!b.send_paused || c.pause_once); i++)
                assert_true(loop_turn(f->loop, 2, NULL) >= 0);
        for (int i = 0; i < 20; i++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        assert_int_equal(b.done + c.done, 0);
        fetch_resume_send(b.fetch);
        fetch_resume(c.fetch);
        assert_int_equal(c.bytes, 0);
        wait_done(f, &b);
        wait_done(f, &c);
        assert_int_equal(a.result + b.result + c.result, 0);
        assert_non_null(strstr(a.body.data, "POST /p from=127.0.0.1 tls=0 body=3 "));
        assert_non_null(strstr(b.body.data, "PUT /p from=127.0.0.1 tls=0 body=300000 "));
        assert_int_equal(c.bytes, 3000000);
        str_done(&a.body);
        str_done(&b.body);
        str_done(&c.body);
        fetcher_free(fr);
}

static void test_failures(void **state)
{
        struct fixture *f = *state;
        struct fetcher *fr = fetcher(f);
        auto_free char *untrusted = str_printf("%s/x", f->tls_host), *cut = str_printf("%s/cut", f->tcp_host);
        auto_free char *plain = str_printf("%s/x", f->tcp_host), *never = str_printf("%s/never", f->tcp_host);
        const struct {
                struct fetch_request q;
                int result;
                bool fail;
        } cases[] = {
                { { .url = "http://127.0.0.1:1/" }, -ECONNREFUSED, false },
                { { .url = untrusted }, -EKEYREJECTED, false },
                { { .url = untrusted, .pin = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" },
                  -EKEYREJECTED,
                  false },
                { { .url = cut }, -ECONNRESET, false },
                { { .url = plain, .max_header = 20 }, -EMSGSIZE, false },
                { { .url = plain }, -ENOSPC, true },
                { { .url = never, .total_timeout_s = 1 }, -ETIMEDOUT, false },
        };

        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct seen s = { .fail = cases[i].fail };

                start(fr, &cases[i].q, &s);
                wait_done(f, &s);
                assert_int_equal(s.result, cases[i].result);
                assert_true(*s.error);
                str_done(&s.body);
        }
        fetcher_free(fr);
}

static void test_refused_at_once(void **state)
{
        static const char *const line_break[] = { "X: a\r\nY: b", NULL };
        const struct fetch_request bad[] = {
                { .url = "ftp://x/" },
                { .url = "file:///etc/passwd" },
                { .url = "http://user:secret@x/" },
                { .url = "http://x/", .proxy = "socks5://y" },
                { .url = "http://x/", .headers = line_break },
        };
        struct fixture *f = *state;
        struct fetcher *fr = fetcher(f);

        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                struct err err = ERR_INIT;
                struct fetch *fetch = NULL;

                assert_int_equal(fetch_start(fr, &bad[i], &handler, NULL, &fetch, &err), -EINVAL);
                assert_null(fetch);
        }
        fetcher_free(fr);
        fetcher_free(NULL);
}

static void test_cancel(void **state)
{
        struct fixture *f = *state;
        struct fetcher *fr = fetcher(f);
        auto_free char *url = str_printf("%s/x", f->tcp_host), *never = str_printf("%s/never", f->tcp_host);
        struct fetch_request get = { .url = url }, hang = { .url = never };
        struct seen in_head = { .cancel_in_head = true }, waiting = { .status = 0 }, at_free = { .status = 0 };

        start(fr, &get, &in_head);
        start(fr, &hang, &waiting);
        start(fr, &hang, &at_free);
        for (int i = 0; i < TURNS_MAX && in_head.heads == 0; i++)
                assert_true(loop_turn(f->loop, 2, NULL) >= 0);
        fetch_cancel(waiting.fetch);
        for (int i = 0; i < 50; i++)
                assert_true(loop_turn(f->loop, 1, NULL) >= 0);
        fetcher_free(fr);
        assert_int_equal(in_head.heads, 1);
        assert_int_equal(in_head.done + waiting.done + at_free.done, 0);
        assert_int_equal(in_head.bytes, 0);
}

/* A server that does not answer holds nothing of one that was cancelled, whoever did that. */
static void test_cancel_another(void **state)
{
        struct fixture *f = *state;
        struct fetcher *fr = fetcher(f);
        auto_free char *never = str_printf("%s/never", f->tcp_host), *url = str_printf("%s/x", f->tcp_host);
        struct seen waiting = { .status = 0 }, other = { .status = 0 };

        start(fr, &(struct fetch_request){ .url = never }, &waiting);
        for (int i = 0; i < TURNS_MAX && http_server_open(f->server) == 0; i++)
                assert_true(loop_turn(f->loop, 2, NULL) >= 0);
        other.cancel_other = waiting.fetch;
        start(fr, &(struct fetch_request){ .url = url }, &other);
        wait_done(f, &other);
        for (int i = 0; i < 1000 && f->gone < 2; i++)
                assert_true(loop_turn(f->loop, 2, NULL) >= 0);
        assert_int_equal(f->gone, 2);
        assert_int_equal(waiting.done, 0);
        fetcher_free(fr);
        str_done(&other.body);
        str_done(&waiting.body);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_all_ways, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bodies_and_pauses, setup, teardown),
                cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel_another, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
