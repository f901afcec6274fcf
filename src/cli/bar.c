#include "cli/bar.h"

#include "base/units.h"

#define BAR_WIDTH 30

void cli_bar(struct str *out, uint64_t done, uint64_t total)
{
        unsigned full = total ? (unsigned)((double)MIN(done, total) / (double)total * BAR_WIDTH) : 0;

        (void)str_addc(out, '[');
        for (unsigned i = 0; i < BAR_WIDTH; i++)
                (void)str_addc(out, i < full ? '=' : i == full ? '>' : ' ');
        (void)str_addc(out, ']');
}

void cli_bar_bytes(struct str *out, uint64_t done, uint64_t total)
{
        char have[UNITS_HUMAN_MAX], all[UNITS_HUMAN_MAX];

        units_human(done, have);
        units_human(total, all);
        cli_bar(out, done, total);
        (void)str_addf(out, " %8s / %-8s", have, all);
}
