/* Parsing of manifests, indexes and configurations: own cases, and every manifest of the corpora. */

#include "image/manifest.h"

#include "base/fd.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define D1 "sha256:1111111111111111111111111111111111111111111111111111111111111111"
#define D2 "sha256:2222222222222222222222222222222222222222222222222222222222222222"
#define CONFIG "\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG "\",\"digest\":\"" D1 "\",\"size\":2}"
#define LAYER "{\"mediaType\":\"" MEDIA_OCI_LAYER "+gzip\",\"digest\":\"" D2 "\",\"size\":3}"

static int parse_manifest(const char *text)
{
        auto_manifest m = { .layers = NULL };
        struct err err = ERR_INIT;
        int r = image_manifest_parse(text, strlen(text), &m, &err);

        assert_true(r == 0 || (r == -EBADMSG && err.text[0]));
        return r;
}

static void test_manifest(void **state)
{
        static const char *const bad[] = {
                "",
                "[]",
                "{}",
                "{\"schemaVersion\":1,\"fsLayers\":[]}",
                "{\"schemaVersion\":2," CONFIG "}",
                "{\"schemaVersion\":2," CONFIG ",\"layers\":{}}",
                "{\"schemaVersion\":2," CONFIG ",\"layers\":[],\"manifests\":[]}",
                "{\"schemaVersion\":2," CONFIG ",\"layers\":[],\"fsLayers\":[]}",
                "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_INDEX "\"," CONFIG ",\"layers\":[]}",
                "{\"schemaVersion\":2,\"layers\":[" LAYER "]}",
                "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"x/y\",\"digest\":\"" D1
                "\",\"size\":2},\"layers\":[]}",
                "{\"schemaVersion\":2," CONFIG ",\"layers\":[{\"mediaType\":\"application/vnd.in-toto+json\","
                "\"digest\":\"" D1 "\",\"size\":1}]}",
                "{\"schemaVersion\":2," CONFIG ",\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER "\",\"digest\":"
                "\"sha256:../../../etc/passwd\",\"size\":1}]}",
                "{\"schemaVersion\":2," CONFIG ",\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER "\",\"digest\":\"" D1
                "\",\"size\":-1}]}",
                "{\"schemaVersion\":2," CONFIG "," CONFIG ",\"layers\":[]}",
        };

        (void)state;
        assert_int_equal(parse_manifest("{\"schemaVersion\":2," CONFIG ",\"layers\":[" LAYER "," LAYER "],\"x\":1}"),
                         0);
        assert_int_equal(parse_manifest("{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_DOCKER_MANIFEST "\"," CONFIG
                                        ",\"layers\":[]}"),
                         0);
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                if (parse_manifest(bad[i]) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i]);
        }
}

static void test_too_many_layers(void **state)
{
        auto_str text = STR_INIT;

        (void)state;
        assert_int_equal(str_adds(&text, "{\"schemaVersion\":2," CONFIG ",\"layers\":[" LAYER), 0);
        for (int i = 1; i < IMAGE_LAYERS_MAX + 1; i++)
                assert_int_equal(str_adds(&text, "," LAYER), 0);
        assert_int_equal(str_adds(&text, "]}"), 0);
        assert_int_equal(parse_manifest(text.data), -EBADMSG);
}

static void add(struct str *s, const char *digest, const char *os, const char *arch, const char *variant)
{
        assert_int_equal(str_addf(s, "%s{\"mediaType\":\"" MEDIA_OCI_MANIFEST "\",\"digest\":\"%s\",\"size\":1",
                                  s->data[s->len - 1] == '[' ? "" : ",", digest),
                         0);
        if (os)
                assert_int_equal(str_addf(s, ",\"platform\":{\"os\":\"%s\",\"architecture\":\"%s\",\"variant\":\"%s\"}",
                                          os, arch, variant),
                                 0);
        assert_int_equal(str_addc(s, '}'), 0);
}

static const char *choose(struct str *s, const char *arch)
{
        static char digest[IMAGE_DIGEST_MAX];
        const struct image_index_entry *e;
        auto_index x = { .entries = NULL };

        assert_int_equal(str_adds(s, "]}"), 0);
        assert_int_equal(image_index_parse(s->data, s->len, &x, NULL), 0);
        e = image_index_choose(&x, arch);
        str_done(s);
        *s = (struct str)STR_INIT;
        assert_int_equal(str_adds(s, "{\"schemaVersion\":2,\"manifests\":["), 0);
        if (!e)
                return NULL;
        memcpy(digest, e->descriptor.digest, sizeof(digest));
        return digest;
}

static void test_choose(void **state)
{
        auto_str s = STR_INIT;

        (void)state;
        assert_int_equal(str_adds(&s, "{\"schemaVersion\":2,\"manifests\":["), 0);
        assert_null(choose(&s, "amd64"));
        add(&s, D1, "linux", "arm64", "v8");
        add(&s, D2, "linux", "amd64", "");
        assert_string_equal(choose(&s, "amd64"), D2);
        add(&s, D1, "windows", "amd64", "");
        assert_null(choose(&s, "amd64"));
        add(&s, D1, "linux", "amd64", "v3");
        add(&s, D2, "linux", "amd64", "");
        assert_string_equal(choose(&s, "amd64"), D2);
        add(&s, D1, "unknown", "unknown", "");
        assert_null(choose(&s, "amd64"));
        add(&s, D1, NULL, NULL, NULL);
        assert_string_equal(choose(&s, "amd64"), D1);
        add(&s, D1, NULL, NULL, NULL);
        add(&s, D2, NULL, NULL, NULL);
        assert_null(choose(&s, "amd64"));
        assert_int_equal(str_adds(&s, "{\"mediaType\":\"application/xml\",\"digest\":\"" D1 "\",\"size\":1,"
                                      "\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}"),
                         0);
        add(&s, D2, "linux", "amd64", "v2");
        assert_string_equal(choose(&s, "amd64"), D2);
}

