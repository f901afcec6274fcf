/* Keys: who may use the API over the network, in what role, and with what bounds.
 *
 * A key is shown once, as `id:secret`. The id is public: it names the key in lists and logs, and the owner of what the key
 * makes is "key:<id>". The secret is 256 random bits, so the store holds only a salted SHA-256 of it: a slow function
 * (scrypt, Argon2) defends passwords, of which a dictionary holds the likely ones; 2^256 equally likely secrets cannot be
 * tried at any speed, and a slow one would cost each request a hundred times what authentication, limits and history may cost
 * together (0.1 ms). The comparison takes as long for a wrong secret and for an unknown id as for the right one.
 *
 * All keys are held in memory, by which requests are verified; every change is written on the loop's work queue and takes
 * effect in memory at once, or, where it grants something, after its commit. One thread. */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_ID_LEN 12     /* [0-9a-z] */
#define KEY_SECRET_LEN 43 /* [0-9A-Za-z]; 256 bits */
#define KEY_NAME_MAX 64
#define KEY_OWNER_MAX 32
#define KEY_LIST_MAX 64 /* entries of images, networks, engines each */
#define KEY_PATTERN_MAX 511
#define KEYS_MAX 10000 /* revoked and expired ones make room, the oldest first */

/* admin: all. deploy: images. task: tasks of its own, and images to read. read: everything, without changing anything. What
 * exactly stands in api/roles.c. */
enum key_role { KEY_ADMIN, KEY_DEPLOY, KEY_TASK, KEY_READ };
#define KEY_ROLES 4
extern const char *const key_role_names[]; /* NULL-terminated, in the enum's order */

/* Maxima of what a request of this key may ask for, and of what the key may have at once. 0: none of its own. Units as in
 * struct wire_limits. */
struct key_maxima {
        int64_t memory, disk, shm, output; /* bytes */
        int64_t cpu_milli, pids;
        int64_t timeout_ns, queue_timeout_ns, cpu_time_ns; /* with a maximum of time, "no limit" becomes it */
        uint32_t max_running, max_queued;                  /* tasks */
        uint32_t max_connections;                          /* requests that are being answered */
        double rate;                                       /* requests a second… */
        uint32_t burst; /* …and how many may come at once; 0: as many as come in 2 s */
};

/* One key. What the secret is, nobody can ask. */
struct key {
        char id[KEY_ID_LEN + 1];
        char owner[KEY_OWNER_MAX]; /* "key:<id>" */
        char *name;                /* what people call it; may be "" */
        enum key_role role;
        uint64_t created_ms;
        uint64_t expires_ms; /* 0: never */
        uint64_t revoked_ms; /* 0: no */
        uint64_t used_ms;    /* to the minute; 0: never */
        struct key_maxima maxima;
        char **images;   /* glob patterns (fnmatch(3) without flags: '*' matches '/' too) over the normalised reference,
                            "docker.io/library/busybox:*"; NULL: all */
        char **networks; /* "none", "nat", "internet"; NULL: all */
        char **engines;  /* NULL: all */
};

struct keys;
struct state_db;

/* Reads all keys; blocks. Borrows the database, which must live until keys_free(). */
int keys_new(struct loop *loop, struct state_db *db, struct keys **ret, struct err *err);
/* Finishes what is being written, turning the loop, so not from within a callback. Accepts NULL. */
void keys_free(struct keys *ks);

/* Verifies. A peek, valid until the loop's next turn, or NULL: unknown, wrong, revoked, expired. Costs some microseconds, the
 * same for each of these. Notes the use. */
const struct key *keys_verify(struct keys *ks, const char *id, const char *secret);

const struct key *keys_find(const struct keys *ks, const char *id); /* also revoked and expired ones; peek or NULL */
bool key_is_live(const struct key *k);                              /* not revoked, not expired */

/* The i-th of all keys, the newest first: a peek, valid until the next change; NULL after the last. */
const struct key *keys_at(const struct keys *ks, size_t i);

/* What a new key shall be; all is copied. id, owner, created_ms, revoked_ms and used_ms are not looked at. */
typedef void (*keys_made_fn)(int r, const struct key *key, const char *secret, const struct err *err, void *data);
/* fn after the commit, with the secret, which is wiped when it returns. -EINVAL with a text: expired already, a name or pattern
 * that is too long; -ENOSPC: KEYS_MAX live ones. */
int keys_create(struct keys *ks, const struct key *wanted, keys_made_fn fn, void *data, struct err *err);

typedef void (*keys_done_fn)(int r, const struct err *err, void *data);
/* Takes effect at once; fn after the commit. Revoking again changes nothing. -ENOENT. */
int keys_revoke(struct keys *ks, const char *id, keys_done_fn fn, void *data, struct err *err);

/* Told of each key that is revoked, at once, so that what it has open can be ended. */
void keys_on_revoke(struct keys *ks, void (*fn)(const struct key *key, void *data), void *data);

/* Whether the key may use that image (normalised), network, engine. */
bool key_allows_image(const struct key *k, const char *ref);
bool key_allows_network(const struct key *k, const char *mode);
bool key_allows_engine(const struct key *k, const char *engine);
