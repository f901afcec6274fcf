#include "base/str.h"
#include "cli/cli.h"
#include "cli/images.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CREATED_BY_MAX 45 /* characters, as docker(1) cuts it */

static void add_created_by(struct cli_table *table, const char *text, bool whole)
{
        auto_free char *line = strdup(text);
        size_t n = 0, bytes = 0;

        for (char *c = line; c && *c; c++)
                if (*c == '\t' || *c == '\n')
                        *c = ' ';
        while (line && line[bytes] && n < CREATED_BY_MAX - 1) {
                bytes++;
                n += (line[bytes] & '\xc0') != '\x80';
        }
        if (line && !whole && line[bytes] && line[bytes + 1]) {
                auto_free char *cut = str_printf("%.*s…", (int)bytes, line);

                cli_table_add(table, cut);
        } else {
                cli_table_add(table, line ? line : "");
        }
}

static void add_row(struct cli_table *table, const json_t *entry, const json_t *layer, const char *id, bool whole)
{
        char age[CLI_AGE_MAX];

        cli_ago(cli_text(entry, "created"), age);
        cli_add_digest(table, id ? id : "<none>", whole);
        cli_table_add(table, age);
        add_created_by(table, cli_text(entry, "created_by"), whole);
        if (layer)
                cli_add_size(table, layer, "size");
        else
                cli_table_add(table, "0B");
        cli_table_add(table, cli_text(entry, "comment"));
}

/* The youngest first, as docker history has it; an image without a history has a row for each layer. */
static int print_table(const json_t *image, bool whole, struct err *err)
{
        static const char *const header[] = { "IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT" };
        const json_t *history = json_object_get(json_object_get(image, "config"), "history");
        const json_t *blobs = json_object_get(image, "blobs"), *entry;
        auto_table table = { .columns = ARRAY_LEN(header), .whole = whole ? CLI_COLUMNS_ALL : CLI_COLUMN(0) };
        size_t left = json_array_size(blobs), i;
        const char *id = cli_text(image, "digest");

        for (i = 0; i < ARRAY_LEN(header); i++)
                cli_table_add(&table, header[i]);
        for (i = json_array_size(history); i > 0; i--) {
                entry = json_array_get(history, i - 1);
                if (json_is_true(json_object_get(entry, "empty_layer")) || left == 0)
                        add_row(&table, entry, NULL, id, whole);
                else
                        add_row(&table, entry, json_array_get(blobs, --left), id, whole);
                id = NULL;
        }
        while (left > 0) {
                add_row(&table, NULL, json_array_get(blobs, --left), id, whole);
                id = NULL;
        }
        return cli_table_print(&table, err);
}

int cmd_history(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        bool whole = false;
        const struct cli_binding options[] = { { "no-trunc", cli_set_true, &whole } };
        auto_json image = NULL;
        auto_json config = NULL;
        auto_str path = STR_INIT;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc != 1)
                r = err_set(&err, EINVAL, "of which image? (mayfly history IMAGE)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = cli_path(&path, "/v1/images/", argv[0], "", &err);
        if (r == 0)
                r = cli_get_json(cli, path.data, &image, &err);
        if (r == 0 && cli->json) {
                config = json_pack("{s:O?}", "history", json_object_get(json_object_get(image, "config"), "history"));
                r = config ? cli_print_json(config, &err) : err_oom(&err);
        } else if (r == 0) {
                r = print_table(image, whole, &err);
        }
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
