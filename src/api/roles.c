#include "api/roles.h"

#include <stddef.h>

const char *const operation_names[] = {
        "ping",       "info",         "health", "task_run", "task_read", "task_control",
        "image_read", "image_change", "logins", "keys",     NULL,
};

/* Operations without objects of somebody's are all or nothing. */
static const enum scope scopes[OPERATIONS][KEY_ROLES] = {
        /*                     admin      deploy      task        read */
        [OP_PING] = { SCOPE_ALL, SCOPE_ALL, SCOPE_ALL, SCOPE_ALL },
        [OP_INFO] = { SCOPE_ALL, SCOPE_ALL, SCOPE_ALL, SCOPE_ALL },
        [OP_HEALTH] = { SCOPE_ALL, SCOPE_ALL, SCOPE_ALL, SCOPE_ALL },
        [OP_TASK_RUN] = { SCOPE_ALL, SCOPE_NONE, SCOPE_OWN, SCOPE_NONE },
        [OP_TASK_READ] = { SCOPE_ALL, SCOPE_NONE, SCOPE_OWN, SCOPE_ALL },
        [OP_TASK_CONTROL] = { SCOPE_ALL, SCOPE_NONE, SCOPE_OWN, SCOPE_NONE },
        [OP_IMAGE_READ] = { SCOPE_ALL, SCOPE_ALL, SCOPE_ALL, SCOPE_ALL },
        [OP_IMAGE_CHANGE] = { SCOPE_ALL, SCOPE_ALL, SCOPE_NONE, SCOPE_NONE },
        [OP_LOGINS] = { SCOPE_OWN, SCOPE_OWN, SCOPE_OWN, SCOPE_NONE },
        [OP_KEYS] = { SCOPE_ALL, SCOPE_NONE, SCOPE_NONE, SCOPE_NONE },
};

enum scope role_scope(enum key_role role, enum operation op)
{
        if ((unsigned)role >= KEY_ROLES || (unsigned)op >= OPERATIONS)
                return SCOPE_NONE;
        return scopes[op][role];
}
