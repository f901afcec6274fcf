/* What the commands about images share: images.c. */
#pragma once

#include "cli/cli.h"

/* An image's name as tables have it, docker.io/library/busybox:1.36 as busybox and 1.36: two cells. NULL: none. */
void cli_add_image_name(struct cli_table *table, const char *name);
/* A digest's first 12 digits, or all of it: one cell. */
void cli_add_digest(struct cli_table *table, const char *digest, bool whole);
void cli_add_size(struct cli_table *table, const json_t *object, const char *member); /* "-" where it is no number */

/* mayfly images --verify */
int cli_verify_images(const struct cli *cli, bool repair, bool quiet, struct err *err); /* 0; 1: something is broken */
