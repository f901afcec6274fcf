/* What images weigh. */

#include "image/operation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROWTH 3 /* of a layer whose unpacked size is not known */

static bool has_layer(const struct stored *i, const char *digest)
{
        for (size_t k = 0; k < i->parts.n_layers; k++)
                if (str_eq(i->parts.layers[k].digest, digest))
                        return true;
        return false;
}

static bool is_there_for(const struct image_audience *who, const struct stored *i)
{
        return !who->may || who->may(&i->image, who->data);
}

bool image_store_layer_info(struct image_store *s, const struct image *image, size_t i,
                            const struct image_audience *who, struct image_layer_info *ret)
{
        const struct stored *stored = CONTAINER_OF(image, const struct stored, image);
        const struct layer_bytes *bytes;

        if (i >= stored->parts.n_layers)
                return false;
        *ret = (struct image_layer_info){ .size = stored->parts.layers[i].size, .unpacked = -1 };
        (void)snprintf(ret->digest, sizeof(ret->digest), "%s", stored->parts.layers[i].digest);
        (void)snprintf(ret->diff_id, sizeof(ret->diff_id), "sha256:%s", stored->config.diff_ids[i]);
        (void)snprintf(ret->media_type, sizeof(ret->media_type), "%s", stored->parts.layers[i].media_type);
        bytes = usage_layer(s, stored->config.diff_ids[i]);
        if (bytes)
                ret->unpacked = (int64_t)bytes->bytes;
        for (size_t k = 0; k < s->images.len; k++)
                ret->sharing += s->images.items[k] != stored && has_layer(s->images.items[k], ret->digest) &&
                                is_there_for(who, s->images.items[k]);
        return true;
}

/* ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────── */

uint64_t account_layer(const struct image_store *s, const char *diff_id, uint64_t blob)
{
        const struct layer_bytes *bytes = usage_layer(s, diff_id);

        return bytes ? bytes->bytes : blob * GROWTH;
}

struct weight {
        size_t users;
        uint64_t bytes;
};

void account_done(struct map *m)
{
        const char *key;
        void *value;
        size_t pos = 0;

        while (m && map_next(m, &pos, &key, &value))
                free(value);
        map_free(m);
}

static int add_weight(struct map *m, const char *key, uint64_t bytes, uint64_t *sum)
{
        struct weight *w = map_find(m, key);

        if (!w) {
                w = calloc(1, sizeof(*w));
                if (!w)
                        return -ENOMEM;
                w->bytes = bytes;
                if (map_set(m, key, w) < 0) {
                        free(w);
                        return -ENOMEM;
                }
        }
        *sum += w->users == 0 ? bytes : 0;
        w->users++;
        return 0;
}

/* Calls fn for each thing on disk that an image needs, each once: blobs by digest, layers by the hex of their diff_id. */
static int each_part(const struct image_store *s, const struct stored *i,
                     int (*fn)(struct map *m, const char *key, uint64_t bytes, uint64_t *sum), struct map *m,
                     uint64_t *sum)
{
        int r = fn(m, i->manifest.digest, i->manifest.size, sum);

        if (r == 0)
                r = fn(m, i->parts.config.digest, i->parts.config.size, sum);
        for (size_t k = 0; r == 0 && k < i->parts.n_layers; k++) {
                const struct image_descriptor *d = &i->parts.layers[k];
                bool again = false;

                for (size_t j = 0; j < k; j++)
                        again |= str_eq(i->parts.layers[j].digest, d->digest);
                if (again)
                        continue;
                r = fn(m, d->digest, d->size, sum);
                if (r == 0)
                        r = fn(m, i->config.diff_ids[k], account_layer(s, i->config.diff_ids[k], d->size), sum);
        }
        return r;
}

static int account_for(const struct image_store *s, const struct image_audience *who, struct map **ret,
                       uint64_t *ret_sum)
{
        struct map *m = map_new();
        int r = m ? 0 : -ENOMEM;
        uint64_t sum = 0;

        for (size_t i = 0; r == 0 && i < s->images.len; i++)
                if (is_there_for(who, s->images.items[i]))
                        r = each_part(s, s->images.items[i], add_weight, m, &sum);
        if (r < 0) {
                account_done(m);
                return r;
        }
        *ret = m;
        if (ret_sum)
                *ret_sum = sum;
        return 0;
}

int account_new(const struct image_store *s, struct map **ret, uint64_t *ret_sum)
{
        return account_for(s, &(struct image_audience){ .may = NULL }, ret, ret_sum);
}

static int drop_weight(struct map *m, const char *key, uint64_t bytes, uint64_t *sum)
{
        struct weight *w = map_find(m, key);

        (void)bytes;
        if (w && w->users > 0 && --w->users == 0)
                *sum += w->bytes;
        return 0;
}

uint64_t account_take(const struct image_store *s, struct map *m, const struct stored *i)
{
        uint64_t freed = 0;

        (void)each_part(s, i, drop_weight, m, &freed);
        return freed;
}

int image_store_bytes(struct image_store *s, const struct image *image, const struct image_audience *who,
                      struct image_bytes *ret)
{
        const struct stored *stored = CONTAINER_OF(image, const struct stored, image);
        struct map *m = NULL;
        int r = account_for(s, who, &m, NULL);

        if (r < 0)
                return r;
        *ret = (struct image_bytes){ .freed = account_take(s, m, stored) };
        for (size_t k = 0; k < stored->parts.n_layers; k++) {
                const struct image_descriptor *d = &stored->parts.layers[k];
                const struct weight *w = map_find(m, d->digest);

                *(w && w->users > 0 ? &ret->shared : &ret->unique) += d->size;
                ret->unpacked += account_layer(s, stored->config.diff_ids[k], d->size);
        }
        ret->unique += stored->parts.config.size;
        account_done(m);
        return 0;
}
