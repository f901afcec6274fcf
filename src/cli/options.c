#include "cli/options.h"

#include "base/str.h"
#include "base/time.h"
#include "base/units.h"

#include <errno.h>
#include <stdio.h>

/* ── setters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

int cli_set_true(const char *value, void *data, struct err *err)
{
        bool *to = data;

        if (!*value || str_eq(value, "true"))
                *to = true;
        else if (str_eq(value, "false"))
                *to = false;
        else
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

int cli_set_nothing(const char *value, void *data, struct err *err)
{
        (void)value;
        (void)data;
        (void)err;
        return 0;
}

int cli_set_refused(const char *value, void *data, struct err *err)
{
        (void)value;
        return err_set(err, EINVAL, "%s", (const char *)data);
}

/* ── parsing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define OPTIONS_MAX 96

struct parser {
        const struct cli_command *command;
        struct cli_option options[OPTIONS_MAX];
        size_t n;
        int argc;
        char **argv;
        bool help;
};

static const struct cli_option *find_name(const struct parser *p, const char *name, size_t len)
{
        for (size_t i = 0; i < p->n; i++)
                if (strncmp(p->options[i].name, name, len) == 0 && p->options[i].name[len] == '\0')
                        return &p->options[i];
        return NULL;
}

static const struct cli_option *find_letter(const struct parser *p, char letter)
{
        for (size_t i = 0; i < p->n; i++)
                if (p->options[i].letter == letter)
                        return &p->options[i];
        return NULL;
}

static int unknown(const struct parser *p, const char *option, struct err *err)
{
        return err_set(err, EINVAL, "%s: unknown option (mayfly %s --help lists them)", option, p->command->name);
}

static int apply(const struct cli_option *o, const char *shown, const char *value, struct err *err)
{
        int r = o->set(value, o->data, err);

        return r < 0 ? err_wrap(err, "%s", shown) : 0;
}

/* The value of the option at hand: what is left of its word, or the next word. */
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
        const struct cli_option *o = find_name(p, word, len);
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
        return apply(o, shown, value, err);
}

static int parse_letters(struct parser *p, struct err *err)
{
        const char *at = p->argv[0] + 1;

        for (; *at; at++) {
                const struct cli_option *o = find_letter(p, *at);
                char shown[3] = { '-', *at, '\0' };
                const char *value = "";
                int r = 0;

                if (!o)
                        return unknown(p, (unsigned char)*at < 0x80 ? shown : p->argv[0], err);
                if (o->value && at[1]) {
                        value = at + 1 + (at[1] == '=');
                        return apply(o, shown, value, err);
                }
                if (o->value)
                        r = take_value(p, shown, &value, err);
                if (r == 0)
                        r = apply(o, shown, value, err);
                if (r < 0 || o->value)
                        return r;
        }
        return 0;
}

static void add_option(struct parser *p, struct cli_option o)
{
        if (p->n < OPTIONS_MAX && !find_name(p, o.name, strlen(o.name)))
                p->options[p->n++] = o;
}

int cli_parse(struct cli *cli, const struct cli_command *command, const struct cli_option *options, size_t n, int *argc,
              char **argv, struct err *err)
{
        struct parser p = { .command = command, .argc = *argc, .argv = argv };
        int words = 0, r = 0;

        for (size_t i = 0; i < n; i++)
                add_option(&p, options[i]);
        add_option(&p, (struct cli_option){ "host", 'H', "URL", cli_set_text, &cli->host,
                                            "where Mayfly listens (MAYFLY_HOST; default " CLI_DEFAULT_HOST ")" });
        add_option(&p, (struct cli_option){ "json", 0, NULL, cli_set_true, &cli->json, "the answer as JSON" });
        add_option(&p, (struct cli_option){ "help", 0, NULL, cli_set_true, &p.help, "this text" });
        while (r == 0 && p.argc > 0) {
                const char *word = p.argv[0];

                if (str_eq(word, "--")) {
                        p.argc--;
                        p.argv++;
                        break;
                }
                if (word[0] != '-' || !word[1]) {
                        if (command->leading)
                                break;
                        argv[words++] = p.argv[0];
                } else {
                        r = word[1] == '-' ? parse_long(&p, err) : parse_letters(&p, err);
                }
                p.argc--;
                p.argv++;
        }
        for (; r == 0 && p.argc > 0; p.argc--)
                argv[words++] = *p.argv++;
        if (r < 0)
                return r;
        if (p.help) {
                cli_print_usage(command, p.options, p.n);
                return 1;
        }
        *argc = words;
        return 0;
}

void cli_print_usage(const struct cli_command *command, const struct cli_option *options, size_t n)
{
        printf("Usage: mayfly %s [OPTIONS]%s%s\n\n%s\n\nOptions:\n", command->name, *command->args ? " " : "",
               command->args, command->summary);
        for (size_t i = 0; i < n; i++) {
                const struct cli_option *o = &options[i];
                char left[64];

                if (!o->help)
                        continue;
                (void)snprintf(left, sizeof(left), "%c%c%s --%s%s%s", o->letter ? '-' : ' ',
                               o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name, o->value ? " " : "",
                               o->value ? o->value : "");
                printf("  %-34s %s\n", left, o->help);
        }
        printf("\nExamples:\n%s", command->examples);
}
