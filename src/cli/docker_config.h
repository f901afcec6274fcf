/* What `docker login` left here: credentials for registries, in $DOCKER_CONFIG/config.json or ~/.docker/config.json, or with the
 * credential helpers that it names (docker/cli, «docker login»; docker-credential-helpers, README). */
#pragma once

#include "base/err.h"

#include <stddef.h>

#define DOCKER_CONFIG_MAX (1U << 20)
#define DOCKER_HELPER_OUTPUT_MAX (64U << 10)
#define DOCKER_HELPER_MS 30000

struct docker_login {
        char *username, *password; /* NULL: there is none; username "<token>": an identity token */
};
void docker_login_done(struct docker_login *l); /* wipes */

/* For the registry of an image's reference. What is wrong with file or helper is an error: -errno; that there is nothing is none.
 * Runs a helper where one is named, without a shell, and waits DOCKER_HELPER_MS for it. */
int docker_login_find(const char *image, struct docker_login *ret, struct err *err);

/* The same of the file's text, and of what a helper has answered (-EPROTO). */
int docker_login_read(const char *text, size_t len, const char *image, struct docker_login *ret, struct err *err);
int docker_helper_read(const char *text, size_t len, struct docker_login *ret, struct err *err);

/* The registry of a reference, by its one name (http/registry_name.h): "docker.io", "localhost:5000". -EINVAL. */
int docker_registry_of(const char *image, char ret[256]);
