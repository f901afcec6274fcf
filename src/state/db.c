#include "state/internal.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Entry n brings a database from user_version n to n + 1; never changed once released. */
static const char *const migrations[] = {
        "CREATE TABLE keys ("
        "  id TEXT PRIMARY KEY,"
        "  name TEXT NOT NULL,"
        "  role TEXT NOT NULL,"
        "  salt BLOB NOT NULL,"
        "  hash BLOB NOT NULL,"
        "  created INTEGER NOT NULL,"
        "  expires INTEGER NOT NULL,"
        "  revoked INTEGER NOT NULL,"
        "  used INTEGER NOT NULL,"
        "  bounds TEXT NOT NULL) WITHOUT ROWID;",
        "CREATE TABLE logins ("
        "  owner TEXT NOT NULL,"
        "  registry TEXT NOT NULL,"
        "  username TEXT NOT NULL,"
        "  created INTEGER NOT NULL,"
        "  sealed BLOB NOT NULL,"
        "  PRIMARY KEY (owner, registry)) WITHOUT ROWID;",
};

#define STATE_VERSION ((int)ARRAY_LEN(migrations))

struct state_db {
        sqlite3 *sqlite;
};

static int db_errno(int rc)
{
        static const struct {
                int rc, num;
        } known[] = {
                { SQLITE_NOMEM, ENOMEM },   { SQLITE_FULL, ENOSPC },     { SQLITE_CORRUPT, EBADMSG },
                { SQLITE_NOTADB, EBADMSG }, { SQLITE_BUSY, EBUSY },      { SQLITE_LOCKED, EBUSY },
                { SQLITE_READONLY, EROFS }, { SQLITE_CANTOPEN, EACCES }, { SQLITE_TOOBIG, EFBIG },
        };

        for (size_t i = 0; i < ARRAY_LEN(known); i++)
                if (known[i].rc == (rc & 0xff))
                        return known[i].num;
        return EIO;
}

static int db_error(struct state_db *db, const char *what, struct err *err)
{
        int num = db_errno(sqlite3_extended_errcode(db->sqlite));

        /* Clients are told, too: of a statement its first word says enough. */
        if (num == ENOSPC)
                return err_set(err, num, "state: the disk is full");
        return err_set(err, num, "state: %.*s: %s", (int)strcspn(what, " "), what, sqlite3_errmsg(db->sqlite));
}

int state_db_exec(struct state_db *db, const char *sql, struct err *err)
{
        if (sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) != SQLITE_OK)
                return db_error(db, sql, err);
        return 0;
}

int state_db_prepare(struct state_db *db, const char *sql, sqlite3_stmt **ret, struct err *err)
{
        if (sqlite3_prepare_v2(db->sqlite, sql, -1, ret, NULL) != SQLITE_OK)
                return db_error(db, sql, err);
        return 0;
}

int state_db_step(struct state_db *db, sqlite3_stmt *st, struct err *err)
{
        switch (sqlite3_step(st)) {
        case SQLITE_ROW:
                return 1;
        case SQLITE_DONE:
                return 0;
        default:
                return db_error(db, sqlite3_sql(st), err);
        }
}

void state_db_end(sqlite3_stmt *st)
{
        (void)sqlite3_finalize(st);
}

static int db_version(struct state_db *db, int *ret, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(db, "PRAGMA user_version", &st, err);
        if (r == 0)
                r = state_db_step(db, st, err);
        if (r > 0)
                *ret = sqlite3_column_int(st, 0);
        state_db_end(st);
        return r < 0 ? r : 0;
}

static int db_migrate(struct state_db *db, struct err *err)
{
        int version = 0, r;

        r = db_version(db, &version, err);
        if (r < 0)
                return r;
        if (version > STATE_VERSION)
                return err_set(err, ENOTSUP,
                               "state: the database has version %d, this program knows up to %d: use the newer "
                               "Mayfly that wrote it",
                               version, STATE_VERSION);
        if (version < 0)
                return err_set(err, EBADMSG, "state: the database has version %d", version);
        for (; version < STATE_VERSION; version++) {
                auto_free char *sql = str_printf("BEGIN IMMEDIATE; %s PRAGMA user_version = %d; COMMIT",
                                                 migrations[version], version + 1);

                if (!sql)
                        return err_oom(err);
                r = state_db_exec(db, sql, err);
                if (r < 0) {
                        (void)state_db_exec(db, "ROLLBACK", NULL);
                        return r;
                }
        }
        return 0;
}

static int db_open(struct state_db *db, const char *path, struct err *err)
{
        static const char *const pragmas[] = {
                "PRAGMA journal_mode = WAL",
                /* A key that was answered, or revoked, stays so after a power cut. */
                "PRAGMA synchronous = FULL",
                "PRAGMA journal_size_limit = 1048576",
                "PRAGMA temp_store = MEMORY",
                "PRAGMA trusted_schema = OFF",
                "PRAGMA secure_delete = ON",
        };
        int r = 0;

        if (sqlite3_open_v2(path, &db->sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
                return db->sqlite ? db_error(db, "open", err) : err_oom(err);
        (void)sqlite3_extended_result_codes(db->sqlite, 1);
        (void)sqlite3_busy_timeout(db->sqlite, 5000);
        (void)sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        for (size_t i = 0; i < ARRAY_LEN(pragmas) && r == 0; i++)
                r = state_db_exec(db, pragmas[i], err);
        return r < 0 ? r : db_migrate(db, err);
}

int state_db_open(const char *path, struct state_db **ret, struct err *err)
{
        auto_fd fd = -EBADF;
        struct state_db *db;
        int r;

        /* SQLite gives its WAL and index the mode of the database. */
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "open '%s'", path);
        db = calloc(1, sizeof(*db));
        if (!db)
                return err_oom(err);
        r = db_open(db, path, err);
        if (r < 0) {
                state_db_close(db);
                (void)err_wrap(err, "'%s'", path);
                return r;
        }
        *ret = db;
        return 0;
}

void state_db_close(struct state_db *db)
{
        if (!db)
                return;
        (void)sqlite3_close(db->sqlite);
        free(db);
}
