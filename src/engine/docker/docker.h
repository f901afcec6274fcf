/* The Docker engine: containers by a Docker daemon, over the Engine API (1.41 and later), or by Podman, which speaks it too.
 * Everything runs on the loop's thread. Whoever may use that daemon is as good as root on its host, and so is mayflyd with this
 * engine. */
#pragma once

#include "base/err.h"
#include "engine/engine.h"
#include "image/pull.h"
#include "image/store.h"
#include "loop/loop.h"

#include <stddef.h>
#include <stdint.h>

#define ENGINE_DOCKER_PREWARM_MAX 64

/* All is copied. */
struct engine_docker_config {
        /* unix:///path or a path; tcp://HOST[:PORT], port 2376, with TLS; NULL: unix:///var/run/docker.sock. Without
         * certificates tcp:// is for 127.0.0.1, [::1] and localhost only (port 2375): who reaches it is root. */
        const char *host;
        /* PEM files, read for each connection so that they may be renewed: who signs Docker's certificate (NULL: the system's
         * authorities), and our certificate with its key, both or none. */
        const char *tls_ca, *tls_cert, *tls_key;
        const char *name;    /* of the instance: containers carry it, and only those are ours */
        const char *records; /* a directory of ours alone for what list() gives back: made if it is missing */
        uint64_t lost_ns;    /* for a Docker that is gone, until its containers are lost; 0: 30 s */
        unsigned
                timeout_s; /* for an answer of Docker's, but those that wait for the container or the registry; 0: 60 */
        unsigned prewarm;  /* containers that are made ahead in all, at most ENGINE_DOCKER_PREWARM_MAX; 0: none */
};

/* Whether host and certificates are possible together, without looking at files: what the configuration's check asks. */
int engine_docker_host_check(const struct engine_docker_config *config, struct err *err);

/* Connects behind the caller's back, again and again; check() tells whether it could. list() waits for it. */
int engine_docker_new(struct loop *loop, const struct engine_docker_config *config, struct engine **ret,
                      struct err *err);

/* Images. Docker shows whatever it has to whoever may use it; with `pulls` tasks run what their owners may, by the rules and
 * proofs of the store's images (image/prove.h). Without, everybody runs everything. */
struct engine_docker_images {
        struct image_pulls *pulls;
        struct image_store *store; /* what is there and not in Docker is given to it; NULL: nothing is */
        /* Makes an archive as `docker save` does, of an image that is part of Mayfly: 0 with *ret, which is then the engine's;
         * -ENOENT: there is no such image. NULL: none is. */
        int (*builtin)(const char *ref, int *ret, struct err *err);
};
/* Copied; what it names is borrowed until it is taken back by NULL. */
void engine_docker_set_images(struct engine *e, const struct engine_docker_images *images);

#define ENGINE_DOCKER_FINDINGS_MAX 16

/* What was read of the host (GET /version, GET /info) when it answered last; "" and 0 before. What weakens or hinders tasks
 * there stands in `findings`, a sentence each, with what to do. Peek: until the loop turns. */
struct engine_docker_about {
        const char *product; /* "Docker", "Podman" */
        const char *version; /* of it: 20.10.24 */
        const char *api;     /* what is spoken: 1.41 */
        const char *const *findings;
        size_t n_findings;
};
void engine_docker_about(const struct engine *e, struct engine_docker_about *ret);

/* Called when `about` is new: when Docker answers first, and each time it has come back. NULL: nobody. */
void engine_docker_watch(struct engine *e, void (*fn)(struct engine *e, void *data), void *data);

/* Gives Docker the images of an archive as `docker save` makes it (POST /images/load): a regular file or memfd, read from its
 * beginning, borrowed until fn. -ENOTCONN: Docker does not answer. */
int engine_docker_load(struct engine *e, int tar_fd, engine_done_fn fn, void *data, struct err *err);
