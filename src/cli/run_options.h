/* The options of `mayfly run`, and the request that they make. */
#pragma once

#include "cli/cli.h"
#include "wire/task.h"

struct run_options {
        struct wire_task_request request; /* what is asked for, but for stdin and files */
        bool interactive;                 /* -i: stdin is sent */
        bool detach;                      /* -d */
        bool live;                        /* streams, rather than one request and one answer */
        bool sig_proxy;                   /* signals go on to the task */
        bool free_timeout, free_output;   /* without a limit that was asked for */
        bool output_limited;              /* --output-limit, or what an answer holds: what comes after is cut */
        int64_t wait_ns;                  /* --wait; negative: until the end */
        bool attach_given;
        bool attached[3];    /* -a stdin, stdout, stderr */
        char **copies;       /* --copy HOST:PATH */
        char **outputs;      /* --output PATH:HOST */
        const char *cidfile; /* borrowed of the words, as is what follows */
        const char *idempotency_key;
        /* What files say comes first, as docker has it: single values go before them. */
        char **env, **env_files;
        char **labels, **label_files;
        char **secrets;
        const char *registry_auth;
        bool rm; /* always so */
};
void run_options_done(struct run_options *o);

/* 0; 1: help was printed; -EINVAL. Everything after the image is the command's. Reads the files that options name, but those
 * of --copy. */
int run_options_parse(struct cli *cli, const struct cli_command *command, int argc, char **argv,
                      struct run_options *ret, struct err *err);

int run_parse_cpus(const char *value, int64_t *ret_milli, struct err *err); /* "1.5", ".5" */
