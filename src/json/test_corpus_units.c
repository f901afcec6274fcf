/* The tables of sizes and durations that upstream's own tests made, against ours. */

#include "json/json.h"

#include "base/fd.h"
#include "base/test_skip.h"
#include "base/time.h"
#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define TABLE_MAX (16U << 20)

typedef int parse_fn(const char *s, int64_t *ret);

/* NULL, and says why, where there are no tables. */
static json_t *table_open(const char *name)
{
        const char *root = getenv("MAYFLY_CORPORA");
        auto_free char *path = NULL;
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        json_t *v = NULL;

        path = str_printf("%s/tables/%s.json", root ? root : "../shared/corpora", name);
        assert_non_null(path);
        if (fd_read_file(AT_FDCWD, path, TABLE_MAX, &text, &err) < 0) {
                printf("skipped: %s\n", err.text);
                return NULL;
        }
        if (json_read(text.data, text.len, &v, &err) < 0)
                fail_msg("%s: %s", path, err.text);
        return v;
}

/* Where Mayfly means more than upstream does: a number without a unit is a duration in seconds. */
static bool is_ours(parse_fn *parse, const char *in)
{
        char *end;

        if (parse != time_parse_duration || !*in)
                return false;
        (void)strtod(in, &end);
        return *end == '\0';
}

static void run_table(const char *name, parse_fn *parse)
{
        auto_json table = table_open(name);
        const json_t *c;
        size_t i, run = 0;

        if (!table)
                skip_because("no corpora (MAYFLY_CORPORA)");
        json_array_foreach(json_object_get(table, "cases"), i, c) {
                const char *in = json_string_value(json_object_get(c, "in"));
                const json_t *out = json_object_get(c, "out");
                int64_t v = 0;
                int r;

                if (!in || (!out && is_ours(parse, in)))
                        continue;
                r = parse(in, &v);
                if (out && (r < 0 || v != json_integer_value(out)))
                        fail_msg("%s: '%s' gives %d, %lld", name, in, r, (long long)v);
                if (!out && r >= 0)
                        fail_msg("%s: '%s' gives %lld and should be refused", name, in, (long long)v);
                run++;
        }
        printf("%s: %zu cases\n", name, run);
        assert_true(run > 0);
}

static void test_ram_in_bytes(void **state)
{
        (void)state;
        run_table("units-raminbytes", units_parse_bytes);
}

static void test_mem_bytes(void **state)
{
        (void)state;
        run_table("cli-membytes", units_parse_bytes);
}

static void test_compose_bytes(void **state)
{
        (void)state;
        run_table("compose-bytes", units_parse_bytes);
}

static void test_go_duration(void **state)
{
        (void)state;
        run_table("go-duration", time_parse_duration);
}

static void test_cli_duration(void **state)
{
        (void)state;
        run_table("cli-duration", time_parse_duration);
}

static void test_compose_duration(void **state)
{
        (void)state;
        run_table("compose-duration", time_parse_duration);
}

static void test_human_size(void **state)
{
        auto_json table = table_open("units-humansize");
        const json_t *c;
        size_t i, run = 0;

        (void)state;
        if (!table)
                skip_because("no corpora (MAYFLY_CORPORA)");
        json_array_foreach(json_object_get(table, "cases"), i, c) {
                double in = json_number_value(json_object_get(c, "in"));
                char out[UNITS_HUMAN_MAX];

                if (in < 0 || in >= 18446744073709551616.0)
                        continue;
                units_human((uint64_t)in, out);
                assert_string_equal(out, json_string_value(json_object_get(c, "out")));
                run++;
        }
        printf("units-humansize: %zu cases\n", run);
        assert_true(run > 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ram_in_bytes),  cmocka_unit_test(test_mem_bytes),
                cmocka_unit_test(test_compose_bytes), cmocka_unit_test(test_go_duration),
                cmocka_unit_test(test_cli_duration),  cmocka_unit_test(test_compose_duration),
                cmocka_unit_test(test_human_size),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
