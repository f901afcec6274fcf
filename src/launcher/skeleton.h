/* The skeleton: the top lower layer of every container's root. It brings /dev with its nodes, makes each mount target a
 * real directory whatever the image holds there, and a /tmp that everybody may write. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

#define SKELETON_NAME "skeleton"

/* Makes it anew in the store, owned by `base` (the store's root). Nothing may use it at that time. */
int skeleton_make(int store, uid_t base, struct err *err);
