#include "image/trust.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "image/registry_url.h"
#include "json/json.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RULES_MAX 256
#define PINNED_MAX 1024
#define KEY_NAME_MAX 64
#define RSA_BITS_MIN 2048
#define SIGNATURE_LAYER "application/vnd.dev.cosign.simplesigning.v1+json"
#define SIGNATURE_ANNOTATION "dev.cosignproject.cosign/signature"
#define PAYLOAD_TYPE "cosign container image signature"

struct trust_key {
        char name[KEY_NAME_MAX];
        EVP_PKEY *key; /* NULL: it cannot be read, and verifies nothing */
};

struct trust_rule {
        char pattern[REF_TEXT_MAX]; /* "docker.io/library/busybox", "docker.io/library/" of all below, "" of all */
        bool prefix, reject, accept;
        struct trust_key keys[TRUST_KEYS_MAX];
        size_t n_keys;
};

struct pin {
        char name[REF_TEXT_MAX]; /* a repository, or with ":tag" */
        char digest[IMAGE_DIGEST_MAX];
};

struct trust {
        struct trust_rule *rules;
        size_t n_rules;
        struct pin *pins;
        size_t n_pins;
        char fingerprint[IMAGE_DIGEST_MAX];
};

/* ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const char *key_fault(const EVP_PKEY *key)
{
        switch (EVP_PKEY_get_base_id(key)) {
        case EVP_PKEY_EC:
        case EVP_PKEY_ED25519:
                return NULL;
        case EVP_PKEY_RSA:
                return EVP_PKEY_get_bits(key) < RSA_BITS_MIN ? "an RSA key of less than 2,048 bits" : NULL;
        default:
                return "neither ECDSA, RSA nor Ed25519";
        }
}

static int key_parse(const struct str *pem, EVP_PKEY **ret, struct err *err)
{
        BIO *bio = BIO_new_mem_buf(pem->data ? pem->data : "", (int)pem->len);
        EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
        const char *fault = key ? key_fault(key) : "no public key in PEM";

        BIO_free(bio);
        ERR_clear_error();
        if (fault) {
                EVP_PKEY_free(key);
                return err_set(err, EBADMSG, "%s", fault);
        }
        *ret = key;
        return 0;
}

/* Its bytes become part of what the fingerprint is of. */
static void key_load(const char *dir, struct trust_key *key, struct str *seen)
{
        auto_free char *path = str_printf("%s/%s.pub", dir, key->name);
        auto_str pem = STR_INIT;
        struct err err = ERR_INIT;
        int r;

        r = path ? fd_read_file(AT_FDCWD, path, TRUST_KEY_FILE_MAX, &pem, &err) : err_oom(&err);
        if (r == 0)
                r = key_parse(&pem, &key->key, &err);
        if (r < 0)
                log_error("trust: key %s: %s: no image that needs it is trusted", key->name, err.text);
        else
                (void)str_addf(seen, "%s %zu %s\n", key->name, pem.len, pem.data);
}

/* ── the policy ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* One registry has one name, however a reference writes it: in capitals, with the port that it has anyway, Docker Hub's others. */
static void one_name(struct image_ref *ref)
{
        char name[sizeof(ref->domain)];

        if (registry_name(ref->domain, name, NULL) == 0)
                memcpy(ref->domain, name, sizeof(ref->domain));
}

/* What names no host is below docker.io, as in references. */
static int pattern_parse(const char *text, struct trust_rule *rule, struct err *err)
{
        struct image_ref ref;
        char below[REF_TEXT_MAX];
        size_t len = strlen(text);

        if (str_eq(text, "*")) {
                rule->prefix = true;
                rule->pattern[0] = '\0';
                return 0;
        }
        if (str_ends(text, "/*") && len < REF_TEXT_MAX - 16) {
                (void)snprintf(below, sizeof(below), "%.*sa/a", (int)len - 1, text);
                if (image_ref_parse_normalized(below, &ref, NULL) == 0 && !ref.tag[0]) {
                        one_name(&ref);
                        rule->prefix = true;
                        (void)snprintf(rule->pattern, sizeof(rule->pattern), "%.255s/%.*s", ref.domain,
                                       (int)(strlen(ref.path) - strlen("a/a")), ref.path);
                        return 0;
                }
        }
        if (strchr(text, '*') || image_ref_parse_normalized(text, &ref, NULL) < 0 || ref.tag[0] || ref.digest[0])
                return err_set(err, EINVAL, "trust.signed: '%s' is no repository, nor REPOSITORY/*, nor *", text);
        one_name(&ref);
        (void)snprintf(rule->pattern, sizeof(rule->pattern), "%.255s/%.255s", ref.domain, ref.path);
        return 0;
}

