/* Identifiers: 26 characters, Crockford base 32 in lower case, ordered by time (48 bits of ms, 80 bits random). */
#pragma once

#include <stdbool.h>

#define ID_LEN 26

void id_make(char out[ID_LEN + 1]); /* strictly increasing within one process; one thread only */
bool id_valid(const char *s);
