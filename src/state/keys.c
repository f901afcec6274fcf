#include "state/keys.h"

#include "base/map.h"
#include "base/str.h"
#include "base/time.h"
#include "base/vec.h"
#include "state/internal.h"

#include <errno.h>
#include <fnmatch.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define SECRET_GIVEN_MAX 256 /* bytes that are looked at */
#define USE_STEP_MS 60000
#define USE_WRITE_NS (60 * NS_PER_S)

const char *const key_role_names[] = { "admin", "deploy", "task", "read", NULL };

struct keys {
        struct loop *loop;
        struct state_db *db;
        EVP_MD *sha256; /* looked up once: that costs more than the hash itself */
        EVP_MD_CTX *hasher;
        struct map *by_id;
        VEC(struct key_row *) rows; /* the oldest first */
        struct key_row nobody;      /* what an unknown id is compared with */
        void (*revoked)(const struct key *key, void *data);
        void *revoked_data;
        struct loop_timer use_timer;
        unsigned pending, making; /* jobs; those that make a key */
        bool closed;
};

/* ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int hash_secret(const struct keys *ks, const struct key_row *row, const char *secret, uint8_t out[KEY_HASH_LEN])
{
        if (EVP_DigestInit_ex(ks->hasher, ks->sha256, NULL) != 1 ||
            EVP_DigestUpdate(ks->hasher, row->salt, KEY_SALT_LEN) != 1 ||
            EVP_DigestUpdate(ks->hasher, secret, strnlen(secret, SECRET_GIVEN_MAX)) != 1 ||
            EVP_DigestFinal_ex(ks->hasher, out, NULL) != 1)
                return -EIO;
        return 0;
}

/* Each of the first n characters of the alphabet is as likely as any other. */
static int random_text(char *out, size_t len, const char *alphabet, size_t n)
{
        uint8_t byte;

        for (size_t i = 0; i < len;) {
                if (RAND_priv_bytes(&byte, 1) != 1)
                        return -EIO;
                if (byte < 256 / n * n)
                        out[i++] = alphabet[byte % n];
        }
        out[len] = '\0';
        return 0;
}

static int draw(const struct keys *ks, struct key_row *row, char secret[KEY_SECRET_LEN + 1])
{
        static const char alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

        do {
                if (random_text(row->key.id, KEY_ID_LEN, alphabet, 36) < 0)
                        return -EIO;
        } while (map_find(ks->by_id, row->key.id));
        (void)snprintf(row->key.owner, sizeof(row->key.owner), "key:%s", row->key.id);
        if (random_text(secret, KEY_SECRET_LEN, alphabet, 62) < 0 || RAND_bytes(row->salt, KEY_SALT_LEN) != 1)
                return -EIO;
        return hash_secret(ks, row, secret, row->hash);
}

/* ── the keys in memory ──────────────────────────────────────────────────────────────────────────────────────────── */

static int row_insert(struct keys *ks, struct key_row *row)
{
        if (VEC_ADD(&ks->rows, row) < 0) // NOLINT(bugprone-sizeof-expression)
                return -ENOMEM;
        if (map_set(ks->by_id, row->key.id, row) < 0) {
                ks->rows.len--;
                return -ENOMEM;
        }
        return 0;
}

static void row_drop(struct keys *ks, const char *id)
{
        struct key_row *row = map_remove(ks->by_id, id);
        size_t kept = 0;

        for (size_t i = 0; i < ks->rows.len; i++)
                if (ks->rows.items[i] != row)
                        ks->rows.items[kept++] = ks->rows.items[i];
        ks->rows.len = kept;
        key_row_free(row);
}

static int on_row(struct key_row *row, void *data, struct err *err)
{
        if (row_insert(data, row) == 0)
                return 0;
        key_row_free(row);
        return err_oom(err);
}

static void keys_drop(struct keys *ks)
{
        for (size_t i = 0; i < ks->rows.len; i++)
                key_row_free(ks->rows.items[i]);
        VEC_DONE(&ks->rows);
        map_free(ks->by_id);
        EVP_MD_CTX_free(ks->hasher);
        EVP_MD_free(ks->sha256);
        free(ks);
}

