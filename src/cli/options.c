#include "cli/options.h"

#include "base/str.h"
#include "base/time.h"
#include "base/units.h"

#include <errno.h>
#include <stdio.h>

/* ── setters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

int cli_parse_bool(const char *value, bool *ret)
{
        static const char *const yes[] = { "", "1", "t", "T", "true", "TRUE", "True" };
        static const char *const no[] = { "0", "f", "F", "false", "FALSE", "False" };

        for (size_t i = 0; i < ARRAY_LEN(yes); i++)
                if (str_eq(value, yes[i]))
                        return *ret = true, 0;
        for (size_t i = 0; i < ARRAY_LEN(no); i++)
                if (str_eq(value, no[i]))
                        return *ret = false, 0;
        return -EINVAL;
}

int cli_set_true(const char *value, void *data, struct err *err)
{
        if (cli_parse_bool(value, data) < 0)
                return err_set(err, EINVAL, "'%s' is neither true nor false", value);
        return 0;
}

int cli_set_text(const char *value, void *data, struct err *err)
{
        (void)err;
        *(const char **)data = value;
        return 0;
}

int cli_set_list(const char *value, void *data, struct err *err)
{
        return strv_add((char ***)data, value) < 0 ? err_oom(err) : 0;
}

int cli_set_bytes(const char *value, void *data, struct err *err)
{
        int64_t bytes;

        if (units_parse_bytes(value, &bytes) < 0 || bytes < 0)
                return err_set(err, EINVAL, "'%s' is not a size, as 512m or 1.5g", value);
        *(int64_t *)data = bytes;
        return 0;
}

int cli_set_duration(const char *value, void *data, struct err *err)
{
        int64_t ns;

        if (time_parse_duration(value, &ns) < 0 || ns < 0)
                return err_set(err, EINVAL, "'%s' is not a duration, as 1m30s or a number of seconds", value);
        *(int64_t *)data = ns;
        return 0;
}

/* Days and weeks, too, which Go's durations lack. */
int cli_parse_span(const char *value, int64_t *ret_ns)
{
        static const struct {
                char unit;
                int64_t hours;
        } units[] = { { 'd', 24 }, { 'w', 24 * 7 }, { 'y', INT64_C(24) * 365 } };
        size_t len = strlen(value);
        char digits[16];
        uint32_t n;

        for (size_t i = 0; i < ARRAY_LEN(units); i++) {
                if (len < 2 || len >= sizeof(digits) || value[len - 1] != units[i].unit)
                        continue;
                (void)snprintf(digits, sizeof(digits), "%.*s", (int)len - 1, value);
                if (parse_u32(digits, &n) < 0 || n > 100 * 365)
                        return -EINVAL;
                *ret_ns = n * units[i].hours * 3600 * (int64_t)NS_PER_S;
                return *ret_ns / units[i].hours / 3600 / (int64_t)NS_PER_S == n ? 0 : -ERANGE;
        }
        return time_parse_duration(value, ret_ns);
}

int cli_set_span(const char *value, void *data, struct err *err)
{
        int64_t ns;

        if (cli_parse_span(value, &ns) < 0 || ns < 0)
                return err_set(err, EINVAL, "'%s' is not a duration, as 12h or 7d", value);
        *(int64_t *)data = ns;
        return 0;
}

/* Go's ParseInt with base 0 takes 0x1f, 0o17, 017 and 0b11, too. */
int cli_set_number(const char *value, void *data, struct err *err)
{
        const char *digits = value;
        char *end = NULL;
        int base = 0;
        long long n;

        if (str_starts(value, "0o") || str_starts(value, "0O") || str_starts(value, "0b") || str_starts(value, "0B")) {
                base = value[1] == 'o' || value[1] == 'O' ? 8 : 2;
                digits = value + 2;
        }
        errno = 0;
        n = strtoll(digits, &end, base);
        if (!(*digits >= '0' && *digits <= '9') || *end || errno)
                return err_set(err, EINVAL, "'%s' is not a number from 0 on", value);
        *(int64_t *)data = n;
        return 0;
}

/* ── parsing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define COMMON_BINDINGS 6

struct parser {
        const struct cli_command *command;
        const struct cli_binding *bindings;
        size_t n;
        struct cli_binding common[COMMON_BINDINGS];
        int argc;
        char **argv;
        bool help;
};

static const struct cli_option *find(const struct cli_option *options, const char *name, size_t len, char letter)
{
        for (const struct cli_option *o = options; o->name; o++)
                if (letter ? o->letter == letter : strncmp(o->name, name, len) == 0 && !o->name[len])
                        return o;
        return NULL;
}

/* The command's own go before those of every command. */
static const struct cli_option *find_option(const struct parser *p, const char *name, size_t len, char letter)
{
        static const struct cli_option short_help = { .name = "help", .letter = 'h' };
        const struct cli_option *o = find(p->command->options, name, len, letter);

        if (!o)
                o = find(cli_common_options, name, len, letter);
        return !o && letter == 'h' ? &short_help : o;
}

static bool is_own(const struct parser *p, const struct cli_option *option)
{
        for (const struct cli_option *o = p->command->options; o->name; o++)
                if (o == option)
                        return true;
        return false;
}

static const struct cli_binding *find_binding(const struct parser *p, const char *name)
{
        for (size_t i = 0; i < p->n; i++)
                if (str_eq(p->bindings[i].name, name))
                        return &p->bindings[i];
        for (size_t i = 0; i < ARRAY_LEN(p->common); i++)
                if (str_eq(p->common[i].name, name))
                        return &p->common[i];
        return NULL;
}

