/* Writes the manual pages, mayfly.1 and mayfly-COMMAND.1, as mdoc(7), of the descriptions in cli/commands.h, and what the
 * build installs for shells.
 *
 *   gen_man DIRECTORY               which is made
 *   gen_man --completion SHELL      on stdout */
#include "cli/commands.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_MAX_COLUMN 78

/* A line that begins with a dot or an apostrophe would be a request, and a backslash an escape. */
static void text_char(FILE *to, char c, bool line_start)
{
        if (line_start && (c == '.' || c == '\''))
                fputs("\\&", to);
        if (c == '\\')
                fputs("\\e", to);
        else if (c == '-')
                fputs("\\-", to);
        else
                fputc(c, to);
}

/* A word of a line that is filled; answers the column. */
static size_t filled_word(FILE *to, const char *word, size_t len, size_t column)
{
        if (column > 0 && column + len >= LINE_MAX_COLUMN) {
                fputc('\n', to);
                column = 0;
        } else if (column > 0) {
                fputc(' ', to);
                column++;
        }
        for (size_t i = 0; i < len; i++)
                text_char(to, word[i], column + i == 0);
        return column + len;
}

/* Sentences begin on lines of their own, so that the formatter sets the space between them. */
static void paragraphs(FILE *to, const char *text)
{
        size_t column = 0;

        while (*text) {
                size_t len = strcspn(text, " \n");
                bool sentence = len > 0 && text[len - 1] == '.' && text[len] == ' ' &&
                                isupper((unsigned char)text[len + 1]);

                column = filled_word(to, text, len, column);
                text += len;
                if (text[0] == '\n' && text[1] == '\n') {
                        fputs("\n.Pp\n", to);
                        column = 0;
                } else if (sentence) {
                        fputc('\n', to);
                        column = 0;
                }
                text += strspn(text, " \n");
        }
        fputc('\n', to);
}

/* In the arguments of a macro, words of two letters could be macros, and quotes end words. */
static void argument(FILE *to, const char *word)
{
        fputs("\\&", to);
        for (; *word; word++)
                if (*word == '"')
                        fputs("\\(dq", to);
                else if (strchr("|.,:;()[]?!", *word))
                        fprintf(to, "%c", *word);
                else
                        text_char(to, *word, false);
}

static void words_as_arguments(FILE *to, const char *macro, const char *text)
{
        const char *end;

        for (; *text; text = end) {
                size_t len = strcspn(text, " ");
                char word[128];

                snprintf(word, sizeof(word), "%.*s", (int)len, text);
                fprintf(to, "%s ", macro);
                argument(to, word);
                fputc('\n', to);
                end = text + len + strspn(text + len, " ");
        }
}

static void option_item(FILE *to, const struct cli_option *o)
{
        fputs(".It", to);
        if (o->letter)
                fprintf(to, " Fl %c ,", o->letter);
        fputs(" Fl \\-", to);
        argument(to, o->name);
        if (o->value) {
                fputs(" Ar \"", to);
                argument(to, o->value);
                fputs("\"", to);
        }
        fputc('\n', to);
}

static void options_list(FILE *to, const struct cli_option *options)
{
        fputs(".Bl -tag -width Ds\n", to);
        for (const struct cli_option *o = options; o->name; o++) {
                if (!o->help)
                        continue;
                option_item(to, o);
                paragraphs(to, o->help);
        }
        fputs(".El\n", to);
}

static bool has_shown(const struct cli_option *options)
{
        for (const struct cli_option *o = options; o->name; o++)
                if (o->help)
                        return true;
        return false;
}

static void refused_list(FILE *to, const struct cli_command *c)
{
        bool any = false;

        for (const struct cli_option *o = c->options; o->name; o++) {
                if (!o->refused)
                        continue;
                if (!any)
                        fprintf(to,
                                ".Sh FLAGS OF DOCKER THAT MEAN NOTHING HERE\n"
                                "They are refused, with exit code %d, and with what to use instead.\n"
                                ".Bl -tag -width Ds\n",
                                c->failed);
                any = true;
                option_item(to, o);
                paragraphs(to, o->refused);
        }
        if (any)
                fputs(".El\n", to);
}

static void literal(FILE *to, const char *lines)
{
        bool start = true;

        fputs(".Bd -literal -offset indent\n", to);
        for (; *lines; lines++) {
                text_char(to, *lines, start);
                start = *lines == '\n';
        }
        fputs(".Ed\n", to);
}

static void page_name(const char *command, char out[64])
{
        snprintf(out, 64, "mayfly-%s", command);
        for (char *p = out; *p; p++)
                if (*p == ' ')
                        *p = '-';
}

static void header(FILE *to, const char *name)
{
        fputs(".\\\" Written by gen_man of the descriptions in src/cli/commands.c: change those.\n.Dd " CLI_DATE
              "\n.Dt ",
              to);
        for (; *name; name++)
                fputc(toupper((unsigned char)*name), to);
        fputs(" 1\n.Os Mayfly\n.Sh NAME\n", to);
}

