/* What `mayfly run` brings out: --output PATH:HOST. */
#pragma once

#include "base/err.h"
#include "wire/task.h"

/* Writes what came for the n-th of specs ("PATH:HOST") from the n-th output. HOST that is a directory, or ends with a slash,
 * takes it by its own name. What a task wrote is not trusted: it cannot lead out of HOST, and nothing of it is set-user-id. */
int run_write_output(const char *spec, const struct wire_output *output, struct err *err);
