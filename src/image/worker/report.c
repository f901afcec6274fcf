#include "image/worker/report.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int report_string(struct str *out, const char *s, size_t len)
{
        int r;

        if (!utf8_valid(s, len))
                return -EINVAL;
        r = str_addc(out, '"');
        for (size_t i = 0; r == 0 && i < len; i++) {
                unsigned char c = (unsigned char)s[i];

                if (c == '"' || c == '\\')
                        r = str_addf(out, "\\%c", c);
                else if (c < 0x20 || c == 0x7f)
                        r = str_addf(out, "\\u%04x", c);
                else
                        r = str_addc(out, (char)c);
        }
        return r < 0 ? r : str_addc(out, '"');
}

int report_member_string(struct str *out, const char *name, const char *value)
{
        int r = str_addf(out, ",\"%s\":", name);

        return r < 0 ? r : report_string(out, value, strlen(value));
}

int report_member_u64(struct str *out, const char *name, uint64_t value)
{
        return str_addf(out, ",\"%s\":%" PRIu64, name, value);
}
