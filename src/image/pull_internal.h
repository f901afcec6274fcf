/* What the files of pulls share. Everything moves in one place, pulls_tick(), which looks at what has changed: callbacks note
 * what happened and ask for it, so that none of them meets another half done. */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "image/access.h"
#include "image/install.h"
#include "image/pull.h"
#include "image/pull_source.h"
#include "image/pull_trust.h"

#include <openssl/evp.h>

#define DOWNLOAD_QUEUE 1 /* of the loop's work threads */
#define BLOB_BUFFER ((size_t)256 * 1024)
#define HASH_TURN (UINT64_C(32) << 20) /* bytes of what is found, then other blobs have their turn */

struct image_pulls {
        struct loop *loop;
        struct image_pulls_config config;
        struct access *access;
        struct trust_memory *trusted;
        struct list wants, pulls, jobs, blobs, feeds; /* wants: those that are answered at once */
        struct map *tops; /* "name": what the registry said its digest is, "digest manifest-digest when-ms" */
        unsigned active;  /* blobs that are being brought */
        bool ticking, again;
        struct loop_timer timer;
        struct loop_timer look; /* at how fast blobs come that could come from others, too */
};

struct credentials {
        char *username, *password;
        char key[65];
};
int credentials_copy(struct credentials *to, const char *username, const char *password, struct err *err);
void credentials_done(struct credentials *c);

/* pull_tops.c: what a tag meant last. `top`: the digest that the registry gave for it, of an index perhaps. */
void tops_note(struct image_pulls *p, const char *name, const char *top, const char *digest);
bool tops_is(const struct image_pulls *p, const char *name, const char *top,
             const char *digest);                                /* top leads to this image */
bool tops_is_old(const struct image_pulls *p, const char *name); /* it has to be asked for again */
/* Which top led to this image, so far as is known; else "". */
void tops_find(const struct image_pulls *p, const struct image_ref *ref, const char *digest,
               char out[IMAGE_DIGEST_MAX]);
void tops_free(struct map *tops);

/* ── feeds ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct blob;
struct feed;
struct job;

/* How fast bytes come: since some 250 to 500 ms. */
struct pace {
        uint64_t since, mark; /* bytes that were there… */
        uint64_t since_ns, mark_ns;
};

/* What is missing of `size` comes within so many seconds, at that pace. */
bool feed_ends_within(const struct pace *p, uint64_t bytes, uint64_t size, uint64_t now, unsigned seconds);
/* A feed is worth its places. bytes: that came; written: of these, in the file; crowded: others want the places. */
bool feed_pays(const struct pace *p, uint64_t written, uint64_t bytes, uint64_t size, uint64_t now, bool crowded);

void feed_look(struct job *job, size_t i); /* begins one of the layer, where it pays */
void feed_cancel(struct blob *b);          /* its bytes may be others from now on, or go; nothing without a feed */
bool feed_awaited(const struct blob *b, const char *diff_id); /* a feed makes this layer just now */
void feeds_tick(struct image_pulls *p);
void feeds_free(struct image_pulls *p); /* after jobs and blobs */

/* ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

enum blob_state { BLOB_QUEUED, BLOB_OPENING, BLOB_LOADING, BLOB_FINISHING, BLOB_READY, BLOB_FAILED };

struct blob {
        struct image_pulls *pulls; /* NULL: gone, while a work thread has the blob */
        struct list node;
        char digest[IMAGE_DIGEST_MAX]; /* with the size, which it is: who says another one is given another download */
        uint64_t size;
        unsigned users;
        struct sources sources;
        struct job *source; /* in whose name it is brought, or who is told that it is not; NULL: has left */
        enum blob_state state;
        struct registry_call *call;
        const struct image_layout *layout;
        struct image_layout view; /* of what a work thread needs of it: the store may be closed meanwhile */
        int fd;
        EVP_MD_CTX *md;
        uint64_t written; /* and hashed */
        uint64_t begun;   /* bytes that the disk has been told of */
        struct str filling, writing;
        bool busy, ended; /* a work thread has it; all has come */
        bool paused;
        bool roomed; /* the disk was full, and room was made once */
        bool was_here, downloaded;
        struct feed *feed; /* NULL: none */
        unsigned feeds;    /* that were begun */
        struct pace pace;
        bool spent; /* part of an image, or good for none: the partial goes */
        int work_result;
        struct err work_err, err;
        int result; /* of FAILED */
        unsigned retry_after_s;
};

int blob_want(struct image_pulls *p, struct job *job, const struct image_descriptor *d, struct blob **ret,
              struct err *err);
void blob_leave(struct blob *b, struct job *job);
void blobs_tick(struct image_pulls *p); /* begins, begins anew, frees */
void blobs_free(struct image_pulls *p);
uint64_t blob_done(const struct blob *b);

/* ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

enum job_state { JOB_CONFIG, JOB_LAYERS, JOB_INSTALL, JOB_DONE, JOB_FAILED };

struct job {
        struct image_pulls *pulls;
        struct list node;
        char *key, *owner; /* of whoever asked first */
        struct image_ref ref;
        char name[REF_TEXT_MAX];
        struct credentials credentials;
        bool closed; /* its repository */
        enum job_state state;
        unsigned users;
        struct str manifest;
        char media_type[IMAGE_MEDIA_MAX], digest[IMAGE_DIGEST_MAX];
        struct image_manifest parts;
        struct image_config config;
        struct blob *config_blob, **layer_blobs;
        struct image_layer_progress *layers;
        struct job_layer *ops; /* one a layer */
        unsigned ops_open;
        struct image_hold *hold;
        bool present; /* the image is there, and only gets a name */
        bool moved;   /* something came, or a name was given */
        int result;
        struct err err;
        unsigned retry_after_s;
};

struct job_layer {
        struct job *job;
        size_t i;
};

struct job_source {
        const struct image_ref *ref;
        const char *name, *owner;
        const struct credentials *credentials;
        bool closed;
        const char *manifest, *media_type, *digest;
        size_t len;
};

int job_get(struct image_pulls *p, const struct job_source *source, struct job **ret,
            struct err *err); /* one user more */
void job_leave(struct job *job);
void jobs_tick(struct image_pulls *p);
void jobs_free(struct image_pulls *p);
void job_progress(const struct job *job, struct image_pull_progress *ret);

void pulls_kick(struct image_pulls *p);
void pulls_save(struct image_pulls *p); /* the proofs, before what is installed next */
