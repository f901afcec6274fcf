/* The child of a copy: from the launcher's fork to the last byte of the archive. */
#pragma once

#include "launcher/proto.h"

#include <stdint.h>

#define COPY_DEPTH_MAX 128 /* directories one in another */

struct copy_child {
        int mntns, userns, out; /* borrowed from the launcher, of which the child is a copy */
        uint64_t max_bytes;
        uint32_t max_entries, seconds;
        char path[2 * LAUNCH_TEXT_MAX]; /* absolute */
};

/* Ends with an errno as exit code, 0 if all went well. */
_Noreturn void copy_child_run(const struct copy_child *c);

/* The part after all that needs privileges: writes the tar of path below `root` (O_PATH). 0 or -errno. */
int copy_child_tree(const struct copy_child *c, int root);
