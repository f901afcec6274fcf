/* COMPARE: what a directory of the store holds, beside what it has to hold. Both are read, nothing is followed. */
#pragma once

#include "base/err.h"
#include "base/str.h"

/* Fills `report` (image/worker.h). Differences are no error. What cannot be read back (EIO) is one of them. */
int worker_compare(int good_fd, int checked_fd, struct str *report, struct err *err);
