#include "base/program.h"
#include "base/str.h"
#include "cli/cli.h"

#include <errno.h>
#include <unistd.h>

/* The supervisor is another program, so that this one needs no YAML and that one no HTTP. */
int cmd_serve(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        char path[PATH_MAX];
        struct err err = ERR_INIT;
        auto_strv args = NULL;

        (void)cli;
        if (program_find("mayfly-supervisor", path, &err) < 0)
                return cli_fail(command, &err);
        if (strv_add(&args, path) < 0)
                return cli_fail(command, (err_oom(&err), &err));
        for (int i = 0; i < argc; i++)
                if (strv_add(&args, str_eq(argv[i], "-h") ? "--help" : argv[i]) < 0)
                        return cli_fail(command, (err_oom(&err), &err));
        (void)execv(path, args);
        (void)err_sys(&err, "execute %s", path);
        return cli_fail(command, &err);
}
