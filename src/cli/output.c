#include "base/str.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define COLUMNS_USUAL 80

bool cli_colored(int fd)
{
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

        return isatty(fd) && !(no && *no) && !(term && str_eq(term, "dumb"));
}

size_t cli_columns(int fd)
{
        struct winsize size;

        if (!isatty(fd))
                return 0;
        return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : COLUMNS_USUAL;
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

/* Marks that turn the direction of what stands beside them (Unicode Standard Annex 9), and ends of lines and paragraphs: a
 * table's cell that holds one is read as another. */
static bool misleads(const unsigned char *c)
{
        if (c[0] != 0xe2)
                return false;
        if (c[1] == 0x80)
                return c[2] == 0x8e || c[2] == 0x8f || (c[2] >= 0xa8 && c[2] <= 0xae);
        return c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9;
}

int cli_escape(struct str *out, const char *text)
{
        int r = 0;

        while (*text && r == 0) {
                unsigned char c = (unsigned char)*text;
                size_t n = character_len(text);
                /* C0, DEL, and C1 as two bytes: all of them can steer a terminal. */
                bool control = (c < 0x20 && c != '\n') || c == 0x7f || (c == 0xc2 && (unsigned char)text[1] < 0xa0) ||
                               (n == 3 && misleads((const unsigned char *)text));

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
        bool colored = cli_colored(STDERR_FILENO);

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

/* Good enough for names and digests. */
size_t cli_text_width(const char *s)
{
        size_t n = 0;

        for (; *s; s++)
                n += ((unsigned char)*s & 0xc0) != 0x80;
        return n;
}

int cli_flush(struct err *err)
{
        if (fflush(stdout) == EOF || ferror(stdout))
                return err_sys(err, "write to stdout");
        return 0;
}

int cli_print_json(const json_t *v, struct err *err)
{
        /* Escapes keep control bytes from the terminal. */
        (void)json_dumpf(v, stdout, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
        (void)putchar('\n');
        return cli_flush(err);
}
