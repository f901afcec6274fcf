/* The cursor over an object: getters that collect faults. */

#include "json/json.h"

#include "base/time.h"
#include "base/units.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS_MAX 9223372036.0 /* what fits into 63 bits of nanoseconds */

int json_obj_init(struct json_obj *o, json_t *value, const char *pointer, struct json_faults *faults)
{
        *o = (struct json_obj){ .faults = faults };
        (void)snprintf(o->pointer, sizeof(o->pointer), "%s", pointer);
        if (!json_is_object(value)) {
                json_faults_add(faults, pointer, "must be an object");
                return -EINVAL;
        }
        o->seen = json_object();
        if (!o->seen) {
                json_faults_add(faults, pointer, "out of memory");
                return -ENOMEM;
        }
        o->value = value;
        return 0;
}

void json_obj_pointer(const struct json_obj *o, const char *name, struct str *out)
{
        (void)str_adds(out, o->pointer);
        (void)str_addc(out, '/');
        for (; *name; name++) {
                if (*name == '~')
                        (void)str_adds(out, "~0");
                else if (*name == '/')
                        (void)str_adds(out, "~1");
                else
                        (void)str_addc(out, *name);
        }
}

#define FAULT(o, name, ...)                                                                                            \
        ({                                                                                                             \
                auto_str fault_pointer_ = STR_INIT;                                                                    \
                json_obj_pointer((o), (name), &fault_pointer_);                                                        \
                json_faults_add((o)->faults, fault_pointer_.data ? fault_pointer_.data : "", __VA_ARGS__);             \
                false;                                                                                                 \
        })

void json_obj_done(struct json_obj *o)
{
        const char *name;
        json_t *v;

        json_object_foreach(o->value, name, v)
                if (!json_object_get(o->seen, name))
                        (void)FAULT(o, name, "is not known");
        json_decref(o->seen);
        o->seen = NULL;
        o->value = NULL;
}

static json_t *member(struct json_obj *o, const char *name)
{
        json_t *v = json_object_get(o->value, name);

        if (v && json_object_set_new(o->seen, name, json_true()) < 0)
                (void)FAULT(o, name, "out of memory");
        return v;
}

static bool holds_nul(const json_t *v)
{
        return memchr(json_string_value(v), 0, json_string_length(v)) != NULL;
}

bool json_get_any(struct json_obj *o, const char *name, json_t **ret)
{
        json_t *v = member(o, name);

        if (!v)
                return false;
        *ret = v;
        return true;
}

bool json_get_str(struct json_obj *o, const char *name, const char **ret, size_t *ret_len)
{
        json_t *v = member(o, name);

        if (!v)
                return false;
        if (!json_is_string(v))
                return FAULT(o, name, "must be a string");
        if (!ret_len && holds_nul(v))
                return FAULT(o, name, "must not hold NUL");
        *ret = json_string_value(v);
        if (ret_len)
                *ret_len = json_string_length(v);
        return true;
}

bool json_get_bool(struct json_obj *o, const char *name, bool *ret)
{
        json_t *v = member(o, name);

        if (!v)
                return false;
        if (!json_is_boolean(v))
                return FAULT(o, name, "must be true or false");
        *ret = json_is_true(v);
        return true;
}

bool json_get_int(struct json_obj *o, const char *name, int64_t min, int64_t max, int64_t *ret)
{
        json_t *v = member(o, name);

        if (!v)
                return false;
        if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
                return FAULT(o, name, "must be an integer from %lld to %lld", (long long)min, (long long)max);
        *ret = json_integer_value(v);
        return true;
}

bool json_get_enum(struct json_obj *o, const char *name, const char *const *words, int *ret)
{
        json_t *v = member(o, name);
        auto_str list = STR_INIT;

        if (!v)
                return false;
        for (int i = 0; words[i]; i++) {
                if (json_is_string(v) && !holds_nul(v) && str_eq(json_string_value(v), words[i])) {
                        *ret = i;
                        return true;
                }
                (void)str_addf(&list, "%s\"%s\"", i == 0 ? "" : ", ", words[i]);
        }
        return FAULT(o, name, "must be one of %s", list.data ? list.data : "the words allowed");
}

bool json_get_strv(struct json_obj *o, const char *name, size_t max, char ***ret)
{
        json_t *v = member(o, name);
        auto_strv copy = NULL;
        size_t n;

        if (!v || json_is_null(v))
                return false;
        if (!json_is_array(v))
                return FAULT(o, name, "must be an array of strings");
        n = json_array_size(v);
        if (n > max)
                return FAULT(o, name, "must not hold more than %zu strings", max);
        copy = calloc(n + 1, sizeof(*copy));
        if (!copy)
                return FAULT(o, name, "out of memory");
        for (size_t i = 0; i < n; i++) {
                const json_t *s = json_array_get(v, i);

                if (!json_is_string(s) || holds_nul(s)) {
                        auto_str pointer = STR_INIT;

                        json_obj_pointer(o, name, &pointer);
                        (void)str_addf(&pointer, "/%zu", i);
                        json_faults_add(o->faults, pointer.data ? pointer.data : "", "must be a string without NUL");
                        return false;
                }
                copy[i] = strdup(json_string_value(s));
                if (!copy[i])
                        return FAULT(o, name, "out of memory");
        }
        *ret = TAKE_PTR(copy);
        return true;
}

bool json_get_bytes(struct json_obj *o, const char *name, int64_t *ret)
{
        json_t *v = member(o, name);
        int64_t n = -1;

        if (!v)
                return false;
        if (json_is_integer(v))
                n = json_integer_value(v);
        else if (!json_is_string(v) || holds_nul(v) || units_parse_bytes(json_string_value(v), &n) < 0)
                n = -1;
        if (n < 0)
                return FAULT(o, name, "must be a size, such as 1048576 or \"512m\"");
        *ret = n;
        return true;
}

bool json_get_duration(struct json_obj *o, const char *name, int64_t *ret_ns)
{
        json_t *v = member(o, name);
        int64_t ns = -1;

        if (!v)
                return false;
        if (json_is_number(v)) {
                double s = json_number_value(v);

                if (s >= 0 && s <= SECONDS_MAX)
                        ns = llround(s * (double)NS_PER_S);
        } else if (!json_is_string(v) || holds_nul(v) || time_parse_duration(json_string_value(v), &ns) < 0) {
                ns = -1;
        }
        if (ns < 0)
                return FAULT(o, name, "must be a duration that is not negative, such as 90 or \"1m30s\"");
        *ret_ns = ns;
        return true;
}
