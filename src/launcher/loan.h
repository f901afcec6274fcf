/* Places in the launcher's own address space, lent to first processes of containers until each has executed its program:
 * no page tables are copied and torn down, none of the launcher's pages is copied at its first write. Each has a stack,
 * thread-local storage (errno), and a copy of all that the launcher goes on to overwrite.
 *
 * An OOM kill ends all who share an address space (oom_kill_process() of the kernel), so nobody borrows who could meet a
 * memory limit before it executes. */
#pragma once

#include "base/err.h"
#include "launcher/child.h"

#include <stdbool.h>
#include <stdint.h>

#define LOANS 8

struct loan;
struct clone_args;

struct loans {
        struct loan *items[LOANS]; /* NULL: not yet made */
        bool refused;              /* this kernel does not clone so */
};

/* A free one with copies of *child, of its start message and its payload, all inline in a packet; NULL: fork. */
struct loan *loan_take(struct loans *ls, const struct child *child);

/* Clones with `args`, which are put back; -EINVAL: the kernel has something against it, and will not be asked again. */
pid_t loan_clone(struct loans *ls, struct loan *loan, struct clone_args *args);

/* Whose children have executed or died come back; after that this process is undumpable again, which the change of ids in a
 * child undoes (fs.suid_dumpable). */
void loans_settle(struct loans *ls);
