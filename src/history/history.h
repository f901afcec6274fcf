/* History: ended tasks and their output, and the idempotency keys that lead to them. SQLite in WAL mode, on one queue of
 * the loop's workers; writes go in groups. A database of a newer version is refused, an older one migrated. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct history;

struct history_config {
        const char *path;
        uint64_t max_tasks;     /* 0: 100,000 */
        uint64_t max_bytes;     /* of output; 0: 1 GiB */
        uint64_t max_age_ms;    /* 0: 7 days */
};

/* Blocks; before the loop serves. */
int history_open(struct loop *loop, const struct history_config *config, struct history **ret, struct err *err);
void history_close(struct history *h); /* writes what waits; blocks */

/* One ended task. `document` is the task's answer without its streams, as the task module wrote it (JSON); the columns
 * beside it are what lists filter by. */
struct history_record {
        char id[32];
        char *owner;
        char *status, *image;
        uint64_t created_ms, finished_ms;
        struct str document;
        struct str out[2];
        char *idempotency_key;          /* NULL: none */
        uint8_t body_hash[32];          /* SHA-256 of the request's body, with the key */
};
void history_record_done(struct history_record *r);

typedef void (*history_done_fn)(int r, const struct err *err, void *data);

/* Takes the record (its contents). fn after the commit of its group; r < 0: it is not stored (and was logged). The queue
 * is bounded by bytes: -EAGAIN. */
int history_add(struct history *h, struct history_record *record, history_done_fn fn, void *data, struct err *err);

/* r: 0 or -ENOENT. The record is the receiver's for the call. owner NULL: any. */
typedef void (*history_record_fn)(int r, struct history_record *record, const struct err *err, void *data);
int history_get(struct history *h, const char *id, const char *owner, history_record_fn fn, void *data, struct err *err);
int history_find_key(struct history *h, const char *owner, const char *key, history_record_fn fn, void *data,
                     struct err *err); /* keys older than 24 h are gone */

struct history_query {
        const char *owner;              /* NULL: any */
        const char *status, *image;     /* NULL: any */
        uint64_t since_ms, until_ms;    /* of creation; 0: any */
        const char *before;             /* cursor: ids below this one; NULL: newest first from the top */
        unsigned limit;                 /* 1 to 1000 */
};
typedef void (*history_list_fn)(int r, const struct history_record *records, size_t n, bool more, const struct err *err,
                                void *data); /* without streams */
int history_list(struct history *h, const struct history_query *q, history_list_fn fn, void *data, struct err *err);
