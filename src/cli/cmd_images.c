#include "base/str.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

#define SHORT_DIGEST 12

/* docker.io/library/busybox:1.36 is shown as busybox:1.36, and split at its tag. */
static void add_name(struct cli_table *table, const char *name)
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

static void add_row(struct cli_table *table, const json_t *image, const char *name, bool whole)
{
        const char *digest = cli_text(image, "digest"), *hex = strchr(digest, ':');
        char size[UNITS_HUMAN_MAX], shown[SHORT_DIGEST + 1], age[CLI_AGE_MAX];

        units_human((uint64_t)json_integer_value(json_object_get(image, "size")), size);
        (void)snprintf(shown, sizeof(shown), "%s", hex ? hex + 1 : digest);
        cli_ago(cli_text(image, "created"), age);
        add_name(table, name);
        cli_table_add(table, whole ? digest : shown);
        cli_table_add(table, age);
        cli_table_add(table, size);
}

static int print_table(const json_t *images, bool whole, struct err *err)
{
        static const char *const header[] = { "REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE" };
        auto_table table = { .columns = ARRAY_LEN(header) };
        json_t *image, *name;
        size_t i, j;

        for (i = 0; i < ARRAY_LEN(header); i++)
                cli_table_add(&table, header[i]);
        json_array_foreach(images, i, image) {
                const json_t *names = json_object_get(image, "names");

                if (json_array_size(names) == 0)
                        add_row(&table, image, NULL, whole);
                json_array_foreach(names, j, name)
                        add_row(&table, image, json_string_value(name), whole);
        }
        return cli_table_print(&table, err);
}

static void print_digests(const json_t *images)
{
        json_t *image;
        size_t i;

        json_array_foreach(images, i, image) {
                printf("%s\n", cli_text(image, "digest"));
        }
}

int cmd_images(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        bool quiet = false, whole = false;
        const struct cli_binding options[] = {
                { "quiet", cli_set_true, &quiet },
                { "no-trunc", cli_set_true, &whole },
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
                r = cli_print_json(doc, &err);
        } else if (quiet) {
                print_digests(json_object_get(doc, "images"));
        } else {
                r = print_table(json_object_get(doc, "images"), whole, &err);
        }
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
