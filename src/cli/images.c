#include "cli/images.h"

#include "base/str.h"
#include "base/units.h"

#include <stdio.h>
#include <string.h>

#define SHORT_DIGEST 12

void cli_add_image_name(struct cli_table *table, const char *name)
{
        static const char *const usual[] = { "docker.io/library/", "docker.io/" };
        auto_free char *repository = NULL;
        const char *tag;

        for (size_t i = 0; name && i < ARRAY_LEN(usual); i++)
                if (str_starts(name, usual[i]))
                        name += strlen(usual[i]);
        tag = name ? strrchr(name, ':') : NULL;
        if (tag && strchr(tag, '/'))
                tag = NULL;
        if (tag)
                repository = strndup(name, (size_t)(tag - name));
        cli_table_add(table, repository ? repository : name ? name : "<none>");
        cli_table_add(table, tag ? tag + 1 : "<none>");
}

void cli_add_digest(struct cli_table *table, const char *digest, bool whole)
{
        const char *hex = strchr(digest, ':');
        char shown[SHORT_DIGEST + 1];

        (void)snprintf(shown, sizeof(shown), "%s", hex ? hex + 1 : digest);
        cli_table_add(table, whole ? digest : shown);
}

void cli_add_size(struct cli_table *table, const json_t *object, const char *member)
{
        const json_t *value = json_object_get(object, member);
        char size[UNITS_HUMAN_MAX];

        units_human((uint64_t)json_integer_value(value), size);
        cli_table_add(table, json_is_integer(value) ? size : NULL);
}
