#include "launcher/validate.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct ceiling ceiling = {
        .caps = CEILING_CAPS_DEFAULT, .memory_max = UINT64_C(1) << 40, .cpu_max = 64000, .pids_max = 32768
};

/* What the checks accept must be as they promise, byte for byte: the child relies on it. */
static void walk(const struct launch_start *s, const uint8_t *payload)
{
        struct payload p = { .at = payload, .end = payload + s->payload_len };
        const uint8_t *record;
        uint32_t len, mode;

        for (uint32_t i = 0; i < s->argc + s->envc + 4; i++)
                if (payload_next(&p, &record, &len) < 0 || (len > 0 && memchr(record, '\0', len)))
                        abort();
        for (uint32_t i = 0; i < s->n_secrets; i++)
                if (payload_next(&p, &record, &len) < 0 || len == 0 || memchr(record, '/', len) ||
                    memchr(record, '\0', len) || payload_next(&p, &record, &len) < 0 || len > LAUNCH_SECRET_MAX)
                        abort();
        for (uint32_t i = 0; i < s->n_files; i++)
                if (payload_u32(&p, &mode) < 0 || payload_next(&p, &record, &len) < 0 || len == 0 ||
                    payload_next(&p, &record, &len) < 0)
                        abort();
        if (p.at != p.end)
                abort();
}

/* The first byte is the number of descriptors that came with the packet. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const struct launch_start *s;
        const struct launch_copy *copy;
        void *packet;

        if (size < 1)
                return 0;
        packet = malloc(size);
        if (!packet)
                return 0;
        memcpy(packet, data + 1, size - 1); /* aligned, as the launcher's buffer is */
        s = packet;
        copy = packet;
        if (validate_packet(packet, size - 1, data[0], NULL) == 0 && s->h.op == LAUNCH_COPY_OUT &&
            (size - 1 - sizeof(*copy) != copy->path_len || copy->path_len == 0 ||
             memchr(copy + 1, '\0', copy->path_len) || data[0] != 1))
                abort();
        if (validate_packet(packet, size - 1, data[0], NULL) == 0 && s->h.op == LAUNCH_START &&
            !(s->flags & LAUNCH_F_SPEC) && validate_start(s, &ceiling, NULL) == 0) {
                const uint8_t *payload = (const uint8_t *)packet + sizeof(*s);

                if (s->caps & ~ceiling.caps || s->uid > 65535 || s->argc == 0 || s->argc > LAUNCH_ARGS_MAX)
                        abort();
                if (validate_payload(s, payload, size - 1 - sizeof(*s), NULL) == 0)
                        walk(s, payload);
        }
        free(packet);
        return 0;
}
