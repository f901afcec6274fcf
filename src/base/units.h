/* Sizes as Docker writes them: docker/go-units RAMInBytes ("512m" is MiB, "1.5g", "64MiB", "100" bytes). */
#pragma once

#include <stdint.h>

int units_parse_bytes(const char *s, int64_t *ret); /* -EINVAL, -ERANGE */

#define UNITS_HUMAN_MAX 32
void units_human(uint64_t bytes, char out[UNITS_HUMAN_MAX]); /* go-units HumanSize: "1.5MB", four digits */
