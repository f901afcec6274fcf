/* Which of a blob's sources brings it. A source is a registry, a repository and credentials: of those who want one blob by its
 * digest some may name others, and one of these may drip, hang, or lie.
 *
 *   - A source that would take long has turns: after one, the next that was not tried yet goes on from the bytes that are here;
 *     then the fastest stays. Who drips is left for others more than once, of each owner in turn; the number is bounded.
 *   - One that fails is left for the next. What fails for good (no access, not there, wrong bytes) its own jobs are told at
 *     once, a failure of the moment only when nobody else is left.
 *   - Where bytes of several are together and the digest is another, nobody is known to be wrong: from then on each brings the
 *     whole blob alone, the fastest first.
 *   - An owner whose sources gave wrong bytes comes after all others, also with new ones, and nobody is left for him.
 *
 * Nothing here does anything: it is told what happens, and answers what to do. */
#pragma once

#include "base/err.h"
#include "base/list.h"
#include "base/time.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOURCE_TURN_NS (4 * NS_PER_S)      /* the first of a source; of one that is silent the next is twice as long */
#define SOURCE_SOON_S 10                   /* what will end within that many seconds is not interrupted */
#define SOURCE_DRIP ((uint64_t)256 * 1024) /* bytes a second, below which others are tried again and again… */
#define SOURCE_TURNS_MAX 3                 /* …this often each */
#define SOURCE_TRIALS_MAX 64               /* of a blob, in all */
#define SOURCE_CHANGES_MAX 16              /* of a blob, to a source that was faster before */
#define SOURCES_KEPT 32                    /* beyond these, those that nobody needs are forgotten… */
#define SOURCES_WRONG_KEPT 128             /* …and beyond these those that were wrong */

/* All copied. */
struct source_id {
        const char *domain, *path, *key; /* key: of the credentials (registry_credentials_key()) */
        const char *owner;               /* says nothing of which source it is, only who is next */
};

struct source {
        struct list node;
        char *domain, *path, *key, *owner;
        unsigned users; /* who want the blob, and name this */
        bool several;   /* owners have named it */
        unsigned turns;
        unsigned wrong; /* how often its bytes were others */
        uint64_t rate;  /* bytes a second, when it was measured last; 0: not known, or none came */
        bool direct;    /* its mirrors have other bytes */
        int result;     /* < 0: it has failed */
        struct err err;
        unsigned retry_after_s;
};

struct sources {
        struct list all;
        struct source *now;         /* whose turn it is; NULL: nobody's */
        const struct source *giver; /* of all bytes that are here; NULL: nobody yet, or mixed */
        bool mixed;                 /* of several, or it is not known of whom */
        bool alone;                 /* they are not to be mixed any more */
        bool trial;                 /* the turn shows what `now` can */
        uint64_t turn_ns, until_ns, turn_bytes;
        unsigned trials, changes;
};

void sources_init(struct sources *s);
void sources_done(struct sources *s);

struct source *sources_find(const struct sources *s, const struct source_id *id); /* NULL */
/* One user more: who comes anew may also have what failed before tried again. -ENOMEM */
int sources_join(struct sources *s, const struct source_id *id, struct err *err);
void sources_leave(struct sources *s, const struct source_id *id);
bool sources_several(const struct sources *s); /* whether there is somebody to change to */

/* Who is to begin: of owners who gave the fewest wrong bytes the fastest that has users and has not failed, else the one with the
 * fewest turns. NULL: nobody is left. */
struct source *sources_next(const struct sources *s);
/* Whose users are to be told: who failed for good; with `all` whoever failed. NULL: nobody. */
bool source_is_passing(int r); /* a failure of the moment: another time it may go well */
struct source *sources_failed(const struct sources *s, bool all);

void sources_begin(struct sources *s, struct source *x, uint64_t now_ns); /* a turn */
void sources_have(struct sources *s, uint64_t bytes); /* found on disk, before the first turn of a download */
void sources_took(struct sources *s, size_t bytes);
void sources_ended(struct sources *s, uint64_t now_ns); /* nothing more comes in this turn */
void sources_rest(struct sources *s, uint64_t now_ns);  /* the disk holds it up, which says nothing of the source */
void sources_fail(struct sources *s, int r, const struct err *err, unsigned retry_after_s); /* `now`, whose turn ends */
void sources_part(struct sources *s); /* the digest of mixed bytes is wrong: alone from now on, and from nothing */

/* What of `size` bytes is here; whoever is to go on, or if alone to begin anew: NULL: nothing changes. */
struct source *sources_change(struct sources *s, uint64_t size, uint64_t have, uint64_t now_ns);
