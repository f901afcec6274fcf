/* Inside of the image store: what it holds in memory, and its operations.
 *
 * An operation is a list of steps. Each does something, or starts something that ends in op_wake():
 *
 *        op_add()        ┌──────────── STEP_NEXT ────────────┐
 *   ───▶ QUEUED ───▶ step ├─ STEP_WAIT ─▶ op_wake() ─▶ next ──┤──▶ last step ──▶ told, freed
 *                         ├─ STEP_AGAIN ▶ op_wake() ─▶ same ──┤
 *                         └─ op_wait() ─▶ it is free ▶ same ──┘
 *        any failure ──▶ the steps of clean-up (op_clean_steps; op_sweep_steps after a removal) ──▶ told, freed
 *
 * Whatever an operation left behind that no image names is collected, so a refused archive leaves no trace.
 *
 * Operations run side by side. Those that unpack (`heavy`) are at most config.parallel at once, the others begin in the next
 * turn. What keeps them from each other's throats:
 *   - Steps run on the loop, so that what one of them decides and sends is not interrupted. Work (op_work()) touches what its
 *     op owns, and the layout, which bears several threads.
 *   - The index is one operation's from step_lock_index to step_unlock_index: images in memory and index.json change there
 *     only.
 *   - Collecting is one operation's from step_lock_collect to its end. It spares what is named by images, holds, claims and
 *     the operations that run (op->images, op->diff_id, op->name): an operation names what it needs before it looks whether
 *     it is there.
 *   - Blobs that an operation stores by op->layout are claimed for it until they are in the index.
 *   - Who unpacks a layer from a blob or merges a tree owns it (op_claim()) until it is committed or the operation fails; others
 *     that need it of the same blob wait for that. All are told what has come (op_announce()). */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "base/vec.h"
#include "image/archive.h"
#include "image/layout.h"
#include "image/manifest.h"
#include "image/prune.h"
#include "image/store.h"

#define IMAGE_QUEUE 2       /* of the loop's work threads: what is short */
#define IMAGE_HEAVY_QUEUE 4 /* and IMAGE_HEAVY_QUEUES - 1 more: hashing and copying */
#define IMAGE_HEAVY_QUEUES 4
#define IMAGE_INDEX_ENTRIES_MAX 100000
/* Annotations in index.json; times are milliseconds of the real clock. */
#define IMAGE_NOTE_CAME "internal.mayfly.came"
#define IMAGE_NOTE_SOURCE "internal.mayfly.source"
#define IMAGE_NOTE_PINNED "internal.mayfly.pinned"
#define IMAGE_NOTE_BROKEN "internal.mayfly.broken"
#define IMAGE_NOTE_LOST "internal.mayfly.lost"
#define IMAGE_NOTE_CHECK "internal.mayfly.check" /* of an entry: its digest; of the index: that all entries have one */
#define LAYER_PAIR_MAX (IMAGE_DIGEST_MAX + 66)

/* An image with what struct image only points to. */
struct stored {
        struct image image;
        struct image_descriptor manifest;
        struct image_manifest parts;
        struct image_config config;
        char *passwd, *group; /* NULL where the image has none */
};

struct stored_list {
        struct stored **items;
        size_t len, cap;
};
int stored_list_add(struct stored_list *l, struct stored *image); /* takes it, also on failure; -ENOMEM */
void stored_list_done(struct stored_list *l);

/* Layers that a pull has in hand: they are not collected, and each counts as seen once it was unpacked from its blob. */
struct image_hold {
        struct list node;
        struct map *diff_ids, *pairs; /* hex; "blob diff_id" */
        struct map *blobs;            /* hex; of an archive that goes out (save.h), which frees it; NULL: none */
};

struct image_room { /* who waits for it */
        struct list node;
        image_done_fn fn;
        void *data;
};

struct image_pressure {
        struct loop_timer timer;
        struct list rooms;
        bool running, settling;
        unsigned percent_before;
        size_t removed; /* by the last round; what was to come back by it; bytes used before it, and since */
        uint64_t expected, used_before, used_last;
        struct image_prune_result left;
        uint64_t settle_ns;
        char fault[200];
};

