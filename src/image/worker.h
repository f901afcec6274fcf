/* Image workers as the store sees them: confined processes that read what comes from outside and own the layers and
 * trees. The engine that can start them fills this in. Callbacks come on the loop, exactly once. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* r 0: it went well; -EBADMSG: the input is bad, the report says why; -ENOMEM, -ETIMEDOUT, -EIO: the worker failed. `token`
 * names what UNPACK and MERGE made, until commit() or discard(). */
typedef void (*image_work_fn)(int r, uint32_t token, const struct err *err, void *data);
typedef void (*image_done_fn)(int r, const struct err *err, void *data);
/* names: n × 64 hex digits, borrowed. */
typedef void (*image_names_fn)(int r, const char (*names)[65], size_t n, const struct err *err, void *data);

enum image_kind { IMAGE_LAYER = 1, IMAGE_TREE };

struct image_workers {
        void *context;
        /* Descriptors are borrowed. The report is JSON text in report_fd (a memfd). */
        int (*index)(void *context, int archive_fd, int plain_fd, int report_fd, uint64_t max_bytes,
                     uint64_t max_entries, image_work_fn fn, void *data, struct err *err);
        /* What a compressed blob holds, a file or what comes by a pipe, written to plain_fd, a file or a pipe. Its reader is not the one that unpacks: who takes over the
         * uncompressing cannot choose what is unpacked under a digest of somebody else. */
        int (*plain)(void *context, int blob_fd, int plain_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                     image_work_fn fn, void *data, struct err *err);
        /* blob_fd may be a pipe: of what plain() writes, not compressed, and hashed by whoever feeds it. */
        int (*unpack)(void *context, int blob_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                      image_work_fn fn, void *data, struct err *err);
        int (*merge)(void *context, const char (*layers)[65], size_t n_layers, int report_fd, image_work_fn fn,
                     void *data, struct err *err);
        int (*commit)(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                      void *data, struct err *err); /* -EEXIST: it is there already */
        /* What a token names beside what has this name: a layer with a layer, a tree with a tree. */
        int (*compare)(void *context, uint32_t token, enum image_kind kind, const char *name, int report_fd,
                       image_work_fn fn, void *data, struct err *err);
        /* As commit(), but takes the place of what has the name; -EBUSY: a container uses that, the token is discarded. */
        int (*replace)(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                       void *data, struct err *err);
        int (*discard)(void *context, uint32_t token, struct err *err);
        int (*remove)(void *context, enum image_kind kind, const char *name, image_done_fn fn, void *data,
                      struct err *err); /* -EBUSY: a container uses it */
        int (*list)(void *context, enum image_kind kind, image_names_fn fn, void *data, struct err *err);
};

/* How mayfly-worker ends. */
enum image_worker_exit {
        IMAGE_WORKER_DONE,
        IMAGE_WORKER_BAD,               /* the input: -EBADMSG */
        IMAGE_WORKER_FAILED,            /* -EIO */
        IMAGE_WORKER_NO_SPACE,          /* -ENOSPC */
        IMAGE_WORKER_NO_MEMORY,         /* -ENOMEM */
        IMAGE_WORKER_NOT_STARTED = 120, /* -EIO; the launcher could not confine it: the report says why */
};

/* The reports, one JSON object each. With any end but DONE: {"error": "text that names the entry", "errno": n}
 *   INDEX         {"compression": "none"|"gzip"|"zstd", "entries": [{"name", "type": "file"|"dir"|"symlink"|"link",
 *                  "offset", "size", "target"}]}   offsets into the plain copy if compressed, else into the archive
 *   PLAIN         {"compression": "none"|"gzip"|"zstd"}
 *   UNPACK        {"diff_id": "sha256:…", "compression", "entries": n, "bytes": n, "skipped": n}
 *                 no diff_id of a pipe; skipped: device nodes, and what aufs keeps for itself
 *   COMPARE       {"differences": n, "entries": n, "bytes": n, "list": [{"what": "other contents", "path"}]}  the first 20;
 *                 paths are escaped
 *   MERGE         {"layout": 1, "entries": n, "passwd": "base64 of etc/passwd", "group": "base64 of etc/group"}  each at
 *                 most 1 MiB; absent where it is no regular file or larger */
