/* Access to images that are kept elsewhere (by Docker): the same rules and proofs as for those of the store, for an engine that
 * pulls by itself. What it pulled with somebody's credentials is closed to others until they have asked the registry for
 * themselves. */
#pragma once

#include "base/err.h"
#include "image/pull.h"
#include "image/ref.h"
#include "image/worker.h"

#include <stdbool.h>

struct image_proof;

/* Whether the owner may use it as far as is known: its repository is open, or he has shown lately that it is to him. */
bool image_access_known(const struct image_pulls *p, const char *owner, const struct image_ref *ref);

/* Asks the registry for the owner (HEAD of the manifest). fn, later: 0: it is open to him, or was lately and the registry cannot
 * be asked; -EACCES, -ENOENT: it is not; -EHOSTUNREACH, -EBUSY: it cannot be told. Of the request: ref, owner, credentials. */
int image_prove(struct image_pulls *p, const struct image_pull_request *request, image_done_fn fn, void *data,
                struct image_proof **ret, struct err *err);
void image_prove_cancel(struct image_proof *x); /* no call follows */

/* A pull with credentials begins: what it brings may not be open to others, so its repository is closed from now on, on disk, too.
 * 1; 0: it was already; -ENOSPC: no more can be remembered, so it must not begin. A pull that brings nothing and had closed it
 * opens it again. */
int image_note_pulling(struct image_pulls *p, const struct image_ref *ref, struct err *err);
void image_note_failed(struct image_pulls *p, const struct image_ref *ref);
/* The owner has pulled it, so that it is open to him. */
void image_note_pulled(struct image_pulls *p, const char *owner, const struct image_ref *ref);

/* Whether the policy takes any image of that name; where not, only one that image_pull() answered is to be run. */
bool image_policy_is_open(const struct image_pulls *p, const struct image_ref *ref);

/* What the owner has kept for that registry: true with both appended. */
bool image_login_kept(const struct image_pulls *p, const char *owner, const char *registry, struct str *username,
                      struct str *password);

bool image_pulls_enabled(const struct image_pulls *p); /* registries may be asked at all */
