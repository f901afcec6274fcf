/* Who may do what: one table of roles, operations and whose objects. Pure. */
#pragma once

#include "state/keys.h"

#include <stdbool.h>

enum operation {
        OP_PING,         /* anonymous too */
        OP_INFO,         /* version, engines, documentation */
        OP_HEALTH,       /* with a task of our own */
        OP_TASK_RUN,     /* makes one */
        OP_TASK_READ,    /* list, get, wait, output */
        OP_TASK_CONTROL, /* cancel, signal, delete */
        OP_IMAGE_READ,
        OP_IMAGE_CHANGE,
        OP_LOGINS, /* at registries */
        OP_KEYS,
};
#define OPERATIONS 10
extern const char *const operation_names[]; /* in the enum's order, NULL-terminated */

/* Of whose objects: to who may not see them the others do not exist (404). */
enum scope {
        SCOPE_NONE, /* 403 */
        SCOPE_OWN,
        SCOPE_ALL,
};

enum scope role_scope(enum key_role role, enum operation op);