static bool key_name_valid(const char *s)
{
        return *s && *s != '.' && strlen(s) < KEY_NAME_MAX &&
               !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")];
}

/* The rule of that pattern, which there is or comes to be. */
static int rule_get(struct trust *t, const struct trust_rule *wanted, struct trust_rule **ret, struct err *err)
{
        struct trust_rule *more;

        for (size_t i = 0; i < t->n_rules; i++) {
                *ret = &t->rules[i];
                if (t->rules[i].prefix == wanted->prefix && str_eq(t->rules[i].pattern, wanted->pattern))
                        return 0;
        }
        if (t->n_rules == RULES_MAX)
                return err_set(err, EINVAL, "trust.signed: more than %d repositories", RULES_MAX);
        more = reallocarray(t->rules, t->n_rules + 1, sizeof(*t->rules));
        if (!more)
                return err_oom(err);
        t->rules = more;
        *ret = &t->rules[t->n_rules++];
        **ret = *wanted;
        return 0;
}

static int add_rule(struct trust *t, const char *pattern, const char *key, const char *dir, struct str *seen,
                    struct err *err)
{
        struct trust_rule wanted = { .prefix = false }, *rule = NULL;
        int r;

        if (!key_name_valid(key))
                return err_set(err, EINVAL, "trust.signed: '%s' is no name of a key", key);
        r = pattern_parse(pattern, &wanted, err);
        if (r == 0)
                r = rule_get(t, &wanted, &rule, err);
        if (r < 0)
                return r;
        if (rule->accept || rule->reject || (rule->n_keys > 0 && (str_eq(key, "accept") || str_eq(key, "reject"))))
                return err_set(err, EINVAL, "trust.signed: '%s' has a word and something else beside it", pattern);
        if (rule->n_keys == TRUST_KEYS_MAX)
                return err_set(err, EINVAL, "trust.signed: '%s' has more than %d keys", pattern, TRUST_KEYS_MAX);
        rule->accept = str_eq(key, "accept");
        rule->reject = str_eq(key, "reject");
        if (rule->accept || rule->reject)
                return 0;
        (void)snprintf(rule->keys[rule->n_keys].name, KEY_NAME_MAX, "%s", key);
        key_load(dir, &rule->keys[rule->n_keys++], seen);
        return 0;
}

static int add_pin(struct trust *t, const char *name, const char *digest, struct err *err)
{
        struct image_ref ref;
        struct pin *more;

        if (!image_digest_valid(digest))
                return err_set(err, EINVAL, "trust.pinned: '%s' is no digest", digest);
        if (image_ref_parse_normalized(name, &ref, NULL) < 0 || ref.digest[0])
                return err_set(err, EINVAL, "trust.pinned: '%s' is no image", name);
        if (t->n_pins == PINNED_MAX)
                return err_set(err, EINVAL, "trust.pinned: more than %d entries", PINNED_MAX);
        more = reallocarray(t->pins, t->n_pins + 1, sizeof(*t->pins));
        if (!more)
                return err_oom(err);
        t->pins = more;
        one_name(&ref);
        image_ref_format(&ref, t->pins[t->n_pins].name);
        (void)snprintf(t->pins[t->n_pins++].digest, IMAGE_DIGEST_MAX, "%s", digest);
        return 0;
}

