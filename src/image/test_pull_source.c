#include "image/pull_source.h"

#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MB ((uint64_t)1000 * 1000)
#define SIZE (1000 * MB)

static struct sources s;
static uint64_t now, have;

static struct source_id id_of(const char *domain, const char *owner)
{
        return (struct source_id){ domain, "team/app", "", owner };
}

static struct source *join(const char *domain, const char *owner)
{
        const struct source_id id = id_of(domain, owner);

        assert_int_equal(sources_join(&s, &id, NULL), 0);
        return sources_find(&s, &id);
}

static void leave(const char *domain, const char *owner)
{
        const struct source_id id = id_of(domain, owner);

        sources_leave(&s, &id);
}

static int setup(void **state)
{
        (void)state;
        sources_init(&s);
        now = 1000 * NS_PER_S;
        have = 0;
        return 0;
}

static int teardown(void **state)
{
        (void)state;
        sources_done(&s);
        return 0;
}

static void begin(struct source *x)
{
        sources_begin(&s, x, now);
}

/* Bytes a second for so long, with a look each second, as pulls do; ends with the first change, which is answered and begun. */
static struct source *bring(uint64_t rate, unsigned for_s)
{
        for (unsigned i = 0; i < for_s; i++) {
                struct source *to;

                now += NS_PER_S;
                have += rate;
                sources_took(&s, (size_t)rate);
                to = sources_change(&s, SIZE, have, now);
                if (!to)
                        continue;
                if (s.alone) {
                        have = 0;
                        s.giver = NULL;
                }
                begin(to);
                return to;
        }
        return NULL;
}

static void fail_now(int r)
{
        struct err err = ERR_INIT;

        (void)err_set(&err, -r, "text of %s", s.now->domain);
        sources_fail(&s, r, &err, 7);
}

/* ── who they are ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_one_is_one(void **state)
{
        const struct source_id other = { "a.example", "team/app", "0123", "key:1" };
        struct source *a = join("a.example", "key:1");

        (void)state;
        assert_ptr_equal(join("a.example", "key:2"), a);
        assert_int_equal(a->users, 2);
        begin(a);
        assert_false(sources_several(&s));
        assert_null(sources_find(&s, &other)); /* other credentials are another source */
        assert_int_equal(sources_join(&s, &other, NULL), 0);
        assert_true(sources_several(&s));
        leave("a.example", "key:1");
        leave("a.example", "key:2");
        leave("a.example", "key:2");
        assert_int_equal(a->users, 0);
        assert_ptr_equal(sources_next(&s), sources_find(&s, &other));
}

static void test_many_are_forgotten(void **state)
{
        struct source *first = join("first.example", "key:1");
        unsigned n = 0;

        (void)state;
        begin(first);
        leave("first.example", "key:1");
        for (unsigned i = 0; i < 10 * SOURCES_KEPT; i++) {
                char domain[40];

                (void)snprintf(domain, sizeof(domain), "r%u.example", i);
                (void)join(domain, "key:2");
                leave(domain, "key:2");
        }
        for (const struct list *at = s.all.next; at != &s.all; at = at->next)
                n++;
        assert_in_range(n, 2, SOURCES_KEPT + 1);
        assert_ptr_equal(s.all.next, &first->node);
}

/* ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_alone_it_goes_on(void **state)
{
        struct source *a = join("a.example", "key:1");

        (void)state;
        begin(a);
        assert_null(bring(10, 600));
}

static void test_a_drip_is_taken_over(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        begin(a);
        assert_null(bring(2000, 3));
        assert_ptr_equal(bring(2000, 2), b);
        assert_in_range(a->rate, 1900, 2100);
        assert_null(bring(20 * MB, 40));
        assert_in_range(b->rate, 19 * MB, 21 * MB);
        assert_int_equal(s.changes, 0);
}

static void test_one_that_hangs_is_left_again(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");
        struct source *to = b;
        unsigned turns = 0;

        (void)state;
        begin(a);
        assert_ptr_equal(bring(2000, 10), b);
        /* Each time it is waited for a little longer, since it may need that; some times. */
        while ((to = bring(to == b ? 0 : 2000, 100)))
                turns += to == b;
        assert_int_equal(b->turns, SOURCE_TURNS_MAX);
        assert_int_equal(turns, SOURCE_TURNS_MAX - 1);
        assert_ptr_equal(s.now, a);
}

