#include "history/db.h"

#include "base/fd.h"
#include "base/vec.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DB_PRUNE_STEP 64 /* rows of one step */

/* Entry n brings a database from user_version n to n + 1; never changed once released. */
static const char *const migrations[] = {
        "CREATE TABLE tasks ("
        "  seq INTEGER PRIMARY KEY,"
        "  id TEXT NOT NULL UNIQUE,"
        "  owner TEXT NOT NULL,"
        "  status TEXT NOT NULL,"
        "  image TEXT NOT NULL,"
        "  created INTEGER NOT NULL,"
        "  finished INTEGER NOT NULL,"
        "  bytes INTEGER NOT NULL,"
        "  document TEXT NOT NULL,"
        "  out BLOB,"
        "  err BLOB);"
        "CREATE INDEX tasks_owner ON tasks (owner, id);"
        "CREATE TABLE keys ("
        "  owner TEXT NOT NULL,"
        "  key TEXT NOT NULL,"
        "  hash BLOB NOT NULL,"
        "  task TEXT NOT NULL,"
        "  created INTEGER NOT NULL,"
        "  PRIMARY KEY (owner, key)) WITHOUT ROWID;"
        "CREATE INDEX keys_created ON keys (created);"
        "CREATE TABLE totals (tasks INTEGER NOT NULL, bytes INTEGER NOT NULL);"
        "INSERT INTO totals VALUES (0, 0);",

        "ALTER TABLE tasks ADD COLUMN outputs BLOB;"
        "CREATE TABLE labels ("
        "  label TEXT NOT NULL,"
        "  task TEXT NOT NULL,"
        "  PRIMARY KEY (label, task)) WITHOUT ROWID;"
        "CREATE INDEX labels_task ON labels (task);"
        "CREATE TRIGGER tasks_gone AFTER DELETE ON tasks BEGIN DELETE FROM labels WHERE task = OLD.id; END;"
        "CREATE TABLE requests ("
        "  id TEXT NOT NULL PRIMARY KEY,"
        "  owner TEXT NOT NULL,"
        "  key TEXT,"
        "  hash BLOB NOT NULL,"
        "  created INTEGER NOT NULL,"
        "  started INTEGER NOT NULL,"
        "  attempts INTEGER NOT NULL,"
        "  sealed BLOB NOT NULL);",

        "ALTER TABLE tasks ADD COLUMN times BLOB;",
};

#define DB_VERSION ((int)ARRAY_LEN(migrations))

enum {
        DB_BEGIN,
        DB_COMMIT,
        DB_ROLLBACK,
        DB_ADD,
        DB_ADD_KEY,
        DB_ADD_LABEL,
        DB_ACCEPT,
        DB_STARTED,
        DB_DROP,
        DB_REQUESTS,
        DB_SIZE,
        DB_SET_TOTALS,
        DB_GET,
        DB_FIND_KEY,
        DB_OLDEST,
        DB_DELETE,
        DB_DELETE_KEYS,
        DB_DELETE_OLD_KEYS,
        DB_STATEMENTS,
};

#define DB_COLUMNS "t.id, t.owner, t.status, t.image, t.created, t.finished, t.document"

