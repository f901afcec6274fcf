/* What the files of the API share: one call, and how it is answered. */
#pragma once

#include "api/api.h"
#include "api/routes.h"
#include "base/list.h"
#include "http/server.h"
#include "image/ref.h"

#include <stdbool.h>

#define API_REQUEST_ID_MAX 64
#define API_KEY_MAX 255
#define API_UNWANTED_MAX (1024 * 1024) /* bytes of a body where none is expected */

struct call;

struct health {
        struct list waiting; /* calls, by health_node */
        bool running;
        uint64_t checked_ns; /* 0: never */
        int status;          /* of the last answer, and its body */
        struct str body;
        struct task *task;
};

struct api {
        struct loop *loop;
        struct api_config config;
        struct http_server *server;
        struct list calls;
        struct health health;
        bool draining, closing;
};

/* What runs when a route was matched and the caller may do it. */
struct route_handler {
        void (*begin)(struct call *c); /* BODY_STREAM: before the first piece; may answer */
        int (*body)(struct call *c, const void *piece, size_t len); /* BODY_STREAM */
        void (*run)(struct call *c);                                /* the body is complete */
};

/* A part of the paths with routes, checks and errors of its own: /v1, and what is compatible with others' APIs. */
struct api_root {
        const char *prefix; /* "/v1.0/"; "": all that no other root has */
        const struct route *routes;
        const struct route_handler *handlers; /* one a route */
        size_t n;
        bool lenient; /* takes a trailing slash, and parameters that it does not know */
        /* Answers what is wrong, in its own form (call_send()); NULL: a problem document. */
        void (*problem)(struct call *c, int status, const char *reason, const char *detail, const char *task_id,
                        const struct json_faults *faults);
};

/* Who calls. Filled before anything else is looked at. */
struct identity {
        bool known; /* else anonymous */
        enum key_role role;
        char owner[KEY_OWNER_MAX];   /* of what it makes: "uid:0", "key:<id>" */
        char key_id[KEY_ID_LEN + 1]; /* "": by the unix socket, as admin. The key itself: call_key() */
};

/* One request. Lives until its connection has let go of it and no callback holds it. */
struct call {
        struct api *api;
        struct http_request *http; /* NULL: gone; the answer goes nowhere */
        const struct api_root *root;
        const struct route *route;
        const struct route_handler *handler;
        struct identity who;
        struct list node; /* of api->calls */
        unsigned held;
        bool answered;
        char request_id[API_REQUEST_ID_MAX + 1];
        char *subject; /* what the path's {…} is, with %2F decoded; NULL: it has none */
        struct str body;
        size_t dropped;
        struct image_sink *sink;
        struct task *task; /* waits for its end */
        struct wire_task_request request;
        uint8_t body_hash[32];
        char *key; /* Idempotency-Key */
        struct list health_node;
};

/* Around callbacks that come later. */
void call_hold(struct call *c);
void call_release(struct call *c);

/* Answers JSON; takes the text's memory. Ignored where the client has gone or was answered. */
void call_answer(struct call *c, int status, struct str *text);

/* Answers a problem document: `reason` as in its type. */
void call_problem(struct call *c, int status, const char *reason, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
void call_problem_of(struct call *c, int status, const char *reason, const char *detail, const char *task_id,
                     const struct json_faults *faults);
void call_oom(struct call *c);

/* As all of these end: an answer of that type; takes the text's memory. */
void call_send(struct call *c, int status, const char *type, struct str *text);

const char *call_query(const struct call *c, const char *name);

/* Who calls, of what the request's headers say. False after having answered. */
bool call_identify(struct call *c);
/* The caller's key; NULL by the unix socket, and where it was revoked meanwhile. A peek. */
const struct key *call_key(const struct call *c);
/* Whether the caller may do the route's operation to an object of that owner; if not, the object does not exist to it. */
bool call_owns(const struct call *c, const char *owner);
/* The owner that lists and look-ups are confined to; NULL: any. */
const char *call_scope_owner(const struct call *c);

/* ── routes ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void tasks_create_run(struct call *c);
void tasks_list_run(struct call *c);
void tasks_get_run(struct call *c);
void tasks_call_gone(struct call *c);

void images_list_run(struct call *c);
void images_get_run(struct call *c);
void images_delete_run(struct call *c);
void images_import_begin(struct call *c);
void images_load_begin(struct call *c);
int images_body(struct call *c, const void *piece, size_t len);
void images_body_run(struct call *c);

void health_init(struct health *h);
void health_done(struct api *a);
void healthz_run(struct call *c);
void version_run(struct call *c);
void health_run(struct call *c);
void health_call_gone(struct call *c);

void openapi_run(struct call *c);
void docs_run(struct call *c);
