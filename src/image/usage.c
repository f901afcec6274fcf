/* usage.json: when images were used last, and how large unpacked layers are. Losing it costs order and figures, no image:
 * it is written behind, at most once a minute. */

#include "image/operation.h"

#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_NS (2 * NS_PER_S) /* after a change, so that many go together */
#define EVERY_NS (60 * NS_PER_S)
#define LAYERS_MAX 1000000

/* ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void note(struct image_store *s, const char *diff_id, uint64_t bytes, uint64_t entries)
{
        struct layer_bytes *l = map_find(s->layer_bytes, diff_id);

        if (!l) {
                l = map_len(s->layer_bytes) < LAYERS_MAX ? calloc(1, sizeof(*l)) : NULL;
                if (!l)
                        return;
                if (map_set(s->layer_bytes, diff_id, l) < 0) {
                        free(l);
                        return;
                }
        }
        *l = (struct layer_bytes){ bytes, entries };
}

void usage_note_layer(struct image_store *s, const char *diff_id, uint64_t bytes, uint64_t entries)
{
        note(s, diff_id, bytes, entries);
        usage_changed(s);
}

const struct layer_bytes *usage_layer(const struct image_store *s, const char *diff_id)
{
        return map_find(s->layer_bytes, diff_id);
}

/* ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void load_used(struct image_store *s, const json_t *used)
{
        uint64_t now = time_real_ms();

        for (size_t i = 0; i < s->images.len; i++) {
                struct image *image = &s->images.items[i]->image;
                json_int_t ms = json_integer_value(json_object_get(used, image->digest));

                /* A clock that was set back must not make an image the youngest for ever. */
                if (ms > 0)
                        image->used_ms = MIN((uint64_t)ms, now);
                if (image->used_ms == 0)
                        image->used_ms = image->came_ms;
        }
}

static void load_layers(struct image_store *s, json_t *layers)
{
        const char *key;
        json_t *v;

        json_object_foreach(layers, key, v) {
                json_int_t bytes = json_integer_value(json_array_get(v, 0));
                json_int_t entries = json_integer_value(json_array_get(v, 1));

                if (hex_is_lower(key, 64) && bytes >= 0 && entries >= 0)
                        note(s, key, (uint64_t)bytes, (uint64_t)entries);
        }
}

int usage_load(struct image_store *s)
{
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        auto_json o = NULL;
        int r;

        s->layer_bytes = map_new();
        if (!s->layer_bytes)
                return -ENOMEM;
        r = image_layout_read_usage(&s->layout, &text, &err);
        if (r == 0)
                r = json_read(text.data ? text.data : "", text.len, &o, &err);
        if (r < 0 && r != -ENOENT)
                log_warn("images: usage.json: %s; it begins anew", err.text);
        load_used(s, json_object_get(o, "used"));
        load_layers(s, json_object_get(o, "layers"));
        return 0;
}

/* ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *layers_json(const struct image_store *s)
{
        auto_json o = json_object();

        for (size_t i = 0; i < s->images.len; i++) {
                const struct image_config *c = &s->images.items[i]->config;

                for (size_t k = 0; k < c->n_diff_ids; k++) {
                        const struct layer_bytes *l = usage_layer(s, c->diff_ids[k]);

                        if (l &&
                            json_object_set_new(o, c->diff_ids[k],
                                                json_pack("[I,I]", (json_int_t)l->bytes, (json_int_t)l->entries)) < 0)
                                return NULL;
                }
        }
        return TAKE_PTR(o);
}

static json_t *used_json(const struct image_store *s)
{
        auto_json o = json_object();

        for (size_t i = 0; i < s->images.len; i++) {
                const struct image *image = &s->images.items[i]->image;

                if (json_object_set_new(o, image->digest, json_integer((json_int_t)image->used_ms)) < 0)
                        return NULL;
        }
        return TAKE_PTR(o);
}

static int make_text(struct image_store *s, struct str *ret)
{
        auto_json o = json_pack("{s:o, s:o}", "used", used_json(s), "layers", layers_json(s));

        str_clear(ret);
        return o ? json_write(o, ret) : -ENOMEM;
}

/* Layers that no image has any more are forgotten. */
static void forget_layers(struct image_store *s)
{
        auto_json wanted = layers_json(s);
        const char *key;
        void *value;
        size_t pos = 0;

        while (wanted && map_next(s->layer_bytes, &pos, &key, &value)) {
                if (json_object_get(wanted, key))
                        continue;
                (void)map_remove(s->layer_bytes, key);
                free(value);
        }
}

static int work_write_usage(struct op *op, struct err *err)
{
        struct err why = ERR_INIT;

        (void)err;
        if (image_layout_write_usage(&op->layout, op->text.data, op->text.len, &why) < 0)
                log_debug("images: usage.json: %s", why.text);
        return 0;
}

int step_write_usage(struct op *op)
{
        int r;

        if (list_empty(&op->store->holds))
                forget_layers(op->store);
        if (make_text(op->store, &op->text) < 0)
                return op_out_of_memory(op);
        r = op_work(op, work_write_usage);
        return r < 0 ? r : STEP_WAIT;
}

static void on_timer(struct loop_timer *timer, void *data)
{
        struct image_store *s = data;
        struct op *op = op_new(s, op_usage_steps, false);

        (void)timer;
        s->usage_dirty = false;
        s->usage_ns = time_mono_ns();
        if (op)
                op_add(op);
}

void usage_changed(struct image_store *s)
{
        uint64_t now;

        if (s->usage_dirty)
                return;
        now = time_mono_ns();
        s->usage_dirty = true;
        (void)loop_timer_set(s->loop, &s->usage_timer,
                             MAX(now + FIRST_NS, s->usage_ns > 0 ? s->usage_ns + EVERY_NS : 0), on_timer, s);
}

void image_store_touch(struct image_store *s, const struct image *image)
{
        struct stored *stored = store_find_digest(s, image->digest);

        if (!stored)
                return;
        stored->image.used_ms = time_real_ms();
        usage_changed(s);
}

void usage_close(struct image_store *s)
{
        auto_str text = STR_INIT;
        const char *key;
        void *value;
        size_t pos = 0;

        loop_timer_cancel(&s->usage_timer);
        if (s->usage_dirty && make_text(s, &text) == 0)
                (void)image_layout_write_usage(&s->layout, text.data, text.len, NULL);
        while (s->layer_bytes && map_next(s->layer_bytes, &pos, &key, &value))
                free(value);
        map_free(s->layer_bytes);
        s->layer_bytes = NULL;
}
