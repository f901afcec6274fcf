#include "api/routes.h"

#include "base/str.h"

#include <string.h>

#define LAST_PARAM                                                                                                     \
        {                                                                                                              \
                .name = NULL                                                                                           \
        }
#define LAST_ANSWER                                                                                                    \
        {                                                                                                              \
                .status = 0                                                                                            \
        }
#define JSON "application/json"
#define SMALL_BODY (64 * 1024)

const int route_common_problems[] = { 400, 401, 403, 405, 413, 429, 500, 503, 0 };

/* ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static const char *const statuses[] = { "queued", "pulling", "running", "exited", "failed", "killed", NULL };
static const char *const streams[] = { "stdout", "stderr", "both", NULL };

static const struct param health_params[] = {
        { .name = "full", .type = PARAM_BOOL, .help = "run a task, or tell how one of the last seconds went" },
        { .name = "engine", .help = "which one is asked; the default's where absent" },
        LAST_PARAM,
};
static const struct param task_list_params[] = {
        { .name = "status", .type = PARAM_ENUM, .words = statuses, .help = "tasks in this state" },
        { .name = "label", .type = PARAM_TEXT, .repeated = true, .help = "NAME=VALUE; all of them must be there" },
        { .name = "image", .type = PARAM_TEXT, .help = "tasks of this image" },
        { .name = "since", .type = PARAM_TIME, .help = "made at this time or later" },
        { .name = "until", .type = PARAM_TIME, .help = "made before this time" },
        { .name = "limit",
          .type = PARAM_INTEGER,
          .min = 1,
          .max = 1000,
          .help = "tasks in one answer; 100 by default" },
        { .name = "cursor", .type = PARAM_TEXT, .help = "next_cursor of the answer before" },
        LAST_PARAM,
};
static const struct param task_wait_params[] = {
        { .name = "timeout",
          .type = PARAM_DURATION,
          .help = "after it 202 is answered; without it the wait has no end" },
        LAST_PARAM,
};
static const struct param task_output_params[] = {
        { .name = "offset",
          .type = PARAM_INTEGER,
          .min = 0,
          .max = 1L << 40,
          .help = "bytes to leave out at the begin" },
        { .name = "tail", .type = PARAM_INTEGER, .min = 0, .max = 1L << 40, .help = "only so many bytes of the end" },
        LAST_PARAM,
};
static const struct param task_logs_params[] = {
        { .name = "follow", .type = PARAM_BOOL, .help = "stay until the task has ended" },
        { .name = "stream", .type = PARAM_ENUM, .words = streams, .help = "both by default" },
        { .name = "tail",
          .type = PARAM_INTEGER,
          .min = 0,
          .max = 1L << 40,
          .help = "begin so many bytes before the end" },
        { .name = "since", .type = PARAM_TIME, .help = "only what came then or later" },
        { .name = "until", .type = PARAM_TIME, .help = "only what came until then" },
        LAST_PARAM,
};
static const struct param image_import_params[] = {
        { .name = "ref", .type = PARAM_TEXT, .required = true, .help = "the name to give" },
        { .name = "change", .type = PARAM_TEXT, .repeated = true, .help = "an instruction, as `CMD [\"sh\"]`" },
        LAST_PARAM,
};

static const struct param image_tag_params[] = {
        { .name = "ref", .type = PARAM_TEXT, .required = true, .help = "the image: a reference, or a digest" },
        { .name = "name", .type = PARAM_TEXT, .required = true, .help = "the name to give" },
        LAST_PARAM,
};
static const struct param image_pin_params[] = {
        { .name = "ref", .type = PARAM_TEXT, .required = true, .help = "the image: a reference, or a digest" },
        { .name = "pinned", .type = PARAM_BOOL, .help = "true by default" },
        LAST_PARAM,
};
static const struct param image_prune_params[] = {
        { .name = "dry_run", .type = PARAM_BOOL, .help = "only tell what would go; true by default" },
        { .name = "dangling", .type = PARAM_BOOL, .help = "images without a name; the default where nothing is asked" },
        { .name = "all", .type = PARAM_BOOL, .help = "images with a name, too" },
        { .name = "unused_for",
          .type = PARAM_DURATION,
          .help = "of all images those that nobody has used for so long" },
        { .name = "keep_bytes",
          .type = PARAM_INTEGER,
          .min = 0,
          .max = 1L << 50,
          .help = "the least recently used ones, until images take no more than this" },
        LAST_PARAM,
};
static const char *const save_formats[] = { "docker", "oci", NULL };
static const struct param image_save_params[] = {
        { .name = "ref",
          .type = PARAM_TEXT,
          .required = true,
          .repeated = true,
          .help = "an image, or a name whose tags go out all" },
        { .name = "format", .type = PARAM_ENUM, .words = save_formats, .help = "docker by default, which is both" },
        LAST_PARAM,
};

static const struct param image_verify_params[] = {
        { .name = "repair",
          .type = PARAM_BOOL,
          .help = "unpack again what is damaged; where that cannot be, the image is broken until it is pulled again" },
        LAST_PARAM,
};

/* ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define ANSWER(name, code, of, text)                                                                                   \
        static const struct answer name[] = { { .status = (code), .media = JSON, .schema = (of), .help = (text) },     \
                                              LAST_ANSWER }

ANSWER(healthz_answers, 200, "Ping", "the daemon serves");
ANSWER(version_answers, 200, "Version", "name, version, engine");
ANSWER(engine_list_answers, 200, "EngineList", "the engines and what they can do");
ANSWER(health_answers, 200, "Health", "all is well");
ANSWER(task_list_answers, 200, "TaskList", "the newest first");
ANSWER(task_get_answers, 200, "Task", "the task; with its output once it has ended");
ANSWER(task_signal_answers, 200, "Task", "the signal was sent");
ANSWER(image_list_answers, 200, "ImageList", "what is present");
ANSWER(image_get_answers, 200, "Image", "the image");
ANSWER(image_delete_answers, 200, "Removed", "the name, or the image, is gone");
ANSWER(image_pulls_answers, 200, "PullList", "the pulls under way");
ANSWER(image_change_answers, 200, "Image", "the image, as it is now");
ANSWER(image_prune_answers, 200, "Pruned", "what has gone, or would go");
ANSWER(image_load_answers, 201, "ImageList", "what the archive held");
ANSWER(key_create_answers, 201, "NewKey", "the key, with its secret for the only time");
ANSWER(login_list_answers, 200, "LoginList", "the registries that the caller is logged in to");
ANSWER(login_answers, 200, "Login", "the registry takes the credentials, which are kept");
ANSWER(key_list_answers, 200, "KeyList", "the newest first");
ANSWER(key_get_answers, 200, "Key", "the key");
static const struct answer task_run_answers[] = {
        { .status = 201, .media = JSON, .schema = "Task", .help = "the task has ended" },
        { .status = 202, .media = JSON, .schema = "Task", .help = "the task is accepted, and its request on disk" },
        LAST_ANSWER,
};
static const struct answer task_wait_answers[] = {
        { .status = 200, .media = JSON, .schema = "Task", .help = "the task has ended" },
        { .status = 202, .media = JSON, .schema = "Task", .help = "it has not, yet" },
        LAST_ANSWER,
};
static const struct answer task_cancel_answers[] = {
        { .status = 200, .media = JSON, .schema = "Task", .help = "the task had ended before" },
        { .status = 202, .media = JSON, .schema = "Task", .help = "the task is being ended" },
        LAST_ANSWER,
};
static const struct answer task_output_answers[] = {
        { .status = 200, .media = "application/octet-stream", .help = "the bytes, so far as there are" },
        { .status = 206, .media = "application/octet-stream", .help = "the part that Range asked for" },
        LAST_ANSWER,
};
static const struct answer task_logs_answers[] = {
        { .status = 200, .media = "text/event-stream", .help = "events stdout, stderr, and end with the task" },
        LAST_ANSWER,
};
static const struct answer task_stream_answers[] = {
        { .status = 101, .help = "WebSocket: the request as the first text, then the task live" },
        LAST_ANSWER,
};
static const struct answer image_pull_answers[] = {
        { .status = 200, .media = JSON, .schema = "PullResult", .help = "the image is present" },
        { .status = 200, .media = "text/event-stream", .help = "events progress, then done or error" },
        LAST_ANSWER,
};
static const struct answer image_save_answers[] = {
        { .status = 200, .media = "application/x-tar", .help = "the archive; it is whole only where the answer is" },
        LAST_ANSWER,
};
static const struct answer image_verify_answers[] = {
        { .status = 200, .media = JSON, .schema = "Verification", .help = "all was looked at" },
        { .status = 200, .media = "text/event-stream", .help = "events progress, then done or error" },
        LAST_ANSWER,
};
static const struct answer openapi_answers[] = {
        { .status = 200, .media = JSON, .help = "OpenAPI 3.1" },
        LAST_ANSWER,
};
static const struct answer docs_answers[] = {
        { .status = 200, .media = "text/html", .help = "the first page" },
        LAST_ANSWER,
};
static const struct answer docs_page_answers[] = {
        { .status = 200, .media = "text/javascript", .help = "the file" },
        { .status = 200, .media = "text/css", .help = "the file" },
        LAST_ANSWER,
};
static const struct answer no_content_answers[] = {
        { .status = 204, .help = "done" },
        LAST_ANSWER,
};

/* ── problems ────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define PROBLEMS(...)                                                                                                  \
        (const int[])                                                                                                  \
        {                                                                                                              \
                __VA_ARGS__, 0                                                                                         \
        }

/* ── routes ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

const struct route routes[ROUTES] = {
        [ROUTE_HEALTHZ] = { "GET", "/healthz", OP_PING, .name = "ping", .answers = healthz_answers,
                            .summary = "Tells that the daemon serves; 503 while it stops. Needs no key." },
        [ROUTE_VERSION] = { "GET", "/v1/version", OP_INFO, .name = "getVersion", .answers = version_answers,
                            .summary = "Name, version and engine." },
        [ROUTE_ENGINES] = { "GET", "/v1/engines", OP_INFO, .name = "listEngines", .answers = engine_list_answers,
                            .summary = "Lists the engines and what they can do." },
        [ROUTE_HEALTH] = { "GET", "/v1/health", OP_HEALTH, .params = health_params, .name = "getHealth",
                           .answers = health_answers,
                           .summary = "Tells whether the engine is well, and on request whether a task runs." },
        [ROUTE_TASK_RUN] = { "POST", "/v1/tasks", OP_TASK_RUN, BODY_JSON, .name = "runTask", .request = "TaskRequest",
                             .answers = task_run_answers, .problems = PROBLEMS(404, 410, 415, 422, 502, 507),
                             .summary = "Runs a task and answers with its result." },
        [ROUTE_TASK_LIST] = { "GET", "/v1/tasks", OP_TASK_READ, .params = task_list_params, .name = "listTasks",
                              .answers = task_list_answers, .summary = "Lists tasks, without their output." },
        [ROUTE_TASK_STREAM] = { "GET", "/v1/tasks/stream", OP_TASK_RUN, .websocket = true, .name = "streamTask",
                                .answers = task_stream_answers, .problems = PROBLEMS(426),
                                .summary = "Runs a task live over a WebSocket." },
        [ROUTE_TASK_GET] = { "GET", "/v1/tasks/{id}", OP_TASK_READ, .name = "getTask", .path_help = "id of the task",
                             .answers = task_get_answers, .problems = PROBLEMS(404), .summary = "One task." },
        [ROUTE_TASK_DELETE] = { "DELETE", "/v1/tasks/{id}", OP_TASK_CONTROL, .name = "deleteTask",
                                .path_help = "id of the task", .answers = no_content_answers,
                                .problems = PROBLEMS(404, 409),
                                .summary = "Removes the record of a task that has ended." },
        [ROUTE_TASK_WAIT] = { "GET", "/v1/tasks/{id}/wait", OP_TASK_READ, .params = task_wait_params,
                              .name = "waitTask", .path_help = "id of the task", .answers = task_wait_answers,
                              .problems = PROBLEMS(404), .summary = "Answers when the task has ended." },
        [ROUTE_TASK_STDOUT] = { "GET", "/v1/tasks/{id}/stdout", OP_TASK_READ, .params = task_output_params,
                                .name = "getStdout", .path_help = "id of the task", .answers = task_output_answers,
                                .problems = PROBLEMS(404, 416), .summary = "The bytes of standard output." },
        [ROUTE_TASK_STDERR] = { "GET", "/v1/tasks/{id}/stderr", OP_TASK_READ, .params = task_output_params,
                                .name = "getStderr", .path_help = "id of the task", .answers = task_output_answers,
                                .problems = PROBLEMS(404, 416), .summary = "The bytes of standard error." },
        [ROUTE_TASK_LOGS] = { "GET", "/v1/tasks/{id}/logs", OP_TASK_READ, .params = task_logs_params,
                              .name = "followTask", .path_help = "id of the task", .answers = task_logs_answers,
                              .problems = PROBLEMS(404),
                              .summary = "Output as server-sent events, which Last-Event-ID resumes." },
        [ROUTE_TASK_CANCEL] = { "POST", "/v1/tasks/{id}/cancel", OP_TASK_CONTROL, .name = "cancelTask",
                                .path_help = "id of the task", .answers = task_cancel_answers,
                                .problems = PROBLEMS(404), .summary = "Ends a task. Doing so again is no fault." },
        [ROUTE_TASK_SIGNAL] = { "POST", "/v1/tasks/{id}/signal", OP_TASK_CONTROL, BODY_JSON, SMALL_BODY,
                                .name = "signalTask", .path_help = "id of the task", .request = "SignalRequest",
                                .answers = task_signal_answers, .problems = PROBLEMS(404, 409, 415),
                                .summary = "Sends a signal to the task's first process." },
        [ROUTE_IMAGE_LIST] = { "GET", "/v1/images", OP_IMAGE_READ, .name = "listImages", .answers = image_list_answers,
                               .summary = "Lists the images that are present." },
        [ROUTE_IMAGE_IMPORT] = { "POST", "/v1/images/import", OP_IMAGE_CHANGE, BODY_STREAM,
                                 .params = image_import_params, .name = "importImage", .answers = image_load_answers,
                                 .problems = PROBLEMS(415, 501, 507),
                                 .summary = "Makes an image out of a root's tar." },
        [ROUTE_IMAGE_LOAD] = { "POST", "/v1/images/load", OP_IMAGE_CHANGE, BODY_STREAM, .name = "loadImages",
                               .answers = image_load_answers, .problems = PROBLEMS(415, 501, 507),
                               .summary = "Loads an archive of `docker save`, or an OCI one." },
        [ROUTE_IMAGE_PULL] = { "POST", "/v1/images/pull", OP_IMAGE_CHANGE, BODY_JSON, SMALL_BODY, .name = "pullImage",
                               .request = "PullRequest", .answers = image_pull_answers,
                               .problems = PROBLEMS(404, 415, 422, 501, 502, 507),
                               .summary = "Pulls an image from its registry." },
        [ROUTE_IMAGE_PULLS] = { "GET", "/v1/images/pulls", OP_IMAGE_READ, .name = "listPulls",
                                .answers = image_pulls_answers, .summary = "Lists the pulls under way." },
        [ROUTE_IMAGE_TAG] = { "POST", "/v1/images/tag", OP_IMAGE_CHANGE, .params = image_tag_params, .name = "tagImage",
                              .answers = image_change_answers, .problems = PROBLEMS(404),
                              .summary = "Gives an image one more name, which then means it alone." },
        [ROUTE_IMAGE_PIN] = { "POST", "/v1/images/pin", OP_IMAGE_CHANGE, .params = image_pin_params, .name = "pinImage",
                              .answers = image_change_answers, .problems = PROBLEMS(404),
                              .summary = "Keeps an image from collection and removal, or not any more." },
        [ROUTE_IMAGE_PRUNE] = { "POST", "/v1/images/prune", OP_IMAGE_CHANGE, .params = image_prune_params,
                                .name = "pruneImages", .answers = image_prune_answers,
                                .summary = "Removes images that nobody needs, or tells which would go." },
        [ROUTE_IMAGE_SAVE] = { "GET", "/v1/images/save", OP_IMAGE_READ, .params = image_save_params,
                               .name = "saveImages", .answers = image_save_answers, .problems = PROBLEMS(404),
                               .summary = "Images as an archive, which load and `docker load` read." },
        [ROUTE_IMAGE_VERIFY] = { "POST", "/v1/images/verify", OP_IMAGE_CHANGE, .params = image_verify_params,
                                 .name = "verifyImages", .answers = image_verify_answers,
                                 .problems = PROBLEMS(409, 507),
                                 .summary = "Reads all of the store, and checks every blob, layer and tree." },
        [ROUTE_IMAGE_GET] = { "GET", "/v1/images/{+ref}", OP_IMAGE_READ, .name = "getImage",
                              .path_help = "a reference, or a digest", .answers = image_get_answers,
                              .problems = PROBLEMS(404), .summary = "One image, with its configuration." },
        [ROUTE_IMAGE_DELETE] = { "DELETE", "/v1/images/{+ref}", OP_IMAGE_CHANGE, .name = "deleteImage",
                                 .path_help = "a reference, or a digest", .answers = image_delete_answers,
                                 .problems = PROBLEMS(404, 409), .summary = "Removes a name, or an image." },
        [ROUTE_LOGIN_LIST] = { "GET", "/v1/registries", OP_LOGINS, .name = "listLogins", .answers = login_list_answers,
                               .summary = "Lists the registries that the caller is logged in to." },
        [ROUTE_LOGIN] = { "POST", "/v1/registries/login", OP_LOGINS, BODY_JSON, SMALL_BODY, .name = "login",
                          .request = "LoginRequest", .answers = login_answers, .problems = PROBLEMS(415, 502, 507),
                          .summary =
                                  "Tries credentials at a registry, and keeps them for the caller's pulls and tasks." },
        [ROUTE_LOGOUT] = { "POST", "/v1/registries/logout", OP_LOGINS, BODY_JSON, SMALL_BODY, .name = "logout",
                           .request = "LogoutRequest", .answers = no_content_answers, .problems = PROBLEMS(404, 415),
                           .summary = "Forgets the credentials for a registry." },
        [ROUTE_KEY_CREATE] = { "POST", "/v1/keys", OP_KEYS, BODY_JSON, SMALL_BODY, .name = "createKey",
                               .request = "KeyRequest", .answers = key_create_answers, .problems = PROBLEMS(415),
                               .summary = "Makes a key." },
        [ROUTE_KEY_LIST] = { "GET", "/v1/keys", OP_KEYS, .name = "listKeys", .answers = key_list_answers,
                             .summary = "Lists keys, revoked ones too." },
        [ROUTE_KEY_GET] = { "GET", "/v1/keys/{id}", OP_KEYS, .name = "getKey", .path_help = "id of the key",
                            .answers = key_get_answers, .problems = PROBLEMS(404), .summary = "One key." },
        [ROUTE_KEY_REVOKE] = { "DELETE", "/v1/keys/{id}", OP_KEYS, .name = "revokeKey", .path_help = "id of the key",
                               .answers = no_content_answers, .problems = PROBLEMS(404),
                               .summary = "Revokes a key, at once and for good." },
        [ROUTE_OPENAPI] = { "GET", "/v1/openapi.json", OP_INFO, .name = "getOpenapi", .answers = openapi_answers,
                            .summary = "This description." },
        [ROUTE_DOCS] = { "GET", "/docs", OP_INFO, .name = "getDocs", .answers = docs_answers,
                         .summary = "This description, as pages for a browser." },
        [ROUTE_DOCS_PAGE] = { "GET", "/docs/{file}", OP_INFO, .name = "getDocsFile", .path_help = "name of the file",
                              .answers = docs_page_answers, .problems = PROBLEMS(404),
                              .summary = "What the pages consist of." },
};

bool route_matches(const struct route *route, const char *path, const char **ret_rest, size_t *ret_rest_len)
{
        const char *at = route->path, *rest = NULL;
        size_t rest_len = 0;

        while (*at && *at != '{' && *at == *path) {
                at++;
                path++;
        }
        if (*at == '{') {
                rest = path;
                rest_len = at[1] == '+' ? strlen(path) : strcspn(path, "/");
                path += rest_len;
                at = strchr(at, '}') + 1;
                if (rest_len == 0 || !str_eq(at, path))
                        return false;
        } else if (*at || *path) {
                return false;
        }
        *ret_rest = rest;
        *ret_rest_len = rest_len;
        return true;
}
