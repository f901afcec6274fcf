/* Paths. Inside anything that an image or a container controls only path_open_in() is used. */
#pragma once

#include "base/err.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

bool path_name_valid(const char *name); /* one component: not empty, ".", "..", no '/', at most 255 bytes */

/* openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS. The caller owns the descriptor; -errno. */
int path_open_in(int rootfd, const char *path, int flags, mode_t mode);

/* mkdir -p below rootfd, each component resolved as above; *ret_fd (may be NULL) is O_PATH of the last one. -errno. */
int path_mkdirs_in(int rootfd, const char *path, mode_t mode, int *ret_fd);

int path_mkdirs(const char *path, mode_t mode, struct err *err); /* plain, for our own directories */

/* Calls fn for each entry of a directory but "." and "..", in the disk's order, until it answers other than 0, which is the
 * answer. fn may remove the entry. dirfd is not O_PATH, and its position is left alone. 0 or -errno. */
int path_each_entry(int dirfd, int (*fn)(const char *name, void *data), void *data);

/* Removes name below dirfd with all in it, never following a link nor crossing a mount. -errno of the first failure. */
int path_remove_tree(int dirfd, const char *name);