static const char *const statements[DB_STATEMENTS] = {
        [DB_BEGIN] = "BEGIN IMMEDIATE",
        [DB_COMMIT] = "COMMIT",
        [DB_ROLLBACK] = "ROLLBACK",
        [DB_ADD] = "INSERT OR IGNORE INTO tasks"
                   " (id, owner, status, image, created, finished, bytes, document, out, err, outputs, times)"
                   " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [DB_ADD_KEY] = "INSERT OR REPLACE INTO keys (owner, key, hash, task, created) VALUES (?, ?, ?, ?, ?)",
        [DB_ADD_LABEL] = "INSERT OR IGNORE INTO labels (label, task) VALUES (?, ?)",
        [DB_ACCEPT] = "INSERT OR REPLACE INTO requests (id, owner, key, hash, created, started, attempts, sealed)"
                      " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE id = ?1)",
        [DB_STARTED] = "UPDATE requests SET started = ?, attempts = ? WHERE id = ?",
        [DB_DROP] = "DELETE FROM requests WHERE id = ?",
        [DB_REQUESTS] = "SELECT id, owner, key, hash, created, started, attempts, sealed FROM requests ORDER BY id",
        [DB_SIZE] = "SELECT seq, bytes FROM tasks WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
        [DB_SET_TOTALS] = "UPDATE totals SET tasks = ?, bytes = ?",
        [DB_GET] = "SELECT " DB_COLUMNS ", t.out, t.err, t.outputs, NULL, NULL, t.times FROM tasks t WHERE t.id = ?1"
                   " AND (?2 IS NULL OR t.owner = ?2)",
        [DB_FIND_KEY] =
                "SELECT " DB_COLUMNS
                ", t.out, t.err, t.outputs, k.key, k.hash, t.times FROM keys k LEFT JOIN tasks t ON t.id = k.task"
                " WHERE k.owner = ? AND k.key = ? AND k.created >= ?",
        [DB_OLDEST] = "SELECT seq, bytes, finished FROM tasks ORDER BY seq LIMIT ?",
        [DB_DELETE] = "DELETE FROM tasks WHERE seq = ?",
        [DB_DELETE_KEYS] = "DELETE FROM keys WHERE (owner, key) IN"
                           " (SELECT owner, key FROM keys WHERE created < ? LIMIT ?)",
        [DB_DELETE_OLD_KEYS] = "DELETE FROM keys WHERE (owner, key) IN"
                               " (SELECT owner, key FROM keys ORDER BY created LIMIT ?)",
};

struct history_db {
        sqlite3 *sqlite;
        sqlite3_stmt *statements[DB_STATEMENTS];
        uint64_t tasks, bytes;
        uint64_t keys; /* at least as many as there are */
        bool durable;  /* what `synchronous` says */
};

static int db_errno(int rc)
{
        switch (rc & 0xff) {
        case SQLITE_NOMEM:
                return ENOMEM;
        case SQLITE_FULL:
                return ENOSPC;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                return EBADMSG;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return EBUSY;
        case SQLITE_READONLY:
                return EROFS;
        case SQLITE_CANTOPEN:
                return EACCES;
        case SQLITE_TOOBIG:
                return EFBIG;
        default:
                return EIO;
        }
}

static int db_error(struct history_db *db, const char *what, struct err *err)
{
        int num = db_errno(sqlite3_extended_errcode(db->sqlite));

        /* Clients are told, too: of a statement its first word says enough. */
        if (num == ENOSPC)
                return err_set(err, num, "history: the disk is full");
        return err_set(err, num, "history: %.*s: %s", (int)strcspn(what, " "), what, sqlite3_errmsg(db->sqlite));
}

static int db_exec(struct history_db *db, const char *sql, struct err *err)
{
        if (sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) != SQLITE_OK)
                return db_error(db, sql, err);
        return 0;
}

/* One row of one integer or more; the caller finalizes nothing. */
static int db_query(struct history_db *db, const char *sql, int64_t *values, int n, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r = 0;

        if (sqlite3_prepare_v2(db->sqlite, sql, -1, &st, NULL) != SQLITE_OK)
                return db_error(db, sql, err);
        if (sqlite3_step(st) == SQLITE_ROW)
                for (int i = 0; i < n; i++)
                        values[i] = sqlite3_column_int64(st, i);
        else
                r = db_error(db, sql, err);
        (void)sqlite3_finalize(st);
        return r;
}

/* Runs a prepared statement that answers no row, and makes it ready for the next time. */
static int db_run(struct history_db *db, int which, struct err *err)
{
        sqlite3_stmt *st = db->statements[which];
        int r = 0;

        if (sqlite3_step(st) != SQLITE_DONE)
                r = db_error(db, statements[which], err);
        (void)sqlite3_reset(st);
        (void)sqlite3_clear_bindings(st);
        return r;
}

