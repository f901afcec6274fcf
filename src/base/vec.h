/* Typed growable array: VEC(int) v = {0}; VEC_ADD(&v, 3) answers 0 or -ENOMEM; VEC_DONE(&v). Elements are copied. */
#pragma once

#include <stddef.h>

#define VEC(type)                                                                                                      \
        struct {                                                                                                       \
                type *items;                                                                                           \
                size_t len, cap;                                                                                       \
        }

int vec_grow(void **items, size_t *cap, size_t len, size_t size);
void vec_free(void **items);

#define VEC_ADD(v, item)                                                                                               \
        ({                                                                                                             \
                int vec_r_ = vec_grow((void **)&(v)->items, &(v)->cap, (v)->len, sizeof(*(v)->items));                 \
                if (vec_r_ == 0)                                                                                       \
                        (v)->items[(v)->len++] = (item);                                                               \
                vec_r_;                                                                                                \
        })
#define VEC_DONE(v) (vec_free((void **)&(v)->items), (v)->len = (v)->cap = 0)
