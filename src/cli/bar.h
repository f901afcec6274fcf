/* How far something is, as people see it on a terminal. */
#pragma once

#include "base/str.h"

#include <stdint.h>

/* Appends "[====>    ]". Failing for want of memory shows. */
void cli_bar(struct str *out, uint64_t done, uint64_t total);
/* Appends "[====>    ]   1.2 MB / 3.4 MB  ". */
void cli_bar_bytes(struct str *out, uint64_t done, uint64_t total);
