/* Every case that image-spec's own tests of its schema recorded (corpora/tables/oci-schema.json): what they refuse is refused
 * here, and what they take is taken, but for those named below with their reason. A descriptor is read as the only entry of an
 * index. */

#include "base/fd.h"
#include "base/str.h"
#include "image/manifest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_MAX (4U << 20)
#define CASES 70

#define NO_IMAGE "an artifact, which is refused by name: there is nothing to run in it"
#define ALGORITHM "a digest that nobody here can verify"
#define NO_TYPE "old archives leave it out; what is described says what it is"

/* By number, from 0. */
static const struct {
        size_t number;
        const char *reason;
} exceptions[] = {
        { 1, NO_IMAGE },
        { 68, NO_IMAGE },
        { 69, NO_IMAGE },
        { 35, ALGORITHM },
        { 36, ALGORITHM },
        { 37, ALGORITHM },
        { 38, ALGORITHM },
        { 40, ALGORITHM },
        { 41, ALGORITHM },
        { 64, ALGORITHM },
        { 16, NO_TYPE },
        { 49, NO_TYPE },
        { 47, "no machine is without an architecture, so nobody chooses the entry" },
        { 63, "what Docker builds FROM scratch without files has no layers, and is loaded" },
};

static int parse_manifest(const char *text, size_t len)
{
        auto_manifest m = { .layers = NULL };

        return image_manifest_parse(text, len, &m, NULL);
}

static int parse_index(const char *text, size_t len)
{
        auto_index x = { .entries = NULL };

        return image_index_parse(text, len, &x, NULL);
}

static int parse_config(const char *text, size_t len)
{
        auto_config c = { .json = NULL };

        return image_config_parse(text, len, &c, NULL);
}

static int parse_descriptor(const char *text, size_t len)
{
        auto_free char *index = str_printf("{\"schemaVersion\":2,\"manifests\":[%.*s]}", (int)len, text);

        return parse_index(index, strlen(index));
}

static int parse_layout(const char *text, size_t len)
{
        return image_layout_version(text, len, NULL);
}

static int parse(const char *media, const char *text)
{
        static const struct {
                const char *media;
                int (*parse)(const char *text, size_t len);
        } kinds[] = {
                { MEDIA_OCI_MANIFEST, parse_manifest },
                { MEDIA_OCI_INDEX, parse_index },
                { MEDIA_OCI_CONFIG, parse_config },
                { "application/vnd.oci.descriptor.v1+json", parse_descriptor },
                { "application/vnd.oci.layout.header.v1+json", parse_layout },
        };

        for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
                if (str_eq(media, kinds[i].media))
                        return kinds[i].parse(text, strlen(text));
        }
        fail_msg("a case of %s", media);
        return 0;
}

static const char *reason_of(size_t number)
{
        for (size_t i = 0; i < ARRAY_LEN(exceptions); i++) {
                if (exceptions[i].number == number)
                        return exceptions[i].reason;
        }
        return NULL;
}

static void test_table(void **state)
{
        const char *dir = getenv("MAYFLY_CORPORA");
        auto_free char *path = str_printf("%s/tables/oci-schema.json", dir ? dir : "../shared/corpora");
        auto_str text = STR_INIT;
        auto_json table = NULL;
        const json_t *c, *cases;
        size_t i, wrong = 0, excepted = 0;

        (void)state;
        if (access(path, R_OK) < 0) {
                print_message("no %s (MAYFLY_CORPORA)\n", path);
                skip();
        }
        assert_int_equal(fd_read_file(AT_FDCWD, path, TABLE_MAX, &text, NULL), 0);
        assert_int_equal(json_read(text.data, text.len, &table, NULL), 0);
        cases = json_object_get(table, "cases");
        assert_int_equal(json_array_size(cases), CASES);
        json_array_foreach(cases, i, c) {
                const json_t *in = json_object_get(c, "in");
                const char *json = json_string_value(json_object_get(in, "json"));
                bool refused = parse(json_string_value(json_object_get(in, "mediatype")), json) < 0;
                bool differs = refused != (json_object_get(c, "err") != NULL);

                excepted += reason_of(i) != NULL;
                if (differs == (reason_of(i) != NULL))
                        continue;
                wrong++;
                print_error("case %zu is %s: %s %s\n", i, refused ? "refused" : "taken",
                            json_string_value(json_object_get(c, "err")), json);
        }
        print_message("%zu cases as image-spec has them, %zu otherwise\n", CASES - wrong - excepted, excepted);
        assert_int_equal(wrong, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_table) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
