/* /v1/images */

#include "api/internal.h"
#include "api/text.h"
#include "base/time.h"
#include "image/ref.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ── images as JSON ────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *layers_json(const struct image *i)
{
        auto_json array = json_array();

        for (size_t n = 0; array && n < i->n_layers; n++) {
                auto_free char *digest = str_printf("sha256:%s", i->layers[n]);

                if (!digest || json_array_append_new(array, json_string(digest)) < 0)
                        return NULL;
        }
        return TAKE_PTR(array);
}

bool images_all_seen(const struct call *c)
{
        return c->who.role == KEY_ADMIN || c->who.role == KEY_READ || !c->api->config.pulls;
}

bool image_name_known(const struct call *c, const char *name)
{
        return images_all_seen(c) || image_pulls_may_know(c->api->config.pulls, c->who.owner, name);
}

json_t *image_names_json(const struct call *c, char *const *names)
{
        auto_json array = json_array();

        for (; array && names && *names; names++)
                if (image_name_known(c, *names) && json_array_append_new(array, json_string(*names)) < 0)
                        return NULL;
        return TAKE_PTR(array);
}

static json_t *time_json(uint64_t ms)
{
        char text[TIME_RFC3339_MAX];

        time_rfc3339(ms, text);
        return ms > 0 ? json_string(text) : json_null();
}

/* {"digest", "names", "created", "size", "architecture", "os", "source", "came_at", "last_used_at", "pinned", "broken"}; `whole`
 * adds config_digest, variant, layers, config. */
json_t *image_json(const struct call *c, const struct image *i, bool whole)
{
        auto_json o = json_object();
        bool bad = !o;

        bad |= json_object_set_new(o, "digest", json_string(i->digest)) < 0;
        bad |= json_object_set_new(o, "names", image_names_json(c, i->names)) < 0;
        bad |= json_object_set_new(o, "created", *i->created ? json_string(i->created) : json_null()) < 0;
        bad |= json_object_set_new(o, "size", json_integer((json_int_t)i->size)) < 0;
        bad |= json_object_set_new(o, "architecture", json_string(i->architecture)) < 0;
        bad |= json_object_set_new(o, "os", json_string(i->os)) < 0;
        bad |= json_object_set_new(o, "source", json_string(image_sources[i->source])) < 0;
        bad |= json_object_set_new(o, "came_at", time_json(i->came_ms)) < 0;
        bad |= json_object_set_new(o, "last_used_at", time_json(i->used_ms)) < 0;
        bad |= json_object_set_new(o, "pinned", json_boolean(i->pinned)) < 0;
        bad |= json_object_set_new(o, "broken", json_boolean(i->broken)) < 0;
        if (whole) {
                bad |= json_object_set_new(o, "variant", json_string(i->variant)) < 0;
                bad |= json_object_set_new(o, "config_digest", json_string(i->config_digest)) < 0;
                bad |= json_object_set_new(o, "layers", layers_json(i)) < 0;
                bad |= json_object_set_new(o, "config", i->config ? json_incref(i->config) : json_null()) < 0;
        }
        return bad ? NULL : TAKE_PTR(o);
}

static bool is_visible(const struct image *i, void *data)
{
        return image_visible(data, i);
}

/* What only the store can tell of one: {"blobs": […], "bytes": {…}}; as if images that the caller may not see were not there. */
static int add_store_json(struct call *c, const struct image *i, json_t *o)
{
        const struct image_audience who = { .may = images_all_seen(c) ? NULL : is_visible, .data = c };
        struct image_store *s = c->api->config.store;
        json_t *blobs = json_array();
        struct image_layer_info layer;
        struct image_bytes bytes;

        if (json_object_set_new(o, "blobs", blobs) < 0 || image_store_bytes(s, i, &who, &bytes) < 0)
                return -ENOMEM;
        for (size_t n = 0; image_store_layer_info(s, i, n, &who, &layer); n++) {
                json_t *unpacked = layer.unpacked >= 0 ? json_integer((json_int_t)layer.unpacked) : json_null();

                if (json_array_append_new(blobs, json_pack("{s:s, s:s, s:s, s:I, s:o, s:i}", "digest", layer.digest,
                                                           "diff_id", layer.diff_id, "media_type", layer.media_type,
                                                           "size", (json_int_t)layer.size, "unpacked", unpacked,
                                                           "sharing", (int)layer.sharing)) < 0)
                        return -ENOMEM;
        }
        return json_object_set_new(o, "bytes",
                                   json_pack("{s:I, s:I, s:I, s:I}", "shared", (json_int_t)bytes.shared, "unique",
                                             (json_int_t)bytes.unique, "unpacked", (json_int_t)bytes.unpacked, "freed",
                                             (json_int_t)bytes.freed));
}

/* ── GET, DELETE ───────────────────────────────────────────────────────────────────────────────────────────────────── */

bool image_visible(const struct call *c, const struct image *i)
{
        return images_all_seen(c) || image_pulls_may_use(c->api->config.pulls, c->who.owner, i);
}

