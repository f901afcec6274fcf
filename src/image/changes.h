/* The lines of `docker import --change`: Dockerfile instructions that only change the configuration (docker's
 * builder/dockerfile, moby's shell lexer for $VAR, ${VAR}, ${VAR:-word}, ${VAR:+word}, quotes and backslashes). */
#pragma once

#include "base/err.h"
#include "json/json.h"

#define IMAGE_CHANGE_MAX (128U << 10) /* bytes of one line */
#define IMAGE_CHANGES_MAX 1024

/* Applies one line to `config`, the member of that name in an image's configuration. CMD ENTRYPOINT ENV EXPOSE LABEL
 * STOPSIGNAL USER VOLUME WORKDIR. -EINVAL says what is wrong. */
int image_change_apply(json_t *config, const char *line, struct err *err);

/* The whole configuration of an imported file system. changes: NULL-terminated or NULL. The caller owns *ret. */
int image_import_config(const char *diff_id, char *const *changes, const char *created, json_t **ret, struct err *err);
