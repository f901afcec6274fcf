#include "engine/docker/demux.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct sum {
        uint64_t n[2], hash[2];
};

static void take(enum engine_stream stream, const void *bytes, size_t len, void *data)
{
        struct sum *s = data;

        if (len == 0 || stream > ENGINE_STDERR)
                abort();
        s->n[stream] += len;
        for (size_t i = 0; i < len; i++)
                s->hash[stream] = s->hash[stream] * 31 + ((const uint8_t *)bytes)[i];
}

static int run(const uint8_t *data, size_t size, size_t step, struct sum *s)
{
        struct demux d = { .have = 0 };
        int r = 0;

        for (size_t i = 0; r == 0 && i < size; i += step)
                r = demux_feed(&d, data + i, MIN(step, size - i), take, s, NULL);
        return r == 0 ? demux_finish(&d, NULL) : r;
}

/* How it is cut makes no difference. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct sum whole = { .n = { 0 } }, pieces = { .n = { 0 } };

        if (size == 0)
                return 0;
        if (run(data, size, size, &whole) != run(data, size, 1 + data[size - 1] % 13, &pieces) ||
            memcmp(&whole, &pieces, sizeof(whole)) != 0)
                abort();
        return 0;
}