int keys_new(struct loop *loop, struct state_db *db, struct keys **ret, struct err *err)
{
        struct keys *ks;
        int r;

        ks = calloc(1, sizeof(*ks));
        if (!ks)
                return err_oom(err);
        ks->loop = loop;
        ks->db = db;
        ks->by_id = map_new();
        ks->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
        ks->hasher = EVP_MD_CTX_new();
        if (!ks->by_id || !ks->sha256 || !ks->hasher)
                r = err_oom(err);
        else if (RAND_bytes((uint8_t *)ks->nobody.salt, KEY_SALT_LEN) != 1)
                r = err_set(err, EIO, "no random bytes");
        else
                r = key_store_read(db, on_row, ks, err);
        if (r < 0) {
                keys_drop(ks);
                return r;
        }
        *ret = ks;
        return 0;
}

bool key_is_live(const struct key *k)
{
        return k->revoked_ms == 0 && (k->expires_ms == 0 || time_real_ms() < k->expires_ms);
}

const struct key *keys_find(const struct keys *ks, const char *id)
{
        const struct key_row *row = map_find(ks->by_id, id);

        return row ? &row->key : NULL;
}

const struct key *keys_at(const struct keys *ks, size_t i)
{
        return i < ks->rows.len ? &ks->rows.items[ks->rows.len - 1 - i]->key : NULL;
}

void keys_on_revoke(struct keys *ks, void (*fn)(const struct key *key, void *data), void *data)
{
        ks->revoked = fn;
        ks->revoked_data = data;
}

/* ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct job {
        struct keys *ks;
        struct key_row *row;             /* a key that is made */
        char secret[KEY_SECRET_LEN + 1]; /* its secret */
        char id[KEY_ID_LEN + 1];         /* that is revoked, or goes for the new one; "": none */
        uint64_t revoked_ms;
        VEC(struct key_use) uses;
        keys_made_fn made;
        keys_done_fn done;
        void *data;
        int r;
        struct err err;
};

static void job_free(struct job *job)
{
        OPENSSL_cleanse(job->secret, sizeof(job->secret));
        key_row_free(job->row);
        VEC_DONE(&job->uses);
        free(job);
}

static int job_start(struct job *job, void (*run)(void *), void (*done)(void *), struct err *err)
{
        int r = loop_work(job->ks->loop, STATE_QUEUE, run, done, job);

        if (r < 0)
                return err_set(err, -r, "the keys cannot be written now: %s", strerror(-r));
        job->ks->pending++;
        return 0;
}

static struct job *job_new(struct keys *ks, void *data)
{
        struct job *job = calloc(1, sizeof(*job));

        if (job) {
                job->ks = ks;
                job->data = data;
        }
        return job;
}

