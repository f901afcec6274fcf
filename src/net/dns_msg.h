/* DNS messages (RFC 1035, section 4.1), as far as who relays them must understand: header and question. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_HEADER 12
#define DNS_QUERY_MAX 4096   /* a question with its EDNS options; more is refused */
#define DNS_ANSWER_MAX 65535 /* what a message over TCP can hold */

enum dns_rcode { DNS_FORMERR = 1, DNS_SERVFAIL = 2, DNS_NOTIMP = 4, DNS_REFUSED = 5 };

/* What a client sent: 0 to be relayed, *ret_question the length of its question; -EBADMSG to be ignored; or the enum
 * dns_rcode by which it is answered. One question, by opcode QUERY, no transfer of zones. */
int dns_check_query(const uint8_t *msg, size_t len, size_t *ret_question);

/* Whether `msg` answers the question of `query` (the name compared without regard to case, RFC 4343) with the id. */
bool dns_answers(const uint8_t *msg, size_t len, const uint8_t *query, size_t question, uint16_t id);

uint16_t dns_id(const uint8_t *msg);
void dns_set_id(uint8_t *msg, uint16_t id);
unsigned dns_rcode(const uint8_t *msg);

/* Turns a query, of at least DNS_HEADER bytes, into the answer that something failed; its length: with its question (0:
 * without). */
size_t dns_fail(uint8_t *msg, size_t question, enum dns_rcode rcode);
