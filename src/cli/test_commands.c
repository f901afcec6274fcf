/* What is described, and what is shown of it. */
#include "base/time.h"
#include "cli/cli.h"
#include "cli/sse.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void check_options(const char *command, const struct cli_option *options)
{
        for (const struct cli_option *o = options; o->name; o++) {
                if (o->help && o->refused)
                        fail_msg("%s --%s: means something, and nothing", command, o->name);
                if (o->complete == CLI_COMPLETE_WORDS && !o->words)
                        fail_msg("%s --%s: no words", command, o->name);
                for (const struct cli_option *p = options; p < o; p++)
                        if (str_eq(p->name, o->name) || (p->letter && p->letter == o->letter))
                                fail_msg("%s --%s: is there twice", command, o->name);
        }
}

static void test_descriptions(void **state)
{
        (void)state;
        for (const struct cli_command *c = cli_commands; c->name; c++) {
                size_t last = strlen(c->description) - 1;

                if (!*c->summary || c->description[last] != '.' || !c->exits || !*c->examples)
                        fail_msg("%s: something is missing", c->name);
                if (!strstr(c->examples, c->name))
                        fail_msg("%s: its examples are of something else", c->name);
                assert_non_null(c->options);
                check_options(c->name, c->options);
        }
        check_options("", cli_common_options);
}

static void test_find_and_suggest(void **state)
{
        char key[] = "key", create[] = "create", run[] = "run";
        int words = 0;

        (void)state;
        assert_string_equal(cli_find_command(2, (char *[]){ key, create }, &words)->name, "key create");
        assert_int_equal(words, 2);
        assert_string_equal(cli_find_command(2, (char *[]){ run, create }, &words)->name, "run");
        assert_int_equal(words, 1);
        assert_null(cli_find_command(1, (char *[]){ key }, &words));
        assert_string_equal(cli_suggest("rnu"), "run");
        assert_string_equal(cli_suggest("imges"), "images");
        assert_string_equal(cli_suggest("inspcet"), "inspect");
        assert_null(cli_suggest("frobnicate"));
        assert_null(cli_suggest(""));
}

static void test_times(void **state)
{
        static const char *const bad[] = { "",
                                           "2026",
                                           "2026-01-01",
                                           "2026-01-01T00:00:00",
                                           "2026-01-01T00:00:00Zx",
                                           "2026-01-01T00:00:00+01",
                                           "2026-13-01T00:00:00Z" };
        char text[CLI_AGE_MAX];
        uint64_t ms = 0;

        (void)state;
        assert_int_equal(cli_parse_time("2026-01-01T00:00:00.250Z", &ms), 0);
        assert_int_equal(ms, UINT64_C(1767225600250));
        assert_int_equal(cli_parse_time("2026-01-01T01:30:00+01:30", &ms), 0);
        assert_int_equal(ms, UINT64_C(1767225600000));
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(cli_parse_time(bad[i], &ms), -EINVAL);
        cli_ago("nothing", text);
        assert_string_equal(text, "-");
        cli_ago("2001-01-01T00:00:00Z", text);
        assert_true(str_ends(text, " years ago"));
}

static void test_escape(void **state)
{
        auto_str out = STR_INIT;
        size_t width;

        (void)state;
        assert_int_equal(cli_escape(&out, "a\033[31m\xc2\x9b\xff\u00e9\n\t\x7f"), 0);
        assert_string_equal(out.data, "a\\x1b[31m\\xc2\\x9b\\xff\u00e9\n\\x09\\x7f");
        assert_int_equal(cli_text_width("\u00e9\u4e2da"), 4); /* wide */
        assert_int_equal(cli_text_width("e\u0301a"), 2);      /* an accent that joins the letter before */
        assert_int_equal(cli_text_fit("a\u4e2d\u4e2d", 4, &width), 4);
        assert_int_equal(width, 3);
        /* Turned around, one word is read as another. */
        str_clear(&out);
        assert_int_equal(cli_escape(&out, "a\u202eb\u2066c\u2028d\u200fe \u2013\u2026"), 0);
        assert_string_equal(out.data, "a\\xe2\\x80\\xaeb\\xe2\\x81\\xa6c\\xe2\\x80\\xa8d\\xe2\\x80\\x8fe \u2013\u2026");
}

/* What a command takes for an answer of the server, or for a reader that has gone, is no failure of the connection. */
static void test_explain(void **state)
{
        struct cli here = { .host = "unix:///run/x.sock" }, far = { .host = "ssh://machine" };
        struct err err = ERR_INIT;

        (void)state;
        (void)err_set(&err, EPIPE, "Broken pipe");
        assert_int_equal(cli_explain(&here, -EPIPE, &err), -ECONNRESET);
        assert_int_equal(err.num, ECONNRESET);
        (void)err_set(&err, ENOENT, "run ssh: No such file or directory");
        assert_int_equal(cli_explain(&far, -ENOENT, &err), -ECONNREFUSED);
        assert_string_equal(err.text, "ssh://machine: run ssh: No such file or directory");
        assert_int_equal(cli_explain(&here, -ENOENT, &err), -ECONNREFUSED);
        here.key_file = "/nonexistent";
        assert_int_equal(cli_get_json(&here, "/", &(json_t *){ NULL }, &err), -EINVAL);
}

/* What Docker's users type is answered before anything is guessed. */
static void test_elsewhere(void **state)
{
        int words = 0;

        (void)state;
        for (const struct cli_elsewhere *e = cli_elsewhere; e->word; e++) {
                if (cli_find_command(1, (char *[]){ (char *)(uintptr_t)e->word }, &words))
                        fail_msg("%s: it is a command", e->word);
                if (e > cli_elsewhere && strcmp(e[-1].word, e->word) >= 0)
                        fail_msg("%s: not in order", e->word);
        }
}

/* ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int collect(const char *data, size_t len, void *arg)
{
        return str_addf(arg, "[%.*s]", (int)len, data);
}

static void assert_events(const char *stream, const char *expected)
{
        for (size_t piece = 1; piece <= strlen(stream); piece++) {
                struct sse s = { .cr = false };
                auto_str got = STR_INIT;

                for (size_t at = 0; at < strlen(stream); at += piece)
                        assert_int_equal(sse_feed(&s, stream + at, MIN(piece, strlen(stream) - at), collect, &got), 0);
                assert_string_equal(got.data ? got.data : "", expected);
                sse_done(&s);
        }
}

static void test_events(void **state)
{
        (void)state;
        assert_events("data: a\n\n", "[a]");
        assert_events("event: x\r\ndata: a\r\ndata:b\r\n\r\n: comment\r\n\r\ndata\n\n", "[a\nb]");
        assert_events("id: 1\rdata:  a\r\rdata: b\r\r", "[ a][b]");
        assert_events("data: never ended\n", "");
        assert_events("data:\n\n", "[]");
}

static int refuse(const char *data, size_t len, void *arg)
{
        (void)data;
        (void)len;
        (void)arg;
        return -EPIPE;
}

static void test_event_refused(void **state)
{
        struct sse s = { .cr = false };

        (void)state;
        assert_int_equal(sse_feed(&s, "data: a\n\ndata: b\n\n", 18, refuse, NULL), -EPIPE);
        sse_done(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_descriptions), cmocka_unit_test(test_find_and_suggest),
                cmocka_unit_test(test_times),        cmocka_unit_test(test_escape),
                cmocka_unit_test(test_explain),      cmocka_unit_test(test_elsewhere),
                cmocka_unit_test(test_events),       cmocka_unit_test(test_event_refused),
        };

        return cmocka_run_group_tests_name("cli/commands", tests, NULL, NULL);
}