/* ── making ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void create_run(void *data)
{
        struct job *job = data;

        job->r = key_store_add(job->ks->db, job->row, *job->id ? job->id : NULL, &job->err);
}

static void create_done(void *data)
{
        struct job *job = data;
        struct keys *ks = job->ks;
        const struct key *key = NULL;

        ks->pending--;
        ks->making--;
        if (job->r == 0) {
                if (*job->id)
                        row_drop(ks, job->id);
                if (row_insert(ks, job->row) < 0)
                        job->r = err_oom(&job->err);
                else
                        key = &TAKE_PTR(job->row)->key;
        }
        if (!ks->closed)
                job->made(job->r, key, key ? job->secret : NULL, key ? NULL : &job->err, job->data);
        job_free(job);
}

static int strv_copy(char *const *from, char ***to)
{
        if (!from)
                return 0;
        *to = strv_dup(from);
        return *to ? 0 : -ENOMEM;
}

static struct key_row *row_of(const struct key *wanted)
{
        struct key_row *row = calloc(1, sizeof(*row));
        struct key *k;

        if (!row)
                return NULL;
        k = &row->key;
        k->role = wanted->role;
        k->created_ms = time_real_ms();
        k->expires_ms = wanted->expires_ms;
        k->maxima = wanted->maxima;
        k->name = strdup(wanted->name ? wanted->name : "");
        if (!k->name || strv_copy(wanted->images, &k->images) < 0 || strv_copy(wanted->networks, &k->networks) < 0 ||
            strv_copy(wanted->engines, &k->engines) < 0) {
                key_row_free(row);
                return NULL;
        }
        return row;
}

static int list_check(char *const *list, const char *what, struct err *err)
{
        if (list && (!list[0] || strv_len(list) > KEY_LIST_MAX))
                return err_set(err, EINVAL, "%s: not 1 to %d entries", what, KEY_LIST_MAX);
        for (; list && *list; list++)
                if (!**list || strlen(*list) > KEY_PATTERN_MAX)
                        return err_set(err, EINVAL, "%s: an entry is empty or longer than %d bytes", what,
                                       KEY_PATTERN_MAX);
        return 0;
}

static int wanted_check(const struct key *k, struct err *err)
{
        int r;

        if ((unsigned)k->role >= KEY_ROLES)
                return err_set(err, EINVAL, "there is no such role");
        if (k->name && (strlen(k->name) > KEY_NAME_MAX || !utf8_valid(k->name, strlen(k->name))))
                return err_set(err, EINVAL, "the name is longer than %d bytes, or no UTF-8", KEY_NAME_MAX);
        if (k->expires_ms != 0 && k->expires_ms <= time_real_ms())
                return err_set(err, EINVAL, "the key would have expired already");
        r = list_check(k->images, "images", err);
        if (r == 0)
                r = list_check(k->networks, "networks", err);
        if (r == 0)
                r = list_check(k->engines, "engines", err);
        return r;
}

/* Where the table is full, the oldest key that nobody can use goes. */
static int room_make(struct keys *ks, char id[KEY_ID_LEN + 1], struct err *err)
{
        if (ks->rows.len + ks->making < KEYS_MAX)
                return 0;
        for (size_t i = 0; i < ks->rows.len && ks->making == 0; i++) {
                if (key_is_live(&ks->rows.items[i]->key))
                        continue;
                memcpy(id, ks->rows.items[i]->key.id, KEY_ID_LEN + 1);
                return 0;
        }
        return err_set(err, ENOSPC, "there are %d keys already: revoke some", KEYS_MAX);
}

int keys_create(struct keys *ks, const struct key *wanted, keys_made_fn fn, void *data, struct err *err)
{
        struct job *job;
        int r;

        r = wanted_check(wanted, err);
        if (r < 0)
                return r;
        job = job_new(ks, data);
        if (!job)
                return err_oom(err);
        job->made = fn;
        job->row = row_of(wanted);
        if (!job->row)
                r = err_oom(err);
        else if (draw(ks, job->row, job->secret) < 0)
                r = err_set(err, EIO, "no random bytes");
        else
                r = room_make(ks, job->id, err);
        if (r == 0)
                r = job_start(job, create_run, create_done, err);
        if (r < 0)
                job_free(job);
        else
                ks->making++;
        return r;
}

/* ── revoking ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void revoke_run(void *data)
{
        struct job *job = data;

        job->r = key_store_revoke(job->ks->db, job->id, job->revoked_ms, &job->err);
}

static void revoke_done(void *data)
{
        struct job *job = data;

        job->ks->pending--;
        if (!job->ks->closed)
                job->done(job->r, job->r < 0 ? &job->err : NULL, job->data);
        job_free(job);
}

/* Also where the store fails: a key that somebody wanted to go is not to be used. */
static void revoke_now(struct keys *ks, struct key *k)
{
        if (k->revoked_ms != 0)
                return;
        k->revoked_ms = time_real_ms();
        if (ks->revoked)
                ks->revoked(k, ks->revoked_data);
}

