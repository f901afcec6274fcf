#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

static void add_product(struct cli_table *table, const json_t *engine)
{
        auto_free char *text = str_printf("%s %s, API %s", cli_text(engine, "product"), cli_text(engine, "version"),
                                          cli_text(engine, "api"));

        cli_table_add(table, *cli_text(engine, "product") && text ? text : "-");
}

static void add_lacks(struct cli_table *table, const json_t *engine)
{
        auto_str text = STR_INIT;
        json_t *item;
        size_t i;

        json_array_foreach(json_object_get(engine, "lacks"), i, item) {
                if (str_addf(&text, "%s%s", i ? " " : "", cli_text(item, "feature")) < 0)
                        break;
        }
        cli_table_add(table, text.len > 0 ? text.data : "-");
}

static int print_table(const json_t *engines, struct err *err)
{
        static const char *const header[] = { "ENGINE", "DEFAULT", "STATUS", "OF", "LACKS" };
        auto_table table = { .columns = ARRAY_LEN(header) };
        json_t *engine;
        size_t i;

        for (i = 0; i < ARRAY_LEN(header); i++)
                cli_table_add(&table, header[i]);
        json_array_foreach(engines, i, engine) {
                cli_table_add(&table, cli_text(engine, "name"));
                cli_table_add(&table, json_is_true(json_object_get(engine, "default")) ? "yes" : "no");
                cli_table_add(&table, cli_text(engine, "status"));
                add_product(&table, engine);
                add_lacks(&table, engine);
        }
        return cli_table_print(&table, err);
}

static void print_line(const char *engine, const char *what)
{
        auto_free char *line = *what ? str_printf("%s: %s", engine, what) : NULL;

        if (line)
                cli_print_line("", line);
}

/* What is wrong with them, and what was found on their hosts. */
static void print_details(const json_t *engines)
{
        json_t *engine, *finding;
        size_t i, j;

        json_array_foreach(engines, i, engine) {
                const char *name = cli_text(engine, "name");

                print_line(name, cli_text(engine, "detail"));
                print_line(name, cli_text(engine, "notice"));
                json_array_foreach(json_object_get(engine, "findings"), j, finding) {
                        const char *text = json_string_value(finding);

                        if (text && !str_eq(text, cli_text(engine, "notice")))
                                print_line(name, text);
                }
        }
}

int cmd_engines(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        auto_json doc = NULL;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "engines takes no argument");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = cli_get_json(cli, "/v1/engines", &doc, &err);
        if (r < 0)
                return cli_fail(command, &err);
        if (cli->json) {
                r = cli_print_json(doc, &err);
        } else {
                r = print_table(json_object_get(doc, "engines"), &err);
                if (r == 0)
                        print_details(json_object_get(doc, "engines"));
        }
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
