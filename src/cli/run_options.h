/* The options of `mayfly run`, and the request that they make. */
#pragma once

#include "cli/cli.h"
#include "wire/task.h"

struct run_options {
        struct wire_task_request request; /* what is asked for, but for stdin and files */
        bool interactive;                 /* -i: stdin is sent */
        char **copies;                    /* --copy HOST:PATH */
};
void run_options_done(struct run_options *o);

/* 0; 1: help was printed; -EINVAL. Everything after the image is the command's. */
int run_options_parse(struct cli *cli, const struct cli_command *command, int argc, char **argv,
                      struct run_options *ret, struct err *err);

/* Docker's rules: "K=V" as it is, "K" with the value that it has here, or nothing if it has none. */
int run_env_add(char ***env, const char *word, struct err *err);
int run_env_file(char ***env, const char *path, struct err *err);
int run_parse_cpus(const char *value, int64_t *ret_milli, struct err *err); /* "1.5", ".5" */
