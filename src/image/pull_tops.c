/* What the registry called each tag last: an index, of which an image is one of several, or the image itself. */

#include "image/pull_internal.h"

#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPS_MAX 20000

void tops_note(struct image_pulls *p, const char *name, const char *top, const char *digest)
{
        char *text = str_printf("%s %s %" PRIu64, top, digest, time_real_ms());

        if (!text)
                return;
        if (map_len(p->tops) >= TOPS_MAX && !map_find(p->tops, name)) {
                free(text);
                return;
        }
        free(map_remove(p->tops, name));
        if (map_set(p->tops, name, text) < 0)
                free(text);
}

bool tops_is(const struct image_pulls *p, const char *name, const char *top, const char *digest)
{
        auto_free char *start = str_printf("%s %s ", top, digest);
        const char *text = map_find(p->tops, name);

        return str_eq(top, digest) || (text && start && str_starts(text, start));
}

bool tops_is_old(const struct image_pulls *p, const char *name)
{
        const char *text = map_find(p->tops, name), *last = text ? strrchr(text, ' ') : NULL;
        uint64_t at = 0;

        if (p->config.tag_max_age_ms == 0)
                return false;
        return !last || parse_u64(last + 1, &at) < 0 ||
               time_real_ms() - MIN(at, time_real_ms()) > p->config.tag_max_age_ms;
}

void tops_find(const struct image_pulls *p, const struct image_ref *ref, const char *digest, char out[IMAGE_DIGEST_MAX])
{
        char name[REF_TEXT_MAX];
        const char *text;

        image_ref_format(ref, name);
        text = map_find(p->tops, name);
        out[0] = '\0';
        if (!text)
                return;
        (void)snprintf(out, IMAGE_DIGEST_MAX, "%.*s", (int)MIN(strcspn(text, " "), (size_t)IMAGE_DIGEST_MAX - 1), text);
        if (!tops_is(p, name, out, digest))
                out[0] = '\0';
}

void tops_free(struct map *tops)
{
        const char *key;
        size_t pos = 0;
        void *text;

        while (tops && map_next(tops, &pos, &key, &text))
                free(text);
        map_free(tops);
}
