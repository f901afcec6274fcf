/* Values of `mayfly run`'s options, by docker's rules (github.com/docker/cli, opts). */
#pragma once

#include "base/err.h"
#include "wire/task.h"

/* "K=V" as it is, "K" with the value that it has here, or nothing if it has none. */
int run_env_add(char ***env, const char *word, struct err *err);
int run_env_file(char ***env, const char *path, struct err *err);

/* "K=V", or "K", which is "K=". A name holds no blanks. */
int run_label_add(char ***labels, const char *word, struct err *err);
int run_label_file(char ***labels, const char *path,
                   struct err *err); /* lines without "=" are left out, as docker does */

/* Of several values of one name the last stays, in the place of the first. Sorted by name where asked for. NULL is none. */
void run_unique(char **pairs, bool sorted);

/* "NAME=FILE", or "NAME" of the environment. */
int run_secret_add(struct wire_task_request *request, const char *word, struct err *err);
/* "USER:PASSWORD", the first line of a file; path NULL: of the environment, if it has it. */
int run_registry_auth(struct wire_task_request *request, const char *path, struct err *err);
