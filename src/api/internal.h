/* What the files of the API share: one call, and how it is answered. */
#pragma once

#include "api/api.h"
#include "api/meters.h"
#include "api/routes.h"
#include "base/list.h"
#include "http/server.h"
#include "image/ref.h"
#include "wire/task.h"

#include <stdbool.h>

#define API_REQUEST_ID_MAX 64
#define API_KEY_MAX 255
#define API_UNWANTED_MAX (1024 * 1024) /* bytes of a body where none is expected */
#define API_QUEUE 0                    /* of the loop's workers: large bodies */
#define API_INLINE_MAX (64 * 1024)     /* bytes of a body that are parsed on the loop's own thread */
#define API_LONG_FROM (1024 * 1024)    /* bytes of output from which on an answer is made in pieces */
#define API_ADDRESS_MAX METER_NAME_MAX

struct call;
struct login_call;
struct logs;
struct long_answer;
struct pulling;
struct verifying;
struct saving;
struct stream;
struct upload;

struct health_report {
        bool ok;
        const struct engine *engine;
        char engine_fault[200];  /* "": none */
        const char *task_status; /* "ok", "failed"; "": none was run */
        char task_detail[200];
        int64_t run_ns; /* -1: unknown */
};
typedef void (*health_answer_fn)(struct call *c, const struct health_report *report);

/* Of one engine. */
struct health {
        struct api *api;
        struct engine *engine;
        struct list waiting; /* calls, by health_node */
        bool running;
        uint64_t checked_ns; /* 0: never */
        struct health_report last;
        struct task *task;
};

struct api {
        struct loop *loop;
        struct api_config config;
        struct http_server *server;
        struct list calls;
        struct list streams; /* tasks that run live over a WebSocket */
        struct health health[API_ENGINES_MAX];
        struct meters *meters;
        struct meters *ecs_meters; /* NULL: the original's limits are off */
        unsigned uploads;          /* archives that are coming or being read, and their bytes */
        uint64_t upload_bytes;
        unsigned saves;    /* archives that are being written */
        double log_tokens; /* lines of requests that may be logged now */
        uint64_t log_ns;
        unsigned log_left_out;
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
        bool (*admit)(struct call *c); /* limits of its own: false after having answered; NULL: none */
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
        bool metered;      /* counts among what its key has open */
        bool ecs_metered;  /* the same, by the other API's own limits */
        bool refused;      /* a failed authentication, whose answer is held back by the timer */
        uint64_t begun_ns; /* of the monotonic clock */
        struct loop_timer timer;
        char address[API_ADDRESS_MAX]; /* of the client, as it is metered: an IPv6 /64 is one */
        char request_id[API_REQUEST_ID_MAX + 1];
        char *subject; /* what the path's {…} is, with %2F decoded; NULL: it has none */
        struct str body;
        size_t dropped;
        size_t charged; /* of the memory for bodies */
        struct upload *upload;
        struct logs *logs;
        struct long_answer *long_answer;
        struct pulling *pulling;
        struct verifying *verifying;
        struct login_call *login;
        struct saving *saving;
        struct task *task; /* waits for its end */
        void (*ended)(struct call *c, const struct wire_task *result);
        struct task *ended_task;       /* in ended(): whose result it is */
        struct history_record *record; /* in found(): the same record, whose contents may be taken */
        void (*found)(struct call *c, const struct history_record *record);
        struct wire_task_request request;
        struct json_faults faults;
        int parsed; /* how reading the body ended */
        unsigned tries;
        uint8_t body_hash[32];
        char *key; /* Idempotency-Key */
        struct list health_node;
        health_answer_fn health_answer;
};

/* Around callbacks that come later. */
void call_hold(struct call *c);
void call_release(struct call *c);

/* Answers JSON; takes the text's memory. Ignored where the client has gone or was answered. */
void call_answer(struct call *c, int status, struct str *text);

void call_answer_json(struct call *c, int status, const json_t *value); /* NULL: out of memory */

