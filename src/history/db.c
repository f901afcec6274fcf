#include "history/db.h"

#include "base/fd.h"

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
};

#define DB_VERSION ((int)ARRAY_LEN(migrations))

enum {
        DB_BEGIN,
        DB_COMMIT,
        DB_ROLLBACK,
        DB_ADD,
        DB_ADD_KEY,
        DB_SET_TOTALS,
        DB_GET,
        DB_FIND_KEY,
        DB_OLDEST,
        DB_DELETE,
        DB_DELETE_KEYS,
        DB_STATEMENTS,
};

#define DB_COLUMNS "t.id, t.owner, t.status, t.image, t.created, t.finished, t.document"

static const char *const statements[DB_STATEMENTS] = {
        [DB_BEGIN] = "BEGIN IMMEDIATE",
        [DB_COMMIT] = "COMMIT",
        [DB_ROLLBACK] = "ROLLBACK",
        [DB_ADD] =
                "INSERT OR IGNORE INTO tasks (id, owner, status, image, created, finished, bytes, document, out, err)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [DB_ADD_KEY] = "INSERT OR REPLACE INTO keys (owner, key, hash, task, created) VALUES (?, ?, ?, ?, ?)",
        [DB_SET_TOTALS] = "UPDATE totals SET tasks = ?, bytes = ?",
        [DB_GET] = "SELECT " DB_COLUMNS ", t.out, t.err, NULL, NULL FROM tasks t WHERE t.id = ?1"
                   " AND (?2 IS NULL OR t.owner = ?2)",
        [DB_FIND_KEY] = "SELECT " DB_COLUMNS
                        ", t.out, t.err, k.key, k.hash FROM keys k LEFT JOIN tasks t ON t.id = k.task"
                        " WHERE k.owner = ? AND k.key = ? AND k.created >= ?",
        [DB_OLDEST] = "SELECT seq, bytes, finished FROM tasks ORDER BY seq LIMIT ?",
        [DB_DELETE] = "DELETE FROM tasks WHERE seq = ?",
        [DB_DELETE_KEYS] = "DELETE FROM keys WHERE (owner, key) IN"
                           " (SELECT owner, key FROM keys WHERE created < ? LIMIT ?)",
};

struct history_db {
        sqlite3 *sqlite;
        sqlite3_stmt *statements[DB_STATEMENTS];
        uint64_t tasks, bytes;
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
        int rc = sqlite3_extended_errcode(db->sqlite);

        return err_set(err, db_errno(rc), "history: %s: %s", what, sqlite3_errmsg(db->sqlite));
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
        return 0;
}

int history_db_open(const char *path, struct history_db **ret, struct err *err)
{
        static const char *const pragmas[] = {
                "PRAGMA journal_mode = WAL",
                /* A task whose client got its answer costs no fsync; what is lost with the machine is its last second. */
                "PRAGMA synchronous = NORMAL",
                "PRAGMA journal_size_limit = 16777216",
                "PRAGMA cache_size = -2048",
                "PRAGMA temp_store = MEMORY",
                "PRAGMA trusted_schema = OFF",
        };
        auto_fd fd = -EBADF;
        struct history_db *db;
        int r = 0;

        /* Output of tasks is nobody else's; SQLite gives its WAL and index the mode of the database. */
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "open '%s'", path);
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

static int db_add_one(struct history_db *db, const struct history_record *rec, uint64_t *tasks, uint64_t *bytes,
                      struct err *err)
{
        sqlite3_stmt *st = db->statements[DB_ADD];
        uint64_t size = rec->document.len + rec->out[0].len + rec->out[1].len;
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
        for (int i = 0; i < 2; i++)
                if (rec->out[i].len > 0)
                        (void)sqlite3_bind_blob64(st, 9 + i, rec->out[i].data, rec->out[i].len, SQLITE_STATIC);
        r = db_run(db, DB_ADD, err);
        if (r < 0 || sqlite3_changes(db->sqlite) == 0)
                return r;
        (*tasks)++;
        *bytes += size;
        return rec->idempotency_key ? db_add_key(db, rec, err) : 0;
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

int history_db_add(struct history_db *db, struct history_record *const *records, size_t n, struct err *err)
{
        uint64_t tasks = db->tasks, bytes = db->bytes;
        int r;

        r = db_run(db, DB_BEGIN, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n && r == 0; i++)
                r = db_add_one(db, records[i], &tasks, &bytes, err);
        if (r == 0)
                r = db_commit(db, tasks, bytes, err);
        if (r < 0)
                db_rollback(db);
        return r;
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

/* The row's columns are DB_COLUMNS, and with `full` the two streams, key and hash. */
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
                ok = db_column_bytes(st, 7, &rec.out[0]) == 0 && db_column_bytes(st, 8, &rec.out[1]) == 0;
                if (ok && sqlite3_column_type(st, 9) != SQLITE_NULL) {
                        rec.idempotency_key = db_column_text(st, 9);
                        ok = rec.idempotency_key;
                }
                hash = sqlite3_column_blob(st, 10);
                if (hash && sqlite3_column_bytes(st, 10) == sizeof(rec.body_hash))
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

int history_db_prune(struct history_db *db, const struct history_bounds *bounds, bool *ret_more, struct err *err)
{
        struct db_victims v = { .n = 0 };
        int keys = 0, r;

        r = db_run(db, DB_BEGIN, err);
        if (r < 0)
                return r;
        r = db_find_victims(db, bounds, &v, err);
        for (size_t i = 0; i < v.n && r == 0; i++) {
                (void)sqlite3_bind_int64(db->statements[DB_DELETE], 1, v.seq[i]);
                r = db_run(db, DB_DELETE, err);
        }
        if (r == 0) {
                (void)sqlite3_bind_int64(db->statements[DB_DELETE_KEYS], 1, (int64_t)bounds->keys_after_ms);
                (void)sqlite3_bind_int64(db->statements[DB_DELETE_KEYS], 2, DB_PRUNE_STEP);
                r = db_run(db, DB_DELETE_KEYS, err);
                keys = sqlite3_changes(db->sqlite);
        }
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
        *ret_more = v.n == DB_PRUNE_STEP || keys == DB_PRUNE_STEP;
        return 0;
}

void history_db_totals(const struct history_db *db, uint64_t *ret_tasks, uint64_t *ret_bytes)
{
        *ret_tasks = db->tasks;
        *ret_bytes = db->bytes;
}
