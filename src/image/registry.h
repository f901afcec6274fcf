/* Registries over HTTP (OCI distribution-spec 1.1, section «Pull»; Docker registry v2): one manifest or blob a call, with
 * mirrors, authentication, redirects, retries and resumption. Everything runs on the loop.
 *
 *            ┌──────────────── 401, once ────────────────┐
 *            ▼                                           │
 *   START ─▶ REQUEST ─▶ (redirect: REQUEST) ─▶ body ─▶ done, freed
 *            ▲    └─ 401 Bearer ─▶ TOKEN ─▶ REQUEST
 *            └─ WAIT ◀─ cut, 429, 5xx         mirror fails ─▶ REQUEST to the next
 *
 * Who is told what: credentials and tokens go to the scheme, host and port of the registry they are for, and to the token
 * server that it names on its own host or domain; never to mirrors, nor along a redirect elsewhere. Addresses are looked at
 * when the name has been resolved: link-local ones, metadata services and this host's own are refused unless the host is
 * configured; loopback is for hosts that say so in their name. */
#pragma once

#include "base/err.h"
#include "image/manifest.h"
#include "image/ref.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct registries;
struct registry_call;

#define REGISTRY_USER_MAX 1024
#define REGISTRY_PASSWORD_MAX (32 * 1024)

/* All is copied. Lists are separated by commas; NULL, "" and "none": empty. Hosts are "name" or "name:port". */
struct registries_config {
        bool enabled;
        const char *insecure; /* hosts that may be spoken to in plain HTTP, as those on loopback may */
        const char *allow;    /* hosts whose addresses are not looked at */
        const char *realms;   /* hosts of token servers that any registry's credentials may be sent to */
        const char *mirrors;  /* "docker.io=https://mirror.example/prefix", in the order of use */
        const char *proxy;    /* http://host:port */
        const char *no_proxy; /* hosts, and ".domain", that are reached without */
        const char *ca_dir;   /* DIR/HOST[:PORT]/ca.crt, client.cert, client.key, as Docker's certs.d */
        unsigned retries;     /* of a request without progress */
        unsigned stall_s; /* slower than 1 KiB/s for that long: tried again once; all of a manifest: a quarter more */
        unsigned connect_ms;
        unsigned wait_max_s; /* a registry that wants a longer pause is too busy */
};

int registries_new(struct loop *loop, const struct registries_config *config, struct registries **ret, struct err *err);
void registries_free(struct registries *r); /* cancels all; accepts NULL; not from within a callback */
bool registries_enabled(const struct registries *r);
bool registries_mirrored(const struct registries *r, const struct image_ref *ref); /* whether it has mirrors */

/* PING: whether the registry (ref->domain) takes the credentials; no mirror is asked.
 * REFERRERS: an index of what refers to a digest, which is the reference; -ENOENT where the registry has no such API. */
enum registry_what { REGISTRY_HEAD, REGISTRY_MANIFEST, REGISTRY_BLOB, REGISTRY_REFERRERS, REGISTRY_PING };

/* With this name for a user the password is an OAuth 2 refresh token («identity token»), which only token servers are told
 * (distribution, spec/auth/oauth.md). As in Docker's configuration. */
#define REGISTRY_TOKEN_USER "<token>"

/* All is copied. */
struct registry_request {
        enum registry_what what;
        const struct image_ref *ref; /* its domain and path */
        const char *reference;       /* tag or digest */
        const char *username, *password;
        uint64_t offset, size; /* BLOB: bytes that are here already; of the whole */
        bool direct;           /* no mirror is asked */
};

struct registry_answer {
        char media_type[IMAGE_MEDIA_MAX];
        char digest[IMAGE_DIGEST_MAX]; /* Docker-Content-Digest; empty where absent */
        const char *body;              /* MANIFEST, REFERRERS; peek */
        size_t len;
        bool authenticated;     /* it was answered because of the credentials, as far as can be told */
        unsigned retry_after_s; /* of -EBUSY; 0: not said */
};

/*   data  BLOB: the next bytes. 0; FETCH_PAUSE (http/fetch.h), until registry_resume(); -errno ends the call with that
 *   done  the last event: 0 (BLOB: size bytes were told in all); -ENOENT; -EACCES; -EHOSTUNREACH: unreachable, or it
 *         misbehaves; -EBUSY: too many requests; -EBADMSG: bytes that cannot be right; -errno. The call is freed then */
struct registry_handler {
        int (*data)(struct registry_call *c, const void *data, size_t len, void *arg);
        void (*done)(struct registry_call *c, int r, const struct registry_answer *answer, const struct err *err,
                     void *arg);
};

int registry_start(struct registries *r, const struct registry_request *request, const struct registry_handler *handler,
                   void *arg, struct registry_call **ret, struct err *err);
void registry_cancel(struct registry_call *c); /* no further event; allowed within data */
void registry_resume(struct registry_call *c);

/* What credentials are known by where they may not be kept: SHA-256 in hex; "" without any. */
void registry_credentials_key(const char *username, const char *password, char out[65]);