const char *image_namer(const struct call *c)
{
        return c->who.role == KEY_ADMIN ? NULL : c->who.owner;
}

void images_list_run(struct call *c)
{
        auto_json answer = json_object();
        json_t *array = json_array();
        const struct image *i;
        size_t pos = 0;

        if (!answer || json_object_set_new(answer, "images", array) < 0) {
                call_oom(c);
                return;
        }
        while ((i = image_store_next(c->api->config.store, &pos))) {
                if (!image_is_builtin(i) && image_visible(c, i) &&
                    json_array_append_new(array, image_json(c, i, false)) < 0) {
                        call_oom(c);
                        return;
                }
        }
        call_answer_json(c, 200, answer);
}

/* Whether the image was asked for by its digest, or by a name that the caller may know: what a name in a repository that is
 * closed to him means, and that there is one, he does not learn. */
static bool is_asked_openly(const struct call *c, const struct image *i, const char *ref)
{
        char name[REF_TEXT_MAX];
        struct image_ref parsed;

        if (image_ref_parse_docker(ref, &parsed, NULL) < 0)
                return true;
        image_ref_format(&parsed, name);
        if (parsed.digest[0])
                return image_name_known(c, name);
        for (char **n = i->names; n && *n; n++)
                if (str_eq(*n, name))
                        return image_name_known(c, name);
        return true;
}

const struct image *image_find_visible(struct call *c, const char *ref)
{
        struct err err = ERR_INIT;
        const struct image *i = image_store_find(c->api->config.store, ref, &err);

        if (!i && err.num == EINVAL)
                call_problem(c, 400, "bad_request", "%s", err.text);
        else if (!i || !image_visible(c, i) || !is_asked_openly(c, i, ref))
                call_problem(c, 404, "image_not_found", "there is no image %s", ref);
        else
                return i;
        return NULL;
}

void images_get_run(struct call *c)
{
        const struct image *i = image_find_visible(c, c->subject);
        auto_json value = NULL;

        if (!i)
                return;
        value = image_json(c, i, true);
        if (value && add_store_json(c, i, value) < 0)
                call_oom(c);
        else
                call_answer_json(c, 200, value);
}

void refuse_image(struct call *c, int r, const struct err *err)
{
        const char *text = err && err->num ? err->text : strerror(-r);

        switch (-r) {
        case ENOENT:
                call_problem(c, 404, "image_not_found", "%s", text);
                break;
        case EPERM:
                call_problem(c, 403, "forbidden", "%s", text);
                break;
        case EBUSY:
                call_problem(c, 409, "image_in_use", "%s", text);
                break;
        case EBADMSG:
                call_problem(c, 400, "bad_archive", "%s", text);
                break;
        case EUCLEAN:
                call_problem(c, 500, "image_broken", "%s", text);
                break;
        case EINVAL:
                call_problem(c, 400, "bad_request", "%s", text);
                break;
        case EFBIG:
                call_problem(c, 413, "payload_too_large", "%s", text);
                break;
        case ENOSPC:
        case EDQUOT:
                call_problem(c, 507, "no_space", "%s", text);
                break;
        case ENOMEM:
                call_oom(c);
                break;
        default:
                call_problem(c, 500, "internal", "%s", text);
                break;
        }
}

static void on_removed(int r, const struct err *err, void *data)
{
        struct call *c = data;
        auto_json answer = NULL;

        if (r < 0) {
                refuse_image(c, r, err);
        } else {
                answer = json_pack("{s:s}", "removed", c->subject);
                call_answer_json(c, 200, answer);
        }
        call_release(c);
}

/* Whether what the request takes away is the caller's to give: by its name that one, else all that the image has. */
static bool may_unname(const struct call *c, const struct image *i)
{
        bool named = false, all = true;
        char asked[REF_TEXT_MAX] = "";
        struct image_ref ref;

        if (image_ref_parse_docker(c->subject, &ref, NULL) == 0)
                image_ref_format(&ref, asked);
        for (char **name = i->names; name && *name; name++) {
                named |= str_eq(*name, asked);
                all &= image_pulls_may_know(c->api->config.pulls, c->who.owner, *name);
        }
        return named ? image_pulls_may_know(c->api->config.pulls, c->who.owner, asked) : all;
}

void images_delete_run(struct call *c)
{
        const struct image *i = image_store_find(c->api->config.store, c->subject, NULL);
        struct err err = ERR_INIT;
        int r;

        /* What the store looks up below is the same, and is what goes. */
        if (i && !image_find_visible(c, c->subject))
                return;
        if (i && !images_all_seen(c) && !may_unname(c, i)) {
                call_problem(c, 403, "forbidden",
                             "%s has a name in a private repository: show access to it by a pull with credentials "
                             "first, or have an admin remove it",
                             c->subject);
                return;
        }
        call_hold(c);
        r = image_store_remove(c->api->config.store, c->subject, on_removed, c, &err);
        if (r < 0) {
                refuse_image(c, r, &err);
                call_release(c);
        }
}
