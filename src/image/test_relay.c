#include "image/relay.h"

#include "base/fd.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES ((size_t)5 << 20)

struct fixture {
        struct loop *loop;
        struct relay *relay;
        int in[2], out[2]; /* we write in[1] and read out[0] */
        bool told;
        int result;
        char digest[65];
        uint64_t bytes;
        char *sent;
        size_t n_sent;
};

static void on_end(int r, const char digest[65], uint64_t bytes, const struct err *err, void *data)
{
        struct fixture *f = data;

        assert_false(f->told);
        assert_int_equal(r < 0, err != NULL);
        f->told = true;
        f->result = r;
        f->bytes = bytes;
        memcpy(f->digest, digest, sizeof(f->digest));
}

static void start(struct fixture *f, uint64_t max)
{
        struct err err = ERR_INIT;

        assert_int_equal(pipe2(f->in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(f->out, O_CLOEXEC), 0);
        assert_int_equal(relay_start(f->loop, 3, f->in[0], f->out[1], max, on_end, f, &f->relay, &err), 0);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)signal(SIGPIPE, SIG_IGN);
        assert_int_equal(loop_new(&f->loop, NULL), 0);
        f->sent = malloc(BYTES);
        assert_non_null(f->sent);
        for (size_t i = 0; i < BYTES; i++)
                f->sent[i] = (char)(i * 31 + (i >> 12));
        f->n_sent = BYTES;
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        loop_free(f->loop);
        free(f->sent);
        free(f);
        return 0;
}

static void wait_told(struct fixture *f)
{
        while (!f->told)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
}

static void *write_all(void *data)
{
        struct fixture *f = data;

        (void)fd_write_all(f->in[1], f->sent, f->n_sent);
        fd_replace(&f->in[1], -EBADF);
        return NULL;
}

static void *read_all(void *data)
{
        struct fixture *f = data;
        char *got = calloc(1, BYTES + 1);
        size_t n = 0;
        ssize_t r;

        /* In odd pieces, so that writes end in the middle. */
        while (got && (r = read(f->out[0], got + n, n % 7777 + 1)) > 0)
                n += (size_t)r;
        if (got && (n != f->n_sent || memcmp(got, f->sent, n) != 0))
                f->n_sent = 0;
        fd_replace(&f->out[0], -EBADF);
        free(got);
        return NULL;
}

static void test_all(void **state)
{
        struct fixture *f = *state;
        unsigned char hash[SHA256_DIGEST_LENGTH];
        pthread_t writer, reader;
        char digest[65];

        start(f, BYTES);
        assert_int_equal(pthread_create(&writer, NULL, write_all, f), 0);
        assert_int_equal(pthread_create(&reader, NULL, read_all, f), 0);
        wait_told(f);
        (void)pthread_join(writer, NULL);
        (void)pthread_join(reader, NULL);
        assert_int_equal(f->result, 0);
        assert_int_equal(f->bytes, BYTES);
        assert_int_equal(f->n_sent, BYTES);
        (void)SHA256((const unsigned char *)f->sent, BYTES, hash);
        hex_encode(hash, sizeof(hash), digest);
        assert_string_equal(f->digest, digest);
}

static void test_too_much(void **state)
{
        struct fixture *f = *state;
        pthread_t writer;

        start(f, 100000);
        assert_int_equal(pthread_create(&writer, NULL, write_all, f), 0);
        wait_told(f);
        (void)pthread_join(writer, NULL);
        assert_int_equal(f->result, -EFBIG);
        fd_close(f->out[0]);
}

static void test_nobody_reads(void **state)
{
        struct fixture *f = *state;
        pthread_t writer;

        start(f, BYTES);
        fd_close(f->out[0]);
        assert_int_equal(pthread_create(&writer, NULL, write_all, f), 0);
        wait_told(f);
        (void)pthread_join(writer, NULL);
        assert_int_equal(f->result, -EPIPE);
}

static void test_nothing(void **state)
{
        struct fixture *f = *state;

        start(f, BYTES);
        fd_close(f->in[1]);
        wait_told(f);
        assert_int_equal(f->result, 0);
        assert_int_equal(f->bytes, 0);
        fd_close(f->out[0]);
}

/* Nobody is told, and the writer sees that it is over. */
static void test_cancel(void **state)
{
        struct fixture *f = *state;
        pthread_t writer;

        start(f, BYTES);
        assert_int_equal(pthread_create(&writer, NULL, write_all, f), 0);
        for (int i = 0; i < 3; i++)
                assert_int_equal(loop_turn(f->loop, 10, NULL), 0);
        relay_cancel(f->relay);
        while (f->in[1] >= 0)
                assert_int_equal(loop_turn(f->loop, 10, NULL), 0);
        (void)pthread_join(writer, NULL);
        assert_false(f->told);
        fd_close(f->out[0]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_all, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_much, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nobody_reads, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
