/* Fuzzes the resolution of USER: the input is user, passwd and group, each ended by a NUL. */

#include "image/users.h"

#include "base/str.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char *part[3] = { NULL, NULL, NULL };
        const char *p = (const char *)data;
        struct image_user user;

        for (size_t i = 0; i < 3; i++) {
                size_t len = strnlen(p, size);

                part[i] = strndup(p, len);
                p += MIN(size, len + 1);
                size -= MIN(size, len + 1);
        }
        if (part[0] && part[1] && part[2] && image_users_find(part[1], part[2], part[0], &user, NULL) == 0) {
                if (user.uid > IMAGE_USER_ID_MAX || user.gid > IMAGE_USER_ID_MAX ||
                    user.n_groups > ARRAY_LEN(user.groups) || strlen(user.home) >= sizeof(user.home))
                        abort();
        }
        for (size_t i = 0; i < 3; i++)
                free(part[i]);
        return 0;
}
