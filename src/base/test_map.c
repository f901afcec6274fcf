#include "base/map.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_basic(void **state)
{
        struct map *m = map_new();
        int a, b;

        (void)state;
        assert_non_null(m);
        assert_null(map_find(m, "a"));
        assert_null(map_remove(m, "a"));
        assert_int_equal(map_set(m, "a", &a), 0);
        assert_ptr_equal(map_find(m, "a"), &a);
        assert_int_equal(map_set(m, "a", &b), 0);
        assert_int_equal(map_len(m), 1);
        assert_int_equal(map_set(m, "", &a), 0);
        assert_ptr_equal(map_find(m, ""), &a);
        assert_ptr_equal(map_remove(m, "a"), &b);
        assert_null(map_find(m, "a"));
        assert_int_equal(map_len(m), 1);
        map_free(m);
        map_free(NULL);
}

/* Against an array that knows the truth. */
static void test_many(void **state)
{
        static bool present[5000];
        struct map *m = map_new();
        unsigned seed = 1;
        size_t count = 0;

        (void)state;
        for (int round = 0; round < 200000; round++) {
                char key[32];
                size_t i;

                seed = seed * 1103515245U + 12345U;
                i = (seed >> 8) % ARRAY_LEN(present);
                (void)snprintf(key, sizeof(key), "key-%zu", i);
                if (seed >> 31) {
                        assert_int_equal(map_set(m, key, &present[i]), 0);
                        count += !present[i];
                        present[i] = true;
                } else {
                        assert_ptr_equal(map_remove(m, key), present[i] ? &present[i] : NULL);
                        count -= present[i];
                        present[i] = false;
                }
                assert_int_equal(map_len(m), count);
        }
        for (size_t i = 0; i < ARRAY_LEN(present); i++) {
                char key[32];

                (void)snprintf(key, sizeof(key), "key-%zu", i);
                assert_ptr_equal(map_find(m, key), present[i] ? &present[i] : NULL);
        }
        map_free(m);
}

static void test_iterate(void **state)
{
        struct map *m = map_new();
        size_t pos = 0, seen = 0;
        static int values[300];
        const char *key;
        void *value;

        (void)state;
        assert_false(map_next(m, &pos, &key, &value));
        for (size_t i = 0; i < ARRAY_LEN(values); i++) {
                char name[16];

                (void)snprintf(name, sizeof(name), "%zu", i);
                assert_int_equal(map_set(m, name, &values[i]), 0);
        }
        pos = 0;
        while (map_next(m, &pos, &key, &value)) {
                (*(int *)value)++;
                seen++;
                assert_ptr_equal(map_remove(m, key), value);
        }
        assert_int_equal(seen, ARRAY_LEN(values));
        assert_int_equal(map_len(m), 0);
        for (size_t i = 0; i < ARRAY_LEN(values); i++)
                assert_int_equal(values[i], 1);
        map_free(m);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_basic),
                cmocka_unit_test(test_many),
                cmocka_unit_test(test_iterate),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
