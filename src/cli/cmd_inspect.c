#include "base/id.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

static int get(const struct cli *cli, const char *prefix, const char *name, json_t **ret, struct err *err)
{
        auto_str path = STR_INIT;

        if (str_adds(&path, prefix) < 0 || http_encode(&path, name) < 0)
                return err_oom(err);
        return cli_get_json(cli, path.data, ret, err);
}

/* What looks like a task's id is one, unless there is none. */
static int inspect(const struct cli *cli, const char *name, json_t *array, struct err *err)
{
        struct err why = ERR_INIT;
        json_t *found = NULL;
        int r = -ENOENT;

        if (id_valid(name)) {
                r = get(cli, "/v1/tasks/", name, &found, &why);
                if (r < 0 && r != -ENOENT) {
                        *err = why;
                        return r;
                }
        }
        if (r < 0)
                r = get(cli, "/v1/images/", name, &found, err);
        if (r < 0)
                return r;
        return json_array_append_new(array, found) < 0 ? err_oom(err) : 0;
}

int cmd_inspect(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        auto_json array = json_array();
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "of what? (mayfly inspect IMAGE|TASK...)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;

                if (inspect(cli, argv[i], array, &why) < 0)
                        code = cli_fail(command, &why);
        }
        /* Escapes keep control bytes from the terminal. */
        (void)json_dumpf(array, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
        printf("\n");
        if (cli_flush(&err) < 0)
                return cli_fail(command, &err);
        return code;
}
