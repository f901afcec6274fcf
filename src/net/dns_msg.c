#include "net/dns_msg.h"

#include <errno.h>
#include <string.h>

#define NAME_MAX_BYTES 255 /* RFC 1035, section 2.3.4 */
#define LABEL_MAX 63
#define FLAG_QR 0x80 /* byte 2 */
#define FLAG_RD 0x01
#define FLAG_CD 0x10 /* byte 3 */
#define OPCODE(b) ((b) >> 3 & 15)
#define TYPE_IXFR 251
#define TYPE_AXFR 252

static unsigned get16(const uint8_t *p)
{
        return (unsigned)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, unsigned v)
{
        p[0] = (uint8_t)(v >> 8);
        p[1] = (uint8_t)v;
}

uint16_t dns_id(const uint8_t *msg)
{
        return (uint16_t)get16(msg);
}

void dns_set_id(uint8_t *msg, uint16_t id)
{
        put16(msg, id);
}

unsigned dns_rcode(const uint8_t *msg)
{
        return msg[3] & 15;
}

/* Length of the first question, 0 if it is malformed. A name there is never compressed: nothing precedes it. */
static size_t question_len(const uint8_t *msg, size_t len)
{
        size_t at = DNS_HEADER;

        while (at < len && msg[at] != 0) {
                if (msg[at] > LABEL_MAX)
                        return 0;
                at += (size_t)msg[at] + 1;
                if (at - DNS_HEADER >= NAME_MAX_BYTES)
                        return 0;
        }
        return at < len && len - at >= 5 ? at + 5 - DNS_HEADER : 0;
}

int dns_check_query(const uint8_t *msg, size_t len, size_t *ret_question)
{
        size_t question;
        unsigned type;

        if (len < DNS_HEADER || (msg[2] & FLAG_QR))
                return -EBADMSG;
        if (OPCODE(msg[2]) != 0)
                return DNS_NOTIMP;
        question = get16(msg + 4) == 1 ? question_len(msg, len) : 0;
        if (question == 0 || len > DNS_QUERY_MAX)
                return DNS_FORMERR;
        type = get16(msg + DNS_HEADER + question - 4);
        if (type == TYPE_AXFR || type == TYPE_IXFR)
                return DNS_REFUSED;
        *ret_question = question;
        return 0;
}

static uint8_t lower(uint8_t c)
{
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

bool dns_answers(const uint8_t *msg, size_t len, const uint8_t *query, size_t question, uint16_t id)
{
        if (len < DNS_HEADER || dns_id(msg) != id || !(msg[2] & FLAG_QR) || OPCODE(msg[2]) != 0)
                return false;
        if (get16(msg + 4) != 1 || len < DNS_HEADER + question)
                return false;
        for (size_t i = DNS_HEADER; i < DNS_HEADER + question - 4; i++) {
                if (lower(msg[i]) != lower(query[i]))
                        return false;
        }
        return memcmp(msg + DNS_HEADER + question - 4, query + DNS_HEADER + question - 4, 4) == 0;
}

size_t dns_fail(uint8_t *msg, size_t question, enum dns_rcode rcode)
{
        msg[2] = (uint8_t)(FLAG_QR | (msg[2] & (FLAG_RD | 15 << 3)));
        msg[3] = (uint8_t)((msg[3] & FLAG_CD) | 0x80 | rcode); /* recursion is available */
        put16(msg + 4, question > 0);
        memset(msg + 6, 0, 6);
        return DNS_HEADER + question;
}
