/* The head of a request, checked beyond what the parser of libmicrohttpd refuses (RFC 9112 sections 2.2, 3, 5, 6; RFC 9110
 * section 5): pure functions over its parts. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_FIELDS_MAX 100
#define HTTP_PARAMS_MAX 64

struct http_field {
        char *name, *value; /* NUL-terminated */
        size_t name_len, value_len;
};

struct http_param {
        char *name, *value;
};

/* The request target; memory is one block. */
struct http_target {
        char *path; /* starts with '/'; %2F stays encoded, all else is decoded */
        struct http_param params[HTTP_PARAMS_MAX];
        size_t n_params;
        char *block;
};

/* Origin-form, absolute-form or "*". -EINVAL with the reason in *why, -ENOMEM. */
int http_target_parse(const char *raw, struct http_target *ret, const char **why);
void http_target_done(struct http_target *t);

/* What the fields say about the body, and whether all of them may be believed. */
struct http_framing {
        int64_t length; /* -1: no Content-Length */
        bool chunked, expect_continue;
};

/* Fields in the order of the request. Cuts blanks after values. 0, or the status to refuse with and the reason in *why. */
int http_fields_check(bool http_1_0, struct http_field *fields, size_t n, struct http_framing *ret, const char **why);

/* True if the head lies in memory as `METHOD SP target SP version CRLF *(name ":" OWS value CRLF) CRLF` with each delimiter
 * turned into NUL, that is, if there were no NUL, no bare LF, no folded line and no second blank anywhere. `end` is the
 * first byte after the head. */
bool http_head_contiguous(const char *method, const char *target, size_t target_len, const char *version,
                          const struct http_field *fields, size_t n, const char *end);