static int db_migrate(struct history_db *db, struct err *err)
{
        int64_t version = 0;
        int r;

        r = db_query(db, "PRAGMA user_version", &version, 1, err);
        if (r < 0)
                return r;
        if (version > DB_VERSION)
                return err_set(err, ENOTSUP,
                               "history: the database has version %lld, this program knows up to %d: use the newer "
                               "Mayfly that wrote it",
                               (long long)version, DB_VERSION);
        if (version < 0)
                return err_set(err, EBADMSG, "history: the database has version %lld", (long long)version);
        for (; version < DB_VERSION; version++) {
                auto_free char *sql = str_printf("BEGIN IMMEDIATE; %s PRAGMA user_version = %lld; COMMIT",
                                                 migrations[version], (long long)version + 1);

                if (!sql)
                        return err_oom(err);
                r = db_exec(db, sql, err);
                if (r < 0) {
                        (void)db_exec(db, "ROLLBACK", NULL);
                        return r;
                }
        }
        return 0;
}

static int db_count_keys(struct history_db *db, struct err *err)
{
        int64_t keys = 0;
        int r = db_query(db, "SELECT count(*) FROM keys", &keys, 1, err);

        if (r == 0)
                db->keys = (uint64_t)keys;
        return r;
}

static int db_prepare(struct history_db *db, struct err *err)
{
        int64_t totals[2] = { 0, 0 };
        int r;

        for (int i = 0; i < DB_STATEMENTS; i++)
                if (sqlite3_prepare_v3(db->sqlite, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->statements[i],
                                       NULL) != SQLITE_OK)
                        return db_error(db, statements[i], err);
        r = db_query(db, "SELECT tasks, bytes FROM totals", totals, 2, err);
        if (r < 0)
                return r;
        db->tasks = (uint64_t)totals[0];
        db->bytes = (uint64_t)totals[1];
        return db_count_keys(db, err);
}

/* SQLite makes the names of its own files durable, not that of a database which is there already. */
static int sync_name(const char *path, struct err *err)
{
        const char *slash = strrchr(path, '/');
        auto_free char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
        auto_fd fd = -EBADF;

        if (!dir)
                return err_oom(err);
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
                return err_sys(err, "fsync '%s'", dir);
        return 0;
}

int history_db_open(const char *path, struct history_db **ret, struct err *err)
{
        static const char *const pragmas[] = {
                "PRAGMA journal_mode = WAL",
                /* A task whose client got its answer costs no fsync; what is lost with the machine is its last second. */
                "PRAGMA synchronous = NORMAL",
                "PRAGMA journal_size_limit = 16777216",
                "PRAGMA cache_size = -512",
                "PRAGMA temp_store = MEMORY",
                "PRAGMA trusted_schema = OFF",
                /* Requests hold secrets, if sealed ones. */
                "PRAGMA secure_delete = ON",
        };
        auto_fd fd = -EBADF;
        struct history_db *db;
        int r = 0;

        /* Output of tasks is nobody else's; SQLite gives its WAL and index the mode of the database. */
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "open '%s'", path);
        r = sync_name(path, err);
        if (r < 0)
                return r;
        db = calloc(1, sizeof(*db));
        if (!db)
                return err_oom(err);
        if (sqlite3_open_v2(path, &db->sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
                r = db->sqlite ? db_error(db, "open", err) : err_oom(err);
                history_db_close(db);
                return r;
        }
        (void)sqlite3_extended_result_codes(db->sqlite, 1);
        (void)sqlite3_busy_timeout(db->sqlite, 5000);
        (void)sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        for (size_t i = 0; i < ARRAY_LEN(pragmas) && r == 0; i++)
                r = db_exec(db, pragmas[i], err);
        if (r == 0)
                r = db_migrate(db, err);
        if (r == 0)
                r = db_prepare(db, err);
        if (r < 0) {
                history_db_close(db);
                (void)err_wrap(err, "'%s'", path);
                return r;
        }
        *ret = db;
        return 0;
}

void history_db_close(struct history_db *db)
{
        if (!db)
                return;
        for (int i = 0; i < DB_STATEMENTS; i++)
                (void)sqlite3_finalize(db->statements[i]);
        (void)sqlite3_close(db->sqlite);
        free(db);
}

static void db_bind_text(sqlite3_stmt *st, int i, const char *text)
{
        if (text)
                (void)sqlite3_bind_text(st, i, text, -1, SQLITE_STATIC);
        else
                (void)sqlite3_bind_null(st, i);
}

