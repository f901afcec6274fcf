/* Fuzzes what the API reads of headers, parameters and paths: the first byte chooses the reader. */

#include "api/routes.h"
#include "api/text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_range(const char *text)
{
        static const uint64_t sizes[] = { 0, 1, 10, UINT64_MAX };

        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
                uint64_t first, len;

                if (range_parse(text, sizes[i], &first, &len) == 0 &&
                    (len == 0 || first >= sizes[i] || len > sizes[i] - first))
                        abort();
        }
}

static void fuzz_credentials(const char *text)
{
        auto_str out = STR_INIT;

        if (credentials_parse(text, &out) && (!out.data || strlen(out.data) != out.len || out.len > CREDENTIALS_MAX))
                abort();
}

static void fuzz_routes(const char *path)
{
        for (size_t i = 0; i < ROUTES; i++) {
                const char *rest = NULL;
                size_t len = 0;

                if (route_matches(&routes[i], path, &rest, &len) && rest &&
                    (len == 0 || rest < path || rest + len > path + strlen(path)))
                        abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        auto_free char *text = size > 0 ? strndup((const char *)data + 1, size - 1) : NULL;
        uint64_t ms, ids[2];

        if (!text)
                return 0;
        switch (data[0] % 6) {
        case 0:
                fuzz_range(text);
                break;
        case 1:
                fuzz_credentials(text);
                break;
        case 2:
                fuzz_routes(text);
                break;
        case 3:
                (void)rfc3339_parse(text, &ms);
                break;
        case 4:
                (void)event_id_parse(text, ids);
                break;
        default:
                (void)media_type_is(text, "application/json");
                slashes_decode(text);
                break;
        }
        return 0;
}