/* Each "NAME=VALUE" of a list. */
static int each(const char *list, const char *what,
                int (*add)(const char *name, const char *value, void *arg, struct err *err), void *arg, struct err *err)
{
        while (list && *list && !str_eq(list, "none")) {
                size_t len = strcspn(list, ",");
                auto_free char *entry = strndup(list, len);
                char *equals = entry ? strchr(entry, '=') : NULL;
                int r;

                if (!entry)
                        return err_oom(err);
                if (!equals)
                        return err_set(err, EINVAL, "%s: '%s' has no '='", what, entry);
                *equals = '\0';
                r = add(entry, equals + 1, arg, err);
                if (r < 0)
                        return r;
                list += len + (list[len] == ',');
        }
        return 0;
}

struct reading {
        struct trust *trust;
        const char *keys;
        struct str seen;
};

static int on_rule(const char *name, const char *value, void *arg, struct err *err)
{
        struct reading *r = arg;

        return add_rule(r->trust, name, value, r->keys, &r->seen, err);
}

static int on_pin(const char *name, const char *value, void *arg, struct err *err)
{
        struct reading *r = arg;

        return add_pin(r->trust, name, value, err);
}

int trust_new(const struct trust_config *config, struct trust **ret, struct err *err)
{
        struct reading reading = { .trust = calloc(1, sizeof(struct trust)), .keys = config->keys, .seen = STR_INIT };
        int r;

        if (!reading.trust)
                return err_oom(err);
        r = each(config->signed_by, "trust.signed", on_rule, &reading, err);
        if (r == 0)
                r = each(config->pinned, "trust.pinned", on_pin, &reading, err);
        if (r == 0 && str_addf(&reading.seen, "%s\n%s\n", config->signed_by ? config->signed_by : "",
                               config->pinned ? config->pinned : "") < 0)
                r = err_oom(err);
        if (r == 0)
                r = image_sha256_text(reading.seen.data, reading.seen.len, reading.trust->fingerprint, err);
        str_done(&reading.seen);
        if (r < 0) {
                trust_free(reading.trust);
                return r;
        }
        *ret = reading.trust;
        return 0;
}

void trust_free(struct trust *t)
{
        if (!t)
                return;
        for (size_t i = 0; i < t->n_rules; i++)
                for (size_t k = 0; k < t->rules[i].n_keys; k++)
                        EVP_PKEY_free(t->rules[i].keys[k].key);
        free(t->rules);
        free(t->pins);
        free(t);
}

bool trust_is_empty(const struct trust *t)
{
        return !t || (t->n_rules == 0 && t->n_pins == 0);
}

const char *trust_fingerprint(const struct trust *t)
{
        return t->fingerprint;
}

static void find_pins(const struct trust *t, const char *name, struct trust_wish *ret)
{
        for (size_t i = 0; i < t->n_pins && ret->n_pins < TRUST_PINS_MAX; i++)
                if (str_eq(t->pins[i].name, name))
                        ret->pins[ret->n_pins++] = t->pins[i].digest;
}

void trust_look(const struct trust *t, const struct image_ref *asked, struct trust_wish *ret)
{
        struct image_ref named = *asked;
        const struct image_ref *ref = &named;
        char repository[REF_TEXT_MAX], tagged[REF_TEXT_MAX + 140];
        size_t best = 0;

        *ret = (struct trust_wish){ .n_pins = 0 };
        if (trust_is_empty(t) || str_eq(ref->domain, IMAGE_BUILTIN_DOMAIN))
                return;
        one_name(&named);
        (void)snprintf(repository, sizeof(repository), "%.255s/%.255s", ref->domain, ref->path);
        (void)snprintf(tagged, sizeof(tagged), "%s:%s", repository, ref->tag);
        find_pins(t, tagged, ret);
        if (ret->n_pins == 0)
                find_pins(t, repository, ret);
        for (size_t i = 0; i < t->n_rules; i++) {
                const struct trust_rule *rule = &t->rules[i];
                bool hit = rule->prefix ? str_starts(repository, rule->pattern) : str_eq(repository, rule->pattern);
                size_t exact = rule->prefix ? strlen(rule->pattern) + 1 : SIZE_MAX;

                if (hit && exact > best) {
                        best = exact;
                        ret->rule = rule->accept ? NULL : rule;
                }
        }
}

