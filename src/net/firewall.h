/* Somebody else's firewall: what it drops stays dropped, whatever our own table accepts (nft(8): only drop is final). So
 * a datagram is sent from a namespace, and our first and last chains tell whether it came by. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "net/nl.h"
#include "net/ns.h"

#include <stdint.h>

/* Where the datagram goes: an address of no host (RFC 5737), and the forwarder's port. Our rules know both. */
#define FIREWALL_TARGET UINT32_C(0xc0000201) /* 192.0.2.1 */
#define FIREWALL_PORT 9

enum firewall_way { FIREWALL_FORWARD, FIREWALL_DNS };
enum firewall_state { FIREWALL_UNKNOWN, FIREWALL_OPEN, FIREWALL_CLOSED };

/* Sends one datagram on each way from the namespace that the thread is in. */
void firewall_send(uint32_t dns);

/* What became of it, some time (at most 4 s) later. `address` is the namespace's, host byte order. */
enum firewall_state firewall_result(struct nl *nl, const char *instance, uint32_t address, enum firewall_way way);

/* For people: which chain it was, as far as can be told, and what to add. */
int firewall_describe(struct nl *nl, const char *instance, uint32_t dns, enum firewall_way way, struct str *ret);
