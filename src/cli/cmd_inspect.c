#include "base/id.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/task.h"

#include <errno.h>
#include <stdio.h>

enum type { TYPE_ANY, TYPE_TASK, TYPE_IMAGE };

static int set_type(const char *value, void *data, struct err *err)
{
        if (str_eq(value, "task"))
                *(enum type *)data = TYPE_TASK;
        else if (str_eq(value, "image"))
                *(enum type *)data = TYPE_IMAGE;
        else
                return err_set(err, EINVAL, "'%s' is neither task nor image", value);
        return 0;
}

static int get(const struct cli *cli, const char *prefix, const char *name, json_t **ret, struct err *err)
{
        auto_str path = STR_INIT;
        int r;

        r = cli_path(&path, prefix, name, "", err);
        return r == 0 ? cli_get_json(cli, path.data, ret, err) : r;
}

/* What looks like a task's id is one, unless there is none. */
static int inspect(const struct cli *cli, enum type type, const char *name, json_t *array, struct err *err)
{
        struct err why = ERR_INIT;
        json_t *found = NULL;
        int r = -ENOENT;

        if (type == TYPE_TASK || (type == TYPE_ANY && id_valid(name))) {
                r = get(cli, "/v1/tasks/", name, &found, &why);
                if (r < 0 && (r != -ENOENT || type == TYPE_TASK)) {
                        *err = why;
                        return cli_task_explain_missing(name, r, err);
                }
        }
        if (r < 0)
                r = get(cli, "/v1/images/", name, &found, err);
        if (r == -ENOENT && type == TYPE_ANY)
                return err_set(err, ENOENT, "there is neither a task nor an image '%s'", name);
        if (r < 0)
                return r;
        return json_array_append_new(array, found) < 0 ? err_oom(err) : 0;
}

int cmd_inspect(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        enum type type = TYPE_ANY;
        const struct cli_binding options[] = { { "type", set_type, &type } };
        auto_json array = json_array();
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "of what? (mayfly inspect IMAGE|TASK...)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;

                if (inspect(cli, type, argv[i], array, &why) < 0)
                        code = cli_fail(command, &why);
        }
        if (cli_print_json_as(array, cli->json ? JSON_COMPACT : JSON_INDENT(2), &err) < 0)
                return cli_fail(command, &err);
        return code;
}
