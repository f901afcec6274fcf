#include "base/units.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_MAX 64

/* Decimal with an optional fraction and exponent. go-units takes all that Go's ParseFloat does; hexadecimal, infinity
 * and underscores are no sizes that somebody writes. */
static bool number_valid(const char *s)
{
        size_t digits;

        if (*s == '+' || *s == '-')
                s++;
        digits = strspn(s, "0123456789");
        s += digits;
        if (*s == '.') {
                size_t n = strspn(++s, "0123456789");

                digits += n;
                s += n;
        }
        if (digits == 0)
                return false;
        if (*s == 'e' || *s == 'E') {
                s++;
                if (*s == '+' || *s == '-')
                        s++;
                digits = strspn(s, "0123456789");
                s += digits;
                if (digits == 0)
                        return false;
        }
        return *s == '\0';
}

/* The suffix without its "b" or "ib" as a factor; 0: no suffix of ours. */
static double suffix_factor(const char *s)
{
        static const char prefixes[] = "kmgtp";
        char lower[4] = { 0 };
        double factor = 1;
        const char *p;

        if (strlen(s) > 3)
                return 0;
        for (size_t i = 0; s[i]; i++)
                lower[i] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] - 'A' + 'a' : s[i]);
        if (!lower[0] || str_eq(lower, "b"))
                return 1;
        if (lower[1] && !str_eq(lower + 1, "b") && !str_eq(lower + 1, "ib"))
                return 0;
        p = strchr(prefixes, lower[0]);
        if (!p)
                return 0;
        for (const char *q = prefixes; q <= p; q++)
                factor *= 1024;
        return factor;
}

int units_parse_bytes(const char *s, int64_t *ret)
{
        char number[NUMBER_MAX];
        size_t len = 0;
        double v, factor;

        for (size_t i = 0; s[i]; i++)
                if (strchr("0123456789. ", s[i]))
                        len = i + 1;
        if (len == 0 || len > sizeof(number))
                return -EINVAL;
        factor = suffix_factor(s + len);
        if (s[len - 1] == ' ')
                len--;
        if (len >= sizeof(number))
                return -EINVAL;
        memcpy(number, s, len);
        number[len] = '\0';
        if (factor <= 0 || !number_valid(number))
                return -EINVAL;
        v = strtod(number, NULL);
        if (v < 0)
                return -EINVAL;
        v *= factor;
        if (v >= 9223372036854775808.0)
                return -ERANGE;
        *ret = (int64_t)v;
        return 0;
}

void units_human(uint64_t bytes, char out[UNITS_HUMAN_MAX])
{
        static const char *const names[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB" };
        double v = (double)bytes;
        size_t i = 0;

        for (; v >= 1000 && i + 1 < ARRAY_LEN(names); i++)
                v /= 1000;
        (void)snprintf(out, UNITS_HUMAN_MAX, "%.4g%s", v, names[i]);
}
