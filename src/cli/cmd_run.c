#include "base/fd.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/docker_config.h"
#include "cli/run_input.h"
#include "cli/run_options.h"
#include "cli/run_output.h"
#include "cli/run_stream.h"
#include "cli/task.h"

#include <errno.h>
#include <fcntl.h>
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

/* stdin belongs to the request only where nothing can be sent afterwards. */
static int build_body(struct run_options *o, struct str *body, struct err *err)
{
        struct wire_task_request *q = &o->request;
        int r;

        r = check_text("command", q->cmd, err);
        if (r == 0)
                r = check_text("environment", q->env, err);
        for (size_t i = 0; o->copies && o->copies[i] && r == 0; i++)
                r = run_copy(o->copies[i], q, err);
        if (r == 0 && o->interactive && !o->live)
                r = run_read_stdin(STDIN_FILENO, q, err);
        if (r < 0)
                return r;
        q->no_wait = o->detach || o->wait_ns == 0;
        q->wait_ns = MAX(o->wait_ns, 0);
        r = wire_task_request_write(q, body);
        if (r == -EILSEQ)
                return err_set(err, EILSEQ, "an option, a path or a secret is not UTF-8");
        if (r < 0)
                return err_oom(err);
        if (body->len > WIRE_BODY_MAX)
                return err_set(err, EFBIG, "stdin and files are too large: a request holds %d MiB",
                               WIRE_BODY_MAX >> 20);
        return 0;
}

/* ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_id(const char *id, void *data, struct err *err)
{
        const struct run_options *o = data;
        auto_fd fd = -EBADF;
        int r;

        if (!o->cidfile)
                return 0;
        fd = open(o->cidfile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0)
                return err_sys(err, "--cidfile %s", o->cidfile);
        r = fd_write_all(fd, id, strlen(id));
        return r < 0 ? err_set(err, -r, "--cidfile %s: %s", o->cidfile, strerror(-r)) : 0;
}

static int write_outputs(const struct run_options *o, json_t *document, struct err *err)
{
        struct wire_task task = { .id = "" };
        int r, failed = 0;

        if (!o->outputs || !cli_task_ended(document))
                return 0;
        r = wire_task_read(document, &task, err);
        if (r < 0) {
                r = err_wrap(err, "the answer");
                cli_error("%s", err->text);
                return r;
        }
        for (size_t i = 0; o->outputs[i]; i++) {
                struct err why = ERR_INIT;

                if (i < task.n_outputs)
                        r = run_write_output(o->outputs[i], &task.outputs[i], &why);
                else
                        r = err_set(&why, ENOENT, "--output %s: nothing came", o->outputs[i]);
                if (r < 0)
                        cli_error("%s", why.text);
                failed = failed ? failed : r;
        }
        wire_task_done(&task);
        return failed;
}

/* The code, where nothing of ours went wrong besides: that is told already. */
static int finish(const struct cli *cli, const struct run_options *o, json_t *task, struct err *err)
{
        int code = cli_task_exit_code(task);

        if (!cli->json)
                cli_task_explain(task, o->output_limited);
        if (write_outputs(o, task, err) < 0 && code == 0)
                code = CLI_USAGE;
        return code;
}

static int write_kept(int fd, const json_t *task, const char *name, const char *encoding_name, struct err *err)
{
        const json_t *value = json_object_get(task, name);
        auto_str decoded = STR_INIT;
        const void *data = json_string_value(value);
        size_t len = json_string_length(value);
        int r;

        if (!data)
                return err_set(err, EPROTO, "the answer has no %s", name);
        if (str_eq(cli_text(task, encoding_name), "base64")) {
                r = base64_decode(&decoded, data, len);
                if (r < 0)
                        return err_set(err, EPROTO, "the answer's %s is not base64", name);
                data = decoded.data;
                len = decoded.len;
        }
        r = len ? fd_write_all(fd, data, len) : 0;
        return r < 0 ? err_set(err, -r, "write %s: %s", name, strerror(-r)) : 0;
}

/* ── the ways to run it ──────────────────────────────────────────────────────────────────────────────────────────── */

/* Whether all that the server minds are limits that nobody asked for. */
static bool minds_unasked(const struct run_options *o, const struct http_answer *answer)
{
        auto_json problem = NULL;
        json_t *faults, *fault;
        size_t i;

        if (answer->status < 400 ||
            json_read(answer->body.data ? answer->body.data : "", answer->body.len, &problem, NULL) < 0)
                return false;
        faults = json_object_get(problem, "errors");
        json_array_foreach(faults, i, fault) {
                const char *pointer = cli_text(fault, "pointer");

                if (!(o->free_timeout && str_eq(pointer, "/limits/timeout")) &&
                    !(o->free_output && str_eq(pointer, "/limits/output")))
                        return false;
        }
        return json_array_size(faults) > 0;
}