struct image_store {
        struct loop *loop;
        struct image_store_config config;
        struct image_workers workers;
        struct image_layout layout;
        struct stored_list images;
        struct list ops, holds, sinks;
        struct list lingering;  /* ended while somebody collected */
        struct loop_timer tick; /* looks which operations may go on */
        struct loop_timer rest; /* collects what a clean-up had to leave… */
        uint64_t rest_ns;       /* …after so long; 0: there is nothing */
        uint64_t last_seq;
        unsigned next_queue;
        const struct op *indexing, *collecting; /* who has the index; who collects */
        const struct op *leaver;                /* whose failure or end brings back, or takes, what is leaving */
        struct map *layer_bytes;                /* hex of diff_ids: struct layer_bytes */
        struct loop_timer usage_timer;
        struct list prunes;
        struct verify *verify; /* under way; NULL: none */
        bool verify_ends;
        char **repairs; /* what was mended since it was opened */
        struct image_pressure pressure;
        image_users_fn users;
        void *users_data;
        image_may_name_fn may_name; /* NULL: everybody may give all */
        void *may_name_data;
        bool usage_dirty;
        uint64_t usage_ns;            /* when it was written last */
        const struct stored *leaving; /* its tree is gone, and it will be soon: nobody finds it */
        bool closed;                  /* but for what operations are owed */
};

struct layer_bytes {
        uint64_t bytes, entries; /* of the files of a layer, as it was unpacked */
};

/* usage.c: what is kept beside the index, and may be lost: when images were used, and how large layers are. */
int usage_load(struct image_store *s); /* -ENOMEM */
void usage_close(struct image_store *s);
void usage_changed(struct image_store *s);
void usage_note_layer(struct image_store *s, const char *diff_id, uint64_t bytes, uint64_t entries); /* hex */
const struct layer_bytes *usage_layer(const struct image_store *s, const char *diff_id); /* NULL: not known */

/* index.c: images as index.json names them. One that is damaged is kept aside, and what its blobs still tell is made of it. */
int index_load(struct image_store *s, struct err *err);
/* The digest of an entry's JSON without its IMAGE_NOTE_CHECK. */
int index_check(const json_t *entry, char digest[IMAGE_DIGEST_MAX], struct err *err);
int index_text(struct op *op); /* collect.c: of all images, and what the operation changes, into op->text; -ENOMEM */

