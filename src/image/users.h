/* Who `USER` means, by runc's rules (libcontainer/user, GetExecUser), from the texts of an image's own passwd and group.
 * Nothing of the host is asked. */
#pragma once

#include "base/err.h"
#include "image/store.h"

#define IMAGE_USER_ID_MAX 65535
#define IMAGE_USER_LINE_MAX 65536 /* longer lines are skipped */

/* user: "", "name", "uid", "name:group", "uid:gid"; groups that name the user as a member come with a user's own group,
 * not with one that was asked for. passwd and group: NULL where the image has none. -EINVAL says what is unknown. */
int image_users_find(const char *passwd, const char *group, const char *user, struct image_user *ret, struct err *err);
