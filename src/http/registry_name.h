/* What people, Docker and references call a registry, and the one name that it has. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* "host", "host:port", "[::1]:port" as references have it; port 0 where absent. -EINVAL. */
int registry_host_parse(const char *text, char host[256], uint16_t *ret_port, struct err *err);

/* The one name of a registry that people write "https://index.docker.io/v1/", "Registry.Example:5000", "registry.example:443":
 * in lower case, without scheme and path, without the port that https has anyway (RFC 3986, section 6.2.3), Docker Hub as
 * docker.io. -EINVAL. */
int registry_name(const char *text, char ret[256], struct err *err);

bool registry_host_is_address(const char *host);