static void command_page(FILE *to, const struct cli_command *c)
{
        char name[64];

        page_name(c->name, name);
        header(to, name);
        fprintf(to, ".Nm %s\n.Nd %s\n.Sh SYNOPSIS\n.Nm mayfly %s\n.Op Ar OPTIONS\n", name, c->summary, c->name);
        words_as_arguments(to, ".Ar", c->args);
        fputs(".Sh DESCRIPTION\n", to);
        paragraphs(to, c->description);
        if (has_shown(c->options)) {
                fputs(".Pp\nThe options are as follows:\n", to);
                options_list(to, c->options);
        }
        if (!c->bare) {
                fputs(".Pp\nThose of every command:\n", to);
                options_list(to, cli_common_options);
        }
        refused_list(to, c);
        fputs(".Sh EXIT STATUS\n.Bl -tag -width Ds\n", to);
        for (const struct cli_exit_code *e = c->exits; e->code; e++) {
                fprintf(to, ".It %s\n", e->code);
                paragraphs(to, e->meaning);
        }
        fputs(".El\n.Sh EXAMPLES\n", to);
        literal(to, c->examples);
        fputs(".Sh SEE ALSO\n.Xr mayfly 1\n", to);
}

static int by_name(const void *a, const void *b)
{
        return strcmp(a, b);
}

static void main_page(FILE *to)
{
        char names[64][64];
        size_t n = 0;

        header(to, "mayfly");
        fputs(".Nm mayfly\n.Nd run containers that live a millisecond or a year\n.Sh SYNOPSIS\n.Nm mayfly\n"
              ".Op Ar OPTIONS\n.Ar COMMAND\n.Op Ar ARG...\n.Sh DESCRIPTION\n",
              to);
        for (const char *const *p = cli_about; *p; p++) {
                if (p != cli_about)
                        fputs(".Pp\n", to);
                paragraphs(to, *p);
        }
        fputs(".Pp\nThe commands are as follows, each with a page of its own:\n.Bl -tag -width Ds\n", to);
        for (const struct cli_command *c = cli_commands; c->name; c++) {
                if (c->hidden)
                        continue;
                fputs(".It Cm \"", to);
                argument(to, c->name);
                fputs("\"\n", to);
                paragraphs(to, c->summary);
                page_name(c->name, names[n++]);
        }
        fputs(".El\n.Pp\nThe options of every command:\n", to);
        options_list(to, cli_common_options);
        fputs(".Sh ENVIRONMENT\n.Bl -tag -width Ds\n", to);
        for (const struct cli_variable *v = cli_variables; v->name; v++) {
                fprintf(to, ".It Ev %s\n", v->name);
                paragraphs(to, v->meaning);
        }
        fputs(".El\n.Sh FILES\n.Bl -tag -width Ds\n.It Pa " CLI_DEFAULT_SOCKET
              "\nWhere Mayfly listens on this machine.\n"
              ".El\n.Sh EXAMPLES\n",
              to);
        literal(to, "mayfly run busybox:demo echo hello\n"
                    "MAYFLY_HOST=ssh://user@machine mayfly ps\n");
        fputs(".Sh SEE ALSO\n", to);
        qsort(names, n, sizeof(names[0]), by_name);
        for (size_t i = 0; i < n; i++)
                fprintf(to, ".Xr %s 1%s\n", names[i], i + 1 < n ? " ," : "");
}

static int write_page(const char *dir, const struct cli_command *c)
{
        char name[64] = "mayfly", path[4096];
        FILE *to;

        if (c)
                page_name(c->name, name);
        snprintf(path, sizeof(path), "%s/%s.1", dir, name);
        to = fopen(path, "we");
        if (!to) {
                fprintf(stderr, "gen_man: %s: %s\n", path, strerror(errno));
                return -1;
        }
        if (c)
                command_page(to, c);
        else
                main_page(to);
        return fclose(to);
}

static int print_script(const char *shell)
{
        for (const struct cli_script *s = cli_scripts; s->shell; s++)
                if (strcmp(s->shell, shell) == 0)
                        return fputs(s->text, stdout) < 0 || fflush(stdout) < 0 ? 1 : 0;
        fprintf(stderr, "gen_man: there is no script for %s\n", shell);
        return 2;
}

int main(int argc, char **argv)
{
        int r = 0;

        if (argc == 3 && strcmp(argv[1], "--completion") == 0)
                return print_script(argv[2]);
        if (argc != 2) {
                fprintf(stderr, "usage: gen_man DIRECTORY | --completion SHELL\n");
                return 2;
        }
        if (mkdir(argv[1], 0755) < 0 && errno != EEXIST) {
                fprintf(stderr, "gen_man: %s: %s\n", argv[1], strerror(errno));
                return 1;
        }
        r = write_page(argv[1], NULL);
        for (const struct cli_command *c = cli_commands; c->name && r == 0; c++)
                if (!c->hidden)
                        r = write_page(argv[1], c);
        /* Files that were there before do not make the directory newer, as ninja wants its output. */
        if (r == 0)
                r = utimensat(AT_FDCWD, argv[1], NULL, 0);
        return r == 0 ? 0 : 1;
}