/* Answers a problem document: `reason` as in its type. */
void call_problem(struct call *c, int status, const char *reason, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
void call_problem_of(struct call *c, int status, const char *reason, const char *detail, const char *task_id,
                     const struct json_faults *faults);
void call_oom(struct call *c);

/* An answer of server-sent events, where the request asks for them: events.c. A comment goes out now and then, by call->timer,
 * so that nobody on the way takes the connection for dead. Each takes its JSON; NULL: out of memory. */
bool call_wants_events(const struct call *c);
bool call_events_begin(struct call *c);            /* false: the client has gone */
void call_event(struct call *c, json_t *progress); /* best left out where http_stream_pending() is much */
void call_events_done(struct call *c, json_t *value);
void call_events_fail(struct call *c, int status, const char *reason, const char *detail);

/* As all of these end: an answer of that type; takes the text's memory. */
void call_send(struct call *c, int status, const char *type, struct str *text);

const char *call_query(const struct call *c, const char *name);
/* A parameter that is a time of RFC 3339, or seconds since 1970; unchanged where there is none. False after having answered. */
bool call_time(struct call *c, const char *name, uint64_t *ret_ms);

/* 503 with Retry-After, where memory for bodies is short. */
void call_busy(struct call *c);
void call_retry_after(struct call *c, unsigned seconds);
/* Charges for memory that is held for the call; false after having answered. */
bool call_charge(struct call *c, size_t bytes);
void call_discharge(struct call *c); /* all of it */

/* One line of the access log, of a bounded number. */
void call_log(struct call *c, int status);
const char *status_title(int status);

/* Who calls, of what the request's headers say. False after having answered. */
bool call_identify(struct call *c);
void call_address(struct call *c);  /* fills it */
void call_unrefuse(struct call *c); /* a failed authentication waits no longer */
/* The caller's key; NULL by the unix socket, and where it was revoked meanwhile. A peek. */
const struct key *call_key(const struct call *c);
/* Between the head of a request and what it wants done its key may have been revoked, or have expired. False after having
 * answered. */
bool call_is_still_allowed(struct call *c);
/* Whether the caller may do the route's operation to an object of that owner; if not, the object does not exist to it. */
bool call_owns(const struct call *c, const char *owner);
/* The owner that lists and look-ups are confined to; NULL: any. */
const char *call_scope_owner(const struct call *c);

/* ── routes ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

void tasks_create_run(struct call *c);

/* Hands c->request, which is complete, to the tasks, in the caller's name and within its bounds. `ended` is called with the
 * result, unless the client goes before; what refuses the task is answered. */
void call_run_task(struct call *c, void (*ended)(struct call *c, const struct wire_task *result));
/* Whether a key that may use some images only may not use this one, which no name leads to; then err tells so (-EPERM). */
bool image_is_hidden(const struct api *a, const struct key *key, const struct wire_task_request *r, struct err *err);
/* What a key allows, as the task module takes it. */
void maxima_of(const struct key *key, struct task_maxima *ret);
/* The status, reason and text of a refusal of tasks_submit(): answers the status. */
int submit_problem(const struct tasks *tasks, int r, struct err *err, const char **ret_reason, unsigned *ret_retry_s);
/* What only the image can tell of a request. */
void request_check(struct api *a, const struct wire_task_request *r, struct json_faults *faults);
/* 0: a task that ended so is answered as a task; else as a problem of that status. */
int outcome_status(enum wire_status status, enum wire_reason reason);
#define API_BUSY_RETRY_S 30 /* where a registry does not say when to come again */
unsigned outcome_retry_after(enum wire_reason reason, unsigned said_s); /* 0: no Retry-After */
int record_text(const struct history_record *record, struct str *out);
/* Answers a task that is in history, as 201 or as the problem that its end is. */
void answer_record(struct call *c, struct history_record *record);
void tasks_call_gone(struct call *c);

/* The task that the path names: a live one, or (NULL) one whose record `found` is called with, later. NULL too after an answer:
 * it does not exist, at least not to the caller. */
struct task *task_locate(struct call *c, void (*found)(struct call *c, const struct history_record *record));

void tasks_list_run(struct call *c);
void tasks_get_run(struct call *c);
void tasks_wait_run(struct call *c);
void tasks_cancel_run(struct call *c);
void tasks_signal_run(struct call *c);
void tasks_delete_run(struct call *c);
void tasks_stdout_run(struct call *c);
void tasks_stderr_run(struct call *c);

/* Appends all that is kept of a live task's stream from an offset on. -ENOBUFS after having answered, -ENOMEM, -errno. */
int task_read_all(struct call *c, struct task *t, enum engine_stream stream, uint64_t offset, struct str *out);

/* ── long answers: long.c ── */

bool output_is_long(size_t out, size_t err);
void answer_long_task(struct call *c, int status, const struct wire_task *result, struct task *t);
/* Takes the text's contents; its strings are those of the task's streams. */
void answer_long_text(struct call *c, int status, struct wire_text *text, struct task *t);
void answer_long_record(struct call *c, int status, struct history_record *record); /* takes its streams */
void long_call_drained(struct call *c);
void long_call_gone(struct call *c);

void tasks_logs_run(struct call *c);
void logs_call_drained(struct call *c);
void logs_call_gone(struct call *c);

void tasks_stream_begin(struct call *c);
void tasks_stream_run(struct call *c);
void streams_done(struct api *a);                        /* all connections are closed: forgets them */
void streams_revoked(struct api *a, const char *key_id); /* ends those of that key */

void keys_create_run(struct call *c);
void keys_list_run(struct call *c);
void keys_get_run(struct call *c);
void keys_revoke_run(struct call *c);

void engines_run(struct call *c);

json_t *image_json(const struct call *c, const struct image *i, bool whole); /* for this caller; NULL: out of memory */
bool images_all_seen(const struct call *c);                                  /* whatever repository they are from */
/* Names in repositories that are closed to the caller are not his to know. */
bool image_name_known(const struct call *c, const char *name);
json_t *image_names_json(const struct call *c, char *const *names); /* those that are; NULL: out of memory */
void refuse_image(struct call *c, int r, const struct err *err);
void images_list_run(struct call *c);
void images_get_run(struct call *c);
void images_delete_run(struct call *c);
void images_import_begin(struct call *c);
void images_load_begin(struct call *c);
int images_body(struct call *c, const void *piece, size_t len);
void images_body_run(struct call *c);
void upload_call_gone(struct call *c);
/* Whether the image exists for the caller: what was pulled from a repository that is closed to it does not. */
bool image_visible(const struct call *c, const struct image *i);
const char *image_namer(const struct call *c); /* in whose name the caller gives names; NULL: he may give all */
void images_tag_run(struct call *c);
void images_pin_run(struct call *c);
void images_prune_run(struct call *c);
void images_verify_run(struct call *c);
void verify_call_gone(struct call *c);
/* What the store did to itself. It names images: who does not see all is told how much it is. NULL: out of memory. */
json_t *repairs_json(const struct call *c);
/* The image that is meant, if the caller may see it, and by that name; NULL after having answered. */
const struct image *image_find_visible(struct call *c, const char *ref);
/* A parameter that is true or false; false after having answered. */
bool call_flag(struct call *c, const char *name, bool fallback, bool *ret);
void images_pull_run(struct call *c);
void images_pulls_run(struct call *c);
void pull_call_gone(struct call *c);
/* How what image/registry.h and image/pull.h answer is told. */
void pull_outcome(int r, int *ret_status, const char **ret_reason);

void logins_list_run(struct call *c);
void login_run(struct call *c);
void logout_run(struct call *c);
void login_call_gone(struct call *c);
void logins_revoked(struct api *a, const char *owner);
void images_save_run(struct call *c);
void save_call_drained(struct call *c);
void save_call_gone(struct call *c);

void health_init(struct api *a);
void health_done(struct api *a);
void healthz_run(struct call *c);
void version_run(struct call *c);
void health_run(struct call *c);
void health_call_gone(struct call *c);
/* fn is called now or later, unless the client goes before. `full` runs a task, or answers how one of the last seconds went. */
/* engine: NULL: the default. */
void health_check(struct call *c, struct engine *engine, bool full, health_answer_fn fn);
json_t *health_json(const struct call *c, const struct health_report *report); /* NULL: out of memory */

struct engine *api_engine(const struct api *a, const char *name); /* NULL: the default; NULL where there is none */
json_t *engines_json(const struct call *c);                       /* NULL: out of memory */

void openapi_run(struct call *c);
void docs_run(struct call *c);
