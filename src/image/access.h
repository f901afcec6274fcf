/* Who has shown that a repository is open to him. A repository from which an image was pulled with somebody's credentials
 * is closed to others until they have asked the registry for themselves; all others are open to everybody.
 *
 * A proof is fresh for a time, and holds for longer while the registry cannot be asked. */
#pragma once

#include "base/err.h"
#include "image/ref.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct access;

#define ACCESS_REPOSITORIES_MAX 100000
#define ACCESS_PROOFS_MAX 100000 /* with the names as long as may be, file and reading stay below ACCESS_FILE_MAX */
#define ACCESS_FILE_MAX (256U << 20)

struct access_config {
        uint64_t fresh_ms, hold_ms;
};

int access_open(int dirfd, const struct access_config *config, struct access **ret,
                struct err *err); /* reads access.json */
void access_free(struct access *a);

bool access_is_closed(const struct access *a, const struct image_ref *ref);

enum access_proof { ACCESS_NONE, ACCESS_HELD, ACCESS_FRESH };
enum access_proof access_look(const struct access *a, const char *owner, const struct image_ref *ref, uint64_t now_ms);

/* Each is true where the file is to be written. -ENOMEM is false, as is a table that is full: who closes asks then whether it
 * is closed. Proofs that no longer hold make room for others. */
bool access_close(struct access *a, const struct image_ref *ref);
bool access_reopen(struct access *a, const struct image_ref *ref); /* what was closed for a pull that brought nothing */
bool access_prove(struct access *a, const char *owner, const struct image_ref *ref, uint64_t now_ms);
bool access_forget(struct access *a, const char *owner, const struct image_ref *ref);

/* The file's text, for access_write() on another thread. The caller owns *ret: free(). */
int access_text(const struct access *a, uint64_t now_ms, char **ret, struct err *err);
int access_write(int dirfd, const char *text, struct err *err);
