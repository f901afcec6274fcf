#include "base/fd.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/run_input.h"
#include "cli/run_options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* JSON text can hold strings of UTF-8 only; what the shell gave may be anything. */
static int check_text(const char *what, char *const *words, struct err *err)
{
        for (; words && *words; words++)
                if (!utf8_valid(*words, strlen(*words)))
                        return err_set(err, EILSEQ, "%s: '%s' is not UTF-8", what, *words);
        return 0;
}

static int build_body(struct run_options *o, struct str *body, struct err *err)
{
        struct wire_task_request *q = &o->request;
        char *single[] = { q->image, q->workdir ? q->workdir : q->image, q->user ? q->user : q->image, NULL };
        int r;

        r = check_text("command", q->cmd, err);
        if (r == 0)
                r = check_text("environment", q->env, err);
        if (r == 0)
                r = check_text("option", single, err);
        for (size_t i = 0; o->copies && o->copies[i] && r == 0; i++)
                r = run_copy(o->copies[i], q, err);
        if (r == 0 && o->interactive)
                r = run_read_stdin(STDIN_FILENO, q, err);
        if (r == 0 && wire_task_request_write(q, body) < 0)
                r = err_oom(err);
        if (r == 0 && body->len > WIRE_BODY_MAX)
                r = err_set(err, EFBIG, "stdin and files are too large: a request holds %d MiB", WIRE_BODY_MAX >> 20);
        return r;
}

/* ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_stream(int fd, const json_t *task, const char *name, const char *encoding_name, struct err *err)
{
        const json_t *value = json_object_get(task, name);
        auto_str decoded = STR_INIT;
        const void *data = json_string_value(value);
        size_t len = json_string_length(value);
        int r;

        if (!data)
                return err_set(err, EPROTO, "the answer has no %s", name);
        if (str_eq(json_string_value(json_object_get(task, encoding_name)), "base64")) {
                r = base64_decode(&decoded, data, len);
                if (r < 0)
                        return err_set(err, EPROTO, "the answer's %s is not base64", name);
                data = decoded.data;
                len = decoded.len;
        }
        r = len ? fd_write_all(fd, data, len) : 0;
        return r < 0 ? err_set(err, -r, "write %s: %s", name, strerror(-r)) : 0;
}

struct reason_text {
        const char *reason, *text;
        int code; /* of a task that never ran */
};

static const struct reason_text reasons[] = {
        { "timeout", "the task was killed: it ran longer than its timeout", 0 },
        { "cpu_time", "the task was killed: it used up its CPU time", 0 },
        { "oom", "the task was killed: it needed more memory than its limit (--memory)", 0 },
        { "output_limit", "the task was killed: it wrote more than its limit (--output)", 0 },
        { "cancelled", "the task was cancelled", 0 },
        { "disk_limit", "the task failed with its disk full (--disk)", 0 },
        { "command_not_found", "the command was not found in the image", CLI_NOT_FOUND },
        { "command_not_executable", "the command is not executable", CLI_NOT_EXECUTABLE },
        { "node_lost", "the task was lost with the machine's container launcher", CLI_USAGE },
        { "queue_timeout", "the task waited too long for its turn", CLI_USAGE },
        { "start_error", "the task could not be started", CLI_USAGE },
};

static const struct reason_text *find_reason(const char *reason)
{
        for (size_t i = 0; reason && i < ARRAY_LEN(reasons); i++)
                if (str_eq(reasons[i].reason, reason))
                        return &reasons[i];
        return NULL;
}

static int exit_code(const json_t *task)
{
        const struct reason_text *r = find_reason(json_string_value(json_object_get(task, "reason")));
        const json_t *code = json_object_get(task, "exit_code");

        if (json_is_integer(code) && json_integer_value(code) >= 0 && json_integer_value(code) <= 255)
                return (int)json_integer_value(code);
        return r && r->code ? r->code : CLI_USAGE;
}

static void explain_end(const json_t *task)
{
        const char *reason = json_string_value(json_object_get(task, "reason"));
        const char *detail = json_string_value(json_object_get(task, "detail"));
        const struct reason_text *r = find_reason(reason);

        if (r)
                cli_error("%s%s%s", r->text, detail ? ": " : "", detail ? detail : "");
        else if (reason && !str_eq(reason, "signal"))
                cli_error("%s", detail ? detail : reason);
        if (json_is_true(json_object_get(task, "truncated")))
                cli_warn("the output was cut: it was longer than the limit (--output)");
}

static int show(const struct cli *cli, const struct http_answer *answer, int *ret_code, struct err *err)
{
        auto_json task = NULL;
        int r;

        r = json_read(answer->body.data ? answer->body.data : "", answer->body.len, &task, err);
        if (r < 0)
                return err_wrap(err, "the answer is no JSON");
        if (cli->json) {
                r = cli_print_answer(answer, err);
        } else {
                r = write_stream(STDOUT_FILENO, task, "stdout", "stdout_encoding", err);
                if (r == 0)
                        r = write_stream(STDERR_FILENO, task, "stderr", "stderr_encoding", err);
                if (r == 0)
                        explain_end(task);
        }
        *ret_code = exit_code(task);
        return r;
}

/* ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int fail(const struct cli_command *command, int r, struct err *err)
{
        if (cli_signal)
                return 128 + cli_signal;
        if (r == -EPIPE)
                return 128 + SIGPIPE; /* `mayfly run … | head`: nobody wants more */
        return cli_fail(command, err);
}

int cmd_run(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct http_client_request request = {
                .method = "POST",
                .path = "/v1/tasks",
                .content_type = "application/json",
                .body_fd = -EBADF,
                .abort = &cli_aborted,
        };
        auto_answer answer = { .status = 0 };
        struct run_options options;
        auto_str body = STR_INIT;
        struct err err = ERR_INIT;
        int r, code = CLI_USAGE;

        r = run_options_parse(cli, command, argc, argv, &options, &err);
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        cli_catch_signals();
        r = build_body(&options, &body, &err);
        run_options_done(&options);
        request.body = body.data;
        request.body_len = body.len;
        if (r == 0)
                r = cli_request(cli, &request, &answer, &err);
        if (r == 0)
                r = show(cli, &answer, &code, &err);
        if (r < 0)
                code = fail(command, r, &err);
        if (answer.status == 404)
                fprintf(stderr, "`mayfly images` lists what is here; `mayfly load` and `mayfly import` add more.\n");
        return code;
}
