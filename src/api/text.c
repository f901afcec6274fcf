#include "api/text.h"

#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

bool media_type_is(const char *value, const char *type)
{
        size_t len = strlen(type);

        if (strncasecmp(value, type, len) != 0)
                return false;
        value += len;
        while (*value == ' ' || *value == '\t')
                value++;
        return *value == '\0' || *value == ';';
}

bool media_type_is_form(const char *value)
{
        return media_type_is(value, "application/x-www-form-urlencoded") ||
               media_type_is(value, "multipart/form-data") || media_type_is(value, "text/plain");
}

bool request_id_valid(const char *s)
{
        size_t len = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

        return len >= 1 && len <= 64 && s[len] == '\0';
}

bool idempotency_key_valid(const char *s)
{
        size_t len = 0;

        for (; s[len]; len++)
                if (s[len] <= ' ' || s[len] > '~' || len == 255)
                        return false;
        return len > 0;
}

/* Exactly n digits. */
static bool digits(const char **s, unsigned n, int *ret)
{
        int value = 0;

        for (; n > 0; n--, (*s)++) {
                if (**s < '0' || **s > '9')
                        return false;
                value = value * 10 + (**s - '0');
        }
        *ret = value;
        return true;
}

static bool literal(const char **s, const char *set)
{
        if (**s == '\0' || !strchr(set, **s))
                return false;
        (*s)++;
        return true;
}

static bool fraction(const char **s, int *ret_ms)
{
        int ms = 0, n = 0;

        *ret_ms = 0;
        if (!literal(s, "."))
                return true;
        for (; **s >= '0' && **s <= '9'; (*s)++, n++)
                if (n < 3)
                        ms = ms * 10 + (**s - '0');
        for (int i = n; i < 3; i++)
                ms *= 10;
        *ret_ms = ms;
        return n > 0;
}

static bool offset(const char **s, int *ret_minutes)
{
        int hours, minutes, sign;

        *ret_minutes = 0;
        if (literal(s, "Zz"))
                return true;
        sign = **s == '-' ? -1 : 1;
        if (!literal(s, "+-") || !digits(s, 2, &hours) || !literal(s, ":") || !digits(s, 2, &minutes))
                return false;
        if (hours > 23 || minutes > 59)
                return false;
        *ret_minutes = sign * (hours * 60 + minutes);
        return true;
}

static bool date_valid(const struct tm *tm)
{
        static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
        int year = tm->tm_year + 1900, month = tm->tm_mon;
        bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

        if (month < 0 || month > 11 || tm->tm_mday < 1)
                return false;
        return tm->tm_mday <= days[month] + (leap && month == 1 ? 1 : 0);
}

int rfc3339_parse(const char *s, uint64_t *ret_ms)
{
        struct tm tm = { .tm_isdst = 0 };
        int ms, minutes;
        time_t t;

        if (!digits(&s, 4, &tm.tm_year) || !literal(&s, "-") || !digits(&s, 2, &tm.tm_mon) || !literal(&s, "-") ||
            !digits(&s, 2, &tm.tm_mday) || !literal(&s, "Tt ") || !digits(&s, 2, &tm.tm_hour) || !literal(&s, ":") ||
            !digits(&s, 2, &tm.tm_min) || !literal(&s, ":") || !digits(&s, 2, &tm.tm_sec) || !fraction(&s, &ms) ||
            !offset(&s, &minutes) || *s)
                return -EINVAL;
        tm.tm_year -= 1900;
        tm.tm_mon -= 1;
        if (!date_valid(&tm) || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
                return -EINVAL;
        if (tm.tm_sec == 60)
                tm.tm_sec = 59;
        t = timegm(&tm) - (time_t)minutes * 60;
        if (t < 0)
                return -EINVAL;
        *ret_ms = (uint64_t)t * 1000 + (uint64_t)ms;
        return 0;
}

void slashes_decode(char *s)
{
        char *out = s;

        while (*s) {
                if (strncasecmp(s, "%2F", 3) == 0) {
                        *out++ = '/';
                        s += 3;
                } else {
                        *out++ = *s++;
                }
        }
        *out = '\0';
}

/* -ENOENT where there are no digits, or too many. */
static int range_number(const char **s, uint64_t *ret)
{
        size_t len = strspn(*s, "0123456789");
        char text[20];

        if (len == 0 || len >= sizeof(text))
                return -ENOENT;
        memcpy(text, *s, len);
        text[len] = '\0';
        *ret = strtoull(text, NULL, 10);
        *s += len;
        return 0;
}

int range_parse(const char *value, uint64_t size, uint64_t *ret_first, uint64_t *ret_len)
{
        uint64_t first, last = UINT64_MAX;
        bool suffix;

        if (strncasecmp(value, "bytes=", 6) != 0)
                return -ENOENT;
        value += 6;
        suffix = *value == '-';
        if (suffix)
                value++;
        if (range_number(&value, &first) < 0)
                return -ENOENT;
        if (!suffix && *value++ != '-')
                return -ENOENT;
        if (!suffix && *value && (range_number(&value, &last) < 0 || last < first))
                return -ENOENT;
        if (*value)
                return -ENOENT;
        if (suffix) {
                last = UINT64_MAX;
                if (first == 0)
                        return -ERANGE;
                first = first < size ? size - first : 0;
        }
        if (first >= size)
                return -ERANGE;
        *ret_first = first;
        *ret_len = MIN(last - first, size - first - 1) + 1;
        return 0;
}

int event_id_parse(const char *s, uint64_t ret[2])
{
        uint64_t values[2];

        if (range_number(&s, &values[0]) < 0 || *s++ != '.' || range_number(&s, &values[1]) < 0 || *s)
                return -EINVAL;
        memcpy(ret, values, sizeof(values));
        return 0;
}

bool credentials_parse(const char *header, struct str *out)
{
        const char *at = header + strcspn(header, " ");
        size_t scheme = (size_t)(at - header);

        while (*at == ' ')
                at++;
        if (!*at || strlen(at) > CREDENTIALS_MAX)
                return false;
        if (scheme == 6 && strncasecmp(header, "Bearer", 6) == 0)
                return str_adds(out, at) == 0;
        if (scheme != 5 || strncasecmp(header, "Basic", 5) != 0)
                return false;
        return base64_decode(out, at, strlen(at)) == 0 && out->len > 0 && !memchr(out->data, '\0', out->len);
}
