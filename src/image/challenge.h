/* What a registry asks for: WWW-Authenticate (RFC 9110, section 11.6.1) with the schemes of the token specification of
 * distribution (Bearer: realm, service, scope) and of RFC 7617 (Basic). */
#pragma once

#include "base/err.h"

#include <stdbool.h>

#define CHALLENGE_HEADER_MAX 8192
#define CHALLENGE_VALUE_MAX 1024

struct image_challenge {
        bool basic, bearer;
        /* Of Bearer; empty where absent. */
        char realm[CHALLENGE_VALUE_MAX], service[CHALLENGE_VALUE_MAX], scope[CHALLENGE_VALUE_MAX], error[64];
};

/* Adds what one header says to *c, which begins zeroed; of two Bearers the first counts. Unknown schemes are passed over.
 * -EBADMSG: no challenge by the grammar; *c is left alone then. */
int image_challenge_parse(const char *header, struct image_challenge *c, struct err *err);