int keys_revoke(struct keys *ks, const char *id, keys_done_fn fn, void *data, struct err *err)
{
        struct key_row *row = map_find(ks->by_id, id);
        struct job *job;
        int r;

        if (!row)
                return err_set(err, ENOENT, "there is no key %s", id);
        revoke_now(ks, &row->key);
        job = job_new(ks, data);
        if (!job)
                return err_oom(err);
        job->done = fn;
        job->revoked_ms = row->key.revoked_ms;
        memcpy(job->id, row->key.id, sizeof(job->id));
        r = job_start(job, revoke_run, revoke_done, err);
        if (r < 0)
                job_free(job);
        return r;
}

/* ── use ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void use_run(void *data)
{
        struct job *job = data;

        job->r = key_store_use(job->ks->db, job->uses.items, job->uses.len, &job->err);
}

static void use_done(void *data)
{
        struct job *job = data;

        job->ks->pending--;
        job_free(job);
}

static void uses_collect(struct keys *ks, struct job *job)
{
        for (size_t i = 0; i < ks->rows.len; i++) {
                struct key_row *row = ks->rows.items[i];
                struct key_use use = { .used_ms = row->key.used_ms };

                if (!row->used)
                        continue;
                memcpy(use.id, row->key.id, sizeof(use.id));
                if (VEC_ADD(&job->uses, use) < 0)
                        return;
                row->used = false;
        }
}

/* That a use is not written is no reason to trouble anybody. */
static void uses_write(struct keys *ks)
{
        struct job *job = job_new(ks, NULL);

        if (!job)
                return;
        uses_collect(ks, job);
        if (job->uses.len == 0 || job_start(job, use_run, use_done, NULL) < 0)
                job_free(job);
}

static void on_use_timer(struct loop_timer *timer, void *data)
{
        (void)timer;
        uses_write(data);
}

static void use_note(struct keys *ks, struct key_row *row)
{
        uint64_t now = time_real_ms() / USE_STEP_MS * USE_STEP_MS;

        if (row->key.used_ms == now)
                return;
        row->key.used_ms = now;
        row->used = true;
        if (ks->use_timer.heap_index == 0)
                (void)loop_timer_set(ks->loop, &ks->use_timer, time_mono_ns() + USE_WRITE_NS, on_use_timer, ks);
}

/* ── verification ────────────────────────────────────────────────────────────────────────────────────────────────── */

const struct key *keys_verify(struct keys *ks, const char *id, const char *secret)
{
        struct key_row *known = map_find(ks->by_id, id);
        const struct key_row *row = known ? known : &ks->nobody;
        uint8_t hash[KEY_HASH_LEN];
        bool same;

        if (hash_secret(ks, row, secret, hash) < 0)
                return NULL;
        same = CRYPTO_memcmp(hash, row->hash, sizeof(hash)) == 0;
        if (!known || !same || !key_is_live(&known->key))
                return NULL;
        use_note(ks, known);
        return &known->key;
}

void keys_free(struct keys *ks)
{
        if (!ks)
                return;
        ks->closed = true;
        loop_timer_cancel(&ks->use_timer);
        uses_write(ks);
        while (ks->pending > 0)
                if (loop_turn(ks->loop, -1, NULL) < 0)
                        return; /* what the threads still hold is not freed under them */
        keys_drop(ks);
}

/* ── what a key may ──────────────────────────────────────────────────────────────────────────────────────────────── */

static bool list_allows(char *const *list, const char *value, bool pattern)
{
        if (!list)
                return true;
        for (; *list; list++)
                if (pattern ? fnmatch(*list, value, 0) == 0 : str_eq(*list, value))
                        return true;
        return false;
}

bool key_allows_image(const struct key *k, const char *ref)
{
        return list_allows(k->images, ref, true);
}

bool key_allows_network(const struct key *k, const char *mode)
{
        return list_allows(k->networks, mode, false);
}

bool key_allows_engine(const struct key *k, const char *engine)
{
        return list_allows(k->engines, engine, false);
}
