#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

int cmd_tag(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        auto_str path = STR_INIT;
        auto_json answer = NULL;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc != 2)
                r = err_set(&err, EINVAL, "an image and a name for it (mayfly tag IMAGE NAME:TAG)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        if (str_adds(&path, "/v1/images/tag?ref=") < 0 || http_encode(&path, argv[0]) < 0 ||
            str_adds(&path, "&name=") < 0 || http_encode(&path, argv[1]) < 0)
                r = err_oom(&err);
        if (r == 0)
                r = cli_post_json(cli, path.data, NULL, &answer, &err);
        if (r == 0 && cli->json)
                r = cli_print_json(answer, &err);
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
