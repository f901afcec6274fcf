/* The Docker engine: containers by a Docker daemon, over the Engine API (1.41 and later) on its unix socket. Everything runs
 * on the loop's thread. Whoever may use that socket is as good as root on the host, and so is mayflyd with this engine. */
#pragma once

#include "base/err.h"
#include "engine/engine.h"
#include "loop/loop.h"

#include <stdint.h>

struct engine_docker_config {
        const char *host;    /* unix:///path or a path; NULL: unix:///var/run/docker.sock */
        const char *name;    /* of the instance: containers carry it, and only those are ours */
        const char *records; /* a directory of ours alone for what list() gives back: made if it is missing */
        uint64_t lost_ns;    /* for a Docker that is gone, until its containers are lost; 0: 30 s */
};

/* Connects behind the caller's back, again and again; check() tells whether it could. list() waits for it. */
int engine_docker_new(struct loop *loop, const struct engine_docker_config *config, struct engine **ret,
                      struct err *err);
