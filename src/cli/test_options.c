#include "cli/options.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

struct seen {
        bool a, b;
        const char *text;
        char **list;
        int64_t size, time;
};

static const struct cli_command free_command = { .name = "free", .args = "", .summary = "", .examples = "" };
static const struct cli_command leading_command = {
        .name = "lead", .args = "", .summary = "", .examples = "", .leading = true
};

static int parse(const struct cli_command *command, struct cli *cli, struct seen *seen, int *argc, char **argv,
                 struct err *err)
{
        const struct cli_option options[] = {
                { "all", 'a', NULL, cli_set_true, &seen->a, "a" },
                { "big", 'b', NULL, cli_set_true, &seen->b, "b" },
                { "text", 't', "WORD", cli_set_text, &seen->text, "text" },
                { "list", 'l', "WORD", cli_set_list, &seen->list, "list" },
                { "size", 0, "SIZE", cli_set_bytes, &seen->size, "size" },
                { "time", 0, "TIME", cli_set_duration, &seen->time, "time" },
                { "rm", 0, NULL, cli_set_nothing, NULL, "nothing" },
                { "no", 'n', "WORD", cli_set_refused, (char[]){ "do something else" }, NULL },
        };

        *argc = (int)strv_len(argv);
        return cli_parse(cli, command, options, ARRAY_LEN(options), argc, argv, err);
}

#define WORDS(...) ((char *[]){ __VA_ARGS__, NULL })
#define W(text) ((char[]){ text })

static void test_ways_to_give_a_value(void **state)
{
        struct seen seen = { .a = false };
        struct cli cli = { .host = "" };
        struct err err = ERR_INIT;
        int argc;

        (void)state;
        assert_int_equal(parse(&free_command, &cli, &seen, &argc,
                               WORDS(W("-ab"), W("-tone"), W("--list=x"), W("--list"), W("y"), W("-l=z"), W("--size"),
                                     W("1.5g"), W("--time=90s"), W("--rm"), W("--host=h"), W("--json")),
                               &err),
                         0);
        assert_int_equal(argc, 0);
        assert_true(seen.a && seen.b && cli.json);
        assert_string_equal(seen.text, "one");
        assert_int_equal(strv_len(seen.list), 3);
        assert_string_equal(seen.list[2], "z");
        assert_int_equal(seen.size, INT64_C(1610612736));
        assert_int_equal(seen.time, INT64_C(90000000000));
        assert_string_equal(cli.host, "h");
        strv_free(seen.list);
}

static void test_other_words(void **state)
{
        char *mixed[] = { W("one"), W("-a"), W("-"), W("--"), W("-b"), NULL };
        char *leading[] = { W("-a"), W("one"), W("-b"), NULL };
        struct seen seen = { .a = false };
        struct cli cli = { .host = "" };
        struct err err = ERR_INIT;
        int argc;

        (void)state;
        assert_int_equal(parse(&free_command, &cli, &seen, &argc, mixed, &err), 0);
        assert_int_equal(argc, 3);
        assert_true(seen.a && !seen.b);
        assert_string_equal(mixed[0], "one");
        assert_string_equal(mixed[1], "-");
        assert_string_equal(mixed[2], "-b");
        assert_int_equal(parse(&leading_command, &cli, &seen, &argc, leading, &err), 0);
        assert_int_equal(argc, 2);
        assert_string_equal(leading[0], "one");
        assert_string_equal(leading[1], "-b");
        assert_false(seen.b);
}

static void assert_refused(char **words, const char *text)
{
        struct seen seen = { .a = false };
        struct cli cli = { .host = "" };
        struct err err = ERR_INIT;
        int argc;

        assert_int_equal(parse(&free_command, &cli, &seen, &argc, words, &err), -EINVAL);
        assert_string_equal(err.text, text);
}

static void test_refused(void **state)
{
        (void)state;
        assert_refused(WORDS(W("--nope")), "--nope: unknown option (mayfly free --help lists them)");
        assert_refused(WORDS(W("--nope=x")), "--nope: unknown option (mayfly free --help lists them)");
        assert_refused(WORDS(W("--tex")), "--tex: unknown option (mayfly free --help lists them)");
        assert_refused(WORDS(W("-az")), "-z: unknown option (mayfly free --help lists them)");
        assert_refused(WORDS(W("--text")), "--text: needs a value");
        assert_refused(WORDS(W("-at")), "-t: needs a value");
        assert_refused(WORDS(W("--all=maybe")), "--all: 'maybe' is neither true nor false");
        assert_refused(WORDS(W("--size=-1")), "--size: '-1' is not a size, as 512m or 1.5g");
        assert_refused(WORDS(W("--time=1x")), "--time: '1x' is not a duration, as 1m30s or a number of seconds");
        assert_refused(WORDS(W("-nx")), "-n: do something else");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ways_to_give_a_value),
                cmocka_unit_test(test_other_words),
                cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests_name("cli/options", tests, NULL, NULL);
}
