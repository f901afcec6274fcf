/* The directories of the store (launcher/work.h), and what has a name in them. Nothing here follows a link. */
#pragma once

#include "base/err.h"
#include "launcher/proto.h"
#include "launcher/work_settle.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORK_NAME_MAX 32 /* in tmp/ and trash/ */

struct work_store {
        int mount; /* detached clone of the store's mount; owned, as all of these */
        int layers, trees, tmp, trash;
        uint32_t id_base;
        uint64_t next_trash;       /* names are 16 hex digits, ascending */
        char floor[WORK_NAME_MAX]; /* what is up to here in the trash was tried */
        struct settle settle;
};

#define WORK_STORE_NONE                                                                                                \
        {                                                                                                              \
                .mount = -EBADF, .layers = -EBADF, .trees = -EBADF, .tmp = -EBADF, .trash = -EBADF,                    \
                .settle = SETTLE_NONE                                                                                  \
        }

/* Borrows both. Throws away what is in tmp/, and what a power cut may have spoilt. */
int work_store_open(struct work_store *s, int store_fd, int proc_fd, uint32_t id_base, struct err *err);
void work_store_close(struct work_store *s);

/* A fresh directory tmp/<token> of the store's root; the caller owns *ret_dir. */
int work_store_make(struct work_store *s, uint32_t token, int *ret_dir, struct err *err);
/* Throws tmp/<token> away. -ENOENT: there is none. */
int work_store_discard(struct work_store *s, uint32_t token);

/* Gives what was made its name. -EEXIST: the name is there. It counts on disk once it has settled. */
int work_store_commit(struct work_store *s, uint32_t token, enum launch_kind kind, const char *name, struct err *err);

/* The same, in the place of what has the name, which goes to the trash. */
int work_store_replace(struct work_store *s, uint32_t token, enum launch_kind kind, const char *name, struct err *err);
/* What was made, and what has the name: two directories with the same in them. The caller owns both. -ENOENT. */
int work_store_open_both(struct work_store *s, uint32_t token, enum launch_kind kind, const char *name, int *ret_made,
                         int *ret_named, struct err *err);

int work_store_delete(struct work_store *s, enum launch_kind kind, const char *name,
                      struct err *err); /* into the trash */
int work_store_open_layer(struct work_store *s, const char *name,
                          struct err *err); /* its directory; the caller owns it */

/* Calls fn for each name until it answers other than 0. */
int work_store_list(struct work_store *s, enum launch_kind kind, int (*fn)(const char *name, void *data), void *data);

/* The next directory in the trash that is not empty: true, its name and descriptor (owned by the caller). What can be
 * removed at once is. */
bool work_store_next_trash(struct work_store *s, char ret_name[WORK_NAME_MAX], int *ret_dir);
void work_store_forget_trash(struct work_store *s, const char *name); /* removes the emptied directory */