/* What a transaction makes of the totals. */
struct db_totals {
        uint64_t tasks, bytes, keys;
};

static int db_add_key(struct history_db *db, const struct history_record *rec, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_ADD_KEY];

        db_bind_text(st, 1, rec->owner);
        db_bind_text(st, 2, rec->idempotency_key);
        (void)sqlite3_bind_blob(st, 3, rec->body_hash, sizeof(rec->body_hash), SQLITE_STATIC);
        db_bind_text(st, 4, rec->id);
        (void)sqlite3_bind_int64(st, 5, (int64_t)rec->created_ms);
        return db_run(db, DB_ADD_KEY, err);
}

static int db_add_labels(struct history_db *db, const struct history_record *rec, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_ADD_LABEL];
        int r = 0;

        for (size_t i = 0; r == 0 && rec->labels[i]; i++) {
                db_bind_text(st, 1, rec->labels[i]);
                db_bind_text(st, 2, rec->id);
                r = db_run(db, DB_ADD_LABEL, err);
        }
        return r;
}

static int db_drop(struct history_db *db, const char *id, struct err *err)
{
        db_bind_text(db->statements[DB_DROP], 1, id);
        return db_run(db, DB_DROP, err);
}

static int db_insert(struct history_db *db, const struct history_record *rec, struct db_totals *totals, struct err *err)
{
        const struct str *blobs[] = { &rec->out[0], &rec->out[1], &rec->outputs, &rec->times };
        uint64_t size = history_record_size(rec);
        sqlite3_stmt *st = db->statements[DB_ADD];
        int r;

        db_bind_text(st, 1, rec->id);
        db_bind_text(st, 2, rec->owner);
        db_bind_text(st, 3, rec->status);
        db_bind_text(st, 4, rec->image);
        (void)sqlite3_bind_int64(st, 5, (int64_t)rec->created_ms);
        (void)sqlite3_bind_int64(st, 6, (int64_t)rec->finished_ms);
        (void)sqlite3_bind_int64(st, 7, (int64_t)size);
        (void)sqlite3_bind_text64(st, 8, rec->document.data ? rec->document.data : "", rec->document.len, SQLITE_STATIC,
                                  SQLITE_UTF8);
        for (size_t i = 0; i < ARRAY_LEN(blobs); i++)
                if (blobs[i]->len > 0)
                        (void)sqlite3_bind_blob64(st, 9 + (int)i, blobs[i]->data, blobs[i]->len, SQLITE_STATIC);
        r = db_run(db, DB_ADD, err);
        if (r < 0 || sqlite3_changes(db->sqlite) == 0)
                return r;
        totals->tasks++;
        totals->bytes += size;
        if (rec->labels)
                r = db_add_labels(db, rec, err);
        if (r == 0 && rec->idempotency_key) {
                totals->keys++;
                r = db_add_key(db, rec, err);
        }
        return r;
}

static int db_accept(struct history_db *db, const struct history_request *q, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_ACCEPT];

        db_bind_text(st, 1, q->id);
        db_bind_text(st, 2, q->owner);
        db_bind_text(st, 3, q->idempotency_key);
        (void)sqlite3_bind_blob(st, 4, q->body_hash, sizeof(q->body_hash), SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 5, (int64_t)q->created_ms);
        (void)sqlite3_bind_int64(st, 6, (int64_t)q->started);
        (void)sqlite3_bind_int64(st, 7, q->attempts);
        (void)sqlite3_bind_blob64(st, 8, q->sealed.data ? q->sealed.data : "", q->sealed.len, SQLITE_STATIC);
        return db_run(db, DB_ACCEPT, err);
}

static int db_started(struct history_db *db, const struct history_request *q, struct err *err)
{
        (void)sqlite3_bind_int64(db->statements[DB_STARTED], 1, (int64_t)q->started);
        (void)sqlite3_bind_int64(db->statements[DB_STARTED], 2, q->attempts);
        db_bind_text(db->statements[DB_STARTED], 3, q->id);
        return db_run(db, DB_STARTED, err);
}

