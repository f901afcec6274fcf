#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

static int build_path(struct str *path, const char *name, char *const *changes)
{
        int r = str_adds(path, "/v1/images/import?ref=");

        if (r == 0)
                r = http_encode(path, name);
        for (; changes && *changes && r == 0; changes++) {
                r = str_adds(path, "&change=");
                if (r == 0)
                        r = http_encode(path, *changes);
        }
        return r;
}

int cmd_import(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        auto_strv changes = NULL;
        const struct cli_binding options[] = {
                { "change", cli_set_list, &changes },
        };
        auto_answer answer = { .status = 0 };
        auto_str path = STR_INIT;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc != 2)
                r = err_set(&err, EINVAL, "which archive, and which name? (mayfly import FILE|- NAME:TAG)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = build_path(&path, argv[1], changes) < 0 ? err_oom(&err) : 0;
        if (r == 0)
                r = cli_upload(cli, path.data, argv[0], false, &answer, &err);
        if (r == 0 && cli->json)
                r = cli_print_answer(&answer, &err);
        else if (r == 0)
                printf("imported %s\n", argv[1]);
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
