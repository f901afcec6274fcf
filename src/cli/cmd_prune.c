#include "base/str.h"
#include "base/time.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/images.h"
#include "cli/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

struct wish {
        bool yes, all, dangling;
        int64_t unused_ns, keep_bytes; /* -1: not asked for */
};

static int make_path(const struct wish *w, struct str *out, struct err *err)
{
        int r = str_addf(out, "/v1/images/prune?dry_run=%s", w->yes ? "false" : "true");

        if (r == 0 && w->all)
                r = str_adds(out, "&all=true");
        if (r == 0 && w->dangling)
                r = str_adds(out, "&dangling=true");
        if (r == 0 && w->unused_ns >= 0)
                r = str_addf(out, "&unused_for=%" PRId64 "ms", w->unused_ns / (int64_t)NS_PER_MS);
        if (r == 0 && w->keep_bytes >= 0)
                r = str_addf(out, "&keep_bytes=%" PRId64, w->keep_bytes);
        return r < 0 ? err_oom(err) : 0;
}

static int print_images(const json_t *images, struct err *err)
{
        static const char *const header[] = { "REPOSITORY", "TAG", "IMAGE ID", "LAST USED", "FREES" };
        auto_table table = { .columns = ARRAY_LEN(header), .whole = CLI_COLUMN(2) };
        const json_t *image;
        size_t i;

        for (i = 0; i < ARRAY_LEN(header); i++)
                cli_table_add(&table, header[i]);
        json_array_foreach(images, i, image) {
                char used[CLI_AGE_MAX];

                cli_ago(cli_text(image, "last_used_at"), used);
                cli_add_image_name(&table, json_string_value(json_array_get(json_object_get(image, "names"), 0)));
                cli_add_digest(&table, cli_text(image, "digest"), false);
                cli_table_add(&table, used);
                cli_add_size(&table, image, "bytes");
        }
        return cli_table_print(&table, err);
}

static void print_kept(const json_t *kept)
{
        static const struct {
                const char *member, *words;
        } why[] = { { "in_use", "in use" }, { "pinned", "pinned" }, { "recent", "that came a short while ago" } };
        const char *before = "left alone: ";

        for (size_t i = 0; i < ARRAY_LEN(why); i++) {
                json_int_t n = json_integer_value(json_object_get(kept, why[i].member));

                if (n > 0)
                        printf("%s%" JSON_INTEGER_FORMAT " %s", before, n, why[i].words);
                before = n > 0 ? ", " : before;
        }
        if (before[0] == ',')
                printf("\n");
}

static int print_answer(const struct wish *w, const json_t *answer, struct err *err)
{
        const json_t *images = json_object_get(answer, "images");
        char bytes[UNITS_HUMAN_MAX];
        int r = json_array_size(images) > 0 ? print_images(images, err) : 0;

        if (r < 0)
                return r;
        units_human((uint64_t)json_integer_value(json_object_get(answer, "bytes")), bytes);
        if (json_array_size(images) == 0)
                printf("nothing to remove\n");
        else
                printf("%zu image%s, %s %s\n", json_array_size(images), CLI_PLURAL(json_array_size(images)), bytes,
                       w->yes ? "came back" : "would come back; --yes removes them");
        print_kept(json_object_get(answer, "kept"));
        return 0;
}

int cmd_prune(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct wish w = { .unused_ns = -1, .keep_bytes = -1 };
        const struct cli_binding options[] = {
                { "yes", cli_set_true, &w.yes },
                { "all", cli_set_true, &w.all },
                { "dangling", cli_set_true, &w.dangling },
                { "unused-for", cli_set_span, &w.unused_ns },
                { "keep-bytes", cli_set_bytes, &w.keep_bytes },
        };
        auto_str path = STR_INIT;
        auto_json answer = NULL;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "prune takes no argument; mayfly rmi %s removes one image", argv[0]);
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = make_path(&w, &path, &err);
        if (r == 0)
                r = cli_post_json(cli, path.data, NULL, &answer, &err);
        if (r == 0)
                r = cli->json ? cli_print_json(answer, &err) : print_answer(&w, answer, &err);
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
