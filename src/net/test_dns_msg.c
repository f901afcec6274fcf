#include "net/dns_msg.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define QUESTION 13 /* 3 "www" 3 "lan" 0, type, class */

static const uint8_t query[] = { 0x12, 0x34, 1,   0, 0,   1,   0,   0, 0, 0, 0, 0, 3,
                                 'w',  'w',  'w', 3, 'l', 'a', 'n', 0, 0, 1, 0, 1 };

static int check(size_t at, uint8_t value, size_t len)
{
        uint8_t msg[sizeof(query)];
        size_t question = 0;

        memcpy(msg, query, sizeof(query));
        msg[at] = value;
        return dns_check_query(msg, len, &question);
}

static void knows_a_query(void **state)
{
        size_t question = 0;

        (void)state;
        assert_int_equal(dns_check_query(query, sizeof(query), &question), 0);
        assert_int_equal(question, QUESTION);
        assert_int_equal(check(2, 0x81, sizeof(query)), -EBADMSG); /* an answer */
        assert_int_equal(check(0, 0, 11), -EBADMSG);
        assert_int_equal(check(2, 0x28, sizeof(query)), DNS_NOTIMP); /* update */
        assert_int_equal(check(5, 0, sizeof(query)), DNS_FORMERR);
        assert_int_equal(check(5, 2, sizeof(query)), DNS_FORMERR);
        assert_int_equal(check(12, 0xc0, sizeof(query)), DNS_FORMERR); /* compressed */
        assert_int_equal(check(12, 63, sizeof(query)), DNS_FORMERR);
        assert_int_equal(check(0, 0, sizeof(query) - 1), DNS_FORMERR);
        assert_int_equal(check(22, 252, sizeof(query)), DNS_REFUSED);
}

static void bounds_names(void **state)
{
        uint8_t msg[DNS_QUERY_MAX + 1] = { 0, 0, 1, 0, 0, 1 };
        size_t question = 0, at = DNS_HEADER;

        (void)state;
        for (int i = 0; i < 127; i++, at += 2) /* 254 bytes and the root: the longest name */
                msg[at] = 1;
        assert_int_equal(dns_check_query(msg, at + 5, &question), 0);
        assert_int_equal(question, 259);
        msg[at] = 1;
        assert_int_equal(dns_check_query(msg, at + 7, &question), DNS_FORMERR);
        msg[at] = 0;
        assert_int_equal(dns_check_query(msg, sizeof(msg), &question), DNS_FORMERR);
}

static void knows_its_answer(void **state)
{
        uint8_t msg[sizeof(query)];

        (void)state;
        memcpy(msg, query, sizeof(query));
        assert_false(dns_answers(msg, sizeof(msg), query, QUESTION, 0x1234)); /* a query */
        msg[2] |= 0x80;
        assert_true(dns_answers(msg, sizeof(msg), query, QUESTION, 0x1234));
        assert_false(dns_answers(msg, sizeof(msg), query, QUESTION, 0x1235));
        assert_false(dns_answers(msg, sizeof(msg) - 1, query, QUESTION, 0x1234));
        msg[13] = 'W';
        assert_true(dns_answers(msg, sizeof(msg), query, QUESTION, 0x1234));
        msg[13] = 'x';
        assert_false(dns_answers(msg, sizeof(msg), query, QUESTION, 0x1234));
        msg[13] = 'w';
        msg[22] = 28; /* another type */
        assert_false(dns_answers(msg, sizeof(msg), query, QUESTION, 0x1234));
}

static void says_that_it_failed(void **state)
{
        static const uint8_t failed[] = { 0x12, 0x34, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0 };
        uint8_t msg[sizeof(query)];

        (void)state;
        memcpy(msg, query, sizeof(query));
        assert_int_equal(dns_fail(msg, QUESTION, DNS_SERVFAIL), sizeof(query));
        assert_memory_equal(msg, failed, sizeof(failed));
        assert_memory_equal(msg + DNS_HEADER, query + DNS_HEADER, QUESTION);
        assert_int_equal(dns_fail(msg, 0, DNS_NOTIMP), DNS_HEADER);
        assert_int_equal(msg[5], 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(knows_a_query),
                cmocka_unit_test(bounds_names),
                cmocka_unit_test(knows_its_answer),
                cmocka_unit_test(says_that_it_failed),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
