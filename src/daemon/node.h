/* One node: the modules of the daemon wired together on one loop. Alone knows which engine there is.
 *
 *     starting ──▶ adopting ──▶ serving ──▶ draining ──▶ stopped
 */
#pragma once

#include "base/err.h"
#include "daemon/config.h"

#include <stdbool.h>
#include <stddef.h>

struct node;

struct node_config {
        const struct config *config; /* borrowed until node_free() */
        const int *listen_fds;       /* of the API; adopted */
        size_t n_listen_fds;
        const char *reload_config; /* the file that SIGHUP reads again, borrowed; NULL or "": none */
        char **reload_args;        /* flags that win over it, as config_apply_flags() takes them; borrowed */
        int n_reload_args;
        int ready_fd;   /* a line is written to it once the API answers; adopted; -EBADF: none */
        bool end_tasks; /* a stop cancels the tasks that drain does not wait for */
};

/* Opens history and images; blocks. */
int node_new(const struct node_config *config, struct node **ret, struct err *err);
/* Until SIGTERM or SIGINT and the drain after it. 0, or -errno: it could not serve. */
int node_run(struct node *n, struct err *err);
void node_free(struct node *n); /* accepts NULL */
