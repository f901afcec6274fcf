/* What `mayfly run` brings in: stdin and files. */
#pragma once

#include "base/err.h"
#include "wire/task.h"

/* All of fd. -EFBIG above what a request can hold; -EINTR by a signal. Blocks. */
int run_read_stdin(int fd, struct wire_task_request *request, struct err *err);

/* "HOST:PATH": a file; or a directory, which becomes a tar that is unpacked at PATH, with its links as they are. A PATH that ends
 * with a slash is a directory into which it goes by its own name. */
int run_copy(const char *spec, struct wire_task_request *request, struct err *err);
