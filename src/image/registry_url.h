/* Addresses that registries name: of blobs elsewhere (Location, RFC 9110 section 10.2.2) and of token servers (realm).
 * Stricter than RFC 3986: http and https only, no userinfo, a host that reads the same for everybody (letters, digits,
 * '-', '.', an IPv4 address as four numbers, an IPv6 address in brackets). */
#pragma once

#include "base/err.h"
#include "http/registry_name.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REGISTRY_URL_MAX 8192

struct registry_url {
        bool https;
        char host[256]; /* lower case, IPv6 without brackets */
        uint16_t port;
        char path[REGISTRY_URL_MAX]; /* from the slash on, with its query; no fragment */
};

int registry_url_parse(const char *text, struct registry_url *ret, struct err *err); /* -EINVAL */
int registry_url_join(const struct registry_url *base, const char *location, struct registry_url *ret, struct err *err);
void registry_url_format(const struct registry_url *u, char *out,
                         size_t size); /* with the port where it is no default */
bool registry_url_same_origin(const struct registry_url *a, const struct registry_url *b);

bool registry_host_is_loopback(const char *host); /* localhost, 127.0.0.0/8, ::1 */

enum registry_address { REGISTRY_ADDRESS_PUBLIC, REGISTRY_ADDRESS_LOOPBACK, REGISTRY_ADDRESS_REFUSED };
/* REFUSED: link-local, metadata services, multicast, and what this host has on its interfaces. */
enum registry_address registry_address_kind(const struct sockaddr *address);
/* The same of a host that is written as an address; PUBLIC of a name. */
enum registry_address registry_host_kind(const char *host);