static void test_slow_to_begin(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        begin(a);
        assert_ptr_equal(bring(2000, 10), b);
        assert_ptr_equal(bring(0, 10), a);
        assert_ptr_equal(bring(2000, 10), b);
        assert_null(bring(0, 6));
        assert_null(bring(50 * MB, 10));
        assert_ptr_equal(s.now, b);
}

static void test_the_faster_stays(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        begin(a);
        assert_ptr_equal(bring(4 * MB, 10), b); /* it would take minutes: once the other is tried */
        assert_ptr_equal(bring(1 * MB, 10), a);
        assert_null(bring(4 * MB, 100));
        assert_int_equal(b->turns, 1);
}

static void test_what_ends_soon_is_left_alone(void **state)
{
        (void)state;
        begin(join("a.example", "key:1"));
        (void)join("b.example", "key:2");
        assert_null(bring(100 * MB, 9));
}

static void test_one_that_was_fast_and_drips(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        begin(a);
        assert_ptr_equal(bring(10 * MB, 10), b);
        assert_null(bring(40 * MB, 4));
        assert_ptr_equal(bring(2000, 10), a);
        assert_null(bring(10 * MB, 50));
}

/* Whoever shows speed in his turns and drips then gets no endless number of them. */
static void test_changes_are_bounded(void **state)
{
        struct source *a = join("a.example", "key:1"), *to;
        unsigned n = 0;

        (void)state;
        begin(a);
        (void)join("b.example", "key:2");
        for (to = bring(600 * 1000, 10); to && n < 1000; n++) {
                to = bring(900 * 1000, 4);
                have = 0;
                if (!to)
                        to = bring(10, 20);
        }
        assert_in_range(n, 1, 2 * (SOURCE_CHANGES_MAX + SOURCE_TRIALS_MAX));
}

static void test_the_same_host_is_not_asked_for_nothing(void **state)
{
        const struct source_id other = { "a.example", "team/other", "", "key:2" };

        (void)state;
        assert_int_equal(sources_join(&s, &other, NULL), 0);
        begin(join("a.example", "key:1"));
        assert_null(bring(1 * MB, 50));
        assert_ptr_equal(bring(1000, 10), sources_find(&s, &other));
}

/* With many registries of his own nobody comes before all others. */
static void test_owners_in_turn(void **state)
{
        struct source *first = join("evil0.example", "key:evil"), *good;

        (void)state;
        for (unsigned i = 1; i < 20; i++) {
                char domain[40];

                (void)snprintf(domain, sizeof(domain), "evil%u.example", i);
                (void)join(domain, "key:evil");
        }
        good = join("good.example", "key:good");
        begin(first);
        assert_ptr_equal(bring(2000, 10), good);
}

/* ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_failures(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        begin(a);
        fail_now(-EHOSTUNREACH);
        assert_null(sources_failed(&s, false)); /* nobody is told while there is another */
        assert_ptr_equal(sources_next(&s), b);
        begin(b);
        fail_now(-EACCES);
        assert_ptr_equal(sources_failed(&s, false), b);
        assert_int_equal(b->result, -EACCES);
        assert_string_equal(b->err.text, "text of b.example");
        leave("b.example", "key:2");
        assert_null(sources_failed(&s, false));
        assert_null(sources_next(&s));
        assert_ptr_equal(sources_failed(&s, true), a);
        assert_int_equal(a->retry_after_s, 7);
        /* Who comes anew may have it tried again. */
        assert_ptr_equal(join("a.example", "key:3"), a);
        assert_ptr_equal(sources_next(&s), a);
}

/* ── mixed bytes ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_whose_bytes(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        sources_have(&s, 0);
        begin(a);
        sources_took(&s, 5);
        assert_ptr_equal(s.giver, a);
        sources_have(&s, 5); /* opened again, after a failure */
        begin(a);
        sources_took(&s, 5);
        assert_false(s.mixed);
        begin(b);
        assert_false(s.mixed);
        sources_took(&s, 1);
        assert_true(s.mixed);
        assert_null(s.giver);
        sources_part(&s);
        assert_false(s.mixed);
        /* What an earlier pull left is nobody's. */
        sources_have(&s, 100);
        assert_true(s.mixed);
        sources_have(&s, 0);
        assert_false(s.mixed);
}

