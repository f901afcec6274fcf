/* Whom an image must come from: the configuration's policy, and signatures as cosign makes them.
 *
 *   signed  "REPOSITORY=KEY", by commas: images of that repository must be signed by that public key, or by another one that
 *           stands beside the same repository. The most exact entry decides: a repository; "PREFIX/" and an asterisk; an asterisk alone.
 *           The words "accept" (no signature is asked for) and "reject" (nothing is taken) stand in place of a key.
 *   pinned  "IMAGE=sha256:…": that repository, or that tag of it, must be this digest, or another one that stands beside the
 *           same name. What is pinned needs no signature.
 *
 * A signature is a layer of an OCI artifact (cosign, SIGNATURE_SPEC.md): its payload, «simple signing» JSON, names repository
 * and digest; an annotation of the layer holds the signature over the payload's bytes. Tag, index and manifest: what a tag
 * leads to is one of the two latter, and a signature of either counts. Nothing here speaks with anybody; whatever is read comes
 * from outside. */
#pragma once

#include "base/err.h"
#include "image/manifest.h"
#include "image/ref.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRUST_KEY_FILE_MAX (16U << 10)
#define TRUST_KEYS_MAX 8        /* beside one repository */
#define TRUST_PINS_MAX 8        /* beside one name */
#define TRUST_SIGNATURES_MAX 32 /* of one image that are looked at */
#define TRUST_SIGNATURE_MAX 4096
#define TRUST_PAYLOAD_MAX (64U << 10)

struct trust;
struct trust_rule;

struct trust_config {
        const char *keys;               /* directory of NAME.pub, PEM: ECDSA, RSA of 2,048 bits and more, Ed25519 */
        const char *signed_by, *pinned; /* as above; NULL, "" and "none": empty */
};

/* Reads the keys; blocks. A key that cannot be read is logged: nothing that needs it is trusted. -EINVAL: no such grammar. */
int trust_new(const struct trust_config *config, struct trust **ret, struct err *err);
void trust_free(struct trust *t); /* accepts NULL */
bool trust_is_empty(const struct trust *t);

/* SHA-256 in hex of all that decides, the keys' bytes too: what was found under another one is to be looked at again. */
const char *trust_fingerprint(const struct trust *t);

/* What the policy wants of an image of that name. */
struct trust_wish {
        const char *pins[TRUST_PINS_MAX]; /* one of these digests */
        size_t n_pins;                    /* 0: any */
        const struct trust_rule *rule;    /* without pins: a signature that it takes; NULL: nothing */
};
void trust_look(const struct trust *t, const struct image_ref *ref, struct trust_wish *ret);
bool trust_rule_rejects(const struct trust_rule *rule);
/* "docker.io/acme/x: wants a signature by a.pub or b.pub", for people. */
void trust_rule_text(const struct trust_rule *rule, char *out, size_t size);

/* ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────── */

#define TRUST_ARTIFACT "application/vnd.dev.cosign.artifact.sig.v1+json"

/* Where the signatures of a digest are: "sha256-<hex>.sig", and the tag in place of the referrers API, "sha256-<hex>"
 * (distribution-spec, «Referrers Tag Schema»). */
void trust_signature_tag(const char *digest, char out[IMAGE_DIGEST_MAX + 4]);
void trust_referrers_tag(const char *digest, char out[IMAGE_DIGEST_MAX]);

struct trust_signature {
        char payload[IMAGE_DIGEST_MAX]; /* a blob's digest */
        uint64_t size;
        char *base64;
};
struct trust_signatures {
        struct trust_signature *items;
        size_t n;
};
/* The first of a manifest; none where it holds other things. -EBADMSG; -ENOMEM. */
int trust_signatures_read(const char *text, size_t len, struct trust_signatures *ret, struct err *err);
void trust_signatures_done(struct trust_signatures *s);

/* The manifests of signatures that a list of referrers names, at most `max`. -EBADMSG. */
int trust_referrers_read(const char *text, size_t len, struct image_descriptor *ret, size_t max, size_t *ret_n,
                         struct err *err);

enum trust_fault {
        TRUST_GOOD,
        TRUST_OTHER_KEY,        /* or another payload than was signed */
        TRUST_OTHER_IMAGE,      /* another digest */
        TRUST_OTHER_REPOSITORY, /* or tag */
        TRUST_UNREADABLE,
        TRUST_FAULTS
};
/* What a payload claims, whoever signed it; and whether one of the rule's keys signed it, and what it then claims. */
enum trust_fault trust_claim(const struct image_ref *ref, const char *digest, const char *payload, size_t len);
enum trust_fault trust_verify(const struct trust_rule *rule, const struct image_ref *ref, const char *digest,
                              const void *payload, size_t len, const char *base64);
