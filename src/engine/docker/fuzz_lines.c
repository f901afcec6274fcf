#include "engine/docker/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(const json_t *line, void *data)
{
        size_t *n = data;

        if (!json_is_object(line))
                abort();
        ++*n;
}

static int run(const uint8_t *data, size_t size, size_t step, size_t *n)
{
        struct docker_lines l = { .line = STR_INIT };
        int r = 0;

        for (size_t i = 0; r == 0 && i < size; i += step)
                r = docker_lines_feed(&l, data + i, MIN(step, size - i), take, n);
        if (r == 0)
                docker_lines_end(&l, take, n);
        docker_lines_done(&l);
        return r;
}

/* Pulls, loads, events: how the stream is cut makes no difference. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        size_t whole = 0, pieces = 0;

        if (size == 0)
                return 0;
        if (run(data, size, size, &whole) != run(data, size, 1 + data[size - 1] % 13, &pieces) || whole != pieces)
                abort();
        return 0;
}
