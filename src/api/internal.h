/* What the files of the API share: one call, and how it is answered. */
#pragma once

#include "api/api.h"
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

enum route_body {
        BODY_NONE,   /* what comes is dropped, up to API_UNWANTED_MAX */
        BODY_JSON,   /* collected, up to WIRE_BODY_MAX */
        BODY_STREAM, /* handed on */
};

struct route {
        const char *method, *path; /* a path that ends in '*' matches what begins so, and has more */
        enum route_body body;
        const char *const *params;     /* of the query, NULL-terminated; NULL: none */
        void (*begin)(struct call *c); /* BODY_STREAM: before the first piece; may answer */
        void (*run)(struct call *c);   /* the body is complete */
};

/* One request. Lives until its connection has let go of it and no callback holds it. */
struct call {
        struct api *api;
        struct http_request *http; /* NULL: gone; the answer goes nowhere */
        const struct route *route;
        struct list node; /* of api->calls */
        unsigned held;
        bool answered;
        char request_id[API_REQUEST_ID_MAX + 1];
        char owner[32];
        const char *rest; /* of the path, where the route's ends in '*' */
        struct str body;
        size_t dropped;
        struct image_sink *sink;
        struct task *task; /* waits for its end */
        struct wire_task_request request;
        uint8_t body_hash[32];
        char *key;     /* Idempotency-Key */
        char *subject; /* what the path names: an id, a reference */
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

const char *call_query(const struct call *c, const char *name);

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

extern const char *const tasks_list_params[], *const images_import_params[], *const health_params[];
