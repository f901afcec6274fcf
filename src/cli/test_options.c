#include "cli/options.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

struct seen {
        bool a, b, rm;
        const char *text;
        char **list;
        int64_t size, time, count;
};

static const struct cli_option described[] = {
        { .name = "all", .letter = 'a', .help = "a" },
        { .name = "big", .letter = 'b', .help = "b" },
        { .name = "text", .letter = 't', .value = "WORD", .help = "text" },
        { .name = "list", .letter = 'l', .value = "WORD", .help = "list" },
        { .name = "size", .value = "SIZE", .help = "size" },
        { .name = "time", .value = "TIME", .help = "time" },
        { .name = "count", .value = "NUMBER", .help = "count" },
        { .name = "rm", .help = "nothing" },
        { .name = "no", .letter = 'n', .value = "WORD", .refused = "do something else" },
        { .name = "never", .letter = 'N', .refused = "it is so" },
        { .name = NULL },
};
static const struct cli_exit_code exits[] = { { NULL, NULL } };
static const struct cli_command free_command = { .name = "free",
                                                 .args = "",
                                                 .summary = "",
                                                 .description = "",
                                                 .examples = "",
                                                 .options = described,
                                                 .exits = exits };
static const struct cli_command leading_command = { .name = "lead",
                                                    .args = "",
                                                    .summary = "",
                                                    .description = "",
                                                    .examples = "",
                                                    .options = described,
                                                    .exits = exits,
                                                    .leading = true };

static int parse(const struct cli_command *command, struct cli *cli, struct seen *seen, int *argc, char **argv,
                 struct err *err)
{
        const struct cli_binding options[] = {
                { "all", cli_set_true, &seen->a },         { "big", cli_set_true, &seen->b },
                { "text", cli_set_text, &seen->text },     { "list", cli_set_list, &seen->list },
                { "size", cli_set_bytes, &seen->size },    { "time", cli_set_duration, &seen->time },
                { "count", cli_set_number, &seen->count }, { "rm", cli_set_true, &seen->rm },
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

/* As pflag has it. */
static void test_flags_with_values(void **state)
{
        struct seen seen = { .a = true, .b = false };
        struct cli cli = { .host = "" };
        struct err err = ERR_INIT;
        int argc;

        (void)state;
        assert_int_equal(parse(&free_command, &cli, &seen, &argc,
                               WORDS(W("-a=false"), W("--big=T"), W("--never=false"), W("--count=0x10"),
                                     W("--text=a=b"), W("--text"), W("")),
                               &err),
                         0);
        assert_false(seen.a);
        assert_true(seen.b);
        assert_int_equal(seen.count, 16);
        assert_string_equal(seen.text, "");
}

static void test_numbers(void **state)
{
        static const char *const bad[] = {
                "", "-1", "+1", " 1", "1x", "0x", "1.5", "9223372036854775808", "0b2", "0o8"
        };
        int64_t n = 7;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                if (cli_set_number(bad[i], &n, NULL) == 0)
                        fail_msg("%s is %d", bad[i], (int)n);
        assert_int_equal(n, 7);
        assert_int_equal(cli_set_number("0b11", &n, NULL), 0);
        assert_int_equal(n, 3);
        assert_int_equal(cli_set_number("0o17", &n, NULL), 0);
        assert_int_equal(n, 15);
}

/* What is described and not bound, or the other way round, is never let pass. */
static void test_bindings(void **state)
{
        struct cli cli = { .host = "" };
        bool on = false;
        const struct cli_binding few[] = { { "all", cli_set_true, &on } };
        struct err err = ERR_INIT;
        char *words[] = { NULL };
        int argc = 0;

        (void)state;
        assert_int_equal(cli_parse(&cli, &free_command, few, 1, &argc, words, &err), -EINVAL);
        assert_string_equal(err.text, "--big: described, but not known to the command");
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
        assert_refused(WORDS(W("--tex")),
                       "--tex: unknown option; did you mean --text? (mayfly free --help lists them)");
        assert_refused(WORDS(W("-az")), "-z: unknown option (mayfly free --help lists them)");
        assert_refused(WORDS(W("--text")), "--text: needs a value");
        assert_refused(WORDS(W("-at")), "-t: needs a value");
        assert_refused(WORDS(W("--all=maybe")), "--all: 'maybe' is neither true nor false");
        assert_refused(WORDS(W("--size=-1")), "--size: '-1' is not a size, as 512m or 1.5g");
        assert_refused(WORDS(W("--time=1x")), "--time: '1x' is not a duration, as 1m30s or a number of seconds");
        assert_refused(WORDS(W("-nx")), "-n means nothing here: do something else");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ways_to_give_a_value),
                cmocka_unit_test(test_other_words),
                cmocka_unit_test(test_flags_with_values),
                cmocka_unit_test(test_numbers),
                cmocka_unit_test(test_bindings),
                cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests_name("cli/options", tests, NULL, NULL);
}
