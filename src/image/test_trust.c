#include "image/trust.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define DIGEST "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static char dir[] = "/tmp/mayfly-test-trust-XXXXXX";
static EVP_PKEY *pairs[4];
static const char *const names[] = { "ec", "ed", "rsa", "small" };

/* The public key of pair `of` under the name of `name`. */
static int write_pub(size_t name, size_t of)
{
        auto_free char *path = str_printf("%s/%s.pub", dir, names[name]);
        FILE *f = fopen(path, "we");

        return f && PEM_write_PUBKEY(f, pairs[of]) == 1 && fclose(f) == 0 ? 0 : -1;
}

static int setup(void **state)
{
        (void)state;
        if (!mkdtemp(dir))
                return -1;
        pairs[0] = EVP_EC_gen("P-256");
        pairs[1] = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
        pairs[2] = EVP_RSA_gen(2048);
        pairs[3] = EVP_RSA_gen(1024);
        for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
                if (!pairs[i] || write_pub(i, i) < 0)
                        return -1;
        return 0;
}

static int teardown(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
                auto_free char *path = str_printf("%s/%s.pub", dir, names[i]);

                (void)unlink(path);
                EVP_PKEY_free(pairs[i]);
        }
        return rmdir(dir);
}

static struct trust *policy(const char *signed_by, const char *pinned)
{
        const struct trust_config config = { .keys = dir, .signed_by = signed_by, .pinned = pinned };
        struct trust *t = NULL;
        struct err err = ERR_INIT;

        if (trust_new(&config, &t, &err) < 0)
                fail_msg("%s: %s", signed_by, err.text);
        return t;
}

static struct image_ref ref_of(const char *text)
{
        struct image_ref ref;

        if (image_ref_parse_docker(text, &ref, NULL) < 0)
                fail_msg("%s", text);
        return ref;
}

static struct trust_wish look(const struct trust *t, const char *text)
{
        const struct image_ref ref = ref_of(text);
        struct trust_wish w;

        trust_look(t, &ref, &w);
        return w;
}

static void sign(EVP_PKEY *key, const char *payload, char out[2 * TRUST_SIGNATURE_MAX])
{
        unsigned char signature[1024];
        size_t len = sizeof(signature);
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        auto_str text = STR_INIT;

        assert_int_equal(EVP_DigestSignInit(ctx, NULL,
                                            EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? NULL : EVP_sha256(), NULL,
                                            key),
                         1);
        assert_int_equal(EVP_DigestSign(ctx, signature, &len, (const unsigned char *)payload, strlen(payload)), 1);
        EVP_MD_CTX_free(ctx);
        assert_int_equal(base64_encode(&text, signature, len), 0);
        (void)snprintf(out, 2 * TRUST_SIGNATURE_MAX, "%s", text.data);
}

static char *payload_of(const char *reference, const char *digest)
{
        return str_printf("{\"critical\":{\"identity\":{\"docker-reference\":\"%s\"},\"image\":"
                          "{\"docker-manifest-digest\":\"%s\"},\"type\":\"cosign container image signature\"},"
                          "\"optional\":null}",
                          reference, digest);
}

