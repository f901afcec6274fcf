/* What the files of the registry client share: endpoints, one call, what was granted. */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "base/str.h"
#include "http/fetch.h"
#include "image/challenge.h"
#include "image/registry.h"
#include "image/registry_url.h"

#define REGISTRY_ENDPOINTS_MAX 8
#define REGISTRY_REDIRECTS_MAX 10
#define REGISTRY_TOKEN_MAX (64U << 10)
#define REGISTRY_GRANTS_MAX 4096

struct registries {
        struct loop *loop;
        struct fetcher *fetcher;
        struct registries_config config;
        struct list calls;
        struct map *grants; /* "authority\nrepository\ncredentials": struct registry_grant */
        struct map *plain;  /* authorities that were found to speak plain HTTP, or not: static char of the two */
};

/* An Authorization that a registry took, or should. */
struct registry_grant {
        char *header;
        uint64_t until_ns; /* TIME_NEVER: as long as it is taken */
};

struct registry_endpoint {
        struct registry_url base; /* its path is a prefix, without the last slash */
        bool mirror;
        bool no_port; /* the reference names none: it follows the scheme */
};

enum registry_phase { CALL_START, CALL_REQUEST, CALL_TOKEN, CALL_WAIT };

struct registry_call {
        struct registries *registries;
        struct list node;
        struct registry_handler handler;
        void *arg;
        enum registry_what what;
        struct image_ref ref;
        char reference[IMAGE_DIGEST_MAX + 80];
        char *username, *password;
        char key[65];

        struct registry_endpoint endpoints[REGISTRY_ENDPOINTS_MAX];
        size_t n_endpoints, endpoint;
        struct registry_url url; /* where the request goes now */
        unsigned redirects;
        bool tried_plain, tried_tls; /* of this endpoint */

        enum registry_phase phase;
        struct fetch *fetch;
        struct loop_timer timer;
        char *authorization;
        bool fresh;   /* …was made for this call, and is not tried twice */
        bool reached; /* somebody has answered */
        bool with_credentials;
        struct image_challenge challenge;

        unsigned attempts, attempts_in_all, stalls;
        uint64_t offset, size, skip, progress;
        unsigned status;
        bool taking; /* the body is what was asked for */
        int broken;  /* how the body was wrong: -EBADMSG */
        struct str body;
        struct registry_answer answer;
        struct err err; /* of the body */
};

void registry_request_again(struct registry_call *c); /* registry.c */
void registry_fail(struct registry_call *c, int num, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void registry_transient(struct registry_call *c, int num, const char *why);
int registry_fetch(struct registry_call *c, const struct registry_url *url, const char *const *headers,
                   const char *method, const struct fetch_handler *handler, struct err *err);
int registry_fetch_with(struct registry_call *c, const struct registry_url *url, const char *const *headers,
                        const char *method, const struct str *body, const struct fetch_handler *handler,
                        struct err *err);
bool registry_listed(const char *list, const struct registry_url *url);
bool registry_plain_allowed(const struct registries *r, const struct registry_url *url);
/* Before the first byte: -EPERM with a text for a host that this call may not be led to. */
int registry_target_check(const struct registry_call *c, const struct registry_url *url, struct err *err);
void registry_take_retry_after(struct registry_call *c, const struct fetch *f);
void registry_collect(struct registry_call *c, const void *data, size_t len, size_t max);
/* A registry's own words (distribution-spec, «Error Codes»), safe to show, behind ": "; empty where it has none. */
#define REGISTRY_SAID_MAX (STR_SHOWN_MAX + 4)
void registry_error_read(const char *text, size_t len, char out[REGISTRY_SAID_MAX]);
/* Whether a Content-Range, which may be NULL, is "bytes 100-199/200" (RFC 9110, section 14.4) of just this part. */
bool registry_range_is(const char *text, uint64_t offset, uint64_t size);

void registry_grant_find(struct registry_call *c); /* registry_auth.c */
void registry_grant_drop(struct registry_call *c);
void registry_challenged(struct registry_call *c); /* a 401: asks for a token, or fails */
void registry_grants_free(struct registries *r);
/* What a token server answers (distribution, spec/auth/token.md, «Token Response Fields») as the header field that goes to the
 * registry, and for how long. The caller owns *ret: OPENSSL_cleanse(), free(). -EBADMSG; -ENOMEM. */
int registry_token_read(const char *text, size_t len, char **ret, uint64_t *ret_seconds, struct err *err);
