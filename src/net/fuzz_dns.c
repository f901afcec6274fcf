#include "net/dns_msg.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_failure(const uint8_t *data, size_t size, size_t question, int rcode)
{
        uint8_t answer[DNS_QUERY_MAX];
        size_t n = size < sizeof(answer) ? size : sizeof(answer);

        memcpy(answer, data, n);
        if (dns_fail(answer, question, (enum dns_rcode)rcode) > n || dns_rcode(answer) != (unsigned)rcode)
                abort();
        if (question > 0 && !dns_answers(answer, DNS_HEADER + question, data, question, dns_id(data)))
                abort();
}

/* The first half is a query, the second what comes as its answer. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        size_t half = size / 2, question = 0;
        int r = dns_check_query(data, half, &question);

        if (r > 0)
                check_failure(data, half, 0, r);
        if (r != 0)
                return 0;
        if (question < 5 || DNS_HEADER + question > half)
                abort();
        check_failure(data, half, question, DNS_SERVFAIL);
        if (dns_answers(data, half, data, question, dns_id(data)))
                abort(); /* a query is no answer */
        (void)dns_answers(data + half, size - half, data, question, dns_id(data));
        return 0;
}