static int db_delete(struct history_db *db, struct history_change *c, struct db_totals *totals, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_SIZE];
        int64_t seq = 0, bytes = 0;
        int rc, r = 0;

        db_bind_text(st, 1, c->record.id);
        db_bind_text(st, 2, c->record.owner);
        rc = sqlite3_step(st);
        if (rc == SQLITE_ROW) {
                seq = sqlite3_column_int64(st, 0);
                bytes = sqlite3_column_int64(st, 1);
        } else if (rc != SQLITE_DONE) {
                r = db_error(db, statements[DB_SIZE], err);
        }
        (void)sqlite3_reset(st);
        (void)sqlite3_clear_bindings(st);
        c->r = rc == SQLITE_DONE ? -ENOENT : 0;
        if (rc != SQLITE_ROW)
                return r;
        (void)sqlite3_bind_int64(db->statements[DB_DELETE], 1, seq);
        totals->tasks -= MIN(totals->tasks, 1U);
        totals->bytes -= MIN(totals->bytes, (uint64_t)bytes);
        return db_run(db, DB_DELETE, err);
}

static int db_change(struct history_db *db, struct history_change *c, struct db_totals *totals, struct err *err)
{
        int r = 0;

        c->r = 0;
        switch (c->kind) {
        case HISTORY_ADD:
                r = db_insert(db, &c->record, totals, err);
                if (r == 0 && c->record.accepted)
                        r = db_drop(db, c->record.id, err);
                break;
        case HISTORY_ACCEPT:
                r = db_accept(db, &c->request, err);
                break;
        case HISTORY_STARTED:
                r = db_started(db, &c->request, err);
                break;
        case HISTORY_DROP:
                r = db_drop(db, c->request.id, err);
                break;
        case HISTORY_DELETE:
                r = db_delete(db, c, totals, err);
                break;
        }
        return r;
}

/* Ends the transaction with its totals; what they were remains when it fails. */
static int db_commit(struct history_db *db, uint64_t tasks, uint64_t bytes, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_SET_TOTALS];
        int r;

        (void)sqlite3_bind_int64(st, 1, (int64_t)tasks);
        (void)sqlite3_bind_int64(st, 2, (int64_t)bytes);
        r = db_run(db, DB_SET_TOTALS, err);
        if (r == 0)
                r = db_run(db, DB_COMMIT, err);
        if (r < 0)
                return r;
        db->tasks = tasks;
        db->bytes = bytes;
        return 0;
}

static void db_rollback(struct history_db *db)
{
        if (!sqlite3_get_autocommit(db->sqlite))
                (void)db_run(db, DB_ROLLBACK, NULL);
}

