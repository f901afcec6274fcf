/* The image store: an OCI image layout (image-spec, image-layout.md) for blobs and names, and through the workers one
 * merged read-only tree per image. One thread owns it; hashing and copying go to work threads of the loop. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "image/worker.h"
#include "loop/loop.h"
#include "json/json.h"

#include <stdbool.h>
#include <stdint.h>

struct image_store;

struct image_store_config {
        const char *dir;            /* of the layout; made if absent */
        uint64_t max_layer_bytes;   /* unpacked; 0: 64 GiB */
        uint64_t max_layer_entries; /* 0: 2,000,000 */
        uint64_t max_archive_bytes; /* spooled by load and import; 0: 64 GiB */
        unsigned parallel;          /* operations that unpack, at once; 0: 4 */
        /* Automatic collection, in percent of the file systems of `dir` and `trees_dir` that are used, blocks or inodes: above
         * high_water images go, the least recently used first, down to low_water. 0: never. */
        unsigned high_water, low_water;
        uint64_t keep_for_ms;  /* what came within this time is not collected */
        const char *trees_dir; /* where the workers keep layers and trees, to ask its file system; NULL: as dir */
};

enum image_source { IMAGE_FROM_UNKNOWN, IMAGE_FROM_PULL, IMAGE_FROM_LOAD, IMAGE_FROM_IMPORT, IMAGE_SOURCES };
extern const char *const image_sources[]; /* "unknown", "pull", "load", "import" */

/* One image, immutable but for names, pin and times; peek, valid until the loop's next turn (copy what is kept). */
struct image {
        char digest[80]; /* sha256:… of the manifest: the image's name */
        char config_digest[80];
        char tree[65]; /* name of its tree in the launcher's store */
        char created[40];
        char architecture[32], os[32], variant[32];
        char **entrypoint, **cmd, **env; /* NULL where the image has none */
        char *workdir, *user;            /* "" where none */
        char stop_signal[32];
        char **names;       /* normalised references, NULL-terminated */
        uint64_t size;      /* bytes of config and layers as stored */
        char (*layers)[65]; /* diff_ids, lowest first */
        size_t n_layers;
        json_t *config; /* the whole configuration, for inspect */
        enum image_source source;
        bool pinned;      /* kept from collection and removal */
        bool lost;        /* its names were, with the index: without a name it is of those alone who may use all */
        bool broken;      /* a blob of it is damaged or missing: whoever needs it has to bring it again */
        uint64_t came_ms; /* of the real clock, when it came; 0: not known */
        uint64_t used_ms; /* when a task was last started from it, or it came */
};

/* A layer of an image, lowest first. */
struct image_layer_info {
        char digest[80], diff_id[80]; /* sha256:…, of the blob and of what it holds */
        char media_type[128];
        uint64_t size;    /* of the blob */
        int64_t unpacked; /* bytes of its files; -1: not known */
        unsigned sharing; /* other images that have it */
};
/* For whom it is told: images that he may not see are as good as not there. may: NULL: all are. */
struct image_audience {
        bool (*may)(const struct image *image, void *data);
        void *data;
};
/* False after the last. */
bool image_store_layer_info(struct image_store *s, const struct image *image, size_t i,
                            const struct image_audience *who, struct image_layer_info *ret);

struct image_bytes {
        uint64_t shared, unique;  /* of blobs, that other images need too, and that none does */
        uint64_t unpacked, freed; /* of layers' files; what of blobs and files comes back when it alone goes */
};
int image_store_bytes(struct image_store *s, const struct image *image, const struct image_audience *who,
                      struct image_bytes *ret); /* -ENOMEM */

/* Opens or makes the layout; repairs what a crash left (temporary files, names of missing blobs: logged). Blocks on a
 * few small files; call before the loop serves. `workers` is borrowed. */
int image_store_open(struct loop *loop, const struct image_store_config *config, const struct image_workers *workers,
                     struct image_store **ret, struct err *err);
/* Operations that wait are forgotten; the next open cleans up after them. One that a work thread has in hand keeps the
 * store's memory until the loop hears of its end. Accepts NULL. */
void image_store_close(struct image_store *s);

/* Removes layers and trees that no image names; once, when the workers can be reached. */
int image_store_sweep(struct image_store *s, image_done_fn fn, void *data, struct err *err);

/* By reference, by digest, or by a unique prefix of at least 4 digits of its hex. NULL: not found (err: -EINVAL text for
 * a bad reference, ambiguous prefix). */
