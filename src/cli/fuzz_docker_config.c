/* Docker's config.json, and what credential helpers answer. */
#include "cli/docker_config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct docker_login *l, int r)
{
        if ((l->username != NULL) != (l->password != NULL) || (r < 0 && l->username))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const char *const images[] = { "busybox", "registry.example:5000/a/b:1", "localhost/x" };
        struct docker_login l = { .username = NULL };
        char *text = malloc(size + 1), name[256];

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        /* No helper that it may name is there. */
        if (setenv("PATH", "/nonexistent", 1) < 0)
                abort();
        for (size_t i = 0; i < sizeof(images) / sizeof(*images); i++) {
                check(&l, docker_login_read(text, size, images[i], &l, NULL));
                docker_login_done(&l);
        }
        check(&l, docker_helper_read(text, size, &l, NULL));
        docker_login_done(&l);
        (void)docker_registry_of(text, name);
        free(text);
        return 0;
}
