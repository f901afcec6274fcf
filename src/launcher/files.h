/* Files and the working directory of a container, made by its first process as root of its user namespace: whatever the
 * image holds, nothing outside its root can be reached. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

struct files_owner {
        uid_t uid;
        gid_t gid;
};

/* A directory and those above it; what is made belongs to the owner. *ret (O_PATH) is the caller's. -errno. */
int files_make_dir(int root, const char *path, const struct files_owner *owner, int *ret);

/* Writes a file below root, or below `workdir` (absolute) if path is relative. A name that exists is replaced, a directory is EISDIR. */
int files_write(int root, const char *workdir, const char *path, const void *data, size_t len, mode_t mode,
                const struct files_owner *owner);

/* As files_write(), a directory with that mode; one that is there keeps its owner. */
int files_place_dir(int root, const char *workdir, const char *path, mode_t mode, const struct files_owner *owner);

/* As files_write(), a symbolic link. */
int files_place_link(int root, const char *workdir, const char *path, const char *target,
                     const struct files_owner *owner);

/* Changes into the directory and sees to it that the kernel agrees that it lies below the root. */
int files_chdir(int dir);
