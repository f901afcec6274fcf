/* What a registry and its token server answer but for manifests and challenges: tokens, errors, parts of blobs. */
#include "image/registry_internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER "Authorization: Bearer "

/* It becomes a field of the next request: it must be one, whatever the token server wrote. */
static void fuzz_token(const char *text, size_t size)
{
        struct err err = ERR_INIT;
        uint64_t seconds = 0;
        char *header = NULL;

        if (registry_token_read(text, size, &header, &seconds, &err) < 0) {
                if (header || !err.text[0])
                        abort();
                return;
        }
        if (!str_starts(header, HEADER) || !header[strlen(HEADER)] || seconds == 0 || seconds > 86400)
                abort();
        for (const char *p = header + strlen(HEADER); *p; p++)
                if (*p <= ' ' || *p > '~')
                        abort();
        free(header);
}

/* It is shown to users, and stands in logs. */
static void fuzz_error(const char *text, size_t size)
{
        char said[REGISTRY_SAID_MAX];

        registry_error_read(text, size, said);
        if (strlen(said) >= sizeof(said) || (said[0] && !str_starts(said, ": ")))
                abort();
        for (const char *p = said; *p; p++)
                if ((unsigned char)*p < ' ' || *p == 0x7f)
                        abort();
}

static void fuzz_range(const char *text)
{
        if (registry_range_is(text, 100, 200) && !str_eq(text, "bytes 100-199/200") && !str_eq(text, "bytes 100-199/*"))
                abort();
        (void)registry_range_is(text, UINT64_MAX, 0);
        (void)registry_range_is(text, 0, UINT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char *text = malloc(size + 1);

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        fuzz_token(text, size);
        fuzz_error(text, size);
        fuzz_range(text);
        free(text);
        return 0;
}
