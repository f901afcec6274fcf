#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>

int cmd_help(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        const struct cli_command *about;
        struct err err = ERR_INIT;
        int r, words = 0;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        if (argc == 0) {
                cli_print_overview(false);
                return CLI_OK;
        }
        if (argc == 1 && cli_is_group(argv[0])) {
                cli_print_group(argv[0], false);
                return CLI_OK;
        }
        about = cli_find_command(argc, argv, &words);
        if (!about || words != argc) {
                (void)err_set(&err, EINVAL, "there is no command '%s' (mayfly help lists all)", argv[argc - 1]);
                return cli_fail(command, &err);
        }
        /* Its keys are another program's. */
        if (str_eq(about->name, "serve"))
                return cmd_serve(cli, about, 1, (char *[]){ (char[]){ "--help" }, NULL });
        cli_print_help(about);
        return CLI_OK;
}