/* In WAL mode FULL adds an fsync of the log to each commit, which covers all groups before it. */
static int db_set_durable(struct history_db *db, bool durable, struct err *err)
{
        int r;

        if (db->durable == durable)
                return 0;
        r = db_exec(db, durable ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", err);
        if (r == 0)
                db->durable = durable;
        return r;
}

int history_db_write(struct history_db *db, struct history_change *const *changes, size_t n, bool durable,
                     struct err *err)
{
        struct db_totals totals = { db->tasks, db->bytes, db->keys };
        int r;

        r = db_set_durable(db, durable, err);
        if (r == 0)
                r = db_run(db, DB_BEGIN, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n && r == 0; i++)
                r = db_change(db, changes[i], &totals, err);
        if (r == 0)
                r = db_commit(db, totals.tasks, totals.bytes, err);
        if (r < 0)
                db_rollback(db);
        else
                db->keys = totals.keys;
        return r;
}

/* A checkpoint that somebody's read keeps from ending is tried again with the next one. */
int history_db_checkpoint(struct history_db *db, struct err *err)
{
        return db_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", err);
}

static char *db_column_text(sqlite3_stmt *st, int i)
{
        const char *text = (const char *)sqlite3_column_text(st, i);

        return strdup(text ? text : "");
}

static int db_column_bytes(sqlite3_stmt *st, int i, struct str *ret)
{
        const void *data = sqlite3_column_blob(st, i);

        return data ? str_add(ret, data, (size_t)sqlite3_column_bytes(st, i)) : 0;
}

/* The row's columns are DB_COLUMNS, and with `full` the two streams, the outputs, key, hash and times. */
static int db_read_row(sqlite3_stmt *st, bool full, struct history_record *ret, struct err *err)
{
        struct history_record rec = { .owner = NULL };
        const char *id = (const char *)sqlite3_column_text(st, 0);
        const void *hash;
        bool ok;

        if (id)
                (void)snprintf(rec.id, sizeof(rec.id), "%s", id);
        rec.owner = db_column_text(st, 1);
        rec.status = db_column_text(st, 2);
        rec.image = db_column_text(st, 3);
        rec.created_ms = (uint64_t)sqlite3_column_int64(st, 4);
        rec.finished_ms = (uint64_t)sqlite3_column_int64(st, 5);
        ok = rec.owner && rec.status && rec.image && db_column_bytes(st, 6, &rec.document) == 0;
        if (ok && full) {
                ok = db_column_bytes(st, 7, &rec.out[0]) == 0 && db_column_bytes(st, 8, &rec.out[1]) == 0 &&
                     db_column_bytes(st, 9, &rec.outputs) == 0 && db_column_bytes(st, 12, &rec.times) == 0;
                if (ok && sqlite3_column_type(st, 10) != SQLITE_NULL) {
                        rec.idempotency_key = db_column_text(st, 10);
                        ok = rec.idempotency_key;
                }
                hash = sqlite3_column_blob(st, 11);
                if (hash && sqlite3_column_bytes(st, 11) == sizeof(rec.body_hash))
                        memcpy(rec.body_hash, hash, sizeof(rec.body_hash));
        }
        if (!ok) {
                history_record_done(&rec);
                return err_oom(err);
        }
        *ret = rec;
        return 0;
}

static int db_read_one(struct history_db *db, int which, struct history_record *ret, struct err *err)
{
        sqlite3_stmt *st = db->statements[which];
        int r;

        switch (sqlite3_step(st)) {
        case SQLITE_ROW:
                /* A key outlives the record that it leads to where the bounds on records are narrow. */
                r = sqlite3_column_type(st, 0) == SQLITE_NULL ? err_set(err, ESTALE, "its result is kept no longer")
                                                              : db_read_row(st, true, ret, err);
                break;
        case SQLITE_DONE:
                r = err_set(err, ENOENT, "there is no such task");
                break;
        default:
                r = db_error(db, statements[which], err);
        }
        (void)sqlite3_reset(st);
        (void)sqlite3_clear_bindings(st);
        return r;
}

int history_db_get(struct history_db *db, const char *id, const char *owner, struct history_record *ret,
                   struct err *err)
{
        db_bind_text(db->statements[DB_GET], 1, id);
        db_bind_text(db->statements[DB_GET], 2, owner);
        return db_read_one(db, DB_GET, ret, err);
}

int history_db_find_key(struct history_db *db, const char *owner, const char *key, uint64_t since_ms,
                        struct history_record *ret, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_FIND_KEY];

        db_bind_text(st, 1, owner);
        db_bind_text(st, 2, key);
        (void)sqlite3_bind_int64(st, 3, (int64_t)since_ms);
        return db_read_one(db, DB_FIND_KEY, ret, err);
}

static bool db_read_request(sqlite3_stmt *st, struct history_request *ret)
{
        const char *id = (const char *)sqlite3_column_text(st, 0);
        const void *hash = sqlite3_column_blob(st, 3);

        (void)snprintf(ret->id, sizeof(ret->id), "%s", id ? id : "");
        ret->owner = db_column_text(st, 1);
        if (sqlite3_column_type(st, 2) != SQLITE_NULL) {
                ret->idempotency_key = db_column_text(st, 2);
                if (!ret->idempotency_key)
                        return false;
        }
        if (hash && sqlite3_column_bytes(st, 3) == sizeof(ret->body_hash))
                memcpy(ret->body_hash, hash, sizeof(ret->body_hash));
        ret->created_ms = (uint64_t)sqlite3_column_int64(st, 4);
        ret->started = (uint64_t)sqlite3_column_int64(st, 5);
        ret->attempts = (unsigned)sqlite3_column_int64(st, 6);
        return ret->owner && db_column_bytes(st, 7, &ret->sealed) == 0;
}

