#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

int cmd_completion(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        const struct cli_script *s;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc != 1)
                r = err_set(&err, EINVAL, "for which shell? (mayfly completion bash|zsh|fish)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (s = cli_scripts; s->shell && !str_eq(s->shell, argv[0]); s++)
                ;
        if (!s->shell) {
                (void)err_set(&err, EINVAL, "%s: there is a script for bash, zsh and fish", argv[0]);
                return cli_fail(command, &err);
        }
        fputs(s->text, stdout);
        return cli_flush(&err) < 0 ? cli_fail(command, &err) : CLI_OK;
}