/* ── the policy ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_rules(void **state)
{
        struct trust *t = policy("*=reject,acme/*=ec,docker.io/acme/free=accept,localhost:5000/team/*=ed,acme/*=ed",
                                 NULL);
        char text[200];

        (void)state;
        assert_true(trust_rule_rejects(look(t, "busybox").rule));
        assert_true(trust_rule_rejects(look(t, "ghcr.io/acme/x").rule));
        assert_true(trust_rule_rejects(look(t, "acmes/x").rule));
        assert_null(look(t, "acme/free:3").rule);
        assert_false(trust_rule_rejects(look(t, "acme/x").rule));
        assert_false(trust_rule_rejects(look(t, "acme/x/y").rule));
        assert_false(trust_rule_rejects(look(t, "localhost:5000/team/x").rule));
        assert_null(look(t, IMAGE_BUILTIN_DOMAIN "/health:1").rule);
        trust_rule_text(look(t, "acme/x").rule, text, sizeof(text));
        assert_string_equal(text, "trust.signed wants of docker.io/acme/* a signature by ec or ed");
        trust_free(t);
        t = policy("none", "none");
        assert_true(trust_is_empty(t));
        assert_null(look(t, "busybox").rule);
        trust_free(t);
}

/* However a registry is written, it is one. */
static void test_names_of_registries(void **state)
{
        struct trust *t = policy("Registry.Example:443/*=reject,registry-1.docker.io/acme/*=reject,[::1]:5000/*=reject",
                                 "Index.Docker.io/library/busybox=" DIGEST);
        static const char *const rejected[] = { "registry.example/x", "REGISTRY.example:443/a/x", "acme/x",
                                                "registry-1.docker.io:443/acme/x", "[::1]:5000/x" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rejected); i++)
                assert_non_null(look(t, rejected[i]).rule);
        assert_null(look(t, "registry.example:80/x").rule);
        assert_null(look(t, "registry.example.org/x").rule);
        assert_int_equal(look(t, "registry-1.docker.io/library/busybox").n_pins, 1);
        assert_int_equal(look(t, "busybox").n_pins, 1);
        trust_free(t);
}

static void test_pins(void **state)
{
        struct trust *t = policy(NULL, "busybox:1=" DIGEST ",busybox:1=" OTHER ",acme/x=" DIGEST);

        (void)state;
        assert_int_equal(look(t, "busybox:1").n_pins, 2);
        assert_int_equal(look(t, "busybox:2").n_pins, 0);
        assert_int_equal(look(t, "acme/x:9").n_pins, 1);
        assert_string_equal(look(t, "acme/x@" OTHER).pins[0], DIGEST);
        trust_free(t);
}

static void test_bad_policies(void **state)
{
        static const char *const bad[] = { "acme",     "=ec",          "a b=ec",     "acme/x:1=ec",
                                           "ac*me=ec", "acme/*=../ec", "acme/**=ec", "acme=accept,acme=ec",
                                           "acme=",    "a b/*=ec",     "/*=ec" };
        static const char *const bad_pins[] = { "acme", "acme=sha256:12", "acme@" DIGEST "=" DIGEST, "*=" DIGEST };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                const struct trust_config config = { .keys = dir, .signed_by = bad[i] };
                struct trust *t = NULL;

                assert_int_equal(trust_new(&config, &t, NULL), -EINVAL);
        }
        for (size_t i = 0; i < ARRAY_LEN(bad_pins); i++) {
                const struct trust_config config = { .keys = dir, .pinned = bad_pins[i] };
                struct trust *t = NULL;

                assert_int_equal(trust_new(&config, &t, NULL), -EINVAL);
        }
}

static void test_fingerprint(void **state)
{
        struct trust *a = policy("acme/*=ec", NULL), *b = policy("acme/*=ed", NULL), *c = policy("acme/*=ec", NULL);

        (void)state;
        assert_string_equal(trust_fingerprint(a), trust_fingerprint(c));
        assert_string_not_equal(trust_fingerprint(a), trust_fingerprint(b));
        trust_free(c);
        /* The same name, another key. */
        assert_int_equal(write_pub(0, 1), 0);
        c = policy("acme/*=ec", NULL);
        assert_string_not_equal(trust_fingerprint(a), trust_fingerprint(c));
        assert_int_equal(write_pub(0, 0), 0);
        trust_free(a);
        trust_free(b);
        trust_free(c);
}

/* ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_verify(void **state)
{
        static const struct {
                const char *reference, *digest, *asked;
                enum trust_fault fault;
        } rows[] = {
                { "index.docker.io/acme/x", DIGEST, "acme/x:1", TRUST_GOOD },
                { "docker.io/acme/x", DIGEST, "acme/x@" DIGEST, TRUST_GOOD },
                { "acme/x:1", DIGEST, "acme/x:1", TRUST_GOOD },
                { "acme/x:2", DIGEST, "acme/x:1", TRUST_OTHER_REPOSITORY },
                { "acme/x:2", DIGEST, "acme/x@" DIGEST, TRUST_GOOD },
                { "acme/x@" OTHER, DIGEST, "acme/x:1", TRUST_OTHER_REPOSITORY },
                { "acme/y", DIGEST, "acme/x:1", TRUST_OTHER_REPOSITORY },
                { "ghcr.io/acme/x", DIGEST, "acme/x:1", TRUST_OTHER_REPOSITORY },
                { "GHCR.io:443/acme/x", DIGEST, "ghcr.io/acme/x:1", TRUST_GOOD },
                { "ghcr.io/acme/x", DIGEST, "ghcr.io:443/acme/x:1", TRUST_GOOD },
                { "ghcr.io:80/acme/x", DIGEST, "ghcr.io/acme/x:1", TRUST_OTHER_REPOSITORY },
                { "registry-1.docker.io/acme/x", DIGEST, "acme/x:1", TRUST_GOOD },
                { "", DIGEST, "acme/x:1", TRUST_OTHER_REPOSITORY },
                { "acme/x", OTHER, "acme/x:1", TRUST_OTHER_IMAGE },
                { "acme/x", "", "acme/x:1", TRUST_OTHER_IMAGE },
        };
        struct trust *t = policy("acme/*=ec,acme/*=ed,acme/*=rsa,acme/*=small,acme/*=none-such", NULL);
        const struct trust_rule *rule = look(t, "acme/x").rule;
        char signature[2 * TRUST_SIGNATURE_MAX];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                const struct image_ref ref = ref_of(rows[i].asked);
                auto_free char *payload = payload_of(rows[i].reference, rows[i].digest);

                sign(pairs[i % 3], payload, signature);
                assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload), signature), rows[i].fault);
        }
        trust_free(t);
}

static void test_wrong_signatures(void **state)
{
        const struct image_ref ref = ref_of("acme/x:1");
        auto_free char *payload = payload_of("acme/x", DIGEST);
        char signature[2 * TRUST_SIGNATURE_MAX], copy[2 * TRUST_SIGNATURE_MAX];
        struct trust *t = policy("acme/*=ec,acme/*=small", NULL);
        const struct trust_rule *rule = look(t, "acme/x").rule;

        (void)state;
        for (size_t i = 1; i < ARRAY_LEN(pairs); i++) { /* 3: RSA of 1,024 bits, which is listed and not taken */
                sign(pairs[i], payload, signature);
                assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload), signature),
                                 TRUST_OTHER_KEY);
        }
        sign(pairs[0], payload, signature);
        assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload), signature), TRUST_GOOD);
        assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload) - 1, signature), TRUST_OTHER_KEY);
        for (size_t i = 0; signature[i]; i++) {
                memcpy(copy, signature, sizeof(copy));
                copy[i] = copy[i] == 'A' ? 'B' : 'A';
                if (signature[i] != '=' && signature[i + 1] != '=' && signature[i + 1])
                        assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload), copy),
                                         TRUST_OTHER_KEY);
        }
        payload[strlen(payload) / 2] ^= 1;
        assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload), signature), TRUST_OTHER_KEY);
        assert_int_equal(trust_verify(rule, &ref, DIGEST, payload, strlen(payload), ""), TRUST_OTHER_KEY);
        assert_int_equal(trust_verify(rule, &ref, DIGEST, "", 0, signature), TRUST_UNREADABLE);
        trust_free(t);
}

static void test_wrong_payloads(void **state)
{
        static const char *const wrong[] = {
                "x",
                "[]",
                "{}",
                "{\"critical\":5}",
                ("{\"critical\":{\"type\":\"atomic container signature\","
                 "\"image\":{\"docker-manifest-digest\":\"" DIGEST
                 "\"},\"identity\":{\"docker-reference\":\"acme/x\"}}}"),
                "{\"critical\":{\"type\":\"cosign container image signature\"},\"critical\":{}}",
        };
        const struct image_ref ref = ref_of("acme/x:1");
        char signature[2 * TRUST_SIGNATURE_MAX];
        struct trust *t = policy("*=ec", NULL);

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
                sign(pairs[0], wrong[i], signature);
                assert_int_equal(
                        trust_verify(look(t, "acme/x").rule, &ref, DIGEST, wrong[i], strlen(wrong[i]), signature),
                        TRUST_UNREADABLE);
        }
        trust_free(t);
}

