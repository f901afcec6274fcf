/* Command line options, as docker(1) takes them: --name value, --name=value, -n value, -nvalue, -n=value, bundled flags
 * (-it). They may stand among the other words, up to "--"; where command->leading, only before them. */
#pragma once

#include "cli/cli.h"

/* What to do with an option of the command's description. */
struct cli_binding {
        const char *name;
        int (*set)(const char *value, void *data, struct err *err); /* of a flag: "" or a boolean */
        void *data;
};

/* Takes those of cli_common_options, too. 0: *argc and *argv are the other words (their order in the array is changed). 1:
 * help was printed. -EINVAL. Every option that is not refused must be bound. */
int cli_parse(struct cli *cli, const struct cli_command *command, const struct cli_binding *bindings, size_t n,
              int *argc, char **argv, struct err *err);

int cli_set_true(const char *value, void *data, struct err *err);     /* bool; Go's strconv.ParseBool */
int cli_set_text(const char *value, void *data, struct err *err);     /* const char *, borrowed */
int cli_set_list(const char *value, void *data, struct err *err);     /* char **, copied */
int cli_set_bytes(const char *value, void *data, struct err *err);    /* int64_t */
int cli_set_duration(const char *value, void *data, struct err *err); /* int64_t, nanoseconds */
int cli_set_span(const char *value, void *data, struct err *err);     /* the same, days (7d), weeks and years too */
int cli_parse_span(const char *value, int64_t *ret_ns);               /* -EINVAL, -ERANGE */
int cli_set_number(const char *value, void *data, struct err *err);   /* int64_t, not negative; Go's base prefixes */
int cli_parse_bool(const char *value, bool *ret);                     /* -EINVAL */
