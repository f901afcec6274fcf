/* The native engine: containers by mayfly-launcher, network namespaces by mayfly-netd, images by the store. Everything
 * runs on the loop's thread. */
#pragma once

#include "base/err.h"
#include "engine/engine.h"
#include "image/pull.h"
#include "image/store.h"
#include "image/worker.h"
#include "loop/loop.h"

#include <stdint.h>

struct engine_native_config {
        const char *launcher_path, *netd_path; /* sockets */
        enum engine_network network;           /* whose namespaces are kept ready; 0: ENGINE_NET_NAT */
        uint32_t stock;                        /* fresh namespaces kept ready of each mode in use; 0: 8 */
        uint32_t idle;                         /* used ones kept for their owners; 0: 128 */
};

/* Connects behind the caller's back, again and again; check() tells whether it could. list() waits for it. */
int engine_native_new(struct loop *loop, const struct engine_native_config *config, struct engine **ret,
                      struct err *err);

/* While it holds, whoever needs an image waits: the trees of some may be gone, as after a power cut, until the store has been
 * swept. */
void engine_native_hold(struct engine *e, bool on);

/* The store comes after the engine, because it needs its workers. Borrowed; before list(). */
/* Borrowed; without them only what is present can be had. */
void engine_native_set_pulls(struct engine *e, struct image_pulls *pulls);
void engine_native_set_store(struct engine *e, struct image_store *store);

/* Valid as long as the engine; each fails with -ENOTCONN while the launcher cannot be reached. */
const struct image_workers *engine_native_workers(struct engine *e);
