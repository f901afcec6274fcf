#include "base/time.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

uint64_t time_mono_ns(void)
{
        struct timespec ts = { 0 };

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t time_real_ms(void)
{
        struct timespec ts = { 0 };

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / NS_PER_MS;
}

#define MS_PER_DAY 86400000U
#define REAL_MS_MAX UINT64_C(253402300799999) /* the last of the year 9999 */

void time_rfc3339(uint64_t real_ms, char out[TIME_RFC3339_MAX])
{
        uint64_t ms, days, era, doe, yoe, doy, mp;
        unsigned year, month, day;

        real_ms = MIN(real_ms, REAL_MS_MAX);
        ms = real_ms % MS_PER_DAY;
        /* Days to civil, in years that begin in March so that the leap day is the last (Hinnant, chrono dates). */
        days = real_ms / MS_PER_DAY + 719468;
        era = days / 146097;
        doe = days % 146097;
        yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
        doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        mp = (5 * doy + 2) / 153;
        day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
        month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
        year = (unsigned)(yoe + era * 400 + (month <= 2 ? 1 : 0));
        (void)snprintf(out, TIME_RFC3339_MAX, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", year, month, day,
                       (unsigned)(ms / 3600000), (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60),
                       (unsigned)(ms % 1000));
}

/* What follows is Go's time.ParseDuration, step by step, so that the same texts give the same nanoseconds. */

#define DURATION_LIMIT (UINT64_C(1) << 63)

static bool is_digit(char c)
{
        return c >= '0' && c <= '9';
}

static int leading_int(const char **s, uint64_t *ret)
{
        uint64_t v = 0;

        for (; is_digit(**s); (*s)++) {
                if (v > DURATION_LIMIT / 10)
                        return -ERANGE;
                v = v * 10 + (uint64_t)(**s - '0');
                if (v > DURATION_LIMIT)
                        return -ERANGE;
        }
        *ret = v;
        return 0;
}

/* Digits beyond what fits are dropped: they are below a nanosecond. */
static void leading_fraction(const char **s, uint64_t *ret, double *ret_scale)
{
        uint64_t v = 0;
        double scale = 1;
        bool full = false;

        for (; is_digit(**s); (*s)++) {
                if (full || v > (DURATION_LIMIT - 1) / 10) {
                        full = true;
                        continue;
                }
                v = v * 10 + (uint64_t)(**s - '0');
                scale *= 10;
        }
        *ret = v;
        *ret_scale = scale;
}

static int leading_unit(const char **s, uint64_t *ret)
{
        static const struct {
                const char *name;
                uint64_t ns;
        } units[] = {
                { "ns", 1 },         { "us", 1000 },    { "\xc2\xb5s", 1000 },  { "\xce\xbcs", 1000 },
                { "ms", NS_PER_MS }, { "s", NS_PER_S }, { "m", 60 * NS_PER_S }, { "h", 3600 * NS_PER_S },
        };
        size_t len = strcspn(*s, ".0123456789");

        for (size_t i = 0; i < ARRAY_LEN(units); i++) {
                if (strlen(units[i].name) != len || memcmp(*s, units[i].name, len) != 0)
                        continue;
                *s += len;
                *ret = units[i].ns;
                return 0;
        }
        return -EINVAL;
}

/* One number with its unit; without one where `bare` allows it, as seconds. */
static int leading_part(const char **s, bool bare, uint64_t *ret)
{
        uint64_t v, f = 0, unit = NS_PER_S;
        const char *start = *s;
        double scale = 1;
        size_t digits;
        int r;

        r = leading_int(s, &v);
        if (r < 0)
                return r;
        digits = (size_t)(*s - start);
        if (**s == '.') {
                const char *point = ++*s;

                leading_fraction(s, &f, &scale);
                digits += (size_t)(*s - point);
        }
        if (digits == 0)
                return -EINVAL;
        if (**s || !bare) {
                r = leading_unit(s, &unit);
                if (r < 0)
                        return r;
        }
        if (v > DURATION_LIMIT / unit)
                return -ERANGE;
        v *= unit;
        if (f > 0)
                v += (uint64_t)((double)f * ((double)unit / scale));
        if (v > DURATION_LIMIT)
                return -ERANGE;
        *ret = v;
        return 0;
}

int time_parse_duration(const char *s, int64_t *ret_ns)
{
        uint64_t sum = 0;
        bool negative;
        bool first = true;

        negative = *s == '-';
        if (*s == '-' || *s == '+')
                s++;
        if (!*s)
                return -EINVAL;
        for (; *s; first = false) {
                uint64_t part;
                int r;

                r = leading_part(&s, first, &part);
                if (r < 0)
                        return r;
                sum += part;
                if (sum > DURATION_LIMIT)
                        return -ERANGE;
        }
        if (sum == DURATION_LIMIT) {
                if (!negative)
                        return -ERANGE;
                *ret_ns = INT64_MIN;
                return 0;
        }
        *ret_ns = negative ? -(int64_t)sum : (int64_t)sum;
        return 0;
}
