/* The node's own database, state.db: SQLite in WAL mode, every commit on disk before it is answered. A database of a newer
 * version is refused, an older one migrated. One connection, used by one thread at a time: after the start that is the loop's
 * work queue STATE_QUEUE. Both functions block. */
#pragma once

#include "base/err.h"

#define STATE_QUEUE 1 /* of the loop's workers */

struct state_db;

/* Opens or makes it, with mode 0600. -ENOTSUP: of a newer version; -EBADMSG: no database, or damaged. */
int state_db_open(const char *path, struct state_db **ret, struct err *err);
void state_db_close(struct state_db *db); /* accepts NULL */
