#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

static int remove_one(const struct cli *cli, const char *ref, struct err *err)
{
        auto_answer answer = { .status = 0 };
        auto_str path = STR_INIT;
        struct http_client_request request = { .method = "DELETE", .body_fd = -EBADF };
        int r;

        r = cli_path(&path, "/v1/images/", ref, "", err);
        if (r < 0)
                return r;
        request.path = path.data;
        r = cli_request(cli, &request, &answer, err);
        if (r < 0)
                return r;
        if (cli->json && answer.body.len)
                r = cli_print_answer(&answer, err);
        else if (cli->json)
                printf("{}\n");
        else
                printf("removed %s\n", ref);
        return r;
}

int cmd_rmi(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        bool force = false;
        const struct cli_binding options[] = {
                { "force", cli_set_true, &force },
        };
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "which image? (mayfly rmi IMAGE...; mayfly images lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;

                r = remove_one(cli, argv[i], &why);
                if (r == -ENOENT && force)
                        continue;
                if (r < 0)
                        code = cli_fail(command, &why);
        }
        return code;
}
