#include "base/str.h"
#include "cli/cli.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#define COLUMNS_USUAL 80

bool cli_draws(int fd)
{
        const char *term = getenv("TERM");

        return isatty(fd) && !(term && str_eq(term, "dumb"));
}

bool cli_colored(int fd)
{
        const char *no = getenv("NO_COLOR");

        return cli_draws(fd) && !(no && *no);
}

size_t cli_columns(int fd)
{
        struct winsize size;

        if (!isatty(fd))
                return 0;
        return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : COLUMNS_USUAL;
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
                size_t n = utf8_len(text);
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

void cli_one_line(char *text)
{
        for (; text && *text; text++)
                if (*text == '\n')
                        *text = ' ';
}

void cli_print_line(const char *before, const char *text)
{
        auto_str clean = STR_INIT;

        if (cli_escape(&clean, text) < 0)
                return;
        cli_one_line(clean.data);
        printf("%s%s\n", before, clean.data ? clean.data : "");
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
        /* `mayfly ps --json | head -n 1`: nobody wants more. */
        if (err->num == EPIPE && ferror(stdout))
                return 128 + SIGPIPE;
        cli_error("%s", err->text);
        return command->failed;
}

/* Which characters are wide, or join the one before, the C library knows of each locale, and of this one everywhere. */
static size_t char_width(const char *s, size_t len)
{
        static locale_t utf8;
        mbstate_t state = { 0 };
        wchar_t c = 0;
        locale_t old;
        int width;

        if (!utf8)
                utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
        if (len == 1 || !utf8)
                return 1;
        old = uselocale(utf8);
        width = mbrtowc(&c, s, len, &state) == len ? wcwidth(c) : 1;
        (void)uselocale(old);
        return width < 0 ? 1 : (size_t)width;
}

size_t cli_text_fit(const char *s, size_t max, size_t *ret_width)
{
        size_t at = 0, width = 0;

        while (s[at]) {
                size_t len = MAX(utf8_len(s + at), (size_t)1), wide = char_width(s + at, len);

                if (wide > max - width)
                        break;
                width += wide;
                at += len;
        }
        *ret_width = width;
        return at;
}

size_t cli_text_width(const char *s)
{
        size_t width;

        (void)cli_text_fit(s, SIZE_MAX, &width);
        return width;
}

int cli_flush(struct err *err)
{
        if (fflush(stdout) == EOF || ferror(stdout))
                return err_sys(err, "write to stdout");
        return 0;
}

/* Escapes keep control bytes from the terminal; DEL is one of them, and no byte that JSON escapes. */
static int write_json(const char *text, size_t len, void *data)
{
        (void)data;
        while (len > 0) {
                const char *del = memchr(text, 0x7f, len);
                size_t n = del ? (size_t)(del - text) : len;

                if (fwrite(text, 1, n, stdout) != n || (del && fputs("\\u007f", stdout) == EOF))
                        return -1;
                text += n + (del != NULL);
                len -= n + (del != NULL);
        }
        return 0;
}

int cli_print_json_as(const json_t *v, size_t flags, struct err *err)
{
        (void)json_dump_callback(v, write_json, NULL, flags | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
        (void)putchar('\n');
        return cli_flush(err);
}

int cli_print_json(const json_t *v, struct err *err)
{
        return cli_print_json_as(v, JSON_COMPACT, err);
}
