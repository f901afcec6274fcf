/* Whether an image is what the policy (image/trust.h) wants, asked of its registry. What was found good once is remembered
 * on disk, trust.json, under the policy's fingerprint: with another policy, or another key, it is asked for again.
 *
 *   each digest, the index's before the manifest's:
 *      TAG ("sha256-….sig") ─▶ REFERRERS ─▶ FALLBACK ("sha256-…") ─▶ the next
 *       └─▶ PAYLOAD…             └─▶ ARTIFACT ─▶ PAYLOAD…
 *   then, where the index is not known, INDEX: what the tag leads to now, if that holds this manifest */
#pragma once

#include "base/err.h"
#include "image/registry.h"
#include "image/trust.h"
#include "loop/loop.h"

struct trust_memory;
struct trust_check;

/* Borrows loop, trust, registries and the directory. Damaged or of another policy: nothing is remembered. -ENOMEM. */
int trust_memory_open(struct loop *loop, int dirfd, const struct trust *trust, struct registries *registries,
                      struct trust_memory **ret, struct err *err);
void trust_memory_free(struct trust_memory *m); /* accepts NULL */

/* All is copied. */
struct trust_question {
        const struct image_ref *ref; /* its domain is empty where the image has no name */
        const char *digest, *top;    /* the manifest's; the index's, or the same again; "": not known */
        const char *username, *password;
};

/* 0: it is good. 1: only the registry can tell. -EKEYREJECTED with a text. */
int trust_glance(const struct trust_memory *m, const struct trust_question *q, struct err *err);

/* r: 0; -EKEYREJECTED; or why the registry did not say (image/registry.h). */
typedef void (*trust_checked_fn)(int r, unsigned retry_after_s, const struct err *err, void *data);
/* After a glance that said 1. fn is called once, later. */
int trust_check_start(struct trust_memory *m, const struct trust_question *q, trust_checked_fn fn, void *data,
                      struct trust_check **ret, struct err *err);
void trust_check_cancel(struct trust_check *c); /* no call follows */
