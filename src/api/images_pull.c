/* POST /v1/images/pull, GET /v1/images/pulls */

#include "api/internal.h"
#include "api/text.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

struct pulling {
        struct call *call;
        struct image_want *want;
        bool streams; /* events are being sent */
};

/* ── progress as JSON ──────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *layers_json(const struct image_pull_progress *p)
{
        auto_json array = json_array();

        for (size_t i = 0; array && i < p->n_layers; i++) {
                const struct image_layer_progress *l = &p->layers[i];

                if (json_array_append_new(array, json_pack("{s:s, s:s, s:I, s:I, s:b}", "digest", l->digest, "state",
                                                           image_layer_states[l->state], "done", (json_int_t)l->done,
                                                           "size", (json_int_t)l->size, "was_here", l->was_here)) < 0)
                        return NULL;
        }
        return TAKE_PTR(array);
}

static json_t *progress_json(const struct image_pull_progress *p)
{
        const char *state = p->installing ? "installing" : p->total > 0 ? "downloading" : "resolving";
        char begun[TIME_RFC3339_MAX];

        time_rfc3339(p->begun_real_ms, begun);
        return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "image", p->ref, "state", state, "begun_at", begun, "done",
                         (json_int_t)p->done, "total", (json_int_t)p->total, "layers", layers_json(p));
}

/* ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static const struct {
        int num, status;
        const char *reason;
} outcomes[] = {
        { EINVAL, 400, "bad_request" },
        { ENOENT, 404, "image_not_found" },
        { EACCES, 403, "image_unauthorized" },
        { EKEYREJECTED, 403, "image_untrusted" },
        { EHOSTUNREACH, 502, "registry_error" },
        { EBUSY, 503, "registry_busy" },
        { EBADMSG, 502, "image_invalid" },
        { EOPNOTSUPP, 422, "image_unsupported" },
        { EUCLEAN, 500, "image_broken" },
        { ENOSPC, 507, "no_space" },
        { EDQUOT, 507, "no_space" },
        { ENOMEM, 503, "out_of_memory" },
};

void pull_outcome(int r, int *ret_status, const char **ret_reason)
{
        *ret_status = 500;
        *ret_reason = "internal";
        for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
                if (outcomes[i].num == -r) {
                        *ret_status = outcomes[i].status;
                        *ret_reason = outcomes[i].reason;
                }
        }
}

static json_t *result_json(struct call *c, const struct image_pull_result *result)
{
        const struct image *image = image_store_by_digest(c->api->config.store, result->digest);

        return json_pack("{s:s, s:s, s:b, s:o?}", "ref", result->ref, "digest", result->digest, "pulled",
                         result->pulled, "image", image ? image_json(c, image, false) : NULL);
}

static void stream_outcome(struct call *c, int r, const struct image_pull_result *result, const struct err *err)
{
        const char *reason;
        int status;

        if (r == 0) {
                call_events_done(c, result_json(c, result));
                return;
        }
        pull_outcome(r, &status, &reason);
        call_events_fail(c, status, reason, err->text);
}

static void answer_outcome(struct call *c, int r, const struct image_pull_result *result, const struct err *err)
{
        auto_json answer = NULL;
        const char *reason;
        int status;

        if (r == 0) {
                answer = result_json(c, result);
                call_answer_json(c, 200, answer);
                return;
        }
        pull_outcome(r, &status, &reason);
        if (r == -EBUSY)
                call_retry_after(c, result->retry_after_s ? result->retry_after_s : API_BUSY_RETRY_S);
        if (r == -ENOMEM)
                call_oom(c);
        else
                call_problem(c, status, reason, "%s", err->text);
}

static void on_pulled(int r, const struct image_pull_result *result, const struct err *err, void *data)
{
        struct pulling *p = data;
        struct call *c = p->call;

        c->pulling = NULL;
        if (p->streams)
                stream_outcome(c, r, result, err);
        else
                answer_outcome(c, r, result, err);
        free(p);
}

static void on_progress(const struct image_pull_progress *progress, void *data)
{
        struct pulling *p = data;
        struct call *c = p->call;

        /* Who reads slowly gets fewer, never old ones. */
        if (http_stream_pending(c->http) < HTTP_STREAM_LOW)
                call_event(c, progress_json(progress));
}