int history_db_requests(struct history_db *db, struct history_request **ret, size_t *ret_n, struct err *err)
{
        VEC(struct history_request) all = { .items = NULL };
        sqlite3_stmt *st = db->statements[DB_REQUESTS];
        int rc, r = 0;

        while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
                struct history_request q = { .owner = NULL };

                if (!db_read_request(st, &q) || VEC_ADD(&all, q) < 0) {
                        history_request_done(&q);
                        r = err_oom(err);
                }
        }
        if (r == 0 && rc != SQLITE_DONE)
                r = db_error(db, statements[DB_REQUESTS], err);
        (void)sqlite3_reset(st);
        if (r < 0) {
                history_requests_free(all.items, all.len);
                return r;
        }
        *ret = all.items;
        *ret_n = all.len;
        return 0;
}

void history_requests_free(struct history_request *requests, size_t n)
{
        for (size_t i = 0; i < n; i++)
                history_request_done(&requests[i]);
        free(requests);
}

#define DB_LABEL_FIRST 8 /* number of the first label's parameter */

static int db_list_sql(const struct history_query *q, struct str *sql)
{
        int r = str_adds(sql, "SELECT " DB_COLUMNS " FROM tasks t WHERE 1");

        if (r == 0 && q->owner)
                r = str_adds(sql, " AND t.owner = ?1");
        if (r == 0 && q->status)
                r = str_adds(sql, " AND t.status = ?2");
        if (r == 0 && q->image)
                r = str_adds(sql, " AND t.image = ?3");
        if (r == 0 && q->since_ms)
                r = str_adds(sql, " AND t.created >= ?4");
        if (r == 0 && q->until_ms)
                r = str_adds(sql, " AND t.created < ?5");
        if (r == 0 && q->before)
                r = str_adds(sql, " AND t.id < ?6");
        for (int i = 0; r == 0 && i < HISTORY_LABELS_MAX && q->labels[i]; i++)
                r = str_addf(sql, " AND t.id IN (SELECT task FROM labels WHERE label = ?%d)", DB_LABEL_FIRST + i);
        if (r == 0)
                r = str_adds(sql, " ORDER BY t.id DESC LIMIT ?7");
        return r;
}

int history_db_list(struct history_db *db, const struct history_query *q, struct history_record **ret, size_t *ret_n,
                    bool *ret_more, struct err *err)
{
        unsigned limit = MIN(MAX(q->limit, 1U), 1000U);
        auto_str sql = STR_INIT;
        struct history_record *records;
        sqlite3_stmt *st = NULL;
        size_t n = 0;
        int rc, r = 0;

        if (db_list_sql(q, &sql) < 0)
                return err_oom(err);
        records = calloc(limit, sizeof(*records));
        if (!records)
                return err_oom(err);
        if (sqlite3_prepare_v2(db->sqlite, sql.data, -1, &st, NULL) != SQLITE_OK) {
                free(records);
                return db_error(db, "list", err);
        }
        db_bind_text(st, 1, q->owner);
        db_bind_text(st, 2, q->status);
        db_bind_text(st, 3, q->image);
        (void)sqlite3_bind_int64(st, 4, (int64_t)q->since_ms);
        (void)sqlite3_bind_int64(st, 5, (int64_t)q->until_ms);
        db_bind_text(st, 6, q->before);
        (void)sqlite3_bind_int64(st, 7, (int64_t)limit + 1);
        for (int i = 0; i < HISTORY_LABELS_MAX && q->labels[i]; i++)
                db_bind_text(st, DB_LABEL_FIRST + i, q->labels[i]);
        while ((rc = sqlite3_step(st)) == SQLITE_ROW && n < limit && r == 0) {
                r = db_read_row(st, false, &records[n], err);
                if (r == 0)
                        n++;
        }
        if (r == 0 && rc != SQLITE_ROW && rc != SQLITE_DONE)
                r = db_error(db, "list", err);
        (void)sqlite3_finalize(st);
        if (r < 0) {
                history_records_free(records, n);
                return r;
        }
        *ret = records;
        *ret_n = n;
        *ret_more = rc == SQLITE_ROW;
        return 0;
}

