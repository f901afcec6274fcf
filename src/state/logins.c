#include "state/logins.h"

#include "base/log.h"
#include "base/map.h"
#include "base/time.h"
#include "state/internal.h"
#include "json/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEALED_MAX ((size_t)64 * 1024)

struct row {
        char *owner, *registry, *username;
        uint64_t created_ms;
        struct str sealed; /* {"password": "…"} */
};

struct logins {
        struct loop *loop;
        struct state_db *db;
        const struct seal *seal;
        struct map *rows; /* "owner\nregistry": struct row */
        unsigned pending;
        bool closed;
};

static void row_free(struct row *row)
{
        if (!row)
                return;
        free(row->owner);
        free(row->registry);
        free(row->username);
        str_done(&row->sealed);
        free(row);
}

static char *row_key(const char *owner, const char *registry)
{
        return str_printf("%s\n%s", owner, registry);
}

static char *context_of(const char *owner, const char *registry)
{
        return str_printf("login %.60s %.180s", owner, registry);
}

/* ── the database ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int store_set(struct state_db *db, const struct row *row, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(db,
                             "INSERT OR REPLACE INTO logins (owner, registry, username, created, sealed)"
                             " VALUES (?, ?, ?, ?, ?)",
                             &st, err);
        if (r < 0)
                return r;
        (void)sqlite3_bind_text(st, 1, row->owner, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 2, row->registry, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 3, row->username, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 4, (int64_t)row->created_ms);
        (void)sqlite3_bind_blob(st, 5, row->sealed.data, (int)row->sealed.len, SQLITE_STATIC);
        r = state_db_step(db, st, err);
        state_db_end(st);
        return r;
}

/* registry NULL: all of the owner's. */
static int store_remove(struct state_db *db, const char *owner, const char *registry, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(db, "DELETE FROM logins WHERE owner = ?1 AND (?2 IS NULL OR registry = ?2)", &st, err);
        if (r < 0)
                return r;
        (void)sqlite3_bind_text(st, 1, owner, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 2, registry, -1, SQLITE_STATIC);
        r = state_db_step(db, st, err);
        state_db_end(st);
        return r;
}

static int row_read(sqlite3_stmt *st, struct row **ret, struct err *err)
{
        const char *owner = (const char *)sqlite3_column_text(st, 0),
                   *registry = (const char *)sqlite3_column_text(st, 1);
        const char *username = (const char *)sqlite3_column_text(st, 2);
        const void *sealed = sqlite3_column_blob(st, 4);
        int len = sqlite3_column_bytes(st, 4);
        struct row *row;

        if (!owner || !registry || !username || !sealed || len <= 0 || (size_t)len > SEALED_MAX)
                return err_set(err, EBADMSG, "a login cannot be read");
        row = calloc(1, sizeof(*row));
        if (!row)
                return err_oom(err);
        row->owner = strdup(owner);
        row->registry = strdup(registry);
        row->username = strdup(username);
        row->created_ms = (uint64_t)sqlite3_column_int64(st, 3);
        if (!row->owner || !row->registry || !row->username || str_add(&row->sealed, sealed, (size_t)len) < 0) {
                row_free(row);
                return err_oom(err);
        }
        *ret = row;
        return 0;
}

/* ── what is sealed ───────────────────────────────────────────────────────────────────────────────────────────────── */

static int row_seal(const struct logins *ls, struct row *row, const char *password)
{
        auto_free char *context = context_of(row->owner, row->registry);
        auto_json o = json_pack("{s:s}", "password", password);
        auto_secret text = STR_INIT;

        if (!context || !o || json_write(o, &text) < 0)
                return -ENOMEM;
        return seal_seal(ls->seal, context, text.data, text.len, &row->sealed);
}

static int row_open(const struct logins *ls, const struct row *row, struct str *password)
{
        auto_free char *context = context_of(row->owner, row->registry);
        auto_secret text = STR_INIT;
        auto_json o = NULL;
        const char *value;
        int r;

        if (!context)
                return -ENOMEM;
        r = seal_open(ls->seal, context, row->sealed.data, row->sealed.len, &text);
        if (r == 0)
                r = json_read(text.data, text.len, &o, NULL);
        value = json_string_value(json_object_get(o, "password"));
        if (r == 0 && !value)
                r = -EBADMSG;
        return r < 0 ? r : str_adds(password, value);
}

