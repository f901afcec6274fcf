#include "json/json.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every getter on every member, as the API does with an object that it does not know. */
static void ask_all(json_t *value)
{
        static const char *const words[] = { "none", "nat", NULL };
        struct json_faults faults = { 0 };
        struct json_obj o;
        const char *name;
        json_t *v;

        if (json_obj_init(&o, value, "/x", &faults) == 0) {
                json_object_foreach(value, name, v) {
                        auto_strv strings = NULL;
                        const char *s;
                        int64_t n;
                        size_t len;
                        bool b;
                        int word;

                        (void)json_get_str(&o, name, &s, &len);
                        (void)json_get_bool(&o, name, &b);
                        (void)json_get_int(&o, name, -5, 1000, &n);
                        (void)json_get_enum(&o, name, words, &word);
                        (void)json_get_strv(&o, name, 16, &strings);
                        (void)json_get_bytes(&o, name, &n);
                        (void)json_get_duration(&o, name, &n);
                }
        }
        json_obj_done(&o);
        json_faults_done(&faults);
}

/* What was read can be written, and reads the same again. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct err err = ERR_INIT;
        auto_json v = NULL;
        auto_json again = NULL;
        auto_str out = STR_INIT;
        auto_str once_more = STR_INIT;

        if (json_read((const char *)data, size, &v, &err) < 0)
                return 0;
        ask_all(v);
        if (json_write(v, &out) < 0 || json_read(out.data, out.len, &again, &err) < 0 ||
            json_write(again, &once_more) < 0 || !str_eq(out.data, once_more.data))
                abort();
        if (json_is_string(v)) {
                auto_json same = NULL;

                str_clear(&out);
                if (json_add_string(&out, json_string_value(v), json_string_length(v)) < 0 ||
                    json_read(out.data, out.len, &same, &err) < 0 || !json_equal(v, same))
                        abort();
        }
        return 0;
}