void history_records_free(struct history_record *records, size_t n)
{
        for (size_t i = 0; i < n; i++)
                history_record_done(&records[i]);
        free(records);
}

struct db_victims {
        int64_t seq[DB_PRUNE_STEP];
        size_t n;
        uint64_t tasks, bytes; /* what remains */
};

/* The oldest rows, as far as a bound wants them gone. */
static int db_find_victims(struct history_db *db, const struct history_bounds *b, struct db_victims *v, struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_OLDEST];
        int rc, r = 0;

        v->tasks = db->tasks;
        v->bytes = db->bytes;
        (void)sqlite3_bind_int64(st, 1, DB_PRUNE_STEP);
        while ((rc = sqlite3_step(st)) == SQLITE_ROW && v->n < DB_PRUNE_STEP) {
                uint64_t size = (uint64_t)sqlite3_column_int64(st, 1);
                uint64_t finished = (uint64_t)sqlite3_column_int64(st, 2);

                if (v->tasks <= b->max_tasks && v->bytes <= b->max_bytes && finished >= b->finished_after_ms)
                        break;
                v->seq[v->n++] = sqlite3_column_int64(st, 0);
                v->tasks -= MIN(v->tasks, 1U);
                v->bytes -= MIN(v->bytes, size);
        }
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
                r = db_error(db, statements[DB_OLDEST], err);
        (void)sqlite3_reset(st);
        return r;
}

static int db_prune_keys(struct history_db *db, const struct history_bounds *b, uint64_t *keys, int *gone,
                         struct err *err)
{
        uint64_t over;
        int r;

        (void)sqlite3_bind_int64(db->statements[DB_DELETE_KEYS], 1, (int64_t)b->keys_after_ms);
        (void)sqlite3_bind_int64(db->statements[DB_DELETE_KEYS], 2, DB_PRUNE_STEP);
        r = db_run(db, DB_DELETE_KEYS, err);
        *gone = r < 0 ? 0 : sqlite3_changes(db->sqlite);
        *keys -= MIN(*keys, (uint64_t)*gone);
        over = *keys > b->max_keys ? *keys - b->max_keys : 0;
        if (r < 0 || over == 0 || *gone > 0)
                return r;
        (void)sqlite3_bind_int64(db->statements[DB_DELETE_OLD_KEYS], 1, (int64_t)MIN(over, (uint64_t)DB_PRUNE_STEP));
        r = db_run(db, DB_DELETE_OLD_KEYS, err);
        *gone = r < 0 ? 0 : sqlite3_changes(db->sqlite);
        *keys -= MIN(*keys, (uint64_t)*gone);
        return r;
}

int history_db_prune(struct history_db *db, const struct history_bounds *bounds, bool *ret_more, struct err *err)
{
        struct db_victims v = { .n = 0 };
        uint64_t n_keys;
        int keys = 0, r;

        r = db_set_durable(db, false, err);
        if (r == 0 && db->keys > bounds->max_keys)
                r = db_count_keys(db, err); /* one that is used again counts twice */
        n_keys = db->keys;
        if (r == 0)
                r = db_run(db, DB_BEGIN, err);
        if (r < 0)
                return r;
        r = db_find_victims(db, bounds, &v, err);
        for (size_t i = 0; i < v.n && r == 0; i++) {
                (void)sqlite3_bind_int64(db->statements[DB_DELETE], 1, v.seq[i]);
                r = db_run(db, DB_DELETE, err);
        }
        if (r == 0)
                r = db_prune_keys(db, bounds, &n_keys, &keys, err);
        if (r == 0 && v.n == 0 && keys == 0) {
                db_rollback(db);
                *ret_more = false;
                return 0;
        }
        if (r == 0)
                r = db_commit(db, v.tasks, v.bytes, err);
        if (r < 0) {
                db_rollback(db);
                return r;
        }
        db->keys = n_keys;
        *ret_more = v.n == DB_PRUNE_STEP || keys == DB_PRUNE_STEP || n_keys > bounds->max_keys;
        return 0;
}

bool history_db_over(const struct history_db *db, const struct history_bounds *bounds)
{
        return db->tasks > bounds->max_tasks || db->bytes > bounds->max_bytes || db->keys > bounds->max_keys;
}
