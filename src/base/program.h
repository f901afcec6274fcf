/* Our programs find one another: beside themselves, as in a build directory, or in ../libexec/mayfly once installed. */
#pragma once

#include "base/err.h"

#include <limits.h>

/* The path of the program `name`. -ENOENT with a text that says where it was looked for. */
int program_find(const char *name, char out[PATH_MAX], struct err *err);
