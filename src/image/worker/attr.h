/* Attributes of files in layers and trees. */
#pragma once

#include "base/err.h"
#include "image/worker/tar.h"

#include <sys/stat.h>

/* Whether layers may carry the extended attribute: user.* and security.capability. */
bool attr_wanted(const char *name);

/* Owner, extended attributes, mode, and unless it is a directory times, of an open file or directory. */
int attr_set(int fd, const struct tar_entry *e, struct err *err);

/* Owner and times of what cannot be opened: links and FIFOs; the mode of FIFOs. */
int attr_set_at(int dirfd, const char *name, const struct tar_entry *e, struct err *err);

/* Makes `to` (open for reading) like `from`, whose status is st: owner, mode, extended attributes, times. -errno */
int attr_copy(int from, const struct stat *st, int to);
