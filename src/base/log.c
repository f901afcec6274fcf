#include "base/log.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOG_LINE_MAX 2048

static enum log_level log_max = LOG_LEVEL_INFO;
static const char *log_name;

void log_set_level(enum log_level level)
{
        log_max = level;
}

bool log_shows(enum log_level level)
{
        return level <= log_max;
}

void log_set_name(const char *program)
{
        log_name = program;
}

/* journald reads a priority at the start of a line (sd-daemon(3)) and knows the time itself. */
static int log_prefix(char *out, size_t size, enum log_level level)
{
        static const char *const words[] = { "error", "warning", "info", "debug" };
        static const int priorities[] = { 3, 4, 6, 7 };
        char now[TIME_RFC3339_MAX];

        if (getenv("JOURNAL_STREAM"))
                return snprintf(out, size, "<%d>", priorities[level]);
        time_rfc3339(time_real_ms(), now);
        return snprintf(out, size, "%s %s%s%s: ", now, log_name ? log_name : "", log_name ? " " : "", words[level]);
}

/* C0, DEL, C1 (which UTF-8 has in two bytes), and what is no character: all of them may steer a terminal. */
static size_t log_escape(char *out, size_t size, const char *text)
{
        static const char digits[] = "0123456789abcdef";
        size_t n = 0;

        for (; *text && n + 4 < size; text++) {
                unsigned char c = (unsigned char)*text;
                size_t len = utf8_len(text);
                bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)text[1] < 0xa0);

                if (len > 0 && !control) {
                        memcpy(out + n, text, len);
                        n += len;
                        text += len - 1;
                        continue;
                }
                out[n++] = '\\';
                out[n++] = 'x';
                out[n++] = digits[c >> 4];
                out[n++] = digits[c & 15];
        }
        return n;
}

void log_at(enum log_level level, const char *fmt, ...)
{
        char line[LOG_LINE_MAX], text[LOG_LINE_MAX / 2];
        int saved = errno;
        size_t n;
        va_list ap;

        if (level > log_max)
                return;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        n = (size_t)MAX(log_prefix(line, sizeof(line) / 4, level), 0);
        n = MIN(n, sizeof(line) / 4 - 1);
        n += log_escape(line + n, sizeof(line) - n - 1, text);
        line[n++] = '\n';
        /* One write, so that lines of several programs on one descriptor do not mix. Nobody can be told of a failure. */
        (void)!write(STDERR_FILENO, line, n);
        errno = saved;
}
