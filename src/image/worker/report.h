/* Writing JSON without a JSON library. */
#pragma once

#include "base/str.h"

#include <stddef.h>
#include <stdint.h>

/* Appends a JSON string (RFC 8259 section 7). -EINVAL: it is no UTF-8; -ENOMEM. */
int report_string(struct str *out, const char *s, size_t len);

int report_member_string(struct str *out, const char *name, const char *value); /* ,"name":"value" */
int report_member_u64(struct str *out, const char *name, uint64_t value);       /* ,"name":value */
