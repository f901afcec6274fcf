/* A task live: GET /v1/tasks/stream. */
#pragma once

#include "cli/cli.h"
#include "cli/run_options.h"

/* Sends the request's text and then stdin and signals, writes what comes, until the task has ended. 0: *ret is the task, owned.
 * -EPIPE: nobody reads our output any more; -ECANCELED: a signal ended it, in cli_signal; other failures have a text. ids is
 * called once, when the task has one; may be NULL. */
int run_stream(const struct cli *cli, const struct run_options *o, const struct str *request,
               int (*id)(const char *id, void *data, struct err *err), void *data, json_t **ret, struct err *err);
