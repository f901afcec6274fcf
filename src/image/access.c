#include "image/access.h"

#include "base/fd.h"
#include "base/map.h"
#include "base/str.h"
#include "image/manifest.h"
#include "image/registry_url.h"
#include "json/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME "access.json"
#define SUM "sum"                 /* digest of the file's JSON without it; files of older daemons have none */
#define WRITE_STEP_MS (60 * 1000) /* a proof that is younger on disk need not be written again */

static char closed;

struct proof {
        uint64_t at_ms, written_ms;
};

struct access {
        struct access_config config;
        struct map *repositories; /* "docker.io/library/busybox": closed */
        struct map *proofs;       /* "owner\nrepository": struct proof */
};

/* However the registry is written, it is one. */
static char *repository_key(const struct image_ref *ref)
{
        char name[256];

        return str_printf("%s/%s", registry_name(ref->domain, name, NULL) == 0 ? name : ref->domain, ref->path);
}

static char *proof_key(const char *owner, const struct image_ref *ref)
{
        auto_free char *repository = repository_key(ref);

        return repository ? str_printf("%s\n%s", owner, repository) : NULL;
}

/* The same of what a file says, which always names the registry, also one whose name Docker takes for none (myhost/tool). */
static char *key_of_text(const char *text)
{
        struct image_ref ref;

        return image_ref_parse(text, &ref, NULL) == 0 && ref.domain[0] ? repository_key(&ref) : strdup(text);
}

bool access_is_closed(const struct access *a, const struct image_ref *ref)
{
        auto_free char *key = repository_key(ref);

        /* Without memory for the question the answer is the safe one. */
        return !key || map_find(a->repositories, key);
}

enum access_proof access_look(const struct access *a, const char *owner, const struct image_ref *ref, uint64_t now_ms)
{
        auto_free char *key = proof_key(owner, ref);
        const struct proof *p = key ? map_find(a->proofs, key) : NULL;
        uint64_t age;

        if (!p)
                return ACCESS_NONE;
        /* A clock that was set back makes no proof younger. */
        age = now_ms >= p->at_ms ? now_ms - p->at_ms : UINT64_MAX;
        return age <= a->config.fresh_ms ? ACCESS_FRESH : age <= a->config.hold_ms ? ACCESS_HELD : ACCESS_NONE;
}

bool access_close(struct access *a, const struct image_ref *ref)
{
        auto_free char *key = repository_key(ref);

        if (!key || map_find(a->repositories, key) || map_len(a->repositories) >= ACCESS_REPOSITORIES_MAX)
                return false;
        return map_set(a->repositories, key, &closed) == 0;
}

bool access_reopen(struct access *a, const struct image_ref *ref)
{
        auto_free char *key = repository_key(ref);

        return key && map_remove(a->repositories, key) != NULL;
}

static void drop_stale(struct access *a, uint64_t now_ms)
{
        const char *key;
        size_t pos = 0;
        void *value;

        while (map_next(a->proofs, &pos, &key, &value)) {
                const struct proof *p = value;

                if (now_ms - MIN(now_ms, p->at_ms) > a->config.hold_ms)
                        free(map_remove(a->proofs, key));
        }
}

static int set_proof(struct access *a, const char *key, uint64_t at_ms, bool *ret_write)
{
        struct proof *p = map_find(a->proofs, key);

        if (!p) {
                if (map_len(a->proofs) >= ACCESS_PROOFS_MAX)
                        drop_stale(a, at_ms);
                if (map_len(a->proofs) >= ACCESS_PROOFS_MAX)
                        return -ENOSPC;
                p = calloc(1, sizeof(*p));
                if (!p || map_set(a->proofs, key, p) < 0) {
                        free(p);
                        return -ENOMEM;
                }
        }
        p->at_ms = at_ms;
        *ret_write = at_ms - MIN(at_ms, p->written_ms) >= WRITE_STEP_MS;
        if (*ret_write)
                p->written_ms = at_ms;
        return 0;
}

bool access_prove(struct access *a, const char *owner, const struct image_ref *ref, uint64_t now_ms)
{
        auto_free char *key = proof_key(owner, ref);
        bool write = false;

        return key && set_proof(a, key, now_ms, &write) == 0 && write;
}

bool access_forget(struct access *a, const char *owner, const struct image_ref *ref)
{
        auto_free char *key = proof_key(owner, ref);
        struct proof *p = key ? map_remove(a->proofs, key) : NULL;

        free(p);
        return p != NULL;
}

/* ── on disk ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int add_proofs(const struct access *a, json_t *list, uint64_t now_ms)
{
        const char *key;
        size_t pos = 0;
        void *value;

        while (map_next(a->proofs, &pos, &key, &value)) {
                const struct proof *p = value;
                const char *feed = strchr(key, '\n');

                if (!feed || now_ms - MIN(now_ms, p->at_ms) > a->config.hold_ms)
                        continue;
                if (json_array_append_new(list, json_pack("{s:s%, s:s, s:I}", "owner", key, (size_t)(feed - key),
                                                          "repository", feed + 1, "at", (json_int_t)p->at_ms)) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* Behind the last member. */
