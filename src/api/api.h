/* The HTTP API: routes, bodies, problems, over tasks, images and history («The API» in the design). Owns the HTTP server. On
 * unix sockets whoever could open the socket is admin, and owner "uid:<n>" of what it makes. */
#pragma once

#include "api/meters.h"
#include "base/err.h"
#include "history/history.h"
#include "http/server.h"
#include "image/pull.h"
#include "image/store.h"
#include "loop/loop.h"
#include "state/keys.h"
#include "task/task.h"

#include <stddef.h>
#include <stdint.h>

struct api;

#define API_ENGINES_MAX 4

struct api_config {
        struct tasks *tasks; /* all borrowed until api_free() */
        struct image_store *store;
        struct image_pulls *pulls; /* NULL: nothing is pulled */
        const char *no_images;     /* why no image can be brought into the store; NULL: it can */
        struct registries *registries;
        struct logins *logins; /* NULL: none are kept */
        struct history *history;
        struct engine *const *engines; /* the first is the default; at most API_ENGINES_MAX */
        size_t n_engines;
        bool ecs_original_limits; /* of the ECS API: what the original allowed */
        const char *health_image; /* whose task health runs: it exits 0 */
        struct keys *keys;        /* who may call over TCP; NULL: nobody */
        uint64_t max_connections; /* 0: the server's default; these all */
        uint64_t max_per_address;
        unsigned idle_timeout_s;
        const char *const *trusted_proxies; /* addresses and CIDRs; NULL: none */
        uint64_t body_budget;               /* bytes that bodies may take in memory */
        struct meters_config meters;
        uint32_t max_uploads;      /* archives at once; 0: 16 */
        uint64_t max_upload_bytes; /* of all of them together; 0: 128 GiB */
};

int api_new(struct loop *loop, const struct api_config *config, struct api **ret, struct err *err);

/* Takes a listening stream socket (SOCK_NONBLOCK or not), closed with the API. */
int api_listen(struct api *a, const struct http_listen *listen, struct err *err);

/* Other rates than api_new() was given; from now on. */
void api_configure(struct api *a, const struct meters_config *meters);

/* From now on /healthz answers 503 and connections end after their answer. New tasks are tasks_drain()'s to refuse. */
void api_drain(struct api *a);

size_t api_open(const struct api *a); /* requests that wait for their answer or are being sent it */

/* Closes all; whoever still waits has hung up, without their tasks being cancelled. Before tasks_free(). Accepts NULL. */
void api_free(struct api *a);
