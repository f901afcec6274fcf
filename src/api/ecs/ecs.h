/* The API of the Ephemeral Container Service, versions 1.0 and 1.1, beside our own on the same listeners: the same tasks, keys
 * and limits, in its requests, answers and errors ({"message", "reason", "request_id"}). */
#pragma once

#include "api/internal.h"

extern const struct api_root ecs_roots[2]; /* /v1.0, /v1.1 */

/* The original's limits, above which it answers 503: requests a second and at once. */
extern const struct meters_config ecs_limits;
#define ECS_ADDRESS_CONNECTIONS 5
