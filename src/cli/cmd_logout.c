#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

int cmd_logout(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        auto_json answer = NULL;
        auto_json body = NULL;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc > 1)
                r = err_set(&err, EINVAL, "at most one registry is to be named (mayfly logout REGISTRY)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        body = argc ? json_pack("{s:s}", "registry", argv[0]) : json_object();
        r = body ? cli_post_json(cli, "/v1/registries/logout", body, &answer, &err)
                 : err_set(&err, EINVAL, "the registry's name is no UTF-8");
        if (r == 0 && cli->json)
                printf("{}\n");
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
