#include "base/str.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static bool is_colored(void)
{
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

        return isatty(STDERR_FILENO) && !(no && *no) && !(term && str_eq(term, "dumb"));
}

/* Bytes of one UTF-8 character at the start of text; 0: it is none. */
static size_t character_len(const char *text)
{
        size_t max = strnlen(text, 4);

        for (size_t n = 1; n <= max; n++)
                if (utf8_valid(text, n))
                        return n;
        return 0;
}

int cli_escape(struct str *out, const char *text)
{
        int r = 0;

        while (*text && r == 0) {
                unsigned char c = (unsigned char)*text;
                size_t n = character_len(text);
                /* C0, DEL, and C1 as two bytes: all of them can steer a terminal. */
                bool control = (c < 0x20 && c != '\n') || c == 0x7f || (c == 0xc2 && (unsigned char)text[1] < 0xa0);

                if (n && !control) {
                        r = str_add(out, text, n);
                        text += n;
                } else {
                        r = str_addf(out, "\\x%02x", c);
                        text++;
                }
        }
        return r;
}

static void say(const char *color, const char *word, const char *fmt, va_list ap)
{
        auto_str text = STR_INIT, line = STR_INIT;
        bool colored = is_colored();

        if (str_addv(&text, fmt, ap) < 0 || cli_escape(&line, text.data) < 0)
                return;
        (void)fflush(stdout);
        fprintf(stderr, "%smayfly: %s%s%s\n", colored ? color : "", word, colored ? "\033[0m" : "", line.data);
}

void cli_error(const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        say("\033[1;31m", "", fmt, ap);
        va_end(ap);
}

void cli_warn(const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        say("\033[1;33m", "warning: ", fmt, ap);
        va_end(ap);
}

int cli_fail(const struct cli_command *command, const struct err *err)
{
        cli_error("%s", err->text);
        return command->failed;
}

/* Characters, not bytes; good enough for names and digests. */
static size_t width(const char *s)
{
        size_t n = 0;

        for (; *s; s++)
                n += ((unsigned char)*s & 0xc0) != 0x80;
        return n;
}

#define COLUMNS_MAX 8

void cli_table(const char *const *cells, size_t columns, size_t rows)
{
        size_t widths[COLUMNS_MAX] = { 0 };

        for (size_t i = 0; i < rows * columns; i++)
                widths[i % columns] = MAX(widths[i % columns], width(cells[i]));
        for (size_t i = 0; i < rows * columns; i++) {
                bool last = i % columns == columns - 1;

                printf("%s%*s", cells[i], last ? 0 : (int)(widths[i % columns] - width(cells[i]) + 3), "");
                if (last)
                        printf("\n");
        }
}

int cli_flush(struct err *err)
{
        if (fflush(stdout) == EOF || ferror(stdout))
                return err_sys(err, "write to stdout");
        return 0;
}