static int add_sum(struct str *text, struct err *err)
{
        char digest[IMAGE_DIGEST_MAX];
        int r = image_sha256_text(text->data, text->len, digest, err);

        if (r < 0)
                return r;
        text->data[--text->len] = '\0';
        return str_addf(text, ",\"" SUM "\":\"%s\"}", digest) < 0 ? err_oom(err) : 0;
}

int access_text(const struct access *a, uint64_t now_ms, char **ret, struct err *err)
{
        auto_json o = json_pack("{s:[], s:[]}", "closed", "proofs");
        auto_str text = STR_INIT;
        int r;
        const char *key;
        size_t pos = 0;
        void *value;
        bool bad = !o;

        while (!bad && map_next(a->repositories, &pos, &key, &value))
                bad = json_array_append_new(json_object_get(o, "closed"), json_string(key)) < 0;
        if (bad || add_proofs(a, json_object_get(o, "proofs"), now_ms) < 0 || json_write(o, &text) < 0)
                return err_oom(err);
        r = add_sum(&text, err);
        if (r < 0)
                return r;
        *ret = str_take(&text);
        return *ret ? 0 : err_oom(err);
}

int access_write(int dirfd, const char *text, struct err *err)
{
        return fd_write_file(dirfd, FILE_NAME, 0600, text, strlen(text), err);
}

/* What is not as it was written is damaged: a list of what is closed that is not found would open all of it. */
static int take(struct access *a, const json_t *o)
{
        const json_t *names = json_object_get(o, "closed"), *proofs = json_object_get(o, "proofs"), *v;
        size_t i;

        if (!json_is_array(names) || !json_is_array(proofs))
                return -EBADMSG;
        json_array_foreach(names, i, v) {
                auto_free char *key = json_is_string(v) ? key_of_text(json_string_value(v)) : NULL;

                if (!json_is_string(v))
                        return -EBADMSG;
                if (!key || map_set(a->repositories, key, &closed) < 0)
                        return -ENOMEM;
        }
        json_array_foreach(proofs, i, v) {
                const char *owner = json_string_value(json_object_get(v, "owner"));
                const char *repository = json_string_value(json_object_get(v, "repository"));
                json_int_t at = json_integer_value(json_object_get(v, "at"));
                auto_free char *named = repository ? key_of_text(repository) : NULL;
                auto_free char *key = owner && named ? str_printf("%s\n%s", owner, named) : NULL;
                bool write;

                if (owner && repository && !key)
                        return -ENOMEM;
                if (key && at > 0 && set_proof(a, key, (uint64_t)at, &write) == -ENOMEM)
                        return -ENOMEM;
        }
        return 0;
}

/* One letter of a name that is another would open the repository of that name. */
static int check_sum(json_t *o, struct err *err)
{
        auto_json sum = json_incref(json_object_get(o, SUM));
        char digest[IMAGE_DIGEST_MAX];
        auto_str text = STR_INIT;
        int r;

        if (!sum)
                return 0;
        (void)json_object_del(o, SUM);
        r = json_write(o, &text) < 0 ? err_oom(err) : image_sha256_text(text.data, text.len, digest, err);
        if (r == 0 && !str_eq(json_string_value(sum), digest))
                r = err_set(err, EBADMSG,
                            "it is not as it was written: restore it; where it is not, private repositories are open");
        return r;
}

int access_open(int dirfd, const struct access_config *config, struct access **ret, struct err *err)
{
        struct access *a = calloc(1, sizeof(*a));
        auto_str text = STR_INIT;
        auto_json o = NULL;
        int r;

        if (!a)
                return err_oom(err);
        a->config = *config;
        a->repositories = map_new();
        a->proofs = map_new();
        r = a->repositories && a->proofs ? 0 : err_oom(err);
        if (r == 0) {
                struct err why = ERR_INIT;

                r = fd_read_file(dirfd, FILE_NAME, ACCESS_FILE_MAX, &text, &why);
                if (r == 0)
                        r = json_read(text.data ? text.data : "", text.len, &o, &why);
                if (r == 0)
                        r = check_sum(o, &why);
                if (r == 0) {
                        r = take(a, o);
                        if (r < 0)
                                (void)err_set(&why, -r, "%s", r == -ENOMEM ? "out of memory" : "it is damaged");
                }
                /* Damaged is another thing than absent: what was closed must not come open. */
                r = r == -ENOENT ? 0 : r;
                if (r < 0)
                        (void)err_set(err, -r, FILE_NAME " of the images: %s", why.text);
        }
        if (r < 0) {
                access_free(a);
                return r;
        }
        *ret = a;
        return 0;
}

void access_free(struct access *a)
{
        const char *key;
        size_t pos = 0;
        void *value;

        if (!a)
                return;
        while (a->proofs && map_next(a->proofs, &pos, &key, &value))
                free(value);
        map_free(a->proofs);
        map_free(a->repositories);
        free(a);
}
