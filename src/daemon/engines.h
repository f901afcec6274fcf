/* The engines that the configuration names, made and joined with the images. */
#pragma once

#include "base/err.h"
#include "daemon/config.h"
#include "engine/engine.h"
#include "image/pull.h"
#include "image/store.h"
#include "image/worker.h"
#include "loop/loop.h"

#include <stddef.h>

#define ENGINES_MAX 2

struct engines {
        struct engine *all[ENGINES_MAX]; /* the first is the default; ended by engines_close() */
        size_t n;
        struct engine *native, *docker; /* peeks; NULL: the configuration does not name it */
};

/* On failure, too, engines_close() follows. */
int engines_open(struct engines *e, struct loop *loop, const struct config *config, struct err *err);

/* Of tasks that name none. */
enum engine_network engines_network(const struct config *config);

/* Why no image can be brought into the store, and what to do instead; NULL: it can. */
const char *engines_no_images(const struct engines *e);

/* Who unpacks images; where no engine can, workers that refuse everything with -EOPNOTSUPP. Valid as long as the engines. */
const struct image_workers *engines_workers(const struct engines *e);

/* What they run is in the store, or comes by the pulls; both are borrowed until engines_leave(), after which no task begins. */
void engines_join(struct engines *e, struct image_store *store, struct image_pulls *pulls);
void engines_leave(struct engines *e);
void engines_close(struct engines *e); /* accepts a zeroed struct */