/* ── in memory ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Takes the row on success. */
static int row_put(struct logins *ls, struct row *row)
{
        auto_free char *key = row_key(row->owner, row->registry);
        struct row *old = key ? map_find(ls->rows, key) : NULL;

        if (!key || map_set(ls->rows, key, row) < 0)
                return -ENOMEM;
        row_free(old);
        return 0;
}

static int read_all(struct logins *ls, struct err *err)
{
        sqlite3_stmt *st = NULL;
        int r;

        r = state_db_prepare(ls->db, "SELECT owner, registry, username, created, sealed FROM logins", &st, err);
        while (r == 0 && (r = state_db_step(ls->db, st, err)) > 0) {
                auto_secret password = STR_INIT;
                struct row *row = NULL;

                r = row_read(st, &row, err);
                if (r == 0 && row_open(ls, row, &password) < 0) {
                        log_warn("the login of %s at %s cannot be opened: it was sealed by another key", row->owner,
                                 row->registry);
                        row_free(row);
                } else if (r == 0 && row_put(ls, row) < 0) {
                        row_free(row);
                        r = err_oom(err);
                }
        }
        state_db_end(st);
        return r;
}

static void logins_drop(struct logins *ls)
{
        const char *key;
        size_t pos = 0;
        void *row;

        while (ls->rows && map_next(ls->rows, &pos, &key, &row))
                row_free(row);
        map_free(ls->rows);
        free(ls);
}

int logins_new(struct loop *loop, struct state_db *db, const struct seal *seal, struct logins **ret, struct err *err)
{
        struct logins *ls = calloc(1, sizeof(*ls));
        int r;

        if (!ls)
                return err_oom(err);
        *ls = (struct logins){ .loop = loop, .db = db, .seal = seal, .rows = map_new() };
        r = ls->rows ? read_all(ls, err) : err_oom(err);
        if (r < 0) {
                logins_drop(ls);
                return r;
        }
        *ret = ls;
        return 0;
}

void logins_free(struct logins *ls)
{
        if (!ls)
                return;
        ls->closed = true;
        while (ls->pending > 0)
                if (loop_turn(ls->loop, -1, NULL) < 0)
                        return; /* what the threads still hold is not freed under them */
        logins_drop(ls);
}

bool logins_find(const struct logins *ls, const char *owner, const char *registry, struct str *username,
                 struct str *password)
{
        auto_free char *key = row_key(owner, registry);
        const struct row *row = key ? map_find(ls->rows, key) : NULL;

        return row && row_open(ls, row, password) == 0 && str_adds(username, row->username) == 0;
}

bool logins_next(const struct logins *ls, const char *owner, size_t *pos, struct login *ret)
{
        const char *key;
        void *value;

        while (map_next(ls->rows, pos, &key, &value)) {
                const struct row *row = value;

                if (!str_eq(row->owner, owner))
                        continue;
                *ret = (struct login){ row->registry, row->username, row->created_ms };
                return true;
        }
        return false;
}

/* ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct job {
        struct logins *ls;
        struct row *row;        /* to be written; NULL: a removal */
        char *owner, *registry; /* of a removal; registry NULL: all */
        logins_done_fn done;
        void *data;
        int r;
        struct err err;
};

static void job_free(struct job *job)
{
        row_free(job->row);
        free(job->owner);
        free(job->registry);
        free(job);
}

static void job_run(void *data)
{
        struct job *job = data;

        job->r = job->row ? store_set(job->ls->db, job->row, &job->err)
                          : store_remove(job->ls->db, job->owner, job->registry, &job->err);
}

/* registry NULL: all of the owner's. */
static bool rows_drop(struct logins *ls, const char *owner, const char *registry)
{
        struct login login;
        size_t pos = 0;
        bool any = false;

        while (logins_next(ls, owner, &pos, &login)) {
                auto_free char *key = registry && !str_eq(registry, login.registry) ? NULL
                                                                                    : row_key(owner, login.registry);

                if (!key)
                        continue;
                row_free(map_remove(ls->rows, key));
                any = true;
        }
        return any;
}

