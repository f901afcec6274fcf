/* Tasks as commands see them: asked for by id, explained by their reason. */
#pragma once

#include "cli/cli.h"

/* Waits for the task's end, until deadline (CLOCK_MONOTONIC; TIME_NEVER). The caller owns *ret: the task as it was answered.
 * -ETIME when the deadline came first, -ENOENT. */
int cli_task_wait(const struct cli *cli, const char *id, uint64_t deadline, json_t **ret, struct err *err);

/* GET or POST of /v1/tasks/ID/what (which may be empty). */
int cli_task_get(const struct cli *cli, const char *id, const char *what, json_t **ret, struct err *err);
int cli_task_post(const struct cli *cli, const char *id, const char *what, const json_t *body, json_t **ret,
                  struct err *err);

/* Answers r. Docker takes the beginning of an id; who tries that here is told why it is not found. */
int cli_task_explain_missing(const char *id, int r, struct err *err);

bool cli_task_ended(const json_t *task);

/* What docker run would exit with: the task's exit code, or 125, 126, 127 if it never ran. */
int cli_task_exit_code(const json_t *task);
/* On stderr, why it ended, unless it exited by itself; and, if that is of interest, whether what is kept of its output was cut. */
void cli_task_explain(const json_t *task, bool kept);
