/* The multiplexed stream: every case of upstream's own tests (corpora/tables/stdcopy.json), in pieces of several sizes. */

#include "engine/docker/demux.h"

#include "base/fd.h"
#include "base/test_skip.h"
#include "json/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define TABLE_MAX (4U << 20)

struct taken {
        struct str out[2];
};

static void take(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct taken *t = data;

        assert_int_equal(str_add(&t->out[stream], bytes, len), 0);
}

static void taken_done(struct taken *t)
{
        str_done(&t->out[0]);
        str_done(&t->out[1]);
}

static int feed(const struct str *in, size_t step, struct taken *t, struct err *err)
{
        struct demux d = { .have = 0 };

        for (size_t i = 0; i < in->len; i += step) {
                int r = demux_feed(&d, in->data + i, MIN(step, in->len - i), take, t, err);

                if (r < 0)
                        return r;
        }
        return demux_finish(&d, err);
}

static void decode(const json_t *o, const char *name, struct str *out)
{
        const char *text = json_string_value(json_object_get(o, name));

        if (text)
                assert_int_equal(base64_decode(out, text, strlen(text)), 0);
}

/* Upstream hands on whole frames; here a frame that is cut off comes as far as it came. */
static void check_stream(const struct str *have, const struct str *want)
{
        assert_true(have->len >= want->len);
        if (want->len > 0)
                assert_memory_equal(have->data, want->data, want->len);
}

static void run_case(const json_t *c, size_t step)
{
        const json_t *in = json_object_get(c, "in"), *out = json_object_get(c, "out");
        const char *want = json_string_value(json_object_get(out ? out : c, "err"));
        auto_str stream = STR_INIT, side_out = STR_INIT, side_err = STR_INIT;
        struct taken t = { .out = { STR_INIT } };
        struct err err = ERR_INIT;
        int r;

        decode(in, "stream_b64", &stream);
        decode(out ? out : c, "stdout_b64", &side_out);
        decode(out ? out : c, "stderr_b64", &side_err);
        r = feed(&stream, step, &t, &err);
        if (want && (strstr(want, "unrecognized") || strstr(want, "from daemon"))) {
                assert_true(r < 0);
                assert_int_equal(strncmp(err.text, want, MIN(strlen(want), (size_t)DEMUX_ERROR_MAX)), 0);
        } else {
                assert_int_equal(r, 0);
        }
        check_stream(&t.out[0], &side_out);
        check_stream(&t.out[1], &side_err);
        taken_done(&t);
}

static void test_corpus(void **state)
{
        static const size_t steps[] = { 1, 7, 8, 4096, SIZE_MAX / 2 };
        const char *root = getenv("MAYFLY_CORPORA");
        auto_free char *path = str_printf("%s/tables/stdcopy.json", root ? root : "../shared/corpora");
        auto_str text = STR_INIT;
        auto_json table = NULL;
        const json_t *c;
        size_t i;

        (void)state;
        assert_non_null(path);
        if (fd_read_file(AT_FDCWD, path, TABLE_MAX, &text, NULL) < 0)
                skip_because("no %s (MAYFLY_CORPORA)", path);
        assert_int_equal(json_read(text.data, text.len, &table, NULL), 0);
        json_array_foreach(json_object_get(table, "cases"), i, c) {
                for (size_t k = 0; k < ARRAY_LEN(steps); k++)
                        run_case(c, steps[k]);
        }
        assert_true(i > 0);
}

static void test_frames(void **state)
{
        static const char bytes[] = "\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\3err\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1i";
        auto_str in = STR_INIT;

        (void)state;
        assert_int_equal(str_add(&in, bytes, sizeof(bytes) - 1), 0);
        for (size_t step = 1; step <= in.len; step++) {
                struct taken t = { .out = { STR_INIT } };

                assert_int_equal(feed(&in, step, &t, NULL), 0);
                assert_string_equal(t.out[ENGINE_STDOUT].data, "outi");
                assert_string_equal(t.out[ENGINE_STDERR].data, "err");
                taken_done(&t);
        }
}

static void test_errors(void **state)
{
        static const char whole[] = "\3\0\0\0\0\0\0\4oops\1\0\0\0\0\0\0\1x", cut[] = "\3\0\0\0\0\0\1\0half";
        struct taken t = { .out = { STR_INIT } };
        struct demux d = { .have = 0 };
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(demux_feed(&d, whole, sizeof(whole) - 1, take, &t, &err), -EREMOTEIO);
        assert_string_equal(err.text, "error from daemon in stream: oops");
        d = (struct demux){ .have = 0 };
        assert_int_equal(demux_feed(&d, cut, sizeof(cut) - 1, take, &t, &err), 0);
        assert_int_equal(demux_finish(&d, &err), -EREMOTEIO);
        assert_string_equal(err.text, "error from daemon in stream: half");
        d = (struct demux){ .have = 0 };
        assert_int_equal(demux_feed(&d, "\4\0\0\0\0\0\0\1x", 9, take, &t, &err), -EBADMSG);
        assert_int_equal(t.out[0].len + t.out[1].len, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_corpus),
                cmocka_unit_test(test_frames),
                cmocka_unit_test(test_errors),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
