/* What the modules of this folder share: statements of the node's database. All of it blocks on the disk. */
#pragma once

#include "state/db.h"
#include "state/keys.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

/* The statement is the caller's: state_db_end(). */
int state_db_prepare(struct state_db *db, const char *sql, sqlite3_stmt **ret, struct err *err);
/* 1: a row; 0: none left; -errno. */
int state_db_step(struct state_db *db, sqlite3_stmt *st, struct err *err);
void state_db_end(sqlite3_stmt *st); /* accepts NULL */
int state_db_exec(struct state_db *db, const char *sql, struct err *err);

#define KEY_SALT_LEN 16
#define KEY_HASH_LEN 32

/* One row. */
struct key_row {
        struct key key;
        uint8_t salt[KEY_SALT_LEN], hash[KEY_HASH_LEN];
        bool used; /* since it was written */
};
void key_done(struct key *k);
void key_row_free(struct key_row *row); /* accepts NULL */

typedef int (*key_row_fn)(struct key_row *row, void *data, struct err *err);         /* takes the row */
int key_store_read(struct state_db *db, key_row_fn fn, void *data, struct err *err); /* the oldest first */
/* In one transaction: a row for the new one, none any more for the id in whose place it comes (NULL: none). */
int key_store_add(struct state_db *db, const struct key_row *row, const char *instead_of, struct err *err);
int key_store_revoke(struct state_db *db, const char *id, uint64_t revoked_ms, struct err *err);

struct key_use {
        char id[KEY_ID_LEN + 1];
        uint64_t used_ms;
};
int key_store_use(struct state_db *db, const struct key_use *uses, size_t n, struct err *err);
