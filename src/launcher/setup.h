/* The launcher's own confinement, at its start. */
#pragma once

#include "base/err.h"
#include "launcher/ceiling.h"

#include <stdbool.h>

/* What goes over from the first half of the start to the second, executed from a sealed memfd: a container's first process
 * has the launcher's program as its /proc/self/exe until it executes its own, and must not be able to write to a file. */
struct setup {
        const char *ceiling;
        bool die_with_parent;
        bool sealed;      /* this is the second half */
        int init, worker; /* programs as sealed memfds; worker may be -EBADF */
};

int setup_parse(int argc, char **argv, struct setup *ret, struct err *err);

/* Copies the own program, and mayfly-init and mayfly-worker beside it, into sealed memfds and executes the first. Comes
 * back only on failure. */
int setup_reexec(const struct setup *setup, struct err *err);

/* Signals blocked, not dumpable, descriptors 0 to 2 taken, limits raised, end with the parent if asked. */
int setup_process(const struct setup *setup, struct err *err);

/* The listening socket: made, inherited, or systemd's (sd_listen_fds(3)). *ret_dir and *ret_name tell where it lies, if
 * it is ours to remove. */
int setup_listener(const struct ceiling *c, int *ret, int *ret_dir, const char **ret_name, struct err *err);

/* A mount namespace whose root is read-only and empty (rootfs.h); a time namespace for children. *ret_store: the store's
 * mount, which can be cloned; the caller owns it, and keeps it. *ret_detached: that mount is in no namespace, and layers can
 * be given as descriptors, which takes Linux 6.15; on older ones it is attached as ROOTFS_STORE. */
int setup_mounts(const char *store, int *ret_store, bool *ret_detached, struct err *err);
