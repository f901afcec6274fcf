/* The routes of the API as data: what a request is matched against, and what its description (OpenAPI 3.1) is made of, so that
 * the two cannot differ. No code hangs on it: api.c pairs each route with its functions. */
#pragma once

#include "api/roles.h"

#include <stdbool.h>
#include <stddef.h>

enum route_body {
        BODY_NONE,          /* what comes is dropped, up to API_UNWANTED_MAX */
        BODY_JSON,          /* collected, up to route.body_max */
        BODY_JSON_OPTIONAL, /* the same; none is as good as {} */
        BODY_STREAM,        /* handed on as it comes */
};

enum param_type { PARAM_TEXT, PARAM_BOOL, PARAM_INTEGER, PARAM_DURATION, PARAM_TIME, PARAM_ENUM };

struct param {
        const char *name;
        enum param_type type;
        const char *help;
        bool required, repeated;
        long min, max;            /* of PARAM_INTEGER */
        const char *const *words; /* of PARAM_ENUM, NULL-terminated */
};

/* One answer that is no problem. */
struct answer {
        int status;
        const char *media;  /* "application/json"; NULL: no content */
        const char *schema; /* its name, where media is JSON; NULL: bytes */
        const char *help;
};

enum route_id {
        ROUTE_HEALTHZ,
        ROUTE_VERSION,
        ROUTE_ENGINES,
        ROUTE_HEALTH,
        ROUTE_TASK_RUN,
        ROUTE_TASK_LIST,
        ROUTE_TASK_STREAM,
        ROUTE_TASK_GET,
        ROUTE_TASK_DELETE,
        ROUTE_TASK_WAIT,
        ROUTE_TASK_STDOUT,
        ROUTE_TASK_STDERR,
        ROUTE_TASK_LOGS,
        ROUTE_TASK_CANCEL,
        ROUTE_TASK_SIGNAL,
        ROUTE_IMAGE_LIST,
        ROUTE_IMAGE_IMPORT,
        ROUTE_IMAGE_LOAD,
        ROUTE_IMAGE_PULL,
        ROUTE_IMAGE_PULLS,
        ROUTE_IMAGE_TAG,
        ROUTE_IMAGE_PIN,
        ROUTE_IMAGE_PRUNE,
        ROUTE_IMAGE_VERIFY,
        ROUTE_IMAGE_SAVE,
        ROUTE_IMAGE_GET,
        ROUTE_IMAGE_DELETE,
        ROUTE_LOGIN_LIST,
        ROUTE_LOGIN,
        ROUTE_LOGOUT,
        ROUTE_KEY_CREATE,
        ROUTE_KEY_LIST,
        ROUTE_KEY_GET,
        ROUTE_KEY_REVOKE,
        ROUTE_OPENAPI,
        ROUTE_DOCS,
        ROUTE_DOCS_PAGE,
        ROUTES,
};

struct route {
        const char *method;
        /* Segments; {name} stands for one that is not empty, {+name} at the end for all that is left, slashes included. What
         * stands first matches first. */
        const char *path;
        enum operation op;
        enum route_body body;
        size_t body_max;            /* of JSON; 0: WIRE_BODY_MAX */
        const struct param *params; /* of the query, ended by one without a name; NULL: none */
        bool websocket;
        const char *name;             /* operationId */
        const char *summary;          /* a sentence */
        const char *path_help;        /* what the {…} is */
        const char *request;          /* schema of the body; NULL: none, or bytes */
        const struct answer *answers; /* ended by status 0 */
        const int *problems;          /* statuses beside those that any route may answer, ended by 0; NULL: none */
};

extern const struct route routes[ROUTES];

/* Problems that any route but OP_PING may answer: 400, 401, 403, 405, 413, 429, 500, 503. Ended by 0. */
extern const int route_common_problems[];

/* True if the path matches; *ret_rest is what stands for {…} (NULL: the route has none) and *ret_rest_len its length. */
bool route_matches(const struct route *route, const char *path, const char **ret_rest, size_t *ret_rest_len);
