#include "cli/sse.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int count(const char *data, size_t len, void *arg)
{
        if (data[len])
                abort();
        *(size_t *)arg += len + 1;
        return 0;
}

/* In one piece or byte by byte, it is the same. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct sse whole = { .cr = false }, pieces = { .cr = false };
        size_t a = 0, b = 0;

        (void)sse_feed(&whole, data, size, count, &a);
        for (size_t i = 0; i < size; i++)
                (void)sse_feed(&pieces, data + i, 1, count, &b);
        if (a != b)
                abort();
        sse_done(&whole);
        sse_done(&pieces);
        return 0;
}
