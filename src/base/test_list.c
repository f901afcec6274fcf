#include "base/list.h"
#include "base/vec.h"

#include <errno.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct item {
        int value;
        struct list node;
};

static void test_list(void **state)
{
        struct item items[5];
        struct list head;
        struct item *it;
        int sum = 0;

        (void)state;
        list_init(&head);
        assert_true(list_empty(&head));
        assert_null(LIST_FIRST(&head, struct item, node));
        for (int i = 0; i < 5; i++) {
                items[i].value = i;
                list_append(&head, &items[i].node);
        }
        assert_ptr_equal(LIST_FIRST(&head, struct item, node), &items[0]);
        LIST_FOREACH(it, &head, node) {
                sum = sum * 10 + it->value;
                if (it->value % 2)
                        list_remove(&it->node);
        }
        assert_int_equal(sum, 1234);
        sum = 0;
        LIST_FOREACH(it, &head, node)
                sum = sum * 10 + it->value;
        assert_int_equal(sum, 24);
        list_remove(&items[1].node); /* is in no list: nothing happens */
        assert_false(list_empty(&head));
}

static void test_vec(void **state)
{
        VEC(int) v = { 0 };

        (void)state;
        for (int i = 0; i < 1000; i++)
                assert_int_equal(VEC_ADD(&v, i), 0);
        assert_int_equal(v.len, 1000);
        for (int i = 0; i < 1000; i++)
                assert_int_equal(v.items[i], i);
        VEC_DONE(&v);
        assert_null(v.items);
        assert_int_equal(v.cap, 0);
}

static void test_vec_overflow(void **state)
{
        size_t cap = SIZE_MAX / 2 + 1;
        void *items = NULL;

        (void)state;
        assert_int_equal(vec_grow(&items, &cap, cap, 1), -ENOMEM);
        cap = PTRDIFF_MAX / 16;
        assert_int_equal(vec_grow(&items, &cap, cap, 16), -ENOMEM);
        assert_null(items);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_list),
                cmocka_unit_test(test_vec),
                cmocka_unit_test(test_vec_overflow),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
