/* What `mayfly run` brings in: stdin and files. */
#pragma once

#include "base/err.h"
#include "wire/task.h"

/* All of fd. -EFBIG above what a request can hold; -EINTR by a signal. Blocks. */
int run_read_stdin(int fd, struct wire_task_request *request, struct err *err);

/* "HOST:PATH": a file, or all that is in a directory. */
int run_copy(const char *spec, struct wire_task_request *request, struct err *err);
