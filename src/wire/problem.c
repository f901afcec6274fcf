/* Problem documents (RFC 9457). */

#include "wire/task.h"

#include <errno.h>

static int put(struct str *out, const char *name, const char *value, size_t len)
{
        int r;

        if (!value)
                return 0;
        r = str_adds(out, name);
        /* Texts of errors may quote what came from outside. */
        if (r == 0 && utf8_valid(value, len))
                return json_add_string(out, value, len);
        return r < 0 ? r : str_adds(out, "\"\"");
}

static int put_faults(struct str *out, const struct json_faults *faults)
{
        int r = str_adds(out, ",\"errors\":[");

        for (size_t i = 0; r == 0 && i < faults->len; i++) {
                const struct json_fault *f = &faults->items[i];

                r = put(out, i == 0 ? "{\"pointer\":" : ",{\"pointer\":", f->pointer, strlen(f->pointer));
                if (r == 0)
                        r = put(out, ",\"detail\":", f->detail, strlen(f->detail));
                if (r == 0)
                        r = str_addc(out, '}');
        }
        return r < 0 ? r : str_addc(out, ']');
}

int wire_problem_write(struct str *out, int status, const char *reason, const char *title, const char *detail,
                       const char *request_id, const char *task_id, const struct json_faults *faults)
{
        int r;

        r = str_addf(out, "{\"type\":\"urn:mayfly:problem:%s\"", reason);
        if (r == 0)
                r = put(out, ",\"title\":", title, strlen(title));
        if (r == 0)
                r = str_addf(out, ",\"status\":%d", status);
        if (r == 0 && detail)
                r = put(out, ",\"detail\":", detail, strlen(detail));
        if (r == 0 && request_id)
                r = put(out, ",\"request_id\":", request_id, strlen(request_id));
        if (r == 0 && task_id)
                r = put(out, ",\"task_id\":", task_id, strlen(task_id));
        if (r == 0 && faults && faults->len > 0)
                r = put_faults(out, faults);
        return r < 0 ? r : str_addc(out, '}');
}
