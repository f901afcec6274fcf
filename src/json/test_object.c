#include "json/json.h"

#include "base/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct doc {
        json_t *value;
        struct json_faults faults;
        struct json_obj o;
};

static void doc_open(struct doc *d, const char *text)
{
        struct err err = ERR_INIT;

        *d = (struct doc){ 0 };
        assert_int_equal(json_read(text, strlen(text), &d->value, &err), 0);
        (void)json_obj_init(&d->o, d->value, "", &d->faults);
}

/* Ends the document and compares its faults: "pointer: detail" each. */
static void doc_close(struct doc *d, const char *const *expected)
{
        json_obj_done(&d->o);
        for (size_t i = 0; expected[i]; i++) {
                auto_free char *text = NULL;

                assert_true(i < d->faults.len);
                text = str_printf("%s: %s", d->faults.items[i].pointer, d->faults.items[i].detail);
                assert_string_equal(text, expected[i]);
        }
        assert_int_equal(d->faults.len, strv_len((char *const *)expected));
        json_faults_done(&d->faults);
        json_decref(d->value);
}

static void test_good(void **state)
{
        static const char *const words[] = { "none", "nat", NULL };
        auto_strv v = NULL;
        const char *s = NULL;
        int64_t n = 0, ns = 0;
        json_t *any = NULL;
        bool b = false;
        struct doc d;
        size_t len;
        int word = -1;

        (void)state;
        doc_open(&d, "{\"s\":\"x\\u0000y\",\"b\":true,\"n\":-5,\"e\":\"nat\",\"v\":[\"a\",\"b\"],\"any\":{\"k\":1}}");
        assert_true(json_get_str(&d.o, "s", &s, &len));
        assert_int_equal(len, 3);
        assert_true(json_get_bool(&d.o, "b", &b) && b);
        assert_true(json_get_int(&d.o, "n", -5, 5, &n));
        assert_int_equal(n, -5);
        assert_true(json_get_enum(&d.o, "e", words, &word));
        assert_int_equal(word, 1);
        assert_true(json_get_strv(&d.o, "v", 2, &v));
        assert_int_equal(strv_len(v), 2);
        assert_true(json_get_any(&d.o, "any", &any));
        assert_true(json_is_object(any));
        doc_close(&d, (const char *const[]){ NULL });

        doc_open(&d, "{\"m\":\"1.5k\",\"m2\":7,\"t\":\"1m30s\",\"t2\":2,\"t3\":0.25}");
        assert_true(json_get_bytes(&d.o, "m", &n) && n == 1536);
        assert_true(json_get_bytes(&d.o, "m2", &n) && n == 7);
        assert_true(json_get_duration(&d.o, "t", &ns) && ns == 90 * (int64_t)NS_PER_S);
        assert_true(json_get_duration(&d.o, "t2", &ns) && ns == 2 * (int64_t)NS_PER_S);
        assert_true(json_get_duration(&d.o, "t3", &ns) && ns == 250 * (int64_t)NS_PER_MS);
        doc_close(&d, (const char *const[]){ NULL });
}

static void test_absent(void **state)
{
        const char *s = "kept";
        char **v = NULL;
        int64_t n = 1;
        json_t *any = NULL;
        bool b = true;
        struct doc d;
        int word = 1;

        (void)state;
        doc_open(&d, "{\"v\":null}");
        assert_false(json_get_str(&d.o, "s", &s, NULL));
        assert_false(json_get_bool(&d.o, "s", &b));
        assert_false(json_get_int(&d.o, "s", 0, 1, &n));
        assert_false(json_get_enum(&d.o, "s", (const char *const[]){ "a", NULL }, &word));
        assert_false(json_get_strv(&d.o, "s", 1, &v));
        assert_false(json_get_strv(&d.o, "v", 1, &v));
        assert_false(json_get_any(&d.o, "s", &any));
        assert_false(json_get_bytes(&d.o, "s", &n));
        assert_false(json_get_duration(&d.o, "s", &n));
        assert_string_equal(s, "kept");
        assert_true(b && n == 1 && word == 1 && !v && !any);
        doc_close(&d, (const char *const[]){ NULL });
}

