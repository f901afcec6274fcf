/* What Docker says of itself and of what is wrong: GET /version, GET /info, errors. */

#include "engine/docker/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct docker d;
        char *text = malloc(size + 1), message[64];
        struct err err = ERR_INIT;

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        if (docker_version_read(&d, text, size, &err) == 0 && strncmp(d.prefix, "/v1.", 4) != 0)
                abort();
        (void)docker_info_read(&d, text, size, &err);
        if (d.n_findings > ENGINE_DOCKER_FINDINGS_MAX)
                abort();
        docker_message(text, size, 500, message, sizeof(message));
        for (const char *p = message; *p; p++)
                if (*p < ' ' || *p > '~')
                        abort();
        (void)docker_pull_error(text, size % 2);
        (void)docker_start_end(text);
        docker_info_done(&d);
        free(text);
        return 0;
}
