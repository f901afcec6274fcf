/* Clocks and times. Nothing that ends a task depends on the wall clock. */
#pragma once

#include "base/str.h"

#include <stdint.h>

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
#define TIME_NEVER UINT64_MAX

uint64_t time_mono_ns(void); /* CLOCK_MONOTONIC */
uint64_t time_real_ms(void); /* CLOCK_REALTIME, milliseconds since 1970 */

#define TIME_RFC3339_MAX 32
/* RFC 3339 in UTC with milliseconds: 2026-01-01T00:00:00.000Z */
void time_rfc3339(uint64_t real_ms, char out[TIME_RFC3339_MAX]);

/* Go's time.ParseDuration (h m s ms us µs ns, fractions, sign), or a plain number of seconds. -EINVAL, -ERANGE. */
int time_parse_duration(const char *s, int64_t *ret_ns);
