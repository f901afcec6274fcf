#include "base/time.h"
#include "base/vec.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GAP 3
#define CELL_MIN 8 /* what a cell is never cut below */

void cli_table_add(struct cli_table *t, const char *text)
{
        auto_str clean = STR_INIT;
        char *cell = NULL;

        if (!t->failed && cli_escape(&clean, text ? text : "-") == 0)
                cell = str_take(&clean);
        if (!cell || vec_grow((void **)&t->cells, &t->cap, t->len, sizeof(*t->cells)) < 0) {
                free(cell);
                t->failed = true;
                return;
        }
        cli_one_line(cell);
        t->cells[t->len++] = cell;
}

void cli_table_done(struct cli_table *t)
{
        for (size_t i = 0; i < t->len; i++)
                free(t->cells[i]);
        vec_free((void **)&t->cells);
        t->len = t->cap = 0;
}

/* Takes from the widest that may be cut until all fit, or nothing is left to take. */
static void squeeze(size_t *widths, size_t columns, unsigned whole, size_t room)
{
        for (;;) {
                size_t sum = (columns - 1) * GAP, none = 0, *widest = &none;

                for (size_t i = 0; i < columns; i++) {
                        sum += widths[i];
                        if (!(whole & CLI_COLUMN(i)) && widths[i] > *widest)
                                widest = &widths[i];
                }
                if (sum <= room || *widest <= CELL_MIN)
                        return;
                (*widest)--;
        }
}

/* The blanks before a cell are its own, so that no line ends with any. */
static void print_cell(const char *cell, size_t width, size_t *gap)
{
        size_t needs = cli_text_width(cell);

        if (*cell) {
                printf("%*s", (int)*gap, "");
                *gap = 0;
        }
        if (needs > width) {
                size_t bytes = cli_text_fit(cell, width - 1, &needs);

                printf("%.*s…", (int)bytes, cell);
                needs++;
        } else {
                printf("%s", cell);
        }
        *gap += width - needs + GAP;
}

int cli_table_print(const struct cli_table *t, struct err *err)
{
        size_t widths[CLI_COLUMNS_MAX] = { 0 }, room = cli_columns(STDOUT_FILENO);
        bool colored = cli_colored(STDOUT_FILENO);
        size_t gap = 0;

        if (t->failed || t->columns == 0 || t->columns > CLI_COLUMNS_MAX)
                return err_oom(err);
        for (size_t i = 0; i < t->len; i++)
                widths[i % t->columns] = MAX(widths[i % t->columns], cli_text_width(t->cells[i]));
        if (room)
                squeeze(widths, t->columns, t->whole, room);
        for (size_t i = 0; i < t->len; i++) {
                size_t column = i % t->columns;
                bool last = column == t->columns - 1;

                if (colored && i == 0)
                        printf("\033[1m");
                gap = column ? gap : 0;
                print_cell(t->cells[i], widths[column], &gap);
                if (colored && i == t->columns - 1)
                        printf("\033[0m");
                if (last)
                        printf("\n");
        }
        return cli_flush(err);
}

/* ── ages ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void cli_age(int64_t ns, char out[CLI_AGE_MAX])
{
        int64_t seconds = ns / (int64_t)NS_PER_S, minutes = seconds / 60;
        int64_t hours = (ns / 60 / (int64_t)NS_PER_S + 30) / 60; /* rounded to the nearest */

        if (seconds < 1)
                (void)snprintf(out, CLI_AGE_MAX, "Less than a second");
        else if (seconds == 1)
                (void)snprintf(out, CLI_AGE_MAX, "1 second");
        else if (seconds < 60)
                (void)snprintf(out, CLI_AGE_MAX, "%d seconds", (int)seconds);
        else if (minutes == 1)
                (void)snprintf(out, CLI_AGE_MAX, "About a minute");
        else if (minutes < 60)
                (void)snprintf(out, CLI_AGE_MAX, "%d minutes", (int)minutes);
        else if (hours == 1)
                (void)snprintf(out, CLI_AGE_MAX, "About an hour");
        else if (hours < 48)
                (void)snprintf(out, CLI_AGE_MAX, "%d hours", (int)hours);
        else if (hours < 24 * 7 * 2)
                (void)snprintf(out, CLI_AGE_MAX, "%d days", (int)(hours / 24));
        else if (hours < 24 * 30 * 2)
                (void)snprintf(out, CLI_AGE_MAX, "%d weeks", (int)(hours / 24 / 7));
        else if (hours < 24 * 365 * 2)
                (void)snprintf(out, CLI_AGE_MAX, "%d months", (int)(hours / 24 / 30));
        else
                (void)snprintf(out, CLI_AGE_MAX, "%d years", (int)(hours / 24 / 365));
}

int cli_parse_time(const char *rfc3339, uint64_t *ret_ms)
{
        struct tm tm = { 0 };
        const char *end = strptime(rfc3339, "%Y-%m-%dT%H:%M:%S", &tm);
        long offset = 0;
        unsigned ms = 0, hours, minutes;
        int64_t seconds;

        if (!end)
                return -EINVAL;
        if (*end == '.') {
                unsigned scale = 100;

                for (end++; *end >= '0' && *end <= '9'; end++, scale /= 10)
                        ms += (unsigned)(*end - '0') * scale;
        }
        if (*end == '+' || *end == '-') {
                int used = 0;

                if (sscanf(end + 1, "%2u:%2u%n", &hours, &minutes, &used) != 2 || end[1 + used])
                        return -EINVAL;
                offset = (*end == '-' ? -1 : 1) * (long)(hours * 3600 + minutes * 60);
        } else if ((*end != 'Z' && *end != 'z') || end[1]) {
                return -EINVAL;
        }
        seconds = timegm(&tm) - offset;
        if (seconds < 0)
                return -EINVAL;
        *ret_ms = (uint64_t)seconds * 1000 + ms;
        return 0;
}

int cli_parse_when(const char *value, char out[TIME_RFC3339_MAX], struct err *err)
{
        uint64_t ms, now = time_real_ms();
        int64_t ns;

        if (cli_parse_time(value, &ms) < 0) {
                if (time_parse_duration(value, &ns) < 0 || ns < 0)
                        return err_set(err, EINVAL, "'%s' is neither a time, as 2026-01-01T00:00:00Z, nor a duration",
                                       value);
                ms = now - MIN((uint64_t)ns / NS_PER_MS, now);
        }
        time_rfc3339(ms, out);
        return 0;
}

void cli_ago(const char *rfc3339, char out[CLI_AGE_MAX])
{
        uint64_t then, now = time_real_ms();
        char age[CLI_AGE_MAX];

        if (cli_parse_time(rfc3339, &then) < 0) {
                (void)snprintf(out, CLI_AGE_MAX, "-");
                return;
        }
        cli_age((int64_t)(now > then ? now - then : 0) * (int64_t)NS_PER_MS, age);
        (void)snprintf(out, CLI_AGE_MAX, "%s ago", age);
}
