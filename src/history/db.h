/* The database of the history: one connection, used by one thread at a time. Everything here blocks on the disk. */
#pragma once

#include "base/err.h"
#include "history/history.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct history_db;

/* Opens or makes it, and migrates an older one. Errors as history_open(). */
int history_db_open(const char *path, struct history_db **ret, struct err *err);
void history_db_close(struct history_db *db); /* accepts NULL */

uint64_t history_record_size(const struct history_record *r); /* bytes that it takes */

enum history_write { HISTORY_ADD, HISTORY_ACCEPT, HISTORY_STARTED, HISTORY_DROP, HISTORY_DELETE };

/* One change. */
struct history_change {
        enum history_write kind;
        struct history_record record;   /* ADD; of DELETE id, and owner or NULL */
        struct history_request request; /* ACCEPT; of STARTED id, started, attempts; of DROP id */
        int r;                          /* of DELETE: 0 or -ENOENT */
};

/* All of them in one transaction, in their order, or none; `durable`: with an fsync before it answers. Records and requests
 * are as history.h says. */
int history_db_write(struct history_db *db, struct history_change *const *changes, size_t n, bool durable,
                     struct err *err);

/* Overwrites what deleted rows have left in the log. */
int history_db_checkpoint(struct history_db *db, struct err *err);

/* The caller owns *ret, an array of *ret_n: history_requests_free(). */
int history_db_requests(struct history_db *db, struct history_request **ret, size_t *ret_n, struct err *err);
void history_requests_free(struct history_request *requests, size_t n);

/* -ENOENT. The caller owns what *ret holds: history_record_done(). owner NULL: any. */
int history_db_get(struct history_db *db, const char *id, const char *owner, struct history_record *ret,
                   struct err *err);
/* Keys of tasks made before since_ms do not count. */
int history_db_find_key(struct history_db *db, const char *owner, const char *key, uint64_t since_ms,
                        struct history_record *ret, struct err *err);

/* The caller owns *ret, an array of *ret_n records: history_records_free(). */
int history_db_list(struct history_db *db, const struct history_query *q, struct history_record **ret, size_t *ret_n,
                    bool *ret_more, struct err *err);
void history_records_free(struct history_record *records, size_t n);

struct history_bounds {
        uint64_t max_tasks, max_bytes, max_keys;
        uint64_t finished_after_ms; /* older ones go */
        uint64_t keys_after_ms;
};

/* One small step; *ret_more: another one is needed. */
int history_db_prune(struct history_db *db, const struct history_bounds *bounds, bool *ret_more, struct err *err);

/* Whether a bound on numbers is passed. */
bool history_db_over(const struct history_db *db, const struct history_bounds *bounds);
