/* The command: what its subcommands share. One file per subcommand, each a row of the table in main_mayfly.c. */
#pragma once

#include "base/err.h"
#include "http/client.h"
#include "json/json.h"

#include <stdbool.h>
#include <stddef.h>

#define CLI_DEFAULT_HOST "unix:///run/mayfly/mayfly.sock"
#define CLI_PLURAL(n) ((n) == 1 ? "" : "s")

/* Exit codes of docker run: the task's own, or one of these; 128 + n after a signal. */
enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 125, CLI_NOT_EXECUTABLE = 126, CLI_NOT_FOUND = 127 };

struct cli {
        const char *host, *key; /* MAYFLY_HOST or --host, MAYFLY_KEY */
        bool json;              /* --json */
};

struct cli_command {
        const char *name, *args, *summary;
        const char *examples; /* lines, indented by two */
        int (*run)(struct cli *cli, const struct cli_command *command, int argc, char **argv);
        int failed;   /* exit code of wrong usage and of failures before anything ran */
        bool leading; /* options end at the first word that is none: the rest is another command's */
};
extern const struct cli_command cli_commands[]; /* ends with a NULL name */

int cmd_run(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_images(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_inspect(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_import(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_load(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_rmi(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_serve(struct cli *cli, const struct cli_command *command, int argc, char **argv);
int cmd_version(struct cli *cli, const struct cli_command *command, int argc, char **argv);

/* ── output: output.c ────────────────────────────────────────────────────────────────────────────────────────────── */

/* "mayfly: …" on stderr, control bytes escaped; colour on a terminal only. */
void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* cli_error() of an err; answers command->failed. */
int cli_fail(const struct cli_command *command, const struct err *err);

/* What comes from a server, made harmless for a terminal: control bytes and what is no UTF-8 become \xNN. */
int cli_escape(struct str *out, const char *text);

/* Columns as wide as their widest cell; the first row is the header. Cells are borrowed. */
void cli_table(const char *const *cells, size_t columns, size_t rows);

/* Answers 0, or -errno with err: a full disk is no success. */
int cli_flush(struct err *err);

/* ── the server: request.c ───────────────────────────────────────────────────────────────────────────────────────── */

/* Blocks. Sends to cli->host; errors of the transport say what to do. An answer of 400 and more is an error too, with the
 * problem's text (RFC 9457), all faults listed; *ret is set even then, if there was an answer. */
int cli_request(const struct cli *cli, const struct http_client_request *request, struct http_answer *ret,
                struct err *err);
int cli_get_json(const struct cli *cli, const char *path, json_t **ret, struct err *err); /* the caller owns *ret */
/* The answer as it came, with a newline. */
int cli_print_answer(const struct http_answer *answer, struct err *err);

/* Becomes 1 by SIGINT or SIGTERM once cli_catch_signals() was called. */
extern volatile int cli_aborted;
extern volatile int cli_signal; /* the one that came */
void cli_catch_signals(void);

/* ── upload: upload.c ────────────────────────────────────────────────────────────────────────────────────────────── */

/* POSTs a file ("-" is stdin) as a stream, with progress on a terminal. */
int cli_upload(const struct cli *cli, const char *path, const char *file, struct http_answer *ret, struct err *err);
