#include "image/access.h"
#include "image/challenge.h"
#include "image/choose.h"
#include "image/registry_url.h"

#include "base/path.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ── challenges ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_challenges(void **state)
{
        struct image_challenge c = { .basic = false };

        (void)state;
        assert_int_equal(image_challenge_parse(
                                 "Bearer realm=\"https://a.b/t?x=1,2\",service=\"s \\\"q\\\"\" , scope=repo", &c, NULL),
                         0);
        assert_true(c.bearer && !c.basic);
        assert_string_equal(c.realm, "https://a.b/t?x=1,2");
        assert_string_equal(c.service, "s \"q\"");
        assert_string_equal(c.scope, "repo");
        c = (struct image_challenge){ .basic = false };
        assert_int_equal(image_challenge_parse("Negotiate abc==, BASIC realm=x, bearer Realm = \"r\"", &c, NULL), 0);
        assert_true(c.bearer && c.basic);
        assert_string_equal(c.realm, "r");
}

static void test_bad_challenges(void **state)
{
        static const char *const bad[] = { "Bearer realm=\"x", "=x", "Bearer realm=\"a\x01\"",
                                           "Bearer realm=\"a\" \"b\"" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                struct image_challenge c = { .basic = false };

                assert_int_equal(image_challenge_parse(bad[i], &c, NULL), -EBADMSG);
                assert_false(c.bearer);
        }
}

/* ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_host_kinds(void **state)
{
        static const char *const refused[] = {
                "169.254.169.254", "169.254.0.1", "fe80::1",   "100.100.100.200",
                "fd00:ec2::254",   "0.0.0.0",     "224.0.0.1", "::ffff:169.254.169.254"
        };
        static const char *const loopback[] = { "127.0.0.1", "127.9.9.9", "::1" };
        static const char *const open[] = { "192.0.2.1", "2001:db8::1", "registry.example", "localhost", "1" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(refused); i++)
                assert_int_equal(registry_host_kind(refused[i]), REGISTRY_ADDRESS_REFUSED);
        for (size_t i = 0; i < ARRAY_LEN(loopback); i++)
                assert_int_equal(registry_host_kind(loopback[i]), REGISTRY_ADDRESS_LOOPBACK);
        for (size_t i = 0; i < ARRAY_LEN(open); i++)
                assert_int_equal(registry_host_kind(open[i]), REGISTRY_ADDRESS_PUBLIC);
}

static void assert_joined(const char *location, const char *expected)
{
        struct registry_url base, url;
        char out[REGISTRY_URL_MAX + 300];

        assert_int_equal(registry_url_parse("https://Reg.example:5000/v2/a/blobs/x?y", &base, NULL), 0);
        assert_int_equal(registry_url_join(&base, location, &url, NULL), 0);
        registry_url_format(&url, out, sizeof(out));
        assert_string_equal(out, expected);
}

static void test_locations(void **state)
{
        (void)state;
        assert_joined("https://cdn.example/b?c#d", "https://cdn.example/b?c");
        assert_joined("//[::1]:81/z", "https://[::1]:81/z");
        assert_joined("/z", "https://reg.example:5000/z");
        assert_joined("z", "https://reg.example:5000/v2/a/blobs/z");
        assert_joined("?q", "https://reg.example:5000/v2/a/blobs/x?q");
        assert_joined("http://a:80", "http://a/");
}

static void test_bad_addresses(void **state)
{
        static const char *const bad[] = {
                "file:///etc/passwd",  "http://",        "http://u:p@h/",
                "http://2130706433/",  "http://0x7f.1/", "http://h:0/",
                "http://h:99999/",     "http://h\n/",    "http://h/\x7f",
                "http://%6cocalhost/", "http://a..b/",   "http://[::1",
                "http://localhost./",  "gopher://x/",    "http://-%/",
        };
        struct registry_url url;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(registry_url_parse(bad[i], &url, NULL), -EINVAL);
}

static enum registry_address kind(const char *text)
{
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
        struct sockaddr_in v4 = { .sin_family = AF_INET };

        if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
                return registry_address_kind((const struct sockaddr *)&v4);
        assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
        return registry_address_kind((const struct sockaddr *)&v6);
}

static void test_kinds_of_addresses(void **state)
{
        static const char *const refused[] = {
                "169.254.169.254", "0.0.0.0", "224.0.0.1", "168.63.129.16",      "100.100.100.200",
                "fe80::1",         "::",      "ff02::1",   "::ffff:169.254.1.1", "64:ff9b::a9fe:a9fe",
                "fd00:ec2::254"
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(refused); i++)
                assert_int_equal(kind(refused[i]), REGISTRY_ADDRESS_REFUSED);
        assert_int_equal(kind("127.0.0.9"), REGISTRY_ADDRESS_LOOPBACK);
        assert_int_equal(kind("::1"), REGISTRY_ADDRESS_LOOPBACK);
        assert_int_equal(kind("::ffff:127.0.0.1"), REGISTRY_ADDRESS_LOOPBACK);
        assert_int_equal(kind("198.51.100.7"), REGISTRY_ADDRESS_PUBLIC);
}

/* ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define CONFIG "\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG "\"}"

static int kind_of(const char *text, const char *type, enum manifest_kind *ret)
{
        char media[IMAGE_MEDIA_MAX];

        return manifest_kind(text, strlen(text), type, ret, media, NULL);
}

static void test_kinds_of_manifests(void **state)
{
        enum manifest_kind k = MANIFEST_INDEX;

        (void)state;
        assert_int_equal(kind_of("{\"schemaVersion\":2," CONFIG "}", "application/json", &k), 0);
        assert_int_equal(k, MANIFEST_IMAGE);
        assert_int_equal(kind_of("{\"manifests\":[]}", "", &k), 0);
        assert_int_equal(k, MANIFEST_INDEX);
        assert_int_equal(kind_of("{" CONFIG ",\"mediaType\":\"" MEDIA_OCI_MANIFEST "\"}", MEDIA_OCI_INDEX, &k),
                         -EBADMSG);
        assert_int_equal(kind_of("{" CONFIG ",\"manifests\":[]}", "", &k), -EBADMSG);
        assert_int_equal(kind_of("{\"schemaVersion\":1}", "", &k), -EOPNOTSUPP);
        assert_int_equal(kind_of("{\"config\":{\"mediaType\":\"application/vnd.cncf.helm.config.v1+json\"}}",
                                 MEDIA_OCI_MANIFEST, &k),
                         -EOPNOTSUPP);
        assert_int_equal(kind_of("nothing", "", &k), -EBADMSG);
}

/* ── access ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_access(void **state)
{
        const struct access_config config = { .fresh_ms = 1000, .hold_ms = 5000 };
        struct image_ref ref = { .domain = "r.example", .path = "a/b" },
                         other = { .domain = "r.example", .path = "a/c" };
        char dir[] = "/tmp/mayfly-access-XXXXXX", *text = NULL;
        struct access *a = NULL;
        int fd;

        (void)state;
        assert_non_null(mkdtemp(dir));
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(access_open(fd, &config, &a, NULL), 0);
        assert_false(access_is_closed(a, &ref));
        assert_true(access_close(a, &ref));
        assert_false(access_close(a, &ref));
        assert_true(access_is_closed(a, &ref));
        assert_false(access_is_closed(a, &other));
        assert_int_equal(access_look(a, "key:1", &ref, 100000), ACCESS_NONE);
        assert_true(access_prove(a, "key:1", &ref, 100000));
        assert_int_equal(access_look(a, "key:1", &ref, 100500), ACCESS_FRESH);
        assert_int_equal(access_look(a, "key:1", &ref, 103000), ACCESS_HELD);
        assert_int_equal(access_look(a, "key:1", &ref, 106000), ACCESS_NONE);
        assert_int_equal(access_look(a, "key:1", &ref, 99999), ACCESS_NONE);
        assert_int_equal(access_look(a, "key:2", &ref, 100500), ACCESS_NONE);
        assert_int_equal(access_text(a, 100500, &text, NULL), 0);
        assert_int_equal(access_write(fd, text, NULL), 0);
        access_free(a);
        assert_int_equal(access_open(fd, &config, &a, NULL), 0);
        assert_true(access_is_closed(a, &ref));
        assert_int_equal(access_look(a, "key:1", &ref, 100500), ACCESS_FRESH);
        assert_true(access_forget(a, "key:1", &ref));
        assert_int_equal(access_look(a, "key:1", &ref, 100500), ACCESS_NONE);
        access_free(a);
        /* What was closed must not come open by damage. */
        assert_int_equal(access_write(fd, "{", NULL), 0);
        assert_true(access_open(fd, &config, &a, NULL) < 0);
        free(text);
        (void)unlinkat(fd, "access.json", 0);
        close(fd);
        (void)rmdir(dir);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_host_kinds),         cmocka_unit_test(test_challenges),
                cmocka_unit_test(test_bad_challenges),     cmocka_unit_test(test_locations),
                cmocka_unit_test(test_bad_addresses),      cmocka_unit_test(test_kinds_of_addresses),
                cmocka_unit_test(test_kinds_of_manifests), cmocka_unit_test(test_access),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