static int post(const struct cli *cli, const struct run_options *o, const struct str *body, struct http_answer *ret,
                struct err *err)
{
        auto_free char *key = o->idempotency_key ? str_printf("Idempotency-Key: %s", o->idempotency_key) : NULL;
        const char *headers[] = { key, NULL };
        const struct http_client_request request = {
                .method = "POST",
                .path = "/v1/tasks",
                .content_type = "application/json",
                .body = body->data,
                .body_len = body->len,
                .body_fd = -EBADF,
                .headers = headers,
                .abort = &cli_aborted,
        };

        return cli_request(cli, &request, ret, err);
}

/* What a key bounds cannot be without end: the server's own limits then hold, which is worth telling of the time. */
static int post_bounded(const struct cli *cli, struct run_options *o, const struct str *body, struct http_answer *ret,
                        struct err *err)
{
        auto_str bounded = STR_INIT;
        struct wire_limits usual;
        int r;

        r = post(cli, o, body, ret, err);
        if (r == 0 || !minds_unasked(o, ret))
                return r;
        wire_limits_default(&usual);
        if (o->free_timeout)
                o->request.limits.timeout_ns = usual.timeout_ns;
        if (o->free_output)
                o->request.limits.output = usual.output;
        if (wire_task_request_write(&o->request, &bounded) < 0)
                return err_oom(err);
        http_answer_done(ret);
        *ret = (struct http_answer){ .status = 0 };
        *err = (struct err)ERR_INIT;
        r = post(cli, o, &bounded, ret, err);
        explicit_bzero(bounded.data, bounded.len);
        if (r == 0 && o->free_timeout)
                cli_warn("the key bounds how long a task may run: --timeout asks for more than a minute");
        return r;
}

/* In one request and one answer, when the task is over, or not waited for. */
static int run_whole(const struct cli *cli, struct run_options *o, const struct str *body, int *ret_code,
                     struct err *err)
{
        auto_answer answer = { .status = 0 };
        auto_json task = NULL;
        int r;

        cli_catch_signals();
        r = post_bounded(cli, o, body, &answer, err);
        if (r < 0)
                return r;
        r = json_read(answer.body.data ? answer.body.data : "", answer.body.len, &task, err);
        if (r < 0)
                return err_wrap(err, "the answer is no JSON");
        r = write_id(cli_text(task, "id"), o, err);
        if (r == 0 && cli->json)
                r = cli_print_answer(&answer, err);
        if (r < 0)
                return r;
        *ret_code = CLI_OK;
        if (!cli->json && (o->detach || !cli_task_ended(task))) {
                cli_print_line("", cli_text(task, "id"));
                return cli_flush(err);
        }
        if (!cli->json)
                r = write_kept(STDOUT_FILENO, task, "stdout", "stdout_encoding", err);
        if (r == 0 && !cli->json)
                r = write_kept(STDERR_FILENO, task, "stderr", "stderr_encoding", err);
        if (r == 0 && cli_task_ended(task))
                *ret_code = finish(cli, o, task, err);
        return r;
}

static int run_live(const struct cli *cli, struct run_options *o, const struct str *body, int *ret_code,
                    struct err *err)
{
        auto_json task = NULL;
        int r;

        r = run_stream(cli, o, body, write_id, o, &task, err);
        if (r == 0)
                *ret_code = finish(cli, o, task, err);
        return r;
}

/* Docker's, where none were given; without any the server takes those that it keeps. */
static int take_credentials(struct wire_task_request *q, struct err *err)
{
        struct docker_login docker = { .username = NULL };
        struct err why = ERR_INIT;

        if (q->registry_username || q->pull == WIRE_PULL_NEVER)
                return 0;
        if (docker_login_find(q->image, &docker, &why) < 0) {
                cli_warn("without Docker's credentials: %s", why.text);
                return 0;
        }
        if (!docker.username)
                return 0;
        q->registry_username = TAKE_PTR(docker.username);
        q->registry_password = TAKE_PTR(docker.password);
        return strlen(q->registry_password) > WIRE_CREDENTIAL_MAX
                       ? err_set(err, E2BIG, "Docker's credentials for %s are too long", q->image)
                       : 0;
}

static int failed(const struct cli_command *command, int r, struct err *err)
{
        if (cli_signal)
                return 128 + cli_signal;
        if (r == -EPIPE)
                return 128 + SIGPIPE; /* `mayfly run … | head`: nobody wants more */
        return cli_fail(command, err);
}

int cmd_run(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct run_options options;
        auto_str body = STR_INIT;
        struct err err = ERR_INIT;
        int r, code = CLI_USAGE;

        r = run_options_parse(cli, command, argc, argv, &options, &err);
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        if (!options.live)
                cli_catch_signals();
        r = take_credentials(&options.request, &err);
        if (r == 0)
                r = build_body(&options, &body, &err);
        if (r == 0)
                r = options.live ? run_live(cli, &options, &body, &code, &err)
                                 : run_whole(cli, &options, &body, &code, &err);
        if (r < 0)
                code = failed(command, r, &err);
        if (r == -ENOENT && strstr(err.text, "image"))
                fprintf(stderr,
                        "`mayfly images` lists what is here; `mayfly pull`, `mayfly load` and `mayfly import` add "
                        "more.\n");
        if (body.data)
                explicit_bzero(body.data, body.len);
        run_options_done(&options);
        return code;
}
