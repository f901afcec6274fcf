#include "engine/native/test_fixture.h"

static void test_record(void **state)
{
        auto_fd fd = memfd_create("record", MFD_CLOEXEC);
        const struct native_record rec = { .mode = NET_NAT, .output_limit = 5 };
        struct native_record back;
        uint32_t slot = 0, read_slot = 9;

        (void)state;
        assert_int_equal(native_record_read(fd, &back, &read_slot, NULL), -EBADMSG);
        assert_int_equal(native_record_write(fd, &rec, "owner", "data", 4, NULL), 0);
        assert_int_equal(native_record_started(fd, 1, 2, 3, NULL), 0);
        assert_int_equal(native_record_dropped(fd, (uint64_t[]){ 4, 5 }), 0);
        assert_int_equal(native_record_update(fd, &slot, "other data", 10, NULL), 0);
        assert_int_equal(native_record_read(fd, &back, &read_slot, NULL), 0);
        assert_int_equal(read_slot, slot);
        assert_string_equal(back.owner.data, "owner");
        assert_string_equal(back.data.data, "other data");
        assert_int_equal(back.net_index, 1);
        assert_int_equal(back.net_address, 2);
        assert_int_equal(back.start_ns, 3);
        assert_int_equal(back.dropped[1], 5);
        assert_int_equal(back.output_limit, 5);
        native_record_done(&back);
        assert_int_equal(ftruncate(fd, 80), 0);
        assert_int_equal(native_record_read(fd, &back, &read_slot, NULL), -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_record),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
