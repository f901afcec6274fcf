#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/task.h"
#include "wire/task.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

static int set_signal(const char *value, void *data, struct err *err)
{
        int signo = wire_signal_parse(value);

        if (signo < 0)
                return err_set(err, EINVAL, "'%s' is no signal, as TERM, SIGTERM or 15", value);
        *(int *)data = signo;
        return 0;
}

static int send_signal(const struct cli *cli, const char *id, int signo, struct err *err)
{
        auto_json body = NULL;
        auto_json task = NULL;
        char name[16];
        int r;

        body = json_pack("{s:s}", "signal", wire_signal_name(signo, name));
        if (!body)
                return err_oom(err);
        r = cli_task_post(cli, id, "/signal", body, &task, err);
        if (r < 0)
                return r;
        if (cli->json && task)
                return cli_print_json(task, err);
        printf("%s\n", id);
        return cli_flush(err);
}

int cmd_kill(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        int signo = SIGKILL;
        const struct cli_binding options[] = { { "signal", set_signal, &signo } };
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "which task? (mayfly kill TASK...; mayfly ps lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;

                if (send_signal(cli, argv[i], signo, &why) < 0)
                        code = cli_fail(command, &why);
        }
        return code;
}