static void test_config(void **state)
{
        static const char *const bad[] = {
                "{}",
                "{\"os\":\"windows\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
                "{\"rootfs\":{\"type\":\"files\",\"diff_ids\":[]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:00\"]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[1]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Cmd\":\"x\"}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Cmd\":[1]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Env\":[\"A\"]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Env\":[\"=A\"]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Env\":[\"A=\\u0000\"]}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"User\":\"a\\u0000b\"}}",
                "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":[]}",
        };
        static const char good[] = "{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Cmd\":[\"a\",\"\"],"
                                   "\"Entrypoint\":null,\"Env\":[\"A=1=2\"],\"WorkingDir\":\"/w\"},"
                                   "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D1 "\"]}}";
        auto_config c = { .json = NULL };
        char tree[65];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                auto_config none = { .json = NULL };

                if (image_config_parse(bad[i], strlen(bad[i]), &none, NULL) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(image_config_parse(good, strlen(good), &c, NULL), 0);
        assert_null(c.entrypoint);
        assert_string_equal(c.cmd[0], "a");
        assert_string_equal(c.cmd[1], "");
        assert_string_equal(c.workdir, "/w");
        assert_string_equal(c.user, "");
        assert_int_equal(c.n_diff_ids, 1);
        assert_int_equal(image_tree_name((const char(*)[65])c.diff_ids, 1, tree, NULL), 0);
        assert_true(hex_is_lower(tree, 64));
}

static void test_saved(void **state)
{
        static const char *const bad[] = {
                "{}", "[1]", "[{}]", "[{\"Config\":\"\"}]", "[{\"Config\":1}]", "[{\"Config\":\"a\",\"Layers\":\"b\"}]"
        };
        static const char good[] = "[{\"Config\":\"a.json\",\"RepoTags\":null,\"Layers\":[\"l/layer.tar\"]}]";
        auto_saved l = { .items = NULL };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                auto_saved none = { .items = NULL };

                assert_int_equal(image_saved_parse(bad[i], strlen(bad[i]), &none, NULL), -EBADMSG);
        }
        assert_int_equal(image_saved_parse(good, strlen(good), &l, NULL), 0);
        assert_string_equal(l.items[0].layers[0], "l/layer.tar");
        assert_null(l.items[0].tags);
}

/* What MANIFESTS.tsv says of a file, this parser finds: an index is no manifest, and an attestation is no image. */
static void check_file(const char *dir, const char *name, const char *kind, unsigned *parsed)
{
        auto_free char *path = str_printf("%s/oci/%s", dir, name);
        auto_manifest m = { .layers = NULL };
        auto_config c = { .json = NULL };
        auto_index x = { .entries = NULL };
        auto_str text = STR_INIT;
        int as_manifest, as_index, as_config;

        if (!path || fd_read_file(AT_FDCWD, path, IMAGE_JSON_MAX, &text, NULL) < 0)
                return;
        as_manifest = image_manifest_parse(text.data, text.len, &m, NULL);
        as_index = image_index_parse(text.data, text.len, &x, NULL);
        as_config = image_config_parse(text.data, text.len, &c, NULL);
        if ((as_manifest == 0) + (as_index == 0) + (as_config == 0) > 1)
                fail_msg("%s is more than one thing", name);
        if (as_manifest == 0 && !str_eq(kind, "manifest"))
                fail_msg("%s (%s) parses as a manifest", name, kind);
        if (as_index == 0 && !str_eq(kind, "index"))
                fail_msg("%s (%s) parses as an index", name, kind);
        *parsed += as_manifest == 0 || as_index == 0 || as_config == 0;
}

static void test_corpus(void **state)
{
        const char *dir = getenv("MAYFLY_CORPORA");
        auto_free char *path = NULL;
        unsigned files = 0, parsed = 0;
        auto_str table = STR_INIT;

        (void)state;
        if (!dir)
                dir = "../shared/corpora";
        if (access(dir, R_OK) < 0) {
                print_message("no corpora in '%s' (MAYFLY_CORPORA)\n", dir);
                skip();
        }
        path = str_printf("%s/oci/MANIFESTS.tsv", dir);
        assert_non_null(path);
        assert_int_equal(fd_read_file(AT_FDCWD, path, IMAGE_JSON_MAX, &table, NULL), 0);
        for (char *line = table.data, *next; line && *line; line = next) {
                char *tab = strchr(line, '\t'), *end;

                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                if (!tab || line == table.data)
                        continue;
                *tab++ = '\0';
                end = strchr(tab, '\t');
                if (end)
                        *end = '\0';
                check_file(dir, line, tab, &parsed);
                files++;
        }
        print_message("%u of %u files of the corpus parse\n", parsed, files);
        assert_true(parsed > 0);
}

/* A configuration is kept: little text must not become much memory. */
static void test_many_values(void **state)
{
        auto_str text = STR_INIT;
        struct image_config config;
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(str_adds(&text, "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"x\":[{}"), 0);
        for (unsigned n = 0; n < IMAGE_VALUES_MAX / 2; n++)
                assert_int_equal(str_adds(&text, ",{}"), 0);
        assert_int_equal(str_adds(&text, "]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D1 "\"]}}"), 0);
        assert_int_equal(image_config_parse(text.data, text.len, &config, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "values"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_manifest),    cmocka_unit_test(test_too_many_layers),
                cmocka_unit_test(test_choose),      cmocka_unit_test(test_config),
                cmocka_unit_test(test_saved),       cmocka_unit_test(test_corpus),
                cmocka_unit_test(test_many_values),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