bool trust_rule_rejects(const struct trust_rule *rule)
{
        return rule->reject;
}

void trust_rule_text(const struct trust_rule *rule, char *out, size_t size)
{
        const char *asterisk = rule->prefix ? "*" : "";
        size_t at;
        int n;

        if (rule->reject) {
                (void)snprintf(out, size, "trust.signed rejects %s%s", rule->pattern, asterisk);
                return;
        }
        n = snprintf(out, size, "trust.signed wants of %s%s a signature by", rule->pattern, asterisk);
        at = n < 0 || (size_t)n >= size ? size : (size_t)n;
        for (size_t i = 0; i < rule->n_keys && at < size; i++) {
                n = snprintf(out + at, size - at, "%s %s%s", i ? " or" : "", rule->keys[i].name,
                             rule->keys[i].key ? "" : " (which cannot be read)");
                at = n < 0 || (size_t)n >= size - at ? size : at + (size_t)n;
        }
}

/* ── where signatures are ─────────────────────────────────────────────────────────────────────────────────────────── */

void trust_referrers_tag(const char *digest, char out[IMAGE_DIGEST_MAX])
{
        (void)snprintf(out, IMAGE_DIGEST_MAX, "sha256-%.64s", str_starts(digest, "sha256:") ? digest + 7 : "");
}

void trust_signature_tag(const char *digest, char out[IMAGE_DIGEST_MAX + 4])
{
        char tag[IMAGE_DIGEST_MAX];

        trust_referrers_tag(digest, tag);
        (void)snprintf(out, IMAGE_DIGEST_MAX + 4, "%s.sig", tag);
}

static const char *text_of(const json_t *o, const char *name)
{
        const char *s = json_string_value(json_object_get(o, name));

        return s ? s : "";
}

static int list_read(const char *text, size_t len, const char *name, json_t **ret, struct err *err)
{
        auto_json o = NULL;
        json_t *list;

        if (len > IMAGE_JSON_MAX || json_read(text, len, &o, NULL) < 0 || !json_is_object(o))
                return err_set(err, EBADMSG, "it is no JSON object");
        list = json_object_get(o, name);
        if (list && !json_is_array(list))
                return err_set(err, EBADMSG, "its %s are no list", name);
        *ret = list ? json_incref(list) : NULL;
        return 0;
}

static bool read_signature(const json_t *layer, struct trust_signature *ret)
{
        const char *base64 = text_of(json_object_get(layer, "annotations"), SIGNATURE_ANNOTATION);
        const char *digest = text_of(layer, "digest");
        json_int_t size = json_integer_value(json_object_get(layer, "size"));

        if (!str_eq(text_of(layer, "mediaType"), SIGNATURE_LAYER) || !image_digest_valid(digest) || size <= 0 ||
            size > TRUST_PAYLOAD_MAX || !*base64 || strlen(base64) > TRUST_SIGNATURE_MAX)
                return false;
        (void)snprintf(ret->payload, sizeof(ret->payload), "%s", digest);
        ret->size = (uint64_t)size;
        ret->base64 = strdup(base64);
        return ret->base64;
}

int trust_signatures_read(const char *text, size_t len, struct trust_signatures *ret, struct err *err)
{
        struct trust_signatures s = { .n = 0 };
        auto_json layers = NULL;
        const json_t *layer;
        size_t i;
        int r;

        r = list_read(text, len, "layers", &layers, err);
        if (r < 0)
                return r;
        s.items = calloc(TRUST_SIGNATURES_MAX, sizeof(*s.items));
        if (!s.items)
                return err_oom(err);
        json_array_foreach(layers, i, layer) {
                if (s.n < TRUST_SIGNATURES_MAX && read_signature(layer, &s.items[s.n]))
                        s.n++;
        }
        *ret = s;
        return 0;
}

void trust_signatures_done(struct trust_signatures *s)
{
        for (size_t i = 0; i < s->n; i++)
                free(s->items[i].base64);
        free(s->items);
        *s = (struct trust_signatures){ .n = 0 };
}

