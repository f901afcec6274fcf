#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/images.h"
#include "cli/options.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

enum wish { WISH_ANY, WISH_YES, WISH_NO };

struct filter {
        enum wish dangling, pinned, broken;
        const char *reference; /* as fnmatch(3) has it */
        const char *source;
        int64_t unused_ns; /* -1: any */
};

/* ── filters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int set_wish(const char *value, enum wish *ret, struct err *err)
{
        bool yes;

        if (cli_parse_bool(value, &yes) < 0)
                return err_set(err, EINVAL, "'%s' is neither true nor false", value);
        *ret = yes ? WISH_YES : WISH_NO;
        return 0;
}

static int set_filter(const char *value, void *data, struct err *err)
{
        struct filter *f = data;
        const char *word = strchr(value, '=');

        if (word && str_starts(value, "dangling="))
                return set_wish(word + 1, &f->dangling, err);
        if (word && str_starts(value, "pinned="))
                return set_wish(word + 1, &f->pinned, err);
        if (word && str_starts(value, "broken="))
                return set_wish(word + 1, &f->broken, err);
        if (word && str_starts(value, "unused-for="))
                return cli_set_span(word + 1, &f->unused_ns, err);
        if (word && str_starts(value, "reference="))
                f->reference = word + 1;
        else if (word && str_starts(value, "source="))
                f->source = word + 1;
        else
                return err_set(err, EINVAL,
                               "'%s' is none of dangling=, reference=, source=, pinned=, broken=, unused-for=", value);
        return 0;
}

static bool fits(enum wish wish, bool is)
{
        return wish == WISH_ANY || (wish == WISH_YES) == is;
}

/* Docker's: with and without the registry and the tag. */
static bool name_fits(const char *pattern, const char *name)
{
        static const char *const usual[] = { "", "docker.io/", "docker.io/library/" };

        for (size_t i = 0; i < ARRAY_LEN(usual); i++) {
                const char *rest = str_starts(name, usual[i]) ? name + strlen(usual[i]) : NULL;
                const char *tag = rest ? strrchr(rest, ':') : NULL;
                auto_free char *bare = tag ? strndup(rest, (size_t)(tag - rest)) : NULL;

                if (rest && (fnmatch(pattern, rest, 0) == 0 || (bare && fnmatch(pattern, bare, 0) == 0)))
                        return true;
        }
        return false;
}

static bool unused_for(const json_t *image, int64_t ns)
{
        uint64_t ms, now = time_real_ms();

        return cli_parse_time(cli_text(image, "last_used_at"), &ms) < 0 ||
               now - MIN(ms, now) >= (uint64_t)ns / NS_PER_MS;
}

static bool image_fits(const struct filter *f, const json_t *image)
{
        const json_t *names = json_object_get(image, "names"), *name;
        bool named = !f->reference;
        size_t i;

        json_array_foreach(names, i, name) {
                named |= f->reference && json_is_string(name) && name_fits(f->reference, json_string_value(name));
        }
        return named && fits(f->dangling, json_array_size(names) == 0) &&
               fits(f->pinned, json_is_true(json_object_get(image, "pinned"))) &&
               fits(f->broken, json_is_true(json_object_get(image, "broken"))) &&
               (!f->source || str_eq(f->source, cli_text(image, "source"))) &&
               (f->unused_ns < 0 || unused_for(image, f->unused_ns));
}

static void drop_others(const struct filter *f, json_t *images)
{
        for (size_t i = json_array_size(images); i > 0; i--)
                if (!image_fits(f, json_array_get(images, i - 1)))
                        (void)json_array_remove(images, i - 1);
}

/* ── output ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void add_row(struct cli_table *table, const json_t *image, const char *name, bool whole)
{
        bool pinned = json_is_true(json_object_get(image, "pinned"));
        char age[CLI_AGE_MAX], used[CLI_AGE_MAX];

        cli_ago(cli_text(image, "created"), age);
        cli_ago(cli_text(image, "last_used_at"), used);
        cli_add_image_name(table, name);
        cli_add_digest(table, cli_text(image, "digest"), whole);
        cli_table_add(table, age);
        cli_add_size(table, image, "size");
        cli_table_add(table, used);
        cli_table_add(table, json_is_true(json_object_get(image, "broken")) ? "broken" : pinned ? "pinned" : "");
}

static int print_table(const json_t *images, bool whole, struct err *err)
{
        static const char *const header[] = { "REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "LAST USED", "" };
        auto_table table = { .columns = ARRAY_LEN(header), .whole = whole ? CLI_COLUMNS_ALL : CLI_COLUMN(2) };
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
                cli_print_line("", cli_text(image, "digest"));
        }
}

static int list(const struct cli *cli, const struct filter *filter, bool quiet, bool whole, struct err *err)
{
        auto_json doc = NULL;
        int r = cli_get_json(cli, "/v1/images", &doc, err);

        if (r < 0)
                return r;
        drop_others(filter, json_object_get(doc, "images"));
        if (cli->json)
                return cli_print_json(doc, err);
        if (!quiet)
                return print_table(json_object_get(doc, "images"), whole, err);
        print_digests(json_object_get(doc, "images"));
        return 0;
}

int cmd_images(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        bool quiet = false, whole = false, verify = false, repair = false, all; /* all are listed anyway */
        struct filter filter = { .unused_ns = -1 };
        const struct cli_binding options[] = {
                { "quiet", cli_set_true, &quiet },   { "no-trunc", cli_set_true, &whole },
                { "filter", set_filter, &filter },   { "verify", cli_set_true, &verify },
                { "repair", cli_set_true, &repair }, { "all", cli_set_true, &all },
        };
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL,
                            "images takes no argument; --filter reference=%s chooses, mayfly inspect %s shows one",
                            argv[0], argv[0]);
        if (r == 0 && repair && !verify)
                r = err_set(&err, EINVAL, "--repair needs --verify");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = verify ? cli_verify_images(cli, repair, quiet, &err) : list(cli, &filter, quiet, whole, &err);
        if (r >= 0 && cli_flush(&err) < 0)
                r = -EIO;
        return r < 0 ? cli_fail(command, &err) : r > 0 ? CLI_FAILED : CLI_OK;
}
