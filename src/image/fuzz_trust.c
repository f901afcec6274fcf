/* Manifests of signatures, lists of referrers, payloads and signatures. The payload is tried under one key of ours. */
#include "base/fd.h"
#include "base/str.h"
#include "image/trust.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const char pem[] = "-----BEGIN PUBLIC KEY-----\n"
                          "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
                          "-----END PUBLIC KEY-----\n"; /* of RFC 8032, section 7.1, test 1 */

static const struct trust_rule *rule(void)
{
        static struct trust *trust;
        const struct trust_config config = { .keys = "/tmp", .signed_by = "*=mayfly-fuzz-trust" };
        const struct image_ref ref = { .domain = "docker.io", .path = "library/x", .tag = "1" };
        struct trust_wish wish;
        struct err err = ERR_INIT;

        if (!trust && (fd_write_file(AT_FDCWD, "/tmp/mayfly-fuzz-trust.pub", 0600, pem, strlen(pem), &err) < 0 ||
                       trust_new(&config, &trust, &err) < 0))
                abort();
        trust_look(trust, &ref, &wish);
        return wish.rule;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const struct image_ref ref = { .domain = "docker.io", .path = "library/x", .tag = "1" };
        struct image_descriptor referrers[16];
        struct trust_signatures s = { .n = 0 };
        char *text = malloc(size + 1), *feed;
        size_t n = 0;

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        if (trust_referrers_read(text, size, referrers, ARRAY_LEN(referrers), &n, NULL) == 0 &&
            n > ARRAY_LEN(referrers))
                abort();
        if (trust_signatures_read(text, size, &s, NULL) == 0) {
                if (s.n > TRUST_SIGNATURES_MAX)
                        abort();
                trust_signatures_done(&s);
        }
        /* The signature stands before the first line feed, the payload behind it. */
        feed = strchr(text, '\n');
        if (feed) {
                *feed = '\0';
                (void)trust_verify(rule(), &ref, DIGEST, feed + 1, size - (size_t)(feed + 1 - text), text);
        }
        (void)trust_claim(&ref, DIGEST, text, size);
        free(text);
        return 0;
}
