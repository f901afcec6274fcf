#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

static int print_json(const json_t *server, struct err *err)
{
        auto_json both = json_object();

        if (!both || json_object_set_new(both, "client", json_string(MAYFLY_VERSION)) < 0 ||
            json_object_set_new(both, "server", server ? json_deep_copy(server) : json_null()) < 0)
                return err_oom(err);
        return cli_print_json(both, err);
}

static void print_engines(const json_t *engines)
{
        auto_str all = STR_INIT;
        json_t *engine;
        size_t i;

        json_array_foreach(engines, i, engine) {
                const char *name = json_string_value(engine);

                if (str_addf(&all, "%s%s", i ? ", " : "", name ? name : "") < 0)
                        return;
        }
        cli_print_line("server engines: ", all.len ? all.data : "");
}

static void print_server(const json_t *server)
{
        const char *name;
        json_t *value;

        json_object_foreach((json_t *)(uintptr_t)server, name, value) {
                auto_free char *line = NULL;

                if (json_is_string(value))
                        line = str_printf("%s: %s", name, json_string_value(value));
                if (line)
                        cli_print_line("server ", line);
                else if (str_eq(name, "engines"))
                        print_engines(value);
        }
}

/* Without a server the command's own version is still worth telling. */
int cmd_version(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        auto_json server = NULL;
        struct err err = ERR_INIT, why = ERR_INIT;
        int r;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "version takes no argument");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = cli_get_json(cli, "/v1/version", &server, &why);
        if (cli->json) {
                if (print_json(server, &err) < 0)
                        return cli_fail(command, &err);
        } else {
                printf("mayfly %s\n", MAYFLY_VERSION);
                if (server)
                        print_server(server);
        }
        return r < 0 ? cli_fail(command, &why) : CLI_OK;
}