static void test_parted(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2"), *c = join("c.example", "key:3");

        (void)state;
        begin(a);
        assert_ptr_equal(bring(2000, 10), b);
        assert_ptr_equal(bring(1 * MB, 10), c);
        assert_null(bring(50 * MB, 8));
        sources_part(&s);
        have = 0;
        /* The fastest first. */
        assert_ptr_equal(sources_next(&s), c);
        begin(c);
        assert_null(bring(50 * MB, 19));
        fail_now(-EBADMSG);
        assert_ptr_equal(sources_failed(&s, false), c);
        leave("c.example", "key:3");
        assert_ptr_equal(sources_next(&s), b);
        begin(b);
        have = 0;
        assert_null(bring(1 * MB, 900)); /* it is not interrupted for one that is slower */
}

/* Also alone nobody holds up the others by dripping; but what has come is not thrown away for a guess. */
static void test_alone_and_dripping(void **state)
{
        struct source *a = join("a.example", "key:1"), *b = join("b.example", "key:2");

        (void)state;
        sources_part(&s);
        begin(a);
        assert_ptr_equal(bring(2000, 10), b);
        assert_null(bring(100 * 1000, 3));
        have = SIZE - 5 * MB;
        a->turns = 0;
        assert_null(bring(100 * 1000, 30));
}

/* Who lies once is not believed again while another is there, whatever he names next, and however fast that is. */
static void test_liars_come_last(void **state)
{
        struct source *evil = join("evil.example", "key:1"), *slow = join("slow.example", "key:2"), *more, *shared;

        (void)state;
        sources_part(&s);
        begin(slow);
        assert_ptr_equal(bring(2000, 10), evil); /* 2 kB/s */
        assert_null(bring(50 * MB, 5));
        fail_now(-EBADMSG);
        leave("evil.example", "key:1");
        shared = join("open.example", "key:1");
        more = join("evil.example", "key:1");
        assert_ptr_equal(more, evil);
        assert_int_equal(evil->result, 0);
        more = join("more.example", "key:1");
        slow->turns = 3;
        assert_ptr_equal(sources_next(&s), slow);
        begin(slow);
        have = 0;
        assert_null(bring(2000, 60));
        /* What others name as well is not his, though he was the first. */
        assert_ptr_equal(join("open.example", "key:3"), shared);
        assert_ptr_equal(bring(2000, 10), shared);
        fail_now(-EACCES);
        /* Without anybody else he has another try. */
        leave("slow.example", "key:2");
        assert_ptr_equal(sources_next(&s), evil);
        leave("evil.example", "key:1");
        assert_ptr_equal(sources_next(&s), more);
}

/* That he lied is kept while he names others. */
static void test_liars_are_remembered(void **state)
{
        struct source *evil = join("evil.example", "key:1"), *good = join("good.example", "key:2");

        (void)state;
        begin(evil);
        fail_now(-EBADMSG);
        leave("evil.example", "key:1");
        for (unsigned i = 0; i < 2 * SOURCES_KEPT; i++) {
                char domain[40];

                (void)snprintf(domain, sizeof(domain), "r%u.example", i);
                (void)join(domain, "key:1");
                leave(domain, "key:1");
        }
        (void)join("last.example", "key:1");
        good->turns = 5;
        assert_ptr_equal(sources_next(&s), good);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_one_is_one, setup, teardown),
                cmocka_unit_test_setup_teardown(test_many_are_forgotten, setup, teardown),
                cmocka_unit_test_setup_teardown(test_alone_it_goes_on, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_drip_is_taken_over, setup, teardown),
                cmocka_unit_test_setup_teardown(test_one_that_hangs_is_left_again, setup, teardown),
                cmocka_unit_test_setup_teardown(test_slow_to_begin, setup, teardown),
                cmocka_unit_test_setup_teardown(test_the_faster_stays, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_ends_soon_is_left_alone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_one_that_was_fast_and_drips, setup, teardown),
                cmocka_unit_test_setup_teardown(test_changes_are_bounded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_the_same_host_is_not_asked_for_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_owners_in_turn, setup, teardown),
                cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
                cmocka_unit_test_setup_teardown(test_whose_bytes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_parted, setup, teardown),
                cmocka_unit_test_setup_teardown(test_alone_and_dripping, setup, teardown),
                cmocka_unit_test_setup_teardown(test_liars_come_last, setup, teardown),
                cmocka_unit_test_setup_teardown(test_liars_are_remembered, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/pull_source", tests, NULL, NULL);
}