static void job_done(void *data)
{
        struct job *job = data;
        struct logins *ls = job->ls;

        ls->pending--;
        /* What was being written when this removal was asked for has arrived meanwhile. */
        if (!job->row)
                (void)rows_drop(ls, job->owner, job->registry);
        if (job->r == 0 && job->row) {
                if (row_put(ls, job->row) < 0)
                        job->r = err_oom(&job->err);
                else
                        job->row = NULL;
        }
        if (job->done && !ls->closed)
                job->done(job->r, job->r < 0 ? &job->err : NULL, job->data);
        else if (job->r < 0)
                log_warn("logins: %s", job->err.text);
        job_free(job);
}

static int job_start(struct job *job, struct err *err)
{
        int r = loop_work(job->ls->loop, STATE_QUEUE, job_run, job_done, job);

        if (r < 0)
                return err_set(err, -r, "the login cannot be written now: %s", strerror(-r));
        job->ls->pending++;
        return 0;
}

static int check(const struct logins *ls, const char *owner, const char *registry, const char *username,
                 const char *password, struct err *err)
{
        auto_free char *key = row_key(owner, registry);
        struct login login;
        size_t pos = 0, n = 0;

        if (!key)
                return err_oom(err);
        if (!*registry || strlen(registry) > LOGIN_REGISTRY_MAX || strchr(registry, '\n'))
                return err_set(err, EINVAL, "the registry is no host");
        if (!*username || strlen(username) > LOGIN_USERNAME_MAX || !*password || strlen(password) > LOGIN_PASSWORD_MAX)
                return err_set(err, EINVAL, "the user name or the password is empty or too long");
        if (map_find(ls->rows, key))
                return 0;
        while (logins_next(ls, owner, &pos, &login))
                n++;
        if (n >= LOGINS_OWNER_MAX || map_len(ls->rows) >= LOGINS_MAX)
                return err_set(err, ENOSPC, "there are too many logins already: log out somewhere");
        return 0;
}

int logins_set(struct logins *ls, const char *owner, const char *registry, const char *username, const char *password,
               logins_done_fn fn, void *data, struct err *err)
{
        struct job *job;
        int r;

        r = check(ls, owner, registry, username, password, err);
        if (r < 0)
                return r;
        job = calloc(1, sizeof(*job));
        if (!job)
                return err_oom(err);
        *job = (struct job){ .ls = ls, .done = fn, .data = data, .row = calloc(1, sizeof(struct row)) };
        if (job->row) {
                *job->row = (struct row){ .owner = strdup(owner),
                                          .registry = strdup(registry),
                                          .username = strdup(username),
                                          .created_ms = time_real_ms(),
                                          .sealed = STR_INIT };
        }
        r = job->row && job->row->owner && job->row->registry && job->row->username ? row_seal(ls, job->row, password)
                                                                                    : -ENOMEM;
        if (r < 0)
                (void)err_set(err, -r, "the login cannot be sealed: %s", strerror(-r));
        else
                r = job_start(job, err);
        if (r < 0)
                job_free(job);
        return r;
}

static int start_removal(struct logins *ls, const char *owner, const char *registry, logins_done_fn fn, void *data,
                         struct err *err)
{
        struct job *job = calloc(1, sizeof(*job));
        int r;

        if (!job)
                return err_oom(err);
        *job = (struct job){ .ls = ls,
                             .done = fn,
                             .data = data,
                             .owner = strdup(owner),
                             .registry = registry ? strdup(registry) : NULL };
        r = job->owner && (!registry || job->registry) ? job_start(job, err) : err_oom(err);
        if (r < 0)
                job_free(job);
        return r;
}

int logins_remove(struct logins *ls, const char *owner, const char *registry, logins_done_fn fn, void *data,
                  struct err *err)
{
        auto_free char *key = row_key(owner, registry);

        if (!key)
                return err_oom(err);
        if (!map_find(ls->rows, key))
                return err_set(err, ENOENT, "there is no login at %s", registry);
        row_free(map_remove(ls->rows, key));
        return start_removal(ls, owner, registry, fn, data, err);
}

void logins_forget(struct logins *ls, const char *owner)
{
        bool any = rows_drop(ls, owner, NULL);

        if ((any || ls->pending > 0) && start_removal(ls, owner, NULL, NULL, NULL, NULL) < 0)
                log_warn("logins of %s: they cannot be removed now", owner);
}
