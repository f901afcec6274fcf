/* What the files of the wire module share. */
#pragma once

#include "wire/task.h"

/* In the order of their enums; those of networks begin with WIRE_NET_NONE. */
extern const char *const wire_network_words[], *const wire_encoding_words[], *const wire_pull_words[];

bool wire_secret_name_valid(const char *name);
