#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

/* What an import or a load answers: {"images": [{"names": […], "digest": "…"}, …]}. */
static void print_loaded(const struct http_answer *answer)
{
        auto_json doc = NULL;
        json_t *image;
        size_t i;

        if (json_read(answer->body.data ? answer->body.data : "", answer->body.len, &doc, NULL) < 0)
                return;
        json_array_foreach(json_object_get(doc, "images"), i, image) {
                const char *digest = json_string_value(json_object_get(image, "digest"));
                json_t *names = json_object_get(image, "names");
                json_t *name;
                size_t j;

                json_array_foreach(names, j, name) {
                        cli_print_line("loaded ", json_is_string(name) ? json_string_value(name) : "");
                }
                if (json_array_size(names) == 0)
                        cli_print_line("loaded ", digest ? digest : "an image");
        }
}

int cmd_load(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        const char *file = "-";
        bool quiet = false;
        const struct cli_binding options[] = {
                { "input", cli_set_text, &file },
                { "quiet", cli_set_true, &quiet },
        };
        auto_answer answer = { .status = 0 };
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 1)
                r = err_set(&err, EINVAL, "one archive at a time (mayfly load FILE|-)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = cli_upload(cli, "/v1/images/load", argc ? argv[0] : file, quiet, &answer, &err);
        if (r == 0 && cli->json)
                r = cli_print_answer(&answer, &err);
        else if (r == 0)
                print_loaded(&answer);
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
