/* Small grammars of the API's headers and parameters: pure functions. */
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* RFC 9110 section 8.3.1: true if a Content-Type is that type and subtype, whatever its parameters. */
bool media_type_is(const char *value, const char *type);

/* A type that a web page may send to another origin without asking (Fetch standard, CORS-safelisted request-header). */
bool media_type_is_form(const char *value);

/* What may stand in X-Request-Id: 1 to 64 of [A-Za-z0-9._-]. */
bool request_id_valid(const char *s);

/* 1 to 255 visible ASCII characters. */
bool idempotency_key_valid(const char *s);

/* RFC 3339 date and time to milliseconds since 1970; -EINVAL. Leap seconds count as the one before. */
int rfc3339_parse(const char *s, uint64_t *ret_ms);

/* %2F, which http_path() keeps, to '/'; in place. */
void slashes_decode(char *s);

/* RFC 9110 section 14: one range of bytes of a representation of `size` bytes. -ENOENT: the field asks for something else, and is
 * to be ignored; -ERANGE: nothing of it is there (416). */
int range_parse(const char *value, uint64_t size, uint64_t *ret_first, uint64_t *ret_len);

/* The id of an event: how many bytes of stdout and stderr were sent with it, "123.45". -EINVAL. */
int event_id_parse(const char *s, uint64_t ret[2]);

#define CREDENTIALS_MAX 512

/* RFC 7617 and RFC 6750 section 2.1: what Authorization holds, `id:secret`, of either scheme. The caller wipes `out`, whatever is
 * answered. */
bool credentials_parse(const char *header, struct str *out);
