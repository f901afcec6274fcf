/* The entries of a tar archive (ustar, pax, GNU, old), as libarchive reads them, with names byte for byte. */
#pragma once

#include "base/err.h"
#include "image/worker/stream.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum tar_type { TAR_FILE, TAR_DIR, TAR_SYMLINK, TAR_LINK, TAR_FIFO, TAR_OTHER };

/* One entry; peek, valid until tar_next(). */
struct tar_entry {
        enum tar_type type;
        const char *name;    /* as it stands in the archive */
        char path[PATH_MAX]; /* cleaned: relative, no empty, "." or ".." component; "" is the root */
        const char *target;  /* of links */
        mode_t mode;         /* 07777 */
        uint32_t uid, gid;
        uint64_t size;
        bool sparse;
        struct timespec mtime;
        struct archive_entry *raw;
};

struct tar;

int tar_open(struct stream *s, struct tar **ret, struct err *err); /* borrows s */
void tar_close(struct tar *t);
void tar_cleanup(struct tar **t);
#define auto_tar __attribute__((cleanup(tar_cleanup))) struct tar *

/* 1: an entry; 0: the end; -EBADMSG… `ids`: whether owners above 65535 are an error. */
int tar_next(struct tar *t, bool ids, struct tar_entry *ret, struct err *err);

/* The next piece of the current file: 1, or 0 at its end. Between pieces are holes. */
int tar_data(struct tar *t, const void **ret, size_t *ret_len, uint64_t *ret_offset, struct err *err);

/* Where the current entry's data begin in the stream. */
uint64_t tar_offset(const struct tar *t);

/* Attributes of the current entry; NULL after the last. */
void tar_xattrs_start(const struct tar_entry *e);
const char *tar_xattr_next(const struct tar_entry *e, const void **ret, size_t *ret_len);

/* Cleans a path as Go's filepath.Clean below a root does, so that leading slashes vanish. -EBADMSG: it leads out of the
 * root, is too long or too deep. */
int tar_clean(const char *name, char out[PATH_MAX], struct err *err);
