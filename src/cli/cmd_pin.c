/* mayfly pin, mayfly unpin */

#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

static int change(const struct cli *cli, const char *ref, bool pinned, struct err *err)
{
        auto_str path = STR_INIT;
        auto_json answer = NULL;
        int r = 0;

        if (str_addf(&path, "/v1/images/pin?pinned=%s&ref=", pinned ? "true" : "false") < 0 ||
            http_encode(&path, ref) < 0)
                r = err_oom(err);
        if (r == 0)
                r = cli_post_json(cli, path.data, NULL, &answer, err);
        if (r < 0)
                return r;
        if (cli->json)
                return cli_print_json(answer, err);
        printf("%s %s\n", pinned ? "pinned" : "unpinned", ref);
        return 0;
}

static int run(struct cli *cli, const struct cli_command *command, bool pinned, int argc, char **argv)
{
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "which image? (mayfly images lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;

                if (change(cli, argv[i], pinned, &why) < 0)
                        code = cli_fail(command, &why);
        }
        return cli_flush(&err) < 0 ? cli_fail(command, &err) : code;
}

int cmd_pin(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        return run(cli, command, true, argc, argv);
}

int cmd_unpin(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        return run(cli, command, false, argc, argv);
}
