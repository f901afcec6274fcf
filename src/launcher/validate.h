/* Checks of what the daemon sends. The launcher trusts no field: what these accept is well formed and below the ceiling.
 * No state, no system calls but those that look at descriptors. */
#pragma once

#include "base/err.h"
#include "launcher/ceiling.h"
#include "launcher/proto.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Walks the records of a payload. */
struct payload {
        const uint8_t *at, *end;
};

/* The next record: peek into the payload. -EBADMSG if there is none or it does not fit. */
int payload_next(struct payload *p, const uint8_t **ret, uint32_t *ret_len);
int payload_u32(struct payload *p, uint32_t *ret);

/* True for an id of 1 to LAUNCH_ID_MAX characters [a-z0-9], padded with NUL. */
bool validate_id(const char id[LAUNCH_ID_MAX]);
bool validate_hex(const char name[LAUNCH_HEX]);

/* A packet as a whole: known operation, length and number of descriptors that belong to it. -EBADMSG: malformed, close
 * the connection. The operations of image workers are left to their own check. */
int validate_packet(const void *packet, size_t len, size_t n_fds, struct err *err);

/* Fields of a START that passed validate_packet(). -EBADMSG: malformed; -EPERM: above the ceiling. */
int validate_start(const struct launch_start *start, const struct ceiling *ceiling, struct err *err);

/* The payload of that START: counts, lengths, NULs, and no byte more. -EBADMSG. */
int validate_payload(const struct launch_start *start, const void *payload, size_t len, struct err *err);

/* What descriptors are compared with; taken once at the start, in the host's namespaces. */
struct validate_host {
        dev_t nsfs, pipefs, memfd;
        uint64_t ns_mount; /* of namespaces without a name in a file system */
        ino_t netns[2];    /* the launcher's own, and that of pid 1 */
};
int validate_host_init(struct validate_host *ret, struct err *err);

/* fds in the order of enum launch_start_fd, n of them as validate_packet() demanded. -EBADMSG. */
int validate_start_fds(const struct validate_host *host, const int *fds, size_t n, uint32_t payload_len,
                       struct err *err);

/* What COPY_OUT writes to. -EBADMSG. */
int validate_copy_fd(const struct validate_host *host, int fd, struct err *err);
