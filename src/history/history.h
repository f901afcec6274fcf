/* History: ended tasks and their output, the idempotency keys that lead to them, and the requests that were accepted and
 * have not ended yet. SQLite in WAL mode, on one queue of the loop's workers; writes go in groups: those of results without
 * fsync, those of requests with one for all of a group. What is deleted is overwritten. A database of a newer version is
 * refused, an older one migrated. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct history;

struct history_config {
        const char *path;
        uint64_t max_tasks;  /* 0: 100,000 */
        uint64_t max_bytes;  /* of output; 0: 1 GiB */
        uint64_t max_age_ms; /* 0: 7 days */
        uint64_t max_keys;   /* idempotency keys; 0: 1,000,000 */
};

#define HISTORY_KEY_MS (24 * UINT64_C(3600000))    /* how long an idempotency key is kept */
#define HISTORY_QUEUE_MAX (64 * UINT64_C(1048576)) /* bytes of records that wait for their commit */

/* Blocks; before the loop serves. -ENOTSUP: the database is of a newer version; -EBADMSG: it is no database, or damaged. */
int history_open(struct loop *loop, const struct history_config *config, struct history **ret, struct err *err);
/* Writes what waits, turning the loop until that is done, so not from within a callback. No callback of this module runs
 * any more. Accepts NULL. */
void history_close(struct history *h);
/* Starts writing what waits now and not some milliseconds later. */
void history_flush(struct history *h);

/* One ended task. `document` is the task's answer without its streams, as the task module wrote it (JSON); the columns
 * beside it are what lists filter by. */
struct history_record {
        char id[32];
        char *owner;
        char *status, *image;
        uint64_t created_ms, finished_ms;
        struct str document;
        struct str out[2];
        struct str times;      /* when output came: times_write(); empty: all at the end */
        struct str outputs;    /* the files that were brought back, a JSON array; empty: none */
        bool out_borrowed;     /* of history_add(): out and outputs are the caller's, unchanged until fn was called */
        char **labels;         /* "name=value"; of history_add() only; NULL: none */
        bool accepted;         /* of history_add(): there may be a request of that id, which goes */
        char *idempotency_key; /* NULL: none */
        uint8_t body_hash[32]; /* SHA-256 of the request's body, with the key */
};
void history_record_done(struct history_record *r);

typedef void (*history_done_fn)(int r, const struct err *err, void *data);

/* Takes the record (its contents) on success. fn after the commit of its group; r < 0: it is not stored. A record whose id
 * is there already changes nothing and is a success. The queue is bounded by HISTORY_QUEUE_MAX: -EAGAIN. */
int history_add(struct history *h, struct history_record *record, history_done_fn fn, void *data, struct err *err);

/* ── accepted requests ── */

/* A request that has its place on disk before it is answered. `sealed` is opaque, and encrypted by whoever made it. */
struct history_request {
        char id[32];
        char *owner;
        char *idempotency_key; /* NULL: none */
        uint8_t body_hash[32];
        uint64_t created_ms;
        uint64_t started;  /* it was about to be started, or more: what history_started() was given; 0: it was not */
        unsigned attempts; /* how often */
        struct str sealed;
};
void history_request_done(struct history_request *q);

/* Takes the request (its contents) on success. fn after its group's fsync; r < 0: it is not there. -EAGAIN as history_add().
 * One whose id is there already is replaced; one that has its record already (history_add()) changes nothing. */
int history_accept(struct history *h, struct history_request *q, history_done_fn fn, void *data, struct err *err);

/* Before the start of an accepted task, by what runs it (not 0; opaque): fn after the fsync. A request that is not there is a
 * success. */
int history_started(struct history *h, const char *id, uint64_t by, unsigned attempts, history_done_fn fn, void *data,
                    struct err *err);

/* It is not to be, after all (the client hung up before it was answered). */
int history_drop(struct history *h, const char *id, history_done_fn fn, void *data, struct err *err);

/* All that were accepted and have not ended, in the order of their ids. The receiver may take what it wants of them. */
typedef void (*history_requests_fn)(int r, struct history_request *requests, size_t n, const struct err *err,
                                    void *data);
int history_requests(struct history *h, history_requests_fn fn, void *data, struct err *err);

/* ── reading ── */

/* r: 0 or -ENOENT. The record is the receiver's for the call. owner NULL: any. */
typedef void (*history_record_fn)(int r, struct history_record *record, const struct err *err, void *data);
int history_get(struct history *h, const char *id, const char *owner, history_record_fn fn, void *data,
                struct err *err);
int history_find_key(struct history *h, const char *owner, const char *key, history_record_fn fn, void *data,
                     struct err *err); /* keys older than 24 h are gone; -ESTALE: only its task's record is */

/* Removes the record of an ended task, and its output; its idempotency key is answered with -ESTALE from then on. After the
 * commit: r 0, or -ENOENT. owner NULL: any. */
int history_delete(struct history *h, const char *id, const char *owner, history_done_fn fn, void *data,
                   struct err *err);

#define HISTORY_LABELS_MAX 8 /* of one query */

struct history_query {
        const char *owner;                          /* NULL: any */
        const char *status, *image;                 /* NULL: any */
        uint64_t since_ms, until_ms;                /* of creation; 0: any */
        const char *labels[HISTORY_LABELS_MAX + 1]; /* "name=value", all of them; ends with NULL */
        const char *before;                         /* cursor: ids below this one; NULL: newest first from the top */
        unsigned limit;                             /* 1 to 1000 */
};
typedef void (*history_list_fn)(int r, const struct history_record *records, size_t n, bool more, const struct err *err,
                                void *data); /* without streams */
int history_list(struct history *h, const struct history_query *q, history_list_fn fn, void *data, struct err *err);
