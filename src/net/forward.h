/* net.ipv4.ip_forward: what it was is recorded in a file before it is changed, and restored at the end, also by a later
 * netd if this one is killed. Setting it sets the switch of every interface, so those that were on are recorded too. */
#pragma once

#include "base/err.h"

#include <stdbool.h>

#define FORWARD_FILE "forwarding" /* in the directory of state */

/* Records (unless an earlier netd did) and switches forwarding on. */
int forward_enable(int state_dir, struct err *err);

/* Switches it on again if somebody switched it off (1 if so). That is recorded as what it will be in the end: it may
 * have been another instance that was here first, and has gone. */
int forward_keep(int state_dir, struct err *err);

int forward_restore(int state_dir, struct err *err);

/* The interfaces of a record, one per line after the first; exposed for its test. */
#define FORWARD_RECORD_MAX 65536
bool forward_record_valid(const char *text);
