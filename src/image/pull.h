/* Pulls: an image that is asked for becomes present, once however many ask.
 *
 *   want ─┐                    ┌──────── the same owner, reference and credentials share a pull
 *   want ─┴▶ pull: RESOLVE ─▶ CHOOSE ─▶ TRUST ─▶ FETCH ─▶ answered
 *              │ (HEAD: PROVE)             │
 *              ▼                           ▼  the same manifest and name share a job, whoever asks
 *        whether the owner may      job: CONFIG ─▶ LAYERS ─▶ INSTALL ─▶ done
 *                                          │          │ each layer: unpacked while the next comes
 *                                          ▼          ▼
 *                                   blob: QUEUED ─▶ OPENING ─▶ LOADING ─▶ READY     shared by all jobs; at most `parallel` at once
 *
 * A blob's bytes go to a file that outlives the daemon, are hashed as they come, and count for nothing until their digest
 * is right. What nobody wants any more ends; what it brought stays for the next. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "image/registry.h"
#include "image/store.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct image_pulls;
struct image_want;

struct image_pulls_config {
        struct image_store *store; /* both borrowed */
        struct registries *registries;
        const struct trust *trust; /* whom images must come from; borrowed; NULL: anybody */
        /* What an owner has kept for a registry, for requests without credentials: true with both appended. NULL: nothing. */
        bool (*kept)(const char *owner, const char *registry, struct str *username, struct str *password, void *data);
        void *kept_data;
        unsigned parallel;       /* blobs at once */
        uint64_t proof_fresh_ms; /* how long a proof of access counts without asking again… */
        uint64_t proof_hold_ms;  /* …and while the registry cannot be asked */
        uint64_t tag_max_age_ms; /* a tag that was looked up longer ago is looked up again; 0: never by itself */
};

int image_pulls_new(struct loop *loop, const struct image_pulls_config *config, struct image_pulls **ret,
                    struct err *err);
void image_pulls_free(struct image_pulls *p); /* before the store is closed; answers nobody; accepts NULL */

enum image_pull_policy { IMAGE_PULL_MISSING, IMAGE_PULL_ALWAYS, IMAGE_PULL_NEVER };

enum image_layer_state { LAYER_WAITS, LAYER_COMES, LAYER_IS_HERE, LAYER_UNPACKS, LAYER_READY, LAYER_STATES };
extern const char *const image_layer_states[]; /* "waiting", "downloading", "downloaded", "unpacking", "ready" */

struct image_layer_progress {
        char digest[IMAGE_DIGEST_MAX];
        uint64_t size, done; /* bytes */
        enum image_layer_state state;
        bool was_here; /* nothing of it was downloaded */
};

/* Of a pull; peek. */
struct image_pull_progress {
        const char *ref, *owner;
        uint64_t begun_real_ms;
        uint64_t done, total; /* bytes of configuration and layers; total 0: not known yet */
        const struct image_layer_progress *layers;
        size_t n_layers;
        bool installing; /* all is here, and becomes an image */
};

struct image_pull_result {
        char ref[REF_TEXT_MAX]; /* normalised, or the digest that was asked for */
        char digest[IMAGE_DIGEST_MAX];
        bool pulled;            /* something was downloaded, or a name was moved */
        unsigned retry_after_s; /* of -EBUSY; 0: not said */
};

/* r: -EINVAL no reference; -ENOENT unknown; -EACCES not this owner's; -EHOSTUNREACH unreachable, or it misbehaves; -EBUSY too
 * many requests; -EUCLEAN what is here of it is damaged, and is not to be pulled; -EBADMSG bytes that are not what was named; -EOPNOTSUPP no image that runs here; -EKEYREJECTED not as the policy wants it; -ENOSPC; -ENOMEM. The text
 * names registry, reference and layer. */
typedef void (*image_pulled_fn)(int r, const struct image_pull_result *result, const struct err *err, void *data);
typedef void (*image_progress_fn)(const struct image_pull_progress *p, void *data);

/* All is copied, but for what is on disk. */
struct image_pull_request {
        const char *ref, *owner;
        bool all; /* the owner may use whatever is present */
        enum image_pull_policy policy;
        const char *username, *password; /* NULL: what is kept for the owner */
        image_progress_fn progress;      /* at most some times a second, never after the answer; NULL: none */
};

/* fn is called once, later. */
int image_pull(struct image_pulls *p, const struct image_pull_request *request, image_pulled_fn fn, void *data,
               struct image_want **ret, struct err *err);
void image_pull_cancel(struct image_want *w); /* no call follows; the pull ends with the last who wants it */

/* Those under way; false at the end. *ret is a peek. */
bool image_pulls_next(struct image_pulls *p, size_t *pos, struct image_pull_progress *ret);

/* What is kept for the owner: true with both set, the caller's, to be wiped. */
bool image_pulls_kept(const struct image_pulls *p, const char *owner, const char *registry, char **ret_username,
                      char **ret_password);

/* Whether the owner may use an image that is present, as far as is known without asking a registry. */
bool image_pulls_may_use(const struct image_pulls *p, const char *owner, const struct image *image);

/* Whether an image's name is one that the owner may be told: its repository is open, or he has shown that it is to him. */
bool image_pulls_may_know(const struct image_pulls *p, const char *owner, const char *name);