int trust_referrers_read(const char *text, size_t len, struct image_descriptor *ret, size_t max, size_t *ret_n,
                         struct err *err)
{
        auto_json manifests = NULL;
        const json_t *m;
        size_t i, n = 0;
        int r;

        r = list_read(text, len, "manifests", &manifests, err);
        if (r < 0)
                return r;
        json_array_foreach(manifests, i, m) {
                const char *digest = text_of(m, "digest");
                json_int_t size = json_integer_value(json_object_get(m, "size"));

                if (n == max || !str_eq(text_of(m, "artifactType"), TRUST_ARTIFACT) || !image_digest_valid(digest) ||
                    size <= 0 || size > IMAGE_JSON_MAX)
                        continue;
                ret[n] = (struct image_descriptor){ .size = (uint64_t)size };
                (void)snprintf(ret[n++].digest, IMAGE_DIGEST_MAX, "%s", digest);
        }
        *ret_n = n;
        return 0;
}

/* ── one signature ────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool verify_by(EVP_PKEY *key, const struct str *signature, const void *payload, size_t len)
{
        const EVP_MD *md = EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? NULL : EVP_sha256();
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        bool good;

        good = ctx && EVP_DigestVerifyInit(ctx, NULL, md, NULL, key) == 1 &&
               EVP_DigestVerify(ctx, (const unsigned char *)signature->data, signature->len, payload, len) == 1;
        EVP_MD_CTX_free(ctx);
        ERR_clear_error();
        return good;
}

static bool signed_by_any(const struct trust_rule *rule, const char *base64, const void *payload, size_t len)
{
        auto_str signature = STR_INIT;

        if (strlen(base64) > TRUST_SIGNATURE_MAX || base64_decode(&signature, base64, strlen(base64)) < 0 ||
            signature.len == 0)
                return false;
        for (size_t i = 0; i < rule->n_keys; i++)
                if (rule->keys[i].key && verify_by(rule->keys[i].key, &signature, payload, len))
                        return true;
        return false;
}

/* cosign names the repository, and the tag where it was told to (--sign-container-identity). What is asked for by digest has
 * none that could be another. */
static bool is_reference(const char *text, const struct image_ref *ref, const char *digest)
{
        struct image_ref signed_ref, asked = *ref;

        if (image_ref_parse_normalized(text, &signed_ref, NULL) < 0)
                return false;
        one_name(&signed_ref);
        one_name(&asked);
        return str_eq(signed_ref.domain, asked.domain) && str_eq(signed_ref.path, ref->path) &&
               (!signed_ref.tag[0] || !ref->tag[0] || str_eq(signed_ref.tag, ref->tag)) &&
               (!signed_ref.digest[0] || str_eq(signed_ref.digest, digest));
}

enum trust_fault trust_claim(const struct image_ref *ref, const char *digest, const char *payload, size_t len)
{
        auto_json o = NULL;
        const json_t *critical;

        if (len > TRUST_PAYLOAD_MAX || json_read(payload, len, &o, NULL) < 0)
                return TRUST_UNREADABLE;
        critical = json_object_get(o, "critical");
        if (!str_eq(text_of(critical, "type"), PAYLOAD_TYPE))
                return TRUST_UNREADABLE;
        if (!str_eq(text_of(json_object_get(critical, "image"), "docker-manifest-digest"), digest))
                return TRUST_OTHER_IMAGE;
        return is_reference(text_of(json_object_get(critical, "identity"), "docker-reference"), ref, digest)
                       ? TRUST_GOOD
                       : TRUST_OTHER_REPOSITORY;
}

enum trust_fault trust_verify(const struct trust_rule *rule, const struct image_ref *ref, const char *digest,
                              const void *payload, size_t len, const char *base64)
{
        if (len == 0 || len > TRUST_PAYLOAD_MAX)
                return TRUST_UNREADABLE;
        return signed_by_any(rule, base64, payload, len) ? trust_claim(ref, digest, payload, len) : TRUST_OTHER_KEY;
}
