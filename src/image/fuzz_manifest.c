/* Fuzzes whatever JSON describes images, and the lines of --change. */

#include "image/changes.h"
#include "image/choose.h"
#include "image/manifest.h"

#include "base/str.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const char *const types[] = { "", MEDIA_OCI_INDEX, MEDIA_OCI_MANIFEST, MEDIA_DOCKER_LIST, "text/html" };
        const char *text = (const char *)data;
        auto_manifest m = { .layers = NULL };
        auto_config c = { .json = NULL };
        auto_index x = { .entries = NULL };
        auto_saved s = { .items = NULL };
        auto_free char *line = strndup(text, size);
        auto_json config = json_object();
        char tree[65], media[IMAGE_MEDIA_MAX];
        struct image_descriptor chosen;
        enum manifest_kind kind;

        if (image_manifest_parse(text, size, &m, NULL) == 0 && m.n_layers > IMAGE_LAYERS_MAX)
                abort();
        if (image_index_parse(text, size, &x, NULL) == 0)
                (void)image_index_choose(&x, "amd64");
        for (size_t i = 0; i < ARRAY_LEN(types); i++)
                (void)manifest_kind(text, size, types[i], &kind, media, NULL);
        if (manifest_choose(text, size, &chosen, NULL) == 0 &&
            (chosen.size > IMAGE_JSON_MAX || strlen(chosen.digest) != strlen("sha256:") + 64))
                abort();
        if (image_config_parse(text, size, &c, NULL) == 0 &&
            image_tree_name((const char(*)[65])c.diff_ids, c.n_diff_ids, tree, NULL) < 0)
                abort();
        (void)image_saved_parse(text, size, &s, NULL);
        (void)image_layout_version(text, size, NULL);
        if (line && config)
                (void)image_change_apply(config, line, NULL);
        return 0;
}
