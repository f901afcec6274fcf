/* Secrets from where nobody else sees them: stdin, or a terminal without echo; never the command line. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#define CLI_PASSWORD_MAX (32U << 10)

/* All of stdin, line breaks at its end left out. The caller wipes *ret. -EINVAL: nothing, or a NUL; -E2BIG. */
int cli_read_password(struct str *ret, struct err *err);
/* A line from /dev/tty after the prompt. -ENXIO: there is no terminal; -ECANCELED by a signal that ends. */
int cli_ask(const char *prompt, bool echo, struct str *ret, struct err *err);