void verify_close(struct image_store *s); /* verify.c */
void store_note_repair(struct image_store *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void prune_close(struct image_store *s);                           /* prune.c */
int prune_in_use(const struct image_store *s, const char *digest); /* 1: some task needs it now; -ENOMEM */
void pressure_start(struct image_store *s);
/* As image_store_make_room(); who waits may leave, until it is told. */
int room_wait(struct image_store *s, image_done_fn fn, void *data, struct image_room **ret, struct err *err);
void room_leave(struct image_room *room); /* accepts NULL */
int step_tell_sweep(struct op *op);
bool sweep_skip(struct op *op, int r); /* collect.c: one image that cannot be made again must not keep others from it */
int step_collect_partials(struct op *op);

/* account.c: a map of all that images need, each with how many need it, and what it weighs. */
/* ret_sum: the weight of all, or NULL. -ENOMEM; the caller owns *ret: account_done() */
int account_new(const struct image_store *s, struct map **ret, uint64_t *ret_sum);
void account_done(struct map *m);                                                          /* accepts NULL */
uint64_t account_take(const struct image_store *s, struct map *m, const struct stored *i); /* what that frees */
uint64_t account_layer(const struct image_store *s, const char *diff_id, uint64_t blob);

/* From blobs; `users` is the report of MERGE or NULL. */
int stored_new(const struct image_layout *l, const struct image_descriptor *manifest, struct stored **ret,
               struct err *err);
void stored_free(struct stored *i); /* accepts NULL */
int stored_set_users(struct stored *i, const char *report, size_t len, struct err *err);

enum step { STEP_NEXT = 0, STEP_WAIT, STEP_AGAIN }; /* or -errno with op->err */

struct layer_flow;
struct op;
typedef int (*op_step)(struct op *op);

struct op {
        struct list node;
        struct image_store *store;
        const op_step *steps; /* NULL-terminated */
        size_t at;
        bool heavy, running;
        bool (*free)(const struct op *op); /* what it waits for; NULL: not for others */
        uint64_t seq;
        unsigned queue;             /* of its work */
        struct image_layout layout; /* by which it stores: what it stores is claimed; a view, nothing of it is owned */
        enum image_kind claim_kind; /* of claim */
        char claim[65];             /* the layer or tree that it makes; "": none */
        char claim_of[IMAGE_DIGEST_MAX];
        enum image_kind wants_kind; /* and what it asked for last */
        char wants[65], wants_of[IMAGE_DIGEST_MAX];
        enum step waiting;
        int result;
        struct err err; /* of the failure that is told */
        bool cleaning;
        bool rests;                  /* something could not be taken away */
        enum image_kind verify_kind; /* VERIFY: of op->name */
        char **broken;               /* BREAK: digests of images */
        bool roomed;                 /* the disk was full, and room was made once */
        char again[65];              /* SWEEP: whose worker died once, and is started once more */
        bool stale; /* a layer of the tree that it merges was replaced meanwhile: it merges once more */

        image_loaded_fn loaded; /* one of the two */
        image_done_fn done;
        void *data;

        int archive, plain, report; /* files without a name */
        uint64_t archive_size;
        char *namer; /* in whose name names are given; NULL: of one who may give all */
        char *ref;   /* IMPORT: the name; REMOVE, TAG, PIN: what was asked for */
        char *tag;   /* TAG: the name to give */
        enum image_source source;
        bool pin;     /* PIN: whether */
        bool pruning; /* REMOVE: only what nobody has used or pinned since then; collects nothing */
        uint64_t planned_ms;
        size_t planned_names; /* it had */
        char **changes;
        struct image_descriptor layer; /* IMPORT */
        char diff_id[65];              /* of the plain bytes of `layer`, as hashed here */
        struct image_found_list found;
        struct stored_list images; /* that this operation adds */
        struct stored_list fresh;  /* filled by op_work(), and then images: others look at those meanwhile */
        struct map *layers, *trees, *verified; /* present in the launcher's store; "blob diff_id" seen to fit */
        struct map *keep_blobs, *keep_trees;   /* what collecting spares */
        struct layer_flow *flow;               /* of `layer`, under way; NULL: none */
        bool *came;                            /* FEED: all of `layer` went into the pipe, and is right; NULL: a file */
        uint32_t token;
        struct str text;                  /* of a file that is being written */
        char name[65];                    /* of the layer or tree in hand */
        char looked_at[IMAGE_DIGEST_MAX]; /* REMOVE: the image that was meant when it was asked for */
        struct image_descriptor target;   /* REMOVE: manifest */
        bool whole;                       /* REMOVE: the image, not only a name */
        bool more;                        /* of names in a listing */
        unsigned made[2], dropped[2];     /* SWEEP: layers, trees */
        int work_result;
        struct err work_err;
        struct image_hold *hold;     /* of a pull; borrowed */
        struct image_manifest parts; /* PULL: partials that become blobs; without a hold blobs that have to be here */
        bool owed;                   /* a call of the loop: a work thread has it, or the next turn begins it */
        int (*work)(struct op *op, struct err *err);
};

struct op *op_new(struct image_store *s, const op_step *steps, bool heavy); /* NULL: out of memory */
void op_free(struct op *op);
void op_add(struct op *op); /* takes it */
/* The step begins anew once `free` says so, which is asked whenever an operation has ended or given something up. Answers
 * what the step has to. */
int op_wait(struct op *op, bool (*free)(const struct op *op));
/* Makes the layer or tree its own, until op_announce(), op_unclaim(), the next claim or its end. False: it is another's, and
 * the step has to answer op_wait(op, op_claimable), which waits for exactly that. */
bool op_claim(struct op *op, enum image_kind kind, const char *name);
/* The same, but whoever makes the layer of another blob does that beside it: what somebody says of his own blob, which may unpack
 * for long, and to something else, holds up nobody's. */
bool op_claim_layer(struct op *op, const char *diff_id, const char *blob);
bool op_claimable(const struct op *op);
void op_unclaim(struct op *op);
/* Tells all that are running that what it claimed is there: they find it in op->layers or op->trees. pair: of the layer, or
 * NULL. -ENOMEM. */
int op_announce(struct op *op, const char *pair);
void op_wake(struct op *op, int r, const struct err *err);
int op_work(struct op *op, int (*work)(struct op *op, struct err *err)); /* on a work thread, then op_wake() */
/* First of all in such a call. True: the store was closed meanwhile, and has gone now, and the operation with it. */
bool op_is_late(struct op *op);
int op_out_of_memory(struct op *op);
bool op_is_passing(int r); /* a failure of the moment, which says nothing of an image */

/* Steps, in the files that are named. */
extern const op_step op_layer_steps[], op_feed_steps[], op_pull_steps[];
extern const op_step op_load_steps[], op_import_steps[], op_remove_steps[], op_sweep_steps[], op_clean_steps[];
extern const op_step op_tag_steps[], op_pin_steps[], op_usage_steps[], op_take_out_steps[], op_collect_steps[];

int step_lock_index(struct op *op); /* operation.c */
int step_unlock_index(struct op *op);
int step_lock_collect(struct op *op);

int step_index(struct op *op); /* install.c */
int step_read_archive(struct op *op);
int step_import_blob(struct op *op);
int step_import_plain(struct op *op);
int step_import_hash(struct op *op);
int step_import_some(struct op *op);
int step_import_unpack(struct op *op);
int step_import_commit(struct op *op);
int step_import_image(struct op *op);
int step_prepare(struct op *op);
int step_list_layers(struct op *op);
int step_list_trees(struct op *op);
int step_unpack(struct op *op);
int step_merge(struct op *op);
int step_write_index(struct op *op); /* collect.c */
int step_publish(struct op *op);
int step_repair(struct op *op);
int step_tag(struct op *op);
int step_pin(struct op *op);
int step_publish_pin(struct op *op);
int step_write_usage(struct op *op); /* usage.c */
int step_remove_tree(struct op *op); /* collect.c */
int step_remove_name(struct op *op);
int step_delete_trees(struct op *op);
int step_delete_layers(struct op *op);
int step_collect_blobs(struct op *op);

int step_names(struct op *op);                                            /* naming.c */
int naming_check(const struct op *op, const char *name, struct err *err); /* -EPERM: it is not op->namer's to give */

int step_pull_manifest(struct op *op); /* install_pull.c */
int step_layer(struct op *op);
int step_feed(struct op *op);

int op_report(struct op *op); /* install.c: a fresh op->report; and its text, as a worker wrote it */
int op_read_report(struct op *op, struct str *ret, struct err *err);
int op_worker_error(struct op *op, int r, const struct err *err); /* into op->err */
void op_wake_failed(struct op *op, int r, const struct err *err); /* with the worker's own words, if it has some */
bool layer_missing(const struct op *op, const char *blob, const char *diff_id); /* install.c */
void layer_pair_key(const char *blob, const char *diff_id, char out[LAYER_PAIR_MAX]);
int layer_plain_start(struct op *op, int blob); /* 1: op_wake() follows; 0: done already; -errno */
/* From op->layer's blob to the layer op->name, which is committed then; op_wake() follows, or -errno. */
int layer_start(struct op *op, int blob);
int layer_feed(struct op *op, int pipe); /* as layer_start(), out of a pipe */
void layer_flowed(struct op *op, int r); /* what layer_flow_start() made has come to its end, under op->token */
int layer_flow_start(struct op *op, int blob, uint64_t max); /* layer_flow.c */
void layer_flow_free(struct layer_flow *f);                  /* accepts NULL */

struct stored *store_find_digest(const struct image_store *s, const char *digest);
