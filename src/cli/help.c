#include "cli/cli.h"

#include <stdio.h>
#include <unistd.h>

#define WIDTH_UNKNOWN 100 /* where there is no terminal */
#define WIDTH_MIN 40
#define WIDTH_MAX 120
#define OPTION_COLUMN 32

static size_t help_width(void)
{
        size_t columns = cli_columns(STDOUT_FILENO);

        return columns ? MIN(MAX(columns, WIDTH_MIN), WIDTH_MAX) : WIDTH_UNKNOWN;
}

/* Fills lines up to the width, each but the first behind `indent` blanks; `column` is where the first one stands. */
static void fill(FILE *to, const char *text, size_t column, size_t indent, size_t width)
{
        bool first = true;

        while (*text) {
                size_t len = strcspn(text, " \n");

                if (!first && column + 1 + len > width) {
                        fprintf(to, "\n%*s", (int)indent, "");
                        column = indent;
                } else if (!first) {
                        fputc(' ', to);
                        column++;
                }
                fprintf(to, "%.*s", (int)len, text);
                column += len;
                first = false;
                text += len;
                if (text[0] == '\n' && text[1] == '\n') {
                        fprintf(to, "\n\n%*s", (int)indent, "");
                        column = indent;
                        first = true;
                }
                text += strspn(text, " \n");
        }
        fputc('\n', to);
}

static void print_option(FILE *to, const struct cli_option *o, size_t width)
{
        size_t indent = MIN(OPTION_COLUMN, width / 3), column;
        char left[96];

        (void)snprintf(left, sizeof(left), "  %c%c%c --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                       o->letter ? ',' : ' ', o->name, o->value ? " " : "", o->value ? o->value : "");
        column = strlen(left);
        fputs(left, to);
        if (column + 2 > indent) {
                fputc('\n', to);
                column = 0;
        }
        fprintf(to, "%*s", (int)(indent - column), "");
        fill(to, o->help, indent, indent, width);
}

static bool print_options(FILE *to, const char *title, const struct cli_option *options, size_t width)
{
        bool any = false;

        for (const struct cli_option *o = options; o->name; o++) {
                if (!o->help)
                        continue;
                if (!any)
                        fprintf(to, "\n%s:\n", title);
                any = true;
                print_option(to, o, width);
        }
        return any;
}

static void print_lines(FILE *to, const char *lines)
{
        while (*lines) {
                size_t len = strcspn(lines, "\n");

                fprintf(to, "  %.*s\n", (int)len, lines);
                lines += len + (lines[len] == '\n');
        }
}

void cli_print_help(const struct cli_command *c)
{
        size_t width = help_width();

        printf("Usage: mayfly %s [OPTIONS]%s%s\n\n", c->name, *c->args ? " " : "", c->args);
        fill(stdout, c->description, 0, 0, width);
        (void)print_options(stdout, "Options", c->options, width);
        if (!c->bare)
                (void)print_options(stdout, "Options of every command", cli_common_options, width);
        printf("\nExit codes:\n");
        for (const struct cli_exit_code *e = c->exits; e->code; e++) {
                printf("  %-7s ", e->code);
                fill(stdout, e->meaning, 10, 10, width);
        }
        printf("\nExamples:\n");
        print_lines(stdout, c->examples);
}

static void print_summaries(FILE *to, const char *first_word)
{
        size_t len = first_word ? strlen(first_word) : 0;

        for (const struct cli_command *c = cli_commands; c->name; c++) {
                if (c->hidden || (first_word && (strncmp(c->name, first_word, len) != 0 || c->name[len] != ' ')))
                        continue;
                fprintf(to, "  %-12s %s\n", c->name, c->summary);
        }
}

void cli_print_overview(bool error)
{
        FILE *to = error ? stderr : stdout;
        size_t width = help_width();

        fprintf(to, "Usage: mayfly [OPTIONS] COMMAND\n\n" CLI_TAGLINE "\n\nCommands:\n");
        print_summaries(to, NULL);
        (void)print_options(to, "Options", cli_common_options, width);
        fprintf(to, "      --version                 the version of this command\n"
                    "\nmayfly COMMAND --help explains a command, with examples; so does man mayfly-COMMAND.\n");
}

void cli_print_group(const char *name, bool error)
{
        FILE *to = error ? stderr : stdout;

        fprintf(to, "Usage: mayfly %s COMMAND\n\nCommands:\n", name);
        print_summaries(to, name);
}
