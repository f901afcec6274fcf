#include "base/vec.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#define VEC_FIRST 8

int vec_grow(void **items, size_t *cap, size_t len, size_t size)
{
        size_t want;
        void *p;

        if (len < *cap)
                return 0;
        want = *cap ? *cap * 2 : VEC_FIRST;
        if (want < *cap || want > PTRDIFF_MAX / size)
                return -ENOMEM;
        p = realloc(*items, want * size);
        if (!p)
                return -ENOMEM;
        *items = p;
        *cap = want;
        return 0;
}

void vec_free(void **items)
{
        free(*items);
        *items = NULL;
}
