/* Runs a program of the system to its end, without a shell and with an empty environment. */
#pragma once

#include "base/err.h"

/* The first of `places` (NULL-terminated absolute paths) that exists is executed with `argv`, `input` as its standard
 * input. Blocks, at most RUN_TIMEOUT_MS. Anything but exit code 0 is -EIO with what it said. */
#define RUN_TIMEOUT_MS 20000
int run_program(const char *const *places, const char *const *argv, const char *input, struct err *err);
