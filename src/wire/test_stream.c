#include "wire/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

static struct wire_frame frame(const struct str *text, bool server)
{
        struct wire_frame f = { .body = NULL };
        struct err err = ERR_INIT;

        if (wire_frame_read(text->data, text->len, server, &f, &err) < 0)
                fail_msg("%s: %s", text->data, err.text);
        return f;
}

static void test_client_frames(void **state)
{
        auto_str text = STR_INIT;
        struct wire_frame f;

        (void)state;
        assert_int_equal(wire_frame_signal(SIGUSR1, &text), 0);
        assert_string_equal(text.data, "{\"type\":\"signal\",\"signal\":\"SIGUSR1\"}");
        f = frame(&text, false);
        assert_int_equal(f.type, WIRE_FRAME_SIGNAL);
        assert_int_equal(f.signo, SIGUSR1);
        str_clear(&text);
        assert_int_equal(wire_frame_stdin_end(&text), 0);
        assert_int_equal(frame(&text, false).type, WIRE_FRAME_STDIN_END);
        str_clear(&text);
        assert_int_equal(wire_frame_cancel(&text), 0);
        assert_int_equal(frame(&text, false).type, WIRE_FRAME_CANCEL);
}

static void test_server_frames(void **state)
{
        auto_str text = STR_INIT;
        struct wire_frame f;

        (void)state;
        assert_int_equal(wire_frame_pulling(5, UINT64_C(1) << 40, &text), 0);
        f = frame(&text, true);
        assert_int_equal(f.type, WIRE_FRAME_PULLING);
        assert_int_equal(f.done, 5);
        assert_int_equal(f.total, UINT64_C(1) << 40);
        str_clear(&text);
        assert_int_equal(wire_frame_started("01j", &text), 0);
        f = frame(&text, true);
        assert_int_equal(f.type, WIRE_FRAME_STARTED);
        assert_string_equal(f.id, "01j");
        str_clear(&text);
        assert_int_equal(wire_frame_result("{\"a\":1}", 7, &text), 0);
        f = frame(&text, true);
        assert_int_equal(f.type, WIRE_FRAME_RESULT);
        assert_int_equal(json_integer_value(json_object_get(f.body, "a")), 1);
        wire_frame_done(&f);
        str_clear(&text);
        assert_int_equal(wire_frame_problem("{}", 2, &text), 0);
        f = frame(&text, true);
        assert_int_equal(f.type, WIRE_FRAME_PROBLEM);
        wire_frame_done(&f);
}

static void test_odd_frames(void **state)
{
        static const struct {
                const char *text;
                bool server;
        } odd[] = {
                { "", false },
                { "[]", false },
                { "{}", false },
                { "{\"type\":\"odd\"}", false },
                { "{\"type\":\"cancel\",\"x\":1}", false },
                { "{\"type\":\"cancel\"}", true },
                { "{\"type\":\"started\",\"id\":\"a\"}", false },
                { "{\"type\":\"signal\"}", false },
                { "{\"type\":\"signal\",\"signal\":\"SIGODD\"}", false },
                { "{\"type\":\"signal\",\"signal\":65}", false },
                { "{\"type\":\"signal\",\"signal\":\"KILL\\u0000\"}", false },
                { "{\"type\":\"started\"}", true },
                { "{\"type\":\"result\",\"task\":1}", true },
                { "{\"type\":\"result\",\"task\":{},\"x\":1}", true },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
                struct wire_frame f;

                assert_true(wire_frame_read(odd[i].text, strlen(odd[i].text), odd[i].server, &f, NULL) < 0);
        }
}

static void test_long_frame(void **state)
{
        auto_str text = STR_INIT;
        struct wire_frame f;

        (void)state;
        assert_int_equal(str_adds(&text, "{\"type\":\"cancel\"}"), 0);
        assert_int_equal(wire_frame_read(text.data, text.len, false, &f, NULL), 0);
        wire_frame_done(&f);
        while (text.len <= WIRE_FRAME_MAX)
                assert_int_equal(str_addc(&text, ' '), 0);
        assert_int_equal(wire_frame_read(text.data, text.len, false, &f, NULL), -EINVAL);
}

static void test_log_events(void **state)
{
        static const struct {
                const char *data;
                size_t len;
                const char *text;
        } rows[] = {
                { "hi\n", 3, "{\"stream\":\"stderr\",\"offset\":7,\"encoding\":\"utf-8\",\"data\":\"hi\\n\"}" },
                { "\xff", 1, "{\"stream\":\"stderr\",\"offset\":7,\"encoding\":\"base64\",\"data\":\"/w==\"}" },
                { "", 0, "{\"stream\":\"stderr\",\"offset\":7,\"encoding\":\"utf-8\",\"data\":\"\"}" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                const struct wire_log_event e = { .stream = 1, .offset = 7, .data = rows[i].data, .len = rows[i].len };
                struct wire_log_event back;
                auto_str text = STR_INIT;

                assert_int_equal(wire_log_event_write(&e, &text), 0);
                assert_string_equal(text.data, rows[i].text);
                assert_int_equal(wire_log_event_read(text.data, text.len, &back, NULL), 0);
                assert_false(back.end);
                assert_int_equal(back.stream, 1);
                assert_int_equal(back.offset, 7);
                assert_int_equal(back.len, rows[i].len);
                assert_memory_equal(back.data, rows[i].data, rows[i].len);
                wire_log_event_done(&back);
        }
}

static void test_log_end(void **state)
{
        struct wire_log_event e = { .end = true, .status = "killed", .reason = "oom", .exit_code = 137 }, back;
        auto_str text = STR_INIT;

        (void)state;
        e.truncated = true;
        assert_int_equal(wire_log_event_write(&e, &text), 0);
        assert_string_equal(text.data,
                            "{\"status\":\"killed\",\"exit_code\":137,\"reason\":\"oom\",\"truncated\":true}");
        assert_int_equal(wire_log_event_read(text.data, text.len, &back, NULL), 0);
        assert_true(back.end && back.truncated);
        assert_string_equal(back.status, "killed");
        assert_string_equal(back.reason, "oom");
        assert_int_equal(back.exit_code, 137);
        assert_int_equal(wire_log_event_read("{\"stream\":\"odd\"}", 16, &back, NULL), -EINVAL);
        assert_int_equal(wire_log_event_read("[]", 2, &back, NULL), -EINVAL);
}

static void test_text_cut(void **state)
{
        static const struct {
                const char *text;
                size_t len, cut;
        } rows[] = {
                { "", 0, 0 },
                { "abc", 3, 3 },
                { "a\xc3", 2, 1 },
                { "a\xc3\xa4", 3, 3 },
                { "a\xe2\x82", 3, 1 },
                { "a\xf0\x9f\x98", 4, 1 },
                { "\xf0\x9f\x98\x80", 4, 4 },
                { "\xc3", 1, 1 },
                { "\x80\x80\x80\x80", 4, 4 },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
                assert_int_equal(wire_text_cut(rows[i].text, rows[i].len), rows[i].cut);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_client_frames), cmocka_unit_test(test_server_frames),
                cmocka_unit_test(test_odd_frames),    cmocka_unit_test(test_log_events),
                cmocka_unit_test(test_log_end),       cmocka_unit_test(test_text_cut),
                cmocka_unit_test(test_long_frame),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