const struct image *image_store_find(struct image_store *s, const char *ref, struct err *err);
const struct image *image_store_by_digest(struct image_store *s, const char *digest);
const struct image *image_store_next(struct image_store *s, size_t *pos); /* iteration; NULL at the end */

/* An archive that comes in pieces (HTTP body). The sink spools it to disk; finish() starts the work. A failure or a
 * discard leaves no trace. */
struct image_sink;
enum image_sink_kind { IMAGE_IMPORT, IMAGE_LOAD, IMAGE_BUILTIN }; /* BUILTIN: an import by Mayfly itself */
typedef void (*image_loaded_fn)(int r, const char *const *digests, size_t n, const struct err *err, void *data);

/* ref: for IMPORT, the name to give (with a tag). changes: NULL-terminated Dockerfile lines of `docker import --change`
 * (CMD ENTRYPOINT ENV EXPOSE LABEL STOPSIGNAL USER VOLUME WORKDIR), for IMPORT. */
int image_sink_open(struct image_store *s, enum image_sink_kind kind, const char *ref, char *const *changes,
                    struct image_sink **ret, struct err *err);
/* On any thread, one at a time; also after the store was closed, when nothing but a discard may follow. -EFBIG, -ENOSPC. What
 * failed may be written once more, as if nothing of it had been. */
int image_sink_write(struct image_sink *sink, const void *data, size_t len, struct err *err);
/* On the loop, when a write met a full disk: images are collected (image/prune.h), once for a sink. r 0: write it again; fn comes
 * once, later, unless the sink is discarded or the store closed. -ENOSPC at once: it was done before, or nothing is ever
 * collected. */
int image_sink_make_room(struct image_sink *sink, image_done_fn fn, void *data, struct err *err);
/* Takes the sink. r: -EBADMSG bad archive, -ENOSPC, … */
int image_sink_finish(struct image_sink *sink, image_loaded_fn fn, void *data, struct err *err);
void image_sink_discard(struct image_sink *sink); /* takes; accepts NULL */

/* Whether an owner may give that name; asked on the loop, when the name is about to be given. Without a rule everybody may give
 * all. */
typedef bool (*image_may_name_fn)(const char *owner, const char *name, void *data);
void image_store_set_may_name(struct image_store *s, image_may_name_fn fn, void *data); /* NULL: no rule */
/* What comes gets its names from this owner; NULL: from one who may give all, as without this call. -EPERM: not the name of the
 * import; finish() tells that of others. -ENOMEM. */
int image_sink_own(struct image_sink *sink, const char *owner, struct err *err);

/* Images that are part of Mayfly have names of IMAGE_BUILTIN_DOMAIN, which nobody else can give, and are not removed. */
bool image_is_builtin(const struct image *image);

/* Removes a name, or by digest the image with all its names; the tree and what no other image needs go with the last
 * name. What `ref` means is decided now: -ENOENT, also later, where it means another image by then. -EBUSY while a container uses
 * it or it is pinned, -EPERM: it is part of Mayfly. */
int image_store_remove(struct image_store *s, const char *ref, image_done_fn fn, void *data, struct err *err);

/* Gives an image one more name, which then means it and no other. -ENOENT, -EINVAL; -EPERM: the name is reserved. */
int image_store_tag(struct image_store *s, const char *ref, const char *name, image_done_fn fn, void *data,
                    struct err *err);
/* The same for an owner, as image_sink_own(). */
int image_store_tag_by(struct image_store *s, const char *owner, const char *ref, const char *name, image_done_fn fn,
                       void *data, struct err *err);
/* Keeps it from collection and removal, or not any more. On disk when fn is told. -ENOENT. */
int image_store_pin(struct image_store *s, const char *ref, bool pinned, image_done_fn fn, void *data, struct err *err);

/* A task starts from it. Costs nothing: what is noted goes to disk at most once a minute, and with the store's end. */
void image_store_touch(struct image_store *s, const struct image *image);

/* The user that `user` ("", "name", "uid", "name:group", "uid:gid") means in this image, from the image's own passwd and
 * group as read when it was unpacked: runc's rules (libcontainer/user.GetExecUser), ids at most 65535. */
struct image_user {
        uint32_t uid, gid;
        uint32_t groups[64];
        size_t n_groups;
        char home[256];
};
int image_user_resolve(struct image_store *s, const struct image *image, const char *user, struct image_user *ret,
                       struct err *err);
