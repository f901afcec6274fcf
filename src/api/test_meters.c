#include "api/meters.h"

#include "base/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct meters *make(struct meters_config config)
{
        struct meters *m = NULL;

        assert_int_equal(meters_new(&config, &m), 0);
        return m;
}

static void test_tokens(void **state)
{
        struct meters *m = make((struct meters_config){ .address_rate = 2, .address_burst = 4 });
        uint64_t now = NS_PER_S;

        (void)state;
        for (int i = 0; i < 4; i++)
                assert_int_equal(meters_take_address(m, "a", now), 0);
        assert_int_equal(meters_take_address(m, "a", now), 1);
        assert_int_equal(meters_take_address(m, "b", now), 0);
        now += NS_PER_S / 2;
        assert_int_equal(meters_take_address(m, "a", now), 0);
        assert_int_equal(meters_take_address(m, "a", now), 1);
        now += 3600 * NS_PER_S; /* never more than the burst */
        for (int i = 0; i < 4; i++)
                assert_int_equal(meters_take_address(m, "a", now), 0);
        assert_int_equal(meters_take_address(m, "a", now), 1);
        meters_configure(m, &(struct meters_config){ .address_rate = 0.01, .address_burst = 1 });
        assert_true(meters_take_address(m, "a", now) > 50);
        meters_configure(m, &(struct meters_config){ .address_rate = 0 });
        assert_int_equal(meters_take_address(m, "a", now), 0);
        meters_free(m);
}

static void test_keys(void **state)
{
        struct meters *m = make((struct meters_config){ .key_connections = 3, .key_rate = 100 });
        struct key key = { .id = "k", .maxima.max_connections = 2 }, other = { .id = "o" };
        struct key slow = { .id = "s", .maxima = { .rate = 1, .burst = 1 } };

        (void)state;
        assert_int_equal(meters_enter_key(m, &key, 1), 0);
        assert_int_equal(meters_enter_key(m, &key, 1), 0);
        assert_int_equal(meters_enter_key(m, &key, 1), 1);
        meters_leave_key(m, "k");
        assert_int_equal(meters_enter_key(m, &key, 1), 0);
        for (int i = 0; i < 3; i++)
                assert_int_equal(meters_enter_key(m, &other, 1), 0);
        assert_int_equal(meters_enter_key(m, &other, 1), 1);
        assert_int_equal(meters_enter_key(m, &slow, 1), 0);
        assert_int_equal(meters_enter_key(m, &slow, 1), 1);
        meters_leave_key(m, "nobody");
        meters_free(m);
}

static void test_failures(void **state)
{
        struct meters *m = make((struct meters_config){ .key_rate = 0 });
        int last = 0;

        (void)state;
        for (int i = 0; i < 5; i++)
                assert_int_equal(meters_failed(m, "a", 1), 0);
        for (int i = 0; i < 4; i++) {
                int ms = meters_failed(m, "a", 1);

                assert_true(ms > last);
                last = ms;
        }
        assert_int_equal(meters_failed(m, "b", 1), 0);
        for (int i = 4; i < 32; i++)
                assert_in_range(meters_failed(m, "a", 1), 1, 5000);
        assert_int_equal(meters_failed(m, "a", 1), -1);
        meters_answered(m, "a");
        assert_int_equal(meters_failed(m, "a", 1), 5000);
        for (int i = 0; i < 32; i++)
                meters_answered(m, "a");
        assert_int_equal(meters_failed(m, "a", 3600 * NS_PER_S), 0);
        meters_free(m);
}

/* Those that are idle make room: a stranger with many addresses takes no memory beyond a bound. */
static void test_bounded(void **state)
{
        struct meters *m = make((struct meters_config){ .address_rate = 0.001, .address_burst = 1 });
        char name[METER_NAME_MAX];

        (void)state;
        assert_int_equal(meters_take_address(m, "first", 1), 0);
        assert_true(meters_take_address(m, "first", 1) > 0);
        for (int i = 0; i < METERS_MAX; i++) {
                (void)snprintf(name, sizeof(name), "n%d", i);
                assert_int_equal(meters_take_address(m, name, 1), 0);
        }
        assert_int_equal(meters_take_address(m, "first", 1), 0);
        assert_true(meters_take_address(m, name, 1) > 0);
        meters_free(m);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_tokens),
                cmocka_unit_test(test_keys),
                cmocka_unit_test(test_failures),
                cmocka_unit_test(test_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
