/* The API of a node on its listeners: keys, certificate, limits, and reading them again. */
#pragma once

#include "api/api.h"
#include "base/err.h"
#include "daemon/config.h"
#include "daemon/listen.h"
#include "state/db.h"
#include "state/keys.h"
#include "state/logins.h"
#include "state/seal.h"

#include <stddef.h>

struct serve {
        const struct config *config; /* borrowed */
        const char *reload_path;     /* borrowed; the file that is read again; "": none */
        char **reload_args;          /* borrowed; the command line's flags, which win over the file then, too */
        int n_reload_args;
        int fds[LISTEN_MAX + 1]; /* listeners that were passed, owned until served */
        size_t n_fds;
        struct state_db *db;
        struct keys *keys;
        struct logins *logins;
        struct seal *seal;
        struct http_tls *tls; /* NULL: no listener needs one */
        struct api *api;
};

/* Opens state.db, its keys and logins, and the key that seals. Blocks. */
int serve_open(struct serve *s, struct loop *loop, struct err *err);
/* Makes the API and listens; what the configuration names and nobody passed is bound here. `config` says the rest. Blocks. */
int serve_start(struct serve *s, struct loop *loop, struct api_config *config, struct err *err);
/* Certificate, log level and limits, from their files again; what is wrong is logged, and changes nothing. */
void serve_reload(struct serve *s);
/* serve_stop() ends the API, before the tasks are freed; serve_done() the rest, after them. Both on a zeroed struct, too. */
void serve_stop(struct serve *s);
void serve_done(struct serve *s);
