/* mayfly-worker: reads what comes from outside and makes layers and trees, confined by the launcher (launcher/work.h). Its
 * functions are a library too, so that tests and fuzzers run them in their own process.
 *
 *   mayfly-worker index MAX_BYTES MAX_ENTRIES
 *   mayfly-worker unpack MAX_BYTES MAX_ENTRIES
 *   mayfly-worker merge N_LAYERS
 *   mayfly-worker remove
 *   mayfly-worker compare
 *   mayfly-worker sync
 *
 * Ends with one of enum image_worker_exit; the report (image/worker.h) goes to WORKER_FD_REPORT. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stddef.h>
#include <stdint.h>

enum worker_fd {
        WORKER_FD_INPUT = 3, /* index, plain, unpack: what to read, from offset 0 */
        WORKER_FD_PLAIN,     /* index, plain: the uncompressed copy */
        WORKER_FD_REPORT,    /* all but remove and sync */
        WORKER_FD_DIR,       /* unpack, merge: the directory to fill; remove: the one to empty; sync: any */
        WORKER_FD_LAYERS,    /* merge: one for each layer, lowest first; compare: what is to be like WORKER_FD_DIR */
};

#define WORKER_LAYERS_MAX 127
#define WORKER_DEPTH_MAX 256 /* components of a path */
#define WORKER_REPORT_MAX (64U << 20)
#define WORKER_USERS_MAX (1U << 20) /* passwd, group */
#define WORKER_ID_MAX 65535

struct worker_limits {
        uint64_t max_bytes; /* of file contents, as they read (holes count) */
        uint64_t max_entries;
};

/* Each fills `report` with its object on success. -EBADMSG: the input is bad, and err names the entry, escaped; -EFBIG: a
 * limit; anything else: the machine's fault. What was made stays, to be thrown away by the caller. */

/* Lists a tar archive; a compressed one is written to plain_fd as it is uncompressed. */
int worker_index(int archive_fd, int plain_fd, const struct worker_limits *limits, struct str *report, struct err *err);

/* Writes the bytes of a compressed archive, a file or what comes by a pipe, to plain_fd, all of them; of any other it writes
 * nothing. */
int worker_plain(int archive_fd, int plain_fd, const struct worker_limits *limits, struct str *report, struct err *err);

/* Unpacks a layer into root/ and meta of dir_fd. */
int worker_unpack(int blob_fd, int dir_fd, const struct worker_limits *limits, struct str *report, struct err *err);

/* Applies layers (directories that worker_unpack() filled, on one mount with dir_fd) to an empty root/ in dir_fd. */
int worker_merge(const int *layers, size_t n_layers, int dir_fd, struct str *report, struct err *err);

/* Empties a directory. */
int worker_remove(int dir_fd, struct err *err);

/* From here on only the system calls that the above need. */
int worker_seccomp(struct err *err);