static const char *similar_option(const struct parser *p, const char *name)
{
        const struct cli_option *const lists[] = { p->command->options, cli_common_options };

        for (size_t i = 0; i < ARRAY_LEN(lists); i++)
                for (const struct cli_option *o = lists[i]; o->name; o++)
                        if (o->help && cli_similar(o->name, name))
                                return o->name;
        return NULL;
}

static int unknown(const struct parser *p, const char *option, struct err *err)
{
        const char *similar = str_starts(option, "--") ? similar_option(p, option + 2) : NULL;
        const char *name = p->command->name;

        return err_set(err, EINVAL, "%s: unknown option%s%s%s (mayfly%s%s --help lists them)", option,
                       similar ? "; did you mean --" : "", similar ? similar : "", similar ? "?" : "", *name ? " " : "",
                       name);
}

static int apply(const struct parser *p, const struct cli_option *o, const char *shown, const char *value,
                 struct err *err)
{
        const struct cli_binding *b;
        bool on = true;

        if (o->refused) {
                /* `--privileged=false` asks for what is so anyway. */
                if (!o->value && cli_parse_bool(value, &on) == 0 && !on)
                        return 0;
                return err_set(err, EINVAL, "%s %s: %s", shown, is_own(p, o) ? "means nothing here" : "is refused",
                               o->refused);
        }
        b = find_binding(p, o->name);
        if (!b)
                return err_set(err, EINVAL, "%s: described, but not known to the command", shown);
        if (b->set(value, b->data, err) < 0)
                return err_wrap(err, "%s", shown);
        return 0;
}

/* The value of the option at hand is the next word. */
static int take_value(struct parser *p, const char *shown, const char **ret, struct err *err)
{
        if (p->argc < 2)
                return err_set(err, EINVAL, "%s: needs a value", shown);
        p->argc--;
        p->argv++;
        *ret = p->argv[0];
        return 0;
}

static int parse_long(struct parser *p, struct err *err)
{
        const char *word = p->argv[0] + 2, *equals = strchr(word, '='), *value = "";
        size_t len = equals ? (size_t)(equals - word) : strlen(word);
        const struct cli_option *o = len ? find_option(p, word, len, 0) : NULL;
        char shown[64];
        int r;

        (void)snprintf(shown, sizeof(shown), "--%.*s", (int)MIN(len, 40), word);
        if (!o)
                return unknown(p, shown, err);
        if (equals)
                value = equals + 1;
        else if (o->value) {
                r = take_value(p, shown, &value, err);
                if (r < 0)
                        return r;
        }
        return apply(p, o, shown, value, err);
}

static int parse_letters(struct parser *p, struct err *err)
{
        const char *at = p->argv[0] + 1;

        for (; *at; at++) {
                const struct cli_option *o = find_option(p, "", 0, *at);
                char shown[3] = { '-', *at, '\0' };
                const char *value = "";
                int r = 0;

                if (!o)
                        return unknown(p, (unsigned char)*at < 0x80 ? shown : p->argv[0], err);
                if (at[1] == '=' || (o->value && at[1])) {
                        value = at + 1 + (at[1] == '=');
                        return apply(p, o, shown, value, err);
                }
                if (o->value)
                        r = take_value(p, shown, &value, err);
                if (r == 0)
                        r = apply(p, o, shown, value, err);
                if (r < 0 || o->value)
                        return r;
        }
        return 0;
}

/* A description without its binding, or the other way round, is a fault of ours that no use of the command may hide. */
static int check_bindings(const struct parser *p, struct err *err)
{
        for (const struct cli_option *o = p->command->options; o->name; o++)
                if (!o->refused && !find_binding(p, o->name))
                        return err_set(err, EINVAL, "--%s: described, but not known to the command", o->name);
        for (size_t i = 0; i < p->n; i++)
                if (!find(p->command->options, p->bindings[i].name, strlen(p->bindings[i].name), 0))
                        return err_set(err, EINVAL, "--%s: not described", p->bindings[i].name);
        return 0;
}

static int parse_words(struct parser *p, int *ret_words, char **argv, struct err *err)
{
        int words = 0, r = 0;

        for (; r == 0 && p->argc > 0; p->argc--, p->argv++) {
                const char *word = p->argv[0];

                if (str_eq(word, "--")) {
                        p->argc--;
                        p->argv++;
                        break;
                }
                if (word[0] == '-' && word[1]) {
                        r = word[1] == '-' ? parse_long(p, err) : parse_letters(p, err);
                } else if (p->command->leading) {
                        break;
                } else {
                        argv[words++] = p->argv[0];
                }
        }
        for (; r == 0 && p->argc > 0; p->argc--)
                argv[words++] = *p->argv++;
        *ret_words = words;
        return r;
}

int cli_parse(struct cli *cli, const struct cli_command *command, const struct cli_binding *bindings, size_t n,
              int *argc, char **argv, struct err *err)
{
        struct parser p = { .command = command, .bindings = bindings, .n = n, .argc = *argc, .argv = argv };
        const struct cli_binding common[COMMON_BINDINGS] = {
                { "host", cli_set_text, &cli->host },     { "key-file", cli_set_text, &cli->key_file },
                { "cacert", cli_set_text, &cli->cacert }, { "pin", cli_set_text, &cli->pin },
                { "json", cli_set_true, &cli->json },     { "help", cli_set_true, &p.help },
        };
        int r, words = 0;

        memcpy(p.common, common, sizeof(common));
        r = check_bindings(&p, err);
        if (r == 0)
                r = parse_words(&p, &words, argv, err);
        /* Help is what somebody wants whose line is wrong. */
        if (p.help) {
                if (*command->name)
                        cli_print_help(command);
                else
                        cli_print_overview(false);
                return 1;
        }
        if (r == 0)
                *argc = words;
        return r;
}
