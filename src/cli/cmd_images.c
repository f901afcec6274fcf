#include "base/str.h"
#include "base/units.h"
#include "base/vec.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

#define SHORT_DIGEST 12
#define COLUMNS 5

/* Cells of the table; each is owned. */
struct cells {
        char **items;
        size_t len, cap;
};

static int add_cell(struct cells *cells, const char *text)
{
        auto_str clean = STR_INIT;
        char *cell = NULL;

        if (cli_escape(&clean, text) == 0)
                cell = str_take(&clean);
        return cell ? VEC_ADD(cells, cell) : -ENOMEM;
}

/* docker.io/library/busybox:1.36 is shown as busybox:1.36, and split at its tag. */
static int add_name(struct cells *cells, const char *name)
{
        static const char *const usual[] = { "docker.io/library/", "docker.io/" };
        auto_free char *repository = NULL;
        const char *tag;

        for (size_t i = 0; name && i < ARRAY_LEN(usual); i++)
                if (str_starts(name, usual[i]))
                        name += strlen(usual[i]);
        if (!name)
                return add_cell(cells, "<none>") < 0 ? -ENOMEM : add_cell(cells, "<none>");
        tag = strrchr(name, ':');
        if (!tag || strchr(tag, '/'))
                return add_cell(cells, name) < 0 ? -ENOMEM : add_cell(cells, "<none>");
        repository = strndup(name, (size_t)(tag - name));
        if (!repository || add_cell(cells, repository) < 0)
                return -ENOMEM;
        return add_cell(cells, tag + 1);
}

static const char *member(const json_t *image, const char *name)
{
        const char *text = json_string_value(json_object_get(image, name));

        return text ? text : "";
}

static int add_row(struct cells *cells, const json_t *image, const char *name)
{
        const char *digest = member(image, "digest"), *hex = strchr(digest, ':');
        char size[UNITS_HUMAN_MAX], shown[SHORT_DIGEST + 1], created[20];

        units_human((uint64_t)json_integer_value(json_object_get(image, "size")), size);
        (void)snprintf(shown, sizeof(shown), "%s", hex ? hex + 1 : digest);
        (void)snprintf(created, sizeof(created), "%.19s", member(image, "created"));
        if (created[0] && strlen(created) == 19)
                created[10] = ' '; /* the T of RFC 3339 */
        if (add_name(cells, name) < 0 || add_cell(cells, shown) < 0 || add_cell(cells, created[0] ? created : "-") < 0)
                return -ENOMEM;
        return add_cell(cells, size);
}

static int fill(struct cells *cells, const json_t *images)
{
        static const char *const header[COLUMNS] = { "REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE" };
        json_t *image, *name;
        size_t i, j;

        for (i = 0; i < COLUMNS; i++)
                if (add_cell(cells, header[i]) < 0)
                        return -ENOMEM;
        json_array_foreach(images, i, image) {
                const json_t *names = json_object_get(image, "names");

                if (json_array_size(names) == 0 && add_row(cells, image, NULL) < 0)
                        return -ENOMEM;
                json_array_foreach(names, j, name)
                        if (add_row(cells, image, json_string_value(name)) < 0)
                                return -ENOMEM;
        }
        return 0;
}

static int print_table(const json_t *images, struct err *err)
{
        struct cells cells = { .items = NULL };
        int r;

        r = fill(&cells, images);
        if (r == 0)
                cli_table((const char *const *)cells.items, COLUMNS, cells.len / COLUMNS);
        for (size_t i = 0; i < cells.len; i++)
                free(cells.items[i]);
        VEC_DONE(&cells);
        return r < 0 ? err_oom(err) : 0;
}

static void print_digests(const json_t *images)
{
        json_t *image;
        size_t i;

        json_array_foreach(images, i, image) {
                printf("%s\n", member(image, "digest"));
        }
}

int cmd_images(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        bool quiet = false;
        const struct cli_option options[] = {
                { "quiet", 'q', NULL, cli_set_true, &quiet, "digests only" },
        };
        auto_json doc = NULL;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "images takes no argument; mayfly inspect %s shows one", argv[0]);
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = cli_get_json(cli, "/v1/images", &doc, &err);
        if (r < 0)
                return cli_fail(command, &err);
        if (cli->json) {
                (void)json_dumpf(doc, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
                printf("\n");
        } else if (quiet) {
                print_digests(json_object_get(doc, "images"));
        } else {
                r = print_table(json_object_get(doc, "images"), &err);
        }
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