static void add_layer(struct str *out, const char *digest, const char *size, const char *signature)
{
        assert_int_equal(str_addf(out,
                                  "%s{\"mediaType\":\"application/vnd.dev.cosign.simplesigning.v1+json\",\"digest\":"
                                  "\"%s\",\"size\":%s,\"annotations\":"
                                  "{\"dev.cosignproject.cosign/signature\":\"%s\"}}",
                                  out->len ? "," : "{\"layers\":[", digest, size, signature),
                         0);
}

static void test_manifests(void **state)
{
        static const struct {
                const char *digest, *size, *signature;
                size_t n;
        } rows[] = {
                { DIGEST, "5", "YQ==", 1 },     { "sha256:1", "5", "YQ==", 0 },    { DIGEST, "0", "YQ==", 0 },
                { DIGEST, "-1", "YQ==", 0 },    { DIGEST, "99999999", "YQ==", 0 }, { DIGEST, "5", "", 0 },
                { DIGEST, "\"5\"", "YQ==", 0 },
        };
        struct trust_signatures s = { .n = 0 };
        auto_str many = STR_INIT;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                auto_str text = STR_INIT;

                add_layer(&text, rows[i].digest, rows[i].size, rows[i].signature);
                assert_int_equal(str_adds(&text, "]}"), 0);
                assert_int_equal(trust_signatures_read(text.data, text.len, &s, NULL), 0);
                assert_int_equal(s.n, rows[i].n);
                trust_signatures_done(&s);
        }
        for (int i = 0; i < 100; i++)
                add_layer(&many, DIGEST, "9", "YQ==");
        assert_int_equal(str_adds(&many, "]}"), 0);
        assert_int_equal(trust_signatures_read(many.data, many.len, &s, NULL), 0);
        assert_int_equal(s.n, TRUST_SIGNATURES_MAX);
        trust_signatures_done(&s);
        assert_int_equal(trust_signatures_read("{\"layers\":5}", 12, &s, NULL), -EBADMSG);
        assert_int_equal(trust_signatures_read("[]", 2, &s, NULL), -EBADMSG);
}

static void test_referrers(void **state)
{
        static const char text[] = "{\"manifests\":[{\"artifactType\":\"" TRUST_ARTIFACT "\",\"digest\":\"" DIGEST
                                   "\",\"size\":9},{\"artifactType\":\"application/spdx\",\"digest\":\"" OTHER
                                   "\",\"size\":9},{\"artifactType\":\"" TRUST_ARTIFACT
                                   "\",\"digest\":\"x\",\"size\":9},"
                                   "{\"artifactType\":\"" TRUST_ARTIFACT "\",\"digest\":\"" OTHER "\",\"size\":9}]}";
        struct image_descriptor found[2];
        char tag[IMAGE_DIGEST_MAX + 4];
        size_t n = 0;

        (void)state;
        assert_int_equal(trust_referrers_read(text, strlen(text), found, 2, &n, NULL), 0);
        assert_int_equal(n, 2);
        assert_string_equal(found[1].digest, OTHER);
        assert_int_equal(trust_referrers_read(text, strlen(text), found, 1, &n, NULL), 0);
        assert_int_equal(n, 1);
        trust_signature_tag(DIGEST, tag);
        assert_string_equal(tag, "sha256-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sig");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_rules),
                cmocka_unit_test(test_names_of_registries),
                cmocka_unit_test(test_pins),
                cmocka_unit_test(test_bad_policies),
                cmocka_unit_test(test_fingerprint),
                cmocka_unit_test(test_verify),
                cmocka_unit_test(test_wrong_signatures),
                cmocka_unit_test(test_wrong_payloads),
                cmocka_unit_test(test_manifests),
                cmocka_unit_test(test_referrers),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
