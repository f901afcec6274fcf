/* Keys in the database. */

#include "state/bounds.h"
#include "state/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BOUNDS_MAX (256 * 1024)

static void strv_drop(char ***v)
{
        strv_free(*v);
        *v = NULL;
}

void key_done(struct key *k)
{
        free(k->name);
        k->name = NULL;
        strv_drop(&k->images);
        strv_drop(&k->networks);
        strv_drop(&k->engines);
}

void key_row_free(struct key_row *row)
{
        if (!row)
                return;
        key_done(&row->key);
        free(row);
}

static int role_read(const char *name, enum key_role *ret)
{
        for (int i = 0; i < KEY_ROLES; i++) {
                if (str_eq(name, key_role_names[i])) {
                        *ret = (enum key_role)i;
                        return 0;
                }
        }
        return -EBADMSG;
}

static int bounds_read(const char *text, struct key *ret, struct err *err)
{
        struct json_faults faults = { .items = NULL };
        auto_json value = NULL;
        struct json_obj o;
        int r;

        if (!text || strlen(text) > BOUNDS_MAX)
                return err_set(err, EBADMSG, "its bounds cannot be read");
        r = json_read(text, strlen(text), &value, err);
        if (r < 0)
                return r;
        r = json_obj_init(&o, value, "", &faults);
        if (r == 0) {
                key_bounds_read(&o, ret);
                json_obj_done(&o);
        }
        if (faults.len > 0)
                r = err_set(err, EBADMSG, "its bounds: %s: %s", faults.items[0].pointer, faults.items[0].detail);
        json_faults_done(&faults);
        return r;
}

static int blob_read(sqlite3_stmt *st, int column, uint8_t *out, int len)
{
        const void *data = sqlite3_column_blob(st, column);

        if (!data || sqlite3_column_bytes(st, column) != len)
                return -EBADMSG;
        memcpy(out, data, (size_t)len);
        return 0;
}

static int row_read(sqlite3_stmt *st, struct key_row *row, struct err *err)
{
        const char *id = (const char *)sqlite3_column_text(st, 0), *name = (const char *)sqlite3_column_text(st, 1);
        struct key *k = &row->key;
        int r;

        if (!id || strlen(id) != KEY_ID_LEN)
                return err_set(err, EBADMSG, "an id cannot be read");
        memcpy(k->id, id, KEY_ID_LEN + 1);
        (void)snprintf(k->owner, sizeof(k->owner), "key:%s", id);
        k->name = strdup(name ? name : "");
        if (!k->name)
                return err_oom(err);
        if (role_read((const char *)sqlite3_column_text(st, 2), &k->role) < 0)
                return err_set(err, EBADMSG, "key %s: its role is not known", id);
        if (blob_read(st, 3, row->salt, KEY_SALT_LEN) < 0 || blob_read(st, 4, row->hash, KEY_HASH_LEN) < 0)
                return err_set(err, EBADMSG, "key %s: its hash cannot be read", id);
        k->created_ms = (uint64_t)sqlite3_column_int64(st, 5);
        k->expires_ms = (uint64_t)sqlite3_column_int64(st, 6);
        k->revoked_ms = (uint64_t)sqlite3_column_int64(st, 7);
        k->used_ms = (uint64_t)sqlite3_column_int64(st, 8);
        r = bounds_read((const char *)sqlite3_column_text(st, 9), k, err);
        return r < 0 ? err_wrap(err, "key %s", id) : 0;
}

int key_store_read(struct state_db *db, key_row_fn fn, void *data, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(db,
                             "SELECT id, name, role, salt, hash, created, expires, revoked, used, bounds FROM keys"
                             " ORDER BY created, id",
                             &st, err);
        while (r == 0 && (r = state_db_step(db, st, err)) > 0) {
                struct key_row *row = calloc(1, sizeof(*row));

                r = row ? row_read(st, row, err) : err_oom(err);
                if (r < 0)
                        key_row_free(row);
                else
                        r = fn(row, data, err);
        }
        state_db_end(st);
        return r;
}

static int bounds_write(const struct key *k, struct str *out)
{
        auto_json value = json_object();

        return value && key_bounds_write(k, value) == 0 ? json_write(value, out) : -ENOMEM;
}

static int row_add(struct state_db *db, const struct key_row *row, struct err *err)
{
        const struct key *k = &row->key;
        sqlite3_stmt *st = NULL;
        auto_str bounds = STR_INIT;
        int r;

        if (bounds_write(k, &bounds) < 0)
                return err_oom(err);
        r = state_db_prepare(db,
                             "INSERT INTO keys (id, name, role, salt, hash, created, expires, revoked, used, bounds)"
                             " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?)",
                             &st, err);
        if (r < 0)
                return r;
        (void)sqlite3_bind_text(st, 1, k->id, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 2, k->name, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 3, key_role_names[k->role], -1, SQLITE_STATIC);
        (void)sqlite3_bind_blob(st, 4, row->salt, KEY_SALT_LEN, SQLITE_STATIC);
        (void)sqlite3_bind_blob(st, 5, row->hash, KEY_HASH_LEN, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 6, (int64_t)k->created_ms);
        (void)sqlite3_bind_int64(st, 7, (int64_t)k->expires_ms);
        (void)sqlite3_bind_text(st, 8, bounds.data, (int)bounds.len, SQLITE_STATIC);
        r = state_db_step(db, st, err);
        state_db_end(st);
        return r;
}

static int row_remove(struct state_db *db, const char *id, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(db, "DELETE FROM keys WHERE id = ?", &st, err);
        if (r < 0)
                return r;
        (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
        r = state_db_step(db, st, err);
        state_db_end(st);
        return r;
}

/* Ends the transaction, as `r` says. */
static int finish(struct state_db *db, int r, struct err *err)
{
        if (r == 0)
                r = state_db_exec(db, "COMMIT", err);
        if (r < 0)
                (void)state_db_exec(db, "ROLLBACK", NULL);
        return r;
}

int key_store_add(struct state_db *db, const struct key_row *row, const char *instead_of, struct err *err)
{
        int r;

        r = state_db_exec(db, "BEGIN IMMEDIATE", err);
        if (r < 0)
                return r;
        if (instead_of)
                r = row_remove(db, instead_of, err);
        if (r == 0)
                r = row_add(db, row, err);
        return finish(db, r, err);
}

static int set_time(struct state_db *db, const char *sql, const char *id, uint64_t ms, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(db, sql, &st, err);
        if (r < 0)
                return r;
        (void)sqlite3_bind_int64(st, 1, (int64_t)ms);
        (void)sqlite3_bind_text(st, 2, id, -1, SQLITE_STATIC);
        r = state_db_step(db, st, err);
        state_db_end(st);
        return r;
}

int key_store_revoke(struct state_db *db, const char *id, uint64_t revoked_ms, struct err *err)
{
        return set_time(db, "UPDATE keys SET revoked = ? WHERE id = ?", id, revoked_ms, err);
}

int key_store_use(struct state_db *db, const struct key_use *uses, size_t n, struct err *err)
{
        int r;

        r = state_db_exec(db, "BEGIN IMMEDIATE", err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n && r == 0; i++)
                r = set_time(db, "UPDATE keys SET used = ? WHERE id = ?", uses[i].id, uses[i].used_ms, err);
        return finish(db, r, err);
}
