#include "history/times.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

static void assert_at(const struct times *t, uint64_t offset, uint64_t ms, uint64_t end)
{
        uint64_t found = 0;

        assert_int_equal(times_find(t, offset, 7, &found), ms);
        assert_int_equal(found, end);
}

static void test_marks(void **state)
{
        struct times t = { .n = 0 };

        (void)state;
        assert_at(&t, 0, 7, UINT64_MAX);
        times_add(&t, 0, 100);
        assert_int_equal(t.n, 0);
        times_add(&t, 10, 100);
        times_add(&t, 10, 200); /* nothing came */
        times_add(&t, 20, 300);
        times_add(&t, 25, 300);
        times_add(&t, 26, 299); /* no time before the last one */
        times_add(&t, 30, 301);
        assert_int_equal(t.n, 3);
        assert_at(&t, 0, 100, 10);
        assert_at(&t, 9, 100, 10);
        assert_at(&t, 10, 300, 26);
        assert_at(&t, 26, 301, 30);
        assert_at(&t, 30, 7, UINT64_MAX);
        times_done(&t);
}

/* However many there are, order and ends are right, and no time is before that of what came. */
static void test_bound(void **state)
{
        struct times t = { .n = 0 }, copy;
        uint64_t end, ms;

        (void)state;
        for (uint64_t i = 1; i <= 100000; i++)
                times_add(&t, i * 3, 1000 + i);
        assert_in_range(t.n, TIMES_MAX / 4, TIMES_MAX);
        assert_int_equal(t.marks[t.n - 1].end, 300000);
        assert_int_equal(t.marks[t.n - 1].ms, 101000);
        for (uint64_t i = 1; i <= 100000; i += 77) {
                ms = times_find(&t, i * 3 - 1, 0, &end);
                assert_in_range(ms, 1000 + i, 1000 + i + 64);
                assert_in_range(end, i * 3, 300000);
        }
        assert_int_equal(times_copy(&t, &copy), 0);
        assert_int_equal(copy.n, t.n);
        assert_memory_equal(copy.marks, t.marks, t.n * sizeof(*t.marks));
        times_done(&copy);
        times_done(&t);
}

static void test_text(void **state)
{
        struct times t[2] = { { .n = 0 } }, back[2];
        auto_str text = STR_INIT;

        (void)state;
        assert_int_equal(times_write(t, &text), 0);
        assert_int_equal(text.len, 0);
        assert_int_equal(times_read("", 0, back), 0);
        assert_int_equal(back[0].n + back[1].n, 0);
        for (uint64_t i = 1; i <= TIMES_MAX; i++)
                times_add(&t[1], i * 70000, UINT64_C(1700000000000) + i * 100000);
        assert_int_equal(times_write(t, &text), 0);
        assert_in_range(text.len, 1, TIMES_TEXT_MAX);
        assert_int_equal(times_read(text.data, text.len, back), 0);
        assert_int_equal(back[0].n, 0);
        assert_int_equal(back[1].n, TIMES_MAX);
        assert_memory_equal(back[1].marks, t[1].marks, TIMES_MAX * sizeof(*t[1].marks));
        times_done(&back[1]);
        for (size_t cut = 1; cut < text.len; cut += 997)
                assert_int_equal(times_read(text.data, cut, back), -EBADMSG);
        assert_int_equal(times_read("\x01\x00\x01\x00", 4, back), -EBADMSG);
        assert_int_equal(times_read("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, back), -EBADMSG);
        assert_int_equal(times_read("\x00\x00\x00", 3, back), -EBADMSG);
        times_done(&t[1]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_marks),
                cmocka_unit_test(test_bound),
                cmocka_unit_test(test_text),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
