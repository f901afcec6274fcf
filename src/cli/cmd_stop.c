#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/task.h"

#include <errno.h>
#include <stdio.h>

#define GRACE_MAX 3600

static int post_signal(const struct cli *cli, const char *id, const char *signal, struct err *err)
{
        auto_json body = json_pack("{s:s}", "signal", signal);

        return body ? cli_task_post(cli, id, "/signal", body, NULL, err) : err_oom(err);
}

/* A grace of the caller's own: SIGTERM, that long, then the end at once, whatever grace the task asked for. */
static int stop_within(const struct cli *cli, const char *id, int64_t grace, json_t **ret, struct err *err)
{
        struct err why = ERR_INIT;
        int r;

        r = grace > 0 ? post_signal(cli, id, "SIGTERM", &why) : 0;
        if (r == -ENOENT)
                return *err = why, r;
        if (r == 0 && grace > 0) {
                r = cli_task_wait(cli, id, time_mono_ns() + (uint64_t)grace * NS_PER_S, ret, err);
                if (r != -ETIME)
                        return r;
        }
        *err = (struct err)ERR_INIT;
        r = cli_task_post(cli, id, "/cancel", NULL, NULL, err);
        if (r == 0)
                (void)post_signal(cli, id, "SIGKILL", &why); /* it may have ended by now, and need none */
        return r;
}

static int stop(const struct cli *cli, const char *id, int64_t grace, struct err *err)
{
        auto_json task = NULL;
        int r;

        if (grace < 0)
                r = cli_task_post(cli, id, "/cancel", NULL, NULL, err);
        else
                r = stop_within(cli, id, grace, &task, err);
        if (r == 0 && !task)
                r = cli_task_wait(cli, id, TIME_NEVER, &task, err);
        if (r < 0)
                return r;
        if (cli->json)
                return cli_print_json(task, err);
        cli_print_line("", cli_text(task, "id"));
        return cli_flush(err);
}

int cmd_stop(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        int64_t grace = -1;
        const struct cli_binding options[] = {
                { "time", cli_set_number, &grace },
                { "timeout", cli_set_number, &grace },
        };
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && grace > GRACE_MAX)
                r = err_set(&err, EINVAL, "--time: at most %d seconds", GRACE_MAX);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "which task? (mayfly stop TASK...; mayfly ps lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        cli_catch_signals();
        for (int i = 0; i < argc && !cli_aborted; i++) {
                struct err why = ERR_INIT;

                if (stop(cli, argv[i], grace, &why) < 0 && !cli_aborted)
                        code = cli_fail(command, &why);
        }
        return cli_signal ? 128 + cli_signal : code;
}
