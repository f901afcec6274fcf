/* Bytes that tell their place: what one side writes, the other checks. */
#pragma once

#include <stddef.h>
#include <stdint.h>

static inline unsigned char pattern_byte(size_t at, unsigned stream)
{
        uint64_t x = (at / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15) + stream;

        x ^= x >> 29;
        return (unsigned char)(x >> (at % 8 * 8));
}

static inline void pattern_fill(unsigned char *buf, size_t len, size_t at, unsigned stream)
{
        for (size_t i = 0; i < len; i++)
                buf[i] = pattern_byte(at + i, stream);
}
