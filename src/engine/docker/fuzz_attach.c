/* What Docker answers to an attach. */
#include "engine/docker/internal.h"
#include "engine/docker/stream.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE_MAX_HERE ((size_t)16 * 1024)

/* Where the head ends; or how it is wrong. */
static ssize_t run(const uint8_t *data, size_t size, size_t step, unsigned *refused)
{
        struct docker_stream s = { .container = NULL };
        struct err err = ERR_INIT;
        ssize_t n = 0;
        size_t at = 0;

        for (; n == 0 && at < size; at += step) {
                n = docker_stream_head(&s, (const char *)data + at, MIN(step, size - at), &err);
                if (n > (ssize_t)MIN(step, size - at) || (n < 0 && !err.text[0]))
                        abort();
                if (n > 0)
                        n += (ssize_t)at;
        }
        *refused = s.refused;
        str_done(&s.head);
        return n;
}

/* How it is cut makes no difference to where a good one ends, and to whether it is refused. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        unsigned whole_refused, refused;
        ssize_t whole, pieces;

        /* One that is too long is so when it comes in pieces only. */
        if (size == 0 || size > SIZE_MAX_HERE)
                return 0;
        whole = run(data, size, size, &whole_refused);
        pieces = run(data, size, 1 + data[size - 1] % 13, &refused);
        if ((whole > 0 || pieces > 0) && whole != pieces)
                abort();
        if (whole_refused != refused)
                abort();
        return 0;
}
