/* Credentials of registries, one for each owner and registry, until they are taken back. On disk, and in memory too, they
 * are sealed (state/seal.h), bound to owner and registry; every change is written on the loop's work queue and takes effect after
 * its commit. One thread. */
#pragma once

#include "base/err.h"
#include "loop/loop.h"
#include "state/seal.h"

#include <stddef.h>
#include <stdint.h>

#define LOGINS_MAX 10000
#define LOGINS_OWNER_MAX 64
#define LOGIN_REGISTRY_MAX 180
#define LOGIN_USERNAME_MAX 1024
#define LOGIN_PASSWORD_MAX (32 * 1024)

struct logins;
struct state_db;

/* Reads all; blocks. Borrows database and seal. What does not open with this seal is left out, and logged. */
int logins_new(struct loop *loop, struct state_db *db, const struct seal *seal, struct logins **ret, struct err *err);
/* Finishes what is being written, turning the loop, so not from within a callback. Accepts NULL. */
void logins_free(struct logins *ls);

/* False where there are none. The caller owns both: seal_wipe(). */
bool logins_find(const struct logins *ls, const char *owner, const char *registry, struct str *username,
                 struct str *password);

struct login {
        const char *registry, *username; /* peek, until the next change */
        uint64_t created_ms;
};
/* The owner's, in no order: false at the end. *pos begins at 0. */
bool logins_next(const struct logins *ls, const char *owner, size_t *pos, struct login *ret);

typedef void (*logins_done_fn)(int r, const struct err *err, void *data);
/* In place of what there was. fn after the commit. -EINVAL; -ENOSPC: LOGINS_OWNER_MAX or LOGINS_MAX. */
int logins_set(struct logins *ls, const char *owner, const char *registry, const char *username, const char *password,
               logins_done_fn fn, void *data, struct err *err);
/* Takes effect at once; fn after the commit. -ENOENT. */
int logins_remove(struct logins *ls, const char *owner, const char *registry, logins_done_fn fn, void *data,
                  struct err *err);
/* All of an owner who is no more: at once, and on disk when it comes to that. */
void logins_forget(struct logins *ls, const char *owner);
