/* Every case that distribution/reference's own tests recorded (corpora/tables/ref-*.json), and what they leave out. */

#include "base/fd.h"
#include "base/str.h"
#include "image/ref.h"
#include "json/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define TABLE_MAX (4U << 20)

struct function {
        const char *table;
        int (*fn)(const char *s, struct image_ref *ret, struct err *err);
};

static const struct function functions[] = {
        { "ref-parse.json", image_ref_parse },
        { "ref-parseany.json", image_ref_parse_any },
        { "ref-parsedockerref.json", image_ref_parse_docker },
        { "ref-parsenamed.json", image_ref_parse_named },
        { "ref-parsenormalized.json", image_ref_parse_normalized },
        { "ref-withname.json", image_ref_with_name },
};

static const char *member(const json_t *out, const char *name)
{
        const char *s = json_string_value(json_object_get(out, name));

        return s ? s : "";
}

static bool case_passes(const struct function *f, const json_t *c)
{
        const json_t *out = json_object_get(c, "out");
        char text[REF_TEXT_MAX], familiar[REF_TEXT_MAX], name[REF_TEXT_MAX];
        struct err err = ERR_INIT;
        struct image_ref ref, alone;
        int r;

        r = f->fn(member(c, "in"), &ref, &err);
        if (!out)
                return r < 0 && str_eq(err.text, member(c, "err"));
        if (r < 0)
                return false;
        image_ref_format(&ref, text);
        image_ref_familiar(&ref, familiar);
        alone = ref;
        alone.tag[0] = alone.digest[0] = '\0';
        image_ref_format(&alone, name);
        return str_eq(text, member(out, "string")) && str_eq(name, member(out, "name")) &&
               str_eq(ref.domain, member(out, "domain")) && str_eq(ref.path, member(out, "path")) &&
               str_eq(ref.tag, member(out, "tag")) && str_eq(ref.digest, member(out, "digest")) &&
               (!json_object_get(out, "familiar") || str_eq(familiar, member(out, "familiar")));
}

static void run_table(const char *dir, const struct function *f)
{
        auto_free char *path = str_printf("%s/tables/%s", dir, f->table);
        struct err err = ERR_INIT;
        auto_str text = STR_INIT;
        auto_json table = NULL;
        size_t i, failed = 0;
        json_t *c, *cases;

        assert_non_null(path);
        if (fd_read_file(AT_FDCWD, path, TABLE_MAX, &text, &err) < 0 ||
            json_read(text.data, text.len, &table, &err) < 0)
                fail_msg("%s: %s", path, err.text);
        cases = json_object_get(table, "cases");
        assert_true(json_array_size(cases) > 0);
        json_array_foreach(cases, i, c) {
                if (case_passes(f, c))
                        continue;
                failed++;
                print_error("%s: '%s'\n", f->table, member(c, "in"));
        }
        print_message("%s: %zu of %zu cases\n", f->table, json_array_size(cases) - failed, json_array_size(cases));
        assert_int_equal(failed, 0);
}

static void test_tables(void **state)
{
        const char *dir = getenv("MAYFLY_CORPORA");

        (void)state;
        if (!dir)
                dir = "../shared/corpora";
        if (access(dir, R_OK) < 0) {
                print_message("no corpora in '%s' (MAYFLY_CORPORA)\n", dir);
                skip();
        }
        for (size_t i = 0; i < ARRAY_LEN(functions); i++)
                run_table(dir, &functions[i]);
}

static void test_long(void **state)
{
        struct err err = ERR_INIT;
        struct image_ref ref;
        char text[1024];

        (void)state;
        memset(text, 'a', sizeof(text));
        memcpy(text + 300, ".b/c", 5);
        assert_int_equal(image_ref_parse(text, &ref, &err), -ENAMETOOLONG);
        memset(text, 'a', sizeof(text));
        text[200] = '/';
        text[440] = ':';
        text[569] = '\0';
        assert_int_equal(image_ref_parse(text, &ref, &err), -ENAMETOOLONG);
}

static void test_digest(void **state)
{
        (void)state;
        assert_true(image_digest_valid("sha256:"
                                       "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"));
        assert_false(image_digest_valid("sha256:"
                                        "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef"));
        assert_false(image_digest_valid("sha256:../../etc/passwd"));
        assert_false(image_digest_valid("sha512:00"));
        assert_false(image_digest_valid(":"));
        assert_false(image_digest_valid(""));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_tables),
                cmocka_unit_test(test_long),
                cmocka_unit_test(test_digest),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
