/* The command: what its subcommands share. One file per subcommand, each a row of the table in main_mayfly.c; what they are
 * is described in commands.h. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/commands.h"
#include "http/client.h"
#include "json/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLI_PLURAL(n) ((n) == 1 ? "" : "s")
#define CLI_TIMED_OUT 124 /* as timeout(1) */

struct cli {
        const char *host;           /* --host, MAYFLY_HOST */
        const char *key_file, *key; /* --key-file, MAYFLY_KEY_FILE; MAYFLY_KEY */
        const char *cacert, *pin;   /* of https:// */
        bool json;                  /* --json */
};

typedef int cli_main_fn(struct cli *cli, const struct cli_command *command, int argc, char **argv);

cli_main_fn cmd_completion, cmd_complete, cmd_dial, cmd_engines, cmd_help, cmd_history, cmd_images, cmd_import,
        cmd_inspect, cmd_key_create, cmd_key_list, cmd_key_revoke, cmd_kill, cmd_load, cmd_login, cmd_logout, cmd_logs,
        cmd_pin, cmd_prune, cmd_ps, cmd_pull, cmd_rmi, cmd_run, cmd_save, cmd_serve, cmd_stop, cmd_tag, cmd_unpin,
        cmd_version, cmd_wait;

/* The row of cli_commands that the words name, and how many of them (1 or 2) it took; NULL: there is none. */
const struct cli_command *cli_find_command(int argc, char *const *argv, int *ret_words);
bool cli_is_group(const char *word); /* the first of two: key */
/* The command whose name is most like that word; NULL: none is. */
const char *cli_suggest(const char *word);
bool cli_similar(const char *a, const char *b); /* at most two letters are wrong, missing, too many or exchanged */

/* ── output: output.c ────────────────────────────────────────────────────────────────────────────────────────────── */

/* "mayfly: …" on stderr, control bytes escaped; colour on a terminal only. */
void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* cli_error() of an err; answers command->failed. Where nobody reads stdout any more it says nothing: 128 + SIGPIPE. */
int cli_fail(const struct cli_command *command, const struct err *err);

/* What comes from a server, made harmless for a terminal: control bytes and what is no UTF-8 become \xNN. */
int cli_escape(struct str *out, const char *text);

void cli_one_line(char *text); /* ends of lines become blanks; accepts NULL */
/* A line on stdout of what comes from a server, escaped, behind words of ours. */
void cli_print_line(const char *before, const char *text);

bool cli_draws(int fd);               /* a terminal on which lines can be written over: not TERM=dumb */
bool cli_colored(int fd);             /* one of these, and not NO_COLOR */
size_t cli_columns(int fd);           /* of a terminal; 0: it is none */
size_t cli_text_width(const char *s); /* in columns of a terminal */
/* How many bytes of s, which is UTF-8, fit into so many columns, and how many of these they take. */
size_t cli_text_fit(const char *s, size_t max, size_t *ret_width);

/* Answers 0, or -errno with err: a full disk is no success. */
int cli_flush(struct err *err);
int cli_print_json(const json_t *v, struct err *err);                  /* one line */
int cli_print_json_as(const json_t *v, size_t flags, struct err *err); /* of jansson */

/* ── tables: table.c ─────────────────────────────────────────────────────────────────────────────────────────────── */

#define CLI_COLUMNS_MAX 8
#define CLI_COLUMN(i) (1U << (i))
#define CLI_COLUMNS_ALL (~0U)

/* Rows of cells, each as wide as its column's widest; the first row is the header. */
struct cli_table {
        size_t columns;
        unsigned whole; /* CLI_COLUMN() of those that are never cut: names that a command takes */
        char **cells;
        size_t len, cap;
        bool failed; /* out of memory */
};
/* The next cell, copied and escaped; NULL is "-". */
void cli_table_add(struct cli_table *t, const char *text);
/* On a terminal that is too narrow the widest cells are cut, but for t->whole; elsewhere none is. -ENOMEM. */
int cli_table_print(const struct cli_table *t, struct err *err);
void cli_table_done(struct cli_table *t);
#define auto_table __attribute__((cleanup(cli_table_done))) struct cli_table

/* docker/go-units HumanDuration: "About a minute", "3 weeks". */
#define CLI_AGE_MAX 32
void cli_age(int64_t ns, char out[CLI_AGE_MAX]);
/* The age of a time as the API writes it, with " ago"; "-" where it is none. */
void cli_ago(const char *rfc3339, char out[CLI_AGE_MAX]);
int cli_parse_time(const char *rfc3339, uint64_t *ret_ms); /* real time; -EINVAL */
/* A time, or how long it is ago, as the API takes it. -EINVAL. */
int cli_parse_when(const char *value, char out[TIME_RFC3339_MAX], struct err *err);

/* ── help: help.c ────────────────────────────────────────────────────────────────────────────────────────────────── */

void cli_print_help(const struct cli_command *command); /* on stdout */
void cli_print_overview(bool error);                    /* of all commands; on stderr where it is an error */
void cli_print_group(const char *name, bool error);     /* of those whose first word is name */

/* ── the server: request.c ───────────────────────────────────────────────────────────────────────────────────────── */

/* A client for cli's host and key. Errors say what to do. */
int cli_connect(const struct cli *cli, struct http_client **ret, struct err *err);
/* Errors of the transport say what to do; answers r. */
int cli_explain(const struct cli *cli, int r, struct err *err);
/* The text of an answer of 400 or more: RFC 9457, with all faults. -ENOENT for 404, -EPROTO. */
int cli_problem(const struct http_answer *answer, struct err *err);

/* Blocks. Sends to cli->host; errors of the transport say what to do. An answer of 400 and more is an error too, with the
 * problem's text (RFC 9457), all faults listed; *ret is set even then, if there was an answer. -ENOENT is a 404, and nothing
 * else. */
int cli_request(const struct cli *cli, const struct http_client_request *request, struct http_answer *ret,
                struct err *err);
int cli_get_json(const struct cli *cli, const char *path, json_t **ret, struct err *err); /* the caller owns *ret */
/* POST of JSON, or of nothing where body is NULL; *ret may be NULL, and is NULL where nothing was answered. */
int cli_post_json(const struct cli *cli, const char *path, const json_t *body, json_t **ret, struct err *err);
/* PREFIX/name/SUFFIX, name encoded. */
int cli_path(struct str *out, const char *prefix, const char *name, const char *suffix, struct err *err);
/* The answer, which is JSON, with a newline. */
int cli_print_answer(const struct http_answer *answer, struct err *err);

const char *cli_text(const json_t *object, const char *name); /* a member that is text, or "" */

/* Becomes 1 by SIGINT, SIGTERM or SIGHUP once cli_catch_signals() was called. */
extern volatile int cli_aborted;
extern volatile int cli_signal; /* the one that came */
void cli_catch_signals(void);

/* ── upload: upload.c ────────────────────────────────────────────────────────────────────────────────────────────── */

/* POSTs a file ("-" is stdin) as a stream, with progress on a terminal unless quiet. */
int cli_upload(const struct cli *cli, const char *path, const char *file, bool quiet, struct http_answer *ret,
               struct err *err);
