/* Command line options, as docker(1) takes them: --name value, --name=value, -n value, -nvalue, bundled flags (-it). They
 * may stand among the other words, up to "--"; where command->leading, only before them. */
#pragma once

#include "cli/cli.h"

struct cli_option {
        const char *name;  /* without dashes */
        char letter;       /* 0: none */
        const char *value; /* what it takes, for help; NULL: it is a flag ("" or a boolean is given to set) */
        int (*set)(const char *value, void *data, struct err *err);
        void *data;
        const char *help; /* NULL: not shown */
};

/* Takes --host, --json and --help too. 0: *argc and *argv are the other words (their order in the array is changed). 1:
 * help was printed. -EINVAL. */
int cli_parse(struct cli *cli, const struct cli_command *command, const struct cli_option *options, size_t n, int *argc,
              char **argv, struct err *err);
void cli_print_usage(const struct cli_command *command, const struct cli_option *options, size_t n);

int cli_set_true(const char *value, void *data, struct err *err);     /* bool: "", "true", "false" */
int cli_set_text(const char *value, void *data, struct err *err);     /* const char *, borrowed */
int cli_set_list(const char *value, void *data, struct err *err);     /* char **, copied */
int cli_set_bytes(const char *value, void *data, struct err *err);    /* int64_t */
int cli_set_duration(const char *value, void *data, struct err *err); /* int64_t, nanoseconds */
int cli_set_nothing(const char *value, void *data, struct err *err);  /* accepted, means nothing here */
int cli_set_refused(const char *value, void *data, struct err *err);  /* data: const char *, what to do instead */