static void test_wrong_types(void **state)
{
        static const char *const words[] = { "none", "nat", NULL };
        static const char *const names[] = { "object", "null", "real", NULL };
        const char *s = NULL;
        char **v = NULL;
        int64_t n = 1;
        bool b = true;
        struct doc d;
        int word = 1;

        (void)state;
        for (size_t i = 0; names[i]; i++) {
                doc_open(&d, "{\"object\":{},\"null\":null,\"real\":-1.5}");
                assert_false(json_get_str(&d.o, names[i], &s, NULL));
                assert_false(json_get_bool(&d.o, names[i], &b));
                assert_false(json_get_int(&d.o, names[i], 0, 1, &n));
                assert_false(json_get_enum(&d.o, names[i], words, &word));
                assert_false(json_get_bytes(&d.o, names[i], &n));
                assert_false(json_get_duration(&d.o, names[i], &n));
                assert_int_equal(d.faults.len, 6);
                (void)json_get_strv(&d.o, names[i], 1, &v);
                assert_int_equal(d.faults.len, str_eq(names[i], "null") ? 6 : 7);
                json_obj_done(&d.o);
                json_faults_done(&d.faults);
                json_decref(d.value);
        }
        assert_true(b && n == 1 && word == 1 && !v && !s);
}

static void test_faults(void **state)
{
        static const char *const words[] = { "none", "nat", NULL };
        const char *s = NULL;
        char **v = NULL;
        int64_t n = 1;
        struct doc d;
        int word = 1;

        (void)state;
        doc_open(&d, "{\"s\":\"a\\u0000\",\"n\":9,\"e\":\"nut\",\"v\":[\"a\",1],\"w\":[\"a\",\"b\"],\"m\":\"-1k\","
                     "\"t\":\"-1s\",\"t2\":1e300,\"e2\":\"nat\\u0000\",\"m2\":-1,\"z\":[\"\\u0000\"],\"a/b~c\":1}");
        assert_false(json_get_str(&d.o, "s", &s, NULL));
        assert_false(json_get_int(&d.o, "n", 0, 8, &n));
        assert_false(json_get_enum(&d.o, "e", words, &word));
        assert_false(json_get_strv(&d.o, "v", 2, &v));
        assert_false(json_get_strv(&d.o, "w", 1, &v));
        assert_false(json_get_bytes(&d.o, "m", &n));
        assert_false(json_get_duration(&d.o, "t", &n));
        assert_false(json_get_duration(&d.o, "t2", &n));
        assert_false(json_get_enum(&d.o, "e2", words, &word));
        assert_false(json_get_bytes(&d.o, "m2", &n));
        assert_false(json_get_strv(&d.o, "z", 1, &v));
        doc_close(&d, (const char *const[]){
                              "/s: must not hold NUL",
                              "/n: must be an integer from 0 to 8",
                              "/e: must be one of \"none\", \"nat\"",
                              "/v/1: must be a string without NUL",
                              "/w: must not hold more than 1 strings",
                              "/m: must be a size, such as 1048576 or \"512m\"",
                              "/t: must be a duration that is not negative, such as 90 or \"1m30s\"",
                              "/t2: must be a duration that is not negative, such as 90 or \"1m30s\"",
                              "/e2: must be one of \"none\", \"nat\"",
                              "/m2: must be a size, such as 1048576 or \"512m\"",
                              "/z/0: must be a string without NUL",
                              "/a~1b~0c: is not known",
                              NULL,
                      });
}

static void test_no_object(void **state)
{
        const char *s = NULL;
        struct doc d;

        (void)state;
        doc_open(&d, "[1]");
        assert_false(json_get_str(&d.o, "s", &s, NULL));
        doc_close(&d, (const char *const[]){ ": must be an object", NULL });
}

static void test_nested(void **state)
{
        struct json_obj limits;
        json_t *any = NULL;
        struct doc d;

        (void)state;
        doc_open(&d, "{\"limits\":{\"what\":1}}");
        assert_true(json_get_any(&d.o, "limits", &any));
        assert_int_equal(json_obj_init(&limits, any, "/limits", &d.faults), 0);
        json_obj_done(&limits);
        doc_close(&d, (const char *const[]){ "/limits/what: is not known", NULL });
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),   cmocka_unit_test(test_absent),    cmocka_unit_test(test_wrong_types),
                cmocka_unit_test(test_faults), cmocka_unit_test(test_no_object), cmocka_unit_test(test_nested),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
