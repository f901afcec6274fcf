/* Plain tar archives, read and written as they stream by, without files: POSIX.1-2017 (pax, "ustar Interchange Format" and
 * "pax Interchange Format") with the records path, linkpath, size, mtime, uid and gid; read also GNU's long names and
 * base-256 numbers and the format of Version 7. Sparse files and archives of several volumes are refused. Nothing here
 * allocates or blocks. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAR_BLOCK 512
#define TAR_NAME_MAX 4095           /* bytes of a path or a target */
#define TAR_RECORDS_MAX (32 * 1024) /* bytes of one extended header; values of what is not known may be long */
#define TAR_SIZE_MAX (UINT64_C(1) << 62)

enum tar_kind {
        TAR_KIND_FILE,
        TAR_KIND_DIRECTORY,
        TAR_KIND_SYMLINK,
        TAR_KIND_HARDLINK, /* target: the path of an earlier member */
        TAR_KIND_FIFO,
        TAR_KIND_CHARACTER, /* device */
        TAR_KIND_BLOCK,
        TAR_KIND_UNKNOWN, /* content, if any, is to be ignored */
};

struct tar_member {
        enum tar_kind kind;
        const char *path;   /* without empty and "." components or a slash at the end; "." is the root itself */
        const char *target; /* of links, else "": a symlink's as it stands, a hard link's as path */
        bool outside;       /* path or a hard link's target is absolute or has a ".." component: not to be used */
        uint32_t mode;      /* 07777 */
        uint64_t uid, gid;
        uint64_t size; /* bytes of content that follow; other than 0 of FILE and UNKNOWN only */
        int64_t mtime; /* seconds since 1970 */
};

/* ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct tar_limits {
        uint64_t bytes;   /* of content, all members together; 0: no bound */
        uint32_t members; /* 0: no bound */
};

/* Set by tar_reader_init(); the fields are the reader's own. Some 40 KiB: for the heap. */
struct tar_reader {
        struct tar_limits limits;
        uint64_t bytes;
        uint32_t members;
        int state;
        uint64_t left;    /* bytes of the present content or extended header */
        uint32_t padding; /* bytes to its block's end */
        size_t have;      /* bytes in block */
        uint8_t block[TAR_BLOCK];
        struct {
                size_t used;
                bool path, target, size, mtime, uid, gid; /* what it has for the next member */
                uint64_t size_value, uid_value, gid_value;
                int64_t mtime_value;
        } next;
        char type; /* of the extended header */
        char path[TAR_NAME_MAX + 2], target[TAR_NAME_MAX + 2];
        char records[TAR_RECORDS_MAX + 1];
};

enum tar_event {
        TAR_MORE,    /* all input is used up */
        TAR_MEMBER,  /* the next member */
        TAR_CONTENT, /* a piece of its content */
        TAR_END,     /* the archive's end; what may follow is padding */
};

struct tar_piece {
        enum tar_event event;
        struct tar_member member; /* MEMBER: a peek, until the next call */
        const void *data;         /* CONTENT: within the input */
        size_t len;
};

void tar_reader_init(struct tar_reader *r, const struct tar_limits *limits); /* NULL: no bounds */

/* The next thing in the input, of which *at and *len are moved on; called again with the same input until TAR_MORE or
 * TAR_END. A content that lies in the input as a whole comes in one piece. -EBADMSG, -EFBIG, -E2BIG (members), -ENOTSUP,
 * -ENAMETOOLONG; after a failure the reader is of no use. */
int tar_reader_next(struct tar_reader *r, const void **at, size_t *len, struct tar_piece *ret, struct err *err);

/* No more input comes: -EBADMSG in the middle of something. Archives without the two empty blocks are accepted. */
int tar_reader_finish(const struct tar_reader *r, struct err *err);

/* Whether the name is absolute or has a ".." component. */
bool tar_path_outside(const char *path);

/* ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Takes all of it, or answers -errno. */
typedef int (*tar_write_fn)(const void *bytes, size_t len, void *data);

struct tar_writer {
        tar_write_fn fn;
        void *data;
        uint64_t left;    /* bytes of content that the present member lacks */
        uint32_t padding; /* bytes to its block's end */
};

/* Bytes that the member takes in an archive, content included. */
uint64_t tar_member_bytes(const struct tar_member *m);

/* The header; m->size bytes of content have to follow. -ENAMETOOLONG, -EINVAL, or what fn answers. `outside` is not looked
 * at. */
int tar_write_member(struct tar_writer *w, const struct tar_member *m);
int tar_write_content(struct tar_writer *w, const void *bytes, size_t len); /* -EINVAL: more than the member has */
int tar_write_end(struct tar_writer *w);                                    /* -EINVAL: content is missing */
