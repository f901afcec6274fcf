/* SIGTERM and SIGINT as events. */
#pragma once

#include "base/err.h"

/* Blocks both for the process; *ret becomes readable when one has come (signalfd(2)), the caller closes it. */
int signals_open(int *ret, struct err *err);
