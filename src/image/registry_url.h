/* Addresses that registries name: of blobs elsewhere (Location, RFC 9110 section 10.2.2) and of token servers (realm).
 * Stricter than RFC 3986: http and https only, no userinfo, a host that reads the same for everybody (letters, digits,
 * '-', '.', an IPv4 address as four numbers, an IPv6 address in brackets). */
#pragma once

#include "base/err.h"

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

/* "host", "host:port", "[::1]:port" as references have it; port 0 where absent. -EINVAL. */
int registry_host_parse(const char *text, char host[256], uint16_t *ret_port, struct err *err);

/* The one name of a registry that people write "https://index.docker.io/v1/", "Registry.Example:5000", "registry.example:443":
 * in lower case, without scheme and path, without the port that https has anyway (RFC 3986, section 6.2.3), Docker Hub as
 * docker.io. -EINVAL. */
int registry_name(const char *text, char ret[256], struct err *err);

bool registry_host_is_loopback(const char *host); /* localhost, 127.0.0.0/8, ::1 */
bool registry_host_is_address(const char *host);

enum registry_address { REGISTRY_ADDRESS_PUBLIC, REGISTRY_ADDRESS_LOOPBACK, REGISTRY_ADDRESS_REFUSED };
/* REFUSED: link-local, metadata services, multicast, and what this host has on its interfaces. */
enum registry_address registry_address_kind(const struct sockaddr *address);
/* The same of a host that is written as an address; PUBLIC of a name. */
enum registry_address registry_host_kind(const char *host);
