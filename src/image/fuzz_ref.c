/* Fuzzes the reference grammar: whatever parses formats to something that parses to the same. */

#include "base/str.h"
#include "image/ref.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static int (*const parse[])(const char *s, struct image_ref *ret, struct err *err) = {
                image_ref_parse,       image_ref_parse_any,        image_ref_parse_docker,
                image_ref_parse_named, image_ref_parse_normalized, image_ref_with_name,
        };
        char first[REF_TEXT_MAX], second[REF_TEXT_MAX], familiar[REF_TEXT_MAX];
        auto_free char *s = strndup((const char *)data, size);
        struct image_ref a, b;

        for (size_t i = 0; s && i < ARRAY_LEN(parse); i++) {
                if (parse[i](s, &a, NULL) < 0)
                        continue;
                image_ref_format(&a, first);
                image_ref_familiar(&a, familiar);
                if (!a.path[0])
                        continue;
                if (image_ref_parse(first, &b, NULL) < 0)
                        abort();
                image_ref_format(&b, second);
                if (!str_eq(first, second))
                        abort();
        }
        return 0;
}
