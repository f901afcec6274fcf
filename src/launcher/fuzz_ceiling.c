#include "launcher/ceiling.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct ceiling c;
        char *text = malloc(size + 1);

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        if (ceiling_parse(text, &c, NULL) == 0 && (c.slots == 0 || c.slots > CEILING_SLOTS_MAX || c.store[0] != '/'))
                abort();
        free(text);
        return 0;
}
