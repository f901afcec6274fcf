#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/task.h"

#include <errno.h>
#include <stdio.h>

static int print_end(const struct cli *cli, const json_t *task, struct err *err)
{
        const json_t *code = json_object_get(task, "exit_code");

        if (cli->json)
                return cli_print_json(task, err);
        if (json_is_integer(code))
                printf("%d\n", (int)json_integer_value(code));
        else
                printf("-\n");
        return cli_flush(err);
}

int cmd_wait(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        int64_t timeout_ns = -1;
        const struct cli_binding options[] = { { "timeout", cli_set_duration, &timeout_ns } };
        uint64_t deadline = TIME_NEVER;
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "for which task? (mayfly wait TASK...; mayfly ps lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        if (timeout_ns >= 0)
                deadline = time_mono_ns() + (uint64_t)timeout_ns;
        cli_catch_signals();
        for (int i = 0; i < argc && !cli_aborted; i++) {
                struct err why = ERR_INIT;
                auto_json task = NULL;

                r = cli_task_wait(cli, argv[i], deadline, &task, &why);
                if (r == 0)
                        r = print_end(cli, task, &why);
                if (r == -ETIME) {
                        cli_error("%s has not ended yet", argv[i]);
                        code = CLI_TIMED_OUT;
                } else if (r < 0 && !cli_aborted) {
                        code = cli_fail(command, &why);
                }
        }
        return cli_signal ? 128 + cli_signal : code;
}