void pull_call_gone(struct call *c)
{
        struct pulling *p = TAKE_PTR(c->pulling);

        if (!p)
                return;
        loop_timer_cancel(&c->timer);
        image_pull_cancel(p->want);
        free(p);
}

/* ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct wish {
        const char *image, *username, *password;
        int policy;
};

static void read_auth(struct json_obj *body, struct wish *w, struct json_faults *faults)
{
        struct json_obj auth;
        json_t *value;

        if (!json_get_any(body, "registry_auth", &value) || json_obj_init(&auth, value, "/registry_auth", faults) < 0)
                return;
        if (!json_get_str(&auth, "username", &w->username, NULL) || !*w->username)
                json_faults_add(faults, "/registry_auth/username", "is required");
        else if (strlen(w->username) > REGISTRY_USER_MAX || strpbrk(w->username, ":\r\n"))
                json_faults_add(faults, "/registry_auth/username", "may hold neither a colon nor a line break");
        if (!json_get_str(&auth, "password", &w->password, NULL) || !*w->password)
                json_faults_add(faults, "/registry_auth/password", "is required");
        else if (strlen(w->password) > REGISTRY_PASSWORD_MAX)
                json_faults_add(faults, "/registry_auth/password", "is too long");
        json_obj_done(&auth);
}

static bool read_wish(struct call *c, json_t *value, struct wish *w)
{
        static const char *const policies[] = { "missing", "always", "never", NULL };
        struct json_faults faults = { .len = 0 };
        struct json_obj body;
        bool good;

        w->policy = IMAGE_PULL_ALWAYS;
        if (json_obj_init(&body, value, "", &faults) == 0) {
                if (!json_get_str(&body, "image", &w->image, NULL) || !*w->image)
                        json_faults_add(&faults, "/image", "is required: the reference to pull");
                (void)json_get_enum(&body, "pull", policies, &w->policy);
                read_auth(&body, w, &faults);
                json_obj_done(&body);
        }
        good = faults.len == 0;
        if (!good)
                call_problem_of(c, 400, "bad_request", "the body is not valid", NULL, &faults);
        json_faults_done(&faults);
        return good;
}

static void begin(struct call *c, const struct wish *w)
{
        struct pulling *p = calloc(1, sizeof(*p));
        struct image_pull_request request = {
                .ref = w->image,
                .owner = c->who.owner,
                .all = c->who.role == KEY_ADMIN,
                .policy = (enum image_pull_policy)w->policy,
                .username = w->username,
                .password = w->password,
        };

        if (!p) {
                call_oom(c);
                return;
        }
        p->call = c;
        p->streams = call_wants_events(c);
        request.progress = p->streams ? on_progress : NULL;
        if (image_pull(c->api->config.pulls, &request, on_pulled, p, &p->want, NULL) < 0) {
                free(p);
                call_oom(c);
                return;
        }
        c->pulling = p;
        if (p->streams && !call_events_begin(c))
                pull_call_gone(c);
}

void images_pull_run(struct call *c)
{
        struct wish w = { .image = NULL };
        struct err err = ERR_INIT;
        auto_json value = NULL;

        if (!c->api->config.pulls) {
                call_problem(c, 503, "unavailable", "this daemon pulls nothing");
                return;
        }
        if (c->api->config.no_images) {
                call_problem(c, 501, "not_supported", "%s", c->api->config.no_images);
                return;
        }
        if (json_read(c->body.data ? c->body.data : "", c->body.len, &value, &err) < 0) {
                call_problem(c, 400, "bad_request", "%s", err.text);
                return;
        }
        if (read_wish(c, value, &w))
                begin(c, &w);
        if (c->body.data)
                OPENSSL_cleanse(c->body.data, c->body.len);
}

void images_pulls_run(struct call *c)
{
        bool all = c->who.role == KEY_ADMIN || c->who.role == KEY_READ;
        auto_json answer = json_pack("{s:[]}", "pulls");
        struct image_pull_progress progress;
        size_t pos = 0;

        while (answer && c->api->config.pulls && image_pulls_next(c->api->config.pulls, &pos, &progress)) {
                if (!all && !str_eq(progress.owner, c->who.owner))
                        continue;
                if (json_array_append_new(json_object_get(answer, "pulls"), progress_json(&progress)) < 0) {
                        call_oom(c);
                        return;
                }
        }
        call_answer_json(c, 200, answer);
}
